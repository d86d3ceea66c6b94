//! The state directory of a lab, and the lock that says whether the lab lives. A name goes in; a claimed directory,
//! or whether somebody holds it, comes out. It never removes a directory whose lock is held.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::pidfd;

const LOCK: &str = "lock";
/// Mount point, in the lab's own mount namespace, of the file system of its namespace files; empty on the host.
pub(super) const NAMESPACES: &str = "ns";
/// Mount point, as [`NAMESPACES`], of what nodes show that is their own.
pub(super) const VIEWS: &str = "views";
/// Directory of what services print.
pub(super) const LOGS: &str = "logs";
pub(super) const STATE: &str = "state.json";
pub(super) const STATE_UNFINISHED: &str = "state.json.new";
pub(super) const FAULTS: &str = "faults.json";
pub(super) const FAULTS_UNFINISHED: &str = "faults.json.new";
pub(super) const PLAN: &str = "plan.json";
/// What files on their way to their names are called, behind these.
pub(super) const HALF: &str = ".half";
const HALVES: [&str; 6] = [
    "plan.json.half",
    "plan.json.new.half",
    "names.json.half",
    "isis.json.half",
    "routers.json.half",
    "strands.json.half",
];
pub(super) const PLAN_UNFINISHED: &str = "plan.json.new";
pub(super) const LOG: &str = "log";
pub(super) const FASTPATH: &str = "fastpath.json";
pub(super) const NAMES: &str = "names.json";
pub(super) const ISIS: &str = "isis.json";
pub(super) const ROUTERS: &str = "routers.json";
pub(super) const STRANDS: &str = "strands.json";
pub(super) const CAPTURE: &str = "capture.json";
pub(super) const FASTPATH_UNFINISHED: &str = "fastpath.json.new";
pub(super) const CONTROL: &str = "fastpath.sock";
/// Where the process that watches strands listens.
pub(super) const WATCH: &str = "strands.sock";
/// What the socket is called by which owners of VIs enter their nodes, behind the name of the lab, which has no dot.
pub(super) const DOOR: &str = "sock";
/// Where init listens.
pub(super) const INIT: &str = "init.sock";
const FILES: [&str; 17] = [
    STATE,
    STATE_UNFINISHED,
    FAULTS,
    FAULTS_UNFINISHED,
    LOG,
    FASTPATH,
    FASTPATH_UNFINISHED,
    NAMES,
    ISIS,
    ROUTERS,
    STRANDS,
    CAPTURE,
    CONTROL,
    WATCH,
    INIT,
    PLAN,
    PLAN_UNFINISHED,
];
/// What the watcher calls itself, prctl(2) PR_SET_NAME.
pub(super) const WATCHER: &str = "vilab-watcher";

/// Where root's labs keep their state.
pub(super) const ROOTS: &str = "/run/vilab";

/// Where labs keep their state: `$VILAB_RUNTIME_DIR`, or `/run/vilab` for root, or `$XDG_RUNTIME_DIR/vilab`, or a
/// private directory under the temporary one.
///
/// # Errors
/// If it cannot be made, or is not ours alone.
pub(super) fn base() -> Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let (path, mode) = match (env_dir("VILAB_RUNTIME_DIR"), env_dir("XDG_RUNTIME_DIR")) {
        (Some(dir), _) => (dir, 0o700),
        (None, _) if uid.is_root() => (PathBuf::from(ROOTS), 0o755),
        (None, Some(dir)) if dir.is_dir() => (dir.join("vilab"), 0o700),
        (None, _) => (std::env::temp_dir().join(format!("vilab-{uid}")), 0o700),
    };
    let what = || format!("cannot use the state directory {}", path.display());
    match DirBuilder::new().mode(mode).create(&path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e).doing(Kind::Environment, what),
        _ => {}
    }
    let meta = fs::symlink_metadata(&path).doing(Kind::Environment, what)?;
    if !meta.is_dir() || meta.uid() != uid.as_raw() || meta.mode() & 0o022 != 0 {
        return Err(Error::environment(what())
            .because("it is not a directory that only its owner, you, can write")
            .hint("set VILAB_RUNTIME_DIR to a private directory"));
    }
    Ok(path)
}

fn env_dir(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// A claimed directory: the lab's, for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Claim {
    /// Makes and locks the directory of lab `name`; `None` if somebody else has. What an earlier lab left there is
    /// removed.
    pub(super) fn take(base: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = base.join(name);
        loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            match lock(&path, true) {
                Ok(Lock::Taken(mut lock)) => {
                    empty(&path)?;
                    lock.set_len(0)?;
                    writeln!(lock, "{}", std::process::id())?;
                    return Ok(Some(Self { path, _lock: lock }));
                }
                Ok(Lock::Held) => match watcher(&path)? {
                    Holder::Watcher(_) => return Ok(None),
                    Holder::Nobody => {}
                },
                Ok(Lock::Gone) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory, then lets go of the lock.
    pub(super) fn remove(self) -> io::Result<()> {
        remove_locked(&self.path)
    }
}

enum Lock {
    Taken(Flock<File>),
    Held,
    /// Locked, but the file is no longer the directory's: its owner removed it meanwhile.
    Gone,
}

fn lock(dir: &Path, create: bool) -> io::Result<Lock> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(&path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) if same_file(&lock, &path) => Ok(Lock::Taken(lock)),
        Ok(_) => Ok(Lock::Gone),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(Lock::Held),
        Err((_, e)) => Err(e.into()),
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

/// Removes what labs keep beside the lock, and nothing that is not theirs.
fn empty(dir: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(super::door_socket(dir)))?;
    for name in FILES.iter().chain(&HALVES) {
        absent_is_fine(fs::remove_file(dir.join(name)))?;
    }
    absent_is_fine(fs::remove_dir(dir.join(NAMESPACES)))?;
    absent_is_fine(fs::remove_dir(dir.join(VIEWS)))?;
    absent_is_fine(fs::remove_dir_all(dir.join(LOGS)))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The lock goes last, so that whoever finds the directory before can tell that it is spoken for.
fn remove_locked(dir: &Path) -> io::Result<()> {
    empty(dir)?;
    fs::remove_file(dir.join(LOCK))?;
    match fs::remove_dir(dir) {
        // Somebody claims the name already.
        Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => Ok(()),
        other => other,
    }
}

/// Keeps others from changing what is known of a lab, while it lives.
pub(super) fn lock_state(dir: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(dir)?, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}

/// Whose a directory is.
#[derive(Debug)]
pub(super) enum Holder {
    /// The watcher that holds the lock.
    Watcher(OwnedFd),
    /// Nobody: there is nothing, or what was left has been removed.
    Nobody,
}

/// Finds the watcher of a lab's directory, and removes the directory if there is none.
pub(super) fn holder(dir: &Path) -> io::Result<Holder> {
    if !dir.is_dir() {
        return Ok(Holder::Nobody);
    }
    match lock(dir, false) {
        Ok(Lock::Taken(_lock)) => {
            remove_locked(dir)?;
            Ok(Holder::Nobody)
        }
        Ok(Lock::Gone) => Ok(Holder::Nobody),
        Ok(Lock::Held) => watcher(dir),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // Made and not yet locked: its maker will find it gone and make it again. Or none of ours: then it is
            // not empty and stays.
            let _stays = fs::remove_dir(dir);
            Ok(Holder::Nobody)
        }
        Err(e) => Err(e),
    }
}

/// The process that wrote the lock. While the lock is held that process lives, so its id names no other; hence
/// the second look.
fn watcher(dir: &Path) -> io::Result<Holder> {
    loop {
        let mut text = String::new();
        match File::open(dir.join(LOCK)) {
            Ok(mut file) => file.read_to_string(&mut text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
            Err(e) => return Err(e),
        };
        let opened = text.trim().parse().ok().and_then(open_watcher);
        match (lock(dir, false), opened) {
            (Ok(Lock::Held), Some(fd)) => return Ok(Holder::Watcher(fd)),
            // Locked and not yet written, or held for a moment by somebody who only looks.
            (Ok(Lock::Held), _) => std::thread::yield_now(),
            (Ok(Lock::Taken(_lock)), _) => {
                remove_locked(dir)?;
                return Ok(Holder::Nobody);
            }
            (Ok(Lock::Gone), _) => return Ok(Holder::Nobody),
            (Err(e), _) if e.kind() == ErrorKind::NotFound => return Ok(Holder::Nobody),
            (Err(e), _) => return Err(e),
        }
    }
}

/// A lock file that outlived its watcher may be held, for a moment, by somebody who looks; its process id may
/// name anything by then.
fn open_watcher(pid: i32) -> Option<OwnedFd> {
    let fd = pidfd::open(pid).ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim_end() == WATCHER || pid == nix::unistd::getpid().as_raw()).then_some(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_excludes_others_and_removes_its_directory() {
        let base = tempfile::tempdir().unwrap();
        let claim = Claim::take(base.path(), "one").unwrap().unwrap();
        assert!(Claim::take(base.path(), "one").unwrap().is_none());
        assert!(matches!(holder(claim.path()).unwrap(), Holder::Watcher(_)));
        fs::create_dir(claim.path().join("ns")).unwrap();
        claim.remove().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_watcher_left_is_removed_by_whoever_looks() {
        let base = tempfile::tempdir().unwrap();
        let claim = Claim::take(base.path(), "one").unwrap().unwrap();
        fs::write(claim.path().join("state.json"), "half").unwrap();
        let path = claim.path().to_owned();
        drop(claim);
        assert!(matches!(holder(&path).unwrap(), Holder::Nobody));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_labs_stays() {
        let base = tempfile::tempdir().unwrap();
        let other = base.path().join("photos");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("one.jpg"), "").unwrap();
        assert!(matches!(holder(&other).unwrap(), Holder::Nobody));
        assert!(other.join("one.jpg").exists());
        assert!(!other.join(LOCK).exists());
    }

    #[test]
    fn a_claim_starts_from_an_empty_directory() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("one/ns")).unwrap();
        fs::write(base.path().join("one/state.json"), "old").unwrap();
        let claim = Claim::take(base.path(), "one").unwrap().unwrap();
        assert_eq!(fs::read_dir(claim.path()).unwrap().count(), 1);
        claim.remove().unwrap();
    }
}
