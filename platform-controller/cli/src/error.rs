//! Why a command stops, and the exit code that says so.

use edgeplex_api::ClientError;
use edgeplex_intent::IntentError;
use std::{io, process::ExitCode};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nobody reads on: the pipe was closed, as by `head`.
    Unread,
    Failed(String),
    /// The input is wrong; nothing was changed.
    Invalid(String),
}

impl Stop {
    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Unread => return ExitCode::SUCCESS,
            Self::Failed(m) => (m, 1),
            Self::Invalid(m) => (m, 2),
        };
        crate::output::note(&format!("error: {message}"));
        ExitCode::from(code)
    }
}

impl From<ClientError> for Stop {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Invalid(f) => Self::Invalid(f.message),
            e => Self::Failed(e.to_string()),
        }
    }
}

impl From<IntentError> for Stop {
    fn from(e: IntentError) -> Self {
        Self::Invalid(e.to_string())
    }
}

/// Of writing to standard output.
impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe { Self::Unread } else { Self::Failed(format!("writing the output: {e}")) }
    }
}
