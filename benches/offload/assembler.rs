//! A small assembler of extended BPF. Typed operations and labels go in, one after the other; instructions whose jumps are
//! filled in come out. It knows nothing of packets, and leaves it to the kernel's verifier what is right.

use std::os::fd::{AsRawFd, BorrowedFd};

use vilab::sys::bpf::Instruction;

/// A register; calls take 1 to 5, give 0 and leave 6 to 9 alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(u8);

pub(crate) const R0: Register = Register(0);
pub(crate) const R1: Register = Register(1);
pub(crate) const R2: Register = Register(2);
pub(crate) const R3: Register = Register(3);
pub(crate) const R4: Register = Register(4);
pub(crate) const R5: Register = Register(5);
pub(crate) const R6: Register = Register(6);
pub(crate) const R7: Register = Register(7);
pub(crate) const R8: Register = Register(8);
pub(crate) const R9: Register = Register(9);
/// The end of the stack, which has 512 bytes.
pub(crate) const FRAME: Register = Register(10);

/// What one load or store is of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
    Double = 0x18,
}

/// Operations on 64 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Math {
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Xor = 0xa0,
    Set = 0xb0,
}

/// Comparisons, unsigned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Is {
    Equal = 0x10,
    Above = 0x20,
    Different = 0x50,
    Below = 0xa0,
}

/// The second operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operand {
    Register(Register),
    Number(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(number: i32) -> Self {
        Self::Number(number)
    }
}

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// Classes and sources of operations (linux/bpf_common.h, linux/bpf.h).
const LOAD_DOUBLE: u8 = 0x18;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_NUMBER: u8 = 0x62;
const ATOMIC: u8 = 0xdb;
const MATH: u8 = 0x07;
const JUMP: u8 = 0x05;
/// Of the lower 32 bits.
const JUMP_WORD: u8 = 0x06;
const FROM_REGISTER: u8 = 0x08;
const TO_BIG_ENDIAN: u8 = 0xdc;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// Of a map named by its descriptor, the address of its first value.
const MAP_VALUE: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    /// Jumps and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: from.0 << 4 | to.0, offset, immediate });
    }

    /// A place that [`Self::place`] fixes.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// `label` is here.
    pub(crate) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// Whether a jump leads there: the verifier refuses what is never reached.
    pub(crate) fn is_used(&self, label: Label) -> bool {
        self.jumps.iter().any(|(_, to)| *to == label)
    }

    pub(crate) fn math(&mut self, operation: Math, to: Register, operand: impl Into<Operand>) {
        let code = MATH | operation as u8;
        match operand.into() {
            Operand::Register(from) => self.push(code | FROM_REGISTER, to, from, 0, 0),
            Operand::Number(number) => self.push(code, to, R0, 0, number),
        }
    }

    pub(crate) fn set(&mut self, to: Register, operand: impl Into<Operand>) {
        self.math(Math::Set, to, operand);
    }

    /// Big endian to the machine's order, or back, of the lower 16 bits; the others become zero.
    pub(crate) fn swap_half(&mut self, register: Register) {
        self.push(TO_BIG_ENDIAN, register, R0, 0, 16);
    }

    pub(crate) fn load(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.push(LOAD | size as u8, to, base, offset, 0);
    }

    pub(crate) fn store(&mut self, size: Size, base: Register, offset: i16, from: Register) {
        self.push(STORE | size as u8, base, from, offset, 0);
    }

    pub(crate) fn store_number(&mut self, size: Size, base: Register, offset: i16, number: i32) {
        self.push(STORE_NUMBER | size as u8, base, R0, offset, number);
    }

    /// Adds to 64 bits of memory at once.
    pub(crate) fn add_to(&mut self, base: Register, offset: i16, from: Register) {
        self.push(ATOMIC, base, from, offset, 0);
    }

    /// The address of a map's first value.
    pub(crate) fn set_to_value(&mut self, to: Register, map: BorrowedFd<'_>) {
        self.push(LOAD_DOUBLE, to, Register(MAP_VALUE), 0, map.as_raw_fd());
        self.push(0, R0, R0, 0, 0);
    }

    pub(crate) fn go(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JUMP, R0, R0, 0, 0);
    }

    /// Compares 64 bits.
    pub(crate) fn go_if(&mut self, is: Is, left: Register, right: impl Into<Operand>, label: Label) {
        self.compare(JUMP, is, left, right.into(), label);
    }

    /// Compares the lower 32 bits.
    pub(crate) fn go_if_word(&mut self, is: Is, left: Register, right: impl Into<Operand>, label: Label) {
        self.compare(JUMP_WORD, is, left, right.into(), label);
    }

    fn compare(&mut self, class: u8, is: Is, left: Register, right: Operand, label: Label) {
        self.jumps.push((self.code.len(), label));
        let code = class | is as u8;
        match right {
            Operand::Register(right) => self.push(code | FROM_REGISTER, left, right, 0, 0),
            Operand::Number(number) => self.push(code, left, R0, 0, number),
        }
    }

    pub(crate) fn call(&mut self, function: i32) {
        self.push(CALL, R0, R0, 0, function);
    }

    pub(crate) fn exit(&mut self) {
        self.push(EXIT, R0, R0, 0, 0);
    }

    /// The program; none where a label has no place, or a jump is too far.
    pub(crate) fn finish(mut self) -> Option<Vec<Instruction>> {
        for (at, label) in self.jumps {
            let to = isize::try_from(self.labels[label.0]?).ok()?;
            self.code[at].offset = i16::try_from(to - isize::try_from(at).ok()? - 1).ok()?;
        }
        Some(self.code)
    }
}
