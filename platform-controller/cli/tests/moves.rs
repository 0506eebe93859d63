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
        let mut app = Router::new().route("/v1/moves", get(moves)).route("/v1/instances", get(|| async { Json(instances()) }));
        for path in ["migrate", "abort", "drain", "restore", "checkpoint", "rollback"] {
            app = app.route(&format!("/v1/{path}"), post(order));
        }
        let app = app
            .route("/v1/images", get(|| async { Json(json!([image()])) }).post(order))
            .route("/v1/upgrade", get(upgrade).post(order))
            .with_state(seen.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { dir, seen, _runtime: runtime }
    }

    /// Exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut c = Command::new(env!("CARGO_BIN_EXE_edgeplex"));
        let o = c.args(args).env("EDGEPLEX_SOCKET", self.dir.path().join("s")).stdin(Stdio::null()).output().unwrap();
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
    match uri.path() {
        "/v1/abort" => refused("acme/d1 is not moving"),
        "/v1/checkpoint" => Json(json!({"unit": body["unit"], "bytes": 12, "sessions": 1, "values": 2})).into_response(),
        "/v1/images" => Json(json!([image()])).into_response(),
        "/v1/upgrade" | "/v1/rollback" => Json(report("running")).into_response(),
        // One that fails, of a customer that says so by its name.
        _ if body["whose"] == json!({"customer": "unlucky"}) => Json(json!([{"unit": "unlucky/d1", "id": 4}])).into_response(),
        _ if body["undo"] == json!(true) => Json(json!([])).into_response(),
        _ => Json(json!([{"unit": "acme/d1", "id": 3}])).into_response(),
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
        "state": "running", "said": said, "failover_ms": null}])
}

fn image() -> Value {
    json!({"name": "next", "version": "edgeplex 2", "hash": "abc", "instances": 4})
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
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(fake.last(), ("/v1/migrate".into(), json!({"whose": {"customer": "acme"}, "to": "west"})));
    assert_eq!(fake.seen.lock().unwrap().looks, 2);
    assert!(out.contains("acme/d1   move   g1@local   g2@west   done      12.5 ms"), "{out}");
    assert!(out.contains("sync 1.5,promote 11.0"), "{out}");
    let (code, out, _) = fake.run(&["migrate", "unlucky", "--to", "west", "-o", "json"]);
    let rows: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &rows[0]["outcome"], &rows[0]["took_ms"], rows.as_array().unwrap().len()), (1, &json!("failed"), &json!(12.5), 1));
    let (code, _, err) = fake.run(&["migrate", "acme/d1", "--abort"]);
    assert_eq!((code, err.as_str()), (1, "error: acme/d1 is not moving\n"));
    assert_eq!(fake.last().1, json!({"whose": {"attachment": "acme/d1"}}));
    for wrong in [&["migrate", "acme"][..], &["migrate", "A!", "--to", "west"], &["migrate", "cvm", "--to", "west", "--abort"]] {
        assert_eq!(fake.run(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn hosts_are_drained_and_instances_shown() {
    let fake = Fake::start();
    assert_eq!(fake.run(&["drain", "west"]).0, 0);
    assert_eq!(fake.last().1, json!({"host": "west", "undo": false}));
    assert_eq!(fake.run(&["undrain", "west"]).0, 0);
    assert_eq!(fake.last().1, json!({"host": "west", "undo": true}));
    let (_, out, _) = fake.run(&["show", "instances"]);
    assert!(out.contains("acme/d1   pvm-acme-d1-g3   standby   west   default   3            running   standby"), "{out}");
    assert!(!out.contains('\u{1b}'), "no VM steers the terminal");
    let (_, out, _) = fake.run(&["show", "moves", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap().as_array().unwrap().len(), 3);
}

#[test]
fn checkpoints_and_images() {
    let fake = Fake::start();
    let (code, out, _) = fake.run(&["checkpoint", "cvm", "state"]);
    assert_eq!((code, out.as_str()), (0, "cvm: 12 bytes, 1 sessions, 2 values\n"));
    let file = fake.last().1["file"].as_str().unwrap().to_owned();
    assert!(file.starts_with('/') && file.ends_with("/state"), "{file}");
    let (code, out, _) = fake.run(&["image", "add", "next", fake.dir.path().to_str().unwrap()]);
    assert_eq!((code, out.lines().nth(1)), (0, Some("next   edgeplex 2   abc    4")));
    assert_eq!(fake.run(&["image", "add", "next", "/nowhere"]).0, 2);
    assert_eq!(fake.run(&["image", "list"]).0, 0);
}

#[test]
fn an_upgrade_that_was_taken_back_is_a_failure_and_a_rollback_is_none() {
    let fake = Fake::start();
    let (code, out, _) = fake.run(&["upgrade", "--to", "next", "--canary", "2", "--then", "25%", "--soak", "3"]);
    assert_eq!(fake.last().1, json!({"to": "next", "canary": 2, "then_percent": 25, "soak_s": 3}));
    assert_eq!(code, 1);
    assert!(out.contains("Upgrade:  to next, taken back") && out.contains("was reset"), "{out}");
    assert_eq!(fake.run(&["rollback"]).0, 0);
    assert_eq!(fake.run(&["upgrade", "--to", "next", "--then", "0%"]).0, 2);
    assert!(fake.run(&["show", "upgrade"]).1.contains("Gone:     1 of 1"));
}
