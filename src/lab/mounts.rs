//! Mounts of a lab's own mount namespace. Paths go in, mounts come to be. It never mounts anything in the host's
//! mount namespace: callers have left it.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const NONE: Option<&str> = None;

/// Bind mount of one file on another.
///
/// # Errors
/// What mount(2) says.
pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> nix::Result<()> {
    mount(Some(source.as_ref()), target.as_ref(), NONE, MsFlags::MS_BIND, NONE)
}

/// A mount namespace of the caller's own: what the host mounts later still shows, what is mounted here does not
/// show there.
///
/// # Errors
/// What unshare(2) or mount(2) says.
pub fn own_namespace() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
}

/// An empty file system in memory.
///
/// # Errors
/// What mount(2) says.
pub fn tmpfs(target: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("vilab"), target, Some("tmpfs"), flags, Some("mode=0755"))
}

/// `/proc` of the caller's PID namespace. Where something is mounted over parts of the host's `/proc`, as in
/// containers, an unprivileged lab may not have its own (`mount_too_revealing` in Linux) and keeps the host's.
pub fn fresh_proc() {
    fresh("proc", "/proc");
}

/// `/sys` of the caller's network namespace, under the same condition.
pub fn fresh_sys() {
    fresh("sysfs", "/sys");
}

fn fresh(fstype: &str, target: &str) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Refused: the old one stays, which serves everything but the view of the other namespaces' devices.
    let _kept = mount(Some(fstype), target, Some(fstype), flags, NONE);
}
