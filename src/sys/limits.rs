//! Resource limits of this process. Nothing goes in; the limit reached comes out. It never lowers one.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one: a lab needs a few descriptors for each node and each virtual
/// link. Gives the limit.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}
