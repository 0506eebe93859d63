//! Sans-IO OSPFv2 engine (RFC 2328).
