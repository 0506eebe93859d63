//! Switch driver: OpenFlow 1.3 and OVSDB to Open vSwitch
