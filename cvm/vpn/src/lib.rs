//! VPN RIB of the control VM: import and export by route target, label space, next-hop resolution
