//! What the fast path must know of a lab: a plain table that [`crate::plan`] writes and the engine reads. Indices
//! refer to the vectors of [`Config`].

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::model::{Fragments, Impairment, Spread};
use crate::packet::esp::Association;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    pub nodes: Vec<BaseNode>,
    pub partitions: Vec<Partition>,
    pub interfaces: Vec<Interface>,
    /// Devices of the kernel that are shaped from outside, where it has no netem.
    pub devices: Vec<ShapedDevice>,
}

/// A base node whose virtual links the fast path carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseNode {
    /// As the lab names it.
    pub name: String,
    pub netns: String,
    /// Its loopback: the near end of its base tunnels.
    pub addr: Ipv4Addr,
}

/// The namespace of a VH or VR on such a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// `VI/node`.
    pub name: String,
    pub netns: String,
    /// Index in [`Config::nodes`].
    pub node: usize,
    /// Tunnel packets to these addresses must not pass: they would be tunnelled through themselves.
    pub refuses: Vec<Ipv4Addr>,
}

/// One end of a virtual link: a TUN device `dev` in the partition. A packet read from it gets the link header
/// `local -> remote` and goes to the layer below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Index in [`Config::partitions`].
    pub partition: usize,
    pub dev: String,
    pub mtu: u32,
    /// Of its link packets.
    pub fragments: Option<Fragments>,
    /// Link addresses; where there are strands, which have these, the network addresses of the two ends.
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
    pub below: Below,
    /// Of the link header; of a link with strands each of these has its own.
    pub security: Option<Associations>,
    /// What comes in here leaves by this interface of the same partition (index in [`Config::interfaces`]), not looked
    /// up and its TTL as it is: it has been routed where it came into the emulated router.
    pub exit: Option<usize>,
    /// With [`Below::Strands`].
    pub bundle: Option<Bundle>,
    /// Of what is sent here.
    pub impair: Impairment,
}

/// The strands of one end of a link that rides on several VIs at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bundle {
    pub spread: Spread,
    /// Two or more.
    pub strands: Vec<Strand>,
}

/// What goes by one of these VIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strand {
    /// The VI's name.
    pub underlay: String,
    pub weight: u32,
    /// The partition of that VI that sends the link packets (index in [`Config::partitions`]), on the same base node.
    pub partition: usize,
    /// Link addresses.
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
    pub security: Option<Associations>,
}

/// ESP on the link header of an interface, both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Associations {
    /// Of what the interface sends.
    pub outward: Association,
    /// Of what it receives.
    pub inward: Association,
}

/// A device of the kernel whose packets are taken off where they leave, and put back later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapedDevice {
    /// The base node it is on, as the lab names it.
    pub node: String,
    pub netns: String,
    pub dev: String,
    /// Packets have Ethernet headers: a veth. Else they are bare IP packets: a tunnel.
    pub ethernet: bool,
    pub impair: Impairment,
}

/// Where the link header of an interface travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Below {
    /// In a base tunnel from the base node's own address to `remote`. Link packets to this interface are accepted
    /// from that tunnel only: the strong host model at the link layer.
    Base { remote: Ipv4Addr },
    /// Nowhere: the other end is on the same base node.
    Inside,
    /// As a packet of the VI below, sent by this partition (index in [`Config::partitions`]).
    Partition(usize),
    /// By one of the strands of the interface, or by each of them.
    Strands,
}
