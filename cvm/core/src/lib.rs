//! The core side of a platform: routes, labels, neighbours and BFD in; tunnels, incoming label map and kernel routes out.
