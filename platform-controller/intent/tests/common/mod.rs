//! One platform with one customer.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use edgeplex_intent::{Allocations, Intent, IntentError, allocate, parse, validate};

pub const PLATFORM: &str = "
apiVersion: edgeplex/v1
kind: Platform
metadata: {name: denver}
spec:
  asn: 65000
  loopback: 10.255.0.1
  core: [{port: eth1, address: 10.0.0.1/24, mtu: 1600}]
  coreRoutes: [{prefix: 10.255.0.9/32, via: 10.0.0.9}]
  routeReflectors: [{address: 10.255.0.9}]
  access: [eth2, eth3]
  labels: {first: 1000, last: 1999}
";

pub const ACME: &str = "
apiVersion: edgeplex/v1
kind: Customer
metadata: {name: acme}
spec:
  vpn: {import: ['65000:100'], export: ['65000:100']}
  attachments:
    - name: denver-1
      port: eth2
      vlan: 100
      address: 192.168.1.1/30
      rd: '65000:1001'
      label: 1000
      bgp: {neighbor: 192.168.1.2, remoteAs: 65101, maxPrefix: 1000}
      static: [{prefix: 10.9.0.0/16, via: 192.168.1.2}]
";

/// What applying `text` to `intent` makes of it, as the controller does it.
pub fn apply(intent: &Intent, text: &str) -> Result<Intent, IntentError> {
    let new = intent.apply(parse(text)?)?;
    let allocations = allocate(&new, &Allocations::new())?;
    validate(&new, &allocations)?;
    Ok(new)
}

pub fn started() -> Intent {
    apply(&Intent::default(), &format!("{PLATFORM}---{ACME}")).unwrap()
}

/// `ACME` by another name, with what attachments may not share made different by `n`.
pub fn another(name: &str, n: u16) -> String {
    ACME.replace("acme", name)
        .replace("vlan: 100", &format!("vlan: {}", 100 + n))
        .replace("65000:1001", &format!("65000:{}", 1001 + n))
        .replace("label: 1000", &format!("label: {}", 1000 + n))
}
