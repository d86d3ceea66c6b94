//! Packet sockets for captures: what passes one device, both directions, each packet with the kernel's stamp. A device
//! and a filter go in; frames as the device has them come out, up to a batch with one system call. It never blocks.
#![expect(unsafe_code, reason = "recvmmsg with control messages, and getsockname")]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::filter::{self, Instruction};
use super::packet_socket::{Statistics, bind, set_int, statistics};
use super::socket::set_buffers;

/// Packets taken with one system call at most.
const BATCH: usize = 32;
/// Bytes of control messages of one packet: a stamp, `tpacket_auxdata`, and their headers.
const CONTROL: usize = 128;
/// Of linux/if_packet.h, at level `SOL_PACKET`.
const PACKET_AUXDATA: libc::c_int = 8;

/// Which way a packet went, and to whom, as the kernel saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Unicast,
    Broadcast,
    Multicast,
    /// Received, and for somebody else.
    Other,
    Sent,
}

/// A packet as it was caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught<'a> {
    /// Nanoseconds since 1970, of the machine's clock.
    pub at: u64,
    pub passage: Passage,
    /// Bytes it had; the filter may have cut it.
    pub length: u32,
    /// From its link header on, where the device has one.
    pub bytes: &'a [u8],
}

/// A capture on one device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    index: u32,
    hardware: u16,
}

impl Tap {
    /// On device `index` of the calling thread's namespace, which catches nothing before [`Self::start`].
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_NET_RAW`.
    pub fn open(index: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        bind(fd.as_fd(), index, 0)?;
        let hardware = address(fd.as_fd())?.sll_hatype;
        Ok(Self { fd, index, hardware })
    }

    /// What the device is: `ARPHRD_` of linux/if_arp.h.
    #[must_use]
    pub fn hardware(&self) -> u16 {
        self.hardware
    }

    /// Catches what `program` lets pass, from now on, in a queue of `bytes`.
    ///
    /// # Errors
    /// What the kernel says, `EINVAL` where the program is none.
    pub fn start(&self, program: &[Instruction], bytes: usize) -> io::Result<()> {
        filter::set(&self.fd, program)?;
        set_buffers(self.fd.as_fd(), bytes)?;
        setsockopt(&self.fd, sockopt::ReceiveTimestampns, &true)?;
        set_int(self.fd.as_fd(), libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        bind(self.fd.as_fd(), self.index, libc::ETH_P_ALL)
    }

    /// What has been counted since the last call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        statistics(self.fd.as_fd())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Room for a batch of packets.
#[derive(Debug)]
pub struct Net {
    bytes: Vec<u8>,
    control: Vec<[u64; CONTROL / 8]>,
    longest: usize,
}

impl Net {
    /// For packets of which at most `longest` bytes are kept.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self { bytes: vec![0; BATCH * longest], control: vec![[0; CONTROL / 8]; BATCH], longest }
    }

    /// Takes what there is, one batch at most, and hands each packet to `each`; how many there were.
    ///
    /// # Errors
    /// What the kernel says: `ENETDOWN` once when the device goes down or away.
    pub fn haul(&mut self, tap: &Tap, each: &mut dyn FnMut(Caught<'_>)) -> io::Result<usize> {
        // SAFETY: these are integers and pointers, valid when all zero.
        let (mut slices, mut from, mut messages): (
            [libc::iovec; BATCH],
            [libc::sockaddr_ll; BATCH],
            [libc::mmsghdr; BATCH],
        ) = unsafe { zeroed() };
        let buffers = self.bytes.chunks_mut(self.longest).zip(&mut self.control);
        let places = slices.iter_mut().zip(&mut from).zip(&mut messages);
        for (((slice, from), message), (buffer, control)) in places.zip(buffers) {
            *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_name = (from as *mut libc::sockaddr_ll).cast();
            message.msg_hdr.msg_namelen = socklen(size_of::<libc::sockaddr_ll>())?;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL;
        }
        let room = u32::try_from(BATCH).map_err(io::Error::other)?;
        // SAFETY: the headers point to slices, buffers, names and control messages that live through the call.
        let got = unsafe {
            libc::recvmmsg(tap.fd.as_raw_fd(), messages.as_mut_ptr(), room, libc::MSG_DONTWAIT, null_mut())
        };
        let got = match Errno::result(got) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            other => usize::try_from(other?).map_err(io::Error::other)?,
        };
        for ((message, from), bytes) in messages[..got].iter().zip(&from).zip(self.bytes.chunks(self.longest))
        {
            let length = message.msg_len;
            let bytes = &bytes[..(length as usize).min(bytes.len())];
            let (at, full) = stamps(&message.msg_hdr);
            each(Caught { at, passage: passage(from.sll_pkttype), length: full.unwrap_or(length), bytes });
        }
        Ok(got)
    }
}

fn passage(kind: u8) -> Passage {
    match kind {
        libc::PACKET_OUTGOING => Passage::Sent,
        libc::PACKET_BROADCAST => Passage::Broadcast,
        libc::PACKET_MULTICAST => Passage::Multicast,
        libc::PACKET_OTHERHOST => Passage::Other,
        _ => Passage::Unicast,
    }
}

/// When a packet passed, and how long it was (`tp_len` of `struct tpacket_auxdata`).
fn stamps(header: &libc::msghdr) -> (u64, Option<u32>) {
    let (mut at, mut full) = (0, None);
    // SAFETY: the kernel has filled in `header`, whose control messages are still there.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give whole headers within the control messages.
        let (level, kind, data) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, libc::CMSG_DATA(message)) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            // SAFETY: the data of this type is a timespec, which need not be aligned.
            let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
            let part = |value: i64| u64::try_from(value).unwrap_or(0);
            at = part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec);
        } else if (level, kind) == (libc::SOL_PACKET, PACKET_AUXDATA) {
            // SAFETY: the data of this type begins with two integers of 32 bits, the second of which is the length.
            full = Some(unsafe { data.cast::<[u32; 2]>().read_unaligned() }[1]);
        }
        // SAFETY: `header` and `message` are as above.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    (at, full)
}

fn address(fd: BorrowedFd<'_>) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: a link-layer address is integers and an array of integers, valid when all zero.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut length = socklen(size_of_val(&address))?;
    let to = (&raw mut address).cast();
    // SAFETY: `address` and `length` live through the call, and `length` is the size of `address`.
    Errno::result(unsafe { libc::getsockname(fd.as_raw_fd(), to, &raw mut length) })?;
    Ok(address)
}

fn socklen(length: usize) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(length).map_err(io::Error::other)
}
