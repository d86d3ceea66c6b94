//! `vilab link` and `vilab node`. A link or a node goes in; it is down, or up again, and the running lab knows. They
//! never look at the lab file.

use clap::Subcommand;

use super::{DONE, link, node, output};
use crate::error::Result;
use crate::lab::Running;
use crate::model::{Lab, Target};
use crate::observe;
use crate::routing::Faults;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab link down X -- Y\n  vilab link up blue/a--b")]
pub(super) struct LinkArgs {
    #[command(subcommand)]
    verb: LinkVerb,
}

#[derive(Debug, Subcommand)]
enum LinkVerb {
    /// Set both ends of a link down
    Down(LinkTarget),
    /// Set them up again
    Up(LinkTarget),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab link down X -- Y")]
struct LinkTarget {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// Two nodes, X -- Y, or the link's name, NETWORK/NAME or NAME
    #[arg(required = true, num_args = 1..=3)]
    link: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab node down base/X\n  vilab node up base/X")]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Set all links of a node down, and those of the nodes placed on it
    Down(NodeTarget),
    /// Set them up again
    Up(NodeTarget),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  vilab node down base/X")]
struct NodeTarget {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// base/X or VI/node; X where no other node of the lab is called so
    node: String,
}

pub(super) fn link(args: &LinkArgs) -> Result<u8> {
    let (LinkVerb::Down(target) | LinkVerb::Up(target)) = &args.verb;
    let lab = Running::open_or_only(target.lab.as_deref())?;
    let link = link::find(&lab.state().lab, &target.link.join(" -- "))?;
    set(&lab, Target::Link(link), matches!(args.verb, LinkVerb::Down(_)))
}

pub(super) fn node(args: &NodeArgs) -> Result<u8> {
    let (NodeVerb::Down(target) | NodeVerb::Up(target)) = &args.verb;
    let lab = Running::open_or_only(target.lab.as_deref())?;
    let node = node::find(&lab.state().lab, &target.node)?;
    set(&lab, Target::Node(node), matches!(args.verb, NodeVerb::Down(_)))
}

fn set(lab: &Running, target: Target, down: bool) -> Result<u8> {
    let faults = observe::set_fault(lab, target, down)?;
    said(&lab.state().lab, target, down, &faults);
    Ok(DONE)
}

/// What is so now; that a link stays down with its node is worth a word.
fn said(lab: &Lab, target: Target, down: bool, faults: &Faults) {
    let name = match target {
        Target::Link(id) => format!("link {}", lab.full_link_name(id)),
        Target::Node(id) => format!("node {}", lab.full_name(id)),
    };
    output::note(&match (down, observe::kept_down(lab, target, faults)) {
        (true, _) => format!("{name} is down"),
        (false, 0) => format!("{name} is up"),
        (false, stays) => format!("{name} is up, but what else is down keeps {stays} of its link ends down"),
    });
}
