//! Counters of both dataplanes, and the strong-host rule that they are about. Base nodes go in; counts by name come
//! out. It never leaves the rule off: what switched it off switches it on when it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::Value;

use super::{Context, each, esp, rules};
use crate::error::{Context as _, Error, Kind, Result};
use crate::fastpath::control::Client;
use crate::model::{BASE, Dataplane, NodeId};

/// Table and chain of the strong host model at the link layer, in the link namespace of a base node.
const TABLE: [&str; 3] = ["inet", "vi_strong", "pre"];

/// Malformed headers that the kernel's own IP dropped, in the link layer and the partitions of a base node.
const BAD_HEADER: &str = "bad-header";

/// Counters by base node and name.
///
/// # Errors
/// If a dataplane cannot be asked.
pub fn counters(ctx: &Context<'_>) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let kernel: Vec<NodeId> = base_nodes(ctx).filter(|id| dataplane(ctx, *id) == Dataplane::Kernel).collect();
    let name = |id: &NodeId| ctx.lab.node(*id).name.clone();
    let mut all: BTreeMap<_, _> =
        kernel.iter().map(name).zip(each(&kernel, |id| kernel_counters(ctx, *id))?).collect();
    if let Some(control) = &ctx.strands_control {
        for (node, counters) in Client::connect(control)?.counters()? {
            all.entry(node).or_default().extend(counters);
        }
    }
    // A lab without virtual links has no engine, whatever its base nodes would use.
    if ctx.fastpath_control.is_some() {
        all.extend(fastpath_counters(ctx)?);
    }
    Ok(all)
}

/// One counter of one base node; 0 where it has never counted.
pub(crate) fn counter(ctx: &Context<'_>, node: NodeId, name: &str) -> Result<u64> {
    let counters = match dataplane(ctx, node) {
        Dataplane::Kernel => kernel_counters(ctx, node)?,
        Dataplane::Fastpath => fastpath_counters(ctx)?.remove(&ctx.lab.node(node).name).unwrap_or_default(),
    };
    Ok(counters.get(name).copied().unwrap_or(0))
}

fn base_nodes<'a>(ctx: &'a Context<'_>) -> impl Iterator<Item = NodeId> + 'a {
    ctx.lab.base().nodes.iter().map(|n| n.id)
}

pub(super) fn dataplane(ctx: &Context<'_>, node: NodeId) -> Dataplane {
    ctx.dataplanes.get(node.index).copied().filter(|_| node.net == BASE).unwrap_or(Dataplane::Kernel)
}

fn kernel_counters(ctx: &Context<'_>, node: NodeId) -> Result<BTreeMap<String, u64>> {
    let link_layer = ctx.lab.link_netns(node);
    if !ctx.namespaces.path(&link_layer).exists() {
        return Ok(BTreeMap::new());
    }
    let partitions = || ctx.lab.networks[1..].iter().flat_map(|n| &n.nodes).filter(|n| n.base == node);
    let base = ctx.lab.node(node).netns.clone();
    let below = partitions().filter(|n| !n.stacked.is_empty()).map(|n| n.netns.clone());
    let mut counters = BTreeMap::new();
    for ns in [base, link_layer.clone()].into_iter().chain(below) {
        let text = nft(ctx, &ns, &["-j", "list", "counters"])?;
        let read = add_counters(&text, &mut counters);
        read.doing(Kind::Kernel, || format!("cannot read the counters of namespace {ns}"))?;
    }
    let mut malformed = 0;
    for ns in std::iter::once(&link_layer).chain(partitions().map(|n| &n.netns)) {
        malformed += bad_headers(ctx, ns)?;
    }
    counters.insert(BAD_HEADER.to_owned(), malformed);
    for (name, count) in esp::kernel_drops(ctx, node)? {
        *counters.entry(name).or_insert(0) += count;
    }
    Ok(counters)
}

/// Adds up the named counters of `nft -j list counters`: packets by name.
fn add_counters(json: &str, counters: &mut BTreeMap<String, u64>) -> serde_json::Result<()> {
    let parsed: Value = serde_json::from_str(json)?;
    let objects = parsed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    for object in objects {
        let counter = &object["counter"];
        if let (Some(name), Some(packets)) = (counter["name"].as_str(), counter["packets"].as_u64()) {
            *counters.entry(name.to_owned()).or_default() += packets;
        }
    }
    Ok(())
}

/// Packets that the kernel of a namespace dropped because their IPv4 header was malformed or they were too short for
/// it: `InHdrErrors` (RFC 1213), which includes bad checksums, and `InTruncatedPkts`.
fn bad_headers(ctx: &Context<'_>, ns: &str) -> Result<u64> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let texts: std::io::Result<_> = ctx.namespaces.run(ns, || Ok((read("snmp")?, read("netstat")?)))?;
    let what = || format!("cannot read the packet statistics of namespace {ns}");
    let (snmp, netstat) = texts.doing(Kind::Kernel, what)?;
    Ok(statistic(&snmp, "Ip:", "InHdrErrors") + statistic(&netstat, "IpExt:", "InTruncatedPkts"))
}

/// A number of `/proc/net/snmp` or `netstat`: for each group a line of names, then a line of values.
fn statistic(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|l| l.starts_with(group));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(n, _)| *n == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// The link addresses that the strong-host rule of a base node accepts; none while a rule that accepts everything
/// stands before it.
pub(super) fn accepted(ctx: &Context<'_>, node: NodeId) -> Result<BTreeSet<Ipv4Addr>> {
    let ns = ctx.lab.link_netns(node);
    if !ctx.namespaces.path(&ns).exists() {
        return Ok(BTreeSet::new());
    }
    let [family, table, chain] = TABLE;
    let listed = nft(ctx, &ns, &["list", "chain", family, table, chain])?;
    if listed.lines().any(|line| line.trim() == "accept") {
        return Ok(BTreeSet::new());
    }
    let set = nft(ctx, &ns, &["-j", "list", "set", family, table, "la"])?;
    rules::parse_set(&set).doing(Kind::Kernel, || format!("cannot read the rules of namespace {ns}"))
}

/// Runs nft(8) inside a namespace.
pub(super) fn nft(ctx: &Context<'_>, ns: &str, arguments: &[&str]) -> Result<String> {
    let what = || format!("cannot run nft {} in namespace {ns}", arguments.join(" "));
    let output = ctx.namespaces.run(ns, || Command::new("nft").args(arguments).output())?;
    let output = output.doing(Kind::Environment, what)?;
    if !output.status.success() {
        return Err(Error::kernel(what()).because(String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The strong-host rule of one base node, switched off while this lives.
#[derive(Debug)]
pub(crate) struct RuleOff<'a> {
    ctx: &'a Context<'a>,
    node: NodeId,
    /// Handle of the rule that accepts everything, under the kernel dataplane.
    handle: Option<String>,
    off: bool,
}

impl<'a> RuleOff<'a> {
    pub(crate) fn new(ctx: &'a Context<'a>, node: NodeId) -> Result<Self> {
        let handle = match dataplane(ctx, node) {
            Dataplane::Kernel => Some(accept_all(ctx, node)?),
            Dataplane::Fastpath => {
                set_fastpath_rule(ctx, node, false)?;
                None
            }
        };
        Ok(Self { ctx, node, handle, off: true })
    }

    pub(crate) fn restore(mut self) -> Result<()> {
        self.switch_on()
    }

    fn switch_on(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.off) {
            return Ok(());
        }
        match &self.handle {
            None => set_fastpath_rule(self.ctx, self.node, true),
            Some(handle) => {
                let [family, table, chain] = TABLE;
                let ns = self.ctx.lab.link_netns(self.node);
                nft(self.ctx, &ns, &["delete", "rule", family, table, chain, "handle", handle]).map(drop)
            }
        }
    }
}

impl Drop for RuleOff<'_> {
    fn drop(&mut self) {
        drop(self.switch_on());
    }
}

/// Puts a rule that accepts everything at the head of the chain; its handle.
fn accept_all(ctx: &Context<'_>, node: NodeId) -> Result<String> {
    let [family, table, chain] = TABLE;
    let ns = ctx.lab.link_netns(node);
    let said = nft(ctx, &ns, &["-e", "-a", "insert", "rule", family, table, chain, "accept"])?;
    let handle = said.rsplit_once("# handle ").map(|(_, handle)| handle.trim().to_owned());
    handle.ok_or_else(|| {
        Error::kernel(format!("nft gave no handle for a rule in namespace {ns}")).because(said)
    })
}

fn fastpath_counters(ctx: &Context<'_>) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    fastpath(ctx)?.counters()
}

fn set_fastpath_rule(ctx: &Context<'_>, node: NodeId, on: bool) -> Result<()> {
    fastpath(ctx)?.set_strong_host(&ctx.lab.node(node).name, on)
}

/// A connection to the engine of the lab.
pub(super) fn fastpath(ctx: &Context<'_>) -> Result<Client> {
    let path = ctx.fastpath_control.as_deref();
    Client::connect(path.ok_or_else(|| Error::environment("the fast path of this lab does not run"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_counters_are_read_from_nft_json() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "strong-host", "table": "vi_strong", "handle": 2, "packets": 19, "bytes": 2}},
            {"counter": {"family": "inet", "name": "other", "table": "vi_strong", "handle": 3, "packets": 0, "bytes": 0}}]}"#;
        let mut counters = BTreeMap::from([("other".to_owned(), 2)]);
        add_counters(json, &mut counters).unwrap();
        assert_eq!(counters, BTreeMap::from([("strong-host".into(), 19), ("other".into(), 2)]));
    }

    #[test]
    fn statistics_are_read_by_group_and_name() {
        let text = "Ip: Forwarding InHdrErrors\nIp: 1 7\nIcmp: InMsgs InErrors\nIcmp: 3 4\n";
        assert_eq!(statistic(text, "Ip:", "InHdrErrors"), 7);
        assert_eq!(statistic(text, "Icmp:", "InErrors"), 4);
        assert_eq!(statistic(text, "Ip:", "InErrors"), 0);
    }
}
