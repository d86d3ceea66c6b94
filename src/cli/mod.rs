//! The command line: the only code that parses arguments, prints, and chooses exit codes. Arguments go in, an exit
//! code comes out. It never touches the kernel itself.

mod apply;
mod capture;
mod check;
mod doctor;
mod down;
mod events;
mod exec;
mod expand;
mod fault;
mod graph;
mod impair;
mod internal;
mod link;
mod logs;
mod machine;
mod manual;
mod measure;
mod node;
mod output;
mod params;
mod plan;
mod resolve;
mod restart;
mod rules;
mod schema;
mod status;
mod table;
mod test;
mod trace;
mod up;
mod view;
mod wait;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::process;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const BUG: u8 = 70;

/// Virtual Internets on one Linux machine.
///
/// One file describes a base network and the Virtual Internets stacked on it; `vilab up` builds it out of network
/// namespaces and IP-in-IP tunnels, and checks that it works.
#[derive(Debug, Parser)]
#[command(
    name = "vilab",
    version,
    max_term_width = 100,
    after_help = "Example:\n  vilab up lab.yaml && vilab exec blue/a -- ping c"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a lab and check that it works
    #[command(visible_alias = "deploy")]
    Up(up::Args),
    /// Make the running lab equal to a changed file; only what differs is touched
    Apply(apply::Args),
    /// Take a lab down, without a trace
    #[command(visible_alias = "destroy")]
    Down(down::Args),
    /// Run a command in a node
    Exec(exec::ExecArgs),
    /// Open a shell in a node
    #[command(visible_alias = "connect")]
    Shell(exec::ShellArgs),
    /// Show what is up: nodes, links, addresses, roles, counters
    #[command(visible_aliases = ["ps", "inspect"])]
    Status(status::Args),
    /// Watch links, drops, routes and services as a lab goes
    #[command(visible_alias = "top")]
    Watch(watch::Args),
    /// Show what services printed
    Logs(logs::Args),
    /// End a service and start it again
    Restart(restart::Args),
    /// Wait until routing has settled
    Wait(wait::Args),
    /// Set a link down or up
    Link(fault::LinkArgs),
    /// Set a node down or up
    Node(fault::NodeArgs),
    /// Delay, lose and slow the packets of a link
    Impair(impair::Args),
    /// Show what the link layers of base nodes accept, and from where
    Rules(rules::Args),
    /// Show how a destination is resolved: name, address, prefix, exit, link, and so on down to the base
    Resolve(resolve::Args),
    /// Follow one probe through all layers, as computed and as captured on every wire
    Trace(trace::Args),
    /// Write what passes nodes and devices to one pcapng file, or to tshark and Wireshark
    Capture(capture::Args),
    /// Print what happens in a lab as it happens, one JSON object a line
    Events(events::Args),
    /// Show a running lab in a browser: its picture, counters, traces, faults
    View(view::Args),
    /// Run the tests of a lab file
    Test(test::Args),
    /// Check a lab file
    Check(check::Args),
    /// Print the flat lab: templates, parameters, ranges and generators written out
    Expand(expand::Args),
    /// Print what `up` would do, as ip, tc, nft and sysctl commands
    Plan(plan::Args),
    /// Draw a lab: its networks as planes above one another
    Graph(graph::Args),
    /// Print the JSON Schema of lab files, for editors
    Schema(schema::Args),
    /// Tell what this machine can carry, and how to get what is missing
    Doctor(doctor::Args),
    /// Print what a shell needs to complete commands and options
    Completions(manual::CompletionsArgs),
    /// Write the manual pages, one for each command
    Man(manual::ManArgs),
    #[command(flatten)]
    Internal(internal::Command),
}

/// Runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(status())
}

/// Lets this program be the processes that labs are made of, instead of the program `vilab`: call it first thing in
/// `main`, of a test with `harness = false` say. When a lab starts this program as one of its processes, it does not return.
pub fn init() {
    if internal::is_asked() {
        std::process::exit(i32::from(status()));
    }
    crate::process::play_by(PathBuf::from("/proc/self/exe"));
}

fn status() -> u8 {
    report_bugs();
    process::complete_path();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = u8::try_from(e.exit_code()).unwrap_or(USAGE);
            // Help that cannot be written has no reader.
            let _unread = e.print();
            return code;
        }
    };
    let result = run(cli.command).and_then(|code| output::check().map(|()| code));
    result.unwrap_or_else(|e| {
        output::error(&e);
        code(&e)
    })
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Up(args) => up::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Exec(args) => exec::exec(&args),
        Command::Shell(args) => exec::shell(&args),
        Command::Status(args) => status::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Link(args) => fault::link(&args),
        Command::Node(args) => fault::node(&args),
        Command::Rules(args) => rules::run(&args),
        Command::Resolve(args) => resolve::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Events(args) => events::run(&args),
        Command::View(args) => view::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Expand(args) => expand::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Impair(args) => impair::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => manual::completions(&args, &mut visible()),
        Command::Man(args) => manual::man(&args, visible()),
        Command::Internal(command) => internal::run(command),
    }
}

/// The command line without what is not for users.
fn visible() -> clap::Command {
    let all = Cli::command();
    let shown: Vec<clap::Command> = all.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let bare = clap::Command::new("vilab")
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .long_about(all.get_long_about().cloned().unwrap_or_default())
        .after_help(all.get_after_help().cloned().unwrap_or_default())
        .subcommand_required(true);
    bare.subcommands(shown)
}

fn code(e: &Error) -> u8 {
    match e.kind() {
        Kind::Failed => FAILED,
        Kind::Usage => USAGE,
        Kind::LabFile => 3,
        Kind::Environment => 4,
        Kind::Kernel => 5,
        Kind::Bug => BUG,
    }
}

/// A panic is a bug: it says so and ends with its exit code.
fn report_bugs() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        output::note("this is a bug in vilab: please report it with the lines above");
        std::process::exit(i32::from(BUG));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_shows_an_example() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn completions_and_pages_know_every_command_and_nothing_hidden() {
        let names: Vec<String> = visible().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        assert!(names.len() > 20 && names.len() < Cli::command().get_subcommands().count());
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let text = manual::completion_text(shell, &mut visible());
            assert!(names.iter().all(|name| text.contains(name.as_str())), "{shell}");
        }
        let dir = tempfile::tempdir().unwrap();
        manual::write_pages(dir.path(), visible()).unwrap();
        for name in &names {
            let page = std::fs::read_to_string(dir.path().join(format!("vilab-{name}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS") && page.contains("Example"), "{name}");
        }
        assert!(dir.path().join("vilab.1").exists());
    }

    #[test]
    fn exec_takes_the_commands_own_flags_without_dashes() {
        let cli = Cli::try_parse_from(["vilab", "exec", "a", "ping", "-c", "1", "b"]).unwrap();
        let Command::Exec(args) = cli.command else { panic!("exec") };
        assert_eq!(args.command, ["ping", "-c", "1", "b"]);
    }
}
