//! What anybody on a link, or several hops away, may send to a BFD port.
#![no_main]
use edgeplex_bfd::{Bfd, Key, Parameters, packet::Control};
use std::time::Duration;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let key = Key { peer: [10, 0, 0, 2].into(), local: [10, 0, 0, 1].into(), interface: None };
    let parameters = Parameters::new(Duration::from_millis(100), 3).expect("in range");
    let mut bfd = Bfd::new(1);
    let mut now = Duration::from_secs(1);
    bfd.add(now, &key, "fuzz", parameters);
    let ours = bfd.views(now)[0].local_discriminator;
    for chunk in bytes.chunks(25) {
        let (pause, packet) = chunk.split_first().expect("chunks are not empty");
        now += Duration::from_millis(u64::from(*pause) * 4);
        if bfd.deadline().is_some_and(|t| t <= now) {
            bfd.timer(now);
        }
        if let Ok(mut packet) = Control::decode(packet) {
            assert_eq!(Control::decode(&packet.encode()), Ok(packet));
            if packet.your_discriminator & 1 == 1 {
                packet.your_discriminator = ours;
            }
            bfd.receive(now, key.peer, key.local, None, &packet);
        }
        bfd.views(now);
        assert!(bfd.deadline().is_some(), "a session always has something to do");
    }
});
