//! pvmd: the port VM daemon
