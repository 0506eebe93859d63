//! The program as an operator meets it, against a controller that answers by rote.

#![allow(clippy::unwrap_used)]

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

const ACME: &str = "
apiVersion: edgeplex/v1
kind: Customer
metadata: {name: acme}
spec:
  vpn: {import: ['65000:1'], export: ['65000:1']}
  attachments: [{name: d1, port: eth2, vlan: 100, address: 192.168.1.1/30}]
";

/// What the controller was asked, and how often for its status.
#[derive(Default)]
struct Seen {
    bodies: Vec<(String, Value)>,
    status: u32,
}

type Shared = Arc<Mutex<Seen>>;

struct Fake {
    dir: tempfile::TempDir,
    seen: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let seen = Shared::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(dir.path().join("s")).unwrap() });
        let app = Router::new()
            .route("/v1/apply", post(change))
            .route("/v1/delete", post(change))
            .route("/v1/documents", get(|| async { Json(documents()) }))
            .route("/v1/drift", get(|| async { Json(json!({"steps": ["start VM cvm"]})) }))
            .route("/v1/status", get(status))
            .route("/v1/show/{what}", get(show))
            .route("/v1/ping", post(probe))
            .route("/v1/traceroute", post(probe))
            .route("/v1/lsp/{what}", post(probe))
            .route("/v1/audit", get(|| async { Json(audit()) }))
            .with_state(seen.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { dir, seen, _runtime: runtime }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_edgeplex"));
        c.args(args).env("EDGEPLEX_SOCKET", self.dir.path().join("s")).stdin(Stdio::null());
        c
    }

    /// Exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        told(&self.command(args).output().unwrap())
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["-o", "json"]].concat())).unwrap()
    }

    fn last_body(&self) -> (String, Value) {
        self.seen.lock().unwrap().bodies.last().unwrap().clone()
    }
}

fn told(o: &Output) -> (i32, String, String) {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (o.status.code().unwrap(), text(&o.stdout), text(&o.stderr))
}

fn documents() -> Value {
    let acme = json!({"apiVersion": "edgeplex/v1", "kind": "Customer", "metadata": {"name": "acme"}, "spec": {
        "vpn": {"import": ["65000:1"], "export": ["65000:1"]},
        "attachments": [{"name": "d1", "port": "eth2", "vlan": 100, "address": "192.168.1.1/30", "mtu": 1500}]}});
    let platform = json!({"apiVersion": "edgeplex/v1", "kind": "Platform", "metadata": {"name": "denver"}, "spec": {
        "asn": 65000, "loopback": "10.255.0.1", "core": [{"port": "eth1", "address": "10.0.0.1/24", "mtu": 1600}],
        "access": ["eth2"], "labels": {"first": 1000, "last": 1999, "quarantine": 60}}});
    json!([platform, acme])
}

fn audit() -> Value {
    let failed = "acme/d1: failed: the new instance is not there";
    json!([{"at_ms": 0, "uid": 7, "changes": [update()]},
        {"at_ms": 1, "uid": 7, "order": "migrate acme --to west", "outcome": failed, "moves": [{"unit": "acme/d1", "id": 3}]},
        {"at_ms": 2, "uid": 0, "order": "rollback", "outcome": "under way"}])
}

fn update() -> Value {
    json!({"action": "update", "kind": "Customer", "name": "acme", "fields": [{"field": "spec.x", "old": 1, "new": 2}]})
}

async fn change(State(seen): State<Shared>, uri: Uri, Json(body): Json<Value>) -> Response {
    seen.lock().unwrap().bodies.push((uri.path().into(), body.clone()));
    let text = body.to_string();
    if text.contains("refuse") {
        let problem = json!({"document": "Customer refuse", "field": "spec", "given": "x", "right": "y"});
        let body = json!({"message": "Customer refuse: spec: `x`: y", "problem": problem});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
    }
    if text.contains("break") {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"message": "the disk is full"}))).into_response();
    }
    let changes = if text.contains("same") { json!([]) } else { json!([update()]) };
    Json(json!({"dry_run": body["dry_run"], "changes": changes})).into_response()
}

/// The first answer is from before the change, the second from amid it; then all is done and acme is ready.
async fn status(State(seen): State<Shared>) -> Json<Value> {
    let n = {
        let mut seen = seen.lock().unwrap();
        seen.status += 1;
        seen.status
    };
    let reconciler = json!({"passes": n, "changes": 0, "settled": n > 2, "problems": []});
    let deleted = n > 2 && seen.lock().unwrap().bodies.iter().any(|(path, _)| path == "/v1/delete");
    let attachment = json!({"attachment": "acme/d1", "port": "eth2", "vlan": 100, "rd": "65000:7", "label": 1000, "vm": "pvm-acme-d1",
        "relay_up": true, "fib_up": true, "bgp": "none", "customer_routes": 0, "vpn_routes": 0, "ready": n > 2});
    let vm = json!({"id": "pvm-acme-d1", "state": "running", "pid": 9, "template": "abc", "timings": []});
    let (vms, attachments) = if deleted { (json!([]), json!([])) } else { (json!([vm]), json!([attachment])) };
    Json(json!({"platform": "denver", "version": "1", "uptime_s": 1, "reconciler": reconciler, "vms": vms,
        "attachments": attachments, "cvm": null}))
}

async fn show(uri: Uri, Query(query): Query<HashMap<String, String>>) -> Response {
    if uri.path() == "/v1/show/ldp-neighbors" {
        let message = "LDP is not configured on Platform denver; give it spec.ldp, and its core ports `ldp: true`";
        return (StatusCode::CONFLICT, Json(json!({ "message": message }))).into_response();
    }
    let rows = match (uri.path(), query.get("customer").map(String::as_str)) {
        ("/v1/show/labels", None | Some("acme")) => json!([{"label": 1000, "attachment": "acme/d1", "rd": "65000:7", "state": "active"}]),
        ("/v1/show/bfd", _) => {
            json!([{"owner": query.get("attachment"), "address": "192.168.1.2", "interface": null, "state": "up", "up_s": 1,
            "clients": ["bgp"], "transmit_us": 1, "detection_us": 3, "local_discriminator": 1, "remote_discriminator": 2,
            "diagnostic": "none", "remote_diagnostic": "none", "downs": 0, "packets_received": 1, "packets_sent": 1}])
        }
        _ => json!([]),
    };
    Json(json!({"rows": rows, "unreachable": ["beta/d1: timed out"]})).into_response()
}

/// Reaches everything but 192.0.2.1.
async fn probe(State(seen): State<Shared>, uri: Uri, Json(body): Json<Value>) -> Json<Value> {
    seen.lock().unwrap().bodies.push((uri.path().into(), body.clone()));
    if body["to"] == "192.0.2.1" {
        let probe = json!({"number": 1, "from": null, "rtt_us": null, "outcome": "timeout", "last": false});
        return Json(json!({"sent": 1, "received": 0, "probes": [probe]}));
    }
    let probe = json!({"number": 1, "from": "10.0.0.2", "rtt_us": 1500, "outcome": "echo-reply", "labels": [17], "last": true});
    Json(json!({"sent": 1, "received": 1, "probes": [probe]}))
}

#[test]
fn apply_sends_what_was_written_and_prints_the_changes() {
    let fake = Fake::start();
    let file = fake.file("acme.yaml", ACME);
    assert_eq!(fake.ok(&["apply", "-f", &file]), "update Customer acme\n  spec.x: 1 -> 2\n");
    assert_eq!(fake.last_body(), ("/v1/apply".into(), json!({"text": ACME, "dry_run": false})));
    assert!(fake.ok(&["apply", "-f", &file, "--dry-run"]).contains("dry run"));
    assert_eq!(fake.json(&["apply", "-f", &file])["changes"][0]["name"], "acme");
    assert!(fake.ok(&["apply", "-f", &file, "-o", "yaml"]).contains("name: acme"));
}

#[test]
fn files_and_standard_input_become_one_apply() {
    let fake = Fake::start();
    // Separators and comments at the seams are no documents of their own.
    let first = fake.file("a.yaml", &format!("# first\n---{ACME}---\n"));
    let mut command = fake.command(&["apply", "-f", &first, "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let beta = format!("# second\n---{}", ACME.replace("acme", "beta"));
    child.stdin.take().unwrap().write_all(beta.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let text = fake.last_body().1["text"].as_str().unwrap().to_owned();
    let names: Vec<String> = edgeplex_intent::parse(&text).unwrap().iter().map(|d| d.name().to_string()).collect();
    assert_eq!(names, ["acme", "beta"]);
}

#[test]
fn waiting_ends_when_all_is_ready_or_time_is_up() {
    let fake = Fake::start();
    let file = fake.file("acme.yaml", ACME);
    let (code, _, err) = fake.run(&["apply", "-f", &file, "--wait=20"]);
    assert_eq!(code, 0, "{err}");
    // Not on a terminal: a line for each thing that was new.
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].ends_with("s] 0 of 1 attachments are ready") && lines[1].starts_with("done after"), "{err}");
    assert_eq!(fake.seen.lock().unwrap().status, 3);
    let never = fake.file("never.yaml", &ACME.replace("acme", "never"));
    let (code, _, err) = fake.run(&["apply", "-f", &never, "--wait=0"]);
    assert_eq!(code, 1);
    assert!(err.contains("0 of 1 attachments are ready"), "{err}");
}

#[test]
fn delete_waits_until_the_vms_are_gone() {
    let fake = Fake::start();
    let (code, _, err) = fake.run(&["delete", "customer", "acme"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(fake.last_body(), ("/v1/delete".into(), json!({"customers": ["acme"], "dry_run": false})));
    let file = fake.file("acme.yaml", &format!("{ACME}---{}", ACME.replace("acme", "beta")));
    fake.ok(&["delete", "-f", &file, "--wait=0"]);
    assert_eq!(fake.last_body().1["customers"], json!(["acme", "beta"]));
    fake.ok(&["customer", "delete", "gamma", "--wait=0"]);
    assert_eq!(fake.last_body().1["customers"], json!(["gamma"]));
}

#[test]
fn diff_tells_by_its_exit_code() {
    let fake = Fake::start();
    let (differs, same) = (fake.file("a.yaml", ACME), fake.file("b.yaml", &ACME.replace("acme", "same")));
    assert_eq!(fake.run(&["diff", "-f", &differs]).0, 1);
    assert_eq!(fake.last_body().1["dry_run"], json!(true));
    assert_eq!(fake.run(&["diff", "-f", &same]), (0, "nothing changes\n".into(), String::new()));
    assert_eq!(fake.run(&["diff"]), (1, "start VM cvm\n".into(), String::new()));
}

#[test]
fn invalid_input_is_2_and_failure_is_1() {
    let fake = Fake::start();
    let says = |args: &[&str], code: i32, part: &str| {
        let (got, out, err) = fake.run(args);
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {err}");
    };
    says(&["apply", "-f", &fake.file("1", &ACME.replace("acme", "refuse"))], 2, "error: Customer refuse: spec: `x`: y\n");
    says(&["apply", "-f", &fake.file("2", &ACME.replace("acme", "break"))], 1, "error: the disk is full\n");
    says(&["apply", "-f", &fake.file("bad.yaml", "spec: [")], 2, "bad.yaml: input: line ");
    says(&["apply", "-f", "/nowhere"], 2, "error: /nowhere: is not there\n");
    says(&["apply"], 2, "--file");
    says(&["customer", "show", "Nobody!"], 2, "lower-case letter");
    says(&["customer", "show", "nobody"], 2, "error: there is no customer nobody; there are: acme\n");
    says(&["customer", "create", "acme", "--attachment", "name=d1,port=eth2,address=10.0.0.1/30"], 2, "already there");
    says(&["--socket", "/nowhere/s", "status"], 1, "is edgeplexd running? --socket or EDGEPLEX_SOCKET");
    let platform = fake.file("p", &documents()[0].to_string());
    says(&["delete", "-f", &platform], 2, "a platform cannot be deleted");
}

#[test]
fn a_customer_is_created_from_words() {
    let fake = Fake::start();
    let attachment = "name=d1,port=eth2,vlan=101,address=192.168.2.1/30,neighbor=192.168.2.2,remote-as=65101,max-prefix=9";
    let args = ["customer", "create", "beta", "--import", "65000:1", "65000:2", "--export", "65000:1", "--attachment", attachment];
    fake.ok(&args);
    let sent: Value = serde_json::from_str(fake.last_body().1["text"].as_str().unwrap()).unwrap();
    assert_eq!(sent["spec"]["vpn"]["import"], json!(["65000:1", "65000:2"]));
    assert_eq!(sent["spec"]["attachments"][0]["bgp"], json!({"neighbor": "192.168.2.2", "remoteAs": 65101, "maxPrefix": 9}));
}

#[test]
fn what_get_prints_apply_takes() {
    let fake = Fake::start();
    let yaml = fake.ok(&["get", "-o", "yaml"]);
    assert_eq!(edgeplex_intent::parse(&yaml).unwrap().len(), 2);
    assert_eq!(fake.json(&["get"]), documents());
    assert_eq!(fake.json(&["get", "attachments"])[0]["customer"], "acme");
    assert_eq!(fake.json(&["get", "platform"])[0]["metadata"]["name"], "denver");
    assert!(fake.ok(&["customer", "list"]).starts_with("NAME   IMPORT"));
    assert!(fake.ok(&["describe", "customer", "acme"]).contains("Live attachments:\nATTACHMENT"));
    assert_eq!(fake.json(&["describe", "customer", "acme"])["attachments"][0]["vm"], "pvm-acme-d1");
}

#[test]
fn live_state_is_shown_and_the_unreachable_are_named() {
    let fake = Fake::start();
    let (code, out, err) = fake.run(&["show", "labels", "-c", "acme"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "LABEL   ATTACHMENT   RD        NEXT-HOP   STATE\n1000    acme/d1      65000:7   -          active\n")
    );
    assert_eq!(err, "warning: rows are missing: beta/d1: timed out\n");
    assert_eq!(fake.json(&["show", "labels"])[0]["label"], 1000);
    for what in ["bgp", "routes", "fib", "counters"] {
        assert_eq!(fake.json(&["show", what]), json!([]));
    }
    assert_eq!(fake.json(&["status"])["platform"], "denver");
    let audit = fake.ok(&["audit"]);
    let cells = |n: usize| audit.lines().nth(n).unwrap().split("   ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>();
    assert_eq!(cells(1), ["1970-01-01 00:00:00.000Z", "7", "update", "Customer acme", "done", "spec.x: 1 -> 2"]);
    let failed = "acme/d1: failed: the new instance is not there";
    assert_eq!(cells(2), ["1970-01-01 00:00:00.001Z", "7", "migrate", "acme --to west", failed, "acme/d1: move 3"]);
    assert_eq!(cells(3)[2..], ["rollback", "-", "under way", "-"]);
}

#[test]
fn the_core_is_shown_and_what_is_not_configured_is_said() {
    let fake = Fake::start();
    for what in [&["ospf", "neighbors"], &["ospf", "interfaces"], &["ospf", "database"], &["ospf", "routes"], &["ldp", "bindings"]] {
        assert_eq!(fake.json(&[&["show"], &what[..]].concat()), json!([]));
    }
    assert_eq!(fake.json(&["show", "forwarding"]), json!([]));
    assert_eq!(fake.json(&["show", "tunnels"]), json!([]));
    assert_eq!(fake.json(&["show", "bfd", "acme/d1"])[0]["owner"], "acme/d1");
    assert!(fake.ok(&["show", "bfd", "acme/d1"]).contains("acme/d1   192.168.1.2   -           up"));
    let (code, out, err) = fake.run(&["show", "ldp", "neighbors"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.starts_with("error: LDP is not configured on Platform denver; give it spec.ldp"), "{err}");
    assert_eq!(fake.run(&["show", "ospf", "routes", "-c", "acme"]).0, 2);
    assert_eq!(fake.run(&["show", "-c", "acme", "labels"]).0, 0, "before the table or after it");
    assert_eq!(fake.run(&["show", "ospf", "friends"]).0, 2);
}

#[test]
fn pings_say_by_their_exit_code_whether_they_got_through() {
    let fake = Fake::start();
    let text = fake.ok(&["ping", "acme/d1", "10.0.0.2", "--count", "1", "--interval", "50"]);
    assert!(text.ends_with("1 sent, 1 received, 0 % lost; time 1.500 ms at least, 1.500 ms on average, 1.500 ms at most\n"), "{text}");
    let options = json!({"count": 1, "interval_ms": 50, "timeout_ms": 2000, "max_hops": 30});
    let asked = json!({"attachment": "acme/d1", "to": "10.0.0.2", "options": options});
    assert_eq!(fake.last_body(), ("/v1/ping".into(), asked));
    assert_eq!(fake.run(&["ping", "acme/d1", "192.0.2.1"]).0, 1);
    assert_eq!(fake.run(&["traceroute", "acme/d1", "192.0.2.1"]).0, 1);
    assert_eq!(fake.json(&["traceroute", "acme/d1", "2001:db8::1", "--max-hops", "3"])["probes"][0]["labels"], json!([17]));
    assert_eq!(fake.last_body().1["options"]["max_hops"], 3);
    assert!(fake.ok(&["lsp", "ping", "10.255.0.2/32", "-o", "yaml"]).contains("received: 1"));
    assert_eq!((fake.last_body().0.as_str(), &fake.last_body().1["prefix"]), ("/v1/lsp/ping", &json!("10.255.0.2/32")));
    assert!(fake.ok(&["lsp", "traceroute", "10.255.0.2/32"]).starts_with("HOP   FROM"));
    for wrong in [&["ping", "acme", "10.0.0.2"][..], &["ping", "acme/d1", "ten"], &["lsp", "ping", "10.255.0.2"], &["lsp"]] {
        assert_eq!(fake.run(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let fake = Fake::start();
    let mut child = fake.command(&["get", "-o", "yaml"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Closed long before the program has started up; should it be faster, it has nothing to notice and the test holds too.
    drop(child.stdout.take());
    let (code, _, err) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (0, ""));
}
