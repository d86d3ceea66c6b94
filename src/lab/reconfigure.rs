//! New configuration for routing daemons that go on. The files of nodes before and after go in; the daemons have been told
//! what differs. It never restarts a daemon that takes the difference as it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::control::{Client, Request};
use super::enter;
use crate::apply;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::View;
use crate::process;
use crate::routing::reconfigure;

/// Tells the daemons of all nodes in `before`, whose views have been written.
///
/// # Errors
/// If a daemon neither takes its new configuration nor starts again with it.
pub(super) fn all(dir: &Path, before: &BTreeMap<String, View>, after: &BTreeMap<String, View>) -> Result<()> {
    for (netns, was) in before {
        let Some(is) = after.get(netns) else { continue };
        for (path, old) in &was.files {
            let (Some(daemon), Some(new)) = (daemon(path), is.files.get(path)) else { continue };
            if old != new {
                one(dir, netns, daemon, old, new)?;
            }
        }
    }
    Ok(())
}

/// `ospfd` of `/etc/frr/ospfd.conf`; the shell of FRR has a file too.
fn daemon(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/etc/frr/")?.strip_suffix(".conf")?;
    (name != "vtysh").then_some(name)
}

fn one(dir: &Path, netns: &str, daemon: &str, old: &str, new: &str) -> Result<()> {
    let told = match reconfigure::commands(old, new) {
        Some(commands) => tell(dir, netns, daemon, &commands),
        None => Err(Error::environment("its configuration cannot change while it runs")),
    };
    told.or_else(|why| {
        let name = format!("{daemon}@{}", apply::place(netns));
        let what = || format!("`{name}` does not take its new configuration");
        let restart =
            || Client::connect(&super::init_socket(dir))?.tell(&Request::Restart { service: name.clone() });
        restart().map_err(|e| e.because(why).context(what()))
    })
}

/// Has FRR's shell carry commands out in a node.
fn tell(dir: &Path, netns: &str, daemon: &str, commands: &str) -> Result<()> {
    let run = || process::feed(Command::new("vtysh").args(["-d", daemon, "-f", "/dev/stdin"]), commands);
    let said = enter::inside(dir, netns, run)??;
    // The shell goes on after a command that is refused, and says so.
    match said.lines().find(|line| line.starts_with('%')) {
        Some(refused) => Err(Error::environment(refused)),
        None => Ok(()),
    }
    .doing(Kind::Environment, || format!("{daemon} refuses a command"))
}
