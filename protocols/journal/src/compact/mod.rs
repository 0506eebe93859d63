//! Sessions with shorter streams that lead to the same session.
//!
//! ```text
//!   opening │ what still counts of the messages since │ the rest as it came
//! ```
//! The rest is what was sent but not acknowledged (a successor sends it again, byte by byte), a message that is not whole yet, and
//! all from the first message on that is not understood here.

mod bgp;
mod ldp;

use crate::state::{Session, Turn};
use crate::{Opened, Protocol};

/// `None` if it would not become shorter.
pub(crate) fn shorten(session: &Session) -> Option<Session> {
    let shorter = match session.opened.protocol {
        Protocol::Bgp => bgp::shorten(session),
        Protocol::Ldp => ldp::shorten(session),
    }?;
    let skipped = |before: &[u8], after: &[u8]| before.len().checked_sub(after.len()).map(|n| n as u64);
    let received = skipped(&session.received, &shorter.received)?;
    let sent = skipped(&session.sent, &shorter.sent)?;
    if received + sent == 0 && shorter.turns.len() >= session.turns.len() {
        return None;
    }
    let mut tcp = session.opened.tcp.clone();
    tcp.received_skipped = tcp.received_skipped.checked_add(received)?;
    tcp.sent_skipped = tcp.sent_skipped.checked_add(sent)?;
    Some(Session { opened: Opened { tcp, ..session.opened.clone() }, acked: session.acked.clone(), ..shorter })
}

/// Places in both streams.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    received: usize,
    sent: usize,
}

/// Appends what stands between two places, in the order in which it came.
fn copy(from: &Session, to: &mut Session, begin: Place, end: Place) {
    let mut at = Place::default();
    for (sent, part) in from.parts() {
        let (at, begin, end) = if sent { (&mut at.sent, begin.sent, end.sent) } else { (&mut at.received, begin.received, end.received) };
        let (first, last) = (begin.clamp(*at, *at + part.len()), end.clamp(*at, *at + part.len()));
        to.push(sent, part.get(first - *at..last - *at).unwrap_or_default());
        *at += part.len();
    }
}

/// How many bytes had been sent when byte `received` of the other stream came.
fn sent_before(turns: &[Turn], received: usize) -> usize {
    let (mut have, mut sent) = (0, 0);
    for turn in turns {
        if turn.sent {
            sent += turn.bytes;
        } else {
            have += turn.bytes;
            if have > received {
                break;
            }
        }
    }
    sent
}
