//! Drivers shared by the daemons: BGP over TCP, relay over ZeroMQ, management socket
