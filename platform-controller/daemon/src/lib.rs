//! edgeplexd: the platform controller daemon
