//! The lab with every name bound, every node placed, every address, device name and MTU known. A checked
//! [`crate::spec`] goes in, a [`Lab`] or all its errors come out. It never touches the kernel, a clock or chance.

pub mod address;
mod bind;
mod build;
pub mod called;
mod difference;
mod emulated;
mod expect;
mod find;
mod gateway;
mod groups;
pub mod impair;
mod join;
mod leases;
pub mod names;
mod parallel;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use build::build;
pub use difference::{Difference, Fate, differences};
pub use emulated::{Emulated, Port};
pub use expect::{Expectation, Expectations};
pub use gateway::{External, GATEWAYS, Gateway};
pub use impair::{LinkMeasured, Measured, Wish};
pub use parallel::{Parallel, Spread, Strand};

use crate::error::Result;
use crate::expand::{self, control, import};
pub use crate::expand::{Given, Imported};
pub use crate::packet::esp::Suite as Security;
use crate::spec::{self, Diagnostic, Instances, Report, Span, Spanned, Tree, Value};

/// Index of a network in [`Lab::networks`]; 0 is the base network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetId(pub usize);

/// The base network.
pub const BASE: NetId = NetId(0);

/// A node: the network and the index in [`Network::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId {
    pub net: NetId,
    pub index: usize,
}

/// A link: the network and the index in [`Network::links`], or [`GATEWAYS`] and the index in [`Lab::gateways`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId {
    pub net: NetId,
    pub index: usize,
}

/// One end of a link: `side` is 0 or 1, an index in [`Link::ends`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndId {
    pub link: LinkId,
    pub side: usize,
}

/// What a node is in its network. In a VI, all nodes forward (paper, II.2.1); a host has a host address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Host,
    Router,
    Both,
    /// A VH that exists only as an interface of the router its VI plays (paper, II.2.4).
    Phantom,
}

/// How the edges of an emulated router learn by which port a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// By the exit resolution protocol.
    #[default]
    Exchange,
    /// Routes written once.
    Computed,
}

/// What the file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataplaneChoice {
    #[default]
    Auto,
    Kernel,
    Fastpath,
}

/// What carries the virtual links that end on a base node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dataplane {
    Kernel,
    Fastpath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// Shortest paths, written once.
    Static,
    Ospf,
    Isis,
    Rip,
    Bgp,
    None,
}

impl Routing {
    /// Whether routes follow what happens to links: any path may come to be used.
    #[must_use]
    pub fn is_dynamic(self) -> bool {
        match self {
            Self::Ospf | Self::Isis | Self::Rip | Self::Bgp => true,
            Self::Static | Self::None => false,
        }
    }
}

/// What a link does to the packets of one direction on purpose; none by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Impairment {
    /// One way, microseconds.
    pub delay_us: u64,
    /// Added to or taken off the delay, evenly spread; microseconds, at most the delay.
    pub jitter_us: u64,
    /// Share of packets lost, each by itself; millionths.
    pub loss_ppm: u32,
    /// Bits a second.
    pub rate_bps: Option<u64>,
}

/// A process that runs in a node while the lab is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Unique in the lab.
    pub name: String,
    pub at: NodeId,
    /// Program and arguments; not empty.
    pub argv: Vec<String>,
    pub restart: Restart,
    pub ready: Option<Ready>,
}

/// Whether a process that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    Never,
    /// When its exit status is not 0.
    OnFailure,
    Always,
}

/// When a process counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", content = "is", rename_all = "kebab-case")]
pub enum Ready {
    /// Something in its node listens on this TCP port.
    Tcp(u16),
    /// This command, run in its node, succeeds.
    Exec(Vec<String>),
    /// Its output holds this text.
    Log(String),
}

/// A whole lab, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lab {
    pub name: String,
    pub description: Option<String>,
    pub dataplane: DataplaneChoice,
    /// The base network first, then the VIs in the order of the file, then the fabrics of emulated routers.
    pub networks: Vec<Network>,
    /// Routers that VIs play, in the order of the file.
    pub emulated: Vec<Emulated>,
    /// Wires between networks, in the order of the file.
    pub gateways: Vec<Gateway>,
    pub apps: Vec<App>,
    pub tests: Vec<Test>,
}

/// The base network or a Virtual Internet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetId,
    /// `base`, or the VI's name.
    pub name: String,
    /// What the VI rides on; `None` for the base.
    pub over: Option<NetId>,
    /// The others of several parallel underlays.
    pub besides: Vec<NetId>,
    /// 0 for the base, 1 for a VI on the base, and so on: a packet of depth n has n+1 added IP headers (n > 0).
    pub depth: usize,
    /// Network-layer addresses come from here.
    pub pool: Ipv4Net,
    /// Link-layer addresses come from here; VIs over the base.
    pub link_pool: Option<Ipv4Net>,
    pub routing: Routing,
    /// VIs only: name or number of the unprivileged user who may change it.
    #[serde(default)]
    pub owner: Option<String>,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
}

/// A base node, VH or VR. Each is one network namespace, the node's partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    /// Unique within its network; full name `network/name`.
    pub name: String,
    pub role: Role,
    /// The node of the underlay it is placed on; `None` in the base.
    pub at: Option<NodeId>,
    /// The base node it ends up on; itself in the base.
    pub base: NodeId,
    /// Base nodes only: what the file asks for this node.
    pub dataplane: DataplaneChoice,
    /// Namespace name: `b.X` for base nodes, `v.VI.node` for partitions.
    pub netns: String,
    /// /32 on `lo`: the loopback of a base node, the host address H of a VH; none for a pure VR.
    pub host: Option<Ipv4Addr>,
    /// /32s on `lo` that are link addresses of links of VIs stacked on this one (the upper VI's link layer is
    /// this network layer: paper, Figure 10).
    pub stacked: Vec<Ipv4Addr>,
    /// Its interfaces, in link order; first the one by whose address a router goes, see [`Lab::address`].
    pub ends: Vec<EndId>,
    /// Its ends of gateways, in their order: interfaces too, but of no link of its network.
    pub wires: Vec<EndId>,
    /// Whether it forwards packets that are not for itself.
    pub forwards: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Base nodes: where on earth it is, degrees north and east. Pictures are drawn by it.
    pub location: Option<[f64; 2]>,
}

/// A link between two nodes of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub id: LinkId,
    /// `a--b`, `a--b.2`, or the name the file gives.
    pub name: String,
    pub ends: [End; 2],
    pub cost: u32,
    /// Usable size of IP packets on this link, bytes.
    pub mtu: u32,
    /// Where larger packets than fit below may be sent, their link packets in fragments.
    pub fragments: Option<Fragments>,
    /// How the two ends reach each other below; `None` in the base (a wire).
    pub carrier: Option<Carrier>,
    /// Its strands, where it rides on several networks at once.
    pub parallel: Option<Parallel>,
    /// Virtual links only: ESP in transport mode on the link header (RFC 4303).
    pub security: Option<Security>,
    /// By the side that sends.
    pub impair: [Impairment; 2],
}

/// How the packets of a link whose MTU is larger than what fits go through the layer below: the link packet is cut, not
/// the packet in it (RFC 2003, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragments {
    /// The largest packet that goes whole, bytes; what is larger and has DF set does not go at all.
    pub whole: u32,
    /// The largest link packet that goes whole, its header included, bytes.
    pub piece: u32,
}

/// One end: an interface in the node's namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub node: NodeId,
    /// Device name in the node's namespace, at most 15 bytes.
    pub dev: String,
    /// The interface's one network-layer address, of a /31.
    pub addr: Ipv4Addr,
    /// VIs only: this end's link-layer address; none where the link has strands.
    pub link_addr: Option<Ipv4Addr>,
    /// Where the device is, if not in the node's own namespace.
    pub seat: Option<Seat>,
}

/// The place of a device that is not in the namespace of its node: the interface of an emulated router is where the
/// phantom VH stands that is this interface (paper, II.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The node whose namespace holds the device.
    pub partition: NodeId,
    /// The node of the link's underlay it stands on.
    pub at: NodeId,
}

/// Where the device of an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// The node whose namespace holds it.
    pub partition: NodeId,
    /// The node of the underlay it stands on; `None` in the base.
    pub at: Option<NodeId>,
    /// The base node it ends up on.
    pub base: NodeId,
}

/// What lies below a virtual link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// Over the base, between two base nodes: the link header rides in a base tunnel between their loopbacks.
    Tunnel,
    /// Over the base, both ends on one base node: the link header stays on the node.
    Inside,
    /// Over another VI: the link header is a packet of that VI.
    Stacked,
    /// Over several VIs: the link has a strand in each, and a link header is a packet of one of them.
    Parallel,
}

/// A test or an action of `tests:`, with names bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// The `name:` given, or the test in words, as the file has it.
    pub name: String,
    /// Line in the lab file, from 1.
    pub line: usize,
    /// Retried until it holds or this many milliseconds have passed.
    pub within_ms: Option<u64>,
    /// Must not hold.
    pub not: bool,
    pub kind: TestKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TestKind {
    /// Echo requests, each ordered pair; `size` is ICMP payload bytes as in ping(8).
    Ping {
        pairs: Vec<(NodeId, NodeId)>,
        count: u32,
        size: Option<u32>,
        df: bool,
    },
    /// No node of one network reaches a node of another.
    Isolated {
        networks: Vec<NetId>,
    },
    /// Nodes that answer a traceroute, the destination last.
    Trace {
        from: NodeId,
        to: NodeId,
        hops: Vec<NodeId>,
    },
    /// TTL of a packet sent with 64 when it arrives at `to`.
    Ttl {
        from: NodeId,
        to: NodeId,
        is: u8,
    },
    /// The IP headers of one probe each time it passes the interfaces of base node `at`.
    Headers {
        from: NodeId,
        to: NodeId,
        at: NodeId,
        is: Vec<HeaderRow>,
    },
    /// IP headers added below the network layer's own; usable MTU proved by a DF probe.
    Depth {
        net: NetId,
        headers: usize,
        mtu: Option<u32>,
    },
    /// Largest packet that passes with DF set.
    Mtu {
        from: NodeId,
        to: NodeId,
        is: u32,
    },
    /// A hand-built packet put on the wire by base node `at`; header addresses outermost first.
    Inject {
        at: NodeId,
        stack: Vec<(Ipv4Addr, Ipv4Addr)>,
        /// Node that owns the innermost destination.
        to: NodeId,
        delivered: bool,
        /// The counter that must count it.
        by: Option<String>,
        /// False: the strong-host rule of the base node it is sent to is off meanwhile (control run).
        strong_host: bool,
    },
    /// Source address of what `from` sends to `to`, as it arrives there.
    Source {
        from: NodeId,
        to: NodeId,
        is: Ipv4Addr,
    },
    /// The next hops of `node`'s kernel towards `to`, all of equal cost.
    Route {
        node: NodeId,
        to: NodeId,
        via: Vec<NodeId>,
    },
    /// A TCP stream passes, at this rate or more.
    Tcp {
        from: NodeId,
        to: NodeId,
        at_least_bps: Option<u64>,
    },
    /// A command run in a node ends with this status and prints what matches this pattern, `*` standing for anything.
    Exec {
        at: NodeId,
        argv: Vec<String>,
        stdout: Option<String>,
        status: u8,
    },
    /// The kernel's routes of all nodes equal the computed ones.
    Converged,
    /// An action: from now on the link does this, and only this.
    Impair {
        link: LinkId,
        to: [Impairment; 2],
    },
    Down(Target),
    Up(Target),
    /// Milliseconds.
    Wait(u64),
}

/// What a `down:` or `up:` acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", content = "id")]
pub enum Target {
    Link(LinkId),
    Node(NodeId),
}

/// One expected row of a `headers:` test; what is `None` is not compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeaderRow {
    /// True: the packet enters the base node; false: it leaves.
    pub inward: bool,
    /// The base node at the other end of that wire.
    pub neighbour: NodeId,
    pub base: Option<(Ipv4Addr, Ipv4Addr)>,
    pub link: Option<(Ipv4Addr, Ipv4Addr)>,
    pub net: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The whole stack, outermost first.
    pub stack: Option<Vec<(Ipv4Addr, Ipv4Addr)>>,
}

impl Lab {
    #[must_use]
    pub fn base(&self) -> &Network {
        &self.networks[BASE.0]
    }

    #[must_use]
    pub fn net(&self, id: NetId) -> &Network {
        &self.networks[id.0]
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.networks[id.net.0].nodes[id.index]
    }

    #[must_use]
    pub fn link(&self, id: LinkId) -> &Link {
        match id.net {
            GATEWAYS => &self.gateways[id.index].link,
            NetId(net) => &self.networks[net].links[id.index],
        }
    }

    fn link_mut(&mut self, id: LinkId) -> &mut Link {
        match id.net {
            GATEWAYS => &mut self.gateways[id.index].link,
            NetId(net) => &mut self.networks[net].links[id.index],
        }
    }

    #[must_use]
    pub fn end(&self, id: EndId) -> &End {
        &self.link(id.link).ends[id.side]
    }

    /// The other end of the same link.
    #[must_use]
    pub fn peer(&self, id: EndId) -> &End {
        &self.link(id.link).ends[1 - id.side]
    }

    /// Where the device of an end is.
    #[must_use]
    pub fn site(&self, end: &End) -> Site {
        let seat = end.seat.map_or((end.node, self.node(end.node).at), |s| (s.partition, Some(s.at)));
        let (partition, at) = seat;
        Site { partition, at, base: self.node(partition).base }
    }

    /// The namespace that holds the device of an end.
    #[must_use]
    pub fn netns(&self, end: &End) -> &str {
        &self.node(self.site(end).partition).netns
    }

    /// `base/X` or `VI/node`.
    #[must_use]
    pub fn full_name(&self, id: NodeId) -> String {
        format!("{}/{}", self.net(id.net).name, self.node(id).name)
    }

    /// Has `choice` carry all virtual links, whatever the file and its base nodes say.
    pub fn carry_by(&mut self, choice: DataplaneChoice) {
        self.dataplane = choice;
        for network in &mut self.networks {
            network.nodes.iter_mut().for_each(|n| n.dataplane = DataplaneChoice::Auto);
        }
    }

    /// The name of the network a link belongs to, or `gateways`.
    #[must_use]
    pub fn place(&self, link: LinkId) -> &str {
        match link.net {
            GATEWAYS => "gateways",
            net => &self.net(net).name,
        }
    }

    /// `network/link`, or `gateways/link`.
    #[must_use]
    pub fn full_link_name(&self, id: LinkId) -> String {
        format!("{}/{}", self.place(id), self.link(id).name)
    }

    /// The address a name stands for: the host address, else that of the first interface. None for a router
    /// without links.
    #[must_use]
    pub fn address(&self, id: NodeId) -> Option<Ipv4Addr> {
        let node = self.node(id);
        node.host.or_else(|| node.ends.iter().chain(&node.wires).next().map(|e| self.end(*e).addr))
    }

    /// All addresses of a node's namespace.
    pub fn addresses(&self, id: NodeId) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let node = self.node(id);
        node.host
            .into_iter()
            .chain(node.ends.iter().chain(&node.wires).map(|e| self.end(*e).addr))
            .chain(node.stacked.iter().copied())
    }

    /// The node of network `net` that has `addr`.
    #[must_use]
    pub fn owner(&self, net: NetId, addr: Ipv4Addr) -> Option<NodeId> {
        self.net(net).nodes.iter().map(|n| n.id).find(|id| self.addresses(*id).any(|a| a == addr))
    }

    /// Whether the ends of a virtual link are on one node of the layer below: its packets leave that node never.
    #[must_use]
    pub fn stays_on_its_node(&self, link: &Link) -> bool {
        let [a, b] = link.ends.each_ref().map(|end| self.site(end).at);
        a.is_some() && a == b
    }

    /// The links of all networks, then the wires of the gateways.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.networks.iter().flat_map(|n| &n.links).chain(self.gateways.iter().map(|g| &g.link))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.networks.iter().flat_map(|n| n.nodes.iter())
    }

    /// The namespace whose tunnel an end of a virtual link is, under the kernel dataplane: the link layer of its base
    /// node, or the lower VI's partition.
    #[must_use]
    pub fn below_netns(&self, end: &End) -> String {
        let site = self.site(end);
        match site.at {
            Some(at) if at.net != BASE => self.node(at).netns.clone(),
            _ => self.link_netns(site.base),
        }
    }

    /// Namespace of the strands of an end of a link over several VIs, under the kernel dataplane: `s.top.a`, one for each
    /// partition.
    #[must_use]
    pub fn strands_netns(&self, end: &End) -> String {
        let partition = self.netns(end);
        format!("s.{}", partition.strip_prefix("v.").unwrap_or(partition))
    }

    /// Namespace of the link layer of a base node under the kernel dataplane: `l.X`.
    #[must_use]
    pub fn link_netns(&self, base: NodeId) -> String {
        format!("l.{}", self.node(base).name)
    }
}

/// Reads, expands and builds the lab of a file's text; `path` is for the errors.
///
/// # Errors
/// All errors of the file, rendered with the offending text underlined.
pub fn parse(path: &Path, text: &str) -> Result<Lab> {
    parse_with(path, text, None)
}

/// The same for a lab that takes the place of `running`: a network, node or link of the same name keeps its
/// addresses and device names, wherever it stands in the file, and what is new gets free ones.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(path: &Path, text: &str, running: Option<&Lab>) -> Result<Lab> {
    parse_given(path, text, &[], running)
}

/// The same, with values for parameters of the lab.
///
/// # Errors
/// As [`parse`].
pub fn parse_given(path: &Path, text: &str, given: &[Given], running: Option<&Lab>) -> Result<Lab> {
    parse_source(&Source { given, ..Source::new(path, text) }, running)
}

/// A lab file, and what it needs from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// For the errors.
    pub path: &'a Path,
    pub text: &'a str,
    /// Values for parameters of the lab.
    pub given: &'a [Given],
    /// The files that [`imports`] names.
    pub imported: &'a Imported,
}

impl<'a> Source<'a> {
    /// A file that needs nothing else.
    #[must_use]
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        static NONE: Imported = Imported::new();
        Self { path, text, given: &[], imported: &NONE }
    }
}

/// The lab of a file, with all that it needs from elsewhere: see [`parse_with`].
///
/// # Errors
/// As [`parse`].
pub fn parse_source(source: &Source<'_>, running: Option<&Lab>) -> Result<Lab> {
    let Source { path, text, given, imported } = *source;
    let mut errors = Vec::new();
    let Some(file) = spec::read(text, &mut errors) else {
        return Err(Report::new(path, text, errors, &Instances::default()).into_error());
    };
    let flat = control::flatten(&file, given, &mut errors);
    let tree = import::merged(&flat.tree, imported, &mut errors);
    let own = errors.clone();
    let decoded = spec::decode(tree.as_ref(), &mut errors);
    let spec = decoded.filter(|_| !flat.cut_short);
    let aside = errors_beside(tree.as_ref(), &mut errors);
    let built = match spec.map(|spec| expand::expand(spec, &mut errors)) {
        Some(lab) => build(&lab, text, errors, running),
        None => Err(errors),
    };
    let built = match built {
        Ok(lab) if aside.is_empty() => Ok(lab),
        Ok(_) => Err(aside),
        Err(errors) => Err([errors, aside].concat()),
    };
    // Without its topology the base lacks the places that VIs name.
    let lost = own.iter().any(|e| e.rule == "import");
    built.map_err(|mut errors| {
        errors.retain(|e| own.is_empty() || own.contains(e) || !flat.is_echo(e));
        errors.retain(|e| !(lost && e.rule == "placement"));
        Report::new(path, text, errors, &flat.instances).into_error()
    })
}

/// Whether networks have other nodes, links, places, addresses or sizes without this key.
fn shapes(key: &str) -> bool {
    let networks = ["base", "vis", "gateways", "nodes", "links", "import", "over", "addresses", "mtu"];
    let nodes = ["at", "role", "address", "loopback", "port", "emulate"];
    let links = ["link", "ring", "line", "mesh", "tree", "grid", "of", "arity", "prefix", "rows", "cols"];
    let templates = ["templates", "params", "ports", "use", "with", "when"];
    [&networks[..], &nodes, &links, &templates].into_iter().any(|keys| keys.contains(&key))
}

/// Takes out the errors that no network depends on, so that what is wrong with the networks is told beside them: those in values
/// about something else, and keys that are not known and were not meant to shape networks.
fn errors_beside(tree: &Tree, errors: &mut Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut beside = Vec::new();
    values_beside(tree, false, &mut beside);
    let inside = |e: &Diagnostic| beside.iter().any(|s| s.start <= e.span.start && e.span.end <= s.end);
    let stray = |e: &Diagnostic| e.rule == "unknown-key" && !e.near().is_some_and(shapes);
    errors.extract_if(.., |e| inside(e) || stray(e)).collect()
}

/// Where the values stand that no network takes nodes, links, places or addresses from. Keys may be `names`. What is protected is
/// smaller, so beside a wrong `security` only sizes are told that are wrong in any case.
fn values_beside(tree: &Tree, names: bool, found: &mut Vec<Span>) {
    const SECTIONS: [&str; 2] = ["apps", "tests"];
    const VALUES: [&str; 10] = [
        "description",
        "dataplane",
        "routing",
        "security",
        "sysctls",
        "location",
        "delay",
        "jitter",
        "loss",
        "rate",
    ];
    const OF_NAMES: [&str; 5] = ["vis", "nodes", "templates", "params", "with"];
    match &tree.value {
        Value::Map(items) => {
            for (key, value) in items {
                let is_one_of = |keys: &[&str]| {
                    !names && matches!(&key.value, Value::Scalar(k) if keys.contains(&k.as_str()))
                };
                if is_one_of(&SECTIONS) || is_one_of(&VALUES) {
                    found.push(value.span);
                } else {
                    values_beside(value, is_one_of(&OF_NAMES), found);
                }
            }
        }
        Value::Seq(items) => items.iter().for_each(|item| values_beside(item, false, found)),
        Value::Null | Value::Scalar(_) => {}
    }
}

/// The topology file that a lab file imports, by the name that it has for it, relative to its own place.
#[must_use]
pub fn imports(text: &str, given: &[Given]) -> Option<String> {
    if !text.contains("import") {
        return None;
    }
    let mut errors = Vec::new();
    let file = spec::read(text, &mut errors)?;
    import::named(&control::flatten(&file, given, &mut errors).tree).map(|name| name.value)
}

/// The owners that a file names, each with its place there.
#[must_use]
pub fn owners(text: &str, given: &[Given]) -> Vec<Spanned<String>> {
    let mut errors = Vec::new();
    let flat = spec::read(text, &mut errors).map(|file| control::flatten(&file, given, &mut errors));
    let spec = flat.and_then(|flat| spec::decode(&flat.tree, &mut errors));
    spec.into_iter().flat_map(|s| s.vis).filter_map(|vi| vi.owner).collect()
}

/// The flat lab of a file as YAML: itself a lab file, of the same lab, which imports nothing.
///
/// # Errors
/// As [`parse`].
pub fn flat(source: &Source<'_>) -> Result<String> {
    parse_source(source, None)?;
    let mut errors = Vec::new();
    let file = spec::read(source.text, &mut errors);
    let flat = file.map(|file| control::flatten(&file, source.given, &mut errors).tree);
    let tree = flat.map(|tree| control::written_out(&import::merged(&tree, source.imported, &mut errors)));
    Ok(tree.map(|tree| spec::write(&tree, &control::escape)).unwrap_or_default())
}
