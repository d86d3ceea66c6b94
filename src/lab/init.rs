//! PID 1 of a lab. The job comes on standard input; the lab comes to be in namespaces of this process, and what it
//! has to say goes to the watcher on standard output. It never leaves anything outside its namespaces but the state
//! directory, which is the watcher's to remove.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::enter::Nodes;
use super::message::{Failure, Message};
use super::state::{self, Job, State};
use super::supervisor::Supervisor;
use super::view::{self, Views};
use super::{Namespaces, mounts, service};
use crate::apply::{self, Linux, Progress, StageTime, Timings};
use crate::error::{Context, Error, Kind, Result};
use crate::model::LinkMeasured;
use crate::model::names::host_name;
use crate::names;
use crate::plan::{self, Plan, Service};
use crate::routing::Rib;

/// The subcommand under which [`super::engine::run`] is started.
pub const ENGINE: &str = "lab-engine";
/// The subcommand under which [`super::engine::answer`] is started.
pub const ANSWERS: &str = "lab-names";
/// The subcommand under which [`super::isis::run`] is started.
pub const ISIS: &str = "lab-isis";
/// The subcommand under which [`super::recursion::run`] is started.
pub const ROUTERS: &str = "lab-routers";
/// The subcommand under which [`super::strands::run`] is started.
pub const STRANDS: &str = "lab-strands";

/// The subcommand under which [`super::capture::run`] is started.
pub const TAPS: &str = "lab-capture";

/// One of the lab's own processes: its name as a service, in words, and its subcommand.
pub(super) struct Own {
    pub(super) name: &'static str,
    what: &'static str,
    subcommand: &'static str,
}

pub(super) const FASTPATH: Own = Own { name: "fastpath", what: "fast path", subcommand: ENGINE };
pub(super) const NAMES: Own = Own { name: "names", what: "name server", subcommand: ANSWERS };
pub(super) const ADAPTER: Own = Own { name: "isis", what: "IS-IS adapter", subcommand: ISIS };
pub(super) const EMULATED: Own = Own { name: "routers", what: "emulated routers", subcommand: ROUTERS };
pub(super) const CAPTURE: Own = Own { name: "capture", what: "capture", subcommand: TAPS };
pub(super) const WATCH: Own = Own { name: "strands", what: "strands", subcommand: STRANDS };

/// How long one of them may take until it does its work.
const OWN_START: Duration = Duration::from_secs(30);
/// How long services may take until they are ready; those of the network longer than until it has been verified.
const SERVICE_START: Duration = Duration::from_secs(30);
/// And for each of many that start at once: they share the processors.
const SERVICE_SHARE: Duration = Duration::from_secs(5);
/// The stages of services.
pub const NETWORK: &str = "services";
pub const APPS: &str = "apps";

/// Checks a lab that has just been built: what of it works is not this module's to know. How long each stage of it
/// took comes back, and what the impaired links do.
///
/// The path is the control socket of the fast path, where there is one; the time is [`Job::patience`].
pub type Verify<'a> = &'a (
        dyn Fn(
    &State,
    &Rib,
    &Namespaces,
    Option<PathBuf>,
    Option<Duration>,
    &mut dyn FnMut(&Progress),
) -> Result<(Timings, Vec<LinkMeasured>)>
            + Sync
    );

/// Runs the lab whose state directory is `dir` for as long as it is up.
///
/// # Errors
/// If it cannot be built; the watcher has been told.
pub fn run(dir: &Path, watcher: i32, verify: Verify<'_>) -> Result<()> {
    let looking_after = || "cannot look after the lab's processes".to_owned();
    let result = build(dir, watcher, verify).and_then(|mut s| s.run().doing(Kind::Bug, looking_after));
    if let Err(e) = &result {
        complain(e);
    }
    result
}

fn build(dir: &Path, watcher: i32, verify: Verify<'_>) -> Result<Supervisor> {
    let building = || "cannot make the lab's namespaces".to_owned();
    tie_to_watcher().doing(Kind::Environment, building)?;
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(flags).doing(Kind::Environment, building)?;
    mounts::own_namespace().doing(Kind::Environment, building)?;
    // The host's /proc, which is still here, knows this process by the id that the host does.
    let init = host_pid().doing(Kind::Environment, building)?;
    mounts::fresh_proc();
    mounts::fresh_sys();
    let mut job = Vec::new();
    let reading = || "cannot read the plan".to_owned();
    io::stdin().read_to_end(&mut job).doing(Kind::Bug, reading)?;
    let job: Job = serde_json::from_slice(&job).doing(Kind::Bug, reading)?;
    nix::unistd::sethostname(&job.lab.name).doing(Kind::Environment, building)?;
    let outline = plan::build(&job.lab, &Rib::default(), &job.machine)?;
    let (namespaces, nodes) = prepare(dir, &outline).doing(Kind::Environment, building)?;
    let mut kernel = Linux::new(namespaces.clone())?;
    // Namespaces need no routes, and files no namespaces: the kernel works, and what else is to be done is done beside it.
    let (rib, plan, mut timings) = thread::scope(|scope| {
        let planning = scope.spawn(|| {
            let rib = Rib::compute(&job.lab);
            plan::build(&job.lab, &rib, &job.machine).map(|plan| (rib, plan))
        });
        let timings = apply::execute(&mut kernel, &outline.stages[..1], &mut tell);
        let (rib, plan) = planning.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, Error>((rib, plan, timings?))
    })?;
    thread::scope(|scope| {
        let writing = scope.spawn(|| write_all(dir, &job, &plan));
        let configured = apply::execute(&mut kernel, &plan.stages[1..], &mut tell);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        timings.extend(configured?);
        written.doing(Kind::Environment, building)
    })?;
    drop(kernel);
    let home = job.file.parent().unwrap_or(Path::new("/"));
    let mut supervisor =
        Supervisor::new(dir, &job.lab.name, home, nodes).doing(Kind::Environment, building)?;
    if job.capture.is_some() {
        // Before anything that sends.
        timed(&mut timings, CAPTURE.what, || start_own(&mut supervisor, dir, &CAPTURE))?;
    }
    if plan.fastpath.is_some() {
        timed(&mut timings, "fast path", || start_own(&mut supervisor, dir, &FASTPATH))?;
    }
    if plan.isis.is_some() {
        timed(&mut timings, ADAPTER.what, || start_own(&mut supervisor, dir, &ADAPTER))?;
    }
    if plan.routers.is_some() {
        timed(&mut timings, EMULATED.what, || start_own(&mut supervisor, dir, &EMULATED))?;
    }
    if plan.strands.is_some() {
        timed(&mut timings, WATCH.what, || start_own(&mut supervisor, dir, &WATCH))?;
    }
    let owned = plan.has_owners();
    let mut state = State {
        schema: state::SCHEMA.to_owned(),
        init,
        watcher,
        created: state::now(),
        file: job.file,
        dataplanes: plan.dataplanes,
        why: plan.why,
        netem: plan.netem,
        timings: Timings::new(),
        measured: Vec::new(),
        lab: job.lab,
    };
    let control = plan.fastpath.as_ref().map(|_| super::control_socket(dir));
    start_services(&mut supervisor, &plan.services, NETWORK, &mut timings)?;
    // It has its sockets to open in every node while the network is verified. Where an app answers for names itself, the port
    // is that app's.
    let early = plan.apps.is_empty().then(|| launch_own(&mut supervisor, dir, &NAMES)).transpose()?;
    let (verified, measured) =
        beside(&mut supervisor, || verify(&state, &rib, &namespaces, control, job.patience, &mut tell))?;
    timings.extend(verified);
    state.measured = measured;
    start_services(&mut supervisor, &plan.apps, APPS, &mut timings)?;
    timed(&mut timings, "names", || match early {
        Some(names) => names.ready(),
        None => start_own(&mut supervisor, dir, &NAMES),
    })?;
    if owned {
        super::door::open(dir).doing(Kind::Environment, || "cannot let owners of VIs in".into())?;
    }
    state.timings.clone_from(&timings);
    state.write(dir)?;
    let _gone = Message::Ready(timings).send(io::stdout());
    Ok(supervisor)
}

/// Starts services and waits until those that say when they are ready are.
fn start_services(
    supervisor: &mut Supervisor,
    services: &[Service],
    stage: &str,
    timings: &mut Timings,
) -> Result<()> {
    if services.is_empty() {
        return Ok(());
    }
    let starting = || format!("cannot start the {stage}");
    timed(timings, stage, || {
        supervisor.add(services).doing(Kind::Environment, starting)?;
        let share = SERVICE_SHARE.saturating_mul(u32::try_from(services.len()).unwrap_or(u32::MAX));
        supervisor.settle(None, SERVICE_START.saturating_add(share), &mut |done, total| {
            tell(&Progress { stage: stage.to_owned(), done, total });
        })
    })
}

/// Does `work` on a thread while the services are looked after. A service that fails ends the lab at once.
fn beside<T: Send>(supervisor: &mut Supervisor, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let (reader, writer) = UnixStream::pair().doing(Kind::Environment, || "cannot make a socket".into())?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let result = work();
            drop(writer);
            result
        });
        let settled = supervisor.settle(Some(reader.as_fd()), SERVICE_START, &mut |_, _| {});
        if let Err(e) = &settled {
            // The work may take long yet, and nobody waits for it any more.
            complain(e);
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and_then(|value| settled.map(|()| value))
    })
}

fn complain(e: &Error) {
    let _gone = Message::Failed(Failure::from(e)).send(io::stdout());
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

pub(super) fn tell(progress: &Progress) {
    let _gone = Message::Progress(progress.clone()).send(io::stdout());
}

pub(super) fn timed<T>(timings: &mut Timings, stage: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = f()?;
    timings.push(StageTime { stage: stage.to_owned(), ms: start.elapsed().as_secs_f64() * 1000.0 });
    Ok(result)
}

/// The places of the nodes' files and of the namespaces, on file systems that end with the lab.
fn prepare(dir: &Path, outline: &Plan) -> io::Result<(Namespaces, Nodes)> {
    Views::of(dir).prepare(outline.views.values())?;
    let nodes = Nodes::of(dir)?;
    let ns = super::namespaces_dir(dir);
    fs::create_dir(&ns)?;
    mounts::tmpfs(&ns)?;
    Ok((Namespaces::at(ns), nodes))
}

/// The files of the nodes and of the lab's own processes, and the plan.
fn write_all(dir: &Path, job: &Job, plan: &Plan) -> io::Result<()> {
    let hostnames = job.lab.nodes().map(|n| (n.netns.as_str(), host_name(&n.name))).collect();
    view::put_all(&Views::of(dir), &plan.views, &hostnames)?;
    if let Some(config) = &plan.fastpath {
        fs::write(super::engine::config_file(dir), serde_json::to_vec(config)?)?;
    }
    if let Some(config) = &plan.isis {
        fs::write(super::isis::config_file(dir), serde_json::to_vec(config)?)?;
    }
    if let Some(config) = &plan.routers {
        fs::write(super::recursion::config_file(dir), serde_json::to_vec(config)?)?;
    }
    if let Some(config) = &plan.strands {
        fs::write(super::strands::config_file(dir), serde_json::to_vec(config)?)?;
    }
    if let Some(capture) = &job.capture {
        fs::write(super::capture::config_file(dir), serde_json::to_vec(capture)?)?;
    }
    fs::write(super::engine::names_file(dir), serde_json::to_vec(&names::Config::of(&job.lab))?)?;
    super::change::write_plan(dir, plan)
}

/// Starts one of the lab's own processes and waits until it says that it does its work.
pub(super) fn start_own(supervisor: &mut Supervisor, dir: &Path, own: &Own) -> Result<()> {
    launch_own(supervisor, dir, own)?.ready()
}

/// One of the lab's own processes that has just been started.
struct Launched {
    child: Child,
    what: &'static str,
}

/// Starts one of the lab's own processes.
fn launch_own(supervisor: &mut Supervisor, dir: &Path, own: &Own) -> Result<Launched> {
    let lab = dir.file_name().unwrap_or_default().to_string_lossy();
    let title = format!("vilab: {} {lab}", own.what);
    let argv = [title, own.subcommand.to_owned(), dir.to_string_lossy().into_owned()];
    supervisor.add_own(service::own(own.name, argv.into()), |mut command| {
        let child = command.stdout(Stdio::piped()).spawn();
        let child = child.doing(Kind::Environment, || format!("cannot start the {}", own.what))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Ok((pid, Launched { child, what: own.what }))
    })
}

impl Launched {
    /// Waits for the process's word that it does its work.
    fn ready(mut self) -> Result<()> {
        let what = self.what;
        let fail =
            |e: &dyn std::fmt::Display| Error::environment(format!("the {what} does not start")).because(e);
        let Some(mut stdout) = self.child.stdout.take() else { return Ok(()) };
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(OWN_START).unwrap_or(PollTimeout::MAX);
        let answered = poll(&mut fds, limit).map_err(|e| fail(&e))?;
        if answered == 0 {
            return Err(fail(&format!("no word from it in {OWN_START:?}")));
        }
        let mut text = String::new();
        stdout.read_to_string(&mut text).map_err(|e| fail(&e))?;
        match Message::parse(&text) {
            Some(Message::Failed(failure)) => Err(Error::from(failure)),
            Some(Message::Ready(_)) => Ok(()),
            Some(Message::Progress(_)) | None => Err(fail(&"it ended without a word; see the lab's log")),
        }
    }
}
