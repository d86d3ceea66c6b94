//! Labs that are up. A name, or nothing, goes in; their state, namespaces and end come out. It never needs the lab
//! file, and it clears away what labs left that were killed together with their watcher.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::Namespaces;
use super::control::{Client, Request};
use super::dir::{self, Holder};
use super::state::State;
use crate::error::{Context, Error, Kind, Result};
use crate::fastpath::Config;
use crate::plan;
use crate::sys::pidfd;

/// How long the kernel may take to end a lab.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab that is up.
#[derive(Debug)]
pub struct Running {
    dir: PathBuf,
    state: State,
}

impl Running {
    /// The lab called `name`.
    ///
    /// # Errors
    /// If there is none, naming those there are.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_in(&dir::base()?, name)
    }

    /// The same, of the labs whose state is in `base`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(base: &Path, name: &str) -> Result<Self> {
        match find(base, name)? {
            Found::Up(running) => Ok(*running),
            Found::Starting => Err(Error::usage(format!("lab {name} is still coming up"))),
            Found::Nothing => Err(unknown(name, &names()?)),
        }
    }

    /// The lab called `name`, or without a name the only one.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn open_or_only(name: Option<&str>) -> Result<Self> {
        name.map_or_else(Self::only, Self::open)
    }

    /// The only lab.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn only() -> Result<Self> {
        let mut labs = Self::list()?;
        match (labs.pop(), labs.is_empty()) {
            (Some(lab), true) => Ok(lab),
            (Some(last), false) => {
                let mut names: Vec<_> = labs.iter().map(Self::name).collect();
                names.push(last.name());
                Err(Error::usage("several labs are up").hint(format!("name one: {}", names.join(", "))))
            }
            (None, _) => Err(Error::usage("no lab is up").hint("bring one up: vilab up FILE")),
        }
    }

    /// All labs that are up, by name.
    ///
    /// # Errors
    /// If the state directory cannot be read.
    pub fn list() -> Result<Vec<Self>> {
        let base = dir::base()?;
        let mut labs = Vec::new();
        for name in names()? {
            if let Found::Up(running) = find(&base, &name)? {
                labs.push(*running);
            }
        }
        Ok(labs)
    }

    /// The same lab, as its state is now. Unlike by its name it is found from inside its user namespace too.
    ///
    /// # Errors
    /// If it has gone down.
    pub fn again(&self) -> Result<Self> {
        let state = State::read(&self.dir)
            .doing(Kind::Environment, || format!("cannot look at lab {}", self.name()))?;
        let state = state.ok_or_else(|| Error::usage(format!("lab {} is no longer up", self.name())))?;
        Ok(Self { dir: self.dir.clone(), state })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.lab.name
    }

    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its namespaces, as seen from outside the lab.
    #[must_use]
    pub fn namespaces(&self) -> Namespaces {
        Namespaces::of(self.state.init, &self.dir)
    }

    /// Where the fast path listens, if a base node of the lab uses it.
    #[must_use]
    pub fn fastpath_control(&self) -> Option<PathBuf> {
        super::engine::config_file(&self.dir).exists().then(|| super::control_socket(&self.dir))
    }

    /// Where what watches strands listens, if the kernel carries links over parallel underlays.
    #[must_use]
    pub fn strands_control(&self) -> Option<PathBuf> {
        super::strands::config_file(&self.dir).exists().then(|| super::strands_socket(&self.dir))
    }

    /// What the engine has been told, if one runs.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn engine_config(&self) -> Result<Option<Config>> {
        self.fastpath_control().map(|_| super::engine::read_config(&self.dir)).transpose()
    }

    /// Has init start the engine, where none runs.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_engine(&self) -> Result<()> {
        if self.fastpath_control().is_some() {
            return Ok(());
        }
        self.write_config(&Config::default())?;
        let started = self.init()?.tell(&Request::Engine);
        if started.is_err() {
            let _absent = fs::remove_file(super::engine::config_file(&self.dir));
        }
        started
    }

    /// Changes what is known of the lab, for later commands and for an engine that is started anew.
    ///
    /// # Errors
    /// If the state cannot be read or written.
    pub fn amend(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        let what = || format!("cannot change the state of lab {}", self.name());
        let _lock = dir::lock_state(&self.dir).doing(Kind::Environment, what)?;
        let state = State::read(&self.dir).doing(Kind::Environment, what)?;
        let mut state = state.ok_or_else(|| Error::environment(what()).because("it is gone"))?;
        change(&mut state);
        state.write(&self.dir)?;
        if self.fastpath_control().is_some() {
            let mut config = super::engine::read_config(&self.dir)?;
            plan::impair(&state.lab, &state.dataplanes, state.netem, &mut config);
            self.write_config(&config)?;
        }
        self.state = state;
        Ok(())
    }

    fn write_config(&self, config: &Config) -> Result<()> {
        super::engine::write_config(&self.dir, config)
            .doing(Kind::Environment, || format!("cannot write the engine's part of lab {}", self.name()))
    }

    /// A connection to its init.
    ///
    /// # Errors
    /// If init does not listen.
    pub fn init(&self) -> Result<Client> {
        Client::connect(&super::init_socket(&self.dir))
    }

    /// The directory of what services print, one file each, and one older.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        super::logs_dir(&self.dir)
    }

    /// What the lab's own processes complained of.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(dir::LOG)
    }

    /// Joins the lab's user namespace, which entering its other namespaces takes, if it has one of its own. The
    /// process must have one thread.
    ///
    /// # Errors
    /// If the lab is somebody else's.
    pub fn join(&self) -> Result<()> {
        super::user::join(self.state.init)
    }
}

/// Ends lab `name` even if it is only coming up. Its state is not read: that of a large lab takes longer than its end.
///
/// # Errors
/// If there is none, or it does not end.
pub fn end(name: &str) -> Result<()> {
    let base = dir::base()?;
    let path = base.join(name);
    let looking = || format!("cannot look at lab {name}");
    let holder = match is_name(name) {
        true => dir::holder(&path).doing(Kind::Environment, looking)?,
        false => Holder::Nobody,
    };
    match holder {
        Holder::Watcher(watcher) => {
            super::capture::end(&path);
            kill(&watcher, Signal::SIGTERM, name)?;
            await_end(&watcher, &path, name)
        }
        Holder::Nobody => Err(unknown(name, &names()?)),
    }
}

fn kill(process: &OwnedFd, signal: Signal, name: &str) -> Result<()> {
    match pidfd::send_signal(process, signal) {
        // It has ended already.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.doing(Kind::Environment, || format!("cannot end lab {name}")),
    }
}

fn await_end(watcher: &OwnedFd, dir: &Path, name: &str) -> Result<()> {
    let what = || format!("cannot end lab {name}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(watcher.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => {
                return Err(
                    Error::kernel(what()).because(format!("its watcher still runs after {PATIENCE:?}"))
                );
            }
            other => {
                other.doing(Kind::Environment, what)?;
                break;
            }
        }
    }
    dir::holder(dir).doing(Kind::Environment, what)?;
    Ok(())
}

enum Found {
    Up(Box<Running>),
    /// The watcher is there, the state is not.
    Starting,
    Nothing,
}

fn find(base: &Path, name: &str) -> Result<Found> {
    if !is_name(name) {
        return Ok(Found::Nothing);
    }
    let path = base.join(name);
    let what = || format!("cannot look at lab {name}");
    match dir::holder(&path).doing(Kind::Environment, what)? {
        Holder::Nobody => Ok(Found::Nothing),
        Holder::Watcher(_) => {
            let Some(state) = State::read(&path).doing(Kind::Environment, what)? else {
                return Ok(Found::Starting);
            };
            match dir::holder(&path).doing(Kind::Environment, what)? {
                Holder::Watcher(_) => Ok(Found::Up(Box::new(Running { dir: path, state }))),
                Holder::Nobody => Ok(Found::Nothing),
            }
        }
    }
}

/// `[a-z][a-z0-9-]*`: nothing else may become a path.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Names of the directories there are, in order, whether or not a lab lives in them.
///
/// # Errors
/// If the state directory cannot be read.
pub fn names() -> Result<Vec<String>> {
    let base = dir::base()?;
    let entries =
        fs::read_dir(&base).doing(Kind::Environment, || format!("cannot read {}", base.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| is_name(name))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes what dead labs left; their names.
///
/// # Errors
/// If the state directory cannot be read.
pub fn clear() -> Result<Vec<String>> {
    let base = dir::base()?;
    let dead = |name: &String| matches!(dir::holder(&base.join(name)), Ok(Holder::Nobody));
    Ok(names()?.into_iter().filter(dead).collect())
}

fn unknown(name: &str, names: &[String]) -> Error {
    let error = Error::usage(format!("no lab called {name} is up"));
    match names {
        [] => error,
        names => error.hint(format!("up: {}", names.join(", "))),
    }
}
