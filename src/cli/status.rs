//! `vilab status`. A lab's name, or nothing, goes in; what is up comes out: labs, and of one lab its nodes, links,
//! roles and counters. It never changes anything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::table::table;
use super::{DONE, impair, measure, output, up};
use crate::error::Result;
use crate::fastpath::StrandState;
use crate::lab::control::Status;
use crate::lab::{Running, State};
use crate::model::{Emulated, Lab, Link, LinkId, NodeId, Port, Role};
use crate::observe::{self, Context, LinkStats, LinkStrands};
use crate::routing::{self, Expected, Faults, Part};

type Counters = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  vilab status\n  vilab status first --json")]
pub(super) struct Args {
    /// The lab to show in detail; may be left out when only one is up
    #[arg(env = "VILAB_LAB")]
    lab: Option<String>,
    /// Measure the impaired links anew
    #[arg(long)]
    measure: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let mut labs = match &args.lab {
        Some(name) => vec![Running::open(name)?],
        None => Running::list()?,
    };
    match (labs.pop(), labs.is_empty()) {
        (Some(only), true) => details(&only, args)?,
        (None, _) if !args.json => output::note("no lab is up"),
        (last, _) => {
            labs.extend(last);
            list(&labs, args.json)?;
        }
    }
    Ok(DONE)
}

fn list(labs: &[Running], as_json: bool) -> Result<()> {
    if as_json {
        let labs: Vec<Value> = labs.iter().map(|l| summary(l.state())).collect();
        return output::json(&json!({ "schema": "vilab.labs/1", "labs": labs }));
    }
    let row = |l: &Running| {
        let s = l.state();
        let vis = s.lab.named_networks().count() - 1;
        let nodes = s.lab.named_nodes().count();
        vec![
            l.name().to_owned(),
            nodes.to_string(),
            vis.to_string(),
            s.created.clone(),
            s.file.display().to_string(),
        ]
    };
    let rows: Vec<_> = labs.iter().map(row).collect();
    print(&["lab", "nodes", "VIs", "up since", "file"], &rows);
    Ok(())
}

fn summary(state: &State) -> Value {
    json!({
        "name": state.lab.name,
        "nodes": state.lab.named_nodes().count(),
        "vis": state.lab.named_networks().count() - 1,
        "created": state.created,
        "file": state.file,
        "init": state.init,
        "watcher": state.watcher,
    })
}

/// Everything that is known of one lab.
struct Details<'a> {
    state: &'a State,
    links: Vec<LinkStats>,
    /// Of links over parallel underlays.
    strands: Vec<LinkStrands>,
    faults: Faults,
    /// Virtual links whose packets do not pass what lies below, as computed.
    dead: BTreeSet<LinkId>,
    /// Both directions of each impaired link.
    impaired: Vec<impair::Row>,
    /// For each VI, in their order, the part of each base node.
    roles: Vec<Vec<Part>>,
    counters: Counters,
    services: Vec<Status>,
}

fn details(lab: &Running, args: &Args) -> Result<()> {
    let services = lab.init()?.services()?;
    lab.join()?;
    let faults = lab.faults()?;
    measure::with_context(lab, |context| {
        let details = Details {
            state: lab.state(),
            links: links(context)?,
            strands: observe::strands(context)?,
            dead: Expected::compute(context.lab, context.rib, &faults).cut.dead,
            faults,
            impaired: impaired(context, lab.state(), args.measure)?,
            roles: context
                .lab
                .named_networks()
                .skip(1)
                .map(|n| routing::roles(context.lab, context.rib, n.id))
                .collect(),
            counters: observe::counters(context)?,
            services,
        };
        if args.json {
            return output::json(&details.json());
        }
        details.print();
        Ok(())
    })?;
    if lab.is_half_changed() {
        output::note("a change of this lab was cut short or goes on; apply a file to make it good");
    }
    Ok(())
}

/// As measured last, or now.
fn impaired(context: &Context<'_>, state: &State, anew: bool) -> Result<Vec<impair::Row>> {
    if anew {
        return Ok(impair::rows(context.lab, &measure::impaired(context)?));
    }
    Ok(impair::rows(context.lab, &state.measured))
}

fn links(context: &Context<'_>) -> Result<Vec<LinkStats>> {
    let each = context.lab.named_networks().map(|n| observe::links(context, n.id));
    let mut links = each.collect::<Result<Vec<_>>>()?.concat();
    links.extend(observe::gateways(context)?);
    Ok(links)
}

impl Details<'_> {
    fn lab(&self) -> &Lab {
        &self.state.lab
    }

    fn print(&self) {
        let (state, lab) = (self.state, self.lab());
        output::line(&format!("lab {}, up since {}, from {}", lab.name, state.created, state.file.display()));
        if let Some(description) = &lab.description {
            output::line(description);
        }
        output::line(&format!("dataplane: {}", state.why));
        if !self.faults.is_empty() {
            output::line(&format!("down: {}", self.down().join(", ")));
        }
        self.print_nodes();
        self.print_links();
        self.print_strands();
        if !self.impaired.is_empty() {
            section("impaired links", &impair::TITLES, &impair::cells(&self.impaired));
        }
        self.print_roles();
        self.print_emulated();
        self.print_services();
        self.print_counters();
    }

    /// What has been set down, by name.
    fn down(&self) -> Vec<String> {
        let links = self.faults.links.iter().map(|id| format!("link {}", self.lab().full_link_name(*id)));
        let nodes = self.faults.nodes.iter().map(|id| format!("node {}", self.lab().full_name(*id)));
        nodes.chain(links).collect()
    }

    fn print_nodes(&self) {
        let rows: Vec<_> = self.lab().named_nodes().map(|n| self.node_row(n.id)).collect();
        section("nodes", &["network", "node", "role", "at", "address", "mtu", "dataplane"], &rows);
    }

    fn node_row(&self, id: NodeId) -> Vec<String> {
        let lab = self.lab();
        let node = lab.node(id);
        vec![
            lab.net(id.net).name.clone(),
            node.name.clone(),
            role(node.role).to_owned(),
            node.at.map(|at| lab.full_name(at)).unwrap_or_default(),
            lab.address(id).map(|a| a.to_string()).unwrap_or_default(),
            up::mtu(lab, id).map(|m| m.to_string()).unwrap_or_default(),
            self.state.dataplanes.get(node.base.index).map_or("", |d| up::name(*d)).to_owned(),
        ]
    }

    fn print_links(&self) {
        let rows: Vec<_> = self.links.iter().map(|stats| self.link_row(stats)).collect();
        let mut titles =
            vec!["network", "link", "ends", "addresses", "link addresses", "mtu", "cost", "state", "packets"];
        titles.extend(self.any_security().then_some("security"));
        section("links", &titles, &rows);
    }

    fn any_security(&self) -> bool {
        self.lab().networks.iter().flat_map(|n| &n.links).any(|l| l.security.is_some())
    }

    fn link_row(&self, stats: &LinkStats) -> Vec<String> {
        let lab = self.lab();
        let link = lab.link(stats.link);
        let [a, b] = &link.ends;
        let device = |side: usize| {
            let end = &link.ends[side];
            format!("{}:{}", observe::seen_from(lab, link.id.net, end.node), end.dev)
        };
        let mut row = vec![
            lab.place(link.id).to_owned(),
            link.name.clone(),
            format!("{} {}", device(0), device(1)),
            format!("{} {}", a.addr, b.addr),
            link.pairs(0).map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>().join(", "),
            link.mtu.to_string(),
            link.cost.to_string(),
            stats.state(&self.dead).to_owned(),
            packets(stats),
        ];
        row.extend(self.any_security().then(|| link.security.map_or("", |s| s.as_str()).to_owned()));
        row
    }

    /// A row for each end of each strand.
    fn print_strands(&self) {
        let each = self.strands.iter().flat_map(|link| [0, 1].map(|side| (link, side)));
        let rows: Vec<_> = each.flat_map(|(link, side)| self.strand_rows(link, side)).collect();
        if !rows.is_empty() {
            let titles =
                ["link", "from", "over", "spread", "weight", "state", "sent", "received", "probes", "lost"];
            section("strands", &titles, &rows);
        }
    }

    fn strand_rows(&self, strands: &LinkStrands, side: usize) -> Vec<Vec<String>> {
        let lab = self.lab();
        let link = lab.link(strands.link);
        let spread = link.parallel.as_ref().map_or("", |p| p.spread.as_str());
        let row = |strand: &StrandState| {
            let counts = [strand.sent, strand.received, strand.probes, strand.lost].map(|n| n.to_string());
            let mut row = vec![
                lab.full_link_name(link.id),
                lab.node(link.ends[side].node).name.clone(),
                strand.underlay.clone(),
                spread.to_owned(),
                strand.weight.to_string(),
                if strand.well { "well" } else { "left out" }.to_owned(),
            ];
            row.extend(counts);
            row
        };
        strands.sides[side].iter().map(row).collect()
    }

    /// Of each underlay, what each end says; null for links that have no strands.
    fn strands_json(&self, link: &Link) -> Value {
        let Some(parallel) = &link.parallel else { return Value::Null };
        let known = self.strands.iter().find(|s| s.link == link.id);
        let side = |side: usize, strand: usize| known.and_then(|k| k.sides[side].get(strand));
        let end = |strand: usize, s: usize| {
            let state = side(s, strand);
            json!({
                "node": self.lab().full_name(link.ends[s].node),
                "link_address": parallel.strands[strand].link_addrs[s],
                "well": state.map(|s| s.well),
                "sent": state.map(|s| s.sent),
                "received": state.map(|s| s.received),
                "probes": state.map(|s| s.probes),
                "lost": state.map(|s| s.lost),
            })
        };
        let strands = parallel.strands.iter().enumerate().map(|(i, strand)| {
            let over = &self.lab().net(strand.below).name;
            json!({ "over": over, "weight": strand.weight, "ends": [end(i, 0), end(i, 1)] })
        });
        strands.collect()
    }

    fn print_roles(&self) {
        let lab = self.lab();
        let vis: Vec<_> = lab.named_networks().skip(1).collect();
        if vis.is_empty() {
            return;
        }
        let titles: Vec<&str> =
            std::iter::once("base node").chain(vis.iter().map(|n| n.name.as_str())).collect();
        let rows: Vec<Vec<String>> = lab
            .base()
            .nodes
            .iter()
            .map(|node| {
                let parts = self.roles.iter().map(|parts| parts[node.id.index].words());
                std::iter::once(node.name.clone()).chain(parts).collect()
            })
            .collect();
        section("roles", &titles, &rows);
    }

    /// A row for each port of each router that a VI plays.
    fn print_emulated(&self) {
        let lab = self.lab();
        let ports = lab.emulated.iter().flat_map(|e| e.ports.iter().map(move |p| (e, p)));
        let row = |(emulated, port): (&Emulated, &Port)| {
            vec![
                lab.full_name(emulated.router),
                lab.net(emulated.inner).name.clone(),
                port.name.clone(),
                lab.full_name(port.phantom),
                lab.full_link_name(port.end.link),
                format!("{:?}", emulated.resolve).to_lowercase(),
            ]
        };
        let rows: Vec<_> = ports.map(row).collect();
        if !rows.is_empty() {
            let titles = ["router", "played by", "port", "phantom VH", "link", "exits"];
            section("emulated routers", &titles, &rows);
        }
    }

    fn print_services(&self) {
        if !self.services.is_empty() {
            let rows: Vec<_> = self.services.iter().map(service_row).collect();
            section("services", &["service", "node", "state", "pid", "restarts", "last end"], &rows);
        }
    }

    /// A row for each base node, a column for each counter that has counted something anywhere.
    fn print_counters(&self) {
        let counted = self.counters.values().flatten().filter(|(_, count)| **count > 0);
        let names: BTreeSet<&str> = counted.map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            return;
        }
        let titles: Vec<&str> = std::iter::once("base node").chain(names.iter().copied()).collect();
        let row = |(node, counters): (&String, &BTreeMap<String, u64>)| {
            let count = |name: &&str| counters.get(*name).map(u64::to_string).unwrap_or_default();
            std::iter::once(node.clone()).chain(names.iter().map(count)).collect()
        };
        let rows: Vec<Vec<String>> = self.counters.iter().map(row).collect();
        section("counters", &titles, &rows);
    }

    fn json(&self) -> Value {
        let (state, lab) = (self.state, self.lab());
        let roles: BTreeMap<&str, BTreeMap<&str, Part>> = lab
            .named_networks()
            .skip(1)
            .zip(&self.roles)
            .map(|(vi, parts)| {
                let names = lab.base().nodes.iter().map(|n| n.name.as_str());
                (vi.name.as_str(), names.zip(parts.iter().copied()).collect())
            })
            .collect();
        let mut value = summary(state);
        value["schema"] = json!("vilab.status/1");
        value["description"] = json!(lab.description);
        value["why"] = json!(state.why);
        value["timings"] = json!(state.timings);
        value["nodes"] = lab.named_nodes().map(|n| self.node_json(n.id)).collect();
        value["links"] = self.links.iter().map(|s| self.link_json(lab.link(s.link), s)).collect();
        value["emulated"] = lab.emulated.iter().map(|e| emulated_json(lab, e)).collect();
        value["down"] = json!(self.down());
        value["roles"] = json!(roles);
        value["counters"] = json!(self.counters);
        value["services"] = json!(self.services);
        value
    }

    fn node_json(&self, id: NodeId) -> Value {
        let lab = self.lab();
        let node = lab.node(id);
        json!({
            "name": lab.full_name(id),
            "role": node.role,
            "at": node.at.map(|at| lab.full_name(at)),
            "base": lab.node(node.base).name,
            "netns": node.netns,
            "address": lab.address(id),
            "addresses": lab.addresses(id).collect::<Vec<_>>(),
            "mtu": up::mtu(lab, id),
            "dataplane": self.state.dataplanes.get(node.base.index),
        })
    }

    fn link_json(&self, link: &Link, stats: &LinkStats) -> Value {
        let lab = self.lab();
        let end = |side: usize| {
            let end = &link.ends[side];
            json!({
                "node": lab.full_name(end.node),
                "device": end.dev,
                "address": end.addr,
                "link_address": end.link_addr,
                "statistics": stats.ends[side],
            })
        };
        json!({
            "network": lab.place(link.id),
            "name": link.name,
            "mtu": link.mtu,
            "security": link.security,
            "cost": link.cost,
            "state": stats.state(&self.dead),
            "ends": [end(0), end(1)],
            "spread": link.parallel.as_ref().map(|p| p.spread),
            "strands": self.strands_json(link),
            "impaired": self.impaired.iter().filter(|row| row.id == link.id).map(impair::Row::json).collect::<Vec<_>>(),
        })
    }
}

fn service_row(service: &Status) -> Vec<String> {
    vec![
        service.name.clone(),
        service.node.clone().unwrap_or_default(),
        service.state.to_string(),
        service.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        service.restarts.to_string(),
        service.last.map(|exit| exit.to_string()).unwrap_or_default(),
    ]
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Host => "host",
        Role::Router => "router",
        Role::Both => "both",
        Role::Phantom => "phantom",
    }
}

/// Packets each end has sent.
fn packets(stats: &LinkStats) -> String {
    let sent: Vec<String> = stats.ends.iter().map(|e| e.map_or(0, |e| e.tx_packets).to_string()).collect();
    sent.join(" ")
}

fn section(title: &str, titles: &[&str], rows: &[Vec<String>]) {
    output::line(&format!("\n{title}"));
    print(titles, rows);
}

fn print(titles: &[&str], rows: &[Vec<String>]) {
    table(titles, rows).iter().for_each(|row| output::line(row));
}

fn emulated_json(lab: &Lab, emulated: &Emulated) -> Value {
    let port = |port: &Port| {
        json!({
            "name": port.name,
            "phantom": lab.full_name(port.phantom),
            "link": lab.full_link_name(port.end.link),
            "netns": lab.node(port.edge).netns,
        })
    };
    json!({
        "router": lab.full_name(emulated.router),
        "inner": lab.net(emulated.inner).name,
        "resolve": emulated.resolve,
        "ports": emulated.ports.iter().map(port).collect::<Vec<_>>(),
    })
}
