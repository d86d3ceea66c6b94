//! Signals as something to wait for. Nothing goes in; a descriptor that becomes readable comes out. It never installs a
//! handler.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGTERM and SIGINT, non-blocking. They are blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If the kernel refuses.
pub fn to_end() -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
