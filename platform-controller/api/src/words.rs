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
        _ => without_numbers(&error.to_string()),
    }
}

/// A text that holds errors of the system, without their numbers.
pub fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    // What follows the number.
    out.extend(parts.map(|part| part.split_once(')').map_or("", |(_, rest)| rest)));
    out
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
        let text = "192.0.2.1:7443: Connection refused (os error 111); TLS: Broken pipe (os error 32)";
        assert_eq!(without_numbers(text), "192.0.2.1:7443: Connection refused; TLS: Broken pipe");
    }
}
