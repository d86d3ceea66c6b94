//! Changing a lab, without a kernel: what a running lab leases to the lab that takes its place, and that the
//! difference of two plans makes of the one exactly what the other makes of nothing. Random pairs of labs, and a
//! kernel of tables that forgets what Linux forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use proptest::prelude::*;
use vilab::model::{self, Lab};
use vilab::plan::{self, Change, Hook, Hop, Mac, Machine, Netem, Op, Plan, Removal};
use vilab::routing::Rib;

// ---- labs ------------------------------------------------------------------------------------------------------

/// One random lab. Names come from one vocabulary, so two of them have much in common.
#[derive(Debug, Clone)]
struct Drawn {
    /// For each base node after the first: the node it is linked to, the cost and a tenth of the MTU.
    base: Vec<(usize, u32, u32)>,
    kernel: Vec<bool>,
    sysctl: bool,
    vis: Vec<Vi>,
    gateway: bool,
}

#[derive(Debug, Clone)]
struct Vi {
    there: bool,
    stacked: bool,
    places: Vec<usize>,
    links: Vec<(usize, u32)>,
    reversed: bool,
    secure: bool,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let vi = (
        prop::bool::weighted(0.8),
        any::<bool>(),
        prop::collection::vec(0usize..64, 2..6),
        prop::collection::vec((0usize..64, 1u32..3), 6),
        any::<bool>(),
        any::<bool>(),
    );
    let vi = vi.prop_map(|(there, stacked, places, links, reversed, secure)| Vi {
        there,
        stacked,
        places,
        links,
        reversed,
        secure,
    });
    (
        prop::collection::vec((0usize..64, 1u32..3, 130u32..134), 1..6),
        prop::collection::vec(prop::bool::weighted(0.7), 7),
        any::<bool>(),
        prop::collection::vec(vi, 3),
        any::<bool>(),
    )
        .prop_map(|(base, kernel, sysctl, vis, gateway)| Drawn { base, kernel, sysctl, vis, gateway })
}

/// The second is the first, edited: what `from` does not take stays.
fn edited(old: &Drawn, new: &Drawn, from: &[bool]) -> Drawn {
    let take = |i: usize| from[i % from.len()];
    let mut drawn = old.clone();
    if take(0) {
        drawn.base.clone_from(&new.base);
    }
    if take(1) {
        drawn.kernel.clone_from(&new.kernel);
    }
    if take(2) {
        (drawn.sysctl, drawn.gateway) = (new.sysctl, new.gateway);
    }
    for (i, vi) in drawn.vis.iter_mut().enumerate() {
        if take(3 + i) {
            vi.clone_from(&new.vis[i]);
        }
    }
    drawn
}

fn text(drawn: &Drawn) -> String {
    let mut out = "name: drawn\nbase:\n  nodes:\n".to_owned();
    for i in 0..=drawn.base.len() {
        let dataplane = if drawn.kernel[i] { "kernel" } else { "fastpath" };
        let _ = write!(out, "    b{i}: {{dataplane: {dataplane}");
        if drawn.sysctl && i % 2 == 0 {
            out += ", sysctls: {net.ipv4.conf.all.accept_redirects: 1, net.ipv4.tcp_ecn: 1}";
        }
        out += "}\n";
    }
    out += "  links:\n";
    for (i, (to, cost, mtu)) in drawn.base.iter().enumerate() {
        let (to, at, mtu, delay) = (to % (i + 1), i + 1, mtu * 10, mtu % 3);
        let _ = writeln!(out, "    - {{link: b{to} -- b{at}, cost: {cost}, mtu: {mtu}, delay: {delay}ms}}");
    }
    let _ = writeln!(out, "    - {{link: b0 -- b{}, name: extra, mtu: 1320}}", drawn.base.len());
    out += "vis:\n  v0:\n    nodes: {n0: b0, n1: b1}\n    links: [n0 -- n1]\n";
    let mut below = ("base", "b", drawn.base.len() + 1);
    for (i, vi) in drawn.vis.iter().enumerate().filter(|(_, vi)| vi.there) {
        let (over, prefix, size) = if vi.stacked { below } else { ("base", "b", drawn.base.len() + 1) };
        let _ = writeln!(out, "  w{i}:\n    over: {over}\n    nodes:");
        for (n, place) in vi.places.iter().enumerate() {
            let role = ["host", "router", "both"][place % 3];
            let _ = writeln!(out, "      n{n}: {{at: {prefix}{}, role: {role}}}", place % size);
        }
        if vi.secure {
            out += "    security: aes128-gcm\n";
        }
        if vi.places[0] % 5 == 0 {
            out += "    routing: isis\n";
        }
        out += "    links:\n";
        let mut links: Vec<String> = (1..vi.places.len())
            .map(|n| format!("{{link: n{} -- n{n}, cost: {}}}", vi.links[n].0 % n, vi.links[n].1))
            .collect();
        links.push(format!("{{link: n0 -- n{}, name: around}}", vi.places.len() - 1));
        if vi.reversed {
            links.reverse();
        }
        links.iter().for_each(|l| {
            let _ = writeln!(out, "      - {l}");
        });
        below = (["w0", "w1", "w2"][i], "n", vi.places.len());
    }
    if drawn.gateway {
        out += "gateways:\n  - v0/n0 -- base/b0\n";
    }
    out
}

fn parse(text: &str, running: Option<&Lab>) -> Lab {
    model::parse_with(Path::new("drawn.yaml"), text, running).unwrap_or_else(|e| {
        panic!("{text}\n{}", e.report().map(|r| r.render(false)).unwrap_or_else(|| e.to_string()))
    })
}

fn plan(lab: &Lab) -> Plan {
    let (frr, redirect) = (Some("/usr/lib/frr".to_owned()), true);
    let machine = Machine {
        ipip: true,
        nft: true,
        tun: true,
        netem: true,
        ifb: true,
        esp: true,
        spread: true,
        one_user: false,
        frr,
        redirect,
    };
    plan::build(lab, &Rib::compute(lab), &machine).expect("a machine that can do all")
}

// ---- the kernel ------------------------------------------------------------------------------------------------

type Dev = (String, String);

#[derive(Debug, Clone, PartialEq)]
enum Sort {
    Lo,
    Veth { peer: Dev, mac: Mac },
    Ipip { made_in: String, local: Ipv4Addr, remote: Ipv4Addr },
    Tun,
    Ifb,
}

#[derive(Debug, Clone)]
struct Device {
    /// No two devices ever have the same.
    id: usize,
    sort: Sort,
    mtu: u32,
    qdisc: Option<Netem>,
    hooks: bool,
    redirects: BTreeMap<(Hook, u16), String>,
    addrs: BTreeMap<Ipv4Net, bool>,
    neighbours: BTreeMap<Ipv4Addr, Mac>,
}

#[derive(Debug, Clone, PartialEq)]
struct Route {
    hops: Vec<Hop>,
    src: Option<Ipv4Addr>,
}

/// Lines of a table beside those of sets, and the elements of its sets.
type Table = (Vec<String>, BTreeMap<String, BTreeSet<String>>);

#[derive(Debug, Clone, Default)]
struct Fake {
    netns: BTreeSet<String>,
    devices: BTreeMap<Dev, Device>,
    sysctls: BTreeMap<(String, String), String>,
    routes: BTreeMap<(String, Ipv4Net), Route>,
    tables: BTreeMap<(String, String), Table>,
    security: BTreeMap<String, String>,
    made: usize,
    /// What is there already is replaced, and what is gone need not be removed.
    lenient: bool,
}

type Outcome = Result<(), String>;

impl Fake {
    fn op(&mut self, op: &Op, replace: bool) -> Outcome {
        let replace = replace || self.lenient;
        match op {
            Op::AddNetns { ns, .. } => {
                if self.netns.insert(ns.clone()) {
                    self.device(ns, "lo", Sort::Lo)
                } else {
                    self.expect(replace, "netns exists")
                }
            }
            Op::SetSysctl { ns, key, value } => self.sysctl(ns, key, value),
            Op::AddVeth { a, b, macs, mtu } => {
                for (near, far, mac) in [(a, b, macs[0]), (b, a, macs[1])] {
                    self.device(&near.0, &near.1, Sort::Veth { peer: far.clone(), mac })?;
                    self.get(&near.0, &near.1)?.mtu = *mtu;
                }
                Ok(())
            }
            Op::AddIpip { ns, dev, local, remote } => {
                let sort = Sort::Ipip { made_in: ns.clone(), local: *local, remote: *remote };
                if self.devices.values().any(|d| d.sort == sort) {
                    return Err(format!("a tunnel {local} {remote} of {ns} exists"));
                }
                self.device(ns, dev, sort)
            }
            Op::AddTun { ns, dev, .. } => self.device(ns, dev, Sort::Tun),
            Op::AddIfb { ns, dev } => self.device(ns, dev, Sort::Ifb),
            Op::MoveLink { ns, dev, to, name } => {
                let device =
                    self.devices.remove(&(ns.clone(), dev.clone())).ok_or(format!("no {dev} in {ns}"))?;
                self.free(to, name)?;
                self.devices.insert((to.clone(), name.clone()), device);
                Ok(())
            }
            Op::SetUp { ns, dev, mtu } => self.get(ns, dev).map(|d| d.mtu = *mtu),
            Op::AddNetem { ns, dev, netem } => self.get(ns, dev).map(|d| d.qdisc = Some(*netem)),
            Op::AddHooks { ns, dev } => {
                let old = std::mem::replace(&mut self.get(ns, dev)?.hooks, true);
                self.expect(!old || replace, "clsact exists")
            }
            Op::AddRedirect { ns, dev, hook, takes, to, .. } => {
                self.get(ns, to)?;
                let device = self.get(ns, dev)?;
                let old = device.redirects.insert((*hook, takes.protocol()), to.clone());
                let hooked = device.hooks;
                self.expect(old.is_none() && hooked, "a filter is there, or no hook for it")
            }
            Op::AddAddr { ns, dev, addr, prefix_route } => {
                let old = self.get(ns, dev)?.addrs.insert(*addr, *prefix_route);
                self.expect(old.is_none(), "address exists")
            }
            Op::AddNeighbour { ns, dev, addr, mac } => {
                let old = self.get(ns, dev)?.neighbours.insert(*addr, *mac);
                self.expect(old.is_none() || replace, "neighbour exists")
            }
            Op::AddRoute { ns, prefix, hops, src } => {
                hops.iter().try_for_each(|hop| self.reachable(ns, hop))?;
                let own = |s: &Ipv4Addr| self.devices.iter().any(|(at, d)| at.0 == *ns && has(d, *s));
                self.expect(src.as_ref().is_none_or(own), "the source is no own address")?;
                self.route(ns, *prefix, Route { hops: sorted(hops), src: *src }, replace)
            }
            Op::AddUnreachable { ns, prefix } => {
                self.route(ns, *prefix, Route { hops: Vec::new(), src: None }, replace)
            }
            Op::AddAssociation { ns, src, dst, association } => {
                let key = format!("{ns} {src} {dst} {}", association.spi);
                self.expect(self.netns.contains(ns), "no namespace")?;
                let old = self.security.insert(key, format!("{association:?}"));
                self.expect(old.is_none(), "association exists")
            }
            Op::AddPolicy { ns, src, dst, direction } => {
                self.expect(self.netns.contains(ns), "no namespace")?;
                let old = self.security.insert(format!("{ns} {src} {dst} {direction}"), String::new());
                self.expect(old.is_none(), "policy exists")
            }
            Op::AddRuleset { ns, text } => self.ruleset(ns, text),
        }
    }

    #[expect(clippy::unused_self, reason = "reads better")]
    fn expect(&self, holds: bool, what: &str) -> Outcome {
        if holds { Ok(()) } else { Err(what.to_owned()) }
    }

    fn free(&self, ns: &str, dev: &str) -> Outcome {
        self.expect(self.netns.contains(ns), &format!("no namespace {ns}"))?;
        let taken = self.devices.contains_key(&(ns.to_owned(), dev.to_owned()));
        self.expect(!taken, &format!("{dev} exists in {ns}"))
    }

    fn device(&mut self, ns: &str, dev: &str, sort: Sort) -> Outcome {
        self.free(ns, dev)?;
        self.made += 1;
        let (addrs, neighbours, redirects) = Default::default();
        let (id, mtu) = (self.made, 0);
        let device = Device { id, sort, mtu, qdisc: None, hooks: false, redirects, addrs, neighbours };
        self.devices.insert((ns.to_owned(), dev.to_owned()), device);
        Ok(())
    }

    fn get(&mut self, ns: &str, dev: &str) -> Result<&mut Device, String> {
        self.devices.get_mut(&(ns.to_owned(), dev.to_owned())).ok_or(format!("no {dev} in {ns}"))
    }

    fn sysctl(&mut self, ns: &str, key: &str, value: &str) -> Outcome {
        self.expect(self.netns.contains(ns), "no namespace")?;
        let old = self.sysctls.insert((ns.to_owned(), key.to_owned()), value.to_owned());
        if key == "net/ipv4/ip_forward" && old.as_deref() != Some(value) {
            // inet_forward_change
            self.sysctls.retain(|(n, k), _| n != ns || !k.ends_with("accept_redirects"));
        }
        Ok(())
    }

    /// The device is there, and a connected route of it leads to the gateway.
    fn reachable(&self, ns: &str, hop: &Hop) -> Outcome {
        let device =
            self.devices.get(&(ns.to_owned(), hop.dev.clone())).ok_or(format!("no {} in {ns}", hop.dev))?;
        let Some(via) = hop.via else { return Ok(()) };
        let by_addr = device.addrs.iter().any(|(net, route)| *route && net.contains(&via));
        let connected = |h: &Hop| h.via.is_none() && h.dev == hop.dev;
        let by_route = self
            .routes
            .iter()
            .any(|((n, prefix), r)| n == ns && prefix.contains(&via) && r.hops.iter().any(connected));
        self.expect(by_addr || by_route, &format!("invalid gateway {via} in {ns}"))
    }

    fn route(&mut self, ns: &str, prefix: Ipv4Net, route: Route, replace: bool) -> Outcome {
        let old = self.routes.insert((ns.to_owned(), prefix), route);
        self.expect(old.is_none() || replace, &format!("route {prefix} exists in {ns}"))
    }

    fn ruleset(&mut self, ns: &str, text: &str) -> Outcome {
        let mut open: Option<String> = None;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let table = |from: usize| (ns.to_owned(), format!("{} {}", words[from], words[from + 1]));
            let inside = || -> BTreeSet<String> {
                let all = line.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches(['}', ' ']));
                all.split(',').map(|e| e.trim().to_owned()).collect()
            };
            match (&words[..], &open) {
                (["delete", "table", ..], _) => {
                    let gone = self.tables.remove(&table(2));
                    self.expect(gone.is_some(), "no table to delete")?;
                }
                ([verb @ ("add" | "delete"), "element", ..], _) => {
                    let (_, sets) = self.tables.get_mut(&table(2)).ok_or("no table")?;
                    let set = sets.get_mut(words[4]).ok_or("no set")?;
                    for element in inside() {
                        let fits = if *verb == "add" { set.insert(element) } else { set.remove(&element) };
                        if !fits {
                            return Err(format!("cannot {line}"));
                        }
                    }
                }
                (["table", ..], _) => {
                    let key = table(1);
                    self.tables.entry(key.clone()).or_default();
                    open = line.ends_with('{').then_some(key.1);
                }
                (_, Some(name)) => {
                    let table = self.tables.entry((ns.to_owned(), name.clone())).or_default();
                    let element = line.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}'));
                    if words.first() == Some(&"set") {
                        let elements = element.map_or("", |(inside, _)| inside).split(',').map(str::trim);
                        let elements = elements.filter(|e| !e.is_empty()).map(str::to_owned).collect();
                        table.1.insert(words[1].to_owned(), elements);
                    } else {
                        table.0.push(line.to_owned());
                    }
                }
                _ => return Err(format!("not understood: {line}")),
            }
        }
        Ok(())
    }

    // ---- what goes -----------------------------------------------------------------------------------------

    fn removal(&mut self, removal: &Removal) -> Outcome {
        let gone = match removal {
            Removal::Route { ns, prefix } => self.routes.remove(&(ns.clone(), *prefix)).is_some(),
            Removal::Neighbour { ns, dev, addr } => {
                self.get(ns, dev).is_ok_and(|d| d.neighbours.remove(addr).is_some())
            }
            Removal::Qdisc { ns, dev } => self.get(ns, dev).is_ok_and(|d| d.qdisc.take().is_some()),
            Removal::Addr { ns, dev, addr } => self.del_addr(ns, dev, *addr),
            Removal::Device { ns, dev } => self.del_device(&(ns.clone(), dev.clone())),
            Removal::Redirect { ns, dev, hook, protocol } => {
                self.get(ns, dev).is_ok_and(|d| d.redirects.remove(&(*hook, *protocol)).is_some())
            }
            Removal::Policy { ns, src, dst, direction } => {
                self.security.remove(&format!("{ns} {src} {dst} {direction}")).is_some()
            }
            Removal::Association { ns, src, dst, spi } => {
                self.security.remove(&format!("{ns} {src} {dst} {spi}")).is_some()
            }
            Removal::Table { ns, table } => self.tables.remove(&(ns.clone(), table.clone())).is_some(),
            Removal::Sysctl { ns, key } => {
                self.sysctls.remove(&(ns.clone(), key.clone())).is_some() || {
                    key.ends_with("accept_redirects")
                }
            }
            Removal::Netns { ns } => self.del_netns(ns),
        };
        self.expect(gone || self.lenient, &format!("nothing to remove: {removal}"))
    }

    fn del_addr(&mut self, ns: &str, dev: &str, addr: Ipv4Net) -> bool {
        let Ok(device) = self.get(ns, dev) else { return false };
        let gone = device.addrs.remove(&addr).is_some();
        let last = device.addrs.is_empty();
        if gone && last {
            // fib_disable_ip
            device.neighbours.clear();
            self.routes
                .retain(|(n, _), r| n != ns || r.hops.is_empty() || !r.hops.iter().all(|h| h.dev == dev));
        }
        if gone {
            self.forget_source(ns, addr.addr());
        }
        gone
    }

    /// fib_sync_down_addr
    fn forget_source(&mut self, ns: &str, addr: Ipv4Addr) {
        if !self.devices.iter().any(|(at, d)| at.0 == ns && has(d, addr)) {
            self.routes.retain(|(n, _), r| n != ns || r.src != Some(addr));
        }
    }

    fn del_device(&mut self, at: &Dev) -> bool {
        let Some(device) = self.devices.remove(at) else { return false };
        let (ns, dev) = at;
        self.routes.retain(|(n, _), r| n != ns || !r.hops.iter().any(|h| h.dev == *dev));
        device.addrs.keys().for_each(|a| self.forget_source(ns, a.addr()));
        if let Sort::Veth { peer, .. } = device.sort {
            self.del_device(&peer);
        }
        true
    }

    fn del_netns(&mut self, ns: &str) -> bool {
        let ends = |at: &Dev, d: &Device| {
            at.0 == ns || matches!(&d.sort, Sort::Ipip { made_in, .. } if made_in == ns)
        };
        let dying: Vec<Dev> =
            self.devices.iter().filter(|(at, d)| ends(at, d)).map(|(at, _)| at.clone()).collect();
        dying.iter().for_each(|at| {
            self.del_device(at);
        });
        self.routes.retain(|(n, _), _| n != ns);
        self.tables.retain(|(n, _), _| n != ns);
        self.sysctls.retain(|(n, _), _| n != ns);
        self.security.retain(|key, _| !key.starts_with(&format!("{ns} ")));
        self.netns.remove(ns)
    }

    fn build(plan: &Plan) -> Self {
        let mut fake = Self::default();
        for op in plan.stages.iter().flat_map(|s| &s.ops) {
            fake.op(op, false).unwrap_or_else(|e| panic!("{op}: {e}"));
        }
        fake
    }

    /// Everything but what devices are counted by.
    fn show(&self) -> String {
        let devices: Vec<_> = self
            .devices
            .iter()
            .map(|(at, d)| {
                format!(
                    "{at:?} {:?} {} {:?} {:?} {:?} {:?}",
                    d.sort, d.mtu, d.qdisc, d.addrs, d.neighbours, d.redirects
                )
            })
            .collect();
        let tables: Vec<_> = self.tables.iter().map(|t| format!("{t:?}")).collect();
        let sysctls: Vec<_> = self.sysctls.iter().map(|t| format!("{t:?}")).collect();
        let routes: Vec<_> = self.routes.iter().map(|t| format!("{t:?}")).collect();
        let netns: Vec<_> = self.netns.iter().cloned().collect();
        let security: Vec<_> = self.security.iter().map(|t| format!("{t:?}")).collect();
        [netns, devices, sysctls, routes, tables, security].concat().join("\n")
    }

    /// Carries out the first `steps` steps of a change; `after` sees the kernel after each.
    fn change(&mut self, change: &Change, steps: usize, after: &mut dyn FnMut(&Self, &str)) -> Outcome {
        let mut left = steps;
        let mut step = |fake: &mut Self, text: String, f: &dyn Fn(&mut Self) -> Outcome| -> Outcome {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            f(fake).map_err(|e| format!("{text}: {e}"))?;
            after(fake, &text);
            Ok(())
        };
        for op in &change.reroutes {
            step(self, op.to_string(), &|f| f.op(op, true))?;
        }
        for removal in &change.removals {
            step(self, removal.to_string(), &|f| f.removal(removal))?;
        }
        for resize in &change.resizes {
            step(self, resize.to_string(), &|f| f.get(&resize.ns, &resize.dev).map(|d| d.mtu = resize.mtu))?;
        }
        for op in change.stages.iter().flat_map(|s| &s.ops) {
            #[expect(clippy::wildcard_enum_match_arm, reason = "of all operations, three can replace")]
            let replaced = match op {
                Op::AddRoute { ns, prefix, .. } | Op::AddUnreachable { ns, prefix } => {
                    change.replaced.contains(&plan::Key::Route(ns.clone(), *prefix))
                }
                Op::AddNeighbour { ns, dev, addr, .. } => {
                    change.replaced.contains(&plan::Key::Neighbour(ns.clone(), dev.clone(), *addr))
                }
                _ => false,
            };
            step(self, op.to_string(), &|f| f.op(op, replaced))?;
        }
        Ok(())
    }
}

fn has(device: &Device, addr: Ipv4Addr) -> bool {
    device.addrs.keys().any(|a| a.addr() == addr)
}

fn sorted(hops: &[Hop]) -> Vec<Hop> {
    let mut hops = hops.to_vec();
    hops.sort_by(|a, b| (&a.dev, a.via).cmp(&(&b.dev, b.via)));
    hops
}

fn steps(change: &Change) -> usize {
    let ops: usize = change.stages.iter().map(|s| s.ops.len()).sum();
    change.reroutes.len() + change.removals.len() + change.resizes.len() + ops
}

// ---- properties ------------------------------------------------------------------------------------------------

/// Devices, addresses and routes that are the same before and after, and depend on nothing that is not.
struct Stable {
    devices: BTreeMap<Dev, usize>,
    routes: BTreeMap<(String, Ipv4Net), Route>,
    /// Routes that keep at least one next hop, through a device that stays.
    served: BTreeSet<(String, Ipv4Net)>,
}

impl Stable {
    fn of(old: &Fake, new: &Fake) -> Self {
        let same_sort = |at: &Dev, d: &Device| new.devices.get(at).is_some_and(|n| n.sort == d.sort);
        let same = |at: &Dev, d: &Device| same_sort(at, d) && new.devices[at].addrs == d.addrs;
        let devices: BTreeMap<Dev, usize> =
            old.devices.iter().filter(|(at, d)| same_sort(at, d)).map(|(at, d)| (at.clone(), d.id)).collect();
        let kept: BTreeSet<&Dev> =
            old.devices.iter().filter(|(at, d)| same(at, d)).map(|(at, _)| at).collect();
        let carries = |ns: &str, dev: &str| kept.contains(&(ns.to_owned(), dev.to_owned()));
        let source = |ns: &str, src: Option<Ipv4Addr>| {
            let owner = |(at, d): (&Dev, &Device)| at.0 == ns && src.is_some_and(|s| has(d, s));
            src.is_none()
                || old.devices.iter().any(|(at, d)| {
                    owner((at, d))
                        && new
                            .devices
                            .get(at)
                            .is_some_and(|n| same_sort(at, d) && src.is_some_and(|s| has(n, s)))
                })
        };
        let mut stable = Self { devices, routes: BTreeMap::new(), served: BTreeSet::new() };
        for ((ns, prefix), route) in &old.routes {
            let Some(after) = new.routes.get(&(ns.clone(), *prefix)) else { continue };
            let alive = |r: &Route| r.hops.iter().any(|h| carries(ns, &h.dev));
            if route == after && route.hops.iter().all(|h| carries(ns, &h.dev)) && source(ns, route.src) {
                stable.routes.insert((ns.clone(), *prefix), route.clone());
            }
            let kept_hop = route.hops.iter().any(|h| after.hops.contains(h) && carries(ns, &h.dev));
            if kept_hop && alive(route) && route.src == after.src && source(ns, route.src) {
                stable.served.insert((ns.clone(), *prefix));
            }
        }
        stable
    }

    fn check(&self, now: &Fake, step: &str) {
        for (at, id) in &self.devices {
            assert_eq!(
                now.devices.get(at).map(|d| d.id),
                Some(*id),
                "{at:?} is the same device after {step}"
            );
        }
        for (key, route) in &self.routes {
            assert_eq!(now.routes.get(key), Some(route), "{key:?} is untouched after {step}");
        }
        for key in &self.served {
            assert!(now.routes.contains_key(key), "{key:?} has a next hop after {step}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// C4: equal files lease equal addresses, whatever ran before, and a lab leases everything to itself.
    #[test]
    fn a_running_lab_leases_what_it_has(a in drawn(), b in drawn(), from in prop::collection::vec(any::<bool>(), 6)) {
        let old = parse(&text(&a), None);
        prop_assert_eq!(&parse(&text(&a), Some(&old)), &old);
        let after = text(&edited(&a, &b, &from));
        let new = parse(&after, Some(&old));
        prop_assert_eq!(&parse(&after, Some(&new)), &new);
        prop_assert_eq!(&parse(&after, Some(&old)), &new);
        for network in &new.networks {
            let own: Vec<Ipv4Addr> = network.nodes.iter().flat_map(|n| new.addresses(n.id).collect::<Vec<_>>()).collect();
            let pool: BTreeSet<_> = own.iter().filter(|a| network.pool.contains(*a)).collect();
            prop_assert_eq!(pool.len(), own.iter().filter(|a| network.pool.contains(*a)).count());
            let Some(before) = old.networks.iter().find(|n| n.name == network.name && n.pool == network.pool) else {
                continue;
            };
            for node in &network.nodes {
                let was = before.nodes.iter().find(|n| n.name == node.name).and_then(|n| n.host);
                prop_assert!(was.is_none() || node.host.is_none() || was == node.host, "{}", node.name);
            }
        }
    }

    /// I4, X3: the difference makes of the one what the other makes of nothing, step by step, and what is the same in
    /// both is there at every moment.
    #[test]
    fn the_difference_of_two_plans_leads_from_one_to_the_other(
        a in drawn(), b in drawn(), from in prop::collection::vec(any::<bool>(), 6),
    ) {
        let old = parse(&text(&a), None);
        let new = parse(&text(&edited(&a, &b, &from)), Some(&old));
        let (from, to) = (plan(&old), plan(&new));
        prop_assert!(plan::diff(&from, None, &from).is_empty());
        let change = plan::diff(&from, None, &to);
        let (mut kernel, fresh) = (Fake::build(&from), Fake::build(&to));
        let stable = Stable::of(&kernel, &fresh);
        let applied = kernel.change(&change, usize::MAX, &mut |now, step| stable.check(now, step));
        prop_assert_eq!(applied, Ok(()));
        prop_assert_eq!(kernel.show(), fresh.show());
    }

    /// A change cut short anywhere is finished, or undone, by the next.
    #[test]
    fn a_change_cut_short_is_made_good(
        a in drawn(), b in drawn(), from in prop::collection::vec(any::<bool>(), 6),
        cut in any::<prop::sample::Index>(), back in any::<bool>(),
    ) {
        let old = parse(&text(&a), None);
        let middle = parse(&text(&edited(&a, &b, &from)), Some(&old));
        let new = if back { old.clone() } else { middle.clone() };
        let plans = [&old, &middle, &new].map(plan);
        let change = plan::diff(&plans[0], None, &plans[1]);
        let mut kernel = Fake::build(&plans[0]);
        let done = cut.index(steps(&change) + 1);
        prop_assert_eq!(kernel.change(&change, done, &mut |_, _| {}), Ok(()));
        kernel.lenient = true;
        let again = plan::diff(&plans[0], Some(&plans[1]), &plans[2]);
        prop_assert_eq!(kernel.change(&again, usize::MAX, &mut |_, _| {}), Ok(()));
        prop_assert_eq!(kernel.show(), Fake::build(&plans[2]).show());
    }
}
