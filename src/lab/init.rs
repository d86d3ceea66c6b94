//! PID 1 of a lab. The job comes on standard input; the lab comes to be in namespaces of this process, and what it
//! has to say goes to the watcher on standard output. It never leaves anything outside its namespaces but the state
//! directory, which is the watcher's to remove.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::message::{Failure, Message};
use super::state::{self, Job, State};
use super::{Namespaces, mounts};
use crate::apply::{self, Progress, StageTime, Timings};
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::sys::child;

/// The subcommand under which [`super::engine::run`] is started.
pub const ENGINE: &str = "lab-engine";
/// How long the engine may take until it forwards.
const ENGINE_START: Duration = Duration::from_secs(30);
/// An engine that ends sooner than this after its start is started again only when this time has passed.
const ENGINE_PAUSE: Duration = Duration::from_secs(1);

/// Checks a lab that has just been built: what of it works is not this module's to know.
///
/// The path is the control socket of the fast path, where there is one.
pub type Verify<'a> =
    &'a dyn Fn(&State, &Namespaces, Option<PathBuf>, &mut dyn FnMut(&Progress)) -> Result<()>;

/// Runs the lab whose state directory is `dir` for as long as it is up.
///
/// # Errors
/// If it cannot be built; the watcher has been told.
pub fn run(dir: &Path, watcher: i32, verify: Verify<'_>) -> Result<()> {
    let result = build(dir, watcher, verify).and_then(supervise);
    if let Err(e) = &result {
        let _gone = Message::Failed(Failure::from(e)).send(io::stdout());
    }
    result
}

fn build(dir: &Path, watcher: i32, verify: Verify<'_>) -> Result<Option<Engine>> {
    let building = || "cannot make the lab's namespaces".to_owned();
    tie_to_watcher().doing(Kind::Environment, building)?;
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(flags).doing(Kind::Environment, building)?;
    mounts::own_namespace().doing(Kind::Environment, building)?;
    // The host's /proc, which is still here, knows this process by the id that the host does.
    let init = host_pid().doing(Kind::Environment, building)?;
    mounts::fresh_proc();
    mounts::fresh_sys();
    let job: Job = serde_json::from_reader(io::BufReader::new(io::stdin()))
        .doing(Kind::Bug, || "cannot read the plan".into())?;
    nix::unistd::sethostname(&job.lab.name).doing(Kind::Environment, building)?;
    let namespaces = prepare(dir, &job).doing(Kind::Environment, building)?;
    let mut timings = apply::run(&job.plan, &namespaces, &mut tell)?;
    let engine = if job.plan.fastpath.is_some() {
        Some(timed(&mut timings, "fast path", || Engine::start(dir, &job.lab.name))?)
    } else {
        None
    };
    let mut state = State {
        schema: state::SCHEMA.to_owned(),
        init,
        watcher,
        created: state::now(),
        file: job.file,
        dataplanes: job.plan.dataplanes,
        why: job.plan.why,
        timings: Timings::new(),
        lab: job.lab,
    };
    let control = engine.as_ref().map(|_| super::control_socket(dir));
    timed(&mut timings, "verify", || verify(&state, &namespaces, control, &mut tell))?;
    state.timings.clone_from(&timings);
    state.write(dir)?;
    let _gone = Message::Ready(timings).send(io::stdout());
    Ok(engine)
}

/// Dies with the watcher, whenever and however that dies. If it died before this process could ask for that, its
/// end of standard output is closed.
fn tie_to_watcher() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    prctl::set_name(c"vilab-init")?;
    if hung_up(PollTimeout::ZERO)? { Err(io::Error::from(io::ErrorKind::BrokenPipe)) } else { Ok(()) }
}

fn hung_up(timeout: PollTimeout) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut fds, timeout)?;
    Ok(fds[0].any().unwrap_or(true))
}

fn host_pid() -> io::Result<i32> {
    let link = fs::read_link("/proc/self")?;
    link.to_string_lossy().parse().map_err(io::Error::other)
}

fn tell(progress: &Progress) {
    let _gone = Message::Progress(progress.clone()).send(io::stdout());
}

fn timed<T>(timings: &mut Timings, stage: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = f()?;
    timings.push(StageTime { stage: stage.to_owned(), ms: start.elapsed().as_secs_f64() * 1000.0 });
    Ok(result)
}

/// The namespace files' own file system, which ends with the lab, and the hosts files.
fn prepare(dir: &Path, job: &Job) -> io::Result<Namespaces> {
    let ns = super::namespaces_dir(dir);
    fs::create_dir(&ns)?;
    mounts::tmpfs(&ns)?;
    let hosts = super::hosts_dir(dir);
    fs::create_dir(&hosts)?;
    for (netns, view) in &job.plan.views {
        if let Some(text) = view.files.get("/etc/hosts") {
            fs::write(hosts.join(netns), text)?;
        }
    }
    if let Some(config) = &job.plan.fastpath {
        fs::write(super::engine::config_file(dir), serde_json::to_vec(config)?)?;
    }
    Ok(Namespaces::at(ns))
}

fn children() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The engine process of the fast path.
#[derive(Debug)]
struct Engine {
    dir: PathBuf,
    name: String,
    pid: Option<Pid>,
    started: Instant,
}

impl Engine {
    fn start(dir: &Path, lab: &str) -> Result<Self> {
        let (dir, name) = (dir.to_owned(), lab.to_owned());
        let mut engine = Self { dir, name, pid: None, started: Instant::now() };
        let child = engine.spawn().doing(Kind::Environment, || "cannot start the fast path".into())?;
        ready(child)?;
        Ok(engine)
    }

    fn spawn(&mut self) -> io::Result<Child> {
        let mut command = process::myself(&format!("vilab: fast path {}", self.name), ENGINE);
        child::block(&mut command, SigSet::empty());
        let child = command.arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        self.pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
        self.started = Instant::now();
        Ok(child)
    }

    /// Starts the engine anew, not at once if it has ended just after its start.
    fn restart(&mut self) {
        if self.pid.is_none() && self.pause().is_zero() {
            // The next round tries again: `started` is as it was, so without a pause.
            let _failed = self.spawn();
        }
    }

    fn pause(&self) -> Duration {
        ENGINE_PAUSE.saturating_sub(self.started.elapsed())
    }
}

/// Waits for the engine's word that it forwards.
fn ready(mut child: Child) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Error::environment("the fast path does not start").because(e);
    let Some(mut stdout) = child.stdout.take() else { return Ok(()) };
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(ENGINE_START).unwrap_or(PollTimeout::MAX);
    let answered = poll(&mut fds, limit).map_err(|e| fail(&e))?;
    if answered == 0 {
        return Err(fail(&format!("no word from it in {ENGINE_START:?}")));
    }
    let mut text = String::new();
    stdout.read_to_string(&mut text).map_err(|e| fail(&e))?;
    match Message::parse(&text) {
        Some(Message::Failed(failure)) => Err(Error::from(failure)),
        Some(Message::Ready(_)) => Ok(()),
        Some(Message::Progress(_)) | None => Err(fail(&"it ended without a word; see the lab's log")),
    }
}

/// A lab that is up, and what PID 1 has to look after.
#[derive(Debug)]
struct Supervised {
    children: SignalFd,
    engine: Option<Engine>,
}

/// Reaps orphans and restarts the engine until the watcher is gone, which the kernel answers with SIGKILL anyway.
fn supervise(engine: Option<Engine>) -> Result<()> {
    let failed = || "cannot look after the lab's processes".to_owned();
    let mut lab = Supervised { children: children().doing(Kind::Environment, failed)?, engine };
    loop {
        reap(&mut lab);
        let timeout = match &mut lab.engine {
            Some(engine) => {
                engine.restart();
                let pause = engine.pid.is_none().then(|| engine.pause().max(Duration::from_millis(10)));
                pause.map_or(PollTimeout::NONE, |p| PollTimeout::try_from(p).unwrap_or(PollTimeout::MAX))
            }
            None => PollTimeout::NONE,
        };
        if wait(&lab.children, timeout).doing(Kind::Bug, failed)? {
            return Ok(());
        }
    }
}

/// True when the watcher is gone.
fn wait(children: &SignalFd, timeout: PollTimeout) -> io::Result<bool> {
    let stdout = io::stdout();
    let mut fds =
        [PollFd::new(children.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())];
    match poll(&mut fds, timeout) {
        Err(nix::errno::Errno::EINTR) => return Ok(false),
        other => other?,
    };
    let gone = fds[1].any().unwrap_or(true);
    while children.read_signal()?.is_some() {}
    Ok(gone)
}

fn reap(lab: &mut Supervised) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
        if let Some(engine) = &mut lab.engine
            && engine.pid == status.pid()
        {
            engine.pid = None;
        }
    }
}
