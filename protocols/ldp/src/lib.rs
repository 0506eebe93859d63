//! Sans-IO LDP engine (RFC 5036).
