//! Devices of a running lab through rtnetlink: statistics, up and down, and the routes that a device takes with it.
//! Nodes and ends of links go in, counts come out. It never touches a device that is no end of a link of the lab.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteNextHop, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, RouteNextHopBuilder};
use serde::Serialize;

use super::{Context, each};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{EndId, Link, LinkId, NetId, NodeId};
use crate::plan::{self, Hop, Op};

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
    let nodes: BTreeSet<NodeId> = links.iter().flat_map(|l| &l.ends).map(|e| e.node).collect();
    let nodes: Vec<NodeId> = nodes.into_iter().collect();
    let devices: BTreeMap<NodeId, BTreeMap<String, Device>> =
        nodes.iter().copied().zip(each(&nodes, |id| devices(ctx, *id))?).collect();
    let stats = |node: NodeId, dev: &str| devices.get(&node).and_then(|d| d.get(dev)).map(|d| d.stats);
    Ok(links
        .into_iter()
        .map(|l| LinkStats { link: l.id, ends: [0, 1].map(|i| stats(l.ends[i].node, &l.ends[i].dev)) })
        .collect())
}

/// A device as the kernel sees it.
#[derive(Debug, Clone, Copy)]
struct Device {
    index: u32,
    stats: EndStats,
}

fn devices(ctx: &Context<'_>, node: NodeId) -> Result<BTreeMap<String, Device>> {
    in_netns(ctx, node, "dump devices", dump)
}

async fn dump(netlink: Handle) -> std::result::Result<BTreeMap<String, Device>, rtnetlink::Error> {
    let messages: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await?;
    Ok(messages.iter().filter_map(device).collect())
}

fn device(message: &LinkMessage) -> Option<(String, Device)> {
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
    Some((name?, Device { index: message.header.index, stats }))
}

/// Which of these ends of one node are up.
pub(crate) fn are_up(ctx: &Context<'_>, node: NodeId, ends: &[EndId]) -> Result<BTreeMap<EndId, bool>> {
    let devices = devices(ctx, node)?;
    let up = |end: &EndId| devices.get(&ctx.lab.end(*end).dev).is_some_and(|d| d.stats.up);
    Ok(ends.iter().map(|end| (*end, up(end))).collect())
}

/// Sets ends of one node up or down. Setting a device down makes the kernel forget its routes.
pub(crate) fn set_up(ctx: &Context<'_>, node: NodeId, ends: &[EndId], up: bool) -> Result<()> {
    let devices = devices(ctx, node)?;
    let indices = ends.iter().map(|end| index(ctx, &devices, *end)).collect::<Result<Vec<u32>>>()?;
    let verb = if up { "set up links" } else { "set down links" };
    in_netns(ctx, node, verb, async move |netlink: Handle| {
        for index in indices {
            let message = LinkUnspec::new_with_index(index);
            let message = if up { message.up() } else { message.down() };
            netlink.link().set(message.build()).execute().await?;
        }
        Ok(())
    })
}

fn index(ctx: &Context<'_>, devices: &BTreeMap<String, Device>, end: EndId) -> Result<u32> {
    let end = ctx.lab.end(end);
    let device = devices.get(&end.dev);
    let gone = || Error::kernel(format!("{} has no device {}", ctx.lab.full_name(end.node), end.dev));
    Ok(device.ok_or_else(gone)?.index)
}

/// Puts the computed routes of a node back, as far as they leave through devices that are up.
pub(crate) fn restore_routes(ctx: &Context<'_>, node: NodeId) -> Result<()> {
    let devices = devices(ctx, node)?;
    let routes = plan::routes(ctx.lab, ctx.rib, node);
    let messages: Vec<_> = routes.iter().filter_map(|op| message(&devices, op)).collect();
    in_netns(ctx, node, "restore routes", async move |netlink: Handle| {
        for message in messages {
            netlink.route().add(message).replace().execute().await?;
        }
        Ok(())
    })
}

/// The route through those of its next hops whose devices are up; `None` if there are none.
fn message(devices: &BTreeMap<String, Device>, op: &Op) -> Option<RouteMessage> {
    let Op::AddRoute { prefix, hops, src, .. } = op else { return None };
    let up = |hop: &Hop| devices.get(&hop.dev).filter(|d| d.stats.up).map(|d| (d.index, hop.via));
    let hops: Vec<(u32, Option<Ipv4Addr>)> = hops.iter().filter_map(up).collect();
    let mut route =
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(prefix.addr(), prefix.prefix_len());
    if let Some(src) = src {
        route = route.pref_source(*src);
    }
    match hops.as_slice() {
        [] => None,
        [(index, None)] => Some(route.output_interface(*index).scope(RouteScope::Link).build()),
        [(index, Some(via))] => Some(route.output_interface(*index).gateway(*via).build()),
        several => Some(route.multipath(several.iter().filter_map(next_hop).collect()).build()),
    }
}

fn next_hop((index, via): &(u32, Option<Ipv4Addr>)) -> Option<RouteNextHop> {
    let hop = RouteNextHopBuilder::new_ipv4().interface(*index);
    match via {
        Some(via) => hop.via(IpAddr::V4(*via)).ok().map(RouteNextHopBuilder::build),
        None => Some(hop.build()),
    }
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
