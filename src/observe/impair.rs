//! Impairments of a lab that is up. An end of a link and an impairment go in; what leaves that end is impaired from
//! then on. Packets under way arrive as they would have; it never touches what else is set for the device.

use super::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::fastpath::config::ShapedDevice;
use crate::fastpath::control::Client;
use crate::lab::{Running, State};
use crate::model::{EndId, GATEWAYS, Impairment, LinkId, LinkMeasured};
use crate::netlink::{Request, Socket};
use crate::plan::{self, Netem, Way};

/// Impairs both directions of a link: from its first end to the second, and back.
///
/// # Errors
/// What the kernel or the engine says; the first direction may be changed then.
pub fn impair(ctx: &Context<'_>, link: LinkId, to: &[Impairment; 2]) -> Result<()> {
    (0..2).try_for_each(|side| impair_end(ctx, EndId { link, side }, to[side]))
}

/// Impairs both directions of a link of a running lab, unless they are so already, and keeps with the lab's state what is
/// asked and what all impaired links are measured to do, for those above change with it. What this link does comes out.
///
/// # Errors
/// As [`impair`], and if it is a gateway, the state cannot be changed, or the links cannot be measured.
pub fn impair_running(lab: &mut Running, link: LinkId, to: &[Impairment; 2]) -> Result<Option<LinkMeasured>> {
    if link.net == GATEWAYS {
        return Err(Error::usage("a gateway is not impaired").hint("impair a link on either side of it"));
    }
    let changes = lab.state().lab.link(link).impair != *to;
    if changes && needs_engine(lab.state(), link, to) {
        lab.start_engine()?;
    }
    lab.join()?;
    if changes {
        super::with_running(lab, |context| impair(context, link, to))?;
    }
    lab.amend(|state| state.lab.networks[link.net.0].links[link.index].impair = *to)?;
    let impaired: Vec<LinkId> = lab.state().lab.impaired_links().collect();
    let links: Vec<LinkId> = impaired.iter().copied().filter(|l| *l != link).chain([link]).collect();
    let mut measured = super::with_running(lab, |context| super::measure(context, &links))?;
    let this = measured.iter().copied().find(|m| m.link == link);
    measured.retain(|m| impaired.contains(&m.link));
    measured.sort_by_key(|m| m.link);
    lab.amend(|state| state.measured = measured)?;
    Ok(this)
}

/// Whether the engine has a part in impairing a link.
fn needs_engine(state: &State, link: LinkId, to: &[Impairment; 2]) -> bool {
    let way =
        |side: usize| plan::way(&state.lab, &state.dataplanes, state.netem, EndId { link, side }, &to[side]);
    [0, 1].map(way).iter().any(|way| !matches!(way, Way::Netem { .. }))
}

fn impair_end(ctx: &Context<'_>, end: EndId, to: Impairment) -> Result<()> {
    match plan::way(ctx.lab, ctx.dataplanes, ctx.netem, end, &to) {
        Way::Netem { ns, dev, netem } => set_netem(ctx, &ns, &dev, &netem),
        Way::Interface { ns, dev } => engine(ctx)?.impair(&ns, &dev, to),
        Way::Device { node, ns, dev, ethernet } => {
            engine(ctx)?.shape(ShapedDevice { node, netns: ns, dev, ethernet, impair: to })
        }
    }
}

fn set_netem(ctx: &Context<'_>, ns: &str, dev: &str, netem: &Netem) -> Result<()> {
    let what = || format!("cannot set netem of {dev} in namespace {ns}");
    let set = || -> std::io::Result<()> {
        let index = nix::net::if_::if_nametoindex(dev)?;
        Socket::open()?.execute([Request::set_netem(index, netem)]).map_err(std::io::Error::other)
    };
    ctx.namespaces.run(ns, set)?.doing(Kind::Kernel, what)
}

fn engine(ctx: &Context<'_>) -> Result<Client> {
    let path = ctx.fastpath_control.as_deref();
    Client::connect(path.ok_or_else(|| Error::environment("the engine of this lab does not run"))?)
}
