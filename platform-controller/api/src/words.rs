//! What the operating system says, in words for people.

use std::io::{Error, ErrorKind};

/// An error without its number.
pub fn plain(error: &Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "is not there".into(),
        ErrorKind::PermissionDenied => "may not be read or written".into(),
        ErrorKind::AlreadyExists => "is there already".into(),
        ErrorKind::IsADirectory => "is a directory".into(),
        ErrorKind::NotADirectory => "leads through something that is no directory".into(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "there is no space left".into(),
        ErrorKind::ReadOnlyFilesystem => "is on a file system that cannot be written".into(),
        _ => {
            let text = error.to_string();
            text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_the_system_is_shown() {
        for number in 1..=133 {
            assert!(!plain(&Error::from_raw_os_error(number)).contains("os error"), "{number}");
        }
        assert_eq!(plain(&Error::from_raw_os_error(8)), "Exec format error");
        assert_eq!(plain(&Error::other("of ours")), "of ours");
    }
}
