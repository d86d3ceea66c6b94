//! What impairments do to a packet on its whole way. A [`Lab`] and its [`Rib`] go in; delay, loss and rate between two
//! nodes, those of the layers below included, come out. It never knows about anything but impairments: the machine's
//! own time is not in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Rib;
use crate::model::{EndId, Impairment, Lab, NodeId, Parallel, Spread};

/// What is asked of a way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Journey {
    /// Without jitter, microseconds.
    pub delay_us: u64,
    /// At most this much more or less.
    pub jitter_us: u64,
    /// The share of packets that arrive.
    pub delivered: f64,
    /// The rate of the slowest link, bits a second.
    pub rate_bps: Option<u64>,
}

impl Default for Journey {
    fn default() -> Self {
        Self { delay_us: 0, jitter_us: 0, delivered: 1.0, rate_bps: None }
    }
}

impl From<&Impairment> for Journey {
    fn from(of: &Impairment) -> Self {
        Self {
            delay_us: of.delay_us,
            jitter_us: of.jitter_us,
            delivered: 1.0 - f64::from(of.loss_ppm) / 1e6,
            rate_bps: of.rate_bps,
        }
    }
}

impl From<Journey> for Impairment {
    fn from(of: Journey) -> Self {
        let lost = (1.0 - of.delivered).clamp(0.0, 1.0) * 1e6;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a million"
        )]
        let loss_ppm = lost.round() as u32;
        Self { delay_us: of.delay_us, jitter_us: of.jitter_us, loss_ppm, rate_bps: of.rate_bps }
    }
}

impl Journey {
    /// One way after another.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            delay_us: self.delay_us + next.delay_us,
            jitter_us: self.jitter_us + next.jitter_us,
            delivered: self.delivered * next.delivered,
            rate_bps: self.rate_bps.into_iter().chain(next.rate_bps).min(),
        }
    }
}

impl Journey {
    /// Over the strands of a link, all of them used: a packet takes any of these ways, or each. Delay and jitter span all
    /// of them; what arrives is the mean that the weights give, but of the worst way where a flow stays on it.
    fn of_any(parallel: &Parallel, ways: &[Self]) -> Self {
        let least = ways.iter().map(|w| w.delay_us.saturating_sub(w.jitter_us)).min().unwrap_or(0);
        let most = ways.iter().map(|w| w.delay_us + w.jitter_us).max().unwrap_or(0);
        let jitter_us = (most - least).div_ceil(2);
        let weights: Vec<u32> = parallel.strands.iter().map(|s| s.weight).collect();
        let total: u32 = weights.iter().sum();
        let mean =
            |(way, weight): (&Self, &u32)| way.delivered * f64::from(*weight) / f64::from(total.max(1));
        let delivered = match parallel.spread {
            Spread::Flow => ways.iter().map(|w| w.delivered).fold(1.0, f64::min),
            Spread::Packet => ways.iter().zip(&weights).map(mean).sum(),
            Spread::Duplicate => 1.0 - ways.iter().map(|w| 1.0 - w.delivered).product::<f64>(),
        };
        let rate_bps = ways.iter().filter_map(|w| w.rate_bps).min();
        Self { delay_us: least + jitter_us, jitter_us, delivered, rate_bps }
    }
}

/// The ways of one lab, each link's found once.
#[derive(Debug)]
pub struct Journeys<'a> {
    lab: &'a Lab,
    rib: &'a Rib,
    /// Over each link from this end, what lies below included; empty where nothing is impaired.
    links: BTreeMap<EndId, Journey>,
    /// The share that arrives over each, on the worst of the paths of equal cost below.
    shares: BTreeMap<EndId, f64>,
}

impl<'a> Journeys<'a> {
    #[must_use]
    pub fn new(lab: &'a Lab, rib: &'a Rib) -> Self {
        let mut journeys = Self { lab, rib, links: BTreeMap::new(), shares: BTreeMap::new() };
        if !lab.impaired() {
            return journeys;
        }
        let mut networks: Vec<_> = lab.networks.iter().collect();
        networks.sort_by_key(|n| n.depth);
        for link in networks.iter().flat_map(|n| &n.links) {
            for side in 0..2 {
                let end = EndId { link: link.id, side };
                let journey = Journey::from(&link.impair[side]).then(journeys.below(end));
                journeys.links.insert(end, journey);
                let share = journeys.worst_over(end);
                journeys.shares.insert(end, share);
            }
        }
        journeys
    }

    /// Over one link, from this end to the other.
    #[must_use]
    pub fn over(&self, end: EndId) -> Journey {
        self.links.get(&end).copied().unwrap_or_default()
    }

    /// What lies below a link, from this end to the other.
    #[must_use]
    pub fn below(&self, end: EndId) -> Journey {
        let ways = self.lab.ways(end).into_iter();
        let mut ways = ways.map(|(from, to)| self.one_way(from, to).unwrap_or_default());
        match &self.lab.link(end.link).parallel {
            None => ways.next().unwrap_or_default(),
            Some(parallel) => Journey::of_any(parallel, &ways.collect::<Vec<_>>()),
        }
    }

    /// From a node to an address, by the first of equal paths; `None` where there is no route.
    #[must_use]
    pub fn one_way(&self, from: NodeId, to: Ipv4Addr) -> Option<Journey> {
        if self.links.is_empty() {
            return Some(Journey::default());
        }
        let path = self.rib.path(self.lab, from, to)?;
        Some(path.into_iter().map(|end| self.over(end)).fold(Journey::default(), Journey::then))
    }

    /// The share of packets that arrive, there and back, on the worst of all paths of equal cost, in each layer: a packet may
    /// take any. `None` where there is no route.
    #[must_use]
    pub fn at_worst(&self, from: NodeId, to: NodeId) -> Option<f64> {
        if self.links.is_empty() {
            return Some(1.0);
        }
        let there = self.worst(from, self.lab.address(to)?, &mut BTreeMap::new())?;
        Some(there * self.worst(to, self.lab.address(from)?, &mut BTreeMap::new())?)
    }

    /// `known` holds `None` for a node that is being looked at, too: to come back to one is a loop.
    fn worst(&self, from: NodeId, to: Ipv4Addr, known: &mut BTreeMap<NodeId, Option<f64>>) -> Option<f64> {
        if self.lab.addresses(from).any(|a| a == to) {
            return Some(1.0);
        }
        if let Some(found) = known.get(&from) {
            return *found;
        }
        known.insert(from, None);
        let hops = self.rib.next_hops(self.lab, from, to);
        let over = |end: &EndId| {
            let rest = self.worst(self.lab.peer(*end).node, to, known)?;
            Some(self.shares.get(end).copied().unwrap_or(1.0) * rest)
        };
        let shares: Option<Vec<f64>> = hops.iter().map(over).collect();
        let share = shares?.into_iter().reduce(f64::min);
        known.insert(from, share);
        share
    }

    /// Those of the layers below are known.
    fn worst_over(&self, end: EndId) -> f64 {
        let link = self.lab.link(end.link);
        let own = Journey::from(&link.impair[end.side]).delivered;
        let ways = self.lab.ways(end);
        let below = match (&link.parallel, ways.as_slice()) {
            (None, [(from, to), ..]) => self.worst(*from, *to, &mut BTreeMap::new()).unwrap_or(1.0),
            _ => self.below(end).delivered,
        };
        own * below
    }

    /// From a node to another and back.
    #[must_use]
    pub fn round_trip(&self, from: NodeId, to: NodeId) -> Option<Journey> {
        let there = self.one_way(from, self.lab.address(to)?)?;
        let back = self.one_way(to, self.lab.address(from)?)?;
        Some(there.then(back))
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
  links:
    - {link: X -- Y, delay: 10ms, loss: 50%}
    - {link: Y -- Z, forward: {delay: 5ms}, backward: {delay: 20ms, jitter: 1ms, rate: 10mbit}}
vis:
  v:
    nodes: {a: X, b: {at: Y, role: router}, c: Z, d: Z}
    links: [{link: a -- b, delay: 7ms}, b -- c, {link: c -- d, delay: 1ms, rate: 1mbit}]
  w:
    over: v
    nodes: {p: a, q: c}
    links: [{link: p -- q, delay: 3ms}]
";

    fn way(journeys: &Journeys<'_>, from: &str, to: &str) -> Journey {
        let id = |name: &str| journeys.lab.nodes().find(|n| n.name == name).unwrap().id;
        journeys.one_way(id(from), journeys.lab.address(id(to)).unwrap()).unwrap()
    }

    #[test]
    fn layers_add_up_in_each_direction() {
        let lab = model::parse(Path::new("t.yaml"), LAB).unwrap();
        let rib = Rib::compute(&lab);
        let journeys = Journeys::new(&lab, &rib);
        let there = way(&journeys, "p", "q");
        assert_eq!((there.delay_us, there.jitter_us, there.rate_bps), (25_000, 0, None));
        assert!((there.delivered - 0.5).abs() < 1e-9);
        let back = way(&journeys, "q", "p");
        assert_eq!((back.delay_us, back.jitter_us, back.rate_bps), (40_000, 1_000, Some(10_000_000)));
        assert_eq!(way(&journeys, "c", "d").delay_us, 1_000, "inside a base node nothing lies below");
        assert_eq!(way(&journeys, "a", "d").rate_bps, Some(1_000_000));
        let ids = ["p", "q"].map(|n| lab.nodes().find(|node| node.name == n).unwrap().id);
        assert_eq!(journeys.round_trip(ids[0], ids[1]).unwrap().delay_us, 65_000);
    }

    #[test]
    fn a_packet_takes_any_strand() {
        let journey = |spread: &str| {
            let text = format!(
                "name: t\nbase: {{links: [X -- Y]}}\nvis:\n  \
                 in1: {{nodes: {{a: X, b: Y}}, links: [{{link: a -- b, delay: 10ms, jitter: 2ms, loss: 40%}}]}}\n  \
                 in2: {{nodes: {{a: X, b: Y}}, links: [{{link: a -- b, delay: 30ms, loss: 20%, rate: 1mbit}}]}}\n  \
                 top:\n    over: [in1, in2]\n    nodes: {{p: a, q: b}}\n    links: [{{link: p -- q, {spread}}}]\n"
            );
            let lab = model::parse(Path::new("t.yaml"), &text).unwrap();
            let rib = Rib::compute(&lab);
            way(&Journeys::new(&lab, &rib), "p", "q")
        };
        let packet = journey("spread: packet, weights: [1, 3]");
        assert_eq!((packet.delay_us, packet.jitter_us, packet.rate_bps), (19_000, 11_000, Some(1_000_000)));
        for (found, delivered) in
            [(packet, 0.75), (journey("spread: flow"), 0.6), (journey("spread: duplicate"), 1.0 - 0.4 * 0.2)]
        {
            assert!((found.delivered - delivered).abs() < 1e-9, "{found:?}");
        }
    }

    #[test]
    fn nothing_impaired_is_nothing_to_find() {
        let lab = model::parse(Path::new("t.yaml"), "name: t\nbase: {links: [X -- Y]}\n").unwrap();
        let rib = Rib::compute(&lab);
        let journeys = Journeys::new(&lab, &rib);
        assert!(journeys.links.is_empty());
        assert_eq!(way(&journeys, "X", "Y"), Journey::default());
    }

    #[test]
    fn of_paths_of_equal_cost_the_worst_counts_in_each_layer() {
        let text = "
name: t
base: {links: [X -- Y, {link: Y -- Z, forward: {loss: 100%}}, Z -- W -- X]}
vis: {v: {nodes: {a: X, b: Z}, links: [{link: a -- b, loss: 50%}]}}
";
        let lab = model::parse(Path::new("t.yaml"), text).unwrap();
        let rib = Rib::compute(&lab);
        let journeys = Journeys::new(&lab, &rib);
        let id = |name: &str| lab.nodes().find(|n| n.name == name).unwrap().id;
        let share = |from, to| journeys.at_worst(id(from), id(to)).unwrap();
        assert_eq!(share("X", "Y"), 1.0);
        assert_eq!(share("X", "Z"), 0.0, "by Y or by W");
        assert_eq!(share("a", "b"), 0.0, "what lies below is a path of two as well");
        assert_eq!(share("Z", "W"), 1.0);
    }
}
