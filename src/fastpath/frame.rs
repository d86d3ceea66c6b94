//! A packet buffer with room in front and behind. Headers go in by pushing and come out by pulling, at the front, and
//! trailers by extending and truncating, without moving the packet. It never grows: a packet that needs more room is
//! refused. Beside the bytes it keeps what the packet stands for, where that is several (see [`Segments`]).

use std::fmt;

use crate::packet::segment::{VNET_LEN, Vnet};
use crate::packet::{Malformed, Segments};

/// The largest IPv4 packet.
pub const MAX_PACKET: usize = 65535;
/// Bytes in front of a packet as read. Headers that need more would make a packet larger than IPv4 has, so that no stack is
/// too deep for a frame. What no header reaches is never touched and takes no memory.
pub const HEADROOM: usize = MAX_PACKET + VNET_LEN + ETHERNET;
/// An Ethernet header, bytes.
pub const ETHERNET: usize = 14;

/// One packet and its room.
pub struct Frame {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    segments: Option<Segments>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("headroom", &self.start)
            .field("len", &self.len())
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    #[must_use]
    pub fn new() -> Self {
        let bytes = vec![0; HEADROOM + MAX_PACKET].into_boxed_slice();
        Self { bytes, start: HEADROOM, end: HEADROOM, segments: None }
    }

    /// Empties the frame and gives the room to read a packet into; [`Self::filled`] says how much of it was used.
    pub fn room(&mut self) -> &mut [u8] {
        self.filled(0);
        &mut self.bytes[HEADROOM..]
    }

    /// The same for a packet that has a virtio header and `link_len` bytes of a link header in front, to be told with
    /// [`Self::received`].
    pub fn room_behind(&mut self, link_len: usize) -> &mut [u8] {
        self.filled(0);
        &mut self.bytes[HEADROOM - link_len - VNET_LEN..]
    }

    /// The first `len` bytes of [`Self::room_behind`] hold a packet and what is in front of it, which this takes off; gives the
    /// virtio header.
    pub fn received(&mut self, len: usize, link_len: usize) -> Vnet {
        self.filled(len.saturating_sub(link_len + VNET_LEN));
        let first = HEADROOM - link_len - VNET_LEN;
        self.bytes[first..].first_chunk().copied().map(Vnet::parse).unwrap_or_default()
    }

    /// Takes over what the virtio header of [`Self::received`] says.
    ///
    /// # Errors
    /// If it cannot be one of this packet.
    pub fn apply(&mut self, vnet: &Vnet, link_len: usize) -> Result<(), Malformed> {
        self.segments = vnet.apply(self.packet_mut(), link_len)?;
        Ok(())
    }

    /// The packet with a virtio header in front.
    pub fn with_vnet(&mut self) -> &[u8] {
        let vnet = Vnet::of(self.segments.as_ref(), self.len()).emit();
        let first = self.start - VNET_LEN;
        self.bytes[first..self.start].copy_from_slice(&vnet);
        &self.bytes[first..self.end]
    }

    /// How it is to be cut, where it stands for several packets.
    #[must_use]
    pub fn segments(&self) -> Option<&Segments> {
        self.segments.as_ref()
    }

    pub fn set_segments(&mut self, segments: Option<Segments>) {
        self.segments = segments;
    }

    /// Whether it stands for several datagrams.
    #[must_use]
    pub fn is_datagrams(&self) -> bool {
        self.segments.as_ref().is_some_and(|segments| !segments.is_tcp())
    }

    /// How many packets this is.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.segments.as_ref().map_or(1, |s| s.packets() as u64)
    }

    /// Bytes of the largest of these, with all headers that are there.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.segments.as_ref().map_or(self.len(), |s| s.largest(self.len()))
    }

    /// Becomes packet `number`, from 0, of those that `all` stands for.
    ///
    /// # Errors
    /// If the headers of `all` are not those of a packet that can be cut.
    pub fn cut_from(&mut self, all: &Self, number: usize) -> Result<(), Malformed> {
        let segments = all.segments.as_ref().ok_or(Malformed::Type)?;
        let len = segments.cut(all.packet(), number, self.room())?;
        self.filled(len);
        Ok(())
    }

    /// The first `len` bytes of [`Self::room`] hold the packet.
    pub fn filled(&mut self, len: usize) {
        self.segments = None;
        self.start = HEADROOM;
        self.end = HEADROOM + len.min(MAX_PACKET);
    }

    /// Replaces the packet.
    pub fn copy_from(&mut self, packet: &[u8]) {
        let len = packet.len().min(MAX_PACKET);
        self.room()[..len].copy_from_slice(&packet[..len]);
        self.filled(len);
    }

    #[must_use]
    pub fn packet(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// `len` more bytes at the front, or `None` where there is no room or the packet would exceed [`MAX_PACKET`].
    #[must_use]
    pub fn push(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.len() + len > MAX_PACKET {
            return None;
        }
        // Room for a virtio header stays.
        self.start = self.start.checked_sub(len).filter(|start| *start >= VNET_LEN)?;
        Some(&mut self.bytes[self.start..self.start + len])
    }

    /// `len` more bytes at the end, whatever they hold, or `None` where the packet would exceed [`MAX_PACKET`]. Headers
    /// pushed before may leave no room behind for a packet of that size.
    #[must_use]
    pub fn extend(&mut self, len: usize) -> Option<&mut [u8]> {
        let end = self.end.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        if end - self.start > MAX_PACKET {
            return None;
        }
        self.end = end;
        Some(&mut self.bytes[end - len..end])
    }

    /// Adds the last `len` bytes of the packet of `other`. Packets that are joined are smaller than the room behind (see
    /// [`crate::packet::join::LARGEST`]).
    pub fn append_end_of(&mut self, other: &Self, len: usize) {
        let from = other.packet().len().saturating_sub(len);
        if let Some(room) = self.extend(other.packet().len() - from) {
            room.copy_from_slice(&other.packet()[from..]);
        }
    }

    /// Takes `len` bytes off the front, or all there are.
    pub fn pull(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Cuts the packet to `len` bytes where it is longer.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_and_pull_leave_the_packet_in_place() {
        let mut frame = Frame::new();
        frame.copy_from(b"packet");
        frame.push(3).unwrap().copy_from_slice(b"hdr");
        assert_eq!(frame.packet(), b"hdrpacket");
        frame.pull(3);
        frame.truncate(4);
        assert_eq!(frame.packet(), b"pack");
        frame.pull(99);
        assert!(frame.is_empty());
    }

    #[test]
    fn trailers_go_behind_the_packet() {
        let mut frame = Frame::new();
        frame.copy_from(b"packet");
        frame.extend(4).unwrap().copy_from_slice(b"tail");
        assert_eq!(frame.packet(), b"packettail");
        frame.copy_from(&[0; MAX_PACKET - 1]);
        assert!(frame.extend(2).is_none());
        assert!(frame.extend(1).is_some());
        frame.pull(1);
        assert!(frame.extend(1).is_none(), "the buffer ends here");
        assert_eq!(frame.len(), MAX_PACKET - 1);
    }

    #[test]
    fn no_room_is_refused() {
        let mut frame = Frame::new();
        frame.copy_from(b"x");
        assert!(frame.push(MAX_PACKET - 1).is_some(), "headers up to the largest packet");
        assert!(frame.push(1).is_none());
        frame.filled(MAX_PACKET);
        assert!(frame.push(1).is_none());
    }
}
