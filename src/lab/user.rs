//! User namespaces, for labs of unprivileged users. Ids go in; the calling process is in a user namespace where it
//! is root and the host still sees its caller. It never gives more rights on the host than the caller has.

use std::fs;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::permission::{self, Settings};
use crate::error::{Context, Error, Kind, Result};

/// Bit of CAP_SYS_ADMIN in `CapEff` (linux/capability.h).
const SYS_ADMIN: u64 = 1 << 21;

/// Whether this process may not make namespaces without a user namespace.
#[must_use]
pub fn needed() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok());
    effective.unwrap_or(0) & SYS_ADMIN == 0
}

/// Enters a new user namespace in which `uid` and `gid`, the caller's, are root. The process must have one thread.
///
/// # Errors
/// If unprivileged user namespaces are not allowed, with what to do about it.
pub fn enter(uid: Uid, gid: Gid) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused(&e))?;
    fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")))
        .map_err(|e| refused(&e))
}

/// Whether this process is in a user namespace as [`enter`] makes it, where a daemon cannot become another user.
#[must_use]
pub fn is_only_one() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny")
}

fn refused(e: &dyn std::fmt::Display) -> Error {
    let error = Error::environment("cannot make a user namespace").because(e);
    permission::explained(error, &Settings::read())
}

/// The same where root makes one for another user: `what` it was for.
pub(super) fn refused_to(what: &str, e: &dyn std::fmt::Display) -> Error {
    let obstacle = Settings { privileged: false, ..Settings::read() }.obstacle(false);
    let hint = obstacle.hint(true);
    let error = Error::environment(what).because(e).because(obstacle.what);
    if hint.is_empty() { error } else { error.hint(hint) }
}

/// Joins the user namespace of process `pid`, unless the caller is in it. The process must have one thread.
///
/// # Errors
/// If it is somebody else's.
pub fn join(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/user");
    let what = || "cannot join the lab's user namespace".to_owned();
    if same(&path) {
        return Ok(());
    }
    let ns = fs::File::open(&path).doing(Kind::Environment, what)?;
    nix::sched::setns(ns, CloneFlags::CLONE_NEWUSER).doing(Kind::Environment, what)
}

fn same(path: &str) -> bool {
    matches!((fs::read_link(path), fs::read_link("/proc/self/ns/user")), (Ok(a), Ok(b)) if a == b)
}
