//! The exit resolution protocol: the merged BGP and ARP that network recursion needs. Datagrams, the routes of one port and
//! the time go in; datagrams and the exits of all prefixes that leave by other ports come out. It does no I/O, reads no
//! clock and draws no chance.
//!
//! An emulated router has a [`Speaker`] at each port. A speaker says what leaves by its port ([`Records`]), keeps what the others say
//! as long as they are heard, and computes the [`Table`] of its edge. docs/exit-resolution.md is the specification.
//!
//! Whoever drives a speaker calls a `handle_*` function for whatever happens, then sends all that
//! [`Speaker::poll_transmit`] has, looks at [`Speaker::table`] if [`Speaker::generation`] has changed, and waits for the next
//! datagram, the next change of routes, or the time that [`Speaker::poll_timeout`] gives. Times count from a start that the
//! caller chose.

mod log;
mod peer;
mod record;
mod state;
mod table;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use log::Log;
use peer::{Me, Now, Peer, Touched};
pub use record::{BadBind, Bind, Change, MAX_ADDRESSES, MAX_NAME, MIN_MTU, Port, Records};
pub use state::State;
pub use table::{Entry, Exit, Resolution, ResolvedExit, Source, Table};
pub use wire::{Body, Changes, Header, Key, MAX_LEN, Malformed, Message, TAG_LEN, VERSION};

/// UDP port of the protocol, at both ends: one of those that are nobody's (RFC 6335).
pub const UDP_PORT: u16 = 49_783;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// From one HELLO to the next.
    pub hello: Duration,
    /// How long a speaker's records hold after its last message; 65,535 ms is the most.
    pub hold: Duration,
    /// After which a message that is not acknowledged is sent again.
    pub retry: Duration,
    /// How long a prefix is used that was withdrawn and has no other exit.
    pub linger: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            hello: Duration::from_millis(300),
            hold: Duration::from_secs(1),
            retry: Duration::from_millis(100),
            linger: Duration::from_millis(250),
        }
    }
}

impl Timers {
    fn hold_ms(&self) -> u16 {
        u16::try_from(self.hold.as_millis()).unwrap_or(u16::MAX)
    }
}

/// What a speaker is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Router identifier of the emulated router.
    pub router: Ipv4Addr,
    /// The speaker's port.
    pub port: Port,
    /// Address of its phantom VH in the inner VI, from which it sends.
    pub u: Ipv4Addr,
    /// Greater than in every former life of this speaker: nanoseconds since 1970 when it starts, for example.
    pub epoch: u64,
    /// The other ports of the router, and the addresses of their phantom VHs.
    pub peers: BTreeMap<Port, Ipv4Addr>,
    pub key: Key,
    pub timers: Timers,
}

/// Why there can be no such speaker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misconfigured {
    #[error("epoch 0 stands for none")]
    Epoch,
    #[error("port {0} is the speaker's own")]
    OwnPort(Port),
    #[error("{0} is the address of two speakers")]
    Address(Ipv4Addr),
    #[error("a hold time of {0:?}: it must be longer than the time between HELLOs, and at most 65,535 ms")]
    Hold(Duration),
    #[error("the times between HELLOs and before a message is sent again must not be zero")]
    Timer,
}

impl Config {
    fn check(&self) -> Result<(), Misconfigured> {
        let Timers { hello, hold, retry, .. } = self.timers;
        if self.epoch == 0 {
            return Err(Misconfigured::Epoch);
        }
        if self.peers.contains_key(&self.port) {
            return Err(Misconfigured::OwnPort(self.port));
        }
        let mut addresses = BTreeSet::from([self.u]);
        if let Some(twice) = self.peers.values().find(|u| !addresses.insert(**u)) {
            return Err(Misconfigured::Address(*twice));
        }
        if hello.is_zero() || retry.is_zero() {
            return Err(Misconfigured::Timer);
        }
        if hold <= hello || hold.as_millis() == 0 || hold.as_millis() > u128::from(u16::MAX) {
            return Err(Misconfigured::Hold(hold));
        }
        Ok(())
    }
}

/// Why a datagram changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} is no speaker of this router")]
    Stranger(Ipv4Addr),
    #[error("wrong authenticator")]
    Authenticator,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("of router {0}")]
    Router(Ipv4Addr),
    #[error("it says that it is of port {0}")]
    Port(Port),
    #[error("it binds its port to {0}, from where it does not come")]
    ThirdParty(Ipv4Addr),
}

/// Why local records cannot be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecords {
    #[error("the binding has {0}, which is not the speaker's address")]
    Address(Ipv4Addr),
    #[error("{0} has bits behind its length")]
    Prefix(Ipv4Net),
}

/// What a speaker knows of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus<'a> {
    pub port: Port,
    pub u: Ipv4Addr,
    pub state: State,
    /// Whether all that it has to say has arrived, as far as is known.
    pub complete: bool,
    /// Whether it has acknowledged all that this speaker has to say.
    pub told: bool,
    /// What it says.
    pub records: &'a Records,
    /// How long that holds if it is not heard again; zero when it is down.
    pub lease: Duration,
    /// How often sessions with it began anew because the two did not agree on what it had said: a fault of one of them.
    pub broken: u64,
}

/// One port's speaker.
#[derive(Debug)]
pub struct Speaker {
    me: Me,
    timers: Timers,
    now: Duration,
    log: Log,
    peers: BTreeMap<Ipv4Addr, Peer>,
    table: Table,
    generation: u64,
}

impl Speaker {
    /// A speaker that starts `now` and has nothing to say.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn new(config: &Config, now: Duration) -> Result<Self, Misconfigured> {
        config.check()?;
        let peers = config.peers.iter().map(|(port, u)| (*u, Peer::new(*port, *u, config.epoch, now)));
        let seal = wire::Seal::new(&config.key);
        Ok(Self {
            me: Me { router: config.router, port: config.port, u: config.u, seal },
            timers: config.timers,
            now,
            log: Log::default(),
            peers: peers.collect(),
            table: Table::new(),
            generation: 0,
        })
    }

    /// A datagram that came from `from`, at the protocol's port.
    ///
    /// # Errors
    /// If it is no message of a peer; then it has changed nothing.
    pub fn handle_datagram(&mut self, now: Duration, from: Ipv4Addr, bytes: &[u8]) -> Result<(), Refused> {
        self.handle_timeout(now);
        let peer = self.peers.get_mut(&from).ok_or(Refused::Stranger(from))?;
        if !self.me.seal.holds(from, self.me.u, bytes) {
            return Err(Refused::Authenticator);
        }
        let message = Message::new_checked(bytes)?;
        if message.header.router != self.me.router {
            return Err(Refused::Router(message.header.router));
        }
        if message.header.port != peer.port {
            return Err(Refused::Port(message.header.port));
        }
        if let Some(u) = third_party(&message, from) {
            return Err(Refused::ThirdParty(u));
        }
        let mut touched = Touched::new();
        let now = Now { time: self.now, timers: &self.timers };
        peer.handle(&message, &self.log, now, &mut touched);
        self.forget();
        self.renew(&touched);
        Ok(())
    }

    /// All that leaves by this speaker's port from here on.
    ///
    /// # Errors
    /// If these records cannot be announced; then those from before stay.
    pub fn handle_local(&mut self, now: Duration, records: Records) -> Result<(), BadRecords> {
        if let Some(bind) = records.bind.as_ref().filter(|bind| bind.u() != self.me.u) {
            return Err(BadRecords::Address(bind.u()));
        }
        if let Some(prefix) = records.reach.keys().find(|p| p.trunc() != **p) {
            return Err(BadRecords::Prefix(*prefix));
        }
        self.handle_timeout(now);
        let touched = self.log.replace(records);
        self.forget();
        self.renew(&touched);
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let mut touched = Touched::new();
        let now = Now { time: self.now, timers: &self.timers };
        for peer in self.peers.values_mut() {
            peer.handle_timeout(now, &mut touched);
        }
        self.forget();
        self.renew(&touched);
    }

    /// The next datagram to send, from the speaker's address and the protocol's port to those of the peer.
    pub fn poll_transmit(&mut self) -> Option<(Ipv4Addr, Vec<u8>)> {
        let now = Now { time: self.now, timers: &self.timers };
        let (me, log) = (&self.me, &mut self.log);
        self.peers.iter_mut().find_map(|(u, peer)| Some((*u, peer.poll_transmit(log, me, now)?)))
    }

    /// When [`Self::handle_timeout`] is to be called, if nothing happens before; None without peers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.peers.values().map(Peer::poll_timeout).min()
    }

    /// The exits of all prefixes that leave by other ports.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Differs from what it was whenever the table does.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What this speaker says.
    #[must_use]
    pub fn records(&self) -> &Records {
        self.log.records()
    }

    /// The other ports, by address.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> {
        self.peers.values().map(|peer| PeerStatus {
            port: peer.port,
            u: peer.u,
            state: peer.state(),
            complete: peer.is_complete(),
            told: peer.acked() == Some(self.log.last()),
            records: peer.records(),
            lease: self.lease(peer, self.now),
            broken: peer.broken(),
        })
    }

    /// Whether every peer is heard and all that it has to say has arrived, as far as is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.peers.values().all(Peer::is_complete)
    }

    /// What becomes of a packet for `destination` that enters at this port.
    #[must_use]
    pub fn resolve(&self, now: Duration, destination: Ipv4Addr) -> Option<Resolution> {
        table::prefixes(destination).find_map(|prefix| self.resolution(prefix, now.max(self.now)))
    }

    fn resolution(&self, prefix: Ipv4Net, now: Duration) -> Option<Resolution> {
        let entry = self.table.get(&prefix);
        let own = self.log.records();
        let metric = entry.map(|e| e.metric).or_else(|| own.metric(&prefix))?;
        let mut exits: Vec<ResolvedExit> = entry.map_or_else(Vec::new, |entry| {
            entry.exits.iter().filter_map(|exit| self.resolved(exit, &prefix, now)).collect()
        });
        if own.metric(&prefix) == Some(metric) {
            exits.extend(own.bind.iter().map(|bind| table::resolved(self.me.port, bind, Source::Local)));
        }
        exits.sort_unstable_by_key(|exit| exit.port);
        let mtu = exits.iter().map(|exit| exit.mtu).min()?;
        Some(Resolution { prefix, metric, exits, mtu })
    }

    fn resolved(&self, exit: &Exit, prefix: &Ipv4Net, now: Duration) -> Option<ResolvedExit> {
        let peer = self.peers.get(&exit.u)?;
        let age = peer.since(prefix).map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let source = Source::Peer { age, lease: self.lease(peer, now) };
        Some(table::resolved(exit.port, peer.records().bind.as_ref()?, source))
    }

    fn lease(&self, peer: &Peer, now: Duration) -> Duration {
        match peer.state() {
            State::Down => Duration::ZERO,
            State::Init | State::Up => peer.expires().saturating_sub(now),
        }
    }

    /// Computes the entries of these prefixes again.
    fn renew(&mut self, touched: &Touched) {
        let mut changed = false;
        for prefix in touched {
            let new = table::entry(prefix, self.log.records(), self.peers.values());
            changed |= self.table.get(prefix) != new.as_ref();
            match new {
                Some(entry) => self.table.insert(*prefix, entry),
                None => self.table.remove(prefix),
            };
        }
        self.generation += u64::from(changed);
    }

    /// Forgets withdrawals that all peers with a session know of. A session that begins later begins with nothing.
    fn forget(&mut self) {
        let heard = self.peers.values().filter_map(Peer::acked).min();
        self.log.forget(heard.unwrap_or(u64::MAX));
    }
}

/// An address to which a message binds its port and from which it does not come.
fn third_party(message: &Message<'_>, from: Ipv4Addr) -> Option<Ipv4Addr> {
    let Body::Update { changes, .. } = message.body else { return None };
    changes.into_iter().find_map(|change| match change {
        Change::Bind(bind) => Some(bind.u()).filter(|u| *u != from),
        Change::Reach(..) | Change::Unreach(_) | Change::Unbind => None,
    })
}

#[cfg(test)]
mod tests;
