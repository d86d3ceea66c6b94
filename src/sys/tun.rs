//! TUN devices. A device name goes in, a descriptor that reads and writes packets comes out. It never
//! gives a device an address, an MTU or its state. A device belongs to the network namespace of the thread that
//! opens it.
#![expect(unsafe_code, reason = "the ioctls of /dev/net/tun")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Longest device name, bytes (`IFNAMSIZ` less the final zero).
pub const MAX_NAME: usize = libc::IFNAMSIZ - 1;

mod request {
    nix::ioctl_write_ptr_bad!(set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_persist, libc::TUNSETPERSIST);
    nix::ioctl_read_bad!(get_iff, libc::TUNGETIFF, libc::ifreq);
    nix::ioctl_write_ptr!(set_carrier, b'T', 226, libc::c_int);
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));
}

/// What a reader can take, of linux/if_tun.h: unfinished checksums, TCP over IPv4, also with ECN, and UDP to be cut. The kernel
/// knows the last for both versions of IP together.
const TUN_F_CSUM: libc::c_int = 0x01;
const TUN_F_TSO4: libc::c_int = 0x02;
const TUN_F_TSO_ECN: libc::c_int = 0x08;
const TUN_F_USO4: libc::c_int = 0x20;
const TUN_F_USO6: libc::c_int = 0x40;

/// A device whose packets may stand for several TCP segments.
#[derive(Debug)]
pub struct Offloading {
    pub fd: OwnedFd,
    /// Or datagrams, both ways: since Linux 6.2.
    pub joins_udp: bool,
}

impl AsFd for Offloading {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a TUN device that stays when its descriptors are closed. Attaching to one that is there is no error.
///
/// # Errors
/// If the name is longer than [`MAX_NAME`] or the kernel refuses.
pub fn create_persistent(name: &str) -> io::Result<()> {
    persist(&attach(name)?)
}

/// The same, of a device for [`attach_with_info`].
///
/// # Errors
/// As [`create_persistent`].
pub fn create_persistent_with_info(name: &str) -> io::Result<()> {
    persist(&attach_with_info(name)?)
}

fn persist(fd: &OwnedFd) -> io::Result<()> {
    set_persistent(fd.as_fd(), true)
}

/// Whether the device stays when its descriptor is closed. One that does not is taken away alone, for which the kernel takes tens
/// of milliseconds; one that does goes with its namespace, together with all others.
///
/// # Errors
/// What the kernel says.
pub fn set_persistent(fd: BorrowedFd<'_>, stays: bool) -> io::Result<()> {
    // SAFETY: `fd` is a TUN descriptor and the argument is a plain integer.
    unsafe { request::set_persist(fd.as_raw_fd(), i32::from(stays)) }?;
    Ok(())
}

/// Opens a TUN device for one packet per read and write, no packet information in front, non-blocking. The device
/// is made where it does not exist and then goes away with the descriptor.
///
/// # Errors
/// If the name is longer than [`MAX_NAME`], the device is in use, or the kernel refuses.
pub fn attach(name: &str) -> io::Result<OwnedFd> {
    open(name, libc::IFF_TUN | libc::IFF_NO_PI)
}

/// The same for a TAP device: packets have Ethernet headers.
///
/// # Errors
/// As [`attach`].
pub fn attach_tap(name: &str) -> io::Result<OwnedFd> {
    open(name, libc::IFF_TAP | libc::IFF_NO_PI)
}

/// The same with `struct virtio_net_hdr` in front of each packet, which may stand for several and have an unfinished checksum
/// (see [`crate::packet::segment`]).
///
/// # Errors
/// As [`attach`].
pub fn attach_offloading(name: &str, tap: bool) -> io::Result<Offloading> {
    let kind = if tap { libc::IFF_TAP } else { libc::IFF_TUN };
    let fd = open(name, kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN;
    let joins_udp = set_offload(&fd, tcp | TUN_F_USO4 | TUN_F_USO6).is_ok();
    if !joins_udp {
        set_offload(&fd, tcp)?;
    }
    Ok(Offloading { fd, joins_udp })
}

fn set_offload(fd: &OwnedFd, what: libc::c_int) -> io::Result<()> {
    // SAFETY: `fd` is a TUN descriptor and the argument is a plain integer.
    unsafe { request::set_offload(fd.as_raw_fd(), what) }?;
    Ok(())
}

/// The same with packet information in front of each packet, `struct tun_pi` of linux/if_tun.h: four bytes that hold the
/// protocol, which may be any.
///
/// # Errors
/// As [`attach`]; a device made for one cannot be opened for the other.
pub fn attach_with_info(name: &str) -> io::Result<OwnedFd> {
    open(name, libc::IFF_TUN)
}

fn open(name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let ifreq = named(name, flags)?;
    // SAFETY: `ifreq` is a valid interface request that lives through the call.
    unsafe { request::set_iff(file.as_raw_fd(), &raw const ifreq) }?;
    Ok(file.into())
}

fn named(name: &str, flags: libc::c_int) -> io::Result<libc::ifreq> {
    if name.len() > MAX_NAME || name.is_empty() || name.contains('%') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no device name: {name:?}")));
    }
    // SAFETY: an interface request is integers and unions of integers, valid when all zero.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    ifreq.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    Ok(ifreq)
}

/// Whether the device that `fd` was attached to is there still.
#[must_use]
pub fn is_attached(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: an interface request is integers and unions of integers, valid when all zero.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `ifreq` is an interface request that lives through the call, which fills it.
    unsafe { request::get_iff(fd.as_raw_fd(), &raw mut ifreq) }.is_ok()
}

/// Whether the device has a carrier, as one that is attached to has: without, routing takes it for a cut wire.
///
/// # Errors
/// If the device is gone, or the kernel is older than Linux 5.0.
pub fn set_carrier(fd: BorrowedFd<'_>, carrier: bool) -> io::Result<()> {
    let value = libc::c_int::from(carrier);
    // SAFETY: `fd` is a TUN descriptor, and `value` an integer that lives through the call.
    unsafe { request::set_carrier(fd.as_raw_fd(), &raw const value) }?;
    Ok(())
}

/// Reads one packet.
///
/// # Errors
/// `WouldBlock` where there is none.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::unistd::read(fd, buffer)?)
}

/// Writes one packet: it arrives at the device.
///
/// # Errors
/// `EIO` where the device is down.
pub fn write(fd: BorrowedFd<'_>, packet: &[u8]) -> io::Result<()> {
    nix::unistd::write(fd, packet)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["", "0123456789abcdef", "tun%d"] {
            assert_eq!(attach(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
