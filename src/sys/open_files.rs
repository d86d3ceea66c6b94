//! The process's limit on open files. Nothing goes in, the new limit comes out. It never lowers it.

use std::io;

use nix::errno::Errno;

/// Raises the soft limit on open files to the hard limit: a lab needs several descriptors for each of its nodes.
///
/// # Errors
/// What the kernel says.
#[expect(unsafe_code, reason = "nix is built without its resource feature")]
pub fn raise() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the kernel only writes.
    Errno::result(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the kernel only reads.
    Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}
