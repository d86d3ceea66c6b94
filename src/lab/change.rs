//! Changing a lab that is up. What is to be done goes in, worked out from the plan of the lab and that of the file; the
//! change happens in a process inside the lab's namespaces, and messages come out. It never leaves the record wrong: while
//! a change is under way both plans lie in the state directory, and one that was cut short is made good by the next.
//!
//! ```text
//! plan.json         what the lab has been built from
//! plan.json.new     what a change is making of it; left behind by one that was cut short
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::control::{self, Client};
use super::dir::{HALF, PLAN, PLAN_UNFINISHED};
use super::init::{self, Verify, tell, timed};
use super::message::{Failure, Message};
use super::state::State;
use super::view::{self, Views};
use super::{Namespaces, Running, reconfigure};
use crate::apply::{self, Progress, Timings};
use crate::error::{Context, Error, Kind, Result};
use crate::fastpath::control as engine;
use crate::model::names::host_name;
use crate::names;
use crate::plan::{Change, Plan, View};
use crate::process;
use crate::routing::{Faults, Rib};

/// The subcommand under which [`run`] is started.
pub const CHANGE: &str = "lab-change";

/// The plans of a running lab.
#[derive(Debug, Clone)]
pub struct Plans {
    /// What it has been built from.
    pub built: Plan,
    /// What a change that was cut short was making of it.
    pub unfinished: Option<Plan>,
}

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// As it is to be afterwards.
    pub state: State,
    pub plan: Plan,
    pub change: Change,
    /// Services of nodes differ, so that init must be told.
    pub services: bool,
    /// The fast path differs.
    pub fastpath: bool,
    /// What carries IS-IS over virtual links differs.
    pub isis: bool,
    /// What serves emulated routers differs.
    pub routers: bool,
    /// What watches strands differs, or what it watches.
    pub strands: bool,
    /// Namespaces with another view than before.
    pub views: Vec<String>,
    /// Files of FRR as they were, by namespace and path, of daemons that go on with others.
    pub before: BTreeMap<String, View>,
    /// How long routing may take to settle.
    pub patience: Option<Duration>,
}

/// A lab that nobody else changes.
#[derive(Debug)]
pub struct Turn {
    _lock: Flock<File>,
}

impl Running {
    /// Waits until nobody else changes the lab. A process started meanwhile keeps others waiting until it ends.
    ///
    /// # Errors
    /// If the lab's directory cannot be locked.
    pub fn take_turn(&self) -> Result<Turn> {
        let what = || format!("cannot lock the state of lab {}", self.name());
        let lock = self.turn(FlockArg::LockExclusive)?;
        fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).doing(Kind::Environment, what)?;
        Ok(Turn { _lock: lock })
    }

    /// What is set down now.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn faults_now(&self, _turn: &Turn) -> Result<Faults> {
        self.read_faults()
    }

    /// The plans it has been built from.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn plans(&self) -> Result<Plans> {
        let what = || format!("cannot read the plan of lab {}", self.name());
        let built = read(&self.dir().join(PLAN)).doing(Kind::Environment, what)?;
        let built = built.ok_or_else(|| Error::environment(what()).because("there is none"))?;
        let unfinished = read(&self.dir().join(PLAN_UNFINISHED)).doing(Kind::Environment, what)?;
        Ok(Plans { built, unfinished })
    }

    /// Whether a file of this name, in the state directory, is the first that a change of it writes.
    #[must_use]
    pub fn is_begun_change(&self, name: &OsStr) -> bool {
        name == PLAN_UNFINISHED
    }

    /// Whether a change of it was cut short.
    #[must_use]
    pub fn is_half_changed(&self) -> bool {
        self.dir().join(PLAN_UNFINISHED).exists()
    }
}

/// `None` where there is no file, or one that was not written to its end.
fn read(path: &Path) -> io::Result<Option<Plan>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Notes what a lab has been built from.
pub(super) fn write_plan(dir: &Path, plan: &Plan) -> io::Result<()> {
    write(&dir.join(PLAN), plan)
}

/// A file that is written is whole: it gets its name at the end.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(HALF);
    fs::write(&half, serde_json::to_vec(value)?)?;
    fs::rename(half, path)
}

// ---- outside ---------------------------------------------------------------------------------------------------

/// A change that is under way. When this process ends the change goes on.
#[derive(Debug)]
pub struct Changing {
    child: Child,
    heard: BufReader<ChildStdout>,
}

impl Changing {
    /// Starts the change. The process, which must have one thread, stays in the lab's namespaces.
    ///
    /// # Errors
    /// If the lab cannot be entered.
    pub fn begin(lab: &Running, _turn: &Turn, job: &Job) -> Result<Self> {
        let what = || format!("cannot change lab {}", lab.name());
        let job = job_file(job).doing(Kind::Environment, what)?;
        let log = File::options().append(true).open(lab.log()).doing(Kind::Environment, what)?;
        lab.join()?;
        join(lab).doing(Kind::Environment, what)?;
        let mut child = process::myself(&format!("vilab: change of {}", lab.name()), CHANGE)
            .arg(lab.dir())
            .stdin(Stdio::from(job))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            .process_group(0)
            .spawn()
            .doing(Kind::Environment, what)?;
        let heard = child.stdout.take().ok_or_else(|| Error::bug(what()))?;
        Ok(Self { child, heard: BufReader::new(heard) })
    }

    /// Waits for the end; `progress` hears how far it has come.
    ///
    /// # Errors
    /// That of the change.
    pub fn follow(mut self, progress: &mut dyn FnMut(&Progress)) -> Result<Timings> {
        let result = loop {
            let mut line = String::new();
            // An end by signal is an end of the stream too.
            let _reset = self.heard.read_line(&mut line);
            match Message::parse(&line) {
                Some(Message::Progress(at)) => progress(&at),
                Some(Message::Ready(timings)) => break Ok(timings),
                Some(Message::Failed(failure)) => break Err(Error::from(failure)),
                None => {
                    let ended = Error::kernel("the change was cut short");
                    break Err(ended.hint("apply the file again: that makes it good"));
                }
            }
        };
        // It ends with its last word.
        let _status = self.child.wait();
        result
    }
}

fn job_file(job: &Job) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(&serde_json::to_vec(job)?)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// All of init's namespaces; children are in its PID namespace too.
fn join(lab: &Running) -> io::Result<()> {
    let of_init = |ns: &str| File::open(format!("/proc/{}/ns/{ns}", lab.state().init));
    let (pid, net, mnt) = (of_init("pid")?, of_init("net")?, of_init("mnt")?);
    setns(pid, CloneFlags::CLONE_NEWPID)?;
    setns(net, CloneFlags::CLONE_NEWNET)?;
    setns(mnt, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

// ---- inside ----------------------------------------------------------------------------------------------------

/// Changes the lab whose state directory is `dir`. The process is in the lab's namespaces.
///
/// # Errors
/// If something is refused; who waits has been told.
pub fn run(dir: &Path, verify: Verify<'_>) -> Result<()> {
    let result = carry_out(dir, verify);
    let word = match &result {
        Ok(timings) => Message::Ready(timings.clone()),
        Err(e) => Message::Failed(Failure::from(e)),
    };
    // Nobody may wait any more; the change has been made all the same.
    let _gone = word.send(io::stdout());
    result.map(drop)
}

fn carry_out(dir: &Path, verify: Verify<'_>) -> Result<Timings> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).doing(Kind::Bug, || "cannot read the change".into())?;
    let mut job: Job = serde_json::from_slice(&bytes).doing(Kind::Bug, || "cannot read the change".into())?;
    let noting = || "cannot note the change".to_owned();
    let views = Views::of(dir);
    check_views(&job)?;
    write(&dir.join(PLAN_UNFINISHED), &job.plan).doing(Kind::Environment, noting)?;
    let mut timings = Timings::new();
    let network = make(dir, &views, &job, &mut timings).map_err(|e| {
        e.hint(
            "the lab is up, changed in part; `vilab apply` with a file that can be carried out makes it good",
        )
    })?;
    let namespaces = Namespaces::at(super::namespaces_dir(dir));
    let control = super::engine::config_file(dir).exists().then(|| super::control_socket(dir));
    let rib = Rib::compute(&job.state.lab);
    let verified = verify(&job.state, &rib, &namespaces, control, job.patience, &mut tell);
    let apps = if job.services { timed(&mut timings, "apps", || take(dir, &job.plan.apps)) } else { Ok(()) };
    let verified = verified.map(|(took, measured)| {
        job.state.measured = measured;
        took
    });
    job.state.write(dir)?;
    fs::rename(dir.join(PLAN_UNFINISHED), dir.join(PLAN)).doing(Kind::Environment, noting)?;
    timings.extend(verified.map_err(|e| e.hint("the lab is what the file says, and does not work so"))?);
    apps.and(network)?;
    Ok(timings)
}

/// Everything but the apps; the inner result is that of what may fail and leaves the lab as the file says.
fn make(dir: &Path, views: &Views, job: &Job, timings: &mut Timings) -> Result<Result<()>> {
    let namespaces = Namespaces::at(super::namespaces_dir(dir));
    if job.services {
        timed(timings, "end services", || keep(dir, job))?;
    }
    timed(timings, "network", || apply::change(&job.change, &namespaces, &mut tell))?;
    put_views(views, job).doing(Kind::Environment, || "cannot write the nodes' files".into())?;
    if job.fastpath {
        timed(timings, "fast path", || run_fastpath(dir, job))?;
    }
    timed(timings, "names", || restart_own(dir, job))?;
    if job.plan.has_owners() {
        pid_one(dir)?.tell(&control::Request::Door)?;
    }
    let mut services = Ok(());
    if job.services {
        services = timed(timings, "services", || take(dir, &job.plan.services));
    }
    if !job.before.is_empty() {
        timed(timings, "routing daemons", || reconfigure::all(dir, &job.before, &job.plan.views))?;
    }
    Ok(services)
}

fn pid_one(dir: &Path) -> Result<Client> {
    Client::connect(&super::init_socket(dir))
}

fn keep(dir: &Path, job: &Job) -> Result<()> {
    let services = job.plan.services.iter().chain(&job.plan.apps).cloned().collect();
    pid_one(dir)?.tell(&control::Request::Keep { services })
}

fn take(dir: &Path, services: &[crate::plan::Service]) -> Result<()> {
    pid_one(dir)?.tell(&control::Request::Take { services: services.to_vec() })
}

/// An engine that has nothing to carry any more goes on with nothing.
fn run_fastpath(dir: &Path, job: &Job) -> Result<()> {
    let file = super::engine::config_file(dir);
    let ran = file.exists();
    let config = job.plan.fastpath.clone().unwrap_or_default();
    super::engine::write_config(dir, &config)
        .doing(Kind::Environment, || "cannot write the configuration of the fast path".to_owned())?;
    if ran {
        return engine::Client::connect(&super::control_socket(dir))?.reload(&file);
    }
    pid_one(dir)?.tell(&control::Request::Engine)
}

/// What answers for names and what carries IS-IS read what they must know when they start.
fn restart_own(dir: &Path, job: &Job) -> Result<()> {
    let noting = || "cannot write what the lab's own processes must know".to_owned();
    let restart = |name: &str| pid_one(dir)?.tell(&control::Request::Restart { service: name.to_owned() });
    if job.isis {
        let file = super::isis::config_file(dir);
        let ran = file.exists();
        write(&file, &job.plan.isis.clone().unwrap_or_default()).doing(Kind::Environment, noting)?;
        if ran { restart(init::ADAPTER.name)? } else { pid_one(dir)?.tell(&control::Request::Adapter)? }
    }
    if job.routers {
        let file = super::recursion::config_file(dir);
        let ran = file.exists();
        write(&file, &job.plan.routers.clone().unwrap_or_default()).doing(Kind::Environment, noting)?;
        if ran { restart(init::EMULATED.name)? } else { pid_one(dir)?.tell(&control::Request::Routers)? }
    }
    if job.strands {
        let file = super::strands::config_file(dir);
        let ran = file.exists();
        write(&file, &job.plan.strands.clone().unwrap_or_default()).doing(Kind::Environment, noting)?;
        match engine::Client::connect(&super::strands_socket(dir)) {
            _ if !ran => pid_one(dir)?.tell(&control::Request::Strands)?,
            Ok(mut watch) => watch.reload(&file)?,
            // It has been killed, and reads the file when it starts anew.
            Err(_) => restart(init::WATCH.name)?,
        }
    }
    let names = names::Config::of(&job.state.lab);
    let file = super::engine::names_file(dir);
    let known: Option<names::Config> = fs::read(&file).ok().and_then(|b| serde_json::from_slice(&b).ok());
    if known.as_ref() == Some(&names) {
        return Ok(());
    }
    write(&file, &names).doing(Kind::Environment, noting)?;
    restart(init::NAMES.name)
}

/// A lab makes places for files of its nodes when it comes up, before anything is mounted there.
fn check_views(job: &Job) -> Result<()> {
    for view in job.views.iter().filter_map(|ns| job.plan.views.get(ns)) {
        // What a directory brings along needs no place.
        let bound = |path: &&String| !view::inside(path, &view.dirs);
        let dirs = view.dirs.iter().filter(bound).filter(|path| !Path::new(path).is_dir());
        let files = view.files.keys().filter(bound).filter(|path| !Path::new(path).is_file());
        if let Some(path) = dirs.chain(files).next() {
            return Err(Error::usage(format!("{path} cannot be added to the nodes of a lab that is up"))
                .because("the machine has no such place, and the lab made none when it came up")
                .hint("take the lab down and up"));
        }
    }
    Ok(())
}

fn put_views(views: &Views, job: &Job) -> io::Result<()> {
    let hostnames = job.state.lab.nodes().map(|n| (n.netns.as_str(), host_name(&n.name))).collect();
    let wanted = job.views.iter().filter_map(|ns| Some((ns.clone(), job.plan.views.get(ns)?.clone())));
    view::put_all(views, &wanted.collect(), &hostnames)?;
    job.views.iter().filter(|ns| !job.plan.views.contains_key(*ns)).try_for_each(|ns| views.remove(ns))
}
