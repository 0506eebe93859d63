//! VM runtimes: sandbox
