//! Moves, images and upgrades as an operator meets them, against a controller that answers by rote.

#![allow(clippy::unwrap_used)]

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

/// What it was asked, and how often how the moves go.
#[derive(Default)]
struct Seen {
    bodies: Vec<(String, Value)>,
    looks: u32,
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
        let mut app = Router::new()
            .route("/v1/moves", get(moves))
            .route("/v1/instances", get(|| async { Json(instances()) }))
            .route("/v1/hosts", get(|| async { Json(hosts()) }));
        for path in ["migrate", "abort", "drain", "restore", "checkpoint", "rollback"] {
            app = app.route(&format!("/v1/{path}"), post(order));
        }
        let app = app.route("/v1/images", get(images).post(order)).route("/v1/upgrade", get(upgrade).post(order)).with_state(seen.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { dir, seen, _runtime: runtime }
    }

    /// Exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_edgeplex"));
        let c = c.args(args).env("EDGEPLEX_SOCKET", self.dir.path().join("s")).current_dir(self.dir.path());
        let o = c.stdin(Stdio::null()).output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        (o.status.code().unwrap(), text(&o.stdout), text(&o.stderr))
    }

    fn last(&self) -> (String, Value) {
        self.seen.lock().unwrap().bodies.last().unwrap().clone()
    }
}

async fn order(State(seen): State<Shared>, uri: Uri, Json(body): Json<Value>) -> Response {
    seen.lock().unwrap().bodies.push((uri.path().into(), body.clone()));
    let refused = |message: &str| (StatusCode::CONFLICT, Json(json!({"message": message, "problem": null}))).into_response();
    let begun = |moves: Value, stay: Value| Json(json!({"moves": moves, "stay": stay})).into_response();
    match uri.path() {
        "/v1/abort" => refused("acme/d1 is not moving"),
        "/v1/checkpoint" => {
            fs::write(body["file"].as_str().unwrap(), "the state").unwrap();
            Json(json!({"unit": body["unit"], "file": body["file"], "bytes": 9, "sessions": 1, "values": 2})).into_response()
        }
        "/v1/restore" => {
            let state = fs::read(body["file"].as_str().unwrap()).unwrap_or_default();
            if state == b"the state" { begun(json!([{"unit": "acme/d1", "id": 3}]), json!([])) } else { refused("is no checkpoint") }
        }
        "/v1/images" => {
            let mut row = image(json!([at("west", false, "it is to be copied")]));
            row["name"] = body["name"].clone();
            Json(json!([row])).into_response()
        }
        "/v1/upgrade" | "/v1/rollback" => Json(report("running")).into_response(),
        // One that fails, of a customer that says so by its name.
        _ if body["whose"] == json!({"customer": "unlucky"}) => begun(json!([{"unit": "unlucky/d1", "id": 4}]), json!([])),
        _ if body["undo"] == json!(true) || body["host"] == "empty" => begun(json!([]), json!([])),
        _ if body["host"] == "local" => {
            let stays = json!({"unit": "cvm", "why": "the control VM stays on local", "by_design": true});
            begun(json!([{"unit": "acme/d1", "id": 3}]), json!([stays]))
        }
        _ if body["host"] == "full" => {
            begun(json!([{"unit": "acme/d1", "id": 3}]), json!([{"unit": "beta/d1", "why": "beta/d1 stays: why", "by_design": false}]))
        }
        _ => begun(json!([{"unit": "acme/d1", "id": 3}]), json!([])),
    }
}

fn a_move(unit: &str, id: u64, phase: &str, outcome: &str) -> Value {
    json!({"unit": unit, "took_ms": 12.5, "id": id, "kind": "move", "from": 1, "to": 2, "from_host": "local", "to_host": "west",
        "image": null, "phase": phase, "outcome": outcome, "why": "so it was asked", "started_ms": 0,
        "times": [{"phase": "sync", "microseconds": 1500}, {"phase": "promote", "microseconds": 11_000}]})
}

/// Under way at first, then done.
async fn moves(State(seen): State<Shared>) -> Json<Value> {
    let mut seen = seen.lock().unwrap();
    seen.looks += 1;
    let ours = if seen.looks == 1 { a_move("acme/d1", 3, "fence", "under-way") } else { a_move("acme/d1", 3, "retire", "done") };
    Json(json!([a_move("acme/d1", 2, "retire", "failed"), ours, a_move("unlucky/d1", 4, "sync", "failed")]))
}

fn instances() -> Value {
    let said = json!({"generation": 3, "state": "standby", "revision": 1, "sessions": 2, "end": 9, "committed": 9, "in_sync": true,
        "forwards": true, "leader_lost_ms": null, "promoted": null, "problems": ["the journal\u{1b}[2J is full"]});
    json!([{"unit": "acme/d1", "vm": "pvm-acme-d1-g3", "place": "standby", "host": "west", "image": null, "generation": 3,
        "state": "running", "said": said, "note": "it has no standby: host west is drained", "failover_ms": null}])
}

fn at(host: &str, there: bool, note: &str) -> Value {
    json!({"host": host, "image": "next", "there": there, "failed": note.contains("space"), "away": note.contains("when"), "note": note})
}

fn image(hosts: Value) -> Value {
    json!({"name": "next", "version": "edgeplex 2", "hash": "abc", "instances": 4, "hosts": hosts})
}

/// It comes to `west` bit by bit; `east` is away.
async fn images(State(seen): State<Shared>) -> Json<Value> {
    let mut seen = seen.lock().unwrap();
    seen.looks += 1;
    let full = seen.bodies.last().is_some_and(|(_, body)| body["name"] == "full");
    let west = match seen.looks {
        1 => at("west", false, "40 % of it is there"),
        _ if full => at("west", false, "there is no space left"),
        _ => at("west", true, ""),
    };
    let mut row = image(json!([at("local", true, ""), west, at("east", false, "it is copied when the host is there")]));
    if full {
        row["name"] = json!("full");
    }
    Json(json!([row]))
}

fn hosts() -> Value {
    let host = |name: &str, reach: &str, problem: &str| {
        json!({"name": name, "address": "192.0.2.2:7443", "port": "eth3", "reach": reach, "since_ms": 0, "drained": true, "vms": 3,
            "active": 1, "standby": 2, "version": "0.1.0", "images": [at(name, false, "40 % of it is there")], "problem": problem})
    };
    json!([host("west", "up", ""), host("east", "lost", "it has another key")])
}

fn report(state: &str) -> Value {
    json!({"order": {"to": "next", "canary": 1, "then_percent": 10, "soak_s": 1}, "state": state, "before": null,
        "gone": [["acme/d1", null]], "left": [], "why": "acme/d1: the session BGP 192.0.2.2 was reset", "started_ms": 0})
}

async fn upgrade() -> Json<Value> {
    Json(report("rolled-back"))
}

#[test]
fn a_move_is_followed_to_its_end() {
    let fake = Fake::start();
    let (code, out, err) = fake.run(&["migrate", "acme", "--to", "west"]);
    assert_eq!(code, 0);
    // No terminal: a line for each phase that is over, each once, with the time.
    let lines: Vec<&str> = err.lines().map(|l| l.split_once("s] ").unwrap().1).collect();
    let expected = ["from local to west", "sync took 1.5 ms", "promote took 11.0 ms", "done, promoted after 12.5 ms"];
    assert_eq!(lines, expected.map(|l| format!("acme/d1: move 3: {l}")));
    assert_eq!(fake.last(), ("/v1/migrate".into(), json!({"whose": {"customer": "acme"}, "to": "west"})));
    assert_eq!(fake.seen.lock().unwrap().looks, 2);
    assert!(out.contains("acme/d1   move   g1@local   g2@west   done      12.5 ms"), "{out}");
    assert!(out.contains("sync 1.5,promote 11.0"), "{out}");
    let (code, out, err) = fake.run(&["migrate", "unlucky", "--to", "west", "-o", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &rows[0]["outcome"], &rows[0]["took_ms"], rows.as_array().unwrap().len()), (1, &json!("failed"), &json!(12.5), 1));
    assert!(err.ends_with("unlucky/d1: move 4: failed: so it was asked\n"), "{err}");
    let (code, _, err) = fake.run(&["migrate", "acme/d1", "--abort"]);
    assert_eq!((code, err.as_str()), (2, "error: acme/d1 is not moving\n"), "refused: nothing was changed");
    assert_eq!(fake.last().1, json!({"whose": {"attachment": "acme/d1"}}));
    for wrong in [&["migrate", "acme"][..], &["migrate", "A!", "--to", "west"], &["migrate", "cvm", "--to", "west", "--abort"]] {
        assert_eq!(fake.run(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn hosts_are_drained_and_who_stays_is_said() {
    let fake = Fake::start();
    assert_eq!(fake.run(&["drain", "west"]).0, 0);
    assert_eq!(fake.last().1, json!({"host": "west", "undo": false}));
    let (code, out, err) = fake.run(&["undrain", "west"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "VMs may be placed on west again\n"));
    assert_eq!(fake.last().1, json!({"host": "west", "undo": true}));
    let (code, _, err) = fake.run(&["drain", "local"]);
    assert_eq!(code, 0, "it never goes: that is no failure");
    assert!(err.starts_with("note: the control VM stays on local\n"), "{err}");
    let (code, _, err) = fake.run(&["drain", "full"]);
    assert_eq!(code, 1);
    assert!(err.starts_with("warning: beta/d1 stays: why\n"), "{err}");
    let (code, out, err) = fake.run(&["drain", "empty"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(err.starts_with("nothing is active on empty;"), "{err}");
}

#[test]
fn instances_and_hosts_are_shown() {
    let fake = Fake::start();
    let (_, out, _) = fake.run(&["show", "instances"]);
    assert!(out.contains("acme/d1   pvm-acme-d1-g3   standby   west   default   3            running   standby"), "{out}");
    assert!(out.contains("is full; it has no standby: host west is drained"), "{out}");
    assert!(!out.contains('\u{1b}'), "no VM steers the terminal");
    let (_, out, _) = fake.run(&["show", "moves", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap().as_array().unwrap().len(), 3);
    let (_, out, _) = fake.run(&["show", "hosts"]);
    let cells: Vec<_> = out.lines().nth(2).unwrap().split("   ").map(str::trim).filter(|c| !c.is_empty()).collect();
    let west = ["east", "192.0.2.2:7443", "eth3", "lost", "1970-01-01 00:00:00.000Z", "3", "1", "2", "yes", "0.1.0"];
    assert_eq!(cells, [&west[..], &["next (40 % of it is there)", "it has another key"]].concat());
}

#[test]
fn checkpoints_are_files_and_streams() {
    let fake = Fake::start();
    let (code, out, _) = fake.run(&["checkpoint", "cvm", "state"]);
    let file = fake.last().1["file"].as_str().unwrap().to_owned();
    assert!(file.starts_with('/') && file.ends_with("/state"), "{file}");
    assert_eq!((code, out), (0, format!("cvm: 9 bytes, 1 sessions, 2 values in {file}\n")));
    let (code, out, err) = fake.run(&["checkpoint", "cvm", "-"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "the state", "cvm: 9 bytes, 1 sessions, 2 values in standard output\n"));
    let restore = |input: &str| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_edgeplex"));
        c.args(["restore", "acme/d1", "-"]).env("EDGEPLEX_SOCKET", fake.dir.path().join("s"));
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait().unwrap().code().unwrap()
    };
    assert_eq!((restore("the state"), restore("something")), (0, 2));
    let mut left: Vec<_> = fs::read_dir(fake.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["s", "state"], "nothing else is left");
}

#[test]
fn an_image_is_waited_for_until_each_host_that_is_there_has_it() {
    let fake = Fake::start();
    let dir = fake.dir.path().to_str().unwrap();
    let (code, out, err) = fake.run(&["image", "add", "next", dir]);
    assert_eq!(
        (code, out.lines().nth(1)),
        (0, Some("next   edgeplex 2   abc    4           local,west,east (it is copied when the host is there)"))
    );
    assert!(err.contains("s] west: it is to be copied\n") && err.contains("s] west: 40 % of it is there"), "{err}");
    assert!(err.contains("warning: image next is not on host east: it is copied when the host is there"), "{err}");
    fake.seen.lock().unwrap().looks = 0;
    let (code, _, err) = fake.run(&["image", "add", "full", dir]);
    assert_eq!(code, 1);
    assert!(err.contains("warning: image full is not on host west: there is no space left"), "{err}");
    let (code, _, err) = fake.run(&["image", "add", "next", "/nowhere"]);
    assert_eq!((code, err.as_str()), (2, "error: /nowhere: is not there\n"));
    assert_eq!(fake.run(&["image", "list"]).0, 0);
}

#[test]
fn an_upgrade_that_was_taken_back_is_a_failure_and_a_rollback_is_none() {
    let fake = Fake::start();
    let (code, out, err) = fake.run(&["upgrade", "--to", "next", "--canary", "2", "--then", "25%", "--soak", "3"]);
    assert_eq!(fake.last().1, json!({"to": "next", "canary": 2, "then_percent": 25, "soak_s": 3}));
    assert_eq!(code, 1);
    assert!(out.contains("Upgrade:  to next, from default, taken back") && out.contains("was reset"), "{out}");
    assert!(err.ends_with("s] upgrade to next: taken back\n"), "{err}");
    assert_eq!(fake.run(&["rollback"]).0, 0);
    assert_eq!(fake.run(&["upgrade", "--to", "next", "--then", "0%"]).0, 2);
    assert!(fake.run(&["show", "upgrade"]).1.contains("Gone:     1 of 1"));
}
