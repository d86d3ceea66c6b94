//! Packets between the kernel and the decisions about them. What the kernel hands over goes in, from partitions and from the
//! base; what [`Forwarder`](crate::fastpath::forward::Forwarder) made of it goes out. It never decides about a packet, but cuts
//! those that stand for several where it is told to.

use std::collections::btree_map::Entry;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use super::{ETHERNET, Engine, Held, Ready, Source, refusal};
use crate::fastpath::answer;
use crate::fastpath::counters::{Count, Reason};
use crate::fastpath::forward::{Input, Outcome};
use crate::fastpath::frame::Frame;
use crate::packet::{Ipv4Mut, Segments, Vnet};
use crate::sys::packet_socket::IcmpSocket;
use crate::sys::{socket, tun};

/// Sources that are read before the kernel is asked again which are ready, because packets have just been sent there: a packet
/// crosses some base nodes, and its answer, without a wait.
pub(super) const AHEAD: usize = 16;

impl Engine {
    /// Handles the packets among the ready sources; says whether there were any.
    pub(super) fn carry_packets(&mut self, ready: &Ready) -> bool {
        let mut any = false;
        for source in ready.sources() {
            any |= self.read(source);
        }
        for _ in 0..AHEAD {
            let Some(source) = self.ahead.pop_front() else { return any };
            self.read(source);
        }
        // What is left is told of again.
        self.ahead.clear();
        any
    }

    /// Handles what waits at one source, up to a batch; says whether it is one of packets.
    fn read(&mut self, source: Source) -> bool {
        match source {
            Source::Base(node) => self.read_base(node),
            Source::Others(node) => self.read_others(node),
            Source::Tun(i) => self.read_tun(i),
            Source::Shaped(i) => {
                self.read_shaped(i);
            }
            Source::Timer => self.release(),
            Source::Routes(_) | Source::Listener | Source::Client(_) | Source::Signal => return false,
        }
        true
    }

    /// Something has been sent to where `source` reads.
    fn look_ahead(&mut self, source: Source) {
        if self.ahead.len() < AHEAD && !self.ahead.contains(&source) {
            self.ahead.push_back(source);
        }
    }

    pub(super) fn read_base(&mut self, node: usize) {
        let mut lens = [0; socket::BATCH];
        let rooms = self.frames.iter_mut().map(|frame| frame.room_behind(ETHERNET));
        let Ok(count) = socket::receive(self.bases[node].receiver.as_fd(), rooms, &mut lens) else {
            return;
        };
        let mut good = 0;
        for (index, len) in lens[..count].iter().enumerate() {
            let vnet = self.frames[index].received(*len, ETHERNET);
            good += usize::from(self.take(node, index, good, &vnet, (ETHERNET, Count::RxBase)));
        }
        self.finish(node, &[Input::Base(node); socket::BATCH][..good]);
    }

    pub(super) fn read_others(&mut self, node: usize) {
        let mut lens = [0; socket::BATCH];
        let rooms = self.frames.iter_mut().map(Frame::room);
        let Ok(count) = socket::receive(self.bases[node].others.as_fd(), rooms, &mut lens) else {
            return;
        };
        for (frame, len) in self.frames.iter_mut().zip(&lens[..count]) {
            frame.filled(*len);
        }
        self.finish(node, &[Input::Base(node); socket::BATCH][..count]);
    }

    pub(super) fn read_tun(&mut self, interface: usize) {
        let (fd, node) = (self.tuns[interface].as_fd(), self.forwarder.node_of(interface));
        let mut vnets = [Vnet::default(); socket::BATCH];
        let mut count = 0;
        for (frame, vnet) in self.frames.iter_mut().zip(&mut vnets) {
            match tun::read(fd, frame.room_behind(0)) {
                Ok(len) => *vnet = frame.received(len, 0),
                Err(e) => {
                    if e.kind() != io::ErrorKind::WouldBlock {
                        // The device is gone; left in the set, it would be ready for ever.
                        let _ = self.epoll.delete(fd);
                    }
                    break;
                }
            }
            count += 1;
        }
        let joins = self.tuns[interface].joins_udp && self.forwarder.takes_whole(interface);
        let mut good = 0;
        for (index, vnet) in vnets[..count].iter().enumerate() {
            let taken = self.take(node, index, good, vnet, (0, Count::RxTun))
                && !(joins && self.joiner.offer(&mut self.frames, good, interface));
            good += usize::from(taken);
        }
        self.joiner.finish(&mut self.frames);
        self.finish(node, &[Input::Tun(interface); socket::BATCH][..good]);
    }

    /// Takes over what stands beside frame `index`, and moves the frame to place `to`; says whether it is good, and counts it where
    /// it is not.
    fn take(
        &mut self,
        node: usize,
        index: usize,
        to: usize,
        vnet: &Vnet,
        (link_len, read): (usize, Count),
    ) -> bool {
        self.frames.swap(index, to);
        let applied = self.frames[to].apply(vnet, link_len);
        if let Err(malformed) = applied {
            let counters = self.forwarder.counters(node);
            counters.count(read);
            counters.drop(malformed.into());
        }
        applied.is_ok()
    }

    /// Decides about the first frames, one for each of `inputs`, all of `node`, and gives them to the kernel in order.
    pub(super) fn finish(&mut self, node: usize, inputs: &[Input]) {
        let mut now = self.now();
        for (index, input) in inputs.iter().enumerate() {
            match self.forwarder.handle(*input, &mut self.frames[index], now) {
                Outcome::Send { to, .. } if self.frames[index].segments().is_some() => {
                    self.send(node);
                    self.inject(node, index);
                    self.expect_at(to);
                }
                Outcome::Send { to, .. } => self.to_send.push((index, to)),
                Outcome::Deliver(interface) => self.deliver(index, interface),
                Outcome::Punt(interface) => self.to_write.push((index, interface, Count::Punted)),
                Outcome::Hold { interface, until } => {
                    let bytes = self.frames[index].packet().into();
                    self.held.push(until, Held::Packet { interface, bytes });
                }
                Outcome::Cut(interface) => {
                    self.send(node);
                    self.write();
                    self.cut(node, index, interface);
                    // Its pieces had a later time, and time must not go back.
                    now = self.now();
                }
                Outcome::TooBig { interface, mtu } => self.refuse(index, interface, mtu),
                Outcome::Taken | Outcome::Drop(_) => {}
            }
        }
        self.send(node);
        self.write();
        self.finish_copies(node);
    }

    /// A frame is for the partition of an interface; one that joins another is written with it.
    fn deliver(&mut self, index: usize, interface: usize) {
        let joined = self.tuns[interface].joins_udp && self.joiner.offer(&mut self.frames, index, interface);
        if !joined {
            self.to_write.push((index, interface, Count::Delivered));
        }
    }

    /// Gives partitions the frames that are for them, in order.
    fn write(&mut self) {
        self.joiner.finish(&mut self.frames);
        for at in 0..self.to_write.len() {
            // Its answer comes the same way.
            self.look_ahead(Source::Tun(self.to_write[at].1));
        }
        for (index, interface, event) in self.to_write.drain(..) {
            let frame = &mut self.frames[index];
            let packets = frame.packets();
            let tun = self.tuns[interface].as_fd();
            let written = if event == Count::Punted && frame.is_datagrams() {
                write_each(tun, frame, &mut self.pieces[0])
            } else {
                tun::write(tun, frame.with_vnet())
            };
            let counters = self.forwarder.counters(self.forwarder.node_of(interface));
            match written {
                Ok(()) => counters.count_many(event, packets),
                Err(_) => counters.drop_many(Reason::TunError, packets),
            }
        }
    }

    /// A packet has been sent to a base address.
    fn expect_at(&mut self, to: Ipv4Addr) {
        if let Some(node) = self.by_addr.get(&to) {
            self.look_ahead(Source::Base(*node));
        }
    }

    /// Gives the base node the single packets that wait to be sent, in order.
    fn send(&mut self, node: usize) {
        let mut before = None;
        for at in 0..self.to_send.len() {
            let to = self.to_send[at].1;
            if before.replace(to) != Some(to) {
                self.expect_at(to);
            }
        }
        let counters = self.forwarder.counters(node);
        let mut rest = self.to_send.as_slice();
        while !rest.is_empty() {
            let packets = rest.iter().map(|(index, to)| (self.frames[*index].packet(), *to));
            let ended = match socket::send(self.bases[node].sender.as_fd(), packets) {
                Ok(sent) => {
                    counters.count_many(Count::Sent, sent as u64);
                    sent
                }
                Err(e) => {
                    counters.drop(refusal(&e));
                    1
                }
            };
            rest = &rest[ended..];
        }
        self.to_send.clear();
    }

    /// Gives the base node a packet that stands for several.
    fn inject(&mut self, node: usize, index: usize) {
        let frame = &mut self.frames[index];
        let packets = frame.packets();
        if let Ok(mut header) = Ipv4Mut::new_header(frame.packet_mut()) {
            header.increment_ttl();
        }
        let written = tun::write(self.bases[node].injector.tun.as_fd(), frame.with_vnet());
        let counters = self.forwarder.counters(node);
        match written {
            Ok(()) => counters.count_many(Count::Sent, packets),
            Err(e) => counters.drop_many(refusal(&e), packets),
        }
    }

    /// Handles the packets that a frame stands for, each by itself.
    fn cut(&mut self, node: usize, index: usize, interface: usize) {
        let packets = self.frames[index].segments().map_or(0, Segments::packets);
        let mut done = 0;
        while done < packets {
            let mut count = 0;
            for piece in self.pieces.iter_mut().take(packets - done) {
                if let Err(malformed) = piece.cut_from(&self.frames[index], done + count) {
                    let left = (packets - done - count) as u64;
                    self.forwarder.counters(node).drop_many(malformed.into(), left);
                    done = packets;
                    break;
                }
                count += 1;
            }
            done += count;
            std::mem::swap(&mut self.frames, &mut self.pieces);
            self.finish(node, &[Input::Cut(interface); socket::BATCH][..count]);
            std::mem::swap(&mut self.frames, &mut self.pieces);
        }
    }

    /// Tells the sender of the packet in a frame that it is too big for an interface, as the partition: its kernel chooses
    /// the source address, and the way.
    fn refuse(&mut self, frame: usize, interface: usize, mtu: u16) {
        let Some((to, message)) = answer::frag_needed(self.frames[frame].packet(), mtu) else { return };
        let partition = self.config.interfaces[interface].partition;
        let socket = match self.answers.entry(partition) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let netns = &self.config.partitions[partition].netns;
                let Ok(Ok(socket)) = self.namespaces.run(netns, || IcmpSocket::open(&[])) else { return };
                place.insert(socket)
            }
        };
        // As any router, it tries once.
        let _sent = socket.send(to, &message);
    }
}

/// Writes the packets that a frame stands for one by one: each may have an answer of its own.
fn write_each(tun: BorrowedFd<'_>, frame: &Frame, piece: &mut Frame) -> io::Result<()> {
    let packets = frame.segments().map_or(0, Segments::packets);
    (0..packets).try_for_each(|number| {
        piece.cut_from(frame, number).map_err(io::Error::other)?;
        tun::write(tun, piece.with_vnet())
    })
}
