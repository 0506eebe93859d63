//! Two-level FIB: longest-prefix match, cuckoo hash, tunnels, adjacencies
