//! `vilab exec` and `vilab shell`. A node and a command go in; the command's exit status comes out. They never use a
//! shell that was not asked for.

use std::ffi::OsString;
use std::path::Path;

use super::{node, output};
use crate::error::Result;
use crate::lab::door::{self, Door};
use crate::lab::{self, Running};
use crate::model::NodeId;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab exec blue/a ping -c 3 c\n  vilab exec -l first X -- tcpdump -ni any ip proto 4"
)]
pub(super) struct ExecArgs {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// base/X or VI/node; X where no other node of the lab is called so
    node: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab shell blue/a")]
pub(super) struct ShellArgs {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// base/X or VI/node; X where no other node of the lab is called so
    node: String,
}

pub(super) fn exec(args: &ExecArgs) -> Result<u8> {
    let place = Place::find(args.lab.as_deref(), &args.node)?;
    place.run(&args.command, Vec::new())
}

/// Runs a command in a node of a lab of the directory `base`.
pub(super) fn inside(base: &Path, lab: &str, node: &str, command: &[OsString]) -> Result<u8> {
    let lab = Running::open_in(base, lab)?;
    let node = node::find(&lab.state().lab, node)?;
    Place::Own(Box::new(lab), node).run(command, Vec::new())
}

pub(super) fn shell(args: &ShellArgs) -> Result<u8> {
    let place = Place::find(args.lab.as_deref(), &args.node)?;
    let shell = std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| "sh".into());
    let (command, vars) = interactive(&shell, &format!("{}:{}", place.lab(), place.node()));
    place.run(&command, vars)
}

/// The shell with a prompt that names the node: bash reads it from PROMPT_COMMAND, after its start files; others
/// take PS1 from the environment.
fn interactive(shell: &OsString, prompt: &str) -> (Vec<OsString>, Vec<(&'static str, String)>) {
    let mut vars = vec![("PS1", format!("[{prompt}] $ "))];
    if shell.to_string_lossy().ends_with("bash") {
        vars.push(("PROMPT_COMMAND", format!("PS1='[{prompt}] \\w\\$ '")));
    }
    (vec![shell.clone(), "-i".into()], vars)
}

/// Where a command is to run.
enum Place {
    /// In a lab of the caller's.
    Own(Box<Running>, NodeId),
    /// In a lab of root's, in a VI of the caller's.
    Owned(Door, String),
}

impl Place {
    fn find(lab: Option<&str>, node: &str) -> Result<Self> {
        let missing = match Running::open_or_only(lab) {
            Ok(lab) => {
                let node = node::find(&lab.state().lab, node)?;
                return Ok(Self::Own(Box::new(lab), node));
            }
            Err(e) => e,
        };
        door::find(lab)?.map(|door| Self::Owned(door, node.to_owned())).ok_or(missing)
    }

    fn lab(&self) -> &str {
        match self {
            Self::Own(lab, _) => lab.name(),
            Self::Owned(door, _) => door.lab(),
        }
    }

    /// Its full name.
    fn node(&self) -> String {
        match self {
            Self::Own(lab, node) => lab.state().lab.full_name(*node),
            Self::Owned(_, node) => node.clone(),
        }
    }

    fn run(&self, command: &[OsString], mut vars: Vec<(&'static str, String)>) -> Result<u8> {
        vars.push(("VILAB_LAB", self.lab().to_owned()));
        vars.push(("VILAB_NODE", self.node()));
        match self {
            Self::Own(lab, node) => lab::run_in(lab, *node, command, &vars, &mut output::error),
            Self::Owned(door, node) => lab::run_as_owner(door, node, command, &vars, &mut output::error),
        }
    }
}
