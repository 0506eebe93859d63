//! Frames, first words and whole files of a journal; whatever is read may be shortened and written again.
#![no_main]

use edgeplex_journal::{Frames, Hello, Opened, Protocol, Record, SessionId, State, TcpOpened, Welcome};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

/// A session that said this is the same session after it was shortened.
fn shorten(protocol: Protocol, received: &[u8], sent: &[u8]) {
    let id = SessionId(1);
    let (Ok(local), Ok(remote)) = ("192.0.2.1:179".parse(), "192.0.2.2:1024".parse()) else { return };
    let opened = Opened { protocol, local, remote, passive: true, tcp: TcpOpened::default() };
    let mut state = State::new(LIMIT);
    let acked = Record::Acked { session: id, sent: sent.len() as u64, window: vec![], timestamp: 0, at_ms: 0 };
    let records = [Record::Open(id, Box::new(opened)), Record::Sent(id, sent.to_vec()), Record::Received(id, received.to_vec()), acked];
    if records.iter().try_for_each(|r| state.apply(r)).is_err() {
        return;
    }
    let before = state.bytes();
    state.shorten();
    assert!(state.bytes() <= before);
    let mut again = State::new(LIMIT);
    assert!(state.records().try_for_each(|r| again.apply(&r)).is_ok());
    assert_eq!(again.sessions(), state.sessions());
}

fuzz_target!(|data: &[u8]| {
    let _ = Hello::read(data);
    let _ = Welcome::read(data);
    Frames::new(data).for_each(drop);
    if let Ok(mut state) = State::from_file(data, LIMIT) {
        state.shorten();
        let file = state.clone().checkpoint();
        assert!(file.is_ok_and(|file| State::from_file(&file, LIMIT).is_ok_and(|again| again.values() == state.values())));
    }
    if let Some((at, rest)) = data.split_first() {
        let (received, sent) = rest.split_at((usize::from(*at) * 16).min(rest.len()));
        shorten(Protocol::Bgp, received, sent);
        shorten(Protocol::Ldp, received, sent);
    }
});
