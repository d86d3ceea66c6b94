//! Signals as something to wait for. Nothing goes in; a descriptor that becomes readable comes out. It never installs a
//! handler.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGTERM and SIGINT; otherwise as [`any_of`].
///
/// # Errors
/// If the kernel refuses.
pub fn to_end() -> nix::Result<SignalFd> {
    any_of([Signal::SIGTERM, Signal::SIGINT])
}

/// These signals, non-blocking. They are blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If the kernel refuses.
pub fn any_of(signals: impl IntoIterator<Item = Signal>) -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter(signals);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
