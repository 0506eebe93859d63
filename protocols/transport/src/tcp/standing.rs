//! A connection that stands in a journal: counted along while its records are replayed, until it is made again here.

use super::{Restore, restore};
use crate::journal::Journal;
use edgeplex_journal::{Opened, Progress, Record};
use std::{io, net::TcpStream};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) progress: Progress,
    /// When we heard the last [`Record::Acked`], or else the open.
    told: Instant,
    /// Why it cannot be taken over.
    broken: Option<String>,
}

/// How its packets leave and come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How<'a> {
    /// TCP MD5 (RFC 2385).
    pub(crate) password: Option<&'a str>,
    /// TTL or hop limit of our packets, and the least that is accepted (RFC 5082).
    pub(crate) ttl: u32,
    pub(crate) least_ttl: Option<u8>,
}

impl Standing {
    pub(crate) fn new(opened: &Opened) -> Self {
        Self { progress: Progress::new(opened), told: Instant::now(), broken: None }
    }

    /// Counts one of its records along.
    pub(crate) fn apply(&mut self, record: &Record) {
        if let Err(error) = self.progress.apply(record) {
            self.broken.get_or_insert_with(|| format!("its journal is wrong: {error}"));
        }
        // What else is heard says nothing of how old the timestamp is.
        if matches!(record, Record::Acked { .. }) {
            self.told = Instant::now();
        }
    }

    /// Makes it again. How many of [`Progress::unacknowledged`] the socket has taken comes with it.
    pub(crate) fn restore(&self, how: How<'_>, journal: &Journal) -> io::Result<(TcpStream, usize)> {
        if let Some(reason) = &self.broken {
            return Err(io::Error::other(reason.clone()));
        }
        let How { password, ttl, least_ttl } = how;
        let (now_ms, age) = (journal.past_now_ms(), self.told.elapsed());
        restore(&Restore { progress: &self.progress, now_ms, age, password, ttl: Some(ttl), least_ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_journal::{Protocol, SessionId, TcpOpened};
    use std::time::Duration;

    #[test]
    fn only_an_acknowledgement_tells_of_the_timestamp() {
        let local = "10.0.0.1:646".parse().unwrap();
        let opened = Opened { protocol: Protocol::Ldp, local, remote: local, passive: true, tcp: TcpOpened::default() };
        let (mut standing, id) = (Standing::new(&opened), SessionId(1));
        let long_ago = standing.told.checked_sub(Duration::from_secs(50)).unwrap();
        standing.told = long_ago;
        standing.apply(&Record::Received(id, vec![1]));
        standing.apply(&Record::Sent(id, vec![1]));
        assert_eq!(standing.told, long_ago);
        standing.apply(&Record::Acked { session: id, sent: 1, window: vec![], timestamp: 7, at_ms: 0 });
        assert!(standing.told > long_ago && standing.broken.is_none());
        standing.apply(&Record::Acked { session: id, sent: 9, window: vec![], timestamp: 7, at_ms: 0 });
        assert!(standing.broken.is_some());
    }
}
