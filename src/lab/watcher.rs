//! The one process of a lab outside its namespaces. It is started by `up` with the job on standard input and a
//! socket to `up` on standard output; it starts the lab's init, passes on what init says, and removes the state
//! directory when init has ended. It never outlives the lab, and the lab never outlives it: init asks for SIGKILL
//! on the watcher's death.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, chdir, getgid, getuid, setsid};

use super::dir::{Claim, LOG, WATCHER};
use super::message::{Failure, Message};
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::sys::{child, pidfd};

/// The subcommand under which [`super::init::run`] is started.
pub const INIT: &str = "lab-init";
/// What `up` writes when all is verified.
pub(super) const COMMIT: u8 = b'c';

/// Runs the watcher of lab `name` to its end.
///
/// # Errors
/// If the lab could not be started; `up` has been told.
pub fn run(base: &Path, name: &str) -> Result<()> {
    let (job, up) = standard_files().doing(Kind::Bug, || "the watcher lacks its standard files".into())?;
    let result = watch(base, name, job, &up);
    if let Err(e) = &result {
        // Nobody is left to tell when `up` is gone.
        let _gone = Message::Failed(Failure::from(e)).send(&up);
    }
    result
}

/// Standard input and output, as files of our own.
fn standard_files() -> io::Result<(OwnedFd, UnixStream)> {
    let job = io::stdin().as_fd().try_clone_to_owned()?;
    let up = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok((job, up))
}

fn watch(base: &Path, name: &str, job: OwnedFd, up: &UnixStream) -> Result<()> {
    let starting = || format!("cannot start lab {name}");
    // A session of its own: the terminal of `up` sends it no signals. It fails where it is one already.
    let _leader = setsid();
    chdir("/").doing(Kind::Environment, starting)?;
    prctl::set_name(&name_of_process()).doing(Kind::Environment, starting)?;
    let signals = block_signals().doing(Kind::Environment, starting)?;
    if super::user::needed() {
        super::user::enter(getuid(), getgid())?;
    }
    let claim = Claim::take(base, name).doing(Kind::Environment, || {
        format!("cannot use the state directory {}", base.join(name).display())
    })?;
    let Some(claim) = claim else { return Err(already_up(name)) };
    unshare(CloneFlags::CLONE_NEWPID).doing(Kind::Environment, starting)?;
    let (ours, theirs) = UnixStream::pair().doing(Kind::Environment, starting)?;
    let init = spawn_init(&claim, name, job, theirs).doing(Kind::Environment, starting);
    let init = match init {
        Ok(init) => init,
        Err(e) => {
            let _stays = claim.remove();
            return Err(e);
        }
    };
    let attended = attend(&init, &signals, up, &ours);
    super::engine::end(claim.path());
    end(&init);
    // Not before: init ends when this is closed, and everything in the lab with it.
    drop(ours);
    let removed =
        claim.remove().doing(Kind::Environment, || format!("cannot remove the state of lab {name}"));
    // Only now may init's process id come to name another process.
    let _reaped = waitpid(Pid::from_raw(pid(&init)), None);
    attended.doing(Kind::Bug, || format!("the watcher of lab {name} failed")).and(removed)
}

fn name_of_process() -> std::ffi::CString {
    std::ffi::CString::new(WATCHER).unwrap_or_default()
}

fn already_up(name: &str) -> Error {
    Error::new(Kind::Usage, format!("lab {name} is up already"))
        .hint(format!("take it down first: vilab down {name}; or change it as it runs: vilab apply FILE"))
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn spawn_init(claim: &Claim, name: &str, job: OwnedFd, socket: UnixStream) -> io::Result<Child> {
    let log = File::create(claim.path().join(LOG))?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut command = process::myself(&format!("vilab: lab {name}"), INIT);
    child::block(&mut command, SigSet::empty());
    command
        .arg(claim.path())
        .arg(std::process::id().to_string())
        .env_clear()
        .env("PATH", path)
        .env("LANG", "C")
        .stdin(Stdio::from(job))
        .stdout(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::from(log))
        .spawn()
}

/// Until init ends, `up` goes away before it commits, or a signal asks for the end.
fn attend(init: &Child, signals: &SignalFd, up: &UnixStream, said: &UnixStream) -> io::Result<()> {
    let pidfd = pidfd::open(pid(init))?;
    let (mut committed, mut up, mut said) = (false, Some(up), Some(said));
    loop {
        let ready =
            wait(&[Some(pidfd.as_fd()), Some(signals.as_fd()), up.map(AsFd::as_fd), said.map(AsFd::as_fd)])?;
        if ready[3] && !pass_on(said, up) {
            said = None;
        }
        if ready[2] {
            match heard(up) {
                Heard::Commit => committed = true,
                Heard::Nothing => {}
                Heard::Gone if committed => up = None,
                Heard::Gone => return Ok(()),
            }
        }
        if ready[0] || ready[1] {
            return Ok(());
        }
    }
}

/// Which of four descriptors has something to read, or has been hung up.
fn wait(fds: &[Option<std::os::fd::BorrowedFd<'_>>; 4]) -> io::Result<[bool; 4]> {
    let mut polled: Vec<_> = fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match poll(&mut polled, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => return Ok([false; 4]),
        other => other?,
    };
    let mut polled = polled.iter().map(|p| p.any().unwrap_or(true));
    Ok(std::array::from_fn(|i| fds[i].is_some() && polled.next().unwrap_or(false)))
}

enum Heard {
    Commit,
    Nothing,
    Gone,
}

fn heard(up: Option<&UnixStream>) -> Heard {
    let mut byte = [0];
    match up.map(|mut up| up.read(&mut byte)) {
        Some(Ok(1)) if byte[0] == COMMIT => Heard::Commit,
        Some(Ok(1)) => Heard::Nothing,
        Some(Err(e)) if e.kind() == ErrorKind::Interrupted => Heard::Nothing,
        Some(_) | None => Heard::Gone,
    }
}

/// Passes on one piece of what init says; false at its end.
fn pass_on(said: Option<&UnixStream>, up: Option<&UnixStream>) -> bool {
    let mut buffer = [0; 4096];
    match said.map(|mut said| said.read(&mut buffer)) {
        Some(Ok(0)) | None => false,
        Some(Ok(n)) => {
            if let Some(mut up) = up {
                // `up` is gone: the poll that follows finds out.
                let _gone = up.write_all(&buffer[..n]);
            }
            true
        }
        Some(Err(e)) => e.kind() == ErrorKind::Interrupted,
    }
}

/// Kills init, and with it its PID namespace, and waits until the kernel has ended every process in it. It stays
/// a zombie, so that its process id cannot come to name another process while the lock is held.
fn end(init: &Child) {
    let ended = pidfd::open(pid(init)).and_then(|fd| pidfd::send_signal(fd, Signal::SIGKILL));
    drop(ended);
    while waitid(Id::Pid(Pid::from_raw(pid(init))), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        == Err(nix::errno::Errno::EINTR)
    {}
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap_or(i32::MAX)
}
