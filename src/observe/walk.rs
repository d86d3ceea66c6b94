//! The way of one packet through all layers, followed on paper. A lab, a sender, an address and something to [`Look`] routes
//! up in go in; each header put on, taken off or rewritten, by which device, and each wire of the base with the whole stack
//! on it, come out. It never looks at a running lab itself: what is looked up in may.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::resolve::{Answer, Look, port};
use crate::error::Result;
use crate::model::{BASE, Carrier, EndId, Lab, NetId, NodeId};
use crate::packet::ipv4::{DEFAULT_TTL, HEADER_LEN};

/// Ways of equal cost that are told apart; of more, some are not looked at.
const WAYS: usize = 64;
/// Headers of a packet, and steps of its way, after which it is taken to go in a circle.
const DEEPEST: usize = 130;
const LONGEST: usize = 20_000;

/// What a header is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The network header of this network.
    Net(NetId),
    /// The link header of this VI.
    Link(NetId),
    /// The header of a base tunnel.
    Tunnel,
}

/// One IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) layer: Layer,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) ttl: u8,
    /// Total length of the packet that begins with it, bytes.
    pub(crate) length: usize,
    /// What it carries is sealed.
    pub(crate) sealed: bool,
}

/// One thing that happens to the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A header is put on by a device of a node, or by a base node's end of a tunnel.
    Added { at: NodeId, device: Option<String>, header: Header },
    /// The outermost header is taken off, likewise.
    Removed { at: NodeId, device: Option<String>, header: Header },
    /// A node forwards it: the TTL of the outermost header, as it is then.
    Forwarded { at: NodeId, ttl: u8 },
    /// It crosses a wire of the base, from this end; the stack is outermost first.
    Wire { end: EndId, stack: Vec<Header> },
}

/// A whole way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Walk {
    pub(crate) events: Vec<Event>,
    /// Devices it is sent by, in order, with the size of the packet for each.
    pub(crate) devices: Vec<(EndId, usize)>,
    /// Where and why it ends before it arrives.
    pub(crate) lost: Option<Lost>,
    /// The TTL it arrives with.
    pub(crate) arrives_with: Option<u8>,
    /// At some node there were routes that nobody can compute.
    pub(crate) unknown: bool,
}

/// The end of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) at: NodeId,
    pub(crate) why: String,
}

impl Walk {
    pub(crate) fn wires(&self) -> impl Iterator<Item = (EndId, &[Header])> {
        self.events.iter().filter_map(|event| match event {
            Event::Wire { end, stack } => Some((*end, stack.as_slice())),
            Event::Added { .. } | Event::Removed { .. } | Event::Forwarded { .. } => None,
        })
    }
}

/// A packet at the layer of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: Ipv4Addr,
    /// What the sender chooses, where nothing else is known.
    pub(crate) src: Option<Ipv4Addr>,
    pub(crate) ttl: u8,
    /// Bytes.
    pub(crate) length: usize,
    /// Whether it must fit the devices: what offload cuts later need not.
    pub(crate) whole: bool,
}

/// All ways of equal cost of a packet, at most [`WAYS`] of them; the first is that by the first next hops.
pub(crate) fn walks(lab: &Lab, look: &mut dyn Look, packet: &Packet) -> Result<Vec<Walk>> {
    let mut found = Vec::new();
    let mut script: Vec<usize> = Vec::new();
    loop {
        let mut walker = Walker {
            lab,
            look,
            packet,
            walk: Walk::default(),
            stack: Vec::new(),
            script: &script,
            taken: Vec::new(),
            forms: Vec::new(),
        };
        walker.send(packet)?;
        let (walk, taken) = (walker.walk, walker.taken);
        found.push(walk);
        // The last choice that has another branch takes it.
        let Some(last) = taken.iter().rposition(|(chosen, of)| chosen + 1 < *of) else { break };
        if found.len() >= WAYS {
            break;
        }
        script = taken[..last].iter().map(|(chosen, _)| *chosen).collect();
        script.push(taken[last].0 + 1);
    }
    Ok(found)
}

struct Walker<'a> {
    lab: &'a Lab,
    look: &'a mut dyn Look,
    packet: &'a Packet,
    walk: Walk,
    /// Outermost last.
    stack: Vec<Header>,
    /// What to choose where there is a choice; beyond its end the first.
    script: &'a [usize],
    /// What was chosen, and of how many.
    taken: Vec<(usize, usize)>,
    /// Resolutions under way: one that begins again within itself never ends.
    forms: Vec<(NodeId, Ipv4Addr)>,
}

impl Walker<'_> {
    fn choose(&mut self, of: usize) -> usize {
        if of < 2 {
            return 0;
        }
        let chosen = self.script.get(self.taken.len()).copied().unwrap_or(0).min(of - 1);
        self.taken.push((chosen, of));
        chosen
    }

    fn send(&mut self, packet: &Packet) -> Result<()> {
        let Packet { from, to, src, ttl, length, .. } = *packet;
        let node = self.lab.node(from);
        let src = src
            .or(node.host)
            .or_else(|| node.ends.first().map(|e| self.lab.end(*e).addr))
            .unwrap_or(Ipv4Addr::UNSPECIFIED);
        let layer = Layer::Net(from.net);
        self.stack.push(Header { layer, src, dst: to, ttl, length, sealed: false });
        let header = self.stack[0];
        self.walk.events.push(Event::Added { at: from, device: None, header });
        if self.follow(from, to)? {
            self.walk.arrives_with = self.stack.first().map(|h| h.ttl);
        }
        Ok(())
    }

    /// From a node to an address of its network, hop after hop; true if it arrives.
    fn follow(&mut self, from: NodeId, to: Ipv4Addr) -> Result<bool> {
        if self.forms.contains(&(from, to)) || self.stack.len() > DEEPEST {
            return Ok(self.lose(from, "it would pass through itself".to_owned()));
        }
        self.forms.push((from, to));
        let arrives = self.hops(from, to)?;
        self.forms.pop();
        Ok(arrives)
    }

    fn hops(&mut self, from: NodeId, to: Ipv4Addr) -> Result<bool> {
        let (mut at, mut passed) = (from, BTreeSet::new());
        loop {
            if !passed.insert(at) || self.walk.events.len() > LONGEST {
                return Ok(self.lose(at, "it comes here again: the routes form a loop".to_owned()));
            }
            let ends = match self.look.route(at, to)? {
                Answer::Own => return Ok(true),
                Answer::Lost(why) => return Ok(self.lose(at, why)),
                Answer::Unknown => {
                    self.walk.unknown = true;
                    return Ok(self.lose(at, "its routes are not vilab's to compute".to_owned()));
                }
                Answer::Route { ends, .. } => ends,
            };
            if ends.is_empty() {
                return Ok(self.lose(at, format!("the route to {to} has no next hop")));
            }
            if passed.len() > 1 {
                if let Some(why) = self.look.bars(at)? {
                    return Ok(self.lose(at, why));
                }
                let Some(header) = self.stack.last_mut() else { return Ok(false) };
                header.ttl = header.ttl.saturating_sub(1);
                let ttl = header.ttl;
                self.walk.events.push(Event::Forwarded { at, ttl });
                if ttl == 0 {
                    return Ok(self.lose(at, "its TTL has come to an end".to_owned()));
                }
            }
            let end = ends[self.choose(ends.len())];
            if passed.len() == 1 && self.stack.len() == 1 && self.packet.src.is_none() {
                self.sends_from(at, end);
            }
            // Of an emulated router, its process hands what it sends itself to the edge.
            match self.cross(end)? {
                Some(next) => at = next,
                None => return Ok(false),
            }
        }
    }

    /// A router has no address of its own: it sends from that of the interface.
    fn sends_from(&mut self, at: NodeId, end: EndId) {
        if self.lab.node(at).host.is_none() {
            self.stack[0].src = self.lab.end(end).addr;
            if let Some(Event::Added { header, .. }) = self.walk.events.first_mut() {
                header.src = self.stack[0].src;
            }
        }
    }

    /// Over a link: the node that has the packet then.
    fn cross(&mut self, end: EndId) -> Result<Option<NodeId>> {
        let lab = self.lab;
        let far = EndId { side: 1 - end.side, ..end };
        let near_node = lab.site(lab.end(end)).partition;
        // Below the sender's own layer, what is too large is what a VI with `mtu: fragment` cuts.
        if let [header] = self.stack[..]
            && self.packet.whole
            && header.length > usize::try_from(lab.link(end.link).mtu).unwrap_or(usize::MAX)
        {
            let (dev, mtu) = (&lab.end(end).dev, lab.link(end.link).mtu);
            self.lose(
                near_node,
                format!("{} bytes are more than the MTU of device {dev}, {mtu}", header.length),
            );
            return Ok(None);
        }
        self.walk.devices.push((end, self.stack.last().map_or(0, |h| h.length)));
        for (end, site) in [(end, near_node), (far, lab.site(lab.end(far)).partition)] {
            if !self.look.is_up(end)? {
                let why = format!("device {} is down", lab.end(end).dev);
                self.lose(site, why);
                return Ok(None);
            }
        }
        if !self.descend(end)? {
            return Ok(None);
        }
        let next = lab.site(lab.end(far)).partition;
        match port(lab, next).filter(|_| lab.fabric(end.link.net).is_some()) {
            Some(exit) => self.cross(exit.end),
            None => Ok(Some(next)),
        }
    }

    /// What carries a link, from this end; true if it does.
    fn descend(&mut self, end: EndId) -> Result<bool> {
        let (lab, link) = (self.lab, self.lab.link(end.link));
        let ways = lab.ways(end);
        match link.carrier {
            None => {
                // The wire of a gateway is no base wire: both ends are on one base node.
                if end.link.net == BASE {
                    let stack = self.stack.iter().rev().copied().collect();
                    self.walk.events.push(Event::Wire { end, stack });
                }
                Ok(true)
            }
            Some(Carrier::Inside) => {
                self.add_link(end, None);
                self.take_link(end);
                Ok(true)
            }
            Some(Carrier::Tunnel) => {
                let Some((base, outer)) = ways.first().copied() else { return Ok(true) };
                self.add_link(end, None);
                let Some(src) = lab.node(base).host else { return Ok(false) };
                self.add(
                    Header {
                        layer: Layer::Tunnel,
                        src,
                        dst: outer,
                        ttl: DEFAULT_TTL,
                        length: 0,
                        sealed: false,
                    },
                    base,
                    None,
                );
                if !self.follow(base, outer)? {
                    return Ok(false);
                }
                let far = lab.site(lab.peer(end)).base;
                self.take(far, None);
                self.take_link(end);
                Ok(true)
            }
            Some(Carrier::Stacked) => {
                let Some((below, to)) = ways.first().copied() else { return Ok(true) };
                self.add_link(end, None);
                if !self.follow(below, to)? {
                    return Ok(false);
                }
                self.take_link(end);
                Ok(true)
            }
            Some(Carrier::Parallel) => {
                let strands = link.parallel.iter().flat_map(|p| &p.strands).count();
                let chosen = self.choose(strands);
                let strand = link.parallel.as_ref().and_then(|p| p.strands.get(chosen));
                let at =
                    strand.and_then(|s| Some((lab.stands_on(end, s.below)?, s.link_addrs[1 - end.side]?)));
                let Some((below, to)) = at else { return Ok(false) };
                self.add_link(end, strand.and_then(|s| s.link_addrs[end.side].zip(Some(to))));
                if !self.follow(below, to)? {
                    return Ok(false);
                }
                self.take_link(end);
                Ok(true)
            }
        }
    }

    /// Puts the link header of a link on, from this end; `pair` is that of a strand.
    fn add_link(&mut self, end: EndId, pair: Option<(Ipv4Addr, Ipv4Addr)>) {
        let (lab, link) = (self.lab, self.lab.link(end.link));
        let (near, far) = (lab.end(end), lab.peer(end));
        let Some((src, dst)) = pair.or(near.link_addr.zip(far.link_addr)) else { return };
        let layer = Layer::Link(end.link.net);
        let sealed = link.security.is_some();
        let header = Header { layer, src, dst, ttl: DEFAULT_TTL, length: 0, sealed };
        let payload = self.stack.last().map_or(0, |h| h.length);
        let length = HEADER_LEN + link.security.map_or(payload, |suite| suite.sealed_len(payload));
        self.push(Header { length, ..header }, lab.site(near).partition, Some(near.dev.clone()));
    }

    fn take_link(&mut self, end: EndId) {
        let far = self.lab.peer(end);
        self.take(self.lab.site(far).partition, Some(far.dev.clone()));
    }

    fn add(&mut self, header: Header, at: NodeId, device: Option<String>) {
        let length = self.stack.last().map_or(0, |h| h.length) + HEADER_LEN;
        self.push(Header { length, ..header }, at, device);
    }

    fn push(&mut self, header: Header, at: NodeId, device: Option<String>) {
        self.stack.push(header);
        self.walk.events.push(Event::Added { at, device, header });
    }

    fn take(&mut self, at: NodeId, device: Option<String>) {
        if let Some(header) = self.stack.pop() {
            self.walk.events.push(Event::Removed { at, device, header });
        }
    }

    fn lose(&mut self, at: NodeId, why: String) -> bool {
        self.walk.lost.get_or_insert(Lost { at, why });
        false
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;
    use crate::observe::resolve::look::Computed;
    use crate::routing::{Expected, Faults, Rib};

    /// The ways of a packet of `length` bytes between two nodes, by their full names.
    fn ways(lab: &Lab, (from, to): (&str, &str), length: usize) -> Vec<Walk> {
        let id = |name: &str| lab.nodes().find(|n| lab.full_name(n.id) == name).unwrap().id;
        let (rib, faults) = (Rib::compute(lab), Faults::default());
        let expected = Expected::compute(lab, &rib, &faults);
        let (from, to) = (id(from), lab.address(id(to)).unwrap());
        let packet = Packet { from, to, src: None, ttl: DEFAULT_TTL, length, whole: true };
        walks(lab, &mut Computed::new(lab, &expected, &faults), &packet).unwrap()
    }

    fn lab(text: &str) -> Lab {
        model::parse(Path::new("lab.yaml"), text).unwrap()
    }

    #[test]
    fn f11_a_packet_crosses_five_wires_and_only_its_network_header_ages() {
        let lab = lab(include_str!("../../labs/figure-11-revisitation.yaml"));
        let [walk] = &ways(&lab, ("line/A", "line/F"), 84)[..] else { panic!("one way") };
        let ttls: Vec<Vec<u8>> = walk.wires().map(|(_, s)| s.iter().map(|h| h.ttl).collect()).collect();
        assert_eq!(ttls, [[64, 64, 64], [64, 64, 63], [64, 64, 62], [64, 64, 61], [64, 64, 60]]);
        let lengths: BTreeSet<Vec<usize>> =
            walk.wires().map(|(_, s)| s.iter().map(|h| h.length).collect()).collect();
        assert_eq!(lengths, BTreeSet::from([vec![124, 104, 84]]));
        assert_eq!((walk.arrives_with, &walk.lost), (Some(60), &None));
        let count = |of: fn(&Event) -> bool| walk.events.iter().filter(|e| of(e)).count();
        assert_eq!(count(|e| matches!(e, Event::Added { .. })), 1 + 2 * 5);
        assert_eq!(count(|e| matches!(e, Event::Removed { .. })), 2 * 5);
    }

    #[test]
    fn what_is_larger_than_the_mtu_ends_at_its_sender() {
        let lab = lab(include_str!("../../labs/figure-10-stacked.yaml"));
        assert_eq!(ways(&lab, ("upper/U1", "upper/U2"), 1440)[0].lost, None);
        let lost = ways(&lab, ("upper/U1", "upper/U2"), 1441)[0].lost.clone().unwrap();
        assert_eq!(lab.full_name(lost.at), "upper/U1");
        assert!(lost.why.starts_with("1441 bytes are more than the MTU of device"), "{}", lost.why);
    }

    #[test]
    fn every_way_of_equal_cost_is_followed_once() {
        let lab = lab(include_str!("../../labs/figure-05-internal-host.yaml"));
        let ways = ways(&lab, ("home/H", "home/K"), 84);
        let devices: BTreeSet<Vec<EndId>> =
            ways.iter().map(|w| w.devices.iter().map(|(end, _)| *end).collect()).collect();
        assert!(ways.len() > 1 && devices.len() == ways.len(), "{}", ways.len());
        assert!(ways.iter().all(|w| w.lost.is_none()));
    }

    #[test]
    fn d11_an_emulated_router_takes_one_from_the_ttl() {
        let lab = lab(include_str!("../../labs/recursion.yaml"));
        let walk = &ways(&lab, ("outer/nodeA", "outer/nodeB"), 84)[0];
        assert_eq!(walk.arrives_with, Some(63));
        assert_eq!(walk.wires().map(|(_, stack)| stack.len()).collect::<Vec<_>>(), [4, 5]);
    }
}
