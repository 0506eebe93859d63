//! A ZeroMQ socket in tokio.
//!
//! ZMQ_FD is edge-triggered and says only "something happened": after every wake the socket itself is asked, and
//! it is asked before every wait, because any operation on the socket may have consumed the edge.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use tokio::io::{Interest, unix::AsyncFd};
use zmq::{DONTWAIT, Message, Socket};

#[derive(Debug)]
struct EventFd(RawFd);

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

pub(super) struct AsyncSocket {
    // Deregisters from the reactor before the socket closes its descriptor: fields drop in this order.
    events: AsyncFd<EventFd>,
    socket: Socket,
}

impl AsyncSocket {
    pub(super) fn new(socket: Socket) -> Result<Self, super::TransportError> {
        let fd = EventFd(socket.get_fd()?);
        // SAFETY: the descriptor belongs to `socket`, which keeps the same one open until it is dropped. `EventFd` never
        // leaves this struct, whose fields drop in order: the registration first, then the socket.
        let events = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(std::io::Error::from)?;
        Ok(Self { events, socket })
    }

    pub(super) fn get(&self) -> &Socket {
        &self.socket
    }

    /// The next message, all its frames. Frames beyond `max` are read and dropped, and the count returned is the
    /// true one. Cancel-safe: ZeroMQ hands over multi-part messages whole.
    pub(super) async fn recv(&mut self, max: usize) -> Result<(Vec<Message>, usize), zmq::Error> {
        loop {
            if let Some(whole) = self.try_recv(max)? {
                return Ok(whole);
            }
            match self.events.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return Err(zmq::Error::ETERM),
            }
        }
    }

    fn try_recv(&self, max: usize) -> Result<Option<(Vec<Message>, usize)>, zmq::Error> {
        let mut frames = vec![];
        let mut count = 0;
        loop {
            match self.socket.recv_msg(DONTWAIT) {
                Ok(frame) => {
                    count += 1;
                    let more = frame.get_more();
                    if frames.len() < max {
                        frames.push(frame);
                    }
                    if !more {
                        return Ok(Some((frames, count)));
                    }
                }
                Err(zmq::Error::EINTR) => {}
                Err(zmq::Error::EAGAIN) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

impl std::fmt::Debug for AsyncSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncSocket").field("fd", &self.events.get_ref().0).finish()
    }
}
