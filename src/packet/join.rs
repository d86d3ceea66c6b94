//! Datagrams of one flow that follow one another become one packet that stands for them (GRO: Generic Receive Offload). UDP packets
//! go in, in order; headers of the joined packet and how it is to be cut come out. It never joins what [`Segments::cut`] would
//! not give back: the same bytes, but for identifications that mean nothing.

use super::segment::{self, Segments, Transport};
use super::{Ipv4View, checksum, ipv4, udp};

/// The most datagrams in one packet; every kernel takes as many (`UDP_MAX_SEGMENTS`).
pub const MOST: usize = 64;
/// The most bytes of a packet, so that headers of all layers fit in front.
pub const LARGEST: usize = 64_000;
/// Bytes of the IPv4 header without options and the UDP header.
pub const HEADERS: usize = ipv4::HEADER_LEN + udp::HEADER_LEN;

/// A whole datagram in one IPv4 packet without options, with data, and good in all its checksums.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    headers: &'a [u8; HEADERS],
    data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// `None` where a packet is anything else. Without a checksum (RFC 768) it is something else: it would get one.
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        let (headers, data) = packet.split_first_chunk::<HEADERS>()?;
        // Before anything is summed up.
        if headers[0] != 0x45 || headers[9] != ipv4::UDP || data.is_empty() {
            return None;
        }
        let view = Ipv4View::new_checked(packet).ok()?;
        let message = &packet[ipv4::HEADER_LEN..];
        let len = u16::from_be_bytes([headers[24], headers[25]]);
        let whole = usize::from(view.total_len()) == packet.len() && usize::from(len) == message.len();
        if !whole || view.is_fragment() || headers[26..28] == [0, 0] || view.verify_checksum().is_err() {
            return None;
        }
        let pseudo = checksum::pseudo_header(view.src(), view.dst(), ipv4::UDP, len);
        checksum::verify(pseudo, message).then_some(Self { headers, data })
    }

    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    fn id(&self) -> u16 {
        u16::from_be_bytes([self.headers[4], self.headers[5]])
    }

    /// With DF set it is no fragment and becomes none, so its identification means nothing (RFC 6864).
    fn is_atomic(&self) -> bool {
        self.headers[6] & 0x40 != 0
    }
}

/// Datagrams in a row.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// Of the first.
    headers: [u8; HEADERS],
    /// Bytes of data of each; the last may have fewer.
    size: usize,
    data_len: usize,
    count: usize,
    /// The last one was shorter.
    ended: bool,
}

impl Train {
    #[must_use]
    pub fn new(first: &Datagram<'_>) -> Self {
        let size = first.data.len();
        Self { headers: *first.headers, size, data_len: size, count: 1, ended: false }
    }

    /// Whether the datagram has the addresses and ports of these: one that cannot be joined must follow them.
    #[must_use]
    pub fn is_of(&self, datagram: &Datagram<'_>) -> bool {
        self.headers[12..24] == datagram.headers[12..24]
    }

    /// Adds a datagram of the flow behind the others; says whether it may stand there. Where not, nothing has changed.
    pub fn add(&mut self, next: &Datagram<'_>) -> bool {
        let (ours, its) = (&self.headers, next.headers);
        // Type of service with ECN; flags; TTL.
        let alike = ours[1] == its[1] && ours[6..9] == its[6..9];
        let fits = !self.ended
            && next.data.len() <= self.size
            && self.count < MOST
            && HEADERS + self.data_len + next.data.len() <= LARGEST;
        if !(alike && fits && self.is_of(next) && self.numbers(next)) {
            return false;
        }
        self.ended = next.data.len() < self.size;
        self.data_len += next.data.len();
        self.count += 1;
        true
    }

    /// Whether cutting gives the datagram its identification, or it means nothing.
    fn numbers(&self, next: &Datagram<'_>) -> bool {
        let first = u16::from_be_bytes([self.headers[4], self.headers[5]]);
        next.is_atomic() || u16::try_from(self.count).is_ok_and(|n| first.wrapping_add(n) == next.id())
    }

    /// Makes the headers of `packet`, the first datagram with the data of the others behind it, those of all; none where there is
    /// only one.
    #[must_use]
    pub fn finish(&self, packet: &mut [u8]) -> Option<Segments> {
        let size = u16::try_from(self.size).ok().filter(|_| self.count > 1)?;
        let total_len = u16::try_from(HEADERS + self.data_len).ok().filter(|_| packet.len() >= HEADERS)?;
        let (header, message) = packet.split_at_mut(ipv4::HEADER_LEN);
        header[2..4].copy_from_slice(&total_len.to_be_bytes());
        segment::seal(header);
        let len = total_len - 20;
        message[4..6].copy_from_slice(&len.to_be_bytes());
        let view = Ipv4View::new_header(header).ok()?;
        let pseudo = checksum::pseudo_header(view.src(), view.dst(), ipv4::UDP, len);
        segment::set_pseudo_sum(message, Transport::Udp, pseudo);
        Segments::new(Transport::Udp, message, message.len(), size).ok()
    }
}

#[cfg(test)]
mod tests;
