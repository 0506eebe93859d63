//! FastForward, between our kernel and the wire, holds what is not committed yet.

use edgeplex_ff_fib_api as fib;
use edgeplex_ff_fib_client::Holder;
use edgeplex_transport::journal::{Flow, Gate};

pub(crate) struct HeldByFastForward(pub(crate) Holder);

fn flow(f: Flow) -> fib::Flow {
    fib::Flow { local: f.local, remote: f.remote }
}

impl Gate for HeldByFastForward {
    fn upto(&self, of: Flow, seq: u32, ack: u32) {
        self.0.upto(flow(of), seq, ack);
    }

    fn fence(&self, of: Flow) {
        self.0.fence(flow(of));
    }

    fn over(&self, of: Flow) {
        self.0.over(flow(of));
    }
}
