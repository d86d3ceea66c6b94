//! The routes of an emulated router's edges. The router's own routes go in; for each port, by which way a packet that
//! comes in there leaves, comes out. It never chooses: what the router has chosen holds at all its ports.
//!
//! A packet that leaves by another port crosses the inner VI to that port's edge, and leaves there without being looked
//! up again: the prefix names the port, the port names the phantom VH (paper, II.2.4 and III: "the exit VH").

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::{Cut, Rib, Route};
use crate::model::{Emulated, EndId, Lab, Port};

/// The tables of all edges of one emulated router whose own table is in `rib`; what `cut` takes away is left out.
pub(super) fn add_edges(lab: &Lab, rib: &mut Rib, emulated: &Emulated, cut: &Cut) {
    let own = rib.tables.get(&emulated.router).cloned().unwrap_or_default();
    for port in &emulated.ports {
        let reach = |end: &EndId| reach(lab, emulated, port, *end, cut);
        let learnt = own.iter().map(|route| (route.prefix, route.hops.iter().filter_map(reach).collect()));
        let others = emulated.ports.iter().filter(|p| p.name != port.name);
        let links = others.map(|p| (prefix(lab, p), reach(&p.end).into_iter().collect()));
        let src = Some(lab.end(port.end).addr);
        let mut table: Vec<Route> = learnt
            .chain(links)
            .filter(|(_, hops): &(Ipv4Net, Vec<EndId>)| !hops.is_empty())
            .map(|(prefix, hops)| Route { prefix, hops, src })
            .collect();
        table.sort_by_key(|r| r.prefix);
        rib.tables.insert(port.edge, table);
    }
}

/// The prefix of the link at a port.
fn prefix(lab: &Lab, port: &Port) -> Ipv4Net {
    Ipv4Net::new_assert(lab.end(port.end).addr, 31).trunc()
}

/// The end of the edge at `port` through which a packet goes that is to leave the router by `end`.
fn reach(lab: &Lab, emulated: &Emulated, port: &Port, end: EndId, cut: &Cut) -> Option<EndId> {
    let leaves = emulated.port(end).filter(|_| cut.is_up(end))?;
    match leaves.edge == port.edge {
        true => Some(end),
        false => emulated.inside(lab, port, leaves).filter(|inside| cut.is_alive(inside.link)),
    }
}

/// The ports that an emulated router uses: the most that all reach one another, of several such sets the one with the
/// lowest numbers. A router whose ports did not all reach each other would lose packets that it has routes for.
///
/// `joined` says whether two of `count` ports reach each other.
#[must_use]
pub fn whole(count: usize, joined: &impl Fn(usize, usize) -> bool) -> BTreeSet<usize> {
    let mut best = BTreeSet::new();
    grow(&mut Vec::new(), (0..count).collect(), joined, &mut best);
    best
}

/// Branch and bound over sets whose members are all joined; `left` are joined with all of `chosen`, in order.
fn grow(
    chosen: &mut Vec<usize>,
    left: Vec<usize>,
    joined: &impl Fn(usize, usize) -> bool,
    best: &mut BTreeSet<usize>,
) {
    if chosen.len() > best.len() {
        *best = chosen.iter().copied().collect();
    }
    for (at, port) in left.iter().enumerate() {
        if chosen.len() + left.len() - at <= best.len() {
            return;
        }
        chosen.push(*port);
        let rest = left[at + 1..].iter().copied().filter(|other| joined(*port, *other)).collect();
        grow(chosen, rest, joined, best);
        chosen.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;

    const LAB: &str = "
name: t
base:
  links: [X -- Y -- Z]
vis:
  inner:
    nodes:
      v1: {at: X, role: phantom, port: p1}
      v2: {at: Y, role: phantom, port: p2}
      v3: {at: Z, role: phantom, port: p3}
    links: [v1 -- v2 -- v3]
  outer:
    nodes:
      a: X
      b: Y
      c: Z
      R: {role: router, emulate: inner}
    links: [a -- R.p1, b -- R.p2, c -- R.p3, b -- c]
";

    #[test]
    fn edges_have_the_routes_of_their_router() {
        let lab = model::parse(Path::new("t.yaml"), LAB).unwrap();
        let rib = Rib::compute(&lab);
        let emulated = &lab.emulated[0];
        let host = |name: &str| lab.nodes().find(|n| n.name == name).unwrap().host.unwrap();
        for (from, port) in emulated.ports.iter().enumerate() {
            for (to, name) in ["a", "b", "c"].iter().enumerate() {
                let route = rib.route(port.edge, host(name)).unwrap();
                let devs: Vec<&str> = route.hops.iter().map(|end| lab.end(*end).dev.as_str()).collect();
                let expected = if from == to { format!("v-{name}") } else { format!("x-p{}", to + 1) };
                assert_eq!(devs, [expected], "p{} to {name}", from + 1);
                assert_eq!(route.src, Some(lab.end(port.end).addr));
            }
            assert_eq!(rib.tables[&port.edge].len(), rib.tables[&emulated.router].len() + 2);
        }
    }

    #[test]
    fn the_most_ports_that_all_reach_each_other() {
        let whole = |count, cut: &[(usize, usize)]| {
            let joined = |a: usize, b: usize| !cut.contains(&(a.min(b), a.max(b)));
            super::whole(count, &joined).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(whole(3, &[]), [0, 1, 2]);
        assert_eq!(whole(3, &[(0, 1)]), [0, 2]);
        assert_eq!(whole(3, &[(0, 1), (0, 2)]), [1, 2]);
        assert_eq!(whole(4, &[(0, 2), (0, 3), (1, 2), (1, 3)]), [0, 1]);
        assert_eq!(whole(2, &[(0, 1)]), [0]);
        assert!(whole(0, &[]).is_empty());
        assert_eq!(whole(64, &[]).len(), 64);
    }

    #[test]
    fn what_is_cut_is_no_way_out() {
        let lab = model::parse(Path::new("t.yaml"), LAB).unwrap();
        let mut rib = Rib::compute(&lab);
        let emulated = lab.emulated[0].clone();
        let [one, two] = [&emulated.ports[0], &emulated.ports[1]];
        let inside = emulated.inside(&lab, one, two).unwrap();
        let cut = Cut { dead: [inside.link].into(), ..Cut::default() };
        add_edges(&lab, &mut rib, &emulated, &cut);
        let b = lab.nodes().find(|n| n.name == "b").unwrap().host.unwrap();
        assert_eq!(rib.route(one.edge, b), None);
        assert!(rib.route(emulated.ports[2].edge, b).is_some());
    }
}
