//! What one speaker says: where its port is, and what leaves by it. Configuration and routes go in, records come out. It
//! never decides which of several exits is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Longest name of a port, bytes: a DNS label (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 63;
/// The most outer addresses of one port.
pub const MAX_ADDRESSES: usize = 16;
/// Every IPv4 link carries this many bytes (RFC 791, section 3.1).
pub const MIN_MTU: u16 = 68;

/// Number of a port of the emulated router, the same at all its speakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(pub u16);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ARP half: where in the inner VI the exit by one port is, and what it is outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bind {
    name: String,
    u: Ipv4Addr,
    addresses: BTreeSet<Ipv4Addr>,
    mtu: u16,
}

/// Why there can be no such binding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBind {
    #[error("a port's name has 1 to {MAX_NAME} printable ASCII characters, not `{0}`")]
    Name(String),
    #[error("{0} is not the address of one machine")]
    Address(Ipv4Addr),
    #[error("{0} addresses of one port; {MAX_ADDRESSES} is the most")]
    Addresses(usize),
    #[error("an MTU of {0} bytes; {MIN_MTU} is the least")]
    Mtu(u16),
}

impl Bind {
    /// The port called `name`, with `addresses` on its outer link, which carries packets of `mtu` bytes; `u` is the address
    /// of its phantom VH in the inner VI.
    ///
    /// # Errors
    /// If a message could not carry it.
    pub fn new(
        name: impl Into<String>,
        u: Ipv4Addr,
        addresses: BTreeSet<Ipv4Addr>,
        mtu: u16,
    ) -> Result<Self, BadBind> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadBind::Name(name));
        }
        if let Some(bad) = [&u].into_iter().chain(&addresses).find(|a| !is_machine(**a)) {
            return Err(BadBind::Address(*bad));
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(BadBind::Addresses(addresses.len()));
        }
        if mtu < MIN_MTU {
            return Err(BadBind::Mtu(mtu));
        }
        Ok(Self { name, u, addresses, mtu })
    }

    /// The port's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address of the phantom VH in the inner VI: where to encapsulate to.
    #[must_use]
    pub fn u(&self) -> Ipv4Addr {
        self.u
    }

    /// The router's own addresses on this port's outer link.
    #[must_use]
    pub fn addresses(&self) -> &BTreeSet<Ipv4Addr> {
        &self.addresses
    }

    /// The largest packet that can leave by this port, bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }
}

fn is_machine(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}

/// All that one speaker says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// None while the port is closed; then nothing leaves by it, whatever `reach` has.
    pub bind: Option<Bind>,
    /// The BGP half: prefixes that leave by this port, each with the metric of the router's route.
    pub reach: BTreeMap<Ipv4Net, u32>,
}

impl Records {
    /// The metric with which `prefix` leaves by this port, if it does.
    pub(super) fn metric(&self, prefix: &Ipv4Net) -> Option<u32> {
        self.bind.as_ref()?;
        self.reach.get(prefix).copied()
    }

    /// One change of a set of records.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Bind(bind) => self.bind = Some(bind),
            Change::Reach(prefix, metric) => {
                self.reach.insert(prefix, metric);
            }
            Change::Unreach(prefix) => {
                self.reach.remove(&prefix);
            }
            Change::Unbind => self.bind = None,
        }
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let bind = self.bind.iter().cloned().map(Change::Bind);
        bind.chain(self.reach.iter().map(|(prefix, metric)| Change::Reach(*prefix, *metric)))
    }
}

/// A record as a message carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Bind(Bind),
    Reach(Ipv4Net, u32),
    Unreach(Ipv4Net),
    Unbind,
}
