//! What the adapter must know of a lab: a plain table that [`crate::plan`] writes and the adapter reads.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    pub ends: Vec<End>,
}

/// One end of a virtual link on which IS-IS runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The partition.
    pub netns: String,
    /// Device of the virtual link.
    pub dev: String,
    /// The TUN device beside it, with packet information.
    pub pdus: String,
    /// Network addresses of the two ends.
    pub local: Ipv4Addr,
    pub peer: Ipv4Addr,
}
