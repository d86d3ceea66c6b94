//! Sockets that see whole packets: raw ICMP, raw IPv4 with the sender's own header, and AF_PACKET capture. They
//! open in the network namespace of the calling thread and stay there; bytes go in and come out. They never block
//! and never interpret what they carry.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, recvfrom, sendto,
    setsockopt, socket, sockopt,
};

use super::filter;
use super::socket::set_buffers;

/// Queues grow to this many bytes under a burst, whatever `net.core.rmem_max` and `wmem_max` say.
const QUEUE_BYTES: usize = 8 << 20;
/// `ICMP_FILTER` of linux/icmp.h, at level `SOL_RAW`: a bit set in the mask keeps that ICMP type away.
const ICMP_FILTER: libc::c_int = 1;

/// A raw ICMP socket: sends ICMP messages under an IPv4 header that the kernel makes, with the source address
/// that the node itself chooses, and receives IPv4 packets, header included.
#[derive(Debug)]
pub struct IcmpSocket(OwnedFd);

impl IcmpSocket {
    /// Receives only the ICMP `types` given (all below 32); fragmentation is allowed (DF clear).
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_NET_RAW`.
    pub fn open(types: &[u8]) -> io::Result<Self> {
        let fd = raw(SockProtocol::Icmp)?;
        let kept = types.iter().fold(0u32, |mask, t| mask | (1 << t));
        set_int(fd.as_fd(), libc::SOL_RAW, ICMP_FILTER, i32::from_ne_bytes((!kept).to_ne_bytes()))?;
        set_int(fd.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        let socket = Self(fd);
        // Before it had the filter it heard all types.
        while socket.recv(&mut [0])?.is_some() {}
        Ok(socket)
    }

    /// Sets DF on what is sent and ignores the path MTU the kernel may have learnt: only MTUs of devices count.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_dont_fragment(&self) -> io::Result<()> {
        set_int(self.0.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }

    /// TTL of what is sent next.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_ttl(&self, ttl: u8) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::Ipv4Ttl, &i32::from(ttl))?)
    }

    /// Sends one ICMP message, checksum included.
    ///
    /// # Errors
    /// What the kernel says, `EMSGSIZE` where the first device does not take that size.
    pub fn send(&self, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        send(&self.0, to, message)
    }

    /// The next IPv4 packet, or `None` if there is none now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match pending(|| recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))? {
            Some(length) => Ok(Some(&buffer[..length])),
            None => Ok(None),
        }
    }
}

impl AsFd for IcmpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A raw IPv4 socket (`IPPROTO_RAW`): sends packets whose IPv4 header the caller made. The kernel routes by the
/// destination, fills in total length and header checksum, and lets any source pass.
#[derive(Debug)]
pub struct Ipv4Socket(OwnedFd);

impl Ipv4Socket {
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        Ok(Self(raw(SockProtocol::Raw)?))
    }

    /// Sends one IPv4 packet towards `to`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, to: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        send(&self.0, to, packet)
    }
}

/// What passes any device of a namespace, both directions, in order of time.
#[derive(Debug)]
pub struct Capture(OwnedFd);

/// One captured packet, from its network header on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Interface index in the namespace.
    pub device: usize,
    /// Sent by this namespace; false: received.
    pub outgoing: bool,
    /// EtherType.
    pub protocol: u16,
    pub bytes: &'a [u8],
}

impl Capture {
    /// Of all packets.
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        Self::of(&[(u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap_or(0), 0, 0, u32::MAX)])
    }

    /// An unbound AF_PACKET socket for all protocols: one for IPv4 alone would not see what is sent. `program` sees packets from
    /// their network header on.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(program: &[filter::Instruction]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Of no protocol yet: it hears nothing before it has its filter.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        filter::set(&fd, program)?;
        set_buffers(fd.as_fd(), QUEUE_BYTES)?;
        bind(fd.as_fd(), 0, libc::ETH_P_ALL)?;
        Ok(Self(fd))
    }

    /// Packets that passed the filter and found no room in the queue, since this was called last.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn dropped(&self) -> io::Result<u32> {
        Ok(statistics(self.0.as_fd())?.dropped)
    }

    /// The next packet, or `None` if there is none now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Frame<'a>>> {
        let received = pending(|| recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer))?;
        let Some((length, Some(from))) = received else { return Ok(None) };
        Ok(Some(Frame {
            device: from.ifindex(),
            outgoing: from.pkttype() == libc::PACKET_OUTGOING,
            protocol: u16::from_be(from.protocol()),
            bytes: &buffer[..length],
        }))
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Packets of one protocol to one address, on any Ethernet device of the namespace. Each read gives `struct virtio_net_hdr`, the Ethernet header, and a packet that may stand for several. Non-blocking.
///
/// # Errors
/// What the kernel says, `EPERM` without `CAP_NET_RAW`.
pub fn receiver(addr: Ipv4Addr, protocol: u8) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Of no protocol yet: it hears nothing before it has its filter.
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    filter::set(&fd, &arrivals(addr, protocol))?;
    set_int(fd.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    bind(fd.as_fd(), 0, libc::ETH_P_IP)?;
    Ok(fd)
}

/// A raw socket that receives packets of one protocol for any other address of the node, IP header first; those for `addr` are for
/// [`receiver`], but while this is open, the kernel does not say that nobody wants them. Non-blocking.
///
/// # Errors
/// As [`receiver`].
pub fn others(addr: Ipv4Addr, protocol: u8) -> io::Result<OwnedFd> {
    let fd = super::socket::raw(i32::from(protocol))?;
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let end = code(libc::BPF_RET | libc::BPF_K);
    let program = [
        (code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 16),
        (code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, addr.to_bits()),
        (end, 0, 0, 0),
        (end, 0, 0, u32::MAX),
    ];
    filter::set(&fd, &program)?;
    Ok(fd)
}

/// Of linux/if_packet.h, at level `SOL_PACKET`.
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_VNET_HDR: libc::c_int = 15;

/// Takes what arrives for this host on an Ethernet device or the loopback, has this protocol, and is for this address.
fn arrivals(addr: Ipv4Addr, protocol: u8) -> [filter::Instruction; 11] {
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let ancillary = |what: libc::c_int| (libc::SKF_AD_OFF + what).cast_unsigned();
    let network = |at: libc::c_int| (libc::SKF_NET_OFF + at).cast_unsigned();
    let load_byte = code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS);
    let load_half = code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
    let load_word = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let end = code(libc::BPF_RET | libc::BPF_K);
    [
        (load_byte, 0, 0, ancillary(libc::SKF_AD_PKTTYPE)),
        (equal, 0, 8, u32::from(libc::PACKET_HOST)),
        (load_half, 0, 0, ancillary(libc::SKF_AD_HATYPE)),
        (equal, 1, 0, u32::from(libc::ARPHRD_ETHER)),
        (equal, 0, 5, u32::from(libc::ARPHRD_LOOPBACK)),
        (load_byte, 0, 0, network(9)),
        (equal, 0, 3, u32::from(protocol)),
        (load_word, 0, 0, network(16)),
        (equal, 0, 1, addr.to_bits()),
        (end, 0, 0, u32::MAX),
        (end, 0, 0, 0),
    ]
}

/// Takes IPv4 packets of these lengths on any Ethernet device: bytes from the IPv4 header on, of superpackets all.
#[must_use]
pub fn ipv4_on_wires(lengths: &RangeInclusive<u32>) -> [filter::Instruction; 9] {
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let ancillary = |what: libc::c_int| (libc::SKF_AD_OFF + what).cast_unsigned();
    let load_half = code(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS);
    let jump = |test: u32| code(libc::BPF_JMP | test | libc::BPF_K);
    let end = code(libc::BPF_RET | libc::BPF_K);
    [
        (load_half, 0, 0, ancillary(libc::SKF_AD_HATYPE)),
        (jump(libc::BPF_JEQ), 0, 6, u32::from(libc::ARPHRD_ETHER)),
        (load_half, 0, 0, ancillary(libc::SKF_AD_PROTOCOL)),
        (jump(libc::BPF_JEQ), 0, 4, libc::ETH_P_IP.cast_unsigned()),
        (code(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN), 0, 0, 0),
        (jump(libc::BPF_JGE), 0, 2, *lengths.start()),
        (jump(libc::BPF_JGT), 1, 0, *lengths.end()),
        (end, 0, 0, u32::MAX),
        (end, 0, 0, 0),
    ]
}

/// What the kernel counted of a packet socket since it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Passed the filter, those that were dropped included.
    pub seen: u32,
    /// Did not fit into the socket's queue.
    pub dropped: u32,
}

#[expect(unsafe_code, reason = "nix has no PACKET_STATISTICS")]
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<Statistics> {
    let mut counts = [0u32; 2];
    let mut length = libc::socklen_t::try_from(size_of_val(&counts)).map_err(io::Error::other)?;
    let to = (&raw mut counts).cast();
    // SAFETY: `counts` is a `tpacket_stats`, two integers, and lives through the call with its length.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_PACKET, PACKET_STATISTICS, to, &raw mut length) };
    Errno::result(result)?;
    Ok(Statistics { seen: counts[0], dropped: counts[1] })
}

/// Has a packet socket receive what has this EtherType (`ETH_P_`), on device `index` or on all where it is 0.
#[expect(unsafe_code, reason = "nix cannot make a link-layer address")]
pub(super) fn bind(fd: BorrowedFd<'_>, index: u32, protocol: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    let address = link_address(index, protocol)?;
    // SAFETY: `address` lives through the call, with its length, and the kernel only reads it.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound)?;
    Ok(())
}

/// Sends frames out of one device, each with a mark. It receives nothing.
#[derive(Debug)]
pub struct Injector {
    fd: OwnedFd,
    to: libc::sockaddr_ll,
}

impl From<Injector> for OwnedFd {
    fn from(injector: Injector) -> Self {
        injector.fd
    }
}

impl Injector {
    /// Through device `index`: whole frames where it is an Ethernet device, else bare IPv4 packets.
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_NET_RAW`.
    pub fn open(index: u32, ethernet: bool, mark: u32) -> io::Result<Self> {
        let kind = if ethernet { SockType::Raw } else { SockType::Datagram };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, kind, flags, None)?;
        setsockopt(&fd, sockopt::Mark, &mark)?;
        set_buffers(fd.as_fd(), QUEUE_BYTES)?;
        // Frames of Ethernet say themselves what they are.
        let protocol = if ethernet { 0 } else { libc::ETH_P_IP };
        Ok(Self { fd, to: link_address(index, protocol)? })
    }

    /// # Errors
    /// What the kernel says.
    #[expect(unsafe_code, reason = "nix cannot make a link-layer address")]
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
        let (bytes, to) = (frame.as_ptr().cast(), (&raw const self.to).cast());
        let fd = self.fd.as_raw_fd();
        // SAFETY: `frame` and `to` live through the call, with their lengths, and the kernel only reads them.
        let sent = unsafe { libc::sendto(fd, bytes, frame.len(), libc::MSG_DONTWAIT, to, length) };
        Errno::result(sent)?;
        Ok(())
    }
}

/// A device and an EtherType.
#[expect(unsafe_code, reason = "the address has no constructor")]
fn link_address(index: u32, protocol: libc::c_int) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: a link-layer address is integers and an array of integers, valid when all zero.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
    Ok(address)
}

fn raw(protocol: SockProtocol) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Raw, flags, protocol)?;
    set_buffers(fd.as_fd(), QUEUE_BYTES)?;
    Ok(fd)
}

fn send(fd: &OwnedFd, to: Ipv4Addr, bytes: &[u8]) -> io::Result<()> {
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Turns "nothing there" into `None`, and asks again where a signal interrupted.
pub(super) fn pending<T>(mut receive: impl FnMut() -> nix::Result<T>) -> io::Result<Option<T>> {
    loop {
        match receive() {
            Ok(received) => return Ok(Some(received)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

#[expect(unsafe_code, reason = "nix has neither ICMP_FILTER nor IP_MTU_DISCOVER")]
pub(super) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: i32,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a live i32 and `length` is its size, which the kernel only reads.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    Errno::result(result)?;
    Ok(())
}
