//! What the kernel itself needs for the base network of a lab. A lab file goes in; the time for the same objects as
//! `vilab up` makes, sent as batched netlink requests that were encoded beforehand, comes out as JSON, and the time until the
//! kernel has taken them away again. It never probes, starts no process, and keeps nothing.
//!
//! `floor LAB.yaml` builds and takes down; `floor --settle` says how long the kernel is still busy with namespaces that
//! were dropped before, by others too: one worker takes them in turn, so one that is dropped now goes last.

#![allow(clippy::print_stdout, reason = "what it has measured is what it is for")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use vilab::lab;
use vilab::observe::doctor;
use vilab::plan::{self, Hop, Mac, Op, Plan};
use vilab::routing::Rib;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// A datagram's bytes at most; the send buffer is made large enough.
const CHUNK: usize = 1 << 20;
const LO: u32 = 1;
const FIRST_INDEX: u32 = 10;
/// Until the kernel has taken away what is measured.
const PATIENCE: Duration = Duration::from_secs(60);

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/veth.h, linux/netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400 | 0x200;
const NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let report = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--settle"] => apart(|| {
            let start = Instant::now();
            settle()?;
            Ok(format!("{{\"gone_ms\": {:.2}}}", ms(start)))
        })?,
        [file] => {
            let lab = lab::load(Path::new(file)).map_err(|e| e.to_string())?;
            let machine = doctor_machine()?;
            let plan = plan::build(&lab, &Rib::compute(&lab), &machine).map_err(|e| e.to_string())?;
            apart(|| measure(&plan))?
        }
        _ => return Err("usage: floor LAB.yaml, or floor --settle".into()),
    };
    println!("{report}");
    Ok(())
}

fn doctor_machine() -> Result<plan::Machine> {
    doctor::machine().map_err(|e| e.to_string().into())
}

/// Runs `f` on a thread with a network namespace of its own.
fn apart<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            f()
        };
        scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

// ---- what is measured -------------------------------------------------------------------------------------

/// What one namespace gets: requests for it alone, before and after there are wires.
#[derive(Default)]
struct Node<'a> {
    sysctls: Vec<(&'a str, &'a str)>,
    devices: BTreeMap<&'a str, u32>,
    own: Batch,
    wired: Batch,
}

fn measure(plan: &Plan) -> Result<String> {
    vilab::sys::limits::raise_open_files()?;
    let mut nodes: BTreeMap<&str, Node<'_>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    let mut wires = Vec::new();
    let mut next = FIRST_INDEX;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for op in plan.stages.iter().flat_map(|s| &s.ops) {
        let kind = prepare(op, &mut nodes, &mut order, &mut wires, &mut next)?;
        *counts.entry(kind).or_default() += 1;
    }

    let start = Instant::now();
    let mut made: BTreeMap<&str, (File, Netlink)> = BTreeMap::new();
    let mut spent_on_sysctls = Duration::ZERO;
    thread::scope(|scope| {
        let make = || -> Result<()> {
            for name in &order {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let file = File::open("/proc/thread-self/ns/net")?;
                let netlink = Netlink::open()?;
                let node = &nodes[name];
                netlink.send(&node.own)?;
                let before = Instant::now();
                for (key, value) in &node.sysctls {
                    fs::write(format!("/proc/sys/{key}"), value)?;
                }
                spent_on_sysctls += before.elapsed();
                made.insert(name, (file, netlink));
            }
            Ok(())
        };
        scope.spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let namespaces = ms(start);
    let begun = Instant::now();
    let mut batch = Batch::default();
    for wire in &wires {
        batch.veth(wire, made[wire.a.0].0.as_raw_fd(), made[wire.b.0].0.as_raw_fd());
    }
    Netlink::open()?.send(&batch)?;
    let links = ms(begun);
    let begun = Instant::now();
    for (name, (_, netlink)) in &made {
        netlink.send(&nodes[name].wired)?;
    }
    let (configured, up) = (ms(begun), ms(start));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let begun = Instant::now();
    drop(made);
    let dropped = ms(begun);
    settle()?;
    let gone = ms(begun);
    let sysctls = spent_on_sysctls.as_secs_f64() * 1000.0;
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("\"{kind}\": {count}")).collect();
    Ok(format!(
        "{{\"up_ms\": {:.2}, \"sysctls_ms\": {sysctls:.2}, \"namespaces_ms\": {:.2}, \"links_ms\": {links:.2}, \
         \"configure_ms\": {configured:.2}, \"down_ms\": {dropped:.2}, \"gone_ms\": {gone:.2}, \
         \"available_kib\": {}, \"objects\": {{{}}}}}",
        up - sysctls,
        namespaces - sysctls,
        available(&memory),
        counts.join(", ")
    ))
}

fn available(meminfo: &str) -> &str {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.split_whitespace().next()).unwrap_or("0")
}

struct Wire<'a> {
    a: (&'a str, &'a str, u32),
    b: (&'a str, &'a str, u32),
    macs: [Mac; 2],
    mtu: u32,
}

/// Encodes an operation where it belongs; its kind in words.
#[expect(clippy::wildcard_enum_match_arm, reason = "a base network has no other operations")]
fn prepare<'a>(
    op: &'a Op,
    nodes: &mut BTreeMap<&'a str, Node<'a>>,
    order: &mut Vec<&'a str>,
    wires: &mut Vec<Wire<'a>>,
    next: &mut u32,
) -> Result<&'static str> {
    let index = |node: &Node<'_>, dev: &str| match dev {
        "lo" => Ok(LO),
        dev => node.devices.get(dev).copied().ok_or(format!("no device {dev}")),
    };
    match op {
        Op::AddNetns { ns, owner: None } => {
            order.push(ns);
            nodes.entry(ns).or_default().own.up(LO);
            Ok("namespaces")
        }
        Op::SetSysctl { ns, key, value } => {
            nodes.entry(ns).or_default().sysctls.push((key, value));
            Ok("sysctls")
        }
        Op::AddVeth { a, b, macs, mtu } => {
            let mut end = |(ns, dev): &'a (String, String)| {
                *next += 1;
                nodes.entry(ns).or_default().devices.insert(dev, *next);
                (ns.as_str(), dev.as_str(), *next)
            };
            let (a, b) = (end(a), end(b));
            nodes.entry(b.0).or_default().wired.up(b.2);
            wires.push(Wire { a, b, macs: *macs, mtu: *mtu });
            Ok("wires")
        }
        Op::AddAddr { ns, dev, addr, prefix_route } => {
            let node = nodes.entry(ns).or_default();
            let index = index(node, dev)?;
            let batch = if index == LO { &mut node.own } else { &mut node.wired };
            batch.address(index, addr.addr(), addr.prefix_len(), *prefix_route);
            Ok("addresses")
        }
        Op::AddNeighbour { ns, dev, addr, mac } => {
            let node = nodes.entry(ns).or_default();
            let index = index(node, dev)?;
            node.wired.neighbour(index, *addr, *mac);
            Ok("neighbours")
        }
        Op::AddRoute { ns, prefix, hops, src } => {
            let node = nodes.entry(ns).or_default();
            let hops: Vec<(u32, &Hop)> =
                hops.iter().map(|hop| Ok((index(node, &hop.dev)?, hop))).collect::<Result<_>>()?;
            node.wired.route(prefix.network(), prefix.prefix_len(), &hops, *src);
            Ok("routes")
        }
        other => Err(format!("not of a base network: {other:?}").into()),
    }
}

/// Waits until the kernel has taken away every namespace that was dropped before.
fn settle() -> Result<()> {
    // A closed socket keeps its namespace for a grace period of RCU: the first round outlasts those, the second what
    // they held.
    drop_one()?;
    drop_one()
}

/// Drops a namespace with a socket, as those before it had, and waits until the kernel has taken it away.
fn drop_one() -> Result<()> {
    let last = thread::scope(|scope| {
        let make = || -> Result<(File, Netlink)> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok((File::open("/proc/thread-self/ns/net")?, Netlink::open()?))
        };
        scope.spawn(make).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let here = File::open("/proc/thread-self/ns/net")?;
    let mut batch = Batch::default();
    let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
    let wire = Wire { a: ("", "last", FIRST_INDEX), b: ("", "last", FIRST_INDEX), macs, mtu: 1500 };
    batch.veth(&wire, here.as_raw_fd(), last.0.as_raw_fd());
    Netlink::open()?.send(&batch)?;
    drop(last);
    let start = Instant::now();
    // A device of this namespace, whose other end goes with the namespace that was dropped.
    while fs::read_to_string("/proc/thread-self/net/dev")?.contains("last:") {
        if start.elapsed() > PATIENCE {
            return Err("the kernel keeps what was dropped".into());
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

// ---- netlink ----------------------------------------------------------------------------------------------

/// Requests, encoded, in datagrams.
#[derive(Default)]
struct Batch {
    datagrams: Vec<Vec<u8>>,
    /// Where the last request of each begins.
    last: Vec<usize>,
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, body: &[u8]) {
        if self.datagrams.last().is_none_or(|d| d.len() + body.len() + 16 > CHUNK) {
            self.datagrams.push(Vec::new());
            self.last.push(0);
        }
        let (Some(datagram), Some(last)) = (self.datagrams.last_mut(), self.last.last_mut()) else { return };
        *last = datagram.len();
        datagram.extend(u32::try_from(16 + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
        datagram.extend(kind.to_ne_bytes());
        datagram.extend((REQUEST | flags).to_ne_bytes());
        datagram.extend([0; 8]);
        datagram.extend(body);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }

    fn up(&mut self, index: u32) {
        self.push(RTM_SETLINK, 0, &link(index, true));
    }

    fn veth(&mut self, wire: &Wire<'_>, ns_a: i32, ns_b: i32) {
        let attributes = |name: &str, ns: i32, mac: Mac| {
            let mut all = text(3, name);
            all.extend(attribute(4, &wire.mtu.to_ne_bytes()));
            all.extend(attribute(1, &mac.0));
            all.extend([attribute(31, &1_u32.to_ne_bytes()), attribute(32, &1_u32.to_ne_bytes())].concat());
            all.extend(attribute(28, &ns.to_ne_bytes()));
            all
        };
        let mut peer = link(wire.b.2, false);
        peer.extend(attributes(wire.b.1, ns_b, wire.macs[1]));
        let data = attribute(2 | NESTED, &attribute(1 | NESTED, &peer));
        let mut body = link(wire.a.2, true);
        body.extend(attributes(wire.a.1, ns_a, wire.macs[0]));
        body.extend(attribute(18 | NESTED, &[text(1, "veth"), data].concat()));
        self.push(RTM_NEWLINK, CREATE, &body);
    }

    fn address(&mut self, index: u32, addr: Ipv4Addr, length: u8, prefix_route: bool) {
        let mut body = vec![AF_INET, length, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(attribute(2, &addr.octets()));
        body.extend(attribute(1, &addr.octets()));
        if !prefix_route {
            body.extend(attribute(8, &0x200_u32.to_ne_bytes()));
        }
        self.push(RTM_NEWADDR, CREATE, &body);
    }

    fn neighbour(&mut self, index: u32, addr: Ipv4Addr, mac: Mac) {
        let mut body = vec![AF_INET, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        // NUD_PERMANENT.
        body.extend(0x80_u16.to_ne_bytes());
        body.extend([0, 0]);
        body.extend(attribute(1, &addr.octets()));
        body.extend(attribute(2, &mac.0));
        self.push(RTM_NEWNEIGH, CREATE, &body);
    }

    fn route(&mut self, net: Ipv4Addr, length: u8, hops: &[(u32, &Hop)], src: Option<Ipv4Addr>) {
        let scope = if hops.iter().all(|(_, hop)| hop.via.is_none()) { 253 } else { 0 };
        // Table main, protocol static, a unicast route.
        let mut body = vec![AF_INET, length, 0, 0, 254, 4, scope, 1, 0, 0, 0, 0];
        body.extend(attribute(1, &net.octets()));
        body.extend(src.map(|src| attribute(7, &src.octets())).unwrap_or_default());
        let via = |hop: &Hop| hop.via.map(|via| attribute(5, &via.octets())).unwrap_or_default();
        match hops {
            [(index, hop)] => {
                body.extend(via(hop));
                body.extend(attribute(4, &index.to_ne_bytes()));
            }
            hops => {
                let mut all = Vec::new();
                for (index, hop) in hops {
                    let via = via(hop);
                    all.extend(u16::try_from(8 + via.len()).unwrap_or(u16::MAX).to_ne_bytes());
                    all.extend([0, 0]);
                    all.extend(index.to_ne_bytes());
                    all.extend(via);
                }
                body.extend(attribute(9, &all));
            }
        }
        self.push(RTM_NEWROUTE, CREATE, &body);
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flags = u32::from(up);
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Of the calling thread's namespace.
    fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::SndBufForce, &(4 * CHUNK))?;
        Ok(Self { socket })
    }

    /// Sends a batch; the last request of each datagram is acknowledged, and errors always come.
    fn send(&self, batch: &Batch) -> Result<()> {
        for (datagram, last) in batch.datagrams.iter().zip(&batch.last) {
            let mut datagram = datagram.clone();
            let flags = u16::from_ne_bytes([datagram[last + 6], datagram[last + 7]]) | ACK;
            datagram[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
            send(self.socket.as_raw_fd(), &datagram, MsgFlags::empty())?;
            let mut answer = [0; 4096];
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            let code =
                answer[..length].get(16..20).and_then(|b| b.try_into().ok()).map_or(-71, i32::from_ne_bytes);
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code).into());
            }
        }
        Ok(())
    }
}
