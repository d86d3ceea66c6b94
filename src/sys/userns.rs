//! Whose a namespace is: ioctl_ns(2). A descriptor of a namespace goes in; the user namespace that it belongs to, and
//! the user who made that, come out. It never enters one.
#![expect(unsafe_code, reason = "ioctls of Linux without a safe wrapper in nix")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

mod requests {
    nix::ioctl_none!(ns_get_userns, 0xb7, 0x1);
    nix::ioctl_read_bad!(ns_get_owner_uid, nix::request_code_none!(0xb7, 0x4), libc::uid_t);
}

/// The user namespace whose administrators may administer this namespace.
///
/// # Errors
/// EPERM where it lies outside the caller's own user namespace.
pub fn of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the call, which takes no argument.
    let fd = unsafe { requests::ns_get_userns(namespace.as_fd().as_raw_fd()) }?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made a user namespace, as the caller's sees it.
///
/// # Errors
/// EINVAL where it is no user namespace.
pub fn owner(userns: impl AsFd) -> io::Result<u32> {
    let mut uid = 0;
    // SAFETY: the number lives through the call, which writes it.
    unsafe { requests::ns_get_owner_uid(userns.as_fd().as_raw_fd(), &raw mut uid) }?;
    Ok(uid)
}
