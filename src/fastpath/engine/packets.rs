//! Packets between the kernel and the decisions about them. What the kernel hands over goes in, from partitions and from the
//! base; what [`Forwarder`](crate::fastpath::forward::Forwarder) made of it goes out. It never decides about a packet, but cuts
//! those that stand for several where it is told to.

use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::AsFd;

use super::{ETHERNET, Engine, Held, refusal};
use crate::fastpath::answer;
use crate::fastpath::counters::{Count, Reason};
use crate::fastpath::forward::{Input, Outcome};
use crate::fastpath::frame::Frame;
use crate::packet::{Ipv4Mut, Segments, Vnet};
use crate::sys::packet_socket::IcmpSocket;
use crate::sys::{socket, tun};

impl Engine {
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
        let mut good = 0;
        for (index, vnet) in vnets[..count].iter().enumerate() {
            good += usize::from(self.take(node, index, good, vnet, (0, Count::RxTun)));
        }
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
                Outcome::Send { .. } if self.frames[index].segments().is_some() => {
                    self.send(node);
                    self.inject(node, index);
                }
                Outcome::Send { to, .. } => self.to_send.push((index, to)),
                Outcome::Deliver(interface) => self.write(index, interface, Count::Delivered),
                Outcome::Punt(interface) => self.write(index, interface, Count::Punted),
                Outcome::Hold { interface, until } => {
                    let bytes = self.frames[index].packet().into();
                    self.held.push(until, Held::Packet { interface, bytes });
                }
                Outcome::Cut(interface) => {
                    self.send(node);
                    self.cut(node, index, interface);
                    // Its pieces had a later time, and time must not go back.
                    now = self.now();
                }
                Outcome::TooBig { interface, mtu } => self.refuse(index, interface, mtu),
                Outcome::Taken | Outcome::Drop(_) => {}
            }
        }
        self.send(node);
        self.finish_copies(node);
    }

    /// Gives a frame to the partition of an interface.
    fn write(&mut self, index: usize, interface: usize, event: Count) {
        let frame = &mut self.frames[index];
        let packets = frame.packets();
        let written = tun::write(self.tuns[interface].as_fd(), frame.with_vnet());
        let counters = self.forwarder.counters(self.forwarder.node_of(interface));
        match written {
            Ok(()) => counters.count_many(event, packets),
            Err(_) => counters.drop_many(Reason::TunError, packets),
        }
    }

    /// Gives the base node the single packets that wait to be sent, in order.
    fn send(&mut self, node: usize) {
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
