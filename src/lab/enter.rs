//! Running a command in a node. A running lab, a node and a command go in; the command's exit status comes out. It
//! never lets the command outlive this process: it gets SIGKILL when this process ends without having waited.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::door::Door;
use super::view::Views;
use super::{Running, mounts};
use crate::apply;
use crate::error::{Context, Error, Kind, Result};
use crate::model::NodeId;
use crate::sys::{child, pidfd};

/// Shell convention: not found, found but not executable, ended by signal n as 128 + n.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
const BY_SIGNAL: i32 = 128;

/// Signals that are passed on when somebody sends them to this process; those the terminal sends reach the command
/// by themselves, as it is in the same process group.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Runs `argv` in a node with the caller's environment and `vars`, and returns its exit status. The process must
/// have one thread; it stays in the node.
///
/// # Errors
/// If the node cannot be entered. That the command cannot be run is a status, and `complain` is told why.
pub fn run_in(
    lab: &Running,
    node: NodeId,
    argv: &[OsString],
    vars: &[(&str, String)],
    complain: &mut dyn FnMut(&Error),
) -> Result<u8> {
    run_after(|| enter(lab, node), argv, vars, complain)
}

/// The same for the owner of a VI of somebody else's lab, by the full name of the node.
///
/// # Errors
/// As [`run_in`], and if the node is not the caller's.
pub fn run_as_owner(
    door: &Door,
    node: &str,
    argv: &[OsString],
    vars: &[(&str, String)],
    complain: &mut dyn FnMut(&Error),
) -> Result<u8> {
    run_after(|| door.enter(node), argv, vars, complain)
}

/// Runs `argv` where `enter` brings this process.
fn run_after(
    enter: impl FnOnce() -> Result<()>,
    argv: &[OsString],
    vars: &[(&str, String)],
    complain: &mut dyn FnMut(&Error),
) -> Result<u8> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    enter()?;
    if std::env::set_current_dir(&cwd).is_err() {
        std::env::set_current_dir("/").doing(Kind::Environment, || "cannot enter /".into())?;
    }
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Error::usage("no command to run"));
    };
    let (signals, before) =
        block_signals().doing(Kind::Environment, || "cannot prepare for signals".into())?;
    let mut command = Command::new(program);
    command.args(arguments).envs(vars.iter().map(|(k, v)| (k, v)));
    child::die_with_parent(&mut command);
    child::block(&mut command, before);
    match command.spawn() {
        Ok(child) => attend(&child, &signals)
            .doing(Kind::Environment, || format!("cannot wait for {}", program.to_string_lossy())),
        Err(e) => {
            complain(&Error::environment(format!("cannot run {}", program.to_string_lossy())).because(&e));
            Ok(if e.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
        }
    }
}

fn enter(lab: &Running, id: NodeId) -> Result<()> {
    let state = lab.state();
    let node = state.lab.node(id);
    let what = || format!("cannot enter {}", state.lab.full_name(id));
    lab.join()?;
    join(state.init, &lab.namespaces().path(&node.netns))
        .and_then(|()| settle(lab.dir(), &node.netns))
        .doing(Kind::Environment, what)
}

/// Joins the namespaces of the lab whose init is `init`, and a network namespace, from outside; the lab's user
/// namespace has been joined. The caller shares its working directory with no other thread.
fn join(init: i32, netns: &Path) -> io::Result<()> {
    let of_init = |ns: &str| File::open(format!("/proc/{init}/ns/{ns}"));
    let (pid, mnt, ipc) = (of_init("pid")?, of_init("mnt")?, of_init("ipc")?);
    let net = File::open(netns)?;
    setns(pid, CloneFlags::CLONE_NEWPID)
        .and_then(|()| setns(ipc, CloneFlags::CLONE_NEWIPC))
        .and_then(|()| setns(net, CloneFlags::CLONE_NEWNET))
        .and_then(|()| setns(mnt, CloneFlags::CLONE_NEWNS))?;
    Ok(())
}

/// Puts the calling thread, which is to end, into a node of a lab from outside.
pub(super) fn visit(init: i32, lab: &Path, netns: &Path, name: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    join(init, netns)?;
    settle(lab, name)
}

/// Gives the caller, which is in the lab's mount namespace and in the network namespace `netns`, the view of that
/// node: mount and UTS namespaces of its own, its files, its host name.
fn settle(dir: &Path, netns: &str) -> io::Result<()> {
    mounts::own_namespace()?;
    unshare(CloneFlags::CLONE_NEWUTS)?;
    mounts::fresh_sys();
    Views::of(dir).enter(netns)
}

/// The nodes of a lab, as its init enters them.
#[derive(Debug)]
pub(super) struct Nodes {
    dir: PathBuf,
    /// The lab's mount namespace as it was before the files of its network namespaces were mounted: services get copies of
    /// it, and a lab of a thousand nodes has a thousand such files.
    mounts: File,
}

impl Nodes {
    /// Those of the lab whose state directory is `dir`, as it is mounted at this moment.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let copy = || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            File::open("/proc/thread-self/ns/mnt")
        };
        let mounts = on_thread(copy)?;
        Ok(Self { dir: dir.to_owned(), mounts })
    }

    /// The state directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Calls `f` in a node, on a thread that ends; the caller is the lab's init. Processes started there are in the node.
    ///
    /// # Errors
    /// If the node cannot be entered.
    pub(super) fn inside<T: Send>(&self, netns: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || {
            let net = File::open(super::namespaces_dir(&self.dir).join(netns))?;
            unshare(CloneFlags::CLONE_FS)?;
            setns(net, CloneFlags::CLONE_NEWNET)?;
            setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
            settle(&self.dir, netns)
        };
        on_thread(|| enter().map(|()| f()))
            .doing(Kind::Environment, || format!("cannot enter {}", apply::place(netns)))
    }
}

/// Calls `f` in a node, on a thread that ends; the caller is in the lab's mount namespace.
///
/// # Errors
/// If the node cannot be entered.
pub(super) fn inside<T: Send>(dir: &Path, netns: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    let enter = || {
        let net = File::open(super::namespaces_dir(dir).join(netns))?;
        unshare(CloneFlags::CLONE_FS)?;
        setns(net, CloneFlags::CLONE_NEWNET)?;
        settle(dir, netns)
    };
    on_thread(|| enter().map(|()| f()))
        .doing(Kind::Environment, || format!("cannot enter {}", apply::place(netns)))
}

/// Calls `f` on a thread of its own, which may be left anywhere.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// A descriptor to read signals from, and the signals that were blocked before, which the command starts with.
fn block_signals() -> nix::Result<(SignalFd, SigSet)> {
    let mut set: SigSet = PASSED_ON.into_iter().collect();
    set.add(Signal::SIGCHLD);
    // Taking the terminal back from a shell that ended in a process group of its own must not stop us.
    set.add(Signal::SIGTTOU);
    let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok((SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?, before))
}

fn attend(child: &Child, signals: &SignalFd) -> io::Result<u8> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let fd = pidfd::open(pid.as_raw())?;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED))? {
            WaitStatus::Exited(_, code) => return Ok(ended(code)),
            WaitStatus::Signaled(_, signal, _) => return Ok(ended(BY_SIGNAL + signal as i32)),
            WaitStatus::Stopped(..) => {
                stop();
                // Whoever continued us may not have continued the whole process group.
                let _ended = pidfd::send_signal(&fd, Signal::SIGCONT);
            }
            WaitStatus::StillAlive
            | WaitStatus::Continued(_)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_) => {
                let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::NONE)?;
            }
        }
        while let Some(info) = signals.read_signal()? {
            if let Some(signal) = to_pass_on(&info) {
                let _ended = pidfd::send_signal(&fd, signal);
            }
        }
    }
}

/// A signal that was sent to this process and not to its process group by the terminal.
fn to_pass_on(info: &siginfo) -> Option<Signal> {
    let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
    (PASSED_ON.contains(&signal) && info.ssi_code != libc::SI_KERNEL).then_some(signal)
}

/// Stops as the command has stopped, so that the shell that started us notices.
fn stop() {
    take_terminal();
    let _stopped = raise(Signal::SIGSTOP);
}

fn ended(code: i32) -> u8 {
    take_terminal();
    u8::try_from(code & 0xff).unwrap_or(u8::MAX)
}

/// Takes the terminal back from a process group that is gone: a shell with job control puts itself into a group of
/// its own and gives the terminal to that, which ends with the shell. A living group, that of the shell that has put
/// us into the background say, keeps it.
fn take_terminal() {
    let stdin = io::stdin();
    let gone = |group| group != getpgrp() && killpg(group, None).is_err();
    if stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(gone) {
        let _kept = tcsetpgrp(&stdin, getpgrp());
    }
}
