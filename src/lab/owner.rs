//! Owners of VIs: unprivileged users who may change one VI and no other. The name of a user goes in; network
//! namespaces come out that belong to a user namespace of theirs, so that it is the kernel that lets them configure these
//! and nothing else. It never gives them anything of the lab's own.
//!
//! A network namespace belongs to the user namespace of the process that makes it, and a user namespace to the user
//! who makes that. So a process of the lab's becomes the user, makes the user namespace, is given its ids by the lab,
//! and makes one network namespace after the other, each of which the lab gives a name. What is named needs no process.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

use super::mounts;
use crate::error::{Context, Error, Kind, Result};
use crate::process;

/// The subcommand under which [`run`] is started.
pub const MAKER: &str = "lab-owner";
/// What the two processes say to each other: asked for, done.
const WORD: u8 = b'.';

/// The ids of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: Uid,
    pub gid: Gid,
}

/// A user of this machine by name, or by number, whether or not the number has a name; `None` where there is none.
///
/// # Errors
/// If the machine's users cannot be looked up.
pub fn find(user: &str) -> nix::Result<Option<Owner>> {
    let of = |user: User| Owner { uid: user.uid, gid: user.gid };
    if let Some(found) = User::from_name(user)? {
        return Ok(Some(of(found)));
    }
    let Ok(id) = user.parse::<u32>() else { return Ok(None) };
    let named = User::from_uid(Uid::from_raw(id))?.map(of);
    Ok(Some(named.unwrap_or(Owner { uid: Uid::from_raw(id), gid: Gid::from_raw(id) })))
}

/// A process that makes network namespaces of an owner's; it ends with this.
#[derive(Debug)]
pub struct Maker {
    child: Child,
    pipes: Mutex<(ChildStdin, ChildStdout)>,
}

impl Maker {
    /// # Errors
    /// If there is no such user, or user namespaces are not allowed to them.
    pub fn start(user: &str) -> Result<Self> {
        let what = || format!("cannot make a user namespace for {user}");
        let owner = find(user).doing(Kind::Environment, what)?;
        let owner = owner.ok_or_else(|| Error::environment(what()).because("there is no such user"))?;
        let mut command = process::myself(&format!("vilab: namespaces of {user}"), MAKER);
        command.args([owner.uid.to_string(), owner.gid.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.doing(Kind::Environment, what)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::bug(what()));
        };
        let maker = Self { child, pipes: Mutex::new((input, output)) };
        maker.begin(owner).map_err(|e| super::user::refused_to(&what(), &e))?;
        Ok(maker)
    }

    /// Waits for the user namespace, and makes the owner root in it.
    fn begin(&self, Owner { uid, gid }: Owner) -> io::Result<()> {
        await_word(&mut self.pipes().1)?;
        let proc = format!("/proc/{}", self.child.id());
        fs::write(format!("{proc}/setgroups"), "deny")?;
        fs::write(format!("{proc}/uid_map"), format!("0 {uid} 1"))?;
        fs::write(format!("{proc}/gid_map"), format!("0 {gid} 1"))
    }

    /// Makes a network namespace and mounts it on the file at `path`. Threads take turns: the child has one namespace at a time.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn make(&self, path: &Path) -> io::Result<()> {
        let mut pipes = self.pipes();
        pipes.0.write_all(&[WORD])?;
        await_word(&mut pipes.1)?;
        Ok(mounts::bind(format!("/proc/{}/ns/net", self.child.id()), path)?)
    }

    fn pipes(&self) -> MutexGuard<'_, (ChildStdin, ChildStdout)> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the child says that it has done what it was told.
fn await_word(output: &mut ChildStdout) -> io::Result<()> {
    let mut word = Vec::new();
    output.take(1).read_to_end(&mut word)?;
    if word.is_empty() { Err(io::Error::other("the kernel refuses it; see the lab's log")) } else { Ok(()) }
}

impl Drop for Maker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The process behind a [`Maker`]: becomes the user, and makes a network namespace for each word on standard input.
///
/// # Errors
/// The first thing that the kernel refuses.
pub fn run(uid: u32, gid: u32) -> Result<()> {
    serve(uid, gid).doing(Kind::Kernel, || format!("cannot make namespaces of user {uid}"))
}

fn serve(uid: u32, gid: u32) -> io::Result<()> {
    setgroups(&[])?;
    setgid(Gid::from_raw(gid))?;
    setuid(Uid::from_raw(uid))?;
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let mut word = [WORD];
    loop {
        io::stdout().write_all(&word)?;
        io::stdout().flush()?;
        if io::stdin().read(&mut word)? == 0 {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNET)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_or_numbers() {
        let root = Owner { uid: Uid::from_raw(0), gid: Gid::from_raw(0) };
        assert_eq!(find("root"), Ok(Some(root)));
        assert_eq!(find("0"), Ok(Some(root)));
        let unnamed = 3_912_345_678;
        let expected = Owner { uid: Uid::from_raw(unnamed), gid: Gid::from_raw(unnamed) };
        assert_eq!(find("3912345678"), Ok(Some(expected)));
        assert_eq!(find("nobody-of-this-name"), Ok(None));
        assert_eq!(find("-1"), Ok(None));
    }
}
