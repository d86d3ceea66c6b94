//! What becomes of the devices of one network namespace, as the kernel tells it. A socket is opened in the namespace;
//! news come out, each a device as it is at that moment. It never changes a device.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::notices::{BUFFER, Notices};

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

/// What hears of devices.
#[derive(Debug)]
pub struct Links(Notices);

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
        Notices::open(&[MulticastGroup::Link]).map(Self)
    }

    /// The news since the last call, in their order; true where some were lost because nobody listened.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn news(&self) -> io::Result<(Vec<News>, bool)> {
        let mut news = Vec::new();
        let lost = self.0.take(&mut vec![0; BUFFER], &mut |datagram| read(datagram, &mut news))?;
        Ok((news, lost))
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
