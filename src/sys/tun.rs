//! TUN devices, by ioctl on `/dev/net/tun`. A name goes in, a device in the calling thread's network namespace
//! comes to be. It never configures the device: netlink does.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;

/// Makes TUN device `name`, IP packets without packet information, which stays when its descriptor is closed.
///
/// # Errors
/// If `/dev/net/tun` is not there, the name is too long or the kernel refuses.
#[expect(unsafe_code, reason = "ioctl(2) on /dev/net/tun has no safe wrapper")]
pub fn create_persistent(name: &str) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = 0x1001;
    // SAFETY: TUNSETIFF reads and writes the one ifreq it is given, which lives across the call.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETPERSIST takes an integer.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, 1) })
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
