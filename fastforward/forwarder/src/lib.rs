//! FastForward: the forwarding process of a port VM
