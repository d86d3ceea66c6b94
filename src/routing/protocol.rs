//! What each routing protocol can express. A network goes in; how far its routes reach, and what of the network the
//! protocol cannot carry, come out. It never writes configuration: [`super::frr`] does.

use super::{Cut, Graph};
use crate::model::{Lab, Network, Routing};

/// The farthest a RIP route reaches: a connected prefix has metric 1, each link adds its cost, and 16 is infinity
/// (RFC 2453, 3.4.1).
const RIP_FARTHEST: u64 = 14;
/// BGP has no bound of its own; an AS path of this length fits into one segment (RFC 4271, 4.3) and into every message.
const BGP_FARTHEST: u64 = 255;
/// Cost of a BGP link: so often does its AS number stand in the path. All of it fits into one line of configuration.
const BGP_DEAREST: u32 = 64;

/// The distance beyond which the protocol has no route, whatever fails.
#[must_use]
pub fn horizon(routing: Routing) -> Option<u64> {
    match routing {
        Routing::Rip => Some(RIP_FARTHEST),
        Routing::Static | Routing::Ospf | Routing::Isis | Routing::Bgp | Routing::None => None,
    }
}

/// What the network's protocol cannot carry of it, in a sentence each; empty where all is well.
#[must_use]
pub fn refusals(lab: &Lab, network: &Network) -> Vec<String> {
    match network.routing {
        Routing::Static | Routing::Isis | Routing::None => Vec::new(),
        Routing::Ospf => idle_hosts(network),
        Routing::Rip => {
            let why = "and `rip` reaches 14: its metrics end at 15, and a node's own prefixes have 1";
            too_far(lab, network, RIP_FARTHEST, why).into_iter().collect()
        }
        Routing::Bgp => {
            let why = "and `bgp` reaches 255, for a path names an AS for each unit of cost";
            too_dear(network).into_iter().chain(too_far(lab, network, BGP_FARTHEST, why)).collect()
        }
    }
}

/// OSPF computes paths through every router it knows and has no word for one that does not forward.
fn idle_hosts(network: &Network) -> Vec<String> {
    let idle = network.nodes.iter().filter(|n| !n.forwards && n.ends.len() > 1);
    idle.map(|node| {
        format!(
            "`{}` has several links and does not forward, which `ospf` cannot tell its neighbours; \
             `isis`, `rip` and `bgp` can",
            node.name
        )
    })
    .collect()
}

fn too_dear(network: &Network) -> Option<String> {
    let link = network.links.iter().find(|l| l.cost > BGP_DEAREST)?;
    Some(format!(
        "link `{}` costs {}; `bgp` writes a cost as so many AS numbers, {BGP_DEAREST} at most",
        link.name, link.cost
    ))
}

/// The pair of nodes that is farthest apart, where that is too far.
fn too_far(lab: &Lab, network: &Network, bound: u64, why: &str) -> Option<String> {
    let graph = Graph::new(lab, network, &Cut::default());
    let farthest_from = |to: usize| {
        let distances = graph.distances_to(to);
        let found = distances.iter().enumerate().filter_map(|(from, d)| d.map(|d| (d, to, from)));
        found.max_by_key(|(distance, ..)| *distance)
    };
    let pairs = (0..network.nodes.len()).filter_map(farthest_from);
    // The first of equals, so that the sentence names them in the order of the file.
    let (distance, a, b) = pairs.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let [a, b] = [a, b].map(|index| &network.nodes[index].name);
    (distance > bound).then(|| format!("`{b}` is {distance} away from `{a}`, {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;
    use crate::routing::Rib;

    fn ring(nodes: usize, routing: &str) -> std::result::Result<Lab, String> {
        let text = format!(
            "name: t\nbase: {{links: [X -- Y]}}\nvis:\n  v: {{nodes: {{\"n[1..{nodes}]\": X}}, \
             links: [{{ring: \"n[1..{nodes}]\"}}], routing: {routing}}}\n"
        );
        model::parse(Path::new("t.yaml"), &text).map_err(|e| e.to_string())
    }

    #[test]
    fn rip_reaches_fourteen_and_no_farther_when_a_ring_is_cut() {
        let lab = ring(28, "rip").unwrap_or_else(|e| panic!("{e}"));
        assert!(ring(30, "rip").is_err() && ring(30, "ospf").is_ok());
        let link = lab.networks[1].links[0].id;
        let cut =
            Cut { down: [0, 1].map(|side| crate::model::EndId { link, side }).into(), ..Cut::default() };
        let routes = |routing| {
            let mut lab = lab.clone();
            lab.networks[1].routing = routing;
            let rib = Rib::of_network_without(&lab, lab.networks[1].id, &cut);
            rib.tables[&lab.link(link).ends[0].node].len()
        };
        assert_eq!(routes(Routing::Ospf), 27 + 26, "all hosts; all links' prefixes but its own");
        assert_eq!(routes(Routing::Rip), 14 + 14, "the link that begins 14 away has its prefix there");
    }
}
