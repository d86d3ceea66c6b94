//! Impairments of a lab that is up. An end of a link and an impairment go in; what leaves that end is impaired from
//! then on. Packets under way arrive as they would have; it never touches what else is set for the device.

use super::Context;
use crate::error::{Context as _, Error, Kind, Result};
use crate::fastpath::config::ShapedDevice;
use crate::fastpath::control::Client;
use crate::model::{EndId, Impairment, LinkId};
use crate::netlink::{Request, Socket};
use crate::plan::{self, Netem, Way};

/// Impairs both directions of a link: from its first end to the second, and back.
///
/// # Errors
/// What the kernel or the engine says; the first direction may be changed then.
pub fn impair(ctx: &Context<'_>, link: LinkId, to: &[Impairment; 2]) -> Result<()> {
    (0..2).try_for_each(|side| impair_end(ctx, EndId { link, side }, to[side]))
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
