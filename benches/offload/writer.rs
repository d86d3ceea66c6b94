//! What programs are put together from: one step on a packet each. Places on a program's stack and numbers go in, instructions that read,
//! check, write and send come out. It knows no lab.
//!
//! A program reads headers onto its stack, checks them there, and writes what leaves in one piece. It never holds a pointer into a
//! packet, so that any verifier can follow it, whatever it knows of ranges.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use vilab::packet::ipv4;
use vilab::sys::bpf::Instruction;

use super::assembler::{
    Assembler, FRAME, Is, Label, Math, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Register, Size,
};
use super::lab::{Crossing, MOST_HEADERS, Pair};

/// What is counted, in this order.
pub(crate) const COUNTED: [&str; 7] =
    ["passed", "delivered", "forwarded", "encapsulated", "refused", "errno of the last refusal", "lost"];
pub(crate) const PASSED: i16 = 0;
pub(crate) const DELIVERED: i16 = 1;
pub(crate) const FORWARDED: i16 = 2;
pub(crate) const ENCAPSULATED: i16 = 3;
pub(crate) const REFUSED: i16 = 4;
pub(crate) const ERRNO: i16 = 5;
pub(crate) const LOST: i16 = 6;

/// Functions of the kernel (linux/bpf.h). Of these only the look-up of routes asks for a licence that goes with the GPL.
pub(crate) const STORE_BYTES: i32 = 9;
pub(crate) const REDIRECT: i32 = 23;
pub(crate) const LOAD_BYTES: i32 = 26;
pub(crate) const CHANGE_HEAD: i32 = 43;
pub(crate) const ADJUST_ROOM: i32 = 50;
pub(crate) const FIB_LOOKUP: i32 = 69;
pub(crate) const REDIRECT_NEIGH: i32 = 152;
pub(crate) const REDIRECT_PEER: i32 = 155;
/// Flags of these, and what they say.
pub(crate) const ROOM_MAC: i32 = 1;
pub(crate) const ENCAP_L3_IPV4: i32 = 1 << 1;
pub(crate) const FIXED_GSO: i32 = 1 << 5;
pub(crate) const INGRESS: i32 = 1;
pub(crate) const FOUND: i32 = 0;
pub(crate) const FOUND_WITHOUT_NEIGHBOUR: i32 = 7;
pub(crate) const EALREADY: i32 = -114;
/// Verdicts of traffic control.
pub(crate) const TC_ACT_OK: i32 = 0;
pub(crate) const TC_ACT_SHOT: i32 = 2;
/// Fields of `struct __sk_buff`.
pub(crate) const LEN: i16 = 0;
pub(crate) const PKT_TYPE: i16 = 4;
pub(crate) const PROTOCOL: i16 = 16;
pub(crate) const VLAN_PRESENT: i16 = 20;
pub(crate) const IFINDEX: i16 = 40;
pub(crate) const GSO_SEGS: i16 = 164;
pub(crate) const GSO_SIZE: i16 = 176;
/// Bytes of an Ethernet header, and of one of IPv4.
pub(crate) const ETHERNET: i16 = 14;
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "20")]
pub(crate) const HEADER: i16 = ipv4::HEADER_LEN as i16;
pub(crate) const ESP: i32 = 50;
pub(crate) const TCP: i32 = 6;
/// The largest IPv4 packet.
pub(crate) const LARGEST: i32 = 65535;

/// Places on the stack, below the frame pointer: headers that arrived, and the packet's own behind them; those that leave, with room
/// for an Ethernet header in front; `struct bpf_fib_lookup`.
#[expect(clippy::cast_possible_truncation, reason = "9")]
pub(crate) const ARRIVED: i16 = -(MOST_HEADERS as i16 + 1) * HEADER;
pub(crate) const LEAVING: i16 = 2 * ARRIVED;
pub(crate) const LOOKUP: i16 = LEAVING - 80;
pub(crate) const LOOKUP_LEN: i16 = 64;
/// Fields of the latter.
pub(crate) const LOOKUP_INDEX: i16 = LOOKUP + 8;
pub(crate) const LOOKUP_SRC: i16 = LOOKUP + 16;
pub(crate) const LOOKUP_DST: i16 = LOOKUP + 32;
pub(crate) const AF_INET: i32 = 2;

/// Bytes of a packet as the program reads them.
pub(crate) fn word(bytes: [u8; 4]) -> i32 {
    i32::from_ne_bytes(bytes)
}

pub(crate) fn half(bytes: [u8; 2]) -> i32 {
    i32::from(u16::from_ne_bytes(bytes))
}

pub(crate) fn address(addr: Ipv4Addr) -> i32 {
    word(addr.octets())
}

pub(crate) fn index(index: u32) -> i32 {
    index.cast_signed()
}

/// So many headers, bytes.
pub(crate) fn headers(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX).saturating_mul(HEADER)
}

/// Beside the code: register 6 has the context, 7 the length of the packet within the headers read so far, 8 the ECN bits, and 9 how
/// many packets this one stands for.
pub(crate) struct Writer<'a> {
    pub(crate) numbers: BorrowedFd<'a>,
    pub(crate) asm: Assembler,
    pub(crate) pass: Label,
    pub(crate) refused: Label,
    pub(crate) lost: Label,
}

impl<'a> Writer<'a> {
    pub(crate) fn begin(numbers: BorrowedFd<'a>) -> Self {
        let mut asm = Assembler::default();
        let (pass, refused, lost) = (asm.label(), asm.label(), asm.label());
        asm.set(R6, R1);
        asm.load(Size::Word, R9, R6, GSO_SEGS);
        let several = asm.label();
        asm.go_if(Is::Different, R9, 0, several);
        asm.set(R9, 1);
        asm.place(several);
        asm.load(Size::Word, R1, R6, PROTOCOL);
        asm.go_if_word(Is::Different, R1, half([0x08, 0x00]), pass);
        Self { numbers, asm, pass, refused, lost }
    }

    pub(crate) fn finish(mut self) -> Option<Vec<Instruction>> {
        if self.asm.is_used(self.refused) {
            self.asm.place(self.refused);
            self.asm.set_to_value(R1, self.numbers);
            self.asm.store(Size::Double, R1, ERRNO * 8, R0);
            self.count(REFUSED);
            self.pass();
        }
        if self.asm.is_used(self.lost) {
            self.asm.place(self.lost);
            self.count(LOST);
            self.asm.set(R0, TC_ACT_SHOT);
            self.asm.exit();
        }
        self.asm.place(self.pass);
        self.count(PASSED);
        self.asm.set(R0, TC_ACT_OK);
        self.asm.exit();
        self.asm.finish()
    }

    pub(crate) fn count(&mut self, what: i16) {
        self.asm.set_to_value(R1, self.numbers);
        self.asm.add_to(R1, what * 8, R9);
    }

    pub(crate) fn pass(&mut self) {
        self.asm.go(self.pass);
    }

    pub(crate) fn pass_if(&mut self, is: Is, left: Register, right: i32) {
        self.asm.go_if(is, left, right, self.pass);
    }

    pub(crate) fn pass_if_word(&mut self, is: Is, left: Register, right: i32) {
        self.asm.go_if_word(is, left, right, self.pass);
    }

    /// An Ethernet frame for this host, without a VLAN.
    pub(crate) fn for_this_host(&mut self) {
        for field in [PKT_TYPE, VLAN_PRESENT] {
            self.asm.load(Size::Word, R1, R6, field);
            self.pass_if(Is::Different, R1, 0);
        }
    }

    pub(crate) fn stack_address(&mut self, to: Register, at: i16) {
        self.asm.set(to, FRAME);
        self.asm.math(Math::Add, to, i32::from(at));
    }

    /// Reads bytes of the packet; passes one that has fewer.
    pub(crate) fn read(&mut self, from: i16, to: i16, len: i16) {
        self.asm.set(R1, R6);
        self.asm.set(R2, i32::from(from));
        self.stack_address(R3, to);
        self.asm.set(R4, i32::from(len));
        self.asm.call(LOAD_BYTES);
        self.pass_if(Is::Different, R0, 0);
    }

    /// ECN of the outermost header. Congestion experienced changes the header within, or is lost: the engine knows which.
    pub(crate) fn take_ecn(&mut self, at: i16) {
        self.asm.load(Size::Byte, R8, FRAME, at + 1);
        self.asm.math(Math::And, R8, 3);
        self.pass_if(Is::Equal, R8, 3);
    }

    /// A header without options, of the length that there is, with a good checksum, and ECN as outside.
    pub(crate) fn check(&mut self, at: i16) {
        self.asm.load(Size::Byte, R1, FRAME, at);
        self.pass_if(Is::Different, R1, 0x45);
        self.asm.load(Size::Byte, R1, FRAME, at + 1);
        self.asm.math(Math::And, R1, 3);
        self.asm.go_if(Is::Different, R1, R8, self.pass);
        self.asm.load(Size::Half, R1, FRAME, at + 2);
        self.asm.swap_half(R1);
        self.asm.go_if(Is::Different, R1, R7, self.pass);
        self.asm.load(Size::Word, R1, FRAME, at);
        for offset in [4, 8, 12, 16] {
            self.asm.load(Size::Word, R2, FRAME, at + offset);
            self.asm.math(Math::Add, R1, R2);
        }
        self.fold(R1, 3);
        self.pass_if(Is::Different, R1, 0xffff);
    }

    /// The one's complement sum in 16 bits; each round halves what is above them.
    pub(crate) fn fold(&mut self, sum: Register, rounds: usize) {
        for _ in 0..rounds {
            self.asm.set(R5, sum);
            self.asm.math(Math::ShiftRight, R5, 16);
            self.asm.math(Math::And, sum, 0xffff);
            self.asm.math(Math::Add, sum, R5);
        }
    }

    /// The checked header at `at` is that of a tunnel, and what follows it is next.
    pub(crate) fn open(&mut self, at: i16) {
        self.asm.load(Size::Byte, R1, FRAME, at + 9);
        self.pass_if(Is::Different, R1, i32::from(ipv4::IPIP));
        self.asm.load(Size::Half, R1, FRAME, at + 6);
        self.asm.math(Math::And, R1, half([0x3f, 0xff]));
        self.pass_if(Is::Different, R1, 0);
        self.asm.math(Math::Add, R7, -i32::from(HEADER));
    }

    /// Goes to `label` if all these words of the stack are these addresses.
    pub(crate) fn go_if_all(&mut self, expected: &[(i16, Ipv4Addr)], label: Label) {
        let no = self.asm.label();
        for (at, addr) in expected {
            self.asm.load(Size::Word, R1, FRAME, *at);
            self.asm.go_if_word(Is::Different, R1, address(*addr), no);
        }
        self.asm.go(label);
        self.asm.place(no);
    }

    /// Whether it fits into a device, and with so many headers into IPv4. What stands for several is of TCP, and the largest of these
    /// counts. Its header is at `at` of the stack, and at `from` of the packet.
    pub(crate) fn fits(&mut self, at: i16, from: i16, mtu: usize, stack: usize) {
        let mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
        let (single, done) = (self.asm.label(), self.asm.label());
        self.asm.load(Size::Word, R1, R6, GSO_SIZE);
        self.asm.go_if(Is::Equal, R1, 0, single);
        self.pass_if(Is::Above, R7, LARGEST - i32::from(headers(stack)));
        self.asm.load(Size::Byte, R1, FRAME, at + 9);
        self.pass_if(Is::Different, R1, TCP);
        // The length of the TCP header, in words, is the upper half of its byte 12.
        self.read(from + HEADER + 12, LEAVING, 1);
        self.asm.load(Size::Byte, R1, FRAME, LEAVING);
        self.asm.math(Math::ShiftRight, R1, 4);
        self.asm.math(Math::ShiftLeft, R1, 2);
        self.asm.load(Size::Word, R2, R6, GSO_SIZE);
        self.asm.math(Math::Add, R1, R2);
        self.pass_if(Is::Above, R1, mtu - i32::from(HEADER));
        self.asm.go(done);
        self.asm.place(single);
        self.pass_if(Is::Above, R7, mtu);
        self.asm.place(done);
    }

    /// From address in register 1 to that in 2, as the device in 3 would forward it: [`LOOKUP_INDEX`] becomes the device to leave by.
    pub(crate) fn find_way(&mut self) {
        for at in (LOOKUP..LOOKUP + LOOKUP_LEN).step_by(8) {
            self.asm.store_number(Size::Double, FRAME, at, 0);
        }
        self.asm.store_number(Size::Byte, FRAME, LOOKUP, AF_INET);
        self.asm.store(Size::Word, FRAME, LOOKUP_INDEX, R3);
        self.asm.store(Size::Word, FRAME, LOOKUP_SRC, R1);
        self.asm.store(Size::Word, FRAME, LOOKUP_DST, R2);
        self.asm.set(R1, R6);
        self.stack_address(R2, LOOKUP);
        self.asm.set(R3, i32::from(LOOKUP_LEN));
        self.asm.set(R4, 0);
        self.asm.call(FIB_LOOKUP);
        let found = self.asm.label();
        self.asm.go_if(Is::Equal, R0, FOUND, found);
        self.pass_if(Is::Different, R0, FOUND_WITHOUT_NEIGHBOUR);
        self.asm.place(found);
    }

    /// Out of the device of [`Self::find_way`].
    pub(crate) fn send(&mut self) {
        self.asm.load(Size::Word, R1, FRAME, LOOKUP_INDEX);
        for register in [R2, R3, R4] {
            self.asm.set(register, 0);
        }
        self.asm.call(REDIRECT_NEIGH);
        self.asm.exit();
    }

    pub(crate) fn adjust(&mut self, by: i16, flags: i32) {
        self.asm.set(R1, R6);
        self.asm.set(R2, i32::from(by));
        self.asm.set(R3, ROOM_MAC);
        self.asm.set(R4, flags);
        self.asm.call(ADJUST_ROOM);
    }

    /// Room for more headers. What stands for several must be marked as an encapsulation, once: a second mark is refused.
    pub(crate) fn grow(&mut self, by: i16) {
        let done = self.asm.label();
        self.adjust(by, ENCAP_L3_IPV4 | FIXED_GSO);
        self.asm.go_if(Is::Equal, R0, 0, done);
        self.asm.go_if(Is::Different, R0, EALREADY, self.refused);
        self.adjust(by, FIXED_GSO);
        self.asm.go_if(Is::Different, R0, 0, self.refused);
        self.asm.place(done);
    }

    /// These headers at [`LEAVING`], as ipip devices with TTL 64 make them, in front of a packet whose length is in register 7.
    pub(crate) fn put(&mut self, stack: &[Pair]) {
        for (number, pair) in stack.iter().enumerate() {
            let at = LEAVING + headers(number);
            let asm = &mut self.asm;
            asm.store_number(Size::Byte, FRAME, at, 0x45);
            asm.store(Size::Byte, FRAME, at + 1, R8);
            asm.set(R1, R7);
            asm.math(Math::Add, R1, i32::from(headers(stack.len() - number)));
            asm.swap_half(R1);
            asm.store(Size::Half, FRAME, at + 2, R1);
            // No identification, DF.
            asm.store_number(Size::Word, FRAME, at + 4, word([0, 0, 0x40, 0]));
            asm.store_number(Size::Half, FRAME, at + 8, half([64, ipv4::IPIP]));
            asm.store_number(Size::Word, FRAME, at + 12, address(pair.src));
            asm.store_number(Size::Word, FRAME, at + 16, address(pair.dst));
            asm.load(Size::Half, R2, FRAME, at);
            asm.math(Math::Add, R1, R2);
            asm.math(Math::Add, R1, constant_sum(pair));
            self.fold(R1, 2);
            self.asm.math(Math::Xor, R1, 0xffff);
            self.asm.store(Size::Half, FRAME, at + 10, R1);
        }
    }

    /// The packet's own header, from `from` to `to` of the stack, one less of its TTL (RFC 1141).
    pub(crate) fn put_own(&mut self, from: i16, to: i16) {
        for offset in [0, 4, 8, 12, 16] {
            self.asm.load(Size::Word, R1, FRAME, from + offset);
            self.asm.store(Size::Word, FRAME, to + offset, R1);
        }
        self.asm.load(Size::Byte, R1, FRAME, to + 8);
        self.asm.math(Math::Add, R1, -1);
        self.asm.store(Size::Byte, FRAME, to + 8, R1);
        self.asm.load(Size::Half, R1, FRAME, to + 10);
        self.asm.math(Math::Add, R1, half([1, 0]));
        let small = self.asm.label();
        self.asm.go_if(Is::Below, R1, 0xffff, small);
        self.asm.math(Math::Add, R1, 1);
        self.asm.place(small);
        self.asm.store(Size::Half, FRAME, to + 10, R1);
    }

    /// Writes bytes of the packet, which has been changed before: one that cannot be written is lost, and counted.
    pub(crate) fn write(&mut self, to: i16, from: i16, len: i16) {
        self.asm.set(R1, R6);
        self.asm.set(R2, i32::from(to));
        self.stack_address(R3, from);
        self.asm.set(R4, i32::from(len));
        self.asm.set(R5, 0);
        self.asm.call(STORE_BYTES);
        self.asm.go_if(Is::Different, R0, 0, self.lost);
    }

    /// Headers of `len` bytes at [`LEAVING`], and an Ethernet header for the other end of the crossing; then there.
    pub(crate) fn send_over(&mut self, crossing: &Crossing, len: i16) {
        self.asm.set(R1, R6);
        self.asm.set(R2, i32::from(ETHERNET));
        self.asm.set(R3, 0);
        self.asm.call(CHANGE_HEAD);
        self.asm.go_if(Is::Different, R0, 0, self.lost);
        let [a, b, c, d, e, f] = crossing.mac;
        // The source is that of the destination: nobody answers it.
        for (number, pair) in [[a, b], [c, d], [e, f], [a, b], [c, d], [e, f], [8, 0]].into_iter().enumerate()
        {
            let at = LEAVING - ETHERNET + 2 * i16::try_from(number).unwrap_or(0);
            self.asm.store_number(Size::Half, FRAME, at, half(pair));
        }
        self.write(0, LEAVING - ETHERNET, ETHERNET + len);
        self.count(ENCAPSULATED);
        self.asm.set(R1, index(crossing.inside));
        self.asm.set(R2, 0);
        self.asm.call(REDIRECT);
        self.asm.exit();
    }
}

/// Of a header of [`Writer::put`], what is the same for each packet.
pub(crate) fn constant_sum(pair: &Pair) -> i32 {
    let ([a, b, c, d], [e, f, g, h]) = (pair.src.octets(), pair.dst.octets());
    [[0x40, 0], [64, ipv4::IPIP], [a, b], [c, d], [e, f], [g, h]].map(half).into_iter().sum()
}
