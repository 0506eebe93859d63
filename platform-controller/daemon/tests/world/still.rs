//! A world in which nothing happens.

use edgeplex_ff_fib_api::Counters;
use edgeplex_mgmt::show::{InstanceOrder, InstanceStatus};
use edgeplexd::{
    moves::{Death, World},
    placement::{Instance, Placement, Unit},
};
use futures::future::BoxFuture;
use std::future::{pending, ready};

/// Nobody dies, and nobody is made.
#[derive(Debug)]
pub(crate) struct Still;

impl World for Still {
    fn stands<'a>(&'a self, _: &'a Unit, _: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(ready(false))
    }
    fn died<'a>(&'a self, _: &'a Unit, _: &'a Instance) -> BoxFuture<'a, Death> {
        Box::pin(pending())
    }
    fn gone<'a>(&'a self, _: &'a Unit, _: &'a Instance) -> BoxFuture<'a, bool> {
        Box::pin(ready(false))
    }
    fn lost<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Death> {
        Box::pin(pending())
    }
    fn order<'a>(&'a self, _: &'a Unit, _: &'a Instance, _: InstanceOrder) -> BoxFuture<'a, anyhow::Result<InstanceStatus>> {
        Box::pin(ready(Err(anyhow::anyhow!("nobody is there"))))
    }
    fn lead<'a>(&'a self, _: &'a Unit, _: &'a Placement) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(ready(Ok(())))
    }
    fn counters<'a>(&'a self, _: &'a Unit, _: &'a Instance) -> BoxFuture<'a, Counters> {
        Box::pin(ready(Counters::default()))
    }
    fn kill<'a>(&'a self, _: &'a Unit, _: &'a Instance) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(ready(Ok(())))
    }
    fn refuge<'a>(&'a self, _: &'a Unit, _: &'a str) -> BoxFuture<'a, Option<String>> {
        Box::pin(ready(None))
    }
    fn nics(&self, _: &Unit) -> usize {
        2
    }
}
