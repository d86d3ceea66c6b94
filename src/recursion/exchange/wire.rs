//! Messages of the exit resolution protocol, as docs/exit-resolution.md draws them. Bytes go in and a checked view comes
//! out, or values go in and bytes come out. It never panics on bytes it did not make, and knows no speaker.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::{Bind, Change, MAX_NAME, Port, Records};

pub const VERSION: u8 = 1;
/// The longest message, bytes: with its UDP and IPv4 headers it fits into 576 (RFC 791, section 3.1).
pub const MAX_LEN: usize = 576 - 20 - 8;
/// Bytes of the authenticator behind each message: HMAC-SHA-256-128 (RFC 4868).
pub const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 40;
/// The fixed part of either body.
const BODY_LEN: usize = 16;
/// Bytes of records that one UPDATE holds.
pub(super) const ROOM: usize = MAX_LEN - HEADER_LEN - BODY_LEN - TAG_LEN;
const MIN_LEN: usize = HEADER_LEN + BODY_LEN + TAG_LEN;

const HELLO: u8 = 1;
const UPDATE: u8 = 2;

const BIND: u8 = 1;
const REACH: u8 = 2;
const UNREACH: u8 = 3;
const UNBIND: u8 = 4;
/// Bytes of a BIND without its addresses and its name.
const BIND_LEN: usize = 12;
const REACH_LEN: usize = 12;
const UNREACH_LEN: usize = 8;
const UNBIND_LEN: usize = 4;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("shorter than its parts")]
    Truncated,
    #[error("a length field that does not fit")]
    Length,
    #[error("a version that is not known here")]
    Version,
    #[error("a type that is not known here")]
    Type,
    #[error("a reserved field that is not zero")]
    Reserved,
    #[error("a value that its field cannot have")]
    Value,
}

/// The secret that all speakers of a router share. The default, all zeros, is none: messages are then protected against
/// damage, not against forgery.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// Seals and checks messages with one key (RFC 2104).
#[derive(Clone)]
pub(super) struct Seal(Hmac<Sha256>);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    pub(super) fn new(key: &Key) -> Self {
        let mut block = sha2::digest::common::Key::<Hmac<Sha256>>::default();
        block[..key.0.len()].copy_from_slice(&key.0); // RFC 2104: zeros up to the block
        Self(Hmac::new(&block))
    }

    fn mac(&self, src: Ipv4Addr, dst: Ipv4Addr, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&src.octets());
        mac.update(&dst.octets());
        mac.update(message);
        mac
    }

    /// Puts the authenticator of a message from `src` to `dst` behind it.
    fn close(&self, src: Ipv4Addr, dst: Ipv4Addr, message: &mut Vec<u8>) {
        let tag = self.mac(src, dst, message).finalize().into_bytes();
        message.extend_from_slice(&tag[..TAG_LEN]);
    }

    /// Whether the authenticator of a whole message from `src` to `dst` is right. Takes the same time for any tag.
    pub(super) fn holds(&self, src: Ipv4Addr, dst: Ipv4Addr, bytes: &[u8]) -> bool {
        bytes
            .split_last_chunk::<TAG_LEN>()
            .is_some_and(|(message, tag)| self.mac(src, dst, message).verify_truncated_left(tag).is_ok())
    }
}

/// What every message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The emulated router.
    pub router: Ipv4Addr,
    /// The sender's port.
    pub port: Port,
    /// How long the receiver keeps what the sender said, after this message, milliseconds; not zero.
    pub hold_ms: u16,
    /// Counts the messages from the sender to this receiver.
    pub number: u32,
    /// The sender's life, as far as this receiver is concerned; not zero.
    pub epoch: u64,
    /// The receiver's epoch, as the sender has heard it; zero if it has not.
    pub heard: u64,
    /// The receiver's changes up to this one have arrived, in the session of these two epochs.
    pub ack: u64,
}

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<T> {
    /// The sender lives; its last change has this number, and its records then have this digest.
    Hello { last: u64, digest: u64 },
    /// The sender's changes after `from`, up to `to`, as far as no later ones made them void.
    Update { from: u64, to: u64, changes: T },
}

/// A message whose every field has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub header: Header,
    pub body: Body<Changes<'a>>,
}

impl<'a> Message<'a> {
    /// Checks all but the authenticator.
    ///
    /// # Errors
    /// If a length, a type or a value is not as the specification has it.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < MIN_LEN {
            return Err(Malformed::Truncated);
        }
        if byte(bytes, 0)? != VERSION {
            return Err(Malformed::Version);
        }
        if usize::from(word(bytes, 2)?) != bytes.len() || bytes.len() > MAX_LEN {
            return Err(Malformed::Length);
        }
        let header = Header {
            router: address(bytes, 4)?,
            port: Port(word(bytes, 8)?),
            hold_ms: word(bytes, 10)?,
            number: long(bytes, 12)?,
            epoch: quad(bytes, 16)?,
            heard: quad(bytes, 24)?,
            ack: quad(bytes, 32)?,
        };
        if header.hold_ms == 0 || header.epoch == 0 {
            return Err(Malformed::Value);
        }
        let rest = &bytes[HEADER_LEN + BODY_LEN..bytes.len() - TAG_LEN];
        let fields = [quad(bytes, HEADER_LEN)?, quad(bytes, HEADER_LEN + 8)?];
        let body = match byte(bytes, 1)? {
            HELLO => hello(fields, rest)?,
            UPDATE => update(fields, rest)?,
            _ => return Err(Malformed::Type),
        };
        Ok(Self { header, body })
    }

    /// How long the receiver keeps what the sender said, after this message.
    #[must_use]
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.header.hold_ms.into())
    }
}

fn hello<T>([last, digest]: [u64; 2], rest: &[u8]) -> Result<Body<T>, Malformed> {
    if rest.is_empty() { Ok(Body::Hello { last, digest }) } else { Err(Malformed::Length) }
}

fn update([from, to]: [u64; 2], rest: &[u8]) -> Result<Body<Changes<'_>>, Malformed> {
    let span = to.checked_sub(from).filter(|span| *span > 0).ok_or(Malformed::Value)?;
    let (mut unread, mut count) = (rest, 0u64);
    while !unread.is_empty() {
        (_, unread) = split(unread)?;
        count += 1;
    }
    if count > span {
        return Err(Malformed::Value); // each record is a change with a number of its own
    }
    Ok(Body::Update { from, to, changes: Changes(rest) })
}

/// The records of an UPDATE, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes<'a>(&'a [u8]);

impl Iterator for Changes<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let (change, rest) = split(self.0).ok()?; // none is malformed: the message has been checked
        self.0 = rest;
        Some(change)
    }
}

/// The first record, and what follows it.
fn split(bytes: &[u8]) -> Result<(Change, &[u8]), Malformed> {
    let len = usize::from(byte(bytes, 1)?);
    let (record, rest) = bytes.split_at_checked(len).ok_or(Malformed::Truncated)?;
    let change = match byte(record, 0)? {
        BIND => bind(record)?,
        REACH => {
            exactly(record, REACH_LEN)?;
            Change::Reach(prefix(record)?, long(record, 8)?)
        }
        UNREACH => {
            exactly(record, UNREACH_LEN)?;
            Change::Unreach(prefix(record)?)
        }
        UNBIND => {
            exactly(record, UNBIND_LEN)?;
            zero(word(record, 2)?)?;
            Change::Unbind
        }
        _ => return Err(Malformed::Type),
    };
    Ok((change, rest))
}

fn exactly(record: &[u8], len: usize) -> Result<(), Malformed> {
    if record.len() == len { Ok(()) } else { Err(Malformed::Length) }
}

fn zero(reserved: u16) -> Result<(), Malformed> {
    if reserved == 0 { Ok(()) } else { Err(Malformed::Reserved) }
}

fn prefix(record: &[u8]) -> Result<Ipv4Net, Malformed> {
    zero(byte(record, 3)?.into())?;
    let net = Ipv4Net::new(address(record, 4)?, byte(record, 2)?).map_err(|_| Malformed::Value)?;
    if net == net.trunc() { Ok(net) } else { Err(Malformed::Value) }
}

fn bind(record: &[u8]) -> Result<Change, Malformed> {
    let (mtu, u) = (word(record, 2)?, address(record, 4)?);
    let (name_len, count) = (usize::from(byte(record, 8)?), usize::from(byte(record, 9)?));
    zero(word(record, 10)?)?;
    exactly(record, BIND_LEN + 4 * count + name_len)?;
    let (addresses, name) = record[BIND_LEN..].split_at_checked(4 * count).ok_or(Malformed::Truncated)?;
    let listed: Vec<Ipv4Addr> =
        addresses.chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3])).collect();
    if !listed.is_sorted_by(|a, b| a < b) {
        return Err(Malformed::Value);
    }
    let name = std::str::from_utf8(name).map_err(|_| Malformed::Value)?;
    Bind::new(name, u, listed.into_iter().collect(), mtu).map(Change::Bind).map_err(|_| Malformed::Value)
}

/// The bytes of a message from `src` to `dst`. Its records must fit, as [`encoded_len`] tells.
pub(super) fn emit(
    header: &Header,
    body: &Body<&[Change]>,
    seal: &Seal,
    src: Ipv4Addr,
    dst: Ipv4Addr,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_LEN);
    let (kind, fields, changes) = match *body {
        Body::Hello { last, digest } => (HELLO, [last, digest], [].as_slice()),
        Body::Update { from, to, changes } => (UPDATE, [from, to], changes),
    };
    bytes.extend([VERSION, kind, 0, 0]);
    bytes.extend(header.router.octets());
    bytes.extend(header.port.0.to_be_bytes());
    bytes.extend(header.hold_ms.to_be_bytes());
    bytes.extend(header.number.to_be_bytes());
    for quad in [header.epoch, header.heard, header.ack].into_iter().chain(fields) {
        bytes.extend(quad.to_be_bytes());
    }
    for change in changes {
        emit_change(change, &mut bytes);
    }
    let len = u16::try_from(bytes.len() + TAG_LEN).unwrap_or(u16::MAX);
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    seal.close(src, dst, &mut bytes);
    bytes
}

/// Bytes of a record in a message.
pub(super) fn encoded_len(change: &Change) -> usize {
    match change {
        Change::Bind(bind) => BIND_LEN + 4 * bind.addresses().len() + bind.name().len(),
        Change::Reach(..) => REACH_LEN,
        Change::Unreach(_) => UNREACH_LEN,
        Change::Unbind => UNBIND_LEN,
    }
}

fn emit_change(change: &Change, bytes: &mut Vec<u8>) {
    let len = u8::try_from(encoded_len(change)).unwrap_or(u8::MAX);
    match change {
        Change::Bind(bind) => {
            bytes.extend([BIND, len]);
            bytes.extend(bind.mtu().to_be_bytes());
            bytes.extend(bind.u().octets());
            let counts = [bind.name().len(), bind.addresses().len()];
            bytes.extend(counts.map(|n| u8::try_from(n).unwrap_or(u8::MAX)));
            bytes.extend([0, 0]);
            bind.addresses().iter().for_each(|a| bytes.extend(a.octets()));
            bytes.extend(bind.name().bytes());
        }
        Change::Reach(prefix, metric) => {
            bytes.extend([REACH, len, prefix.prefix_len(), 0]);
            bytes.extend(prefix.addr().octets());
            bytes.extend(metric.to_be_bytes());
        }
        Change::Unreach(prefix) => {
            bytes.extend([UNREACH, len, prefix.prefix_len(), 0]);
            bytes.extend(prefix.addr().octets());
        }
        Change::Unbind => bytes.extend([UNBIND, len, 0, 0]),
    }
}

// A record's length is one byte, and one record always fits into a message.
const _: () = assert!(BIND_LEN + 4 * super::record::MAX_ADDRESSES + MAX_NAME <= u8::MAX as usize);
const _: () = assert!(u8::MAX as usize <= ROOM);

/// Digest of a set of records: the first 64 bits of SHA-256 over the records as messages carry them, BIND first, then
/// REACH by prefix.
pub(super) fn digest(records: &Records) -> u64 {
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for change in records.changes() {
        bytes.clear();
        emit_change(&change, &mut bytes);
        hash.update(&bytes);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Malformed::Truncated)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Malformed> {
    bytes_at::<1>(bytes, at).map(|[byte]| byte)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    bytes_at(bytes, at).map(u16::from_be_bytes)
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes_at(bytes, at).map(u32::from_be_bytes)
}

fn quad(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    bytes_at(bytes, at).map(u64::from_be_bytes)
}

fn address(bytes: &[u8], at: usize) -> Result<Ipv4Addr, Malformed> {
    bytes_at::<4>(bytes, at).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests;
