//! What the process that watches strands must know of a lab: a plain table. [`crate::plan`] makes it, and the process reads
//! it. It never has what the kernel knows already, such as the numbers of devices.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::fastpath::spread::Bundle;
use crate::model::Spread;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    pub ends: Vec<End>,
}

/// One end of a link over several VIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The name of its base node.
    pub base: String,
    /// The partition that has the link.
    pub partition: String,
    /// Where its strands are.
    pub netns: String,
    /// The device of the link, in the partition; its other half in [`End::netns`] has the same name.
    pub dev: String,
    /// Network addresses of this end and of the other.
    pub near: Ipv4Addr,
    pub far: Ipv4Addr,
    pub spread: Spread,
    /// So many headers of VIs above may be in front of what tells flows apart.
    pub above: usize,
    /// Two or more, in the order of `over`.
    pub strands: Vec<Strand>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strand {
    /// The VI's name.
    pub underlay: String,
    pub weight: u32,
    /// In [`End::netns`].
    pub dev: String,
    /// Of which namespace it is a tunnel, and between which link addresses.
    pub below: String,
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
}

impl End {
    /// Its strands, all well.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        let underlays = self.strands.iter().map(|s| (s.underlay.as_str(), s.weight));
        Bundle::new(self.spread, (self.near, self.far), underlays)
    }
}
