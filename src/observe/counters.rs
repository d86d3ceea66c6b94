//! Counters of both dataplanes, and the strong-host rule that they are about. Base nodes go in; counts by name come
//! out. It never leaves the rule off: what switched it off switches it on when it is dropped.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::{Context, each, esp};
use crate::error::{Context as _, Error, Kind, Result};
use crate::fastpath::control::Client;
use crate::model::{BASE, Dataplane, NodeId};

/// Table and chain of the strong host model at the link layer, in the link namespace of a base node.
const TABLE: [&str; 3] = ["inet", "vi_strong", "pre"];

/// Counters by base node and name.
///
/// # Errors
/// If a dataplane cannot be asked.
pub fn counters(ctx: &Context<'_>) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    let kernel: Vec<NodeId> = base_nodes(ctx).filter(|id| dataplane(ctx, *id) == Dataplane::Kernel).collect();
    let name = |id: &NodeId| ctx.lab.node(*id).name.clone();
    let mut all: BTreeMap<_, _> =
        kernel.iter().map(name).zip(each(&kernel, |id| kernel_counters(ctx, *id))?).collect();
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

fn dataplane(ctx: &Context<'_>, node: NodeId) -> Dataplane {
    ctx.dataplanes.get(node.index).copied().filter(|_| node.net == BASE).unwrap_or(Dataplane::Kernel)
}

fn kernel_counters(ctx: &Context<'_>, node: NodeId) -> Result<BTreeMap<String, u64>> {
    let ns = ctx.lab.link_netns(node);
    if !ctx.namespaces.path(&ns).exists() {
        return Ok(BTreeMap::new());
    }
    let text = nft(ctx, &ns, &["-j", "list", "counters"])?;
    let what = || format!("cannot read the counters of namespace {ns}");
    let mut counters = parse_counters(&text).doing(Kind::Kernel, what)?;
    for (name, count) in esp::kernel_drops(ctx, node)? {
        *counters.entry(name).or_insert(0) += count;
    }
    Ok(counters)
}

/// Named counters of `nft -j list counters`: packets by name.
fn parse_counters(json: &str) -> serde_json::Result<BTreeMap<String, u64>> {
    let parsed: Value = serde_json::from_str(json)?;
    let objects = parsed["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let named =
        |o: &Value| Some((o["counter"]["name"].as_str()?.to_owned(), o["counter"]["packets"].as_u64()?));
    Ok(objects.iter().filter_map(named).collect())
}

/// Runs nft(8) inside a namespace.
fn nft(ctx: &Context<'_>, ns: &str, arguments: &[&str]) -> Result<String> {
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

fn fastpath(ctx: &Context<'_>) -> Result<Client> {
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
        let counters = parse_counters(json).unwrap();
        assert_eq!(counters, BTreeMap::from([("strong-host".into(), 19), ("other".into(), 0)]));
    }
}
