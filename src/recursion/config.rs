//! What the process that serves emulated routers must know of a lab: a plain table that [`crate::plan`] writes and the
//! process reads.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::exchange::Key;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    pub routers: Vec<Router>,
}

/// A router that a VI plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Full name.
    pub name: String,
    /// Where it routes: a device for each port, called as that of the port's link.
    pub netns: String,
    /// Its edges find the exits by the exit resolution protocol, with this key; `None` where their routes are written
    /// once.
    pub exchange: Option<Key>,
    /// One for each port, in the order of the ports' numbers, which start at 0.
    pub edges: Vec<Edge>,
}

/// A port of an emulated router, and the namespace where its link ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The port's name.
    pub port: String,
    pub netns: String,
    /// The device of the port's link; the router's own device of that name is in [`Router::netns`].
    pub dev: String,
    /// The TUN device behind which the router is.
    pub punt: String,
    /// The router's address on the link.
    pub addr: Ipv4Addr,
    /// Of the link, bytes.
    pub mtu: u32,
    /// The phantom VH that the port is: its namespace, and its address in the inner VI.
    pub phantom_netns: String,
    pub phantom: Ipv4Addr,
    /// The tunnels to the other ports, by port: device and next hop.
    pub inside: BTreeMap<String, (String, Ipv4Addr)>,
}
