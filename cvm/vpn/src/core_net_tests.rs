use super::*;

fn ip(s: &str) -> Ipv4Addr {
    s.parse().unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn interface(n: u8, address: &str) -> CoreInterface {
    CoreInterface { name: format!("core{n}"), mac: mac(n), address: address.parse().unwrap() }
}

fn route(prefix: &str, via: &str) -> CoreRoute {
    CoreRoute { prefix: prefix.parse().unwrap(), via: ip(via) }
}

fn at(n: u8, address: &str) -> Neighbor {
    Neighbor { interface: format!("core{n}"), address: ip(address) }
}

fn net() -> CoreNet {
    let mut c = CoreNet::default();
    let interfaces = [interface(0, "10.0.0.1/24"), interface(1, "10.0.1.1/24")];
    let routes = [route("10.255.0.0/16", "10.0.0.9"), route("10.255.0.2/32", "10.0.1.2"), route("172.16.0.0/12", "192.0.2.1")];
    c.configure(ip("10.255.0.1"), &interfaces, &routes);
    c
}

#[test]
fn the_longest_match_decides_and_gateways_must_be_connected() {
    let c = net();
    assert_eq!(c.adjacency(ip("10.255.0.2")), Some(at(1, "10.0.1.2")));
    assert_eq!(c.adjacency(ip("10.255.0.3")), Some(at(0, "10.0.0.9")));
    assert_eq!(c.adjacency(ip("10.0.1.77")), Some(at(1, "10.0.1.77")));
    assert_eq!(c.adjacency(ip("10.0.1.1")), None);
    assert_eq!(c.adjacency(ip("172.16.0.1")), None);
    assert_eq!(c.adjacency(ip("8.8.8.8")), None);
}

#[test]
fn a_tunnel_is_up_while_its_neighbor_is_resolved() {
    let mut c = net();
    let remote = ip("10.255.0.2");
    c.want(remote);
    assert_eq!(c.tunnel(remote), None);
    assert!(c.wanted().contains(&at(1, "10.0.1.2")));
    assert_eq!(c.neighbor(at(1, "10.0.1.2"), Some(mac(9))), vec![remote]);
    let tunnel = c.tunnel(remote).unwrap();
    assert_eq!((tunnel.id, tunnel.source_mac, tunnel.destination_mac), (TunnelId(0x0aff_0002), mac(1), mac(9)));
    assert_eq!(c.neighbor(at(1, "10.0.1.2"), Some(mac(9))), Vec::<Ipv4Addr>::new());
    assert_eq!(c.neighbor(at(1, "10.0.1.2"), Some(mac(8))), vec![remote]);
    // A broadcast or multicast address is nobody's.
    assert_eq!(c.neighbor(at(1, "10.0.1.2"), Some(MacAddr::BROADCAST)), vec![remote]);
    assert_eq!(c.tunnel(remote), None);
    c.unwant(remote);
    assert!(!c.is_wanted(remote));
}

#[test]
fn the_tunnel_to_ourselves_goes_to_our_own_mac() {
    let c = net();
    let own = c.tunnel(ip("10.255.0.1")).unwrap();
    assert_eq!((own.source_mac, own.destination_mac), (mac(0), mac(0)));
}

#[test]
fn a_changed_route_moves_the_tunnel() {
    let mut c = net();
    let remote = ip("10.255.0.2");
    c.want(remote);
    c.neighbor(at(0, "10.0.0.9"), Some(mac(20)));
    c.neighbor(at(1, "10.0.1.2"), Some(mac(21)));
    let interfaces = [interface(0, "10.0.0.1/24")];
    assert_eq!(c.configure(ip("10.255.0.1"), &interfaces, &[route("10.255.0.0/16", "10.0.0.9")]), vec![remote]);
    assert_eq!(c.tunnel(remote).unwrap().destination_mac, mac(20));
    assert_eq!(c.resolved().into_keys().collect::<Vec<_>>(), vec![at(0, "10.0.0.9")]);
}
