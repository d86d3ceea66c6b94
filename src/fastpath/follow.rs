//! From what a partition's kernel has to what the fast path does. A [`Snapshot`] and the partition's device names
//! go in; a [`Fib`] and the state of the devices come out. It never asks the kernel.

use std::collections::BTreeMap;

use super::fib::{Action, Fib, NextHop, Route};
use super::forward::Device;
use crate::netlink::monitor::{self, RouteKind, Snapshot, TABLE_LOCAL, TABLE_MAIN};

/// The partition's interfaces by device name: indices of [`super::Config::interfaces`].
pub type Devices = BTreeMap<String, usize>;

/// State of each interface of the partition; one whose device is gone is down.
#[must_use]
pub fn devices(snapshot: &Snapshot, devices: &Devices) -> Vec<(usize, Device)> {
    let state = |name: &String| {
        let link = snapshot.links.values().find(|l| l.name == *name);
        link.map_or(Device { up: false, mtu: 0 }, |l| Device { up: l.up, mtu: l.mtu as usize })
    };
    devices.iter().map(|(name, interface)| (*interface, state(name))).collect()
}

/// Tables local and main. Next hops through devices that are down are left out, and routes that have no other:
/// the kernel removes them a moment after it says that the device is down.
#[must_use]
pub fn fib(snapshot: &Snapshot, devices: &Devices) -> Fib {
    Fib::new(&routes(snapshot, devices), snapshot.policy_routing)
}

/// The routes of [`fib`], one by one.
#[must_use]
pub fn routes(snapshot: &Snapshot, devices: &Devices) -> Vec<Route> {
    snapshot.routes.iter().filter_map(|route| follow(route, snapshot, devices)).collect()
}

fn follow(route: &monitor::Route, snapshot: &Snapshot, devices: &Devices) -> Option<Route> {
    let local_table = match route.table {
        TABLE_LOCAL => true,
        TABLE_MAIN => false,
        _ => return None,
    };
    let hops: Vec<NextHop> = route
        .hops
        .iter()
        .filter_map(|hop| {
            let link = snapshot.links.get(&hop.ifindex).filter(|l| l.up)?;
            Some(NextHop { interface: devices.get(&link.name).copied(), weight: hop.weight })
        })
        .collect();
    if hops.is_empty() && !route.hops.is_empty() {
        return None;
    }
    let action = match route.kind {
        RouteKind::Local => Action::Local,
        RouteKind::Unicast => Action::Unicast(hops),
        RouteKind::Other => Action::Other,
    };
    Some(Route { prefix: route.prefix, local_table, priority: route.priority, action })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::fastpath::fib::Lookup;
    use crate::netlink::monitor::{Hop, Link, TABLE_DEFAULT};

    fn snapshot(second_up: bool) -> Snapshot {
        let link = |name: &str, up| Link { name: name.to_owned(), up, mtu: 1460 };
        let route = |prefix: &str, table, kind, hops: &[u32]| monitor::Route {
            prefix: prefix.parse().unwrap(),
            table,
            priority: 0,
            kind,
            kernels_own: false,
            cached: false,
            object: None,
            hops: hops.iter().map(|i| Hop { ifindex: *i, via: None, weight: 1 }).collect(),
        };
        Snapshot {
            links: [(1, link("lo", true)), (2, link("a", true)), (3, link("b", second_up))].into(),
            routes: vec![
                route("10.0.0.1/32", TABLE_LOCAL, RouteKind::Local, &[2]),
                route("10.0.0.3/32", TABLE_LOCAL, RouteKind::Local, &[3]),
                route("10.1.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[3]),
                route("10.2.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[2, 3]),
                route("10.3.0.0/16", TABLE_MAIN, RouteKind::Unicast, &[1]),
                route("10.4.0.0/16", TABLE_MAIN, RouteKind::Other, &[]),
                route("10.5.0.0/16", TABLE_DEFAULT, RouteKind::Unicast, &[2]),
            ],
            policy_routing: false,
        }
    }

    fn look(fib: &Fib, dst: [u8; 4]) -> Lookup {
        fib.lookup(Ipv4Addr::new(9, 9, 9, 9), dst.into(), 0)
    }

    #[test]
    fn devices_by_name() {
        let names = Devices::from([("a".to_owned(), 4), ("b".to_owned(), 5), ("gone".to_owned(), 6)]);
        let found = devices(&snapshot(false), &names);
        let expected = [(4, true, 1460), (5, false, 1460), (6, false, 0)];
        assert_eq!(found, expected.map(|(i, up, mtu)| (i, Device { up, mtu })));
    }

    #[test]
    fn routes_follow_tables_devices_and_kinds() {
        let names = Devices::from([("a".to_owned(), 4), ("b".to_owned(), 5)]);
        let up = fib(&snapshot(true), &names);
        assert_eq!(look(&up, [10, 0, 0, 1]), Lookup::Local);
        assert_eq!(look(&up, [10, 1, 0, 1]), Lookup::Out(5));
        assert!(matches!(look(&up, [10, 2, 0, 1]), Lookup::Out(4 | 5)));
        assert_eq!(look(&up, [10, 3, 0, 1]), Lookup::Punt);
        assert_eq!(look(&up, [10, 4, 0, 1]), Lookup::Punt);
        assert_eq!(look(&up, [10, 5, 0, 1]), Lookup::NoRoute);
        let down = fib(&snapshot(false), &names);
        assert_eq!(look(&down, [10, 0, 0, 3]), Lookup::NoRoute);
        assert_eq!(look(&down, [10, 1, 0, 1]), Lookup::NoRoute);
        assert_eq!(look(&down, [10, 2, 0, 1]), Lookup::Out(4));
    }
}
