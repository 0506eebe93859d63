//! cvmd: the control VM daemon
