//! What impairments do to a packet on its whole way. A [`Lab`] and its [`Rib`] go in; delay, loss and rate between two
//! nodes, those of the layers below included, come out. It never knows about anything but impairments: the machine's
//! own time is not in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Rib;
use crate::model::{Carrier, EndId, Impairment, Lab, NodeId};

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

/// The ways of one lab, each link's found once.
#[derive(Debug)]
pub struct Journeys<'a> {
    lab: &'a Lab,
    rib: &'a Rib,
    /// Over each link from this end, what lies below included; empty where nothing is impaired.
    links: BTreeMap<EndId, Journey>,
}

impl<'a> Journeys<'a> {
    #[must_use]
    pub fn new(lab: &'a Lab, rib: &'a Rib) -> Self {
        let mut journeys = Self { lab, rib, links: BTreeMap::new() };
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
        let (near, far) = (self.lab.site(self.lab.end(end)), self.lab.site(self.lab.peer(end)));
        let way = match self.lab.link(end.link).carrier {
            Some(Carrier::Tunnel) => self.lab.node(far.base).host.and_then(|to| self.one_way(near.base, to)),
            Some(Carrier::Stacked) => {
                let to = self.lab.peer(end).link_addr;
                near.at.zip(to).and_then(|(at, to)| self.one_way(at, to))
            }
            Some(Carrier::Inside) | None => None,
        };
        way.unwrap_or_default()
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
    fn nothing_impaired_is_nothing_to_find() {
        let lab = model::parse(Path::new("t.yaml"), "name: t\nbase: {links: [X -- Y]}\n").unwrap();
        let rib = Rib::compute(&lab);
        let journeys = Journeys::new(&lab, &rib);
        assert!(journeys.links.is_empty());
        assert_eq!(way(&journeys, "X", "Y"), Journey::default());
    }
}
