//! Both stores behave the same; the embedded one survives what a crash leaves.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_store::*;
use std::{collections::BTreeMap, process::Command};

fn exercise(store: &dyn Store) {
    let put = |k: &str, v: u32| Write::put(k, &v).unwrap();
    store.commit(&[put("customer/acme", 1), put("customer/beta", 2), put("customers", 9), put("key/acme", 3)]).unwrap();
    store.commit(&[Write::delete("customer/beta"), put("customer/acme", 4)]).unwrap();
    let all: BTreeMap<String, u32> = read_all(store, "customer/").unwrap();
    assert_eq!(all, BTreeMap::from([("acme".into(), 4)]));
    assert_eq!(read::<u32>(store, "customers").unwrap(), Some(9));
    assert_eq!(read::<u32>(store, "customer").unwrap(), None);
    assert!(matches!(read::<String>(store, "customers"), Err(StoreError::Record { .. })));
}

#[test]
fn both_stores_read_what_was_written() {
    exercise(&Memory::default());
    let dir = tempfile::tempdir().unwrap();
    exercise(&Embedded::open(&dir.path().join("state.redb")).unwrap());
}

#[test]
fn a_version_from_the_future_is_refused_and_a_huge_record_is_not_written() {
    let store = Memory::default();
    store.commit(&[Write { key: "a".into(), record: Some(vec![VERSION + 1, b'1']) }]).unwrap();
    assert!(matches!(read::<u32>(&store, "a"), Err(StoreError::Version { got: 2, .. })));
    assert!(matches!(Write::put("a", &"x".repeat(MAX_RECORD)), Err(StoreError::Record { .. })));
}

/// A record as version 1 wrote it.
#[test]
fn bytes_of_version_1() {
    let store = Memory::default();
    store.commit(&[Write { key: "a".into(), record: Some(b"\x01{\"rd\":{\"acme/denver-1\":7}}".to_vec()) }]).unwrap();
    let value: BTreeMap<String, BTreeMap<String, u16>> = read(&store, "a").unwrap().unwrap();
    assert_eq!(value["rd"]["acme/denver-1"], 7);
}

/// What was committed is there after `kill -9` of the writer; the writer is this test, run again as a child.
#[test]
fn a_committed_record_survives_kill_9() {
    const FILE: &str = "EDGEPLEX_STORE_TEST_FILE";
    if let Some(path) = std::env::var_os(FILE) {
        let store = Embedded::open(path.as_ref()).unwrap();
        for n in 0u32.. {
            store.commit(&[Write::put("left", &n).unwrap(), Write::put("right", &n).unwrap()]).unwrap();
            println!("committed {n}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_committed_record_survives_kill_9", "--nocapture"])
        .env(FILE, &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut committed = 0;
    for line in lines {
        if let Some(n) = line.unwrap().rsplit("committed ").next().and_then(|n| n.parse::<u32>().ok()) {
            committed = n;
        }
        if committed >= 20 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Embedded::open(&path).unwrap();
    let (left, right) = (read::<u32>(&store, "left").unwrap().unwrap(), read::<u32>(&store, "right").unwrap().unwrap());
    assert_eq!(left, right, "a commit is whole");
    assert!(left >= committed, "{committed} was reported as committed, {left} is there");
}
