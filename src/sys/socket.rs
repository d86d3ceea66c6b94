//! Raw IPv4 sockets and their batches. Buffers and addresses go in, counts and `io::Result` come out. It never
//! keeps a pointer beyond a call. A socket belongs to the network namespace of the thread that opens it.
#![expect(unsafe_code, reason = "recvmmsg, sendmmsg and getsockopt with arrays of pointers")]

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use nix::sys::socket::{SockaddrIn, bind, setsockopt, sockopt};

/// `MSG_DONTWAIT` as recvmmsg(2) and sendmmsg(2) take it, which musl declares as unsigned.
#[cfg(not(target_env = "musl"))]
const DONT_WAIT: libc::c_int = libc::MSG_DONTWAIT;
#[cfg(target_env = "musl")]
const DONT_WAIT: libc::c_uint = libc::MSG_DONTWAIT.cast_unsigned();

/// Packets moved by one system call at most.
pub const BATCH: usize = 64;

/// Index of the drop count in what `SO_MEMINFO` gives (`SK_MEMINFO_DROPS`), and the number of values.
const MEMINFO_DROPS: usize = 8;
const MEMINFO_VARS: usize = 9;

/// A non-blocking raw socket that receives every packet of `protocol` that is for the node, reassembled, IP header
/// first.
///
/// # Errors
/// Without `CAP_NET_RAW`.
pub fn raw(protocol: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the arguments are plain integers.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A non-blocking raw socket whose packets bring their own IP header (`IPPROTO_RAW`); routes are chosen as for
/// packets from `local`.
///
/// # Errors
/// Without `CAP_NET_RAW`, or if `local` is no address of the node.
pub fn raw_sender(local: Ipv4Addr) -> io::Result<OwnedFd> {
    let fd = raw(libc::IPPROTO_RAW)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(local, 0)))?;
    Ok(fd)
}

/// Asks for buffers of this many bytes beyond the machine's limit, or up to it where that is not allowed.
///
/// # Errors
/// If neither is possible.
pub fn set_buffers(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    setsockopt(&fd, sockopt::RcvBufForce, &bytes).or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &bytes))?;
    setsockopt(&fd, sockopt::SndBufForce, &bytes).or_else(|_| setsockopt(&fd, sockopt::SndBuf, &bytes))?;
    Ok(())
}

/// Packets that the kernel dropped since the socket was opened because its receive buffer was full; wraps.
///
/// # Errors
/// If the kernel does not know `SO_MEMINFO` (Linux before 4.12).
pub fn overruns(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut values = [0u32; MEMINFO_VARS];
    let mut len = u32::try_from(size_of_val(&values)).map_err(io::Error::other)?;
    let to = (&raw mut values).cast();
    // SAFETY: `values` and `len` live through the call and `len` is the size of `values`.
    if unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(values[MEMINFO_DROPS])
}

/// Receives up to [`BATCH`] packets, one into each buffer, and notes each one's length in `lens`. Gives how many.
///
/// # Errors
/// `WouldBlock` where there is none.
pub fn receive<'a>(
    fd: BorrowedFd<'_>,
    buffers: impl Iterator<Item = &'a mut [u8]>,
    lens: &mut [usize; BATCH],
) -> io::Result<usize> {
    // SAFETY: iovec and mmsghdr are integers and pointers, valid when all zero.
    let (mut slices, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) = unsafe { zeroed() };
    let mut room = 0;
    for ((slice, message), buffer) in slices.iter_mut().zip(&mut messages).zip(buffers) {
        *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_hdr.msg_iov = slice;
        message.msg_hdr.msg_iovlen = 1;
        room += 1;
    }
    // SAFETY: the first `room` headers point to slices and buffers that are borrowed through the call.
    let got = unsafe { libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), room, DONT_WAIT, null_mut()) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    for (len, message) in lens.iter_mut().zip(&messages[..got]) {
        *len = message.msg_len as usize;
    }
    Ok(got)
}

/// Sends up to [`BATCH`] packets, each to its address; stops at the first that the kernel refuses. Gives how many
/// were sent.
///
/// # Errors
/// If the first one is refused, with its error.
pub fn send<'a>(
    fd: BorrowedFd<'_>,
    packets: impl Iterator<Item = (&'a [u8], Ipv4Addr)>,
) -> io::Result<usize> {
    // SAFETY: iovec, sockaddr_in and mmsghdr are integers and pointers, valid when all zero.
    let (mut slices, mut names, mut messages): (
        [libc::iovec; BATCH],
        [libc::sockaddr_in; BATCH],
        [libc::mmsghdr; BATCH],
    ) = unsafe { zeroed() };
    let mut count = 0;
    let places = slices.iter_mut().zip(&mut names).zip(&mut messages);
    for (((slice, name), message), (packet, to)) in places.zip(packets) {
        *slice = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
        *name = *SockaddrIn::from(SocketAddrV4::new(to, 0)).as_ref();
        message.msg_hdr.msg_iov = slice;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_name = (name as *mut libc::sockaddr_in).cast();
        message.msg_hdr.msg_namelen = NAME_LEN;
        count += 1;
    }
    // SAFETY: the first `count` headers point to slices, names and packets that live through the call, and
    // sending only reads them.
    let sent = unsafe { libc::sendmmsg(fd.as_fd().as_raw_fd(), messages.as_mut_ptr(), count, DONT_WAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
const NAME_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
