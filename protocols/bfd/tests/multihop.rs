//! Sessions over several hops (RFC 5883), whose packets anybody may send in the neighbour's name.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_bfd::{
    Action, Bfd, Key, Parameters, Why,
    packet::{Control, Diagnostic, State},
};
use std::{net::IpAddr, time::Duration};

fn packet(state: State, your_discriminator: u32) -> Control {
    Control {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 77,
        your_discriminator,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 100_000,
        required_min_echo_rx_us: 0,
    }
}

#[test]
fn only_who_knows_our_discriminator_ends_a_session_that_is_up() {
    let (peer, local, elsewhere): (IpAddr, IpAddr, IpAddr) = ([10, 0, 9, 2].into(), [10, 0, 0, 1].into(), [10, 0, 0, 5].into());
    let key = Key { peer, local, interface: None };
    let mut bfd = Bfd::new(1);
    let ms = Duration::from_millis;
    bfd.add(ms(0), &key, "bgp", Parameters::new(ms(100), 3).unwrap());
    let ours = bfd.views(ms(0))[0].local_discriminator;

    bfd.receive(ms(1), peer, elsewhere, None, &packet(State::Down, 0));
    assert_eq!(bfd.views(ms(1))[0].packets_received, 0, "to another address of ours");
    bfd.receive(ms(1), peer, local, None, &packet(State::Down, 0));
    bfd.receive(ms(2), peer, local, None, &packet(State::Up, ours));
    assert!(bfd.is_up(&key));

    for state in [State::Down, State::AdminDown] {
        assert!(!bfd.receive(ms(3), peer, local, None, &packet(state, 0)).contains(&Action::Down(key.clone(), Why::NeighborDown)));
        bfd.receive(ms(3), peer, elsewhere, None, &packet(state, ours));
        assert!(bfd.is_up(&key), "{state:?}");
    }

    // A neighbour that begins anew is missed, and then heard.
    let mut now = ms(3);
    let mut out = vec![];
    while bfd.is_up(&key) && now < ms(1000) {
        now += ms(50);
        bfd.receive(now, peer, local, None, &packet(State::Down, 0));
        out.extend(bfd.timer(now));
    }
    assert!(out.contains(&Action::Down(key.clone(), Why::Expired)), "{out:?}");
    bfd.receive(now, peer, local, None, &packet(State::Down, 0));
    assert_eq!(bfd.views(now)[0].state, State::Init);

    // The neighbour's own word counts at once.
    bfd.receive(now, peer, local, None, &packet(State::Up, ours));
    let out = bfd.receive(now, peer, local, None, &packet(State::Down, ours));
    assert!(out.contains(&Action::Down(key, Why::NeighborDown)), "{out:?}");
}
