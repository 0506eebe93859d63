//! fib.sock: several clients at once, each sending framed requests and getting one reply to each, in order.
//!
//! The event loop calls [`ControlServer::serve`] between bursts of packets: each call answers at most one request of
//! each client, so a million routes are programmed in slices of at most 512. A client is not trusted: what it may
//! keep here is bounded, one that does not read its replies is not read from, and one that breaks the framing is
//! disconnected.

use edgeplex_ff_fib_api::{Reply, Request, VERSION, encode_reply};
use edgeplex_ff_phy::moved_up;
use edgeplex_types::wire::Deframer;
use nix::poll::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Clients at once; more are refused.
const MAX_CLIENTS: usize = 16;
/// Bytes of replies that may wait for a client before its next request is taken up.
const MAX_WAITING: usize = 64 << 10;
/// Bytes read from a client at a time.
const CHUNK: usize = 32 << 10;
/// Lowest descriptors of clients and of the listener. When this process dies they end in the opposite order, and the ports' last: whoever
/// sees its connection end finds nobody listening any more, and knows of the death before the ports' rings are taken apart.
const CLIENTS: RawFd = 512;
const LISTENER: RawFd = CLIENTS + 256;

#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Client>,
    chunk: Box<[u8]>,
}

impl ControlServer {
    /// Listens at `path`, readable and writable for the owner, and the group of the directory where that is set-group-id
    /// (the CVM programs a label-switching router in a VM of another user). A socket left over by a dead process is replaced;
    /// one that somebody answers on is an error.
    pub(crate) fn bind(path: &Path) -> std::io::Result<Self> {
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(std::io::Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(std::io::Error::new(ErrorKind::AddrInUse, "another process answers there"));
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from(moved_up(listener.into(), LISTENER));
        Ok(Self { listener, path: path.to_owned(), clients: vec![], chunk: vec![0; CHUNK].into_boxed_slice() })
    }

    /// What to wait for: after any of these events, or while [`Self::has_backlog`], call [`Self::serve`].
    pub(crate) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        std::iter::once((self.listener.as_fd(), PollFlags::POLLIN)).chain(self.clients.iter().map(|c| (c.stream.as_fd(), c.interest())))
    }

    /// True while some client may have a request here that can be taken up at once.
    pub(crate) fn has_backlog(&self) -> bool {
        self.clients.iter().any(|c| c.more && c.waiting() < MAX_WAITING)
    }

    /// Accepts, reads, answers at most one request of each client, and writes; waits for nothing.
    pub(crate) fn serve(&mut self, mut answer: impl FnMut(Request) -> Reply) {
        for _ in 0..MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if self.clients.len() >= MAX_CLIENTS {
                tracing::warn!(limit = MAX_CLIENTS, "control client refused: too many");
            } else if stream.set_nonblocking(true).is_ok() {
                let stream = UnixStream::from(moved_up(stream.into(), CLIENTS));
                self.clients.push(Client { stream, input: Deframer::default(), output: vec![], sent: 0, more: true, ended: false });
            }
        }
        self.clients.retain_mut(|c| match c.step(&mut self.chunk, &mut answer) {
            Ok(open) => open,
            Err(reason) => {
                tracing::warn!(reason, "control client disconnected");
                false
            }
        });
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Deframer,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
    /// The input may hold another request, or the socket more bytes.
    more: bool,
    /// The client will send nothing more.
    ended: bool,
}

impl Client {
    fn waiting(&self) -> usize {
        self.output.len() - self.sent
    }

    fn interest(&self) -> PollFlags {
        let mut f = PollFlags::empty();
        f.set(PollFlags::POLLIN, !self.ended && self.waiting() < MAX_WAITING);
        f.set(PollFlags::POLLOUT, self.waiting() > 0);
        f
    }

    /// `Ok(false)` when the conversation has come to its end, `Err` when it must not go on.
    fn step(&mut self, chunk: &mut [u8], answer: &mut impl FnMut(Request) -> Reply) -> Result<bool, String> {
        self.flush()?;
        if self.waiting() >= MAX_WAITING {
            return Ok(true);
        }
        let mut request = self.input.next::<Request>(VERSION).map_err(|e| e.to_string())?;
        if request.is_none() && !self.ended {
            self.more = self.read(chunk)?;
            request = self.input.next(VERSION).map_err(|e| e.to_string())?;
        }
        match request {
            Some(r) => {
                self.more = true;
                let reply = r.check().map_or_else(|e| Reply::Refused { reason: e.to_string() }, |()| answer(r));
                let bytes = encode_reply(&reply).or_else(|e| encode_reply(&Reply::Refused { reason: e.to_string() }));
                self.output.extend_from_slice(&bytes.map_err(|e| e.to_string())?);
                self.flush()?;
            }
            None if self.ended => self.more = false,
            None => {}
        }
        Ok(!self.ended || self.more || self.waiting() > 0)
    }

    /// Reads once; true if there may be more to read.
    fn read(&mut self, chunk: &mut [u8]) -> Result<bool, String> {
        match self.stream.read(chunk) {
            Ok(0) => {
                self.ended = true;
                Ok(false)
            }
            Ok(n) => {
                self.input.push(&chunk[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e.to_string()),
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        while self.waiting() > 0 {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // It went away before it had read all: its own affair.
                Err(e) => return Err(e.to_string()),
            }
        }
        // A long reply leaves no memory behind.
        self.output = Vec::new();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_ff_fib_api::{FibOp, MAX_ROWS, Status, encode_request};
    use edgeplex_types::{Epoch, wire};

    fn server(dir: &tempfile::TempDir) -> (ControlServer, PathBuf) {
        let path = dir.path().join("fib.sock");
        (ControlServer::bind(&path).unwrap(), path)
    }

    fn answer(r: Request) -> Reply {
        match r {
            Request::Status => Reply::Status(Status { uptime_ms: 0, epoch: None, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 }),
            _ => Reply::Done,
        }
    }

    /// Reads what is there; `None` once the server has hung up.
    fn replies(stream: &mut UnixStream, d: &mut Deframer) -> Option<Vec<Reply>> {
        stream.set_nonblocking(true).unwrap();
        let mut b = vec![0; 1 << 20];
        match stream.read(&mut b) {
            Ok(0) => return None,
            Ok(n) => d.push(&b[..n]),
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        let mut out = vec![];
        while let Some(r) = d.next(VERSION).unwrap() {
            out.push(r);
        }
        Some(out)
    }

    #[test]
    fn each_call_answers_one_request_of_each_client_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let mut clients: Vec<_> = (0..3).map(|_| (UnixStream::connect(&path).unwrap(), Deframer::default())).collect();
        for (c, _) in &mut clients {
            c.write_all(&encode_request(&Request::Begin { epoch: Epoch(1) }).unwrap()).unwrap();
            c.write_all(&encode_request(&Request::Status).unwrap()).unwrap();
        }
        s.serve(answer);
        for (c, d) in &mut clients {
            assert_eq!(replies(c, d).unwrap(), [Reply::Done]);
        }
        assert!(s.has_backlog());
        s.serve(answer);
        s.serve(answer);
        assert!(!s.has_backlog());
        for (c, d) in &mut clients {
            assert!(matches!(replies(c, d).unwrap()[..], [Reply::Status(_)]));
        }
        drop(clients);
        s.serve(answer);
        assert!(s.clients.is_empty());
    }

    #[test]
    fn a_request_out_of_bounds_is_refused_and_garbage_ends_the_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let (mut a, mut b) = (UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap());
        a.write_all(&wire::encode_framed(VERSION, &Request::Routes { after: None, limit: MAX_ROWS + 1 }).unwrap()).unwrap();
        b.write_all(&[0xff; 100]).unwrap();
        s.serve(answer);
        assert!(matches!(&replies(&mut a, &mut Deframer::default()).unwrap()[..], [Reply::Refused { reason }] if reason.contains("limit")));
        assert!(replies(&mut b, &mut Deframer::default()).is_none());
        assert_eq!(s.clients.len(), 1);
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from_and_goes_on_when_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let mut c = UnixStream::connect(&path).unwrap();
        c.set_nonblocking(true).unwrap();
        let request = encode_request(&Request::Status).unwrap();
        let reply = || Reply::Refused { reason: "x".repeat(10_000) };
        let (mut sent, mut stuck, mut answered) = (0, 0, 0);
        while stuck < 10 {
            match c.write(&request) {
                Ok(n) => {
                    assert_eq!(n, request.len());
                    sent += 1;
                }
                Err(_) => stuck += 1,
            }
            s.serve(|_| {
                answered += 1;
                reply()
            });
        }
        assert!(answered < sent, "the socket's buffers would have to be endless");
        assert!(!s.has_backlog(), "the loop may sleep while the client does not read");
        assert!(s.clients[0].output.len() < MAX_WAITING + 20_000);
        let (mut d, mut got) = (Deframer::default(), 0);
        while got < sent {
            got += replies(&mut c, &mut d).unwrap().len();
            s.serve(|_| reply());
        }
    }

    #[test]
    fn a_client_that_closed_its_sending_half_still_gets_its_replies() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let mut c = UnixStream::connect(&path).unwrap();
        for _ in 0..3 {
            c.write_all(&encode_request(&Request::Program { epoch: Epoch(1), ops: Vec::<FibOp>::new() }).unwrap()).unwrap();
        }
        c.shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..6 {
            s.serve(answer);
        }
        assert!(s.clients.is_empty());
        assert_eq!(replies(&mut c, &mut Deframer::default()).unwrap().len(), 3);
    }

    #[test]
    fn listener_and_clients_stand_above_whatever_else_is_open() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let _client = UnixStream::connect(&path).unwrap();
        s.serve(answer);
        let client = s.clients[0].stream.as_raw_fd();
        assert!((CLIENTS..LISTENER).contains(&client) && LISTENER <= s.listener.as_raw_fd());
    }

    #[test]
    fn too_many_clients_are_refused_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (mut s, path) = server(&dir);
        let all: Vec<_> = (0..MAX_CLIENTS + 3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        s.serve(answer);
        assert_eq!(s.clients.len(), MAX_CLIENTS);
        drop(all);
        assert_eq!(ControlServer::bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(s);
        drop(UnixListener::bind(&path).unwrap());
        ControlServer::bind(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(ControlServer::bind(&path).is_err());
    }
}
