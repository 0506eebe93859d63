//! Sans-IO BFD engine (RFC 5880).
