//! A lab as planes above one another: the base network at the bottom, each Virtual Internet above what it rides on, as the
//! paper draws them (Figures 1, 3, 4, 8 and 11). A [`Lab`] and its [`Rib`] go in; a [`Graph`], which knows where each node
//! lies, and from it SVG, Mermaid and DOT come out. It never looks at a running lab, and equal labs give equal bytes.
//!
//! Nodes lie where their base nodes lie, so that what is above one another is one machine. Where a place has several
//! nodes of one VI (revisitation), links and place share the say; where it has many, the links have it.

mod arrange;
mod canvas;
mod dot;
mod mermaid;
mod stacks;
mod stress;
mod svg;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::model::{BASE, Lab, Link, NetId, Network, Node, NodeId, Role};
use crate::routing::{self, Part, Rib};

pub use dot::dot;
pub use mermaid::mermaid;
pub use stacks::{HeaderBox, StackRow, stacks};
pub use stress::Point;
pub use svg::{page_svg, svg};

/// More nodes than this in one network are not laid out: nobody could read them.
pub const LARGEST: usize = 1000;

/// What a picture shows of a lab.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Graph {
    pub lab: String,
    pub description: Option<String>,
    /// The base network first, each VI after what it rides on.
    pub planes: Vec<Plane>,
    /// Wires between networks.
    pub gateways: Vec<Wire>,
}

/// The base network or a VI.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plane {
    pub name: String,
    /// The networks it rides on; none for the base.
    pub over: Vec<String>,
    pub depth: usize,
    /// The emulated router that it plays, as `VI/node`.
    pub plays: Option<String>,
    pub nodes: Vec<Spot>,
    pub links: Vec<Line>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spot {
    /// Unique in its plane.
    pub name: String,
    pub role: Role,
    pub address: Option<Ipv4Addr>,
    /// The nodes of the planes below that it stands on; none in the base, and none for an emulated router.
    pub at: Vec<Place>,
    /// The VI that plays it.
    pub played_by: Option<String>,
    /// For the ports of an emulated router, the phantom VHs that these are.
    pub ports: Vec<Place>,
    /// Base nodes, where one VI is drawn: what they are to it.
    pub part: Option<Part>,
    /// Base nodes: where on earth it is, degrees north and east.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<[f64; 2]>,
    /// Where it lies on its plane.
    pub lies: Point,
}

/// A node, by its plane and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    pub plane: usize,
    pub node: usize,
}

/// A link of one plane.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub name: String,
    /// Indices of nodes.
    pub ends: [usize; 2],
    pub cost: u32,
    pub mtu: u32,
    pub security: Option<&'static str>,
    /// Base links, where one VI is drawn: tunnels of the VI pass it.
    pub carries: bool,
}

/// A gateway's wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wire {
    pub name: String,
    pub ends: [Place; 2],
}

/// Why a lab is not drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the lab has no VI `{0}`")]
    NoSuchVi(String),
    #[error("{network} has {nodes} nodes; more than {LARGEST} of one network are not drawn")]
    TooMany { network: String, nodes: usize },
}

impl Graph {
    /// The graph of a lab, or of the VIs named in `only` and what these ride on.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn of(lab: &Lab, rib: &Rib, only: &[String]) -> Result<Self, Refused> {
        let shown = shown(lab, only)?;
        if let Some(large) = shown.iter().find(|n| n.nodes.len() > LARGEST) {
            return Err(Refused::TooMany { network: large.name.clone(), nodes: large.nodes.len() });
        }
        let planes: BTreeMap<NetId, usize> = shown.iter().enumerate().map(|(i, n)| (n.id, i)).collect();
        let mapped = mapped(lab, only);
        let mut graph = Self {
            lab: lab.name.clone(),
            description: lab.description.clone(),
            planes: shown.iter().map(|n| plane(lab, rib, n, &planes, mapped)).collect(),
            gateways: gateways(lab, &planes),
        };
        arrange::arrange(&mut graph);
        Ok(graph)
    }

    fn spot(&self, at: Place) -> &Spot {
        &self.planes[at.plane].nodes[at.node]
    }

    /// `network/node`.
    fn full_name(&self, at: Place) -> String {
        format!("{}/{}", self.planes[at.plane].name, self.spot(at).name)
    }
}

/// The networks to draw, each after what it rides on.
fn shown<'a>(lab: &'a Lab, only: &[String]) -> Result<Vec<&'a Network>, Refused> {
    let mut shown: Vec<&Network> = lab.named_networks().collect();
    if !only.is_empty() {
        let mut wanted = std::collections::BTreeSet::new();
        for name in only {
            let found = lab.named_networks().find(|n| n.name == *name);
            let found = found.ok_or_else(|| Refused::NoSuchVi(name.clone()))?;
            wanted.extend(lab.foundations(found.id));
        }
        shown.retain(|n| wanted.contains(&n.id));
    }
    shown.sort_by_key(|n| n.depth);
    Ok(shown)
}

/// The one VI whose map onto the base is asked for.
fn mapped(lab: &Lab, only: &[String]) -> Option<NetId> {
    let [one] = only else { return None };
    lab.named_networks().find(|n| n.name == *one && n.id != BASE).map(|n| n.id)
}

fn plane(
    lab: &Lab,
    rib: &Rib,
    network: &Network,
    planes: &BTreeMap<NetId, usize>,
    mapped: Option<NetId>,
) -> Plane {
    let mapped = mapped.filter(|_| network.id == BASE);
    let parts = mapped.map(|vi| routing::roles(lab, rib, vi));
    let carried = mapped.map(|vi| routing::carried(lab, rib, vi)).unwrap_or_default();
    let line = |link: &Link| Line {
        name: link.name.clone(),
        ends: link.ends.each_ref().map(|end| end.node.index),
        cost: link.cost,
        mtu: link.mtu,
        security: link.security.map(|s| s.as_str()),
        carries: carried.contains(&link.id),
    };
    Plane {
        name: network.name.clone(),
        over: network.underlays().map(|net| lab.net(net).name.clone()).collect(),
        depth: network.depth,
        plays: lab.emulated.iter().find(|e| e.inner == network.id).map(|e| lab.full_name(e.router)),
        nodes: network
            .nodes
            .iter()
            .map(|node| Spot {
                part: parts.as_ref().map(|parts| parts[node.id.index]),
                ..spot(lab, network, node, planes)
            })
            .collect(),
        links: network.links.iter().map(line).collect(),
    }
}

fn spot(lab: &Lab, network: &Network, node: &Node, planes: &BTreeMap<NetId, usize>) -> Spot {
    let emulated = lab.emulated(node.id);
    let ports = emulated.into_iter().flat_map(|e| &e.ports).filter_map(|p| place(planes, p.phantom));
    let at = network.underlays().filter_map(|below| place(planes, standing(lab, node.at?, below)?));
    Spot {
        name: node.name.clone(),
        role: node.role,
        address: lab.address(node.id),
        at: at.collect(),
        played_by: emulated.map(|e| lab.net(e.inner).name.clone()),
        ports: ports.collect(),
        part: None,
        location: node.location,
        lies: Point::default(),
    }
}

/// The node of `below` where something stands that is placed at `at`: each of several underlays has one of that name.
fn standing(lab: &Lab, at: NodeId, below: NetId) -> Option<NodeId> {
    let name = &lab.node(at).name;
    let same = || lab.net(below).nodes.iter().find(|n| n.name == *name).map(|n| n.id);
    if at.net == below { Some(at) } else { same() }
}

fn place(planes: &BTreeMap<NetId, usize>, node: NodeId) -> Option<Place> {
    planes.get(&node.net).map(|plane| Place { plane: *plane, node: node.index })
}

fn gateways(lab: &Lab, planes: &BTreeMap<NetId, usize>) -> Vec<Wire> {
    let wire = |link: &Link| {
        let [a, b] = link.ends.each_ref().map(|end| place(planes, end.node));
        Some(Wire { name: link.name.clone(), ends: [a?, b?] })
    };
    lab.gateways.iter().filter_map(|g| wire(&g.link)).collect()
}

/// Groups of nodes that are one instance of a template: the instance's name, and the indices of its nodes, all levels of
/// instances; of those with one node none.
fn instances(plane: &Plane) -> BTreeMap<&str, Vec<usize>> {
    let mut found: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, node) in plane.nodes.iter().enumerate() {
        for (dot, _) in node.name.match_indices('.') {
            found.entry(&node.name[..dot]).or_default().push(index);
        }
    }
    found.retain(|_, nodes| nodes.len() > 1);
    found
}
