//! Desired state on disk
