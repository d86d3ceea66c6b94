//! Copies of mounts that are nowhere yet, open_tree(2) and move_mount(2). A directory and a path go in; a descriptor
//! that holds the copy comes out, and can be put anywhere later, whatever hides the path by then. It never changes
//! what it copies.
#![expect(unsafe_code, reason = "open_tree(2) and move_mount(2) have no safe wrapper in nix")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `OPEN_TREE_CLONE` and `AT_RECURSIVE` of Linux.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
/// `MOVE_MOUNT_F_EMPTY_PATH` and `MOVE_MOUNT_T_SYMLINKS` of Linux.
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_SYMLINKS: libc::c_uint = 0x10;

/// A copy of what is at `path`, with all that is mounted inside; a relative path begins at `from`.
///
/// # Errors
/// ENOENT where there is nothing, EPERM without the right to mount.
pub fn copy(from: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<OwnedFd> {
    let dir = from.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the string is terminated and lives through the call, which only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a copy over what is at `target`, which may be a link to it.
///
/// # Errors
/// ENOENT where there is nothing.
pub fn put(copy: &OwnedFd, target: &Path) -> io::Result<()> {
    let path = CString::new(target.as_os_str().as_bytes())?;
    let (empty, here) = (c"", libc::AT_FDCWD);
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
    // SAFETY: both strings are terminated and live through the call, which only reads them.
    let rc = unsafe {
        libc::syscall(libc::SYS_move_mount, copy.as_raw_fd(), empty.as_ptr(), here, path.as_ptr(), flags)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
