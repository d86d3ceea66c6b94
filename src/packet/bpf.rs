//! Programs of the classic packet filter, as `tcpdump -ddd` compiles them, run on bytes in memory. A program and a packet go in;
//! how many bytes of the packet the program keeps come out. It never loops, as no instruction jumps back.
//!
//! The kernel runs the same programs (linux/filter.h), but only on packets as they are on a device, and a packet of a
//! Virtual Internet is inside others there.

/// Code, jump if true, jump if false, constant.
pub type Instruction = (u16, u8, u8, u32);

/// `BPF_MEMWORDS`.
const WORDS: usize = 16;

/// The bytes that `program` keeps of `packet`; 0 drops it, and so does whatever the kernel would refuse or end: a load beyond
/// the packet, a division by zero, an unknown instruction, no return at the end.
#[must_use]
pub fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    let mut machine = Machine { a: 0, x: 0, memory: [0; WORDS], packet };
    let mut at = 0;
    while let Some(instruction) = program.get(at) {
        match machine.step(*instruction) {
            Some(Next::Return(kept)) => return kept,
            Some(Next::Skip(count)) => at += 1 + count,
            None => return 0,
        }
    }
    0
}

enum Next {
    Return(u32),
    Skip(usize),
}

struct Machine<'a> {
    a: u32,
    x: u32,
    memory: [u32; WORDS],
    packet: &'a [u8],
}

impl Machine<'_> {
    /// One instruction: its class is in the lowest three bits of its code.
    fn step(&mut self, (code, yes, no, k): Instruction) -> Option<Next> {
        match code & 0x07 {
            0x00 => self.a = self.load(code, k)?,
            0x01 => self.x = self.load(code, k)?,
            0x02 => *self.memory.get_mut(usize::try_from(k).ok()?)? = self.a,
            0x03 => *self.memory.get_mut(usize::try_from(k).ok()?)? = self.x,
            0x04 => self.a = self.compute(code, k)?,
            0x05 => return self.jump(code, (yes, no), k),
            0x06 => return Some(Next::Return(if code & 0x18 == 0x10 { self.a } else { k })),
            _ if code & 0xf8 == 0x80 => self.a = self.x,
            _ => self.x = self.a,
        }
        Some(Next::Skip(0))
    }

    /// By mode, the highest three bits, and size.
    fn load(&self, code: u16, k: u32) -> Option<u32> {
        let size = match code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            _ => 1,
        };
        match code & 0xe0 {
            0x00 => Some(k),
            0x20 => self.bytes(k, size),
            0x40 => self.bytes(self.x.checked_add(k)?, size),
            0x60 => self.memory.get(usize::try_from(k).ok()?).copied(),
            0x80 => u32::try_from(self.packet.len()).ok(),
            // The length of an IPv4 header: for `ldx 4*([k]&0xf)`.
            0xa0 => Some(4 * (self.bytes(k, 1)? & 0xf)),
            _ => None,
        }
    }

    fn bytes(&self, at: u32, size: usize) -> Option<u32> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.packet.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn operand(&self, code: u16, k: u32) -> u32 {
        if code & 0x08 == 0 { k } else { self.x }
    }

    fn compute(&self, code: u16, k: u32) -> Option<u32> {
        let (a, by) = (self.a, self.operand(code, k));
        Some(match code & 0xf0 {
            0x00 => a.wrapping_add(by),
            0x10 => a.wrapping_sub(by),
            0x20 => a.wrapping_mul(by),
            0x30 => a.checked_div(by)?,
            0x40 => a | by,
            0x50 => a & by,
            0x60 => a.checked_shl(by).unwrap_or(0),
            0x70 => a.checked_shr(by).unwrap_or(0),
            0x80 => a.wrapping_neg(),
            0x90 => a.checked_rem(by)?,
            0xa0 => a ^ by,
            _ => return None,
        })
    }

    fn jump(&self, code: u16, (yes, no): (u8, u8), k: u32) -> Option<Next> {
        let (a, by) = (self.a, self.operand(code, k));
        let holds = match code & 0xf0 {
            0x00 => return Some(Next::Skip(usize::try_from(k).ok()?)),
            0x10 => a == by,
            0x20 => a > by,
            0x30 => a >= by,
            0x40 => a & by != 0,
            _ => return None,
        };
        Some(Next::Skip(usize::from(if holds { yes } else { no })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 262_144;

    /// IPv4 with `protocol`, 10.0.0.1 to 10.0.0.2, behind it ports 4660 and 80.
    fn packet(protocol: u8) -> Vec<u8> {
        let header = [0x45, 0, 0, 28, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&header[..], &[0x12, 0x34, 0, 80, 0, 8, 0, 0]].concat()
    }

    /// What `tcpdump -ddd -y RAW` prints for `ip and dst host 10.0.0.2 and udp dst port 80`.
    const UDP_TO_80: [Instruction; 14] = [
        (48, 0, 0, 0),
        (84, 0, 0, 240),
        (21, 0, 10, 64),
        (32, 0, 0, 16),
        (21, 0, 8, 167_772_162),
        (48, 0, 0, 9),
        (21, 0, 6, 17),
        (40, 0, 0, 6),
        (69, 4, 0, 8191),
        (177, 0, 0, 0),
        (72, 0, 0, 2),
        (21, 0, 1, 80),
        (6, 0, 0, ALL),
        (6, 0, 0, 0),
    ];

    #[test]
    fn a_program_keeps_what_its_expression_says() {
        assert_eq!(run(&UDP_TO_80, &packet(17)), ALL);
        assert_eq!(run(&UDP_TO_80, &packet(6)), 0, "TCP");
        let mut other = packet(17);
        other[23] = 81;
        assert_eq!(run(&UDP_TO_80, &other), 0, "another port");
        let mut fragment = packet(17);
        fragment[7] = 1;
        assert_eq!(run(&UDP_TO_80, &fragment), 0, "no ports in a later fragment");
        assert_eq!(run(&UDP_TO_80, &packet(17)[..22]), 0, "cut before the port");
        assert_eq!(run(&UDP_TO_80, &[]), 0);
    }

    #[test]
    fn each_operation_is_the_kernels() {
        let of = |program: &[Instruction]| {
            let returns_a = (0x16, 0, 0, 0);
            run(&[program, &[returns_a]].concat(), &packet(17))
        };
        let with = |code: u16, a: u32, k: u32| of(&[(0x00, 0, 0, a), (code, 0, 0, k)]);
        let table: [(u16, u32, u32, u32); 11] = [
            (0x04, u32::MAX, 2, 1),
            (0x14, 1, 2, u32::MAX),
            (0x24, 3, 5, 15),
            (0x34, 17, 5, 3),
            (0x44, 0b100, 0b001, 0b101),
            (0x54, 0b110, 0b011, 0b010),
            (0x64, 1, 4, 16),
            (0x74, 16, 4, 1),
            (0x84, 1, 0, u32::MAX),
            (0x94, 17, 5, 2),
            (0xa4, 0b110, 0b011, 0b101),
        ];
        for (code, a, k, result) in table {
            assert_eq!(with(code, a, k), result, "{code:#x}");
        }
        assert_eq!(with(0x34, 7, 0), 0, "division by zero drops");
        assert_eq!(of(&[(0x80, 0, 0, 0)]), 28, "length");
        assert_eq!(of(&[(0x00, 0, 0, 7), (0x02, 0, 0, 3), (0x00, 0, 0, 0), (0x60, 0, 0, 3)]), 7, "memory");
        assert_eq!(of(&[(0x00, 0, 0, 7), (0x07, 0, 0, 0), (0x00, 0, 0, 0), (0x87, 0, 0, 0)]), 7, "tax, txa");
        assert_eq!(of(&[(0x02, 0, 0, 16)]), 0, "beyond the memory");
        assert_eq!(run(&[(0x00, 0, 0, 1)], &[]), 0, "no return");
        assert_eq!(run(&[(0x05, 0, 0, u32::MAX)], &[]), 0, "a jump beyond the end");
        let jumps = |code: u16, a: u32, k: u32| {
            run(&[(0x00, 0, 0, a), (code, 0, 1, k), (6, 0, 0, 1), (6, 0, 0, 2)], &[]) == 1
        };
        assert!(jumps(0x15, 3, 3) && !jumps(0x15, 3, 4));
        assert!(jumps(0x25, 4, 3) && !jumps(0x25, 3, 3));
        assert!(jumps(0x35, 3, 3) && !jumps(0x35, 2, 3));
        assert!(jumps(0x45, 6, 2) && !jumps(0x45, 5, 2));
    }
}
