//! Connecting to a socket in a VM's run directory. A VM is hostile: there may be a symlink or a pipe instead of a socket.

use nix::{
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};
use std::{fmt, io, os::fd::AsRawFd, path::Path};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

/// What a [`Stream`] is made of.
pub trait Channel: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> Channel for T {}

/// A connection to a process in a VM, on this host or another.
pub type Stream = Box<dyn Channel>;

/// Whether it is a name in a directory, and not a way out of it.
pub fn is_file_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Connects to the socket called `name` in `dir`, and to nothing that it might lead to.
pub async fn open_socket(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let path = dir.join(name);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    if !is_file_name(name) {
        return Err(named(io::ErrorKind::InvalidInput.into()));
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let held = open(&path, flags, Mode::empty()).map_err(|e| named(e.into()))?;
    let kind = SFlag::from_bits_truncate(fstat(&held)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFSOCK {
        return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "is no socket")));
    }
    // Leads to what is held and nowhere else. Also beats the 108 bytes of sun_path.
    UnixStream::connect(format!("/proc/self/fd/{}", held.as_raw_fd())).await.map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::{fs::symlink, net::UnixListener};

    #[tokio::test]
    async fn a_symlink_leads_nowhere_and_a_name_not_out() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let listener = UnixListener::bind(dir.path().join("secret.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        symlink(dir.path().join("secret.sock"), run.join("mgmt.sock")).unwrap();
        std::fs::write(run.join("file"), "").unwrap();
        for name in ["mgmt.sock", "file"] {
            assert!(open_socket(&run, name).await.unwrap_err().to_string().contains("is no socket"));
        }
        for name in ["../secret.sock", "", ".", "..", "a/b", "missing"] {
            assert!(open_socket(&run, name).await.is_err(), "{name}");
        }
        assert!(listener.accept().is_err(), "nobody came");
        open_socket(dir.path(), "secret.sock").await.unwrap();
        assert!(listener.accept().is_ok());
    }
}
