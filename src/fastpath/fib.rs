//! The forwarding table of a partition. Routes as the kernel lists them go in; what to do with a destination comes
//! out. It never guesses: a route it cannot follow exactly is a [`Lookup::Punt`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;

/// One route of the kernel's tables local and main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub prefix: Ipv4Net,
    /// The table is local; else main.
    pub local_table: bool,
    /// Lower wins.
    pub priority: u32,
    pub action: Action,
}

/// What a route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Local,
    Unicast(Vec<NextHop>),
    /// Anything the fast path leaves to the kernel: broadcast, unreachable, a TOS, an encapsulation.
    Other,
}

/// One next hop of a unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index in [`super::Config::interfaces`]; `None` for a device that is not the fast path's.
    pub interface: Option<usize>,
    /// From 1.
    pub weight: u32,
}

/// What to do with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It is an address of the partition.
    Local,
    /// It leaves through this interface.
    Out(usize),
    /// The kernel must decide.
    Punt,
    NoRoute,
}

#[derive(Debug, Clone)]
enum Entry {
    Local,
    Out(usize),
    /// Upper bounds of each hop's share of the hash space, ascending (RFC 2992 hash-threshold).
    Multipath(Box<[(u64, Option<usize>)]>),
    Punt,
}

/// Longest prefix match over tables local and main together, as the kernel does while no rules but the three
/// default ones exist.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    trie: PrefixMap<Ipv4Net, Entry>,
    /// Rules beyond the default ones exist: what is forwarded is the kernel's to decide.
    pub policy_routing: bool,
}

impl Fib {
    /// Of the routes to one prefix, the local table's wins, then the lowest priority.
    #[must_use]
    pub fn new(routes: &[Route], policy_routing: bool) -> Self {
        let mut best: BTreeMap<Ipv4Net, &Route> = BTreeMap::new();
        let rank = |r: &Route| (!r.local_table, r.priority);
        for route in routes {
            let entry = best.entry(route.prefix.trunc()).or_insert(route);
            if rank(route) < rank(entry) {
                *entry = route;
            }
        }
        let trie = best.into_iter().map(|(prefix, route)| (prefix, Entry::of(&route.action))).collect();
        Self { trie, policy_routing }
    }

    /// Gives the interfaces other numbers: that of interface `i` is `to[i]`. The kernel decides about what would leave
    /// through one that has none, until it has told of its new routes.
    pub fn renumber(&mut self, to: &[Option<usize>]) {
        for entry in self.trie.values_mut() {
            let renumbered = match entry {
                Entry::Local | Entry::Punt => continue,
                Entry::Out(i) => to[*i].map_or(Entry::Punt, Entry::Out),
                Entry::Multipath(hops) => {
                    Entry::Multipath(hops.iter().map(|(bound, i)| (*bound, i.and_then(|i| to[i]))).collect())
                }
            };
            *entry = renumbered;
        }
    }

    /// `seed` keeps routers in a row from making the same choice.
    #[must_use]
    pub fn lookup(&self, src: Ipv4Addr, dst: Ipv4Addr, seed: usize) -> Lookup {
        let Some((_, entry)) = self.trie.get_lpm(&Ipv4Net::from(dst)) else {
            return Lookup::NoRoute;
        };
        match entry {
            Entry::Local => Lookup::Local,
            Entry::Out(interface) => Lookup::Out(*interface),
            Entry::Multipath(hops) => choose(hops, flow_hash(src, dst, seed)),
            Entry::Punt => Lookup::Punt,
        }
    }
}

impl Entry {
    fn of(action: &Action) -> Self {
        match action {
            Action::Local => Self::Local,
            Action::Other => Self::Punt,
            Action::Unicast(hops) => match hops.as_slice() {
                [] => Self::Punt,
                [hop] => hop.interface.map_or(Self::Punt, Self::Out),
                _ => Self::multipath(hops),
            },
        }
    }

    fn multipath(hops: &[NextHop]) -> Self {
        let total: u64 = hops.iter().map(|h| u64::from(h.weight)).sum();
        let mut below = 0;
        let shares = hops.iter().map(|hop| {
            below += u64::from(hop.weight);
            ((below << 32) / total.max(1), hop.interface)
        });
        Self::Multipath(shares.collect())
    }
}

fn choose(hops: &[(u64, Option<usize>)], hash: u32) -> Lookup {
    let hop = hops.iter().find(|(bound, _)| u64::from(hash) < *bound);
    hop.and_then(|(_, interface)| *interface).map_or(Lookup::Punt, Lookup::Out)
}

/// A stable hash of the two addresses (layer 3, as `fib_multipath_hash_policy` 0): the finalizer of MurmurHash3,
/// 64 bits, whose upper half is well mixed.
fn flow_hash(src: Ipv4Addr, dst: Ipv4Addr, seed: usize) -> u32 {
    let mut x =
        (u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits())) ^ (seed as u64).wrapping_mul(GOLDEN);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from(x >> 32).unwrap_or(0)
}

/// 2^64 / golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn hop(interface: usize, weight: u32) -> NextHop {
        NextHop { interface: Some(interface), weight }
    }

    fn main(prefix: &str, priority: u32, hops: &[NextHop]) -> Route {
        let action = Action::Unicast(hops.to_vec());
        Route { prefix: net(prefix), local_table: false, priority, action }
    }

    fn look(fib: &Fib, dst: &str) -> Lookup {
        fib.lookup([1, 1, 1, 1].into(), dst.parse().unwrap(), 0)
    }

    #[test]
    fn longest_prefix_then_local_then_priority() {
        let local =
            Route { prefix: net("10.0.0.1/32"), local_table: true, priority: 0, action: Action::Local };
        let broadcast = Route { prefix: net("10.0.0.255/32"), action: Action::Other, ..local.clone() };
        let routes = [
            main("10.0.0.0/24", 20, &[hop(2, 1)]),
            main("10.0.0.0/24", 10, &[hop(3, 1)]),
            main("10.0.0.1/32", 0, &[hop(4, 1)]),
            main("0.0.0.0/0", 0, &[NextHop { interface: None, weight: 1 }]),
            local,
            broadcast,
        ];
        let fib = Fib::new(&routes, false);
        assert_eq!(look(&fib, "10.0.0.9"), Lookup::Out(3));
        assert_eq!(look(&fib, "10.0.0.1"), Lookup::Local);
        assert_eq!(look(&fib, "10.0.0.255"), Lookup::Punt);
        assert_eq!(look(&fib, "9.9.9.9"), Lookup::Punt);
        assert_eq!(look(&Fib::default(), "9.9.9.9"), Lookup::NoRoute);
    }

    #[test]
    fn multipath_follows_weights_and_keeps_flows() {
        let fib = Fib::new(&[main("10.0.0.0/8", 0, &[hop(0, 1), hop(1, 3)])], false);
        let mut hits = [0u32; 2];
        for n in 0..4000u32 {
            let dst = Ipv4Addr::from(0x0a00_0000 + n);
            let Lookup::Out(out) = fib.lookup([1, 2, 3, 4].into(), dst, 7) else { panic!("no way out") };
            assert_eq!(fib.lookup([1, 2, 3, 4].into(), dst, 7), Lookup::Out(out));
            hits[out] += 1;
        }
        assert!((800..1200).contains(&hits[0]), "{hits:?}");
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(
            routes in proptest::collection::vec((any::<u32>(), 0u8..=32, 0usize..9), 0..40),
            probe: (u32, prop::sample::Index, bool),
        ) {
            let routes: Vec<Route> = routes.iter().map(|(addr, len, out)| Route {
                prefix: Ipv4Net::new((*addr).into(), *len).unwrap().trunc(),
                local_table: false, priority: u32::try_from(*out).unwrap(),
                action: Action::Unicast(vec![hop(*out, 1)]),
            }).collect();
            let dst: Ipv4Addr = match routes.as_slice() {
                [] => probe.0.into(),
                some => if probe.2 { probe.1.get(some).prefix.broadcast() } else { probe.0.into() },
            };
            let best = routes.iter().filter(|r| r.prefix.contains(&dst))
                .max_by_key(|r| (r.prefix.prefix_len(), u32::MAX - r.priority));
            let expected = match best.map(|r| &r.action) {
                Some(Action::Unicast(hops)) => Lookup::Out(hops[0].interface.unwrap()),
                _ => Lookup::NoRoute,
            };
            prop_assert_eq!(Fib::new(&routes, false).lookup([1, 1, 1, 1].into(), dst, 0), expected);
        }
    }
}
