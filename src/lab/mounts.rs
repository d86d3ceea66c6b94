//! Mounts of a lab's own mount namespace. Paths go in, mounts come to be. It never mounts anything in the host's
//! mount namespace: callers have left it.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::sys::mount::{copy, put};

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

/// Hides `dir` under a directory in memory that holds the same, each entry bound to the host's, so that more can be
/// added. Entries that the host adds later do not show.
///
/// # Errors
/// What the system calls say.
pub fn mirror(dir: &Path) -> io::Result<()> {
    let below = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir)?;
    let mode = below.metadata()?.permissions().mode() & 0o7777;
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("vilab"), dir, Some("tmpfs"), flags, Some(format!("mode={mode:o}").as_str()))?;
    entries.iter().try_for_each(|entry| reflect(&below, entry, dir))
}

/// The directory itself cannot be named any more once it is mounted over; its descriptor still leads there.
fn reflect(below: &File, entry: &DirEntry, dir: &Path) -> io::Result<()> {
    let (name, kind) = (PathBuf::from(entry.file_name()), entry.file_type()?);
    let target = dir.join(&name);
    if kind.is_symlink() {
        return symlink(readlinkat(below, &name)?, target);
    }
    if kind.is_dir() {
        fs::create_dir(&target)?;
    } else {
        File::create(&target)?;
    }
    // With all that is mounted inside: an unprivileged lab may not have one without the other.
    match copy(Some(below.as_fd()), &name) {
        // It has gone meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        copied => put(&copied?, &target),
    }
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
