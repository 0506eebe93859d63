//! Why a command stops, and the exit code that says so.

use edgeplex_api::{ClientError, plain};
use edgeplex_intent::IntentError;
use std::{io, process::ExitCode};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nobody reads on: the pipe was closed, as by `head`.
    Unread,
    /// It was tried, and could not be done.
    Failed(String),
    /// It is wrong, or does not fit what there is; nothing was changed.
    Refused(String),
}

impl Stop {
    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Unread => return ExitCode::SUCCESS,
            Self::Failed(m) => (m, 1),
            Self::Refused(m) => (m, 2),
        };
        crate::output::note(&format!("error: {message}"));
        ExitCode::from(code)
    }
}

impl From<ClientError> for Stop {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Refused(f) => Self::Refused(f.message),
            e => Self::Failed(e.to_string()),
        }
    }
}

impl From<IntentError> for Stop {
    fn from(e: IntentError) -> Self {
        Self::Refused(e.to_string())
    }
}

/// Of writing to standard output.
impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::Failed(format!("the output: {}", plain(&e))) }
    }
}
