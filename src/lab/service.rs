//! One service: its program, its place in the lab, its log, and its life so far. What happens to it goes in; its
//! process is started or ended. It never waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

use super::control::Status;
use super::course::{Act, Course, Event, Exit, State};
use super::enter::Nodes;
use super::logs::Log;
use super::ready::{Watch, tables};
use crate::apply;
use crate::model::Restart;
use crate::plan;
use crate::sys::child;

/// Bytes taken from a service's output at once.
const PIECE: usize = 64 << 10;
/// Starts that end before it is ready after which it is given up while the lab comes up.
const ATTEMPTS: u32 = 3;

/// What a service is made of.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) what: plan::Service,
    /// Runs in a node; else it is one of the lab's own processes, in init's namespaces.
    pub(super) in_node: bool,
    pub(super) course: Course,
    pub(super) pid: Option<Pid>,
    pub(super) watch: Option<Watch>,
    log: Log,
    /// Both ends of what it prints into; kept open, so that it never ends.
    output: (OwnedFd, OwnedFd),
    /// Why it could not be started.
    unstarted: Option<String>,
    was_ready: bool,
    /// How often it had been started, less one, when those behind it were told.
    told: u32,
}

/// What every service of a lab is started with.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// Name of the lab.
    pub(super) lab: String,
    /// Where services of nodes work: the directory of the lab file.
    pub(super) home: std::path::PathBuf,
    pub(super) logs: std::path::PathBuf,
}

/// A process that has been started, and the socket tables of its place.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) tables: Vec<File>,
}

impl Service {
    pub(super) fn new(what: plan::Service, in_node: bool, around: &Surroundings) -> io::Result<Self> {
        let log = Log::open(&around.logs.join(&what.log))?;
        let output = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nonblocking(&output.0)?;
        Ok(Self {
            course: Course::new(what.restart, what.ready.is_some()),
            what,
            in_node,
            pid: None,
            watch: None,
            log,
            output,
            unstarted: None,
            was_ready: false,
            told: 0,
        })
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.0.as_fd()
    }

    /// The command that starts it.
    pub(super) fn command(&self, around: &Surroundings) -> io::Result<Command> {
        if !self.in_node {
            return own_command(&self.what.argv, &self.output.1);
        }
        let mut command = node_command(&self.what.argv, &self.what.netns, around)?;
        command.stdout(self.output.1.try_clone()?).stderr(self.output.1.try_clone()?);
        Ok(command)
    }

    /// A command that tells whether it is ready.
    pub(super) fn question(&self, argv: &[String], around: &Surroundings) -> io::Result<Command> {
        let mut command = node_command(argv, &self.what.netns, around)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    /// It has been started, or could not be.
    pub(super) fn started(&mut self, outcome: Result<Started, String>, now: Instant) {
        match outcome {
            Ok(started) => {
                self.pid = Some(started.pid);
                self.unstarted = None;
                self.was_ready = false;
                self.watch = self.what.ready.as_ref().map(|r| Watch::new(r, started.tables, now));
                self.course.handle(Event::Spawned, now);
            }
            Err(why) => {
                self.note(&why);
                self.unstarted = Some(why);
                self.course.handle(Event::Exited(Exit::Unstarted), now);
            }
        }
    }

    pub(super) fn ended(&mut self, exit: Exit, now: Instant) -> Act {
        // What it said last may be that it was ready.
        if self.read() {
            self.ready(now);
        }
        if let Some(pid) = self.pid.take().filter(|_| self.in_node) {
            // What it leaves in its group would be in the way of the next.
            let _none = killpg(pid, Signal::SIGKILL);
        }
        self.watch = None;
        let act = self.course.handle(Event::Exited(exit), now);
        let pause = self.course.due().map(|at| at.saturating_duration_since(now).as_millis());
        let next = pause.map(|ms| format!("; it starts again in {ms} ms")).unwrap_or_default();
        self.note(&format!("it {exit}{next}"));
        act
    }

    /// Whether it runs anew, which those behind it have not been told; they are, from then on.
    pub(super) fn is_anew(&mut self) -> bool {
        let restarts = self.course.restarts();
        let anew = self.course.state() == State::Running && restarts > self.told;
        if anew {
            self.told = restarts;
        }
        anew
    }

    pub(super) fn ready(&mut self, now: Instant) {
        self.watch = None;
        self.was_ready = true;
        self.course.handle(Event::Ready, now);
    }

    /// Moves what it has printed into its log; true if that says that it is ready.
    pub(super) fn read(&mut self) -> bool {
        let mut piece = vec![0; PIECE];
        let mut told = false;
        // One piece: who prints without end must not keep init from the others.
        if let Ok(n) = nix::unistd::read(&self.output.0, &mut piece)
            && n > 0
        {
            // A full disk takes the log and not the service.
            let _lost = self.log.write(&piece[..n]);
            told = self.watch.as_mut().is_some_and(|w| w.heard(&piece[..n]));
        }
        told
    }

    fn note(&mut self, text: &str) {
        let _lost = self.log.note(text);
    }

    /// Sends a signal to its process and those it started in the same group.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may not have come to make its group, or has left it: then it alone gets the signal.
            let _ended = killpg(pid, signal).or_else(|_| kill(pid, signal));
        }
    }

    pub(super) fn status(&self) -> Status {
        Status {
            name: self.what.name.clone(),
            node: self.in_node.then(|| apply::place(&self.what.netns)),
            argv: self.what.argv.clone(),
            state: self.course.state(),
            pid: self.pid.map(Pid::as_raw),
            restarts: self.course.restarts(),
            last: self.course.last(),
            log: self.what.log.clone(),
        }
    }

    /// Why the lab cannot come up with it, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some(why) = &self.unstarted {
            return Some(why.clone());
        }
        let exit = self.course.last().filter(|_| self.what.ready.is_some() && !self.was_ready)?;
        let over = match self.course.state() {
            State::Ended | State::Stopped => true,
            State::Pausing => self.course.restarts() + 1 >= ATTEMPTS,
            State::Waiting | State::Starting | State::Running | State::Stopping => false,
        };
        over.then(|| format!("it {exit} before it was ready"))
    }

    /// What it still waits for, in words.
    pub(super) fn lacks(&self) -> String {
        self.what.ready.as_ref().map_or_else(|| "it does not run".to_owned(), Watch::words)
    }

    pub(super) fn announces(&self) -> bool {
        self.what.ready.is_some()
    }
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// One of the lab's own processes: this program under another name, `argv` being that name, then arguments.
fn own_command(argv: &[String], output: &OwnedFd) -> io::Result<Command> {
    let (name, arguments) = argv.split_first().ok_or(ErrorKind::InvalidInput)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(output.try_clone()?);
    child::block(&mut command, SigSet::empty());
    Ok(command)
}

fn node_command(argv: &[String], netns: &str, around: &Surroundings) -> io::Result<Command> {
    let (program, arguments) = argv.split_first().ok_or(ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    command.env("VILAB_LAB", &around.lab).env("VILAB_NODE", apply::place(netns));
    child::block(&mut command, SigSet::empty());
    Ok(command)
}

/// Starts commands in one node, in order; each outcome.
pub(super) fn start_in(
    nodes: &Nodes,
    netns: &str,
    home: &Path,
    commands: Vec<io::Result<Command>>,
) -> Vec<Result<Started, String>> {
    let count = commands.len();
    let inside = nodes.inside(netns, || {
        // Where the lab file lies in a place that is closed to the lab, / it is.
        let _or = nix::unistd::chdir(home).or_else(|_| nix::unistd::chdir("/"));
        commands.into_iter().map(start).collect::<Vec<_>>()
    });
    inside.unwrap_or_else(|e| (0..count).map(|_| Err(e.to_string())).collect())
}

/// Starts a command where the calling thread is.
pub(super) fn start(command: io::Result<Command>) -> Result<Started, String> {
    let mut command = command.map_err(|e| e.to_string())?;
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|e| format!("cannot run {program}: {e}"))?;
    let pid = i32::try_from(child.id()).map_err(|e| e.to_string())?;
    Ok(Started { pid: Pid::from_raw(pid), tables: tables() })
}

/// The lab's own process `name`, which is started again whenever it ends.
pub(super) fn own(name: &str, argv: Vec<String>) -> plan::Service {
    plan::Service {
        name: name.to_owned(),
        netns: String::new(),
        argv,
        restart: Restart::Always,
        ready: None,
        behind: None,
        log: name.to_owned(),
    }
}

/// Services by number, in the order of their start.
pub(super) type Services = BTreeMap<u64, Service>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ready;

    fn service(dir: &Path, ready: Option<Ready>) -> Service {
        let what = plan::Service {
            name: "web".into(),
            netns: "b.X".into(),
            argv: vec!["true".into()],
            restart: Restart::OnFailure,
            ready,
            behind: None,
            log: "web".into(),
        };
        let around = Surroundings { lab: "one".into(), home: "/".into(), logs: dir.to_owned() };
        Service::new(what, true, &around).unwrap()
    }

    fn up(service: &mut Service) {
        let started = Started { pid: Pid::from_raw(i32::MAX), tables: Vec::new() };
        service.started(Ok(started), Instant::now());
    }

    #[test]
    fn those_behind_it_are_told_of_each_new_start_once_when_it_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let mut zebra = service(dir.path(), Some(Ready::Tcp(80)));
        up(&mut zebra);
        zebra.ready(Instant::now());
        assert!(!zebra.is_anew(), "the first start is nothing new");
        for _ in 0..2 {
            zebra.ended(Exit::Signal(9), Instant::now());
            up(&mut zebra);
            assert!(!zebra.is_anew(), "it is not ready");
            zebra.ready(Instant::now());
            assert!(zebra.is_anew());
            assert!(!zebra.is_anew());
        }
    }

    #[test]
    fn one_that_ends_unready_three_times_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut web = service(dir.path(), Some(Ready::Tcp(80)));
        for attempt in 1..=3 {
            assert_eq!(web.trouble(), None);
            up(&mut web);
            web.ended(Exit::Status(2), Instant::now());
            assert_eq!(web.trouble().is_some(), attempt == 3, "{attempt}");
        }
        assert_eq!(web.trouble().unwrap(), "it ended with exit status 2 before it was ready");
    }

    #[test]
    fn one_that_says_nothing_about_being_ready_may_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut once = service(dir.path(), None);
        up(&mut once);
        once.ended(Exit::Status(0), Instant::now());
        assert_eq!((once.trouble(), once.course.state()), (None, State::Ended));
    }

    #[test]
    fn one_that_ends_right_after_it_has_said_that_it_is_ready_was_ready() {
        let dir = tempfile::tempdir().unwrap();
        let mut once = service(dir.path(), Some(Ready::Log("done".into())));
        up(&mut once);
        nix::unistd::write(&once.output.1, b"it is done\n").unwrap();
        once.ended(Exit::Status(0), Instant::now());
        assert_eq!((once.trouble(), once.course.state()), (None, State::Ended));
    }

    #[test]
    fn one_that_cannot_be_started_is_trouble_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut web = service(dir.path(), None);
        web.started(Err("cannot run web: no such file".into()), Instant::now());
        assert_eq!(web.trouble().unwrap(), "cannot run web: no such file");
        let log = std::fs::read_to_string(dir.path().join("web")).unwrap();
        assert_eq!(log, "[vilab] cannot run web: no such file\n");
    }
}
