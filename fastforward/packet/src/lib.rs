//! Length-checked views of Ethernet, ARP, MPLS, IPv4, ICMP
