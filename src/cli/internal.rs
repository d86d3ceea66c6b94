//! The processes a lab is made of. Their arguments go in; they run until the lab ends. They never print: the lab
//! talks to `up` over its own socket.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Subcommand;

use super::{DONE, exec, machine, measure, test};
use crate::error::Result;
use crate::{lab, testing};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attends a lab from outside: started by up
    #[command(name = lab::WATCHER, hide = true)]
    Watcher { base: PathBuf, lab: String },
    /// PID 1 of a lab: started by its watcher
    #[command(name = lab::watcher::INIT, hide = true)]
    Init { dir: PathBuf, watcher: i32 },
    /// A change of a lab that is up: started by apply
    #[command(name = lab::change::CHANGE, hide = true)]
    Change { dir: PathBuf },
    /// The fast path of a lab: started by its init
    #[command(name = lab::init::ENGINE, hide = true)]
    Engine { dir: PathBuf },
    /// Answers for the names of a lab: started by its init
    #[command(name = lab::init::ANSWERS, hide = true)]
    Names { dir: PathBuf },
    /// IS-IS over the virtual links of a lab: started by its init
    #[command(name = lab::init::ISIS, hide = true)]
    Isis { dir: PathBuf },
    /// The emulated routers of a lab: started by its init
    #[command(name = lab::init::ROUTERS, hide = true)]
    Routers { dir: PathBuf },
    /// A capture of a lab from its beginning: started by a lab's init
    #[command(name = lab::init::TAPS, hide = true)]
    Capture { dir: PathBuf },
    /// The strands of links over parallel underlays: started by a lab's init
    #[command(name = lab::init::STRANDS, hide = true)]
    Strands { dir: PathBuf },
    /// Makes namespaces of a user who owns a VI: started by init
    #[command(name = lab::owner::MAKER, hide = true)]
    Owner { uid: u32, gid: u32 },
    /// What namespaces of an unprivileged user can do: started by up and doctor
    #[command(name = machine::PROBE, hide = true)]
    Probe { what: machine::Probe },
    /// Something done in a lab for a process that tests with it: started by the library
    #[command(name = testing::ERRAND, hide = true)]
    Errand { base: PathBuf, lab: String },
    /// A command in a node of a lab under test: started by the library
    #[command(name = testing::COMMAND, hide = true)]
    Run {
        base: PathBuf,
        lab: String,
        node: String,
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// The tests of a lab that is up: started by test
    #[command(name = test::TESTER, hide = true)]
    Tester { lab: String },
}

/// What the first argument of these processes is called with, by [`crate::process::myself`].
const TITLE: &str = "vilab: ";

/// Whether this program has been started to be one of them.
pub(super) fn is_asked() -> bool {
    let mut words = std::env::args_os();
    let title = words.next().is_some_and(|title| title.to_string_lossy().starts_with(TITLE));
    title && words.next().is_some_and(|word| Command::has_subcommand(&word.to_string_lossy()))
}

pub(super) fn run(command: Command) -> Result<u8> {
    match command {
        Command::Watcher { base, lab } => lab::watcher::run(&base, &lab)?,
        Command::Init { dir, watcher } => lab::init::run(&dir, watcher, &measure::verify)?,
        Command::Change { dir } => lab::change::run(&dir, &measure::verify)?,
        Command::Engine { dir } => lab::engine::run(&dir)?,
        Command::Names { dir } => lab::engine::answer(&dir)?,
        Command::Isis { dir } => lab::isis::run(&dir)?,
        Command::Routers { dir } => lab::recursion::run(&dir)?,
        Command::Capture { dir } => lab::capture::run(&dir)?,
        Command::Strands { dir } => lab::strands::run(&dir)?,
        Command::Owner { uid, gid } => lab::owner::run(uid, gid)?,
        Command::Probe { what } => machine::probe(what)?,
        Command::Errand { base, lab } => testing::run_errand(&base, &lab)?,
        Command::Run { base, lab, node, command } => return exec::inside(&base, &lab, &node, &command),
        Command::Tester { lab } => test::measure(&lab)?,
    }
    Ok(DONE)
}
