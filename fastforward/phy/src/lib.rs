//! Packet devices: memory, pcap, TAP, DPDK ports
