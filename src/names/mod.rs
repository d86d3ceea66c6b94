//! The names of a lab for programs that ask DNS: each network is a zone, and a node asks within its own. Names come
//! from the lab; answers go out where the questions came in. It never asks another server: there is nothing beyond.

mod answer;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use answer::answer;
pub use server::run;

use crate::model::Lab;

/// Where every node asks: an address of its loopback device that no program listens on unless told to. It is that of
/// the stub resolver of systemd, which is not here.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
pub const PORT: u16 = 53;

/// All zones, and which namespace asks which.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    pub zones: Vec<Zone>,
    /// Number of its zone by namespace.
    pub nodes: BTreeMap<String, usize>,
}

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Zone {
    /// The network's name.
    pub name: String,
    /// Address by name, lower case: `a` and `a.blue`.
    pub addresses: BTreeMap<String, Ipv4Addr>,
    /// Full name by address, for all addresses of a node.
    pub names: BTreeMap<Ipv4Addr, String>,
}

impl Config {
    /// The names that `/etc/hosts` of each node has too.
    #[must_use]
    pub fn of(lab: &Lab) -> Self {
        let zones = lab.networks.iter().map(|network| {
            let mut zone = Zone { name: network.name.to_lowercase(), ..Zone::default() };
            for node in &network.nodes {
                zone.add(&node.name, lab.address(node.id), lab.addresses(node.id).collect());
            }
            zone
        });
        let nodes = lab.nodes().map(|n| (n.netns.clone(), n.id.net.0)).collect();
        Self { zones: zones.collect(), nodes }
    }
}

impl Zone {
    fn add(&mut self, name: &str, address: Option<Ipv4Addr>, all: BTreeSet<Ipv4Addr>) {
        let name = name.to_lowercase();
        let full = format!("{name}.{}", self.name);
        if let Some(address) = address {
            self.addresses.insert(name, address);
            self.addresses.insert(full.clone(), address);
        }
        self.names.extend(all.into_iter().map(|address| (address, full.clone())));
    }
}

/// `/etc/resolv.conf` of a node of network `network`.
#[must_use]
pub fn resolv_conf(network: &str) -> String {
    format!("nameserver {ADDRESS}\nsearch {network}\n")
}
