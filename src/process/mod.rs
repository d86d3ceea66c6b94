//! Child processes. A command, what to feed it and a deadline go in; its output or an error that quotes its
//! standard error comes out. It never leaves a child behind unreaped.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::{child, environment, pidfd};

/// The program that plays a lab's processes, where this program does not.
static PLAYER: OnceLock<PathBuf> = OnceLock::new();

/// Has [`myself`] start `program` from now on, which is `vilab` in this version. The first call counts.
pub fn play_by(program: PathBuf) {
    let _first = PLAYER.set(program);
}

/// Whether [`play_by`] has been called.
#[must_use]
pub fn is_played() -> bool {
    PLAYER.get().is_some()
}

/// This program itself, as `argv0` in ps(1), whatever has become of its file in the meantime; or the one of [`play_by`].
#[must_use]
pub fn myself(argv0: &str, subcommand: &str) -> Command {
    let mut command = Command::new(PLAYER.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path));
    command.arg0(argv0).arg(subcommand);
    command
}

/// Runs `command` with `input` on its standard input and gives its standard output.
///
/// # Errors
/// If it cannot be run, or fails: its standard error is the cause.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = output(command, input).map_err(|e| spawn_error(&name, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let error = Error::new(Kind::Kernel, format!("{name} failed: {}", output.status));
    Err(if said.is_empty() { error } else { error.because(said) })
}

fn output(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends early breaks the pipe; its status and standard error tell more than EPIPE.
        let _broken_pipe = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// What became of a command that had to end in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// As shells have it: 128 + n for signal n. `None`: it did not end in time and was killed.
    pub status: Option<i32>,
    /// The first [`KEPT`] bytes of each.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Bytes kept of what a command prints.
pub const KEPT: usize = 1 << 20;

/// Runs `command`, with nothing to read, until it ends or `patience` is over. It is over when the process has ended,
/// whoever still holds its output, and it does not outlive the calling thread.
///
/// # Errors
/// If it cannot be run.
pub fn run_within(command: &mut Command, patience: Duration) -> Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    try_within(command, patience)?.map_err(|e| spawn_error(&name, &e))
}

/// The same; the inner error is why it did not begin.
///
/// # Errors
/// If it cannot be waited for.
pub fn try_within(command: &mut Command, patience: Duration) -> Result<io::Result<Ended>> {
    let name = command.get_program().to_string_lossy().into_owned();
    child::die_with_parent(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Ok(Err(e)),
    };
    let watched = watch(&mut child, Instant::now() + patience);
    if !matches!(watched, Ok((true, _))) {
        let group = i32::try_from(child.id()).map(Pid::from_raw);
        let _ended = group.map(|pid| killpg(pid, Signal::SIGKILL));
        let _ended = child.kill();
    }
    let what = || format!("cannot wait for {name}");
    let status = child.wait().doing(Kind::Environment, what)?;
    let (in_time, [stdout, stderr]) = watched.doing(Kind::Environment, what)?;
    let shell = status.code().or_else(|| status.signal().map(|s| BY_SIGNAL + s)).unwrap_or(BY_SIGNAL);
    Ok(Ok(Ended { status: in_time.then_some(shell), stdout, stderr }))
}

/// Shell convention: ended by signal n as 128 + n.
const BY_SIGNAL: i32 = 128;

/// Hears a child until it ends or the time is over; whether it ended, and what it printed.
fn watch(child: &mut Child, until: Instant) -> io::Result<(bool, [Vec<u8>; 2])> {
    let pidfd = pidfd::open(i32::try_from(child.id()).map_err(io::Error::other)?)?;
    let pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
    let mut streams: [Stream; 2] = pipes.map(|pipe| Stream { pipe, kept: Vec::new() });
    for pipe in streams.iter().filter_map(|s| s.pipe.as_ref()) {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the last milliseconds are not spent in a circle.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let pipes = streams.iter().filter_map(|s| s.pipe.as_ref());
        let mut fds: Vec<_> = std::iter::once(&pidfd)
            .chain(pipes)
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ended = fds[0].any().unwrap_or(true);
        for stream in &mut streams {
            stream.read(ended);
        }
        if ended || left.is_zero() {
            return Ok((ended, streams.map(|s| s.kept)));
        }
    }
}

/// One output of a child, and what is kept of it.
struct Stream {
    /// None at its end.
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
}

impl Stream {
    /// Reads a piece, or all that is there.
    fn read(&mut self, all: bool) {
        let mut piece = [0; 16 << 10];
        while let Some(pipe) = &self.pipe {
            match nix::unistd::read(pipe, &mut piece) {
                Ok(0) | Err(Errno::EIO) => self.pipe = None,
                Ok(n) => {
                    let room = KEPT.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&piece[..n.min(room)]);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            if !all || self.kept.len() >= KEPT {
                return;
            }
        }
    }
}

fn spawn_error(name: &str, e: &std::io::Error) -> Error {
    let error = Error::environment(format!("cannot run {name}")).because(e);
    if e.kind() == std::io::ErrorKind::NotFound {
        error.hint(format!("install {name}; `vilab doctor` names the command"))
    } else {
        error
    }
}

/// Where programs such as `nft` are, and what many users' PATH leaves out.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Lets this process, and all that it starts, find the programs of the system as root does. Where that cannot be, PATH stays as
/// it is. The process must have one thread.
pub fn complete_path() {
    if let Some(path) = completed(&std::env::var_os("PATH").unwrap_or_default()) {
        let _as_it_is = environment::set("PATH", &path);
    }
}

/// PATH with the directories of the system at its end; `None` where it has them.
fn completed(path: &OsStr) -> Option<OsString> {
    let mut dirs: Vec<PathBuf> = match path.is_empty() {
        true => Vec::new(),
        false => std::env::split_paths(path).collect(),
    };
    let missing: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).filter(|dir| !dirs.contains(dir)).collect();
    dirs.extend(missing.iter().cloned());
    // Directories that came from a PATH have no colon in them.
    (!missing.is_empty()).then(|| std::env::join_paths(dirs).ok())?
}

/// Whether `program` is in PATH.
#[must_use]
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = completed(&path).unwrap_or(path);
    std::env::split_paths(&path).any(|dir| {
        let file = dir.join(program);
        nix::unistd::access(&file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_users_path_leaves_out_comes_last() {
        let of = |path: &str| completed(OsStr::new(path)).map(|p| p.into_string().unwrap());
        assert_eq!(of("/usr/bin:/bin").as_deref(), Some("/usr/bin:/bin:/usr/sbin:/sbin"));
        assert_eq!(of("/sbin:/bin").as_deref(), Some("/sbin:/bin:/usr/sbin"));
        assert_eq!(of("").as_deref(), Some("/usr/sbin:/sbin"));
        assert_eq!(of("/usr/sbin:/usr/bin:/sbin:/bin"), None);
    }

    #[test]
    fn what_a_program_says_is_the_cause() {
        let error = feed(Command::new("sh").args(["-c", "cat >&2; exit 3"]), "no such table").unwrap_err();
        assert_eq!(error.causes(), ["no such table"]);
    }

    #[test]
    fn a_missing_program_is_the_environments_fault() {
        let error = feed(&mut Command::new("no-such-program-here"), "").unwrap_err();
        assert_eq!(error.kind(), Kind::Environment);
    }

    fn sh(script: &str, patience: Duration) -> Ended {
        run_within(Command::new("sh").args(["-c", script]), patience).unwrap()
    }

    #[test]
    fn a_command_ends_with_its_status_and_output() {
        let ended = sh("echo out; echo err >&2; exit 3", Duration::from_secs(10));
        assert_eq!((ended.status, ended.stdout, ended.stderr), (Some(3), b"out\n".into(), b"err\n".into()));
        assert_eq!(sh("kill -9 $$", Duration::from_secs(10)).status, Some(137));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let start = Instant::now();
        let ended = sh("echo first; exec sleep 60", Duration::from_millis(100));
        assert_eq!((ended.status, ended.stdout), (None, b"first\n".into()));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_runs_on_behind_it_is_not_waited_for() {
        let start = Instant::now();
        assert_eq!(sh("sleep 20 & echo done", Duration::from_secs(15)).stdout, b"done\n");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn endless_output_is_cut() {
        let ended = sh("exec yes", Duration::from_millis(200));
        assert_eq!((ended.status, ended.stdout.len()), (None, KEPT));
    }

    #[test]
    fn output_is_returned() {
        assert_eq!(feed(&mut Command::new("cat"), "words").unwrap(), "words");
    }
}
