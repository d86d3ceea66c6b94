//! Raw IPv4 sockets of one link. A protocol, a device and the addresses of its ends go in; payloads leave by that
//! device alone, and whole packets that came in by it come out. It never blocks and never interprets what it carries.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{MsgFlags, SockaddrIn, bind, recv, sendto, setsockopt, sockopt};

use super::packet_socket::{pending, set_int};
use super::socket::raw;

/// A raw socket of one IP protocol, bound to one device of the namespace of the thread that opens it.
#[derive(Debug)]
pub struct LinkSocket {
    fd: OwnedFd,
    peer: SockaddrIn,
}

impl LinkSocket {
    /// Sends with this TTL, DF clear: the kernel fragments what is larger than the device's MTU. The device may be down.
    ///
    /// # Errors
    /// What the kernel says: `ENODEV` where there is no such device, `EPERM` without `CAP_NET_RAW`.
    pub fn open(protocol: u8, dev: &str, local: Ipv4Addr, peer: Ipv4Addr, ttl: u8) -> io::Result<Self> {
        let fd = raw(i32::from(protocol))?;
        setsockopt(&fd, sockopt::BindToDevice, &dev.into())?;
        setsockopt(&fd, sockopt::Ipv4Ttl, &i32::from(ttl))?;
        // The address of a device that is down is no address of the node.
        setsockopt(&fd, sockopt::IpFreebind, &true)?;
        set_int(fd.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(local, 0)))?;
        Ok(Self { fd, peer: SockaddrIn::from(SocketAddrV4::new(peer, 0)) })
    }

    /// Sends a payload to the peer, under a header that the kernel makes.
    ///
    /// # Errors
    /// What the kernel says, `ENETUNREACH` where the device is down.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), payload, &self.peer, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The next packet that came in by the device for the local address, reassembled, header included; `None` if there
    /// is none now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a mut [u8]>> {
        match pending(|| recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))? {
            Some(len) => Ok(Some(&mut buffer[..len])),
            None => Ok(None),
        }
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
