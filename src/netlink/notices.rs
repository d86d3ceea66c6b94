//! What rtnetlink tells of one network namespace without being asked. Groups go in; datagrams come out, and whether some were
//! lost. It never reads what is in them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// A datagram of netlink is at most this long (`NLMSG_GOODSIZE` is less, `SKB_WITH_OVERHEAD(32768)`).
pub(super) const BUFFER: usize = 64 * 1024;
/// Receive buffer, bytes.
const BACKLOG: usize = 1 << 20;

/// A socket that hears.
pub(super) struct Notices(Socket);

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Notices").field(&self.0.as_raw_fd()).finish()
    }
}

impl AsFd for Notices {
    /// Readable when something was told.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Notices {
    /// Of the network namespace of the calling thread.
    pub(super) fn open(groups: &[MulticastGroup]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let buffer = BACKLOG;
        let forced = setsockopt(&socket, sockopt::RcvBufForce, &buffer);
        forced.or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &buffer))?;
        groups.iter().try_for_each(|group| socket.add_membership(*group as u32))?;
        Ok(Self(socket))
    }

    /// Hands over each datagram that waits; true where some were lost because nobody listened.
    pub(super) fn take(&self, buffer: &mut [u8], each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let mut lost = false;
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => each(&buffer[..length]),
                Err(nix::Error::ENOBUFS) => lost = true,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(lost),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
