//! LSP ping and traceroute (RFC 8029): codec, requester and responder without IO.
