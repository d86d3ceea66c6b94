//! One ordered, printable list of kernel operations. A [`crate::model::Lab`], its routes and what the machine can
//! do go in; a [`Plan`] comes out. It never touches the kernel: [`crate::apply`] does, in this order.

mod build;
mod diff;
mod emulated;
mod filter;
mod gateways;
mod guard;
mod impair;
mod isis;
mod parallel;
mod restore;
mod routing;
pub mod security;
mod text;
mod things;
mod views;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use build::{build, routes};
pub use diff::{Change, Removal, Resize, diff};
pub use filter::{Instruction, Taken, priority};
pub use impair::{Netem, Way, impair, impaired, way};
pub use restore::restored;
pub use things::Key;

use crate::fastpath::Config;
use crate::isis::Config as IsisConfig;
use crate::model::{Dataplane, Ready, Restart};
use crate::packet::esp::Association;
use crate::recursion::Config as RoutersConfig;
use crate::strands::Config as StrandsConfig;

/// What the running machine can carry, as far as planning depends on it; measured by
/// [`crate::observe`], never assumed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Machine {
    /// ipip devices can be made.
    pub ipip: bool,
    /// nftables works and the `nft` program is there.
    pub nft: bool,
    /// TUN devices can be made.
    pub tun: bool,
    /// netem qdiscs can be made.
    pub netem: bool,
    /// ESP in transport mode with all suites of `security:`.
    pub esp: bool,
    /// The directory of FRR's daemons.
    pub frr: Option<String>,
    /// The lab runs in a user namespace with one id.
    pub one_user: bool,
    /// What leaves a device can be redirected to another: clsact, cls_bpf and mirred.
    pub redirect: bool,
    /// ifb devices can be made.
    pub ifb: bool,
    /// What comes in by a device can be sent out by others, in turn, by a hash, or by several: nftables with fwd and dup of
    /// the netdev family, numgen and jhash.
    pub spread: bool,
}

/// Everything `up` does to the kernel, in order, and what runs beside it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What carries each base node, in the order of the base network's nodes.
    pub dataplanes: Vec<Dataplane>,
    /// Why that dataplane, in one sentence.
    pub why: String,
    /// Impairments of the kernel's devices are netem's; else the engine's.
    pub netem: bool,
    pub stages: Vec<Stage>,
    /// The userspace fast path, where a base node uses it.
    pub fastpath: Option<Config>,
    /// What carries IS-IS over virtual links, where a VI has it.
    pub isis: Option<IsisConfig>,
    /// What the process that serves emulated routers must know.
    pub routers: Option<RoutersConfig>,
    /// What the process that watches strands must know, where the kernel carries links over parallel underlays.
    pub strands: Option<StrandsConfig>,
    /// What each namespace that can be entered shows, beside the machine's own files.
    #[serde(with = "views")]
    pub views: BTreeMap<String, View>,
    /// Processes that run while the lab is up and that the network needs, in the order of their start: those of one
    /// node one after the other, each when those before it that say when they are ready are ready.
    pub services: Vec<Service>,
    /// The users' own, which start when the network has been verified.
    pub apps: Vec<Service>,
}

impl Plan {
    /// Whether a namespace belongs to an unprivileged user.
    #[must_use]
    pub fn has_owners(&self) -> bool {
        self.stages.iter().flat_map(|s| &s.ops).any(|op| matches!(op, Op::AddNetns { owner: Some(_), .. }))
    }
}

/// The files of a node that are its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct View {
    /// Text by absolute path.
    pub files: BTreeMap<String, String>,
    /// Directories by absolute path, empty at first, that everybody in the node may write to.
    pub dirs: Vec<String>,
}

/// A process of a node, looked after by the lab's init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique in the lab: an app's name, or `ospfd@blue/a`.
    pub name: String,
    pub netns: String,
    /// Program and arguments; not empty.
    pub argv: Vec<String>,
    pub restart: Restart,
    pub ready: Option<Ready>,
    /// The service that it works for: when that has been started anew and is ready, so is this one started anew.
    pub behind: Option<String>,
    /// File name of its log, without directory.
    pub log: String,
}

/// Operations that belong together: one line of progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub ops: Vec<Op>,
}

/// An Ethernet address, in transmission order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A next hop. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    pub via: Option<Ipv4Addr>,
    pub dev: String,
}

/// Of the packets that a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    In,
    Out,
}

/// Of the filters of [`Op::AddRedirect`] for IPv4, and one more for other protocols, as filters of one priority are for one
/// protocol. Those with lower numbers, a user's own, come first.
const FILTER_PRIORITY: u16 = 0xfe00;

/// Where a filter sees packets of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hook {
    Ingress,
    Egress,
}

/// One operation on the kernel; `Display` gives it as `ip`, `tc`, `nft` and `sysctl` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A network namespace, its `lo` up. With an owner it belongs to a user namespace of this user's, where the user
    /// is root.
    AddNetns {
        ns: String,
        owner: Option<String>,
    },
    /// `key` as in sysctl(8), with `/` between the parts: `net/ipv4/ip_forward`.
    SetSysctl {
        ns: String,
        key: String,
        value: String,
    },
    /// A veth pair, each end made in its namespace with one queue, `mtu` set, and up.
    AddVeth {
        a: (String, String),
        b: (String, String),
        macs: [Mac; 2],
        mtu: u32,
    },
    /// A permanent neighbour: no ARP on the wire, and none of the entries that the kernel limits for all namespaces
    /// together (`gc_thresh3`).
    AddNeighbour {
        ns: String,
        dev: String,
        addr: Ipv4Addr,
        mac: Mac,
    },
    /// `prefix_route` false: the kernel adds no connected route (IFA_F_NOPREFIXROUTE), for one with the host
    /// address as source follows.
    AddAddr {
        ns: String,
        dev: String,
        addr: Ipv4Net,
        prefix_route: bool,
    },
    /// An ipip device (RFC 2003) with fixed outer TTL 64, hence DF, made in `ns` under the name `dev`.
    AddIpip {
        ns: String,
        dev: String,
        local: Ipv4Addr,
        remote: Ipv4Addr,
    },
    /// A persistent TUN device; with `info` for any protocol, packet information in front of each packet.
    AddTun {
        ns: String,
        dev: String,
        info: bool,
    },
    /// To another namespace under another name: a tunnel keeps encapsulating where it was made.
    MoveLink {
        ns: String,
        dev: String,
        to: String,
        name: String,
    },
    /// MTU, MULTICAST flag on, up.
    SetUp {
        ns: String,
        dev: String,
        mtu: u32,
    },
    /// netem as root qdisc: impairs what leaves the device, or breaks the kernel's limit on nested tunnels.
    AddNetem {
        ns: String,
        dev: String,
        netem: Netem,
    },
    /// An ifb device: it sends what is redirected to it by the device that it left, later, on a stack of its own.
    AddIfb {
        ns: String,
        dev: String,
    },
    /// clsact: filters can see what enters and leaves the device.
    AddHooks {
        ns: String,
        dev: String,
    },
    /// Packets that pass a hook of one device go on at a hook of another: they leave by that one, or come in by it.
    AddRedirect {
        ns: String,
        dev: String,
        hook: Hook,
        takes: Taken,
        to: String,
        into: Hook,
    },
    AddRoute {
        ns: String,
        prefix: Ipv4Net,
        hops: Vec<Hop>,
        src: Option<Ipv4Addr>,
    },
    /// A route that refuses: packets for `prefix` without a longer one are answered "host unreachable".
    AddUnreachable {
        ns: String,
        prefix: Ipv4Net,
    },
    /// A security association for ESP in transport mode.
    AddAssociation {
        ns: String,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        association: Association,
    },
    /// A policy: packets of protocol 4 from `src` to `dst` are sealed, or must have been.
    AddPolicy {
        ns: String,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        direction: Direction,
    },
    /// A ruleset for `nft -f`.
    AddRuleset {
        ns: String,
        text: String,
    },
}
