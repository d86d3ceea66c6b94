//! The way of packets that stand for several from the engine into a base node. A base address goes in; a TUN device comes out from
//! which the kernel forwards what is written, as if a neighbour had sent it. It never sees a packet.
//!
//! The kernel cuts such packets where it must, and must for those from user space, as far as to see that their headers are good
//! (`SKB_GSO_DODGY`). It looks for IPv4 in IPv4 only in packets marked for it (`SKB_GSO_IPXIP4`), and a virtio header cannot mark
//! them. So a program at the device takes the outermost header off and puts it on again as an encapsulation, which marks them.
//! Without the right to load it, as in a lab without root, packets are cut before they leave.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::netlink::{Request, Socket};
use crate::packet::ipv4;
use crate::sys::bpf::{self, Instruction};
use crate::sys::tun;

/// A device that takes packets, and whether these may stand for several.
#[derive(Debug)]
pub(super) struct Injector {
    pub(super) tun: OwnedFd,
    pub(super) takes_whole: bool,
}

/// What marks packets, loaded; none where that is not allowed.
#[derive(Debug)]
pub(super) struct Program(Option<OwnedFd>);

impl Program {
    pub(super) fn load() -> Self {
        Self(bpf::load_classifier(&encapsulate_again()).ok())
    }
}

/// In the namespace of the calling thread. The device stays until the namespace goes, or [`Injector::remove`]; one that an
/// engine before this has left is taken over.
pub(super) fn open(addr: Ipv4Addr, program: &Program) -> io::Result<Injector> {
    let dev = format!("fast~{:08x}", addr.to_bits());
    let tun = tun::attach_offloading(&dev, false)?.fd;
    tun::set_persistent(tun.as_fd(), true)?;
    // A kernel without IPv6 has nothing to announce.
    let _quiet = std::fs::write(format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"), "1");
    for (key, value) in [("forwarding", "1"), ("accept_local", "1"), ("rp_filter", "0")] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{dev}/{key}"), value)?;
    }
    let index = nix::net::if_::if_nametoindex(dev.as_str())?;
    let takes_whole = program.0.as_ref().is_some_and(|program| {
        let filter = Request::add_program(index, program.as_raw_fd()).replacing();
        execute([Request::add_clsact(index), filter]).is_ok()
    });
    execute([Request::up(index)])?;
    Ok(Injector { tun, takes_whole })
}

impl Injector {
    /// Closes it, and has the device go.
    pub(super) fn remove(self) {
        // With its namespace it goes anyway.
        let _gone = tun::set_persistent(self.tun.as_fd(), false);
    }
}

/// In the namespace of the calling thread.
pub(super) fn execute(requests: impl IntoIterator<Item = Request>) -> io::Result<()> {
    Socket::open()?.execute(requests).map_err(|refusal| match &refusal.text {
        Some(text) => io::Error::other(crate::error::Error::kernel(refusal.to_string()).because(text)),
        None => io::Error::from_raw_os_error(refusal.errno),
    })
}

/// Functions that programs call, and their flags (linux/bpf.h).
const STORE_BYTES: i32 = 9;
const LOAD_BYTES: i32 = 26;
const ADJUST_ROOM: i32 = 50;
const ROOM_MAC: i32 = 1;
const ENCAP_L3_IPV4: i32 = 1 << 1;
/// The size of the pieces stays: of datagrams it may not change.
const FIXED_GSO: i32 = 1;
/// Verdicts.
const TC_ACT_OK: i32 = 0;
const TC_ACT_SHOT: i32 = 2;
/// Instructions.
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const ADD_IMMEDIATE: u8 = 0x07;
const CALL: u8 = 0x85;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;
/// The header is kept in this many bytes below the frame pointer.
const KEPT: i32 = 24;
#[expect(clippy::cast_possible_wrap, clippy::cast_possible_truncation, reason = "20")]
const HEADER: i32 = ipv4::HEADER_LEN as i32;

/// An argument of a function.
enum Argument {
    Number(i32),
    /// Where the header is kept.
    Header,
}

/// Takes the first header off and puts it on again, as an encapsulation; drops what it cannot do this with.
fn encapsulate_again() -> Vec<Instruction> {
    use Argument::{Header, Number};
    let calls: [(i32, &[Argument]); 4] = [
        (LOAD_BYTES, &[Number(0), Header, Number(HEADER)]),
        (ADJUST_ROOM, &[Number(-HEADER), Number(ROOM_MAC), Number(FIXED_GSO)]),
        (ADJUST_ROOM, &[Number(HEADER), Number(ROOM_MAC), Number(ENCAP_L3_IPV4 | FIXED_GSO)]),
        (STORE_BYTES, &[Number(0), Header, Number(HEADER), Number(0)]),
    ];
    let op = |code, registers, immediate| Instruction { code, registers, offset: 0, immediate };
    // The packet stays in register 6, which calls leave alone.
    let mut program = vec![op(MOVE, 0x16, 0)];
    for (function, arguments) in calls {
        program.push(op(MOVE, 0x61, 0));
        for (register, argument) in (2u8..).zip(arguments) {
            match argument {
                Number(number) => program.push(op(MOVE_IMMEDIATE, register, *number)),
                Header => {
                    program.extend([op(MOVE, 0xa0 | register, 0), op(ADD_IMMEDIATE, register, -KEPT)]);
                }
            }
        }
        program.extend([op(CALL, 0, function), op(JUMP_IF_NOT, 0, 0)]);
    }
    program.extend([op(MOVE_IMMEDIATE, 0, TC_ACT_OK), op(EXIT, 0, 0)]);
    let refuse = program.len();
    program.extend([op(MOVE_IMMEDIATE, 0, TC_ACT_SHOT), op(EXIT, 0, 0)]);
    for (at, instruction) in program.iter_mut().enumerate().filter(|(_, i)| i.code == JUMP_IF_NOT) {
        instruction.offset = i16::try_from(refuse - at - 1).unwrap_or(0);
    }
    program
}
