//! Devices of a running lab through rtnetlink: statistics, up and down, and what a device takes with it. Nodes and ends
//! of links go in, counts come out. It never touches a device that is no end of a link of the lab.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use serde::Serialize;

use super::{Context, each};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{End, EndId, Link, LinkId, NetId, NodeId};
use crate::netlink::request::NextHop;
use crate::netlink::{Request, Socket};
use crate::plan::{Hop, Op};

/// What one end of a link has carried since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EndStats {
    pub up: bool,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
}

/// Both ends of a link; `None` where the device is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    pub link: LinkId,
    pub ends: [Option<EndStats>; 2],
}

/// Statistics of all links of a network, in the order of the links.
///
/// # Errors
/// If a namespace cannot be entered or asked.
pub fn links(ctx: &Context<'_>, net: NetId) -> Result<Vec<LinkStats>> {
    statistics(ctx, ctx.lab.net(net).links.iter().collect())
}

/// Statistics of all gateways, in their order.
///
/// # Errors
/// As [`links`].
pub fn gateways(ctx: &Context<'_>) -> Result<Vec<LinkStats>> {
    statistics(ctx, ctx.lab.gateways.iter().map(|g| &g.link).collect())
}

fn statistics(ctx: &Context<'_>, links: Vec<&Link>) -> Result<Vec<LinkStats>> {
    let at = |end: &End| ctx.lab.site(end).partition;
    let nodes: BTreeSet<NodeId> = links.iter().flat_map(|l| &l.ends).map(at).collect();
    let nodes: Vec<NodeId> = nodes.into_iter().collect();
    let devices: BTreeMap<NodeId, BTreeMap<String, Device>> =
        nodes.iter().copied().zip(each(&nodes, |id| devices(ctx, *id))?).collect();
    let stats = |node: NodeId, dev: &str| devices.get(&node).and_then(|d| d.get(dev)).map(|d| d.stats);
    Ok(links
        .into_iter()
        .map(|l| LinkStats { link: l.id, ends: [0, 1].map(|i| stats(at(&l.ends[i]), &l.ends[i].dev)) })
        .collect())
}

/// A device as the kernel sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    pub(super) index: u32,
    /// Up, and the other end too as far as the device can tell; packets pass.
    running: bool,
    pub(super) stats: EndStats,
}

fn devices(ctx: &Context<'_>, node: NodeId) -> Result<BTreeMap<String, Device>> {
    in_netns(ctx, node, "dump devices", dump)
}

async fn dump(netlink: Handle) -> std::result::Result<BTreeMap<String, Device>, rtnetlink::Error> {
    let messages: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await?;
    Ok(messages.iter().filter_map(device).collect())
}

/// A device by its name.
pub(super) fn device(message: &LinkMessage) -> Option<(String, Device)> {
    let mut name = None;
    let mut stats = EndStats { up: message.header.flags.contains(LinkFlags::Up), ..EndStats::default() };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(n) = attribute {
            name = Some(n.clone());
        }
        if let LinkAttribute::Stats64(s) = attribute {
            stats.rx_packets = s.rx_packets;
            stats.rx_bytes = s.rx_bytes;
            stats.rx_dropped = s.rx_dropped;
            stats.tx_packets = s.tx_packets;
            stats.tx_bytes = s.tx_bytes;
            stats.tx_dropped = s.tx_dropped;
        }
    }
    let running = message.header.flags.contains(LinkFlags::Running);
    Some((name?, Device { index: message.header.index, running, stats }))
}

/// What is to become of the devices of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Change {
    pub(crate) down: Vec<EndId>,
    pub(crate) up: Vec<EndId>,
    /// Neighbours and routes to put back once the devices are up.
    pub(crate) restore: Vec<Op>,
}

/// Carries out a change in one go, so that a routing daemon never sees a device up without its connected route.
pub(crate) fn change(ctx: &Context<'_>, node: NodeId, change: &Change) -> Result<()> {
    let name = ctx.lab.full_name(node);
    let devices = devices(ctx, node)?;
    let index = |dev: &str| {
        let gone = || Error::kernel(format!("{name} has no device {dev}"));
        devices.get(dev).map(|d| d.index).ok_or_else(gone)
    };
    let of = |end: &EndId| index(&ctx.lab.end(*end).dev);
    let mut requests = Vec::new();
    for end in &change.down {
        requests.push((Request::down(of(end)?), "set down a link"));
    }
    for end in &change.up {
        requests.push((Request::up(of(end)?), "set up a link"));
    }
    for op in &change.restore {
        requests.push((request(op, index)?, "restore what a link had"));
    }
    let batch: Vec<Request> = requests.iter().map(|(request, _)| request.clone()).collect();
    let execute = || -> std::io::Result<_> { Ok(Socket::open()?.execute(batch)) };
    let executed = ctx.namespaces.run(&ctx.lab.node(node).netns, execute)?;
    let executed = executed.doing(Kind::Kernel, || format!("cannot change the links of {name}"))?;
    executed.map_err(|refusal| {
        let what = requests.get(refusal.index).map_or("change a link", |(_, what)| *what);
        let error = Error::kernel(format!("cannot {what} of {name}")).because(&refusal);
        refusal.text.iter().fold(error, Error::because)
    })
}

/// Whether these devices of one node pass packets.
pub(crate) fn are_running(ctx: &Context<'_>, node: NodeId, ends: &[EndId]) -> Result<bool> {
    let devices = devices(ctx, node)?;
    Ok(ends.iter().all(|end| devices.get(&ctx.lab.end(*end).dev).is_some_and(|d| d.running)))
}

fn request(op: &Op, index: impl Fn(&str) -> Result<u32>) -> Result<Request> {
    if let Op::AddNeighbour { dev, addr, mac, .. } = op {
        return Ok(Request::add_neighbour(index(dev)?, *addr, *mac).replacing());
    }
    let Op::AddRoute { prefix, hops, src, .. } = op else {
        return Err(Error::bug(format!("not to be restored: {op}")));
    };
    let hop = |hop: &Hop| Ok(NextHop { via: hop.via, index: index(&hop.dev)? });
    let hops = hops.iter().map(hop).collect::<Result<Vec<NextHop>>>()?;
    Ok(Request::add_route(*prefix, &hops, *src).replacing())
}

/// Talks rtnetlink inside the namespace of a node.
fn in_netns<T: Send>(
    ctx: &Context<'_>,
    node: NodeId,
    verb: &str,
    talk: impl AsyncFnOnce(Handle) -> std::result::Result<T, rtnetlink::Error> + Send,
) -> Result<T> {
    let ns = &ctx.lab.node(node).netns;
    let what = || format!("cannot {verb} in namespace {ns}");
    ctx.namespaces.run(ns, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.doing(Kind::Environment, what)?.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().doing(Kind::Kernel, what)?;
            let connection = tokio::spawn(connection);
            let said = talk(netlink).await.doing(Kind::Kernel, what);
            connection.abort();
            said
        })
    })?
}
