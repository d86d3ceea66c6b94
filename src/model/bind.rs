//! The names in `tests:`. A lab and [`TestSpec`]s go in; [`Test`]s with nodes, links and addresses bound come out,
//! and every error is noted. It never runs a test.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::build::find_node;
use super::{
    App, BASE, EndId, GATEWAYS, HeaderRow, Lab, LinkId, NetId, NodeId, Target, Test, TestKind, names,
};
use crate::spec::{
    AppSpec, Diagnostic, InjectSpec, PairSpec, RowSpec, Span, Spanned, TestKindSpec, TestSpec, position,
};

type Errors = Vec<Diagnostic>;
type Addresses = (Ipv4Addr, Ipv4Addr);

/// Binds all tests.
pub(super) fn tests(lab: &Lab, specs: &[TestSpec], source: &str, errors: &mut Errors) -> Vec<Test> {
    specs.iter().filter_map(|spec| test(lab, spec, source, errors)).collect()
}

/// What `vilab logs` knows beside the apps.
const RESERVED: [&str; 5] = ["lab", "fastpath", "names", "isis", "routers"];

/// Binds all apps. One without a name is called after its program; where another app has that name, by its number too.
pub(super) fn apps(lab: &Lab, specs: &[AppSpec], errors: &mut Errors) -> Vec<App> {
    let given: BTreeSet<&str> = specs.iter().filter_map(|s| Some(s.name.as_ref()?.value.as_str())).collect();
    let mut apps: Vec<App> = Vec::new();
    for spec in specs {
        let at = node(lab, &spec.at, errors);
        let name = app_name(spec, &given, &apps, errors);
        let Some(at) = at else { continue };
        let (argv, ready) = (spec.run.clone(), spec.ready.clone());
        apps.push(App { name, at, argv, restart: spec.restart, ready });
    }
    apps
}

/// `given` are the names in the file, also those of later apps.
fn app_name(spec: &AppSpec, given: &BTreeSet<&str>, earlier: &[App], errors: &mut Errors) -> String {
    let taken = |name: &str| RESERVED.contains(&name) || earlier.iter().any(|a| a.name == name);
    let Some(name) = &spec.name else {
        let program = spec.run.first().map_or("", |p| p.rsplit('/').next().unwrap_or(p));
        let plain: String =
            program.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let numbered = (2..).map(|n| format!("{plain}.{n}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        return names.find(|n| !taken(n) && !given.contains(n.as_str())).unwrap_or(plain);
    };
    if let Some(fault) = names::node_fault(&name.value) {
        let title = format!("`{}` cannot be the name of an app", name.value);
        errors.push(Diagnostic::new("name", name.span, title).label(fault));
    } else if RESERVED.contains(&name.value.as_str()) {
        let title = format!("`{}` cannot be the name of an app", name.value);
        errors.push(Diagnostic::new("name", name.span, title).label("one of the lab's own processes"));
    } else if taken(&name.value) {
        let title = format!("there are two apps `{}`", name.value);
        errors.push(Diagnostic::new("duplicate-app", name.span, title));
    }
    name.value.clone()
}

pub(super) fn test(lab: &Lab, spec: &TestSpec, source: &str, errors: &mut Errors) -> Option<Test> {
    let kind = kind(lab, spec, errors)?;
    Some(Test {
        name: title(spec),
        line: position(source, spec.span).0,
        within_ms: spec.within_ms,
        not: spec.not,
        kind,
    })
}

/// The name of a test, or the test in words, on one line.
pub(super) fn title(spec: &TestSpec) -> String {
    let name = spec.name.clone().unwrap_or_else(|| words(&spec.kind));
    name.trim_end().split(char::is_control).collect::<Vec<_>>().join(" ")
}

/// The test in words, for those without a name.
fn words(kind: &TestKindSpec) -> String {
    let pair = |p: &PairSpec| format!("{} -> {}", p.from.value, p.to.value);
    match kind {
        TestKindSpec::Ping { pair: p, size, df, .. } => {
            let size = size.map(|s| format!(", {s} bytes")).unwrap_or_default();
            format!("ping {}{size}{}", pair(p), if *df { ", df" } else { "" })
        }
        TestKindSpec::PingAll(net) => format!("ping all in {}", net.value),
        TestKindSpec::Isolated(nets) => {
            let names: Vec<&str> = nets.iter().map(|n| n.value.as_str()).collect();
            format!("isolated {}", names.join(", "))
        }
        TestKindSpec::Trace { pair: p, .. } => format!("trace {}", pair(p)),
        TestKindSpec::Ttl { pair: p, is } => format!("ttl {} is {is}", pair(p)),
        TestKindSpec::Headers { pair: p, at, .. } => format!("headers {} at {}", pair(p), at.value),
        TestKindSpec::Depth { vi, headers, .. } => format!("depth of {} is {headers} headers", vi.value),
        TestKindSpec::Mtu { pair: p, is } => format!("mtu {} is {is}", pair(p)),
        TestKindSpec::Inject(inject) => {
            let fate = if inject.delivered { "delivered" } else { "dropped" };
            let stack: Vec<String> = inject.stack.iter().map(pair).collect();
            format!("inject [{}] at {} is {fate}", stack.join(", "), inject.at.value)
        }
        TestKindSpec::Source { pair: p, is } => format!("source {} is {}", pair(p), is.value),
        TestKindSpec::Route { node, to, via } => {
            let via: Vec<&str> = via.iter().map(|n| n.value.as_str()).collect();
            format!("route of {} to {} via {}", node.value, to.value, via.join(", "))
        }
        TestKindSpec::Tcp { pair: p, .. } => format!("tcp {}", pair(p)),
        TestKindSpec::Exec(exec) => format!("exec at {}: {}", exec.at.value, exec.run.join(" ")),
        TestKindSpec::Converged => "converged".to_owned(),
        TestKindSpec::Impair { link, .. } => format!("impair {}", link.value),
        TestKindSpec::Down(target) => format!("down {}", target.value),
        TestKindSpec::Up(target) => format!("up {}", target.value),
        TestKindSpec::Wait(ms) => format!("wait {ms}ms"),
    }
}

fn kind(lab: &Lab, spec: &TestSpec, errors: &mut Errors) -> Option<TestKind> {
    match &spec.kind {
        TestKindSpec::Ping { pair, count, size, df } => {
            let pairs = vec![nodes(lab, pair, errors)?];
            Some(TestKind::Ping { pairs, count: *count, size: *size, df: *df })
        }
        TestKindSpec::PingAll(net) => {
            let net = network(lab, net, errors)?;
            Some(TestKind::Ping { pairs: all_pairs(lab, net), count: 1, size: None, df: false })
        }
        TestKindSpec::Isolated(nets) => {
            let networks: Vec<NetId> = nets.iter().filter_map(|n| network(lab, n, errors)).collect();
            let twice =
                nets.iter().enumerate().find(|(i, net)| nets[..*i].iter().any(|n| n.value == net.value));
            if let Some((_, net)) = twice {
                let title = format!("`{}` cannot be isolated from itself", net.value);
                errors.push(Diagnostic::new("test", net.span, title));
            }
            if nets.len() < 2 {
                errors.push(Diagnostic::new("test", spec.span, "`isolated` needs two networks or more"));
            }
            Some(TestKind::Isolated { networks })
        }
        TestKindSpec::Trace { pair, hops } => {
            let pair = nodes(lab, pair, errors);
            let net = pair.map(|(from, _)| from.net);
            let hops = hops.iter().filter_map(|h| near(lab, net, h, errors)).collect();
            let (from, to) = pair?;
            Some(TestKind::Trace { from, to, hops })
        }
        TestKindSpec::Ttl { pair, is } => {
            let (from, to) = nodes(lab, pair, errors)?;
            Some(TestKind::Ttl { from, to, is: *is })
        }
        TestKindSpec::Headers { pair, at, is } => headers(lab, pair, at, is, errors),
        TestKindSpec::Depth { vi, headers, mtu } => {
            let net = network(lab, vi, errors)?;
            Some(TestKind::Depth { net, headers: *headers, mtu: *mtu })
        }
        TestKindSpec::Mtu { pair, is } => {
            let (from, to) = nodes(lab, pair, errors)?;
            Some(TestKind::Mtu { from, to, is: *is })
        }
        TestKindSpec::Inject(inject) => inject_kind(lab, inject, errors),
        TestKindSpec::Source { pair, is } => {
            let (from, to) = nodes(lab, pair, errors)?;
            Some(TestKind::Source { from, to, is: address(lab, from.net, is, errors)? })
        }
        TestKindSpec::Route { node: at, to, via } => {
            let at = node(lab, at, errors);
            let net = at.map(|n| n.net);
            let to = near(lab, net, to, errors);
            let via = via.iter().filter_map(|n| near(lab, net, n, errors)).collect();
            Some(TestKind::Route { node: at?, to: to?, via })
        }
        TestKindSpec::Tcp { pair, at_least_bps } => {
            let (from, to) = nodes(lab, pair, errors)?;
            Some(TestKind::Tcp { from, to, at_least_bps: *at_least_bps })
        }
        TestKindSpec::Exec(exec) => {
            let at = node(lab, &exec.at, errors)?;
            let (argv, stdout) = (exec.run.clone(), exec.stdout.clone());
            Some(TestKind::Exec { at, argv, stdout, status: exec.status })
        }
        TestKindSpec::Converged => Some(TestKind::Converged),
        TestKindSpec::Impair { link, to } => match target(lab, link, errors)? {
            Target::Link(id) if id.net == GATEWAYS => {
                let title = format!("`{}` is a gateway; links are impaired", link.value);
                errors.push(Diagnostic::new("test", link.span, title));
                None
            }
            Target::Link(id) => {
                let mut to = *to;
                if lab.is_turned(id, &link.value) {
                    to.reverse();
                }
                Some(TestKind::Impair { link: id, to })
            }
            Target::Node(_) => {
                let title = format!("`{}` is a node; links are impaired", link.value);
                errors.push(Diagnostic::new("test", link.span, title));
                None
            }
        },
        TestKindSpec::Down(name) => Some(TestKind::Down(target(lab, name, errors)?)),
        TestKindSpec::Up(name) => Some(TestKind::Up(target(lab, name, errors)?)),
        TestKindSpec::Wait(ms) => Some(TestKind::Wait(*ms)),
    }
}

fn all_pairs(lab: &Lab, net: NetId) -> Vec<(NodeId, NodeId)> {
    let ids: Vec<NodeId> = lab.net(net).nodes.iter().map(|n| n.id).collect();
    ids.iter().flat_map(|a| ids.iter().filter(move |b| *b != a).map(move |b| (*a, *b))).collect()
}

fn network(lab: &Lab, name: &Spanned<String>, errors: &mut Errors) -> Option<NetId> {
    let found = lab.named_networks().find(|n| n.name == name.value).map(|n| n.id);
    if found.is_none() {
        let known = lab.named_networks().map(|n| n.name.as_str());
        let title = format!("there is no network `{}`", name.value);
        errors.push(Diagnostic::new("unknown-network", name.span, title).meant(&name.value, known));
    }
    found
}

fn node(lab: &Lab, name: &Spanned<String>, errors: &mut Errors) -> Option<NodeId> {
    find_node(lab, name).map_err(|e| errors.push(e)).ok()
}

fn nodes(lab: &Lab, pair: &PairSpec, errors: &mut Errors) -> Option<(NodeId, NodeId)> {
    let from = node(lab, &pair.from, errors);
    let to = match from {
        Some(from) => near(lab, Some(from.net), &pair.to, errors),
        None => node(lab, &pair.to, errors),
    };
    Some((from?, to?))
}

/// A node of network `net` by its short name, else any node.
fn near(lab: &Lab, net: Option<NetId>, name: &Spanned<String>, errors: &mut Errors) -> Option<NodeId> {
    match net.and_then(|net| inside(lab, net, &name.value)) {
        Some(found) => Some(found),
        None => node(lab, name, errors),
    }
}

/// The node of network `net` that has this short or full name.
fn inside(lab: &Lab, net: NetId, name: &str) -> Option<NodeId> {
    let network = lab.net(net);
    let full = name.strip_prefix(network.name.as_str()).and_then(|rest| rest.strip_prefix('/'));
    network.nodes.iter().find(|n| n.name == full.unwrap_or(name)).map(|n| n.id)
}

/// A node by name, or a link by name; a link may be written with spaces and either way round.
fn target(lab: &Lab, name: &Spanned<String>, errors: &mut Errors) -> Option<Target> {
    let called = lab.named_links_called(&name.value);
    if let [link] = called.as_slice() {
        return Some(Target::Link(*link));
    }
    if called.is_empty() && !name.value.contains("--") {
        return node(lab, name, errors).map(Target::Node);
    }
    let diagnostic = |title| Diagnostic::new("unknown-link", name.span, title);
    errors.push(if called.is_empty() {
        let names = lab.named_links().map(|l| l.name.as_str());
        let plain = name.value.replace(' ', "");
        diagnostic(format!("there is no link `{}`", name.value)).meant(&plain, names.collect::<Vec<_>>())
    } else {
        let names: Vec<String> = called.iter().map(|id| format!("`{}`", lab.full_link_name(*id))).collect();
        diagnostic(format!("`{}` names several links", name.value))
            .help(format!("name one: {}", names.join(", ")))
    });
    None
}

/// The one link of this name: `name` or `network/name`, in `net` if given.
fn link(lab: &Lab, net: Option<NetId>, name: &str) -> Option<LinkId> {
    let plain = name.replace(' ', "");
    let turned = plain.split_once("--").map(|(a, b)| format!("{b}--{a}"));
    let matches = |network: &str, link: &super::Link| {
        let full = format!("{network}/{}", link.name);
        [Some(&plain), turned.as_ref()].into_iter().flatten().any(|n| *n == link.name || *n == full)
    };
    let networks = lab.named_networks().filter(|n| net.is_none_or(|net| n.id == net));
    let links = networks.flat_map(|n| n.links.iter().map(|l| (n.name.as_str(), l)));
    let wires = lab.gateways.iter().filter(|_| net.is_none()).map(|g| ("gateways", &g.link));
    let mut found = links.chain(wires).filter(|(network, link)| matches(network, link)).map(|(_, l)| l);
    let first = found.next()?;
    found.next().is_none().then_some(first.id)
}

fn headers(
    lab: &Lab,
    pair: &PairSpec,
    at: &Spanned<String>,
    rows: &[RowSpec],
    errors: &mut Errors,
) -> Option<TestKind> {
    let pair = nodes(lab, pair, errors);
    let at = base_node(lab, at, errors);
    let net = pair.map_or(BASE, |(from, _)| from.net);
    let is = rows.iter().filter_map(|row| header_row(lab, net, row, errors)).collect();
    let (from, to) = pair?;
    Some(TestKind::Headers { from, to, at: at?, is })
}

fn base_node(lab: &Lab, name: &Spanned<String>, errors: &mut Errors) -> Option<NodeId> {
    let found = near(lab, Some(BASE), name, errors)?;
    if found.net != BASE {
        let title = format!("`{}` is not a node of the base network", name.value);
        errors.push(Diagnostic::new("test", name.span, title));
        return None;
    }
    Some(found)
}

fn header_row(lab: &Lab, net: NetId, row: &RowSpec, errors: &mut Errors) -> Option<HeaderRow> {
    let neighbour = base_node(lab, &row.neighbour, errors);
    let of_net = |lab: &Lab, net, pair: &Option<PairSpec>, errors: &mut Errors| {
        pair.as_ref().and_then(|p| header(lab, net, p, errors))
    };
    let base = of_net(lab, BASE, &row.base, errors);
    let link = row.link.as_ref().and_then(|p| link_header(lab, net, p, errors));
    let network = of_net(lab, net, &row.net, errors);
    let stack = row.stack.as_ref().map(|s| stack(lab, net, s, errors));
    Some(HeaderRow { inward: row.inward, neighbour: neighbour?, base, link, net: network, stack })
}

/// A header between two nodes of `net`, or two link ends, or two literal addresses.
fn header(lab: &Lab, net: NetId, pair: &PairSpec, errors: &mut Errors) -> Option<Addresses> {
    let from = address(lab, net, &pair.from, errors);
    let to = address(lab, net, &pair.to, errors);
    Some((from?, to?))
}

fn address(lab: &Lab, net: NetId, name: &Spanned<String>, errors: &mut Errors) -> Option<Ipv4Addr> {
    if let Ok(literal) = name.value.parse() {
        return Some(literal);
    }
    let in_net = inside(lab, net, &name.value).is_some();
    if !in_net && let Some(end) = link_end(lab, &name.value) {
        if lab.link(end.link).parallel.is_some() {
            errors.push(any_strand(lab, end.link, name.span));
            return None;
        }
        return lab.end(end).link_addr.or_else(|| Some(lab.end(end).addr));
    }
    let id = near(lab, Some(net), name, errors)?;
    let found = lab.address(id);
    if found.is_none() {
        let title = format!("`{}` has no address", name.value);
        errors.push(Diagnostic::new("test", name.span, title));
    }
    found
}

/// `k1.A`: the end of link `k1` at node `A`.
fn link_end(lab: &Lab, name: &str) -> Option<EndId> {
    let dots = name.char_indices().filter(|(_, c)| *c == '.').map(|(i, _)| i);
    dots.filter_map(|dot| {
        let id = link(lab, None, &name[..dot])?;
        let side = lab.link(id).ends.iter().position(|e| lab.node(e.node).name == name[dot + 1..])?;
        Some(EndId { link: id, side })
    })
    .next()
}

/// The link header between two neighbours in `net`; `k1.A -> k1.B` where several links join them.
fn link_header(lab: &Lab, net: NetId, pair: &PairSpec, errors: &mut Errors) -> Option<Addresses> {
    let (Some(a), Some(b)) = (inside(lab, net, &pair.from.value), inside(lab, net, &pair.to.value)) else {
        return header(lab, net, pair, errors);
    };
    let ends: Vec<EndId> = lab.node(a).ends.iter().copied().filter(|e| lab.peer(*e).node == b).collect();
    match ends.as_slice() {
        [end] if lab.link(end.link).parallel.is_some() => {
            errors.push(any_strand(lab, end.link, pair.from.span));
            None
        }
        [end] => Some((lab.end(*end).link_addr?, lab.peer(*end).link_addr?)),
        [] => {
            let title = format!("no link joins `{}` and `{}`", pair.from.value, pair.to.value);
            errors.push(Diagnostic::new("test", pair.from.span, title));
            None
        }
        several => {
            let name = &lab.link(several[0].link).name;
            let title = format!("several links join `{}` and `{}`", pair.from.value, pair.to.value);
            let [a, b] = [a, b].map(|id| &lab.node(id).name);
            let help = format!("say which, such as `{name}.{a} -> {name}.{b}`");
            errors.push(Diagnostic::new("test", pair.from.span, title).help(help));
            None
        }
    }
}

/// A link over parallel underlays has no one pair of link addresses.
fn any_strand(lab: &Lab, link: LinkId, span: Span) -> Diagnostic {
    let networks = lab.net(link.net).underlays().map(|net| format!("`{}`", lab.net(net).name));
    let networks: Vec<String> = networks.collect();
    let title = format!("a packet on link `{}` may take any of {}", lab.link(link).name, networks.join(", "));
    Diagnostic::new("test", span, title).help("leave the link header out, or give its addresses as numbers")
}

/// Headers, outermost first: the first of the base, the last of `net`, link ends between.
fn stack(lab: &Lab, net: NetId, pairs: &[PairSpec], errors: &mut Errors) -> Vec<Addresses> {
    let last = pairs.len().saturating_sub(1);
    let of = |(at, pair): (usize, &PairSpec)| match at {
        0 => header(lab, BASE, pair, errors),
        at if at == last => header(lab, net, pair, errors),
        _ => link_header(lab, net, pair, errors),
    };
    pairs.iter().enumerate().filter_map(of).collect()
}

fn inject_kind(lab: &Lab, spec: &InjectSpec, errors: &mut Errors) -> Option<TestKind> {
    let at = base_node(lab, &spec.at, errors)?;
    let innermost = spec.stack.last()?;
    let to = owner(lab, innermost, errors)?;
    let before = errors.len();
    let stack = stack(lab, to.net, &spec.stack, errors);
    if errors.len() > before {
        return None;
    }
    let InjectSpec { delivered, by, strong_host, .. } = spec.clone();
    Some(TestKind::Inject { at, stack, to, delivered, by, strong_host })
}

/// The node that the innermost destination belongs to.
fn owner(lab: &Lab, pair: &PairSpec, errors: &mut Errors) -> Option<NodeId> {
    let Ok(literal) = pair.to.value.parse::<Ipv4Addr>() else {
        let from = find_node(lab, &pair.from).ok().map(|n| n.net);
        return near(lab, from, &pair.to, errors);
    };
    let owners: Vec<NodeId> = lab.named_networks().filter_map(|n| lab.owner(n.id, literal)).collect();
    if let [one] = owners.as_slice() {
        return Some(*one);
    }
    let title = format!("{literal} belongs to {} nodes; name the node instead", owners.len());
    errors.push(Diagnostic::new("test", pair.to.span, title));
    None
}
