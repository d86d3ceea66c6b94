//! Ranges and generators written out. A [`LabSpec`] goes in; a [`FlatLab`], in which every node and every link
//! stands by itself, comes out, and every error is noted. It never binds a name to a node.

pub(crate) mod control;
pub(crate) mod import;
mod link;
mod range;

pub use control::{Given, MAX_LEVELS};
pub use import::Imported;

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use crate::model::{DataplaneChoice, Impairment, Routing, Security};
use crate::spec::{
    AppSpec, BaseNodeSpec, BaseSpec, Diagnostic, EmulateSpec, GatewaySpec, LabSpec, Span, Spanned,
    SpreadSpec, TestSpec, ViMtu, ViNodeSpec, ViSpec,
};

/// Bound on the nodes of a lab.
pub const MAX_NODES: usize = 65_536;

/// A lab without ranges and generators.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatLab {
    pub name: Spanned<String>,
    pub description: Option<String>,
    pub dataplane: DataplaneChoice,
    pub base: FlatBase,
    pub vis: Vec<FlatVi>,
    pub gateways: Vec<FlatGateway>,
    pub apps: Vec<AppSpec>,
    pub tests: Vec<TestSpec>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FlatBase {
    pub span: Span,
    /// Those declared, then those that links name, each once.
    pub nodes: Vec<BaseNodeSpec>,
    pub links: Vec<FlatLink>,
    pub addresses: Option<Spanned<Ipv4Net>>,
    pub mtu: u32,
    pub routing: Spanned<Routing>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FlatVi {
    pub name: Spanned<String>,
    pub over: Spanned<String>,
    /// The others of several parallel underlays.
    pub besides: Vec<Spanned<String>>,
    pub nodes: Vec<ViNodeSpec>,
    pub links: Vec<FlatLink>,
    pub addresses: Option<Spanned<Ipv4Net>>,
    pub mtu: Option<Spanned<ViMtu>>,
    pub routing: Spanned<Routing>,
    /// Of the links that say nothing themselves.
    pub security: Option<Security>,
    /// Of a VI that plays a router.
    pub emulate: Option<EmulateSpec>,
    /// Name or number of the user who may change it.
    pub owner: Option<String>,
}

/// One wire between two named nodes of different networks, and whether the first network's default route leads
/// through it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatGateway {
    pub link: FlatLink,
    pub default: bool,
}

/// One link between two named nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatLink {
    pub a: Spanned<String>,
    pub b: Spanned<String>,
    pub name: Option<Spanned<String>>,
    pub cost: u32,
    pub mtu: Option<Spanned<u32>>,
    /// What the link itself says: `none` too.
    pub security: Option<Spanned<Option<Security>>>,
    pub spread: SpreadSpec,
    /// From the first end to the second, and back.
    pub impair: [Impairment; 2],
}

impl FlatLink {
    /// A link without options.
    #[must_use]
    pub fn plain(a: Spanned<String>, b: Spanned<String>) -> Self {
        let impair = [Impairment::default(); 2];
        let spread = SpreadSpec::default();
        Self { a, b, name: None, cost: 1, mtu: None, security: None, impair, spread }
    }
}

/// Writes out everything that stands for several things, noting every error in ranges and generators.
pub fn expand(spec: LabSpec, errors: &mut Vec<Diagnostic>) -> FlatLab {
    let base = base(spec.base, errors);
    let vis: Vec<FlatVi> = spec.vis.into_iter().map(|v| vi(v, errors)).collect();
    let nodes = base.nodes.len() + vis.iter().map(|v| v.nodes.len()).sum::<usize>();
    if nodes > MAX_NODES {
        let title = format!("the lab has {nodes} nodes; {MAX_NODES} is the bound");
        errors.push(Diagnostic::new("too-big", spec.name.span, title));
    }
    let gateways = spec.gateways.iter().flat_map(|g| gateways(g, errors)).collect();
    let LabSpec { name, description, dataplane, apps, tests, .. } = spec;
    FlatLab { name, description, dataplane, base, vis, gateways, apps, tests }
}

fn base(spec: BaseSpec, errors: &mut Vec<Diagnostic>) -> FlatBase {
    let mut nodes = Vec::new();
    for node in spec.nodes {
        let names = range::expand_or(&node.name, errors);
        if names.len() > 1 && node.loopback.is_some() {
            errors.push(Diagnostic::new("range", node.name.span, "several nodes cannot share one loopback"));
        }
        nodes.extend(names.into_iter().map(|name| BaseNodeSpec { name, ..node.clone() }));
    }
    let links = spec.links.iter().flat_map(|l| link::expand_in("base", l, errors)).collect::<Vec<_>>();
    let mut known: BTreeSet<String> = nodes.iter().map(|n| n.name.value.clone()).collect();
    for end in links.iter().flat_map(|l| [&l.a, &l.b]) {
        if known.insert(end.value.clone()) {
            nodes.push(BaseNodeSpec::named(end.clone()));
        }
    }
    let BaseSpec { span, addresses, mtu, routing, .. } = spec;
    FlatBase { span, nodes, links, addresses, mtu, routing }
}

fn vi(spec: ViSpec, errors: &mut Vec<Diagnostic>) -> FlatVi {
    let nodes = spec.nodes.iter().flat_map(|n| vi_nodes(n, errors)).collect();
    let links = spec.links.iter().flat_map(|l| link::expand_in(&spec.name.value, l, errors)).collect();
    let ViSpec { name, over, besides, addresses, mtu, routing, security, emulate, owner, .. } = spec;
    let owner = owner.map(|o| o.value);
    FlatVi { name, over, besides, nodes, links, addresses, mtu, routing, security, emulate, owner }
}

fn gateways(spec: &GatewaySpec, errors: &mut Vec<Diagnostic>) -> Vec<FlatGateway> {
    let links = link::expand(&spec.link, errors).into_iter();
    links.map(|link| FlatGateway { link, default: spec.default }).collect()
}

/// `n[1..8]: "R[1..8]"` pairs up; one placement serves all.
fn vi_nodes(node: &ViNodeSpec, errors: &mut Vec<Diagnostic>) -> Vec<ViNodeSpec> {
    let names = range::expand_or(&node.name, errors);
    let mut places = range::expand_or(&node.at, errors);
    if places.len() != 1 && places.len() != names.len() {
        let title = format!("{} nodes cannot pair up with {} places", names.len(), places.len());
        errors.push(
            Diagnostic::new("range", node.at.span, title)
                .label(format!("{} places", places.len()))
                .see(node.name.span, format!("{} nodes", names.len())),
        );
        places = vec![Spanned::new(String::new(), node.at.span)];
    }
    if names.len() > 1
        && let Some(address) = &node.address
    {
        errors.push(Diagnostic::new("range", address.span, "several nodes cannot share one address"));
    }
    if names.len() > 1
        && let Some(emulate) = &node.emulate
    {
        errors.push(Diagnostic::new("range", emulate.span, "a VI plays one router, not several"));
    }
    let ports = vi_ports(node, names.len(), errors);
    let place = |i: usize| places[if places.len() == 1 { 0 } else { i }].clone();
    let port = |i: usize| ports.get(i).cloned();
    let one = |(i, name)| ViNodeSpec { name, at: place(i), port: port(i), ..node.clone() };
    names.into_iter().enumerate().map(one).collect()
}

/// `v[1..3]: {port: "p[1..3]"}` pairs up.
fn vi_ports(node: &ViNodeSpec, nodes: usize, errors: &mut Vec<Diagnostic>) -> Vec<Spanned<String>> {
    let Some(port) = &node.port else { return Vec::new() };
    let ports = range::expand_or(port, errors);
    if ports.len() != nodes && !ports.is_empty() {
        let title = format!("{nodes} nodes cannot pair up with {} ports", ports.len());
        errors.push(Diagnostic::new("range", port.span, title));
    }
    ports
}
