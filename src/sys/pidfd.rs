//! Process descriptors, pidfd_open(2), pidfd_getfd(2) and pidfd_send_signal(2). A process id goes in, a descriptor that names that
//! one process for as long as it is open comes out. It never waits: poll(2) the descriptor, it becomes readable
//! when the process ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;

/// A descriptor of process `pid`, closed on exec.
///
/// # Errors
/// ESRCH where there is no such process.
#[expect(unsafe_code, reason = "pidfd_open(2) has no safe wrapper in nix")]
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of ours for what descriptor `number` of that process is, pidfd_getfd(2); closed on exec.
///
/// # Errors
/// EBADF where it has no such descriptor, ESRCH where it has ended, EPERM where it may not be traced.
#[expect(unsafe_code, reason = "pidfd_getfd(2) has no safe wrapper in nix")]
pub fn take(fd: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is borrowed for the call, which touches no memory of ours.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, fd.as_fd().as_raw_fd(), number, 0) };
    if taken < 0 {
        return Err(io::Error::last_os_error());
    }
    let taken = i32::try_from(taken).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(taken) })
}

/// Sends `signal` to the process `fd` names, and to no other.
///
/// # Errors
/// ESRCH where the process has ended, EPERM where it is not ours.
#[expect(unsafe_code, reason = "pidfd_send_signal(2) has no safe wrapper in nix")]
pub fn send_signal(fd: impl AsFd, signal: Signal) -> io::Result<()> {
    let (fd, signal) = (fd.as_fd().as_raw_fd(), signal as i32);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed for the call, and a null siginfo is allowed: the kernel fills one in.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
