//! BGP-4 message codec (RFC 4271, 4760, 4364, 7606)
