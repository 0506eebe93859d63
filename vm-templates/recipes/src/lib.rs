//! What goes into the root of a VM, named by content
