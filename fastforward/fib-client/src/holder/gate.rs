//! A journal's gate: FastForward holds our sessions' segments until what they tell is committed.

use super::Holder;
use edgeplex_ff_fib_api as fib;
use edgeplex_transport::journal::{Flow, Gate};

fn flow(of: Flow) -> fib::Flow {
    fib::Flow { local: of.local, remote: of.remote }
}

impl Gate for Holder {
    fn upto(&self, of: Flow, seq: u32, ack: u32) {
        self.upto(flow(of), seq, ack);
    }

    fn fence(&self, of: Flow) {
        self.fence(flow(of));
    }

    fn over(&self, of: Flow) {
        self.over(flow(of));
    }
}
