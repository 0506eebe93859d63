//! Desired state over a store: what is kept, and what an invalid change leaves alone.

#![allow(clippy::unwrap_used)]

#[path = "../../intent/tests/common/mod.rs"]
mod common;

use common::both;
use edgeplex_store::{Embedded, Memory};
use edgeplex_types::AttachmentId;
use edgeplexd::desired::{ChangeError, Keeper};
use std::sync::Arc;

/// The RD is left to the controller.
fn text() -> String {
    both().replace("      rd: '65000:1001'\n", "")
}

#[tokio::test]
async fn desired_state_is_found_again_with_its_keys_and_rds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let id: AttachmentId = "acme/denver-1".parse().unwrap();
    let before = {
        let keeper = Keeper::open(Arc::new(Embedded::open(&path).unwrap())).unwrap();
        assert_eq!(keeper.apply(&text(), false, 0).await.unwrap().len(), 2);
        assert_eq!(keeper.apply(&text(), false, 0).await.unwrap(), vec![], "the same again is no change");
        keeper.current()
    };
    let keeper = Keeper::open(Arc::new(Embedded::open(&path).unwrap())).unwrap();
    let after = keeper.current();
    assert_eq!(after.intent, before.intent);
    assert_eq!(after.keys[&id], before.keys[&id]);
    assert_eq!((after.rds[&id], &after.cvm_key), (before.rds[&id], &before.cvm_key));
    assert_eq!(keeper.audit().entries().unwrap().len(), 1);
    keeper.delete(&["acme".parse().unwrap()], false, 7).await.unwrap();
    assert!(keeper.current().keys.is_empty(), "a key goes with its attachment");
    assert_eq!(keeper.audit().entries().unwrap()[1].uid, 7);
}

#[tokio::test]
async fn a_dry_run_and_an_invalid_change_leave_everything_as_it_was() {
    let keeper = Keeper::open(Arc::new(Memory::default())).unwrap();
    assert_eq!(keeper.apply(&text(), true, 0).await.unwrap().len(), 2);
    assert!(keeper.current().intent.platform.is_none());
    let error = keeper.apply(&text().replace("vlan: 100", "vlan: 5000"), false, 0).await.unwrap_err();
    assert!(matches!(&error, ChangeError::Invalid(e) if e.field == "spec.attachments[0].vlan"), "{error}");
    assert!(keeper.current().intent.platform.is_none());
    assert!(keeper.audit().entries().unwrap().is_empty());
}
