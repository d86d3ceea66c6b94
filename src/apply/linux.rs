//! The kernel itself. Batches go in, namespaces, devices, addresses and routes come to be. It never leaves the
//! calling thread in another namespace: what must happen inside one happens on a thread that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use netlink_packet_xfrm::XfrmMessage;
use netns_rs::NetNs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::{Kernel, cannot};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::owner::Maker;
use crate::lab::{Namespaces, mounts};
use crate::netlink::request::{NextHop, VethEnd};
use crate::netlink::{Encoded, Refusal, Request, Socket};
use crate::plan::{Hop, Op};
use crate::process;
use crate::sys::{carrier, tun};

/// Index of `lo` in every namespace (LOOPBACK_IFINDEX in Linux).
const LO: u32 = 1;
/// Lab devices are numbered from here, once in the whole lab, so that none changes its index by moving.
const FIRST_INDEX: u32 = 10;

/// So many batches are encoded ahead of the kernel.
const AHEAD: usize = 16;
/// So many namespaces are set up without looking at what is set already.
const FEW: usize = 8;

/// A namespace that has been made: its file and the one socket that configures it.
#[derive(Debug)]
struct Netns {
    file: File,
    socket: Socket,
}

/// The running kernel.
#[derive(Debug)]
pub struct Linux {
    namespaces: Namespaces,
    /// In the caller's namespace: where requests are sent that concern two others.
    here: Socket,
    open: BTreeMap<String, Netns>,
    /// Interface index of each device, by namespace and name.
    devices: BTreeMap<String, BTreeMap<String, u32>>,
    next_index: u32,
    /// What is there already is replaced; else it is refused.
    replaces: bool,
    /// No sysctl has been written yet: all namespaces are as the kernel makes them.
    pristine: bool,
}

impl Linux {
    /// # Errors
    /// If the kernel refuses a netlink socket.
    pub fn new(namespaces: Namespaces) -> Result<Self> {
        // Two descriptors a namespace; where the limit cannot be raised, opening one will say so.
        let _kept = crate::sys::limits::raise_open_files();
        let here = Socket::open().doing(Kind::Environment, || "cannot open a netlink socket".into())?;
        let (open, devices) = Default::default();
        let (replaces, pristine) = (false, true);
        Ok(Self { namespaces, here, open, devices, next_index: FIRST_INDEX, replaces, pristine })
    }

    /// For changing what is in these namespaces, as far as they are there.
    ///
    /// # Errors
    /// If one cannot be entered, or the kernel refuses a netlink socket.
    pub fn changing(namespaces: Namespaces, touched: &BTreeSet<String>) -> Result<Self> {
        let mut linux = Self { replaces: true, pristine: false, ..Self::new(namespaces)? };
        let there: Vec<&str> = touched.iter().map(String::as_str).filter(|ns| linux.is_there(ns)).collect();
        linux.open_all(&there)?;
        Ok(linux)
    }

    fn is_there(&self, ns: &str) -> bool {
        statfs(&self.namespaces.path(ns)).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
    }

    /// Opens namespaces that are there, and learns what devices they have.
    fn open_all(&mut self, names: &[&str]) -> Result<()> {
        let namespaces = &self.namespaces;
        let opened: Vec<(Netns, Vec<(String, u32)>)> =
            on_a_thread(|| names.iter().map(|name| open_netns(namespaces, name)).collect())?;
        for (name, (netns, devices)) in names.iter().zip(opened) {
            let last = devices.iter().map(|(_, index)| index + 1).max().unwrap_or(FIRST_INDEX);
            self.next_index = self.next_index.max(last);
            self.devices.insert((*name).to_owned(), devices.into_iter().collect());
            self.open.insert((*name).to_owned(), netns);
        }
        Ok(())
    }

    fn number(&mut self, ns: &str, dev: &str) -> u32 {
        let index = self.next_index;
        self.next_index += 1;
        self.record(ns, dev, index);
        index
    }

    fn record(&mut self, ns: &str, dev: &str, index: u32) {
        self.devices.entry(ns.to_owned()).or_default().insert(dev.to_owned(), index);
    }

    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(super) fn is_open(&self, ns: &str) -> bool {
        self.open.contains_key(ns)
    }

    pub(super) fn socket(&mut self, ns: &str) -> Option<&mut Socket> {
        self.open.get_mut(ns).map(|n| &mut n.socket)
    }

    /// A device is not there any more.
    pub(super) fn forget(&mut self, ns: &str, dev: &str) {
        self.devices.get_mut(ns).map(|devices| devices.remove(dev));
    }

    /// A namespace is not there any more.
    pub(super) fn close(&mut self, ns: &str) {
        self.open.remove(ns);
        self.devices.remove(ns);
    }

    pub(super) fn index(&self, ns: &str, dev: &str) -> Result<u32> {
        if dev == "lo" {
            return Ok(LO);
        }
        self.devices
            .get(ns)
            .and_then(|devices| devices.get(dev))
            .copied()
            .ok_or_else(|| Error::bug(format!("the plan uses {dev} in {ns} before it makes it")))
    }

    fn file(&self, ns: &str) -> Result<&File> {
        self.open.get(ns).map(|n| &n.file).ok_or_else(|| unmade(ns))
    }

    /// The request for an operation, which may make or move a device.
    fn request(&mut self, ns: &str, op: &Op) -> Result<Request> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others leave devices where they are")]
        match op {
            Op::AddIpip { dev, local, remote, .. } => {
                Ok(Request::add_ipip(dev, self.number(ns, dev), *local, *remote))
            }
            Op::AddIfb { dev, .. } => Ok(Request::add_ifb(dev, self.number(ns, dev))),
            Op::MoveLink { dev, to, name, .. } => {
                let index = self.index(ns, dev)?;
                if let Some(devices) = self.devices.get_mut(ns) {
                    devices.remove(dev);
                }
                self.record(to, name, index);
                Ok(Request::move_link(index, self.file(to)?, name))
            }
            other => self.settled_request(ns, other),
        }
    }

    /// The request for an operation that leaves devices where they are.
    fn settled_request(&self, ns: &str, op: &Op) -> Result<Request> {
        let request = self.plain_request(ns, op)?;
        let takes_places = match op {
            Op::AddAddr { .. }
            | Op::AddNeighbour { .. }
            | Op::AddRoute { .. }
            | Op::AddUnreachable { .. } => self.replaces,
            Op::AddNetns { .. }
            | Op::SetSysctl { .. }
            | Op::AddVeth { .. }
            | Op::AddIpip { .. }
            | Op::AddTun { .. }
            | Op::MoveLink { .. }
            | Op::SetUp { .. }
            | Op::AddNetem { .. }
            | Op::AddIfb { .. }
            | Op::AddHooks { .. }
            | Op::AddRedirect { .. }
            | Op::AddAssociation { .. }
            | Op::AddPolicy { .. }
            | Op::AddRuleset { .. } => false,
        };
        Ok(if takes_places { request.replacing() } else { request })
    }

    fn plain_request(&self, ns: &str, op: &Op) -> Result<Request> {
        match op {
            Op::AddAddr { dev, addr, prefix_route, .. } => {
                Ok(Request::add_addr(self.index(ns, dev)?, *addr, *prefix_route))
            }
            Op::AddNeighbour { dev, addr, mac, .. } => {
                Ok(Request::add_neighbour(self.index(ns, dev)?, *addr, *mac))
            }
            Op::SetUp { dev, mtu, .. } => Ok(Request::configure(self.index(ns, dev)?, *mtu)),
            Op::AddNetem { dev, netem, .. } => Ok(Request::set_netem(self.index(ns, dev)?, netem)),
            Op::AddHooks { dev, .. } => Ok(Request::add_clsact(self.index(ns, dev)?)),
            Op::AddRedirect { dev, hook, takes, to, into, .. } => {
                let [from, to] = [self.index(ns, dev)?, self.index(ns, to)?];
                Ok(Request::add_redirect(from, *hook, takes, to, *into))
            }
            Op::AddRoute { prefix, hops, src, .. } => {
                let hops = hops.iter().map(|h| self.next_hop(ns, h)).collect::<Result<Vec<_>>>()?;
                Ok(Request::add_route(*prefix, &hops, *src))
            }
            Op::AddUnreachable { prefix, .. } => Ok(Request::add_unreachable(*prefix)),
            Op::AddNetns { .. }
            | Op::SetSysctl { .. }
            | Op::AddVeth { .. }
            | Op::AddIpip { .. }
            | Op::AddIfb { .. }
            | Op::MoveLink { .. }
            | Op::AddTun { .. }
            | Op::AddAssociation { .. }
            | Op::AddPolicy { .. }
            | Op::AddRuleset { .. } => {
                Err(Error::bug(format!("not a request that leaves devices where they are: {op:?}")))
            }
        }
    }

    fn next_hop(&self, ns: &str, hop: &Hop) -> Result<NextHop> {
        Ok(NextHop { via: hop.via, index: self.index(ns, &hop.dev)? })
    }

    /// Makes the namespaces that are not there yet.
    fn add_owned(&mut self, owner: Option<&str>, names: &[&str]) -> Result<()> {
        let (there, names): (Vec<&str>, Vec<&str>) =
            names.iter().partition(|ns| self.replaces && self.is_there(ns));
        let closed: Vec<&str> = there.into_iter().filter(|ns| !self.open.contains_key(*ns)).collect();
        self.open_all(&closed)?;
        if self.replaces {
            // A file that a change that was cut short has left without its namespace.
            names.iter().for_each(|ns| drop(std::fs::remove_file(self.namespaces.path(ns))));
        }
        let namespaces = &self.namespaces;
        let maker = owner.filter(|_| !names.is_empty()).map(Maker::start).transpose()?;
        let make = |name: &&str| match &maker {
            None => make_netns(namespaces, name),
            Some(maker) => make_owned(namespaces, name, maker),
        };
        let made = on_threads(names.chunks(share(names.len())), |names| {
            names.iter().map(make).collect::<Result<Vec<Netns>>>()
        })?;
        self.open.extend(names.iter().map(|n| (*n).to_owned()).zip(made.into_iter().flatten()));
        Ok(())
    }

    /// The second end of each veth, which the request that makes it cannot set up.
    fn set_peers_up(&mut self, ops: &[&Op]) -> Result<()> {
        let mut lanes: BTreeMap<&str, Vec<(&Op, u32)>> = BTreeMap::new();
        for op in ops {
            if let Op::AddVeth { b: (ns, dev), .. } = op {
                lanes.entry(ns).or_default().push((op, self.index(ns, dev)?));
            }
        }
        for (ns, peers) in lanes {
            let requests = peers.iter().map(|(_, index)| Request::up(*index));
            let socket = &mut self.open.get_mut(ns).ok_or_else(|| unmade(ns))?.socket;
            socket.execute(requests).map_err(|refusal| refused(peers[refusal.index].0, &refusal))?;
        }
        Ok(())
    }

    /// Both ends of each veth carry packets from now on.
    fn settle_carriers(&self, ops: &[&Op]) -> Result<()> {
        for op in ops {
            let Op::AddVeth { a, b, .. } = op else { continue };
            for (ns, dev) in [a, b] {
                let socket = &self.open.get(ns).ok_or_else(|| unmade(ns))?.socket;
                carrier::settle(socket.as_fd(), dev).map_err(|e| cannot(op).because(e))?;
            }
        }
        Ok(())
    }

    /// Operations that leave devices where they are: requests are encoded while the kernel, which takes one after the
    /// other, is busy with those before.
    fn configure_settled(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
        if let Some(ns) = by_ns.keys().find(|ns| !self.open.contains_key(**ns)) {
            return Err(unmade(ns));
        }
        let mut open = std::mem::take(&mut self.open);
        let lanes: Vec<(&str, &Vec<&Op>, &mut Netns)> = open
            .iter_mut()
            .filter_map(|(ns, netns)| Some((ns.as_str(), by_ns.get(ns.as_str())?, netns)))
            .collect();
        let to_encode: Vec<(&str, &Vec<&Op>)> = lanes.iter().map(|(ns, ops, _)| (*ns, *ops)).collect();
        let linux = &*self;
        let encoded = |(ns, ops): &(&str, &Vec<&Op>)| {
            ops.iter().map(|op| linux.settled_request(ns, op)).collect::<Result<Vec<_>>>().map(Encoded::new)
        };
        let configured = thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel(AHEAD);
            // It ends early when nobody receives any more.
            scope.spawn(move || to_encode.iter().try_for_each(|lane| sender.send(encoded(lane))));
            lanes.into_iter().zip(receiver).try_for_each(|((_, ops, netns), requests)| {
                netns.socket.send(&requests?).map_err(|refusal| refused(ops[refusal.index], &refusal))
            })
        });
        self.open = open;
        configured
    }

    /// Runs `f` for each namespace, inside it, on a thread for each processor.
    fn visit<'a, T: Send>(
        &self,
        by_ns: &BTreeMap<&'a str, Vec<&'a Op>>,
        f: impl Fn(&'a Op) -> Result<T> + Sync,
    ) -> Result<Vec<(&'a Op, T)>> {
        let lanes: Vec<_> = by_ns.iter().map(|(ns, ops)| (*ns, ops)).collect();
        let visit_one =
            |ops: &&Vec<&'a Op>| ops.iter().map(|op| Ok((*op, f(op)?))).collect::<Result<Vec<_>>>();
        let results = self.namespaces.visit(&lanes, visit_one)?;
        Ok(results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

impl Kernel for Linux {
    fn add_netns(&mut self, ops: &[&Op]) -> Result<()> {
        let mut by_owner: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
        for op in ops {
            let Op::AddNetns { ns, owner } = op else {
                return Err(Error::bug(format!("not a namespace: {op:?}")));
            };
            by_owner.entry(owner.as_deref()).or_default().push(ns);
        }
        by_owner.iter().try_for_each(|(owner, names)| self.add_owned(*owner, names))
    }

    fn add_veths(&mut self, ops: &[&Op]) -> Result<()> {
        let mut requests = Vec::with_capacity(ops.len());
        for op in ops {
            let Op::AddVeth { a, b, macs: [mac_a, mac_b], mtu } = op else {
                return Err(Error::bug(format!("not a veth: {op:?}")));
            };
            let (index_a, index_b) = (self.number(&a.0, &a.1), self.number(&b.0, &b.1));
            let a = VethEnd { netns: self.file(&a.0)?, dev: &a.1, index: index_a, mac: *mac_a };
            let b = VethEnd { netns: self.file(&b.0)?, dev: &b.1, index: index_b, mac: *mac_b };
            requests.push(Request::add_veth(&a, &b, *mtu));
        }
        self.here.execute(requests).map_err(|refusal| refused(ops[refusal.index], &refusal))?;
        self.set_peers_up(ops)?;
        self.settle_carriers(ops)
    }

    fn configure(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
        if by_ns.len() > FEW && !by_ns.values().flatten().any(|op| numbers(op)) {
            return self.configure_settled(by_ns);
        }
        by_ns.iter().try_for_each(|(ns, ops)| {
            let requests = ops.iter().map(|op| self.request(ns, op)).collect::<Result<Vec<_>>>()?;
            let socket = &mut self.open.get_mut(*ns).ok_or_else(|| unmade(ns))?.socket;
            socket.execute(requests).map_err(|refusal| refused(ops[refusal.index], &refusal))
        })
    }

    fn set_sysctls(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
        let pristine = std::mem::replace(&mut self.pristine, false);
        let fresh = if pristine && by_ns.len() > FEW { fresh_sysctls(by_ns)? } else { BTreeMap::new() };
        let is_set = |op: &Op| {
            let Op::SetSysctl { key, value, .. } = op else { return false };
            fresh.get(key.as_str()).is_some_and(|is| is == value)
        };
        let needed = by_ns.iter().filter_map(|(ns, ops)| {
            let ops: Vec<&Op> = ops.iter().copied().filter(|op| !is_set(op)).collect();
            (!ops.is_empty()).then_some((*ns, ops))
        });
        self.visit(&needed.collect(), |op| {
            let Op::SetSysctl { key, value, .. } = op else {
                return Err(Error::bug(format!("not a sysctl: {op:?}")));
            };
            std::fs::write(format!("/proc/sys/{key}"), value).map_err(|e| cannot(op).because(e))
        })?;
        Ok(())
    }

    fn add_tuns(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
        let made = self.visit(by_ns, |op| {
            let Op::AddTun { dev, info, .. } = op else {
                return Err(Error::bug(format!("not a TUN device: {op:?}")));
            };
            let create = if *info { tun::create_persistent_with_info } else { tun::create_persistent };
            create(dev).map_err(|e| cannot(op).because(e))?;
            nix::net::if_::if_nametoindex(dev.as_str()).map_err(|e| cannot(op).because(e))
        })?;
        for (op, index) in made {
            if let Op::AddTun { ns, dev, .. } = op {
                self.record(ns, dev, index);
            }
        }
        Ok(())
    }

    fn add_security(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
        let namespaces = &self.namespaces;
        on_a_thread(|| {
            by_ns.iter().try_for_each(|(ns, ops)| {
                enter(namespaces, ns)?;
                let what = || format!("cannot open a socket for security in namespace {ns}");
                let mut socket = Socket::open_xfrm().doing(Kind::Kernel, what)?;
                let requests = ops.iter().map(|op| xfrm_request(op)).collect::<Result<Vec<_>>>()?;
                socket.execute(requests).map_err(|refusal| refused(ops[refusal.index], &refusal))
            })
        })
    }

    fn add_rulesets(&mut self, ops: &[&Op]) -> Result<()> {
        let namespaces = &self.namespaces;
        on_threads(ops.chunks(share(ops.len())), |ops| {
            ops.iter().try_for_each(|op| load_ruleset(namespaces, op))
        })
        .map(drop)
    }
}

/// What the sysctls of `by_ns` are in a namespace as the kernel makes it: most need not be written. Left out are those that
/// writing another one may change, and those that a namespace is to have written twice.
fn fresh_sysctls<'a>(by_ns: &BTreeMap<&str, Vec<&'a Op>>) -> Result<BTreeMap<&'a str, String>> {
    let mut once: BTreeMap<&str, bool> = BTreeMap::new();
    for ops in by_ns.values() {
        let mut here = BTreeSet::new();
        for op in ops {
            let Op::SetSysctl { key, .. } = op else { continue };
            let first = here.insert(key.as_str());
            *once.entry(key).or_insert(true) &= first;
        }
    }
    let alone = |key: &str| {
        key.starts_with("net/ipv4/") && !key.ends_with("/forwarding") && !key.ends_with("redirects")
    };
    let keys = once.into_iter().filter(|(key, once)| *once && alone(key)).map(|(key, _)| key);
    let keys: Vec<&str> = keys.collect();
    on_a_thread(|| {
        let what = || "cannot make a namespace to look at".to_owned();
        unshare(CloneFlags::CLONE_NEWNET).doing(Kind::Kernel, what)?;
        let value = |key: &&'a str| {
            let text = std::fs::read_to_string(format!("/proc/sys/{key}")).ok()?;
            Some((*key, text.trim_end().to_owned()))
        };
        Ok(keys.iter().filter_map(value).collect())
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only two operations are about security")]
fn xfrm_request(op: &Op) -> Result<Request<XfrmMessage>> {
    match op {
        Op::AddAssociation { src, dst, association, .. } => {
            Ok(Request::add_association(*src, *dst, association))
        }
        Op::AddPolicy { src, dst, direction, .. } => Ok(Request::add_policy(*src, *dst, *direction)),
        other => Err(Error::bug(format!("not about security: {other:?}"))),
    }
}

fn load_ruleset(namespaces: &Namespaces, op: &Op) -> Result<()> {
    let Op::AddRuleset { ns, text } = op else {
        return Err(Error::bug(format!("not a ruleset: {op:?}")));
    };
    enter(namespaces, ns)?;
    process::feed(Command::new("nft").args(["-f", "-"]), text)
        .map(drop)
        .map_err(|e| e.context(cannot(op).to_string()))
}

/// Opens a namespace that is there, with the names and indices of its devices.
fn open_netns(namespaces: &Namespaces, name: &str) -> Result<(Netns, Vec<(String, u32)>)> {
    let what = || format!("cannot look into namespace {name}");
    enter(namespaces, name)?;
    let file = File::open(namespaces.path(name)).doing(Kind::Kernel, what)?;
    let mut socket = Socket::open().doing(Kind::Kernel, what)?;
    let links = socket.dump(&Request::dump_links()).doing(Kind::Kernel, what)?;
    let named = |message: &RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewLink(link) = message else { return None };
        link.attributes.iter().find_map(|a| {
            let LinkAttribute::IfName(name) = a else { return None };
            Some((name.clone(), link.header.index))
        })
    };
    let devices = links.iter().filter_map(named).collect();
    Ok((Netns { file, socket }, devices))
}

/// Puts the calling thread into a namespace of its own, names it and opens its socket. `lo` is up.
fn make_netns(namespaces: &Namespaces, name: &str) -> Result<Netns> {
    let fail = |e: &dyn std::fmt::Display| cannot_make(name).because(e);
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| fail(&e))?;
    let path = namespaces.path(name);
    File::create_new(&path).map_err(|e| fail(&e))?;
    mounts::bind("/proc/thread-self/ns/net", &path).map_err(|e| fail(&e))?;
    begin_netns(namespaces, name)
}

/// The same in a user namespace of its owner's.
fn make_owned(namespaces: &Namespaces, name: &str, maker: &Maker) -> Result<Netns> {
    let fail = |e: &dyn std::fmt::Display| cannot_make(name).because(e);
    let path = namespaces.path(name);
    File::create_new(&path).map_err(|e| fail(&e))?;
    maker.make(&path).map_err(|e| fail(&e))?;
    enter(namespaces, name)?;
    begin_netns(namespaces, name)
}

/// The calling thread is in the namespace.
fn begin_netns(namespaces: &Namespaces, name: &str) -> Result<Netns> {
    let fail = |e: &dyn std::fmt::Display| cannot_make(name).because(e);
    let file = File::open(namespaces.path(name)).map_err(|e| fail(&e))?;
    let mut socket = Socket::open().map_err(|e| fail(&e))?;
    socket.execute([Request::up(LO)]).map_err(|e| fail(&e))?;
    Ok(Netns { file, socket })
}

fn cannot_make(name: &str) -> Error {
    Error::kernel(format!("cannot make namespace {name}"))
}

pub(super) fn enter(namespaces: &Namespaces, ns: &str) -> Result<()> {
    NetNs::get_from_env(ns, namespaces.clone())
        .and_then(|netns| netns.enter())
        .doing(Kind::Kernel, || format!("cannot enter namespace {ns}"))
}

/// Whether an operation makes or moves a device, so that its number must be kept.
fn numbers(op: &Op) -> bool {
    matches!(op, Op::AddIpip { .. } | Op::AddIfb { .. } | Op::MoveLink { .. })
}

/// How many of `count` fall to each processor.
fn share(count: usize) -> usize {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    count.div_ceil(threads).max(1)
}

/// Calls `f` for each of `parts`, each on a thread of its own. Results in their order, or the first error.
fn on_threads<P: Send, T: Send>(
    parts: impl IntoIterator<Item = P>,
    f: impl Fn(P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let f = &f;
    thread::scope(|scope| {
        let workers: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || f(part))).collect();
        let done = workers.into_iter().map(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        done.collect()
    })
}

pub(super) fn on_a_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn refused(op: &Op, refusal: &Refusal) -> Error {
    let error = cannot(op).because(format!("netlink {}: {refusal}", message_name(op)));
    match &refusal.text {
        Some(text) => error.because(format!("kernel: {text}")),
        None => error,
    }
}

/// The rtnetlink(7) message of an operation.
fn message_name(op: &Op) -> &'static str {
    match op {
        Op::AddVeth { .. } | Op::AddIpip { .. } | Op::AddIfb { .. } => "RTM_NEWLINK",
        Op::MoveLink { .. } | Op::SetUp { .. } => "RTM_SETLINK",
        Op::AddAddr { .. } => "RTM_NEWADDR",
        Op::AddNetem { .. } | Op::AddHooks { .. } => "RTM_NEWQDISC",
        Op::AddRedirect { .. } => "RTM_NEWTFILTER",
        Op::AddNeighbour { .. } => "RTM_NEWNEIGH",
        Op::AddRoute { .. } | Op::AddUnreachable { .. } => "RTM_NEWROUTE",
        Op::AddAssociation { .. } => "XFRM_MSG_NEWSA",
        Op::AddPolicy { .. } => "XFRM_MSG_NEWPOLICY",
        Op::AddNetns { .. } | Op::SetSysctl { .. } | Op::AddTun { .. } | Op::AddRuleset { .. } => "request",
    }
}

fn unmade(ns: &str) -> Error {
    Error::bug(format!("the plan uses namespace {ns} before it makes it"))
}
