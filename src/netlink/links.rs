//! What becomes of the devices of one network namespace, as the kernel tells it. A socket is opened in the namespace;
//! news come out, each a device as it is at that moment. It never changes a device.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

/// A datagram of notifications is at most this long (`NLMSG_GOODSIZE` is less).
const BUFFER: usize = 64 * 1024;
/// Receive buffer, bytes.
const BACKLOG: usize = 1 << 20;

/// A device that is there, was changed, or has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub index: u32,
    pub name: String,
    /// Set up, by whoever administers it.
    pub up: bool,
    /// Up, and its other end too as far as it can tell: packets pass.
    pub running: bool,
    pub gone: bool,
}

/// A netlink socket that hears of devices.
pub struct Links(Socket);

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Links").field(&self.0.as_raw_fd()).finish()
    }
}

impl AsFd for Links {
    /// Readable when there are news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Links {
    /// Of the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel refuses a socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let buffer = BACKLOG;
        let forced = setsockopt(&socket, sockopt::RcvBufForce, &buffer);
        forced.or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &buffer))?;
        socket.add_membership(MulticastGroup::Link as u32)?;
        Ok(Self(socket))
    }

    /// The news since the last call, in their order; true where some were lost because nobody listened.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn news(&self) -> io::Result<(Vec<News>, bool)> {
        let (mut news, mut lost, mut buffer) = (Vec::new(), false, vec![0; BUFFER]);
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => read(&buffer[..length], &mut news),
                Err(nix::Error::ENOBUFS) => lost = true,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok((news, lost)),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The devices that the namespace of the calling thread has now.
///
/// # Errors
/// What the kernel says.
pub fn present() -> io::Result<Vec<News>> {
    let mut found: BTreeMap<String, News> = BTreeMap::new();
    // Each device comes once for each of its addresses.
    for address in getifaddrs()? {
        let name = address.interface_name;
        let Ok(index) = if_nametoindex(name.as_str()) else { continue };
        let up = address.flags.contains(InterfaceFlags::IFF_UP);
        let running = address.flags.contains(InterfaceFlags::IFF_RUNNING);
        found.insert(name.clone(), News { index, name, up, running, gone: false });
    }
    Ok(found.into_values().collect())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enums are open; only devices count")]
fn read(datagram: &[u8], news: &mut Vec<News>) {
    let mut rest = datagram;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                news.extend(as_news(&link, false))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                news.extend(as_news(&link, true))
            }
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; only the name counts")]
fn as_news(link: &LinkMessage, gone: bool) -> Option<News> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = link.header.flags;
    Some(News {
        index: link.header.index,
        name,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        gone,
    })
}
