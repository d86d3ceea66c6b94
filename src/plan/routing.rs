//! Routing daemons as part of a plan. A [`Lab`], one of its nodes and the [`Machine`] go in; the services that route
//! for the node, and what they see of the machine, come out. It never starts anything: the lab's init does.

use super::{Machine, Op, Service, View};
use crate::error::{Error, Result};
use crate::model::{Lab, NodeId, Ready, Restart};
use crate::routing::frr;

/// What FRR's daemons write into: sockets and process ids, logs of the user's own, crash logs. The paths are compiled
/// in (`--sysconfdir`, `--localstatedir`; lib/libfrr.c).
const DIRS: [&str; 4] = ["/etc/frr", "/run/frr", "/var/log/frr", "/var/tmp/frr"];
/// Users and groups of a lab without root, where there is one id: FRR leaves root for user `frr` in groups `frr` and
/// `frrvty`, and without these names for the one id it would ask for what an unprivileged user namespace forbids.
const ONE_USER: [(&str, &str); 2] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nfrr:x:0:0:FRR:/:/bin/sh\n"),
    ("/etc/group", "root:x:0:\nfrr:x:0:\nfrrvty:x:0:\n"),
];
/// Descriptors of a daemon: it sizes its tables by them.
const MOST_FDS: &str = "4096";
/// The daemon that writes the routes of all the others.
const ZEBRA: &str = "zebra";
/// What a daemon prints when it listens.
const LISTENS: &str = " starting: ";
/// Memberships of one socket that a namespace allows from the start (`igmp_max_memberships`): a daemon has one socket
/// and joins a group or two on each link.
const MEMBERSHIPS: usize = 20;

/// The daemons of a node, in the order of their start.
///
/// # Errors
/// If there are any and the machine has no FRR.
pub(super) fn services(lab: &Lab, node: NodeId, machine: &Machine) -> Result<Vec<Service>> {
    let daemons = frr::daemons(lab, node);
    let Some(dir) = machine.frr.as_deref().or(daemons.is_empty().then_some("")) else {
        return Err(missing(lab, node));
    };
    let netns = &lab.node(node).netns;
    let service = |daemon: &str| Service {
        name: format!("{daemon}@{}", lab.full_name(node)),
        netns: netns.clone(),
        argv: argv(dir, daemon),
        restart: Restart::Always,
        ready: Some(Ready::Log(LISTENS.to_owned())),
        // A protocol daemon does not give a new zebra the routes that it gave the old one.
        behind: (daemon != ZEBRA).then(|| format!("{ZEBRA}@{}", lab.full_name(node))),
        log: format!("{daemon}@{netns}"),
    };
    Ok(daemons.into_iter().map(service).collect())
}

/// Standard output gets the log, nothing listens on TCP for a terminal.
fn argv(dir: &str, daemon: &str) -> Vec<String> {
    let program = format!("{dir}/{daemon}");
    let options =
        ["--vty_port", "0", "--limit-fds", MOST_FDS, "--log", "stdout", "--log-level", "notifications"];
    std::iter::once(program.as_str()).chain(options).map(str::to_owned).collect()
}

fn missing(lab: &Lab, node: NodeId) -> Error {
    Error::environment(format!("this machine lacks FRR, which routes in `{}`", lab.net(node.net).name))
        .because("no directory has FRR's daemons")
        .hint("install the package `frr`, as `vilab doctor` says; `routing: static` needs nothing")
}

/// Adds the node's configuration and the private directories of its daemons.
pub(super) fn add_to_view(lab: &Lab, node: NodeId, machine: &Machine, view: &mut View) {
    let files = frr::files(lab, node);
    if files.is_empty() {
        return;
    }
    view.dirs.extend(DIRS.map(str::to_owned));
    view.files.extend(files.into_iter().map(|(name, text)| (format!("{}/{name}", DIRS[0]), text)));
    if machine.one_user {
        view.files.extend(ONE_USER.map(|(path, text)| (path.to_owned(), text.to_owned())));
    }
}

/// Lets the node's daemon join its groups on all links.
pub(super) fn memberships(lab: &Lab, node: NodeId) -> Option<Op> {
    let node = lab.node(node);
    let groups = 2 * node.ends.len();
    let more = groups > MEMBERSHIPS && lab.net(node.id.net).routing.is_dynamic();
    more.then(|| Op::SetSysctl {
        ns: node.netns.clone(),
        key: "net/ipv4/igmp_max_memberships".to_owned(),
        value: groups.to_string(),
    })
}
