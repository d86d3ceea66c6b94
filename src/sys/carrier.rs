//! Carriers of devices. A socket of a namespace and a device's name go in; whether the device has a carrier comes out, and
//! what follows from that has been done. It never changes a carrier.
#![expect(unsafe_code, reason = "an ioctl with a pointer in its argument")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks for the carrier; linux/ethtool.h.
const ETHTOOL_GLINK: u32 = 0x0a;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

mod request {
    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);
}

/// Asks whether device `dev` has a carrier, in the namespace of `socket`, which may be of any kind. The kernel takes note of
/// a carrier that has come some time later, up to seconds where many have, and drops what is sent until then; who asks
/// makes it do so at once (`linkwatch_sync_dev` in Linux).
///
/// # Errors
/// What the kernel says: `EINVAL` for a name that no device can have, `ENODEV` where there is no such device.
pub fn settle(socket: BorrowedFd<'_>, dev: &str) -> io::Result<bool> {
    let mut value = Value { command: ETHTOOL_GLINK, data: 0 };
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if dev.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` is an `ifreq` whose name ends with a zero, and its data points to a `Value` that outlives the call,
    // which is what this command reads and writes.
    unsafe { request::ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data != 0)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn lo_is_asked_and_what_is_not_there_is_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(settle(socket.as_fd(), "lo").unwrap());
        let errno = |dev: &str| settle(socket.as_fd(), dev).unwrap_err().raw_os_error();
        assert_eq!(errno("not-there"), Some(libc::ENODEV));
        assert_eq!(errno("much-too-long-for-it"), Some(libc::EINVAL));
    }
}
