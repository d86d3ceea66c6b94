//! What must be done between fork and exec. A command goes in and comes out with the step added; it never runs it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

/// The child gets SIGKILL when the thread that spawns it ends, however it ends: PR_SET_PDEATHSIG of prctl(2).
///
/// `getppid()` is 0 in a child whose parent lives outside its PID namespace; 1 there, or `parent`'s absence,
/// means that the parent died before the request was made.
#[expect(unsafe_code, reason = "pre_exec runs in a forked child")]
pub fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let step = move || {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)?;
        let now = nix::unistd::getppid();
        if now == parent || now.as_raw() == 0 {
            Ok(())
        } else {
            Err(io::Error::from(nix::errno::Errno::ESRCH))
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, which is safe after fork.
    unsafe { command.pre_exec(step) };
}

/// The child starts with these signals blocked and no others, whatever its parent blocks: exec(2) keeps the mask.
#[expect(unsafe_code, reason = "pre_exec runs in a forked child")]
pub fn block(command: &mut Command, mask: SigSet) {
    let step = move || mask.thread_set_mask().map_err(io::Error::from);
    // SAFETY: the closure makes one system call and allocates nothing, which is safe after fork.
    unsafe { command.pre_exec(step) };
}
