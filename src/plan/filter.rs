//! Which packets a redirect takes. A rule goes in; the program of classic BPF that tc runs on each packet comes out. It
//! never says what becomes of them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::FILTER_PRIORITY;

/// An instruction of classic BPF: operation, jump if true, jump if false, operand.
pub type Instruction = (u32, u8, u8, u32);

/// `ETH_P_IP`.
pub(super) const IPV4: u16 = 0x0800;
/// Where the destination is in an IPv4 header (RFC 791, 3.1), counted from `SKF_NET_OFF` of linux/filter.h.
const DESTINATION: u32 = 0xfff0_0000 + 16;
/// The first group address (RFC 5771); those above it and the limited broadcast are not for one host either.
const GROUPS: u32 = 0xe000_0000;

// linux/bpf_common.h: `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP` with `BPF_JEQ` and `BPF_JGE`, `BPF_RET`; all with `BPF_K`.
const LOAD_WORD: u32 = 0x20;
const JUMP_EQUAL: u32 = 0x15;
const JUMP_AT_LEAST: u32 = 0x35;
const RETURN: u32 = 0x06;

/// What a filter takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Taken {
    /// Packets of this EtherType.
    Protocol(u16),
    /// IPv4 packets to one of these addresses, to a group, or to everybody: those that a router with these addresses does
    /// not pass on. There are at most 250, as a jump passes at most 255 instructions.
    Addressed(Vec<Ipv4Addr>),
}

/// The place of filters for an EtherType among those of a hook.
#[must_use]
pub fn priority(protocol: u16) -> u16 {
    FILTER_PRIORITY + u16::from(protocol != IPV4)
}

impl Taken {
    /// The EtherType that tc looks at before it runs the program.
    #[must_use]
    pub fn protocol(&self) -> u16 {
        match self {
            Self::Protocol(protocol) => *protocol,
            Self::Addressed(_) => IPV4,
        }
    }

    /// The place of the filter among those of its hook.
    #[must_use]
    pub fn priority(&self) -> u16 {
        priority(self.protocol())
    }

    /// The program: it returns 0 for what is not taken.
    #[must_use]
    pub fn program(&self) -> Vec<Instruction> {
        let take = (RETURN, 0, 0, u32::MAX);
        let Self::Addressed(addresses) = self else { return vec![take] };
        let left = |index: usize| u8::try_from(addresses.len() - index).unwrap_or(u8::MAX);
        let mut program = vec![(LOAD_WORD, 0, 0, DESTINATION), (JUMP_AT_LEAST, left(0) + 1, 0, GROUPS)];
        let own = addresses.iter().enumerate();
        program.extend(own.map(|(index, addr)| (JUMP_EQUAL, left(index), 0, addr.to_bits())));
        program.extend([(RETURN, 0, 0, 0), take]);
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do, for the instructions that are used.
    fn takes(taken: &Taken, destination: Ipv4Addr) -> bool {
        let program = taken.program();
        let (mut at, mut word) = (0, 0);
        loop {
            let (operation, yes, no, operand) = program[at];
            let jump = |holds: bool| usize::from(if holds { yes } else { no });
            at += 1 + match operation {
                LOAD_WORD => {
                    assert_eq!(operand, DESTINATION);
                    word = destination.to_bits();
                    0
                }
                JUMP_EQUAL => jump(word == operand),
                JUMP_AT_LEAST => jump(word >= operand),
                RETURN => return operand != 0,
                other => panic!("operation {other:#x}"),
            };
        }
    }

    #[test]
    fn a_router_keeps_what_is_for_itself_and_for_groups() {
        for count in [0, 1, 3, 250] {
            let own: Vec<Ipv4Addr> =
                (0..count).map(|n: u32| Ipv4Addr::from_bits(0x0a80_0000 + 2 * n)).collect();
            let taken = Taken::Addressed(own.clone());
            assert!(own.iter().all(|addr| takes(&taken, *addr)), "{count}");
            for other in [[10, 128, 0, 1], [10, 127, 255, 255], [223, 255, 255, 255], [0, 0, 0, 0]] {
                assert!(!takes(&taken, other.into()), "{count} {other:?}");
            }
            for group in [[224, 0, 0, 5], [239, 1, 2, 3], [255, 255, 255, 255]] {
                assert!(takes(&taken, group.into()), "{count} {group:?}");
            }
        }
        assert!(takes(&Taken::Protocol(0x00fe), [10, 0, 0, 1].into()));
    }
}
