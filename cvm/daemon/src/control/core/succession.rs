//! From following another instance to speaking, and standing still for one that follows.

use super::{CoreSide, Stage};
use crate::core_io::{CoreCommand, CoreIo, Part};
use edgeplex_journal::Record;
use edgeplex_mgmt::config::CvmConfig;
use edgeplex_transport::{Promoted, journal::Journal};
use edgeplex_types::{MacAddr, NextHop};
use futures::future::BoxFuture;
use std::collections::BTreeMap;

impl<I: CoreIo> CoreSide<I> {
    /// A change that the active instance has written down.
    pub(crate) fn replay(&mut self, record: &Record) {
        self.io.replay(record);
    }

    /// A neighbour that the active instance knows.
    pub(crate) fn neighbor(&mut self, hop: NextHop, mac: Option<MacAddr>) {
        self.core.neighbor(hop, mac);
    }

    /// OSPF and BFD go on here.
    pub(crate) fn promote_routing(&mut self, neighbors: BTreeMap<NextHop, MacAddr>, journal: &Journal) -> BoxFuture<'static, Promoted> {
        self.io.promote(Part::Routing(neighbors), journal)
    }

    /// The kernel is brought to the routes that are known now; resolves when it has them.
    pub(crate) fn route(&mut self) -> BoxFuture<'static, ()> {
        self.stage = self.stage.max(Stage::Routing);
        self.tell_kernel();
        self.io.routes_in_place()
    }

    /// LDP goes on here.
    pub(crate) fn promote_labels(&mut self, journal: &Journal) -> BoxFuture<'static, Promoted> {
        self.io.promote(Part::Labels, journal)
    }

    /// What follows from the routes is everybody's to know from now on; resolves when the protocols know.
    pub(crate) fn speak(&mut self) -> BoxFuture<'static, ()> {
        self.stage = Stage::Speaking;
        self.tell_kernel();
        self.tell_ldp();
        self.tell_resolver();
        self.io.taken()
    }

    /// The instance before knew the core, and all of it is here: there is nothing to wait for.
    pub(crate) fn knows_all(&mut self) {
        self.settle();
    }

    /// Whether the label-switching router is ours to program.
    pub(crate) fn set_forwarding(&mut self, config: &CvmConfig, forwards: bool) {
        self.forwards = forwards;
        self.bring_lsr(config);
    }

    /// Nothing leaves or enters any more; resolves when it is so. The kernel asks for no neighbours: the switch may lead elsewhere.
    pub(crate) fn fence(&mut self) -> BoxFuture<'static, ()> {
        self.io.command(CoreCommand::Resolve([].into()));
        self.io.fence()
    }

    pub(crate) fn unfence(&mut self) {
        self.io.unfence();
        self.tell_resolver();
    }

    /// The process ends, and a successor goes on.
    pub(crate) async fn leave(&mut self) {
        self.io.leave().await;
    }
}
