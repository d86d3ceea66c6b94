//! Another configuration in the place of this one. The two go in; forwarding state in which everything that stays has
//! its counters, routes, keys, queues and devices comes out. It never sees a packet: the change is between two of them.

use std::collections::BTreeMap;

use super::{Config, Forwarder, shaper_for};
use crate::fastpath::config;

/// For each index of the new configuration, the index of the same thing in the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// By namespace.
    pub nodes: Vec<Option<usize>>,
    /// By namespace.
    pub partitions: Vec<Option<usize>>,
    /// By namespace and device.
    pub interfaces: Vec<Option<usize>>,
}

impl Moves {
    #[must_use]
    pub fn new(old: &Config, new: &Config) -> Self {
        Self {
            nodes: find(old.nodes.iter().map(|n| &n.netns), new.nodes.iter().map(|n| &n.netns)),
            partitions: find(
                old.partitions.iter().map(|p| &p.netns),
                new.partitions.iter().map(|p| &p.netns),
            ),
            interfaces: find(places(old), places(new)),
        }
    }

    /// Takes out all that is in the namespaces that `gone` knows: those are others of the same name.
    pub fn leave_out(&mut self, new: &Config, gone: impl Fn(&str) -> bool) {
        for (node, old) in new.nodes.iter().zip(&mut self.nodes) {
            *old = old.filter(|_| !gone(&node.netns));
        }
        for (partition, old) in new.partitions.iter().zip(&mut self.partitions) {
            *old = old.filter(|_| !gone(&partition.netns));
        }
        for (interface, old) in new.interfaces.iter().zip(&mut self.interfaces) {
            *old = old.filter(|_| !gone(&new.partitions[interface.partition].netns));
        }
    }

    /// For each index of the old configuration, that of the same interface in the new one.
    #[must_use]
    pub fn interfaces_back(&self, count: usize) -> Vec<Option<usize>> {
        let mut back = vec![None; count];
        for (new, old) in self.interfaces.iter().enumerate() {
            if let Some(slot) = old.and_then(|old| back.get_mut(old)) {
                *slot = Some(new);
            }
        }
        back
    }
}

fn find<T: Ord>(old: impl Iterator<Item = T>, new: impl Iterator<Item = T>) -> Vec<Option<usize>> {
    let known: BTreeMap<T, usize> = old.enumerate().map(|(i, what)| (what, i)).collect();
    new.map(|what| known.get(&what).copied()).collect()
}

fn places(config: &Config) -> impl Iterator<Item = (&String, &String)> {
    config.interfaces.iter().map(|i| (&config.partitions[i.partition].netns, &i.dev))
}

impl Forwarder {
    /// Goes on as `new` says instead of `old`, which it did so far.
    pub fn reload(&mut self, old: &Config, new: &Config, moves: &Moves) {
        let mut next = Self::new(new);
        let back = moves.interfaces_back(old.interfaces.len());
        for (node, old) in next.nodes.iter_mut().zip(&moves.nodes) {
            if let Some(before) = old.map(|i| &mut self.nodes[i]) {
                node.counters = std::mem::take(&mut before.counters);
                node.strong_host = before.strong_host;
            }
        }
        for (partition, old) in next.partitions.iter_mut().zip(&moves.partitions) {
            if let Some(before) = old.map(|i| &mut self.partitions[i]) {
                partition.fib = std::mem::take(&mut before.fib);
                partition.fib.renumber(&back);
            }
        }
        let interfaces = moves.interfaces.iter().zip(&mut next.interfaces).enumerate();
        for (index, (at, interface)) in interfaces {
            let Some(at) = *at else { continue };
            let (before, was, is) = (&mut self.interfaces[at], &old.interfaces[at], &new.interfaces[index]);
            interface.device = before.device;
            interface.shaper = before.shaper.take();
            match &mut interface.shaper {
                Some(shaper) if shaper.impairment() == is.impair => {}
                Some(shaper) => shaper.change(is.impair),
                None => interface.shaper = shaper_for(is.impair),
            }
            if same_link(was, is) {
                interface.protection = before.protection.take();
                interface.reassembler = std::mem::take(&mut before.reassembler);
            }
        }
        next.inherit_strands(self, (old, new), moves);
        (next.id, next.chance) = (self.id, std::mem::replace(&mut self.chance, next.chance));
        *self = next;
    }
}

/// Whether both ends go on with the keys and sequence numbers they have.
fn same_link(was: &config::Interface, is: &config::Interface) -> bool {
    (was.local, was.remote, &was.security) == (is.local, is.remote, &is.security)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::fastpath::Count;
    use crate::fastpath::config::{BaseNode, Below, Interface, Partition};
    use crate::fastpath::fib::{Action, Fib, Lookup, NextHop, Route};
    use crate::fastpath::forward::Device;

    fn config(nodes: &[&str], interfaces: &[(&str, &str, u8)]) -> Config {
        let node = |(i, name): (usize, &&str)| BaseNode {
            name: (*name).to_owned(),
            netns: format!("b.{name}"),
            addr: Ipv4Addr::new(10, 0, 0, u8::try_from(i).unwrap()),
        };
        let mut found = Config { nodes: nodes.iter().enumerate().map(node).collect(), ..Config::default() };
        for (netns, dev, last) in interfaces {
            let at = found.partitions.iter().position(|p| p.netns == *netns);
            let partition = at.unwrap_or(found.partitions.len());
            if at.is_none() {
                let name = (*netns).to_owned();
                found.partitions.push(Partition {
                    name: name.clone(),
                    netns: name,
                    node: 0,
                    refuses: Vec::new(),
                });
            }
            found.interfaces.push(Interface {
                partition,
                dev: (*dev).to_owned(),
                mtu: 1460,
                local: Ipv4Addr::new(172, 16, 0, *last),
                remote: Ipv4Addr::new(172, 16, 1, *last),
                below: Below::Base { remote: Ipv4Addr::new(10, 0, 0, 9) },
                security: None,
                exit: None,
                fragments: None,
                bundle: None,
                impair: Default::default(),
            });
        }
        found
    }

    #[test]
    fn what_stays_is_found_by_its_place() {
        let old = config(&["X", "Y"], &[("a", "v-b", 0), ("a", "v-c", 1), ("b", "v-a", 2)]);
        let new = config(&["Y", "Z"], &[("b", "v-a", 2), ("c", "v-b", 3), ("a", "v-c", 1)]);
        let moves = Moves::new(&old, &new);
        assert_eq!(moves.nodes, [Some(1), None]);
        assert_eq!(moves.partitions, [Some(1), None, Some(0)]);
        assert_eq!(moves.interfaces, [Some(2), None, Some(1)]);
        assert_eq!(moves.interfaces_back(3), [None, Some(2), Some(0)]);
    }

    #[test]
    fn what_stays_keeps_its_state_under_other_numbers() {
        let old = config(&["X", "Y"], &[("a", "v-b", 0), ("a", "v-c", 1), ("b", "v-a", 2)]);
        let new = config(&["Y", "X"], &[("b", "v-a", 2), ("a", "v-c", 1), ("a", "v-d", 4)]);
        let mut forwarder = Forwarder::new(&old);
        forwarder.counters(0).count(Count::Sent);
        forwarder.set_strong_host(1, false);
        forwarder.set_device(1, Device { up: true, mtu: 1400 });
        let route = |last, interface| Route {
            prefix: format!("10.9.{last}.0/24").parse().unwrap(),
            local_table: false,
            priority: 0,
            action: Action::Unicast(vec![NextHop { interface: Some(interface), weight: 1 }]),
        };
        forwarder.set_fib(0, Fib::new(&[route(0, 0), route(1, 1)], false));
        forwarder.reload(&old, &new, &Moves::new(&old, &new));
        assert_eq!(forwarder.counters(1).counts(Count::Sent), 1);
        assert!(!forwarder.nodes[0].strong_host && forwarder.nodes[1].strong_host);
        assert_eq!(forwarder.device(1), Device { up: true, mtu: 1400 });
        assert!(!forwarder.device(2).up);
        let look = |last| forwarder.partitions[1].fib.lookup([1; 4].into(), [10, 9, last, 1].into(), 0);
        assert_eq!((look(0), look(1)), (Lookup::Punt, Lookup::Out(1)));
    }
}
