//! Why a device cannot be had or went away.

/// Failures of opening or configuring a device; what goes wrong with single frames is only counted.
#[derive(Debug, thiserror::Error)]
pub enum PhyError {
    #[error("`{0}` is not an interface name: 1 to 15 bytes without space, `/` or `,` are")]
    Name(String),
    #[error("{what} {device}: {source}")]
    Os { what: &'static str, device: String, source: std::io::Error },
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("interface {0} was deleted or replaced by another of its name")]
    Gone(String),
    #[error("{what} failed: {reason}")]
    Dpdk { what: String, reason: String },
    #[error("{field} is {got}: must be {right}")]
    Config { field: &'static str, got: usize, right: &'static str },
    #[error("DPDK is running in this process already and cannot be started twice")]
    Twice,
    #[error("pcap file: {0}")]
    Pcap(&'static str),
    #[error("pcap file: {0}")]
    PcapIo(#[from] std::io::Error),
}

impl PhyError {
    pub(crate) fn os(what: &'static str, device: &str, source: std::io::Error) -> Self {
        Self::Os { what, device: device.to_owned(), source }
    }
}
