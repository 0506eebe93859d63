//! The states of a session (RFC 5036 §2.5.4).

/// State of a session (RFC 5036 §2.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    NonExistent,
    Initialized,
    OpenRec,
    OpenSent,
    Operational,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::NonExistent => "non-existent",
            Self::Initialized => "initialized",
            Self::OpenRec => "open-rec",
            Self::OpenSent => "open-sent",
            Self::Operational => "operational",
        }
    }
}
