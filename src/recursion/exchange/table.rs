//! Which exits each prefix has. What this speaker and its peers say goes in; the table of its edge, and the resolution of
//! one address, come out. It never changes what was said.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::record::{Bind, Port, Records};

/// One way out of the emulated router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exit {
    pub port: Port,
    /// Where to encapsulate to.
    pub u: Ipv4Addr,
}

/// How a prefix leaves by other ports than this speaker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub metric: u32,
    /// Of equal cost, by port; at least one.
    pub exits: Vec<Exit>,
    /// The smallest MTU of these exits, bytes.
    pub mtu: u16,
    /// Whether it leaves by this speaker's own port too, at the same cost.
    pub local: bool,
}

/// What an edge needs: the prefixes that leave by other ports.
pub type Table = BTreeMap<Ipv4Net, Entry>;

/// What becomes of a packet for one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The longest prefix that has the destination.
    pub prefix: Ipv4Net,
    pub metric: u32,
    /// By port; at least one.
    pub exits: Vec<ResolvedExit>,
    /// The smallest MTU of the exits, bytes.
    pub mtu: u16,
}

/// One exit of a resolved destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedExit {
    pub port: Port,
    pub name: String,
    pub u: Ipv4Addr,
    pub mtu: u16,
    pub source: Source,
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// It leaves by the speaker's own port.
    Local,
    /// The speaker at the exit.
    Peer {
        /// How long ago it said so.
        age: Duration,
        /// How long that holds if it is not heard again.
        lease: Duration,
    },
}

/// The entry of `prefix`. The lowest metric wins, and all exits that have it are used; what has been withdrawn is used only
/// while nobody says anything else.
pub(super) fn entry<'a>(
    prefix: &Ipv4Net,
    own: &Records,
    peers: impl Iterator<Item = &'a Peer> + Clone,
) -> Option<Entry> {
    let own = own.metric(prefix);
    let said = peers.clone().filter_map(|peer| exit(peer, peer.records().metric(prefix)?));
    let mut exits: Vec<(u32, Exit, u16)> = said.collect();
    if exits.is_empty() && own.is_none() {
        exits = peers.filter_map(|peer| exit(peer, peer.lingering(prefix)?)).collect();
    }
    let metric = exits.iter().map(|(metric, ..)| *metric).chain(own).min()?;
    exits.retain(|exit| exit.0 == metric);
    exits.sort_unstable_by_key(|(_, exit, _)| *exit);
    let mtu = exits.iter().map(|(.., mtu)| *mtu).min()?;
    let exits = exits.into_iter().map(|(_, exit, _)| exit).collect();
    Some(Entry { metric, exits, mtu, local: own == Some(metric) })
}

fn exit(peer: &Peer, metric: u32) -> Option<(u32, Exit, u16)> {
    let bind = peer.records().bind.as_ref()?;
    Some((metric, Exit { port: peer.port, u: bind.u() }, bind.mtu()))
}

/// What is known of one exit.
pub(super) fn resolved(port: Port, bind: &Bind, source: Source) -> ResolvedExit {
    ResolvedExit { port, name: bind.name().to_owned(), u: bind.u(), mtu: bind.mtu(), source }
}

/// The prefixes that have `address`, the longest first.
pub(super) fn prefixes(address: Ipv4Addr) -> impl Iterator<Item = Ipv4Net> {
    (0..=32).rev().filter_map(move |len| Ipv4Net::new(address, len).ok()).map(|net| net.trunc())
}
