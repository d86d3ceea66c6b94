//! What PID 1 of a lab does while the lab is up: it starts the services, keeps their output, starts them again,
//! reaps orphans and answers requests. Services go in; it ends when the watcher does. It never polls while there is
//! nothing to wait for but events, and then uses no time at all.

mod exchange;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::control::{Reply, Request, Server};
use super::course::{Act, Event, Exit, State};
use super::door;
use super::enter::Nodes;
use super::init;
use super::logs;
use super::service::{self, Service, Services, Started, Surroundings};
use crate::error::{Error, Kind, Result};
use crate::plan;

/// Lines of a log that an error quotes.
const QUOTED: usize = 10;
/// Events taken at once.
const EVENTS: usize = 64;

// What an event is about: one of these, or a client, or a service's output.
const CHILDREN: u64 = 0;
const WATCHER: u64 = 1;
const LISTENER: u64 = 2;
const OTHER: u64 = 3;
const CLIENT: u64 = 1 << 32;
const OUTPUT: u64 = 1 << 33;

/// A request that has been taken and is answered when the service has come to rest.
#[derive(Debug)]
struct Pending {
    client: u64,
    service: u64,
    /// The service is asked to run, not to stop.
    run: bool,
}

/// Everything PID 1 looks after.
#[derive(Debug)]
pub(super) struct Supervisor {
    nodes: Nodes,
    around: Surroundings,
    services: Services,
    next: u64,
    epoll: Epoll,
    children: SignalFd,
    control: Server,
    pending: Vec<Pending>,
    exchanges: Vec<exchange::Exchange>,
    watchers: watch::Watchers,
    /// Another thread of init waits for children of its own: only those known here are reaped.
    shared: bool,
}

/// How [`Supervisor::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    On,
    /// The watcher has gone, or what was waited for has come.
    WatcherGone,
    Other,
}

impl Supervisor {
    /// # Errors
    /// If the kernel refuses a descriptor.
    pub(super) fn new(dir: &Path, lab: &str, home: &Path, nodes: Nodes) -> io::Result<Self> {
        let logs = super::logs_dir(dir);
        std::fs::create_dir(&logs)?;
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        let children = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let control = Server::bind(&super::init_socket(dir))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&children, EpollEvent::new(EpollFlags::EPOLLIN, CHILDREN))?;
        // A hang-up is always told.
        epoll.add(io::stdout().as_fd(), EpollEvent::new(EpollFlags::empty(), WATCHER))?;
        epoll.add(control.listener(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        Ok(Self {
            nodes,
            around: Surroundings { lab: lab.to_owned(), home: home.to_owned(), logs },
            services: Services::new(),
            next: 0,
            epoll,
            children,
            control,
            pending: Vec::new(),
            exchanges: Vec::new(),
            watchers: watch::Watchers::default(),
            shared: false,
        })
    }

    /// Takes services on, to be started in their order; those of one node one after the other, each when those before
    /// it that say when they are ready are ready.
    pub(super) fn add(&mut self, services: &[plan::Service]) -> io::Result<()> {
        for what in services {
            self.take(what.clone(), true)?;
        }
        Ok(())
    }

    /// Takes on one of the lab's own processes, which `start` starts with standard error to its log.
    pub(super) fn add_own<T>(
        &mut self,
        what: plan::Service,
        start: impl FnOnce(Command) -> Result<(Pid, T)>,
    ) -> Result<T> {
        let name = what.name.clone();
        let failed = |e: io::Error| Error::environment(format!("cannot start {name}")).because(e);
        let id = self.take(what, false).map_err(failed)?;
        let service = self.services.get_mut(&id).ok_or_else(|| Error::bug("no such service"))?;
        let (pid, started) = start(service.command(&self.around).map_err(failed)?)?;
        service.started(Ok(Started { pid, tables: Vec::new() }), Instant::now());
        Ok(started)
    }

    fn take(&mut self, what: plan::Service, in_node: bool) -> io::Result<u64> {
        let id = self.next;
        self.next += 1;
        let service = Service::new(what, in_node, &self.around)?;
        self.epoll.add(service.output(), EpollEvent::new(EpollFlags::EPOLLIN, OUTPUT | id))?;
        self.services.insert(id, service);
        Ok(id)
    }

    // ---- running -----------------------------------------------------------------------------------------

    /// Looks after everything until the watcher is gone, which the kernel answers with SIGKILL anyway.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            self.advance();
            if self.wait(None)? == Turn::WatcherGone {
                return Ok(());
            }
        }
    }

    /// Looks after everything until `other` has been hung up and all services are settled; `progress` hears how many
    /// are.
    ///
    /// # Errors
    /// If a service does not get there, `patience` after `other` at the latest, or the watcher has gone.
    pub(super) fn settle(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        patience: Duration,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        if let Some(fd) = other {
            let event = EpollEvent::new(EpollFlags::empty(), OTHER);
            self.epoll.add(fd, event).map_err(|e| failed(&e.into()))?;
        }
        self.shared = other.is_some();
        let result = self.until_settled(other.is_some(), patience, progress);
        self.shared = false;
        if let Some(fd) = other {
            // Closed already, perhaps: then it is no longer there to be removed.
            let _gone = self.epoll.delete(fd);
        }
        result
    }

    fn until_settled(
        &mut self,
        mut waiting: bool,
        patience: Duration,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let mut deadline = (!waiting).then(|| Instant::now() + patience);
        loop {
            self.advance();
            let settled = self.services.values().filter(|s| s.course.settled()).count();
            progress(settled, self.services.len());
            if let Some((service, why)) = self.services.values().find_map(|s| Some((s, s.trouble()?))) {
                return Err(self.quote(service, &why));
            }
            if !waiting && settled == self.services.len() {
                return Ok(());
            }
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Err(self.late(patience));
            }
            match self.wait(deadline).map_err(|e| failed(&e))? {
                Turn::On => {}
                Turn::WatcherGone => return Err(Error::environment("the lab's watcher has gone")),
                Turn::Other if waiting => {
                    waiting = false;
                    deadline = Some(Instant::now() + patience);
                }
                Turn::Other => {}
            }
        }
    }

    fn late(&self, patience: Duration) -> Error {
        match self.services.values().find(|s| !s.course.settled()) {
            Some(service) => {
                let why = format!("after {} s {}", patience.as_secs(), service.lacks());
                self.quote(service, &why)
            }
            None => Error::bug("no service is late"),
        }
    }

    /// A service's failure with the end of what it printed.
    fn quote(&self, service: &Service, why: &str) -> Error {
        let what = &service.what;
        let place = crate::apply::place(&what.netns);
        let verb = if service.announces() { "does not become ready" } else { "does not start" };
        let error = Error::new(Kind::Failed, format!("`{}` on {place} {verb}", what.name)).because(why);
        let (tail, _) = logs::tail(&self.around.logs.join(&what.log), Some(QUOTED)).unwrap_or_default();
        let tail = String::from_utf8_lossy(&tail);
        if tail.trim().is_empty() {
            return error.because("it printed nothing");
        }
        let lines: Vec<String> = tail.lines().map(|l| format!("\n    {l}")).collect();
        error.because(format!("its output ends with{}", lines.concat()))
    }

    /// Does what is due.
    fn advance(&mut self) {
        self.due();
        self.renew();
        self.start();
        self.ask();
        self.answer_pending();
        self.answer_exchanges();
        self.tell_watchers();
    }

    /// Waits for something to happen, until `limit` at most, and deals with it.
    fn wait(&mut self, limit: Option<Instant>) -> io::Result<Turn> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, self.timeout(limit)) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        let mut turn = Turn::On;
        for event in &events[..count] {
            match event.data() {
                CHILDREN => {
                    while self.children.read_signal()?.is_some() {}
                    self.reap();
                }
                WATCHER => turn = Turn::WatcherGone,
                LISTENER => self.accept()?,
                OTHER if turn == Turn::On => turn = Turn::Other,
                id if id & OUTPUT != 0 => self.read(id & !OUTPUT),
                id if id & CLIENT != 0 => self.hear(id & !CLIENT),
                _ => {}
            }
        }
        Ok(turn)
    }

    fn timeout(&self, limit: Option<Instant>) -> EpollTimeout {
        let now = Instant::now();
        let due = |s: &Service| {
            let watch = s.watch.as_ref().and_then(|w| w.due(now));
            s.course.due().into_iter().chain(watch).min()
        };
        let Some(next) = self.services.values().filter_map(due).chain(limit).min() else {
            return EpollTimeout::NONE;
        };
        // Rounded up: what is due is due when the time has come.
        let wait = next.saturating_duration_since(now) + Duration::from_micros(999);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    // ---- starting ----------------------------------------------------------------------------------------

    /// Tells services whose time has come, and looks whether starting ones are ready.
    fn due(&mut self) {
        let now = Instant::now();
        for service in self.services.values_mut() {
            if service.watch.as_mut().is_some_and(|w| w.look().unwrap_or(false)) {
                service.ready(now);
            }
            // Those that are to be started are found by `start`.
            let stopping = service.course.state() == State::Stopping;
            if stopping && service.course.due().is_some_and(|at| at <= now) {
                let act = service.course.handle(Event::Due, now);
                carry_out(service, act);
            }
        }
    }

    /// Starts those anew whose service has been started anew.
    fn renew(&mut self) {
        let anew: BTreeSet<String> =
            self.services.values_mut().filter_map(|s| s.is_anew().then(|| s.what.name.clone())).collect();
        if anew.is_empty() {
            return;
        }
        let now = Instant::now();
        let runs = |s: &&mut Service| matches!(s.course.state(), State::Starting | State::Running);
        let behind = |s: &&mut Service| s.what.behind.as_ref().is_some_and(|name| anew.contains(name));
        for service in self.services.values_mut().filter(behind).filter(runs) {
            let act = service.course.handle(Event::Restart, now);
            carry_out(service, act);
        }
    }

    /// Starts what is to be started, nodes side by side.
    fn start(&mut self) {
        loop {
            let batch = self.batch(Instant::now());
            if batch.is_empty() {
                return;
            }
            self.spawn(&batch);
        }
    }

    /// Which services are to be started, by node: those whose pause is over, and those whose turn it is.
    fn batch(&self, now: Instant) -> BTreeMap<String, Vec<u64>> {
        let mut batch: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut held: BTreeMap<&str, bool> = BTreeMap::new();
        for (id, service) in &self.services {
            let before = held.entry(&service.what.netns).or_default();
            let turn = match service.course.state() {
                State::Waiting => !*before,
                State::Pausing => service.course.due().is_some_and(|at| at <= now),
                State::Starting | State::Running | State::Stopping | State::Stopped | State::Ended => false,
            };
            if turn {
                batch.entry(service.what.netns.clone()).or_default().push(*id);
            }
            *before |= service.in_node && service.announces() && !service.course.settled();
        }
        batch
    }

    fn spawn(&mut self, batch: &BTreeMap<String, Vec<u64>>) {
        let jobs = batch.iter().filter_map(|(netns, ids)| self.job(netns, ids));
        let (own, jobs): (Vec<Job>, Vec<Job>) = jobs.partition(|job| job.netns.is_empty());
        let (nodes, home) = (&self.nodes, self.around.home.as_path());
        let share = jobs.len().div_ceil(threads()).max(1);
        let mut jobs = jobs.into_iter();
        let outcomes: Vec<(u64, Result<Started, String>)> = thread::scope(|scope| {
            let mut workers = Vec::new();
            loop {
                let part: Vec<Job> = jobs.by_ref().take(share).collect();
                if part.is_empty() {
                    break;
                }
                let run = move || part.into_iter().flat_map(|j| j.run(nodes, home)).collect::<Vec<_>>();
                workers.push(scope.spawn(run));
            }
            let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
            joined.flat_map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        // Their life hangs on that of the thread that starts them (PR_SET_PDEATHSIG): this one stays.
        let own = own.into_iter().flat_map(|job| job.run(nodes, home));
        let outcomes: Vec<_> = own.chain(outcomes).collect();
        let now = Instant::now();
        for (id, outcome) in outcomes {
            if let Some(service) = self.services.get_mut(&id) {
                service.started(outcome, now);
            }
        }
    }

    fn job(&self, netns: &str, ids: &[u64]) -> Option<Job> {
        let commands: Vec<_> =
            ids.iter().filter_map(|id| Some(self.services.get(id)?.command(&self.around))).collect();
        (commands.len() == ids.len()).then(|| Job { netns: netns.to_owned(), ids: ids.to_vec(), commands })
    }

    /// Runs the commands that tell whether services are ready.
    fn ask(&mut self) {
        let now = Instant::now();
        for service in self.services.values_mut() {
            let Some(argv) = service.watch.as_mut().and_then(|w| w.command(now)).map(<[String]>::to_vec)
            else {
                continue;
            };
            let command = service.question(&argv, &self.around);
            let started =
                service::start_in(&self.nodes, &service.what.netns, &self.around.home, vec![command]);
            let pid = started.into_iter().find_map(std::result::Result::ok).map(|s| s.pid);
            if let Some(watch) = &mut service.watch {
                watch.runs(pid, Instant::now());
            }
        }
    }

    // ---- events ------------------------------------------------------------------------------------------

    fn reap(&mut self) {
        if self.shared {
            let known: Vec<Pid> = self.services.values().flat_map(processes).collect();
            for pid in known {
                if let Ok(status) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                    self.ended(status);
                }
            }
            return;
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                return;
            }
            self.ended(status);
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        let (pid, exit) = match status {
            WaitStatus::Exited(pid, code) => (pid, Exit::Status(code)),
            WaitStatus::Signaled(pid, signal, _) => (pid, Exit::Signal(signal as i32)),
            WaitStatus::Stopped(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_) => return,
        };
        let now = Instant::now();
        // An orphan of a service's is nobody's.
        let Some((id, service)) = self.services.iter_mut().find(|(_, s)| processes(s).any(|p| p == pid))
        else {
            return;
        };
        if service.pid != Some(pid) {
            if service.watch.as_mut().is_some_and(|w| w.ended(exit, now)) {
                service.ready(now);
            }
            return;
        }
        if service.ended(exit, now) == Act::Spawn {
            let batch = BTreeMap::from([(service.what.netns.clone(), vec![*id])]);
            self.spawn(&batch);
        }
    }

    fn read(&mut self, id: u64) {
        if let Some(service) = self.services.get_mut(&id)
            && service.read()
        {
            service.ready(Instant::now());
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some((id, fd)) = self.control.accept()? {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, CLIENT | id))?;
        }
        Ok(())
    }

    fn hear(&mut self, client: u64) {
        for request in self.control.hear(client) {
            let reply = request.map_or_else(|why| Some(Reply::Refused(why)), |r| self.carry_out(client, &r));
            if let Some(reply) = reply {
                self.control.answer(client, &reply);
            }
        }
    }

    // ---- requests ----------------------------------------------------------------------------------------

    /// Carries a request out; its answer, unless that has to wait.
    fn carry_out(&mut self, client: u64, request: &Request) -> Option<Reply> {
        let (name, event, run) = match request {
            Request::Services => {
                return Some(Reply::Services(self.services.values().map(Service::status).collect()));
            }
            Request::Engine => return Some(self.own(&init::FASTPATH)),
            Request::Adapter => return Some(self.own(&init::ADAPTER)),
            Request::Routers => return Some(self.own(&init::EMULATED)),
            Request::Strands => return Some(self.own(&init::WATCH)),
            Request::Door => return Some(self.open_door()),
            Request::Watch => return Some(self.watch(client)),
            Request::Start { service } => (service, Event::Start, true),
            Request::Stop { service } => (service, Event::Stop, false),
            Request::Restart { service } => (service, Event::Restart, true),
            Request::Keep { services } => return self.keep(client, services),
            Request::Take { services } => return self.take_on(client, services),
        };
        let Some((id, service)) = self.services.iter_mut().find(|(_, s)| s.what.name == *name) else {
            return Some(Reply::Refused(format!("the lab has no service `{name}`")));
        };
        let id = *id;
        let act = service.course.handle(event, Instant::now());
        if act == Act::Spawn {
            let batch = BTreeMap::from([(service.what.netns.clone(), vec![id])]);
            self.spawn(&batch);
        } else {
            carry_out(service, act);
        }
        self.pending.push(Pending { client, service: id, run });
        None
    }

    /// Starts one of the lab's own processes where there is none; it is looked after like any service from then on.
    fn own(&mut self, own: &init::Own) -> Reply {
        if self.services.values().any(|s| !s.in_node && s.what.name == own.name) {
            return Reply::Done;
        }
        let dir = self.nodes.dir().to_owned();
        match init::start_own(self, &dir, own) {
            Ok(()) => Reply::Done,
            Err(e) => Reply::Refused(e.to_string()),
        }
    }

    /// Lets owners of VIs in, if that has not been done.
    pub(super) fn open_door(&self) -> Reply {
        let dir = self.nodes.dir();
        let opened = if door::is_open(dir) { Ok(()) } else { door::open(dir) };
        opened.map_or_else(|e| Reply::Refused(format!("cannot let owners of VIs in: {e}")), |()| Reply::Done)
    }

    /// Answers the requests whose services have come to rest.
    fn answer_pending(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            let Some(service) = self.services.get(&pending.service) else { continue };
            let name = &service.what.name;
            let reply = match (service.course.state(), pending.run) {
                (State::Running, true) | (State::Stopped | State::Ended, false) => Reply::Done,
                (State::Ended, true) if service.course.last() == Some(Exit::Status(0)) => Reply::Done,
                (State::Pausing | State::Ended, true) => {
                    let exit = service.course.last().map(|e| e.to_string()).unwrap_or_default();
                    Reply::Refused(format!("`{name}` {exit}; see `vilab logs {name}`"))
                }
                (State::Stopped, true) => Reply::Refused(format!("`{name}` has been stopped")),
                (State::Waiting | State::Starting | State::Stopping, _)
                | (State::Running | State::Pausing, false) => {
                    self.pending.push(pending);
                    continue;
                }
            };
            self.control.answer(pending.client, &reply);
        }
    }
}

/// The services of one node that are started together.
struct Job {
    netns: String,
    ids: Vec<u64>,
    commands: Vec<io::Result<Command>>,
}

impl Job {
    fn run(self, nodes: &Nodes, home: &Path) -> Vec<(u64, Result<Started, String>)> {
        let started = if self.netns.is_empty() {
            self.commands.into_iter().map(service::start).collect()
        } else {
            service::start_in(nodes, &self.netns, home, self.commands)
        };
        self.ids.into_iter().zip(started).collect()
    }
}

fn carry_out(service: &Service, act: Act) {
    match act {
        Act::Terminate => service.signal(Signal::SIGTERM),
        Act::Kill => service.signal(Signal::SIGKILL),
        Act::Nothing | Act::Spawn => {}
    }
}

/// The processes that are a service's: itself, and the command that tells whether it is ready.
fn processes(service: &Service) -> impl Iterator<Item = Pid> {
    service.pid.into_iter().chain(service.watch.as_ref().and_then(super::ready::Watch::process))
}

fn threads() -> usize {
    thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8)
}

fn failed(e: &io::Error) -> Error {
    Error::bug("cannot look after the lab's processes").because(e)
}
