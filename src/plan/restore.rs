//! What the kernel forgets of a node when one of its devices goes down and nobody puts back: permanent neighbours,
//! connected routes that are not the kernel's own, static routes, and those through gateways. A lab and the
//! [`Expected`] routes go in; operations to be carried out once the devices are up come out. It never restores what
//! routing daemons do.

use super::build::{neighbours, routes};
use super::gateways::gateways;
use super::{Hop, Op};
use crate::model::{Lab, NodeId};
use crate::routing::Expected;

/// In an order that works: routes with a gateway need those to it.
#[must_use]
pub fn restored(lab: &Lab, expected: &Expected, node: NodeId) -> Vec<Op> {
    let at = lab.node(node);
    let port = lab.fabric(node.net).and_then(|e| e.ports.iter().find(|p| p.edge == node));
    let ends = at.ends.iter().chain(&at.wires).chain(port.map(|p| &p.end));
    let up: Vec<&str> = ends.filter(|e| expected.cut.is_up(**e)).map(|e| lab.end(*e).dev.as_str()).collect();
    let is_up = |hop: &Hop| up.contains(&hop.dev.as_str());
    let of_wires =
        gateways(lab).into_iter().filter(|op| matches!(op, Op::AddNeighbour { ns, .. } if *ns == at.netns));
    let neighbours = neighbours(lab, node).into_iter().chain(of_wires);
    let neighbours =
        neighbours.filter(|op| !matches!(op, Op::AddNeighbour { dev, .. } if !up.contains(&&**dev)));
    let routes = routes(lab, &expected.rib, node).into_iter().filter(|op| {
        let Op::AddRoute { hops, .. } = op else { return true };
        hops.iter().all(is_up)
    });
    neighbours.chain(routes).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{self, Routing, Target};
    use crate::routing::{Faults, Rib};

    fn lines(routing: Routing, down: &[&str], node: &str) -> Vec<String> {
        let text = "name: t\nbase: {links: [X -- Y, Y -- Z]}\nvis:\n  v:\n    nodes: {a: X, b: Y, c: Z}\n    \
                    links: [a -- b, b -- c, c -- a]\n";
        let mut lab = model::parse(Path::new("t.yaml"), text).unwrap();
        lab.networks[1].routing = routing;
        let mut faults = Faults::default();
        for link in lab.networks.iter().flat_map(|n| &n.links).filter(|l| down.contains(&l.name.as_str())) {
            faults.set(Target::Link(link.id), true);
        }
        let expected = Expected::compute(&lab, &Rib::compute(&lab), &faults);
        let id = lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == node).unwrap();
        restored(&lab, &expected, id).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn static_nodes_get_back_all_routes_through_devices_that_are_up() {
        let all = lines(Routing::Static, &[], "v/a");
        assert_eq!(all.len(), 2 + 2 + 1, "connected, hosts, the far link: {all:#?}");
        let left = lines(Routing::Static, &["c--a"], "v/a");
        assert_eq!(left.len(), 1 + 2, "{left:#?}");
        assert!(left.iter().all(|l| l.contains("v-b")), "{left:#?}");
    }

    #[test]
    fn dynamic_nodes_get_back_what_is_connected() {
        for routing in [Routing::Ospf, Routing::None] {
            let lines = lines(routing, &["c--a"], "v/a");
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(lines[0].contains("v-b") && !lines[0].contains("via"), "{lines:#?}");
        }
    }

    #[test]
    fn base_nodes_get_back_their_neighbours() {
        let lines = lines(Routing::Static, &["X--Y"], "base/Y");
        let neighbours: Vec<_> = lines.iter().filter(|l| l.contains("neigh")).collect();
        assert_eq!(neighbours.len(), 1, "{lines:#?}");
        assert!(neighbours[0].contains("e-Z"), "{lines:#?}");
    }
}
