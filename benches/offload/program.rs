//! The programs themselves: the forwarder of the fast path with one lab's addresses, routes and indices filled in. A [`Lab`] goes in,
//! instructions come out. No program drops what it could pass: it takes what it knows all of, and leaves the rest, unchanged, to the
//! engine, which forwards it or drops it with a reason.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use vilab::packet::ipv4;
use vilab::sys::bpf::Instruction;

use super::assembler::{Assembler, FRAME, Is, Label, Math, R0, R1, R2, R3, R6, R7, Size};
use super::lab::{Crossing, Lab, MOST_HEADERS, Way};
use super::writer::*;

/// The program of the base node's Ethernet devices: takes headers off, and hands packets to partitions or forwards them.
pub(crate) fn from_base(lab: &Lab, node: usize, numbers: BorrowedFd<'_>) -> Option<Vec<Instruction>> {
    let mut writer = Writer::begin(numbers);
    writer.for_this_host();
    writer.asm.load(Size::Word, R7, R6, LEN);
    writer.asm.math(Math::Add, R7, -i32::from(ETHERNET));
    writer.read(ETHERNET, ARRIVED, 3 * HEADER);
    writer.asm.load(Size::Word, R1, FRAME, ARRIVED + 16);
    writer.pass_if_word(Is::Different, R1, address(lab.config.nodes[node].addr));
    writer.take_ecn(ARRIVED);
    writer.check(ARRIVED);
    writer.open(ARRIVED);
    writer.check(ARRIVED + HEADER);
    writer.open(ARRIVED + HEADER);
    writer.check(ARRIVED + 2 * HEADER);
    let mut ways = Ways { lab, writer, arrivals: BTreeMap::new(), unwritten: Vec::new() };
    // The strong-host rule: the pair of the link header, and the base tunnel that it comes by.
    for (i, remote) in lab.on_base(node) {
        let link = lab.interface(i);
        let expected = [(12, remote), (HEADER + 12, link.remote), (HEADER + 16, link.local)];
        let label = ways.arrival(i, 2);
        ways.writer.go_if_all(&expected.map(|(at, addr)| (ARRIVED + at, addr)), label);
    }
    ways.writer.pass();
    ways.arrive_all();
    ways.writer.finish()
}

/// The program at the egress of a partition's TUN device: puts all headers on, and sends the packet over to the base node.
pub(crate) fn from_partition(lab: &Lab, i: usize, numbers: BorrowedFd<'_>) -> Option<Vec<Instruction>> {
    let (stack, crossing) = (lab.headers(i).ok()?, *lab.crossings.get(&i)?);
    let mut writer = Writer::begin(numbers);
    writer.asm.load(Size::Word, R7, R6, LEN);
    writer.read(0, ARRIVED, HEADER);
    writer.take_ecn(ARRIVED);
    writer.check(ARRIVED);
    writer.fits(ARRIVED, 0, lab.devices[i].mtu, stack.len());
    writer.grow(headers(stack.len()));
    writer.put(&stack);
    writer.send_over(&crossing, headers(stack.len()));
    writer.finish()
}

/// The program of the base node's end of a crossing: what has all its headers goes where the base node's routes lead.
pub(crate) fn into_base(numbers: BorrowedFd<'_>) -> Option<Vec<Instruction>> {
    let mut writer = Writer::begin(numbers);
    writer.read(ETHERNET + 12, ARRIVED, 8);
    writer.asm.load(Size::Word, R1, FRAME, ARRIVED);
    writer.asm.load(Size::Word, R2, FRAME, ARRIVED + 4);
    writer.asm.load(Size::Word, R3, R6, IFINDEX);
    writer.find_way();
    writer.send();
    writer.finish()
}

/// The program of the partition's end: what comes goes on as if the TUN device had received it.
pub(crate) fn into_partition(crossing: &Crossing) -> Option<Vec<Instruction>> {
    let mut asm = Assembler::default();
    asm.set(R1, index(crossing.tun));
    asm.set(R2, INGRESS);
    asm.call(REDIRECT);
    asm.exit();
    asm.finish()
}

/// The ways of packets that come from the base.
struct Ways<'a> {
    lab: &'a Lab,
    writer: Writer<'a>,
    /// Where a packet goes on that came in through an interface, with so many headers in front of its own: one place for all ways
    /// that lead there, or a stack would double with each layer.
    arrivals: BTreeMap<(usize, usize), Label>,
    /// Those that are not written yet.
    unwritten: Vec<(usize, usize)>,
}

impl Ways<'_> {
    fn arrival(&mut self, i: usize, count: usize) -> Label {
        *self.arrivals.entry((i, count)).or_insert_with(|| {
            self.unwritten.push((i, count));
            self.writer.asm.label()
        })
    }

    fn arrive_all(&mut self) {
        while let Some((i, count)) = self.unwritten.pop() {
            self.writer.asm.place(self.arrivals[&(i, count)]);
            self.arrive(i, count);
        }
    }

    /// A packet came in through interface `i`, with `count` headers in front of its own, which is checked.
    fn arrive(&mut self, i: usize, count: usize) {
        let at = ARRIVED + headers(count);
        let partition = self.lab.interface(i).partition;
        if self.lab.left(i).is_some() || !self.lab.crossings.contains_key(&i) {
            return self.writer.pass();
        }
        self.writer.asm.load(Size::Byte, R3, FRAME, at + 9);
        self.writer.asm.load(Size::Word, R2, FRAME, at + 16);
        for refused in &self.lab.config.partitions[partition].refuses {
            // Tunnels through themselves: protocol 4 or ESP.
            let other = self.writer.asm.label();
            self.writer.asm.go_if_word(Is::Different, R2, address(*refused), other);
            self.writer.pass_if(Is::Equal, R3, i32::from(ipv4::IPIP));
            self.writer.pass_if(Is::Equal, R3, ESP);
            self.writer.asm.place(other);
        }
        let mut ways: Vec<(Way, Label)> = Vec::new();
        for (prefix, way) in &self.lab.routes[partition] {
            self.writer.asm.set(R1, R2);
            self.writer.asm.math(Math::And, R1, address(prefix.netmask()));
            let known = ways.iter().find(|(known, _)| known == way).map(|(_, label)| *label);
            let label = known.unwrap_or_else(|| {
                let label = if *way == Way::Pass { self.writer.pass } else { self.writer.asm.label() };
                ways.push((*way, label));
                label
            });
            self.writer.asm.go_if_word(Is::Equal, R1, address(prefix.network()), label);
        }
        self.writer.pass();
        for (way, label) in ways {
            match way {
                Way::Pass => {}
                Way::Local => {
                    self.writer.asm.place(label);
                    self.local(i, count);
                }
                Way::Out(j) => {
                    self.writer.asm.place(label);
                    self.forward(i, j, count);
                }
            }
        }
    }

    /// For the partition itself: for a virtual link above, or for its sockets. Register 3 has the protocol.
    fn local(&mut self, i: usize, count: usize) {
        let at = ARRIVED + headers(count);
        let deliver = self.writer.asm.label();
        self.writer.pass_if(Is::Equal, R3, ESP);
        self.writer.asm.go_if(Is::Different, R3, i32::from(ipv4::IPIP), deliver);
        let above: Vec<usize> = self.lab.stacked(self.lab.interface(i).partition).collect();
        let above: Vec<_> = above
            .into_iter()
            .filter(|_| count < MOST_HEADERS)
            .map(|upper| (upper, self.writer.asm.label()))
            .collect();
        for (upper, label) in &above {
            let link = self.lab.interface(*upper);
            self.writer.go_if_all(&[(at + 12, link.remote), (at + 16, link.local)], *label);
        }
        self.writer.pass();
        for (upper, label) in above {
            self.writer.asm.place(label);
            self.writer.open(at);
            self.writer.read(ETHERNET + headers(count + 1), at + HEADER, HEADER);
            self.writer.check(at + HEADER);
            let label = self.arrival(upper, count + 1);
            self.writer.asm.go(label);
        }
        self.writer.asm.place(deliver);
        self.deliver(i, count);
    }

    fn deliver(&mut self, i: usize, count: usize) {
        self.writer.adjust(-headers(count), FIXED_GSO);
        self.writer.asm.go_if(Is::Different, R0, 0, self.writer.refused);
        self.writer.count(DELIVERED);
        self.writer.asm.set(R1, index(self.lab.crossings[&i].outside));
        self.writer.asm.set(R2, 0);
        self.writer.asm.call(REDIRECT_PEER);
        self.writer.asm.exit();
    }

    fn forward(&mut self, i: usize, j: usize, count: usize) {
        let at = ARRIVED + headers(count);
        let (Ok(stack), true) = (self.lab.headers(j), i != j) else { return self.writer.pass() };
        self.writer.asm.load(Size::Byte, R1, FRAME, at + 8);
        self.writer.asm.go_if(Is::Below, R1, 2, self.writer.pass);
        for addr in [12, 16] {
            // Unicast: not 0/8, 127/8, 224/4, 240/4.
            self.writer.asm.load(Size::Byte, R1, FRAME, at + addr);
            self.writer.pass_if(Is::Equal, R1, 0);
            self.writer.pass_if(Is::Equal, R1, 127);
            self.writer.pass_if(Is::Above, R1, 223);
        }
        // A source that is the partition's own is a martian.
        for (prefix, _) in
            self.lab.routes[self.lab.interface(i).partition].iter().filter(|(_, way)| *way == Way::Local)
        {
            self.writer.asm.load(Size::Word, R1, FRAME, at + 12);
            self.writer.asm.math(Math::And, R1, address(prefix.netmask()));
            self.writer.pass_if_word(Is::Equal, R1, address(prefix.network()));
        }
        self.writer.fits(at, ETHERNET + headers(count), self.lab.devices[j].mtu, stack.len());
        let (Some(base), Some(crossing)) = (stack.first(), self.lab.crossings.get(&j)) else {
            return self.writer.pass();
        };
        self.writer.asm.set(R1, address(base.src));
        self.writer.asm.set(R2, address(base.dst));
        self.writer.asm.set(R3, index(crossing.outside));
        self.writer.find_way();
        let more = headers(stack.len()) - headers(count);
        if more > 0 {
            self.writer.grow(more);
        } else if more < 0 {
            self.writer.adjust(more, FIXED_GSO);
            self.writer.asm.go_if(Is::Different, R0, 0, self.writer.refused);
        }
        self.writer.put(&stack);
        self.writer.put_own(at, LEAVING + headers(stack.len()));
        self.writer.write(ETHERNET, LEAVING, headers(stack.len() + 1));
        self.writer.count(FORWARDED);
        self.writer.send();
    }
}
