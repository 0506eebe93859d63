//! BGP over TCP: the tokio driver of `edgeplex-bgp`.
