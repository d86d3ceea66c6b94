//! What the kernel's function answers that makes room for headers, by what it is asked and of which packet. Nothing goes in but the
//! running kernel; questions and answers come out, as errnos. It works in a network namespace of its own, which ends with it.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use vilab::netlink::request::VethEnd;
use vilab::netlink::{Request, Socket};
use vilab::plan::{Hook, Mac};
use vilab::sys::bpf::{Instruction, Numbers, load_classifier};

use super::Result;
use super::assembler::{Assembler, R0, R1, R2, R3, R4, R6, Size};
use super::writer::{ADJUST_ROOM, ENCAP_L3_IPV4, FIXED_GSO, GSO_SIZE, ROOM_MAC, TC_ACT_SHOT};

/// Bytes to make room for, or to take away, and flags.
type Step = (i32, i32);

const MARKED: i32 = ENCAP_L3_IPV4 | FIXED_GSO;
const QUESTIONS: [(&str, &[Step]); 7] = [
    ("20 more, without a mark", &[(20, FIXED_GSO)]),
    ("20 more, marked; the same again; without a mark", &[(20, MARKED), (20, MARKED), (20, FIXED_GSO)]),
    ("20 more, marked; 20 less; marked", &[(20, MARKED), (-20, FIXED_GSO), (20, MARKED)]),
    ("20 less", &[(-20, FIXED_GSO)]),
    ("180 more, marked", &[(180, MARKED)]),
    ("4000 more, marked", &[(4000, MARKED)]),
    ("5000 more, marked", &[(5000, MARKED)]),
];
/// The longest of these, and where the size of segments is kept behind the answers.
const STEPS: i16 = 3;
const SEGMENT: u16 = 500;
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// `ENOTSUPP`, which user space has no name for.
const NOT_SUPPORTED: i64 = 524;

/// On a thread of its own, which takes the namespace with it.
pub(crate) fn answers() -> Result<Value> {
    std::thread::scope(|scope| {
        scope.spawn(ask_all).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ask_all() -> Result<Value> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let netns = File::open("/proc/thread-self/ns/net")?;
    let end = |dev, last| VethEnd { netns: &netns, dev, index: 0, mac: Mac([2, 0, 0, 0, 0, last]) };
    Socket::open()?.execute([Request::add_veth(&end("near", 1), &end("far", 2), 1500)])?;
    let (near, far) = (if_nametoindex("near")?, if_nametoindex("far")?);
    Socket::open()?.execute([
        Request::up(far),
        Request::add_addr(near, "192.0.2.1/24".parse()?, true),
        Request::add_neighbour(near, FAR, Mac([2, 0, 0, 0, 0, 2])),
        Request::add_clsact(near),
    ])?;
    let mut all = Vec::new();
    for (question, steps) in QUESTIONS {
        for (packet, segment) in [("UDP", None), ("UDP that is to be cut", Some(SEGMENT))] {
            all.push(json!({ "asked for": question, "of": packet, "answers": ask(near, steps, segment)? }));
        }
    }
    Ok(all.into())
}

/// Sends one datagram through a program that asks.
fn ask(near: u32, steps: &[Step], segment: Option<u16>) -> Result<Vec<String>> {
    let numbers = Numbers::new(STEPS as usize + 1)?;
    let program = load_classifier(&asking(steps, &numbers).ok_or("a jump that is too far")?)?;
    let socket = UdpSocket::bind((NEAR, 0))?;
    if let Some(segment) = segment {
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(segment))?;
    }
    Socket::open()?.execute([Request::add_program_at(near, Hook::Egress, program.as_raw_fd())])?;
    let sent = socket.send_to(&[0; 1400], (FAR, 9));
    Socket::open()?.execute([Request::del_program(near, Hook::Egress)])?;
    sent?;
    let found = numbers.read()?;
    if found[STEPS as usize] != u64::from(segment.unwrap_or(0)) {
        return Err(format!("it has segments of {} bytes", found[STEPS as usize]).into());
    }
    Ok(found[..steps.len()].iter().map(|answer| name(answer.cast_signed())).collect())
}

/// Asks step by step, keeps the answers and drops the packet.
fn asking(steps: &[Step], numbers: &Numbers) -> Option<Vec<Instruction>> {
    let mut asm = Assembler::default();
    asm.set(R6, R1);
    asm.load(Size::Word, R2, R6, GSO_SIZE);
    asm.set_to_value(R1, numbers.fd.as_fd());
    asm.store(Size::Double, R1, STEPS * 8, R2);
    for (number, (by, flags)) in (0_i16..).zip(steps) {
        asm.set(R1, R6);
        asm.set(R2, *by);
        asm.set(R3, ROOM_MAC);
        asm.set(R4, *flags);
        asm.call(ADJUST_ROOM);
        asm.set_to_value(R1, numbers.fd.as_fd());
        asm.store(Size::Double, R1, number * 8, R0);
    }
    asm.set(R0, TC_ACT_SHOT);
    asm.exit();
    asm.finish()
}

fn name(answer: i64) -> String {
    match answer {
        0 => "done".to_owned(),
        answer if answer == -NOT_SUPPORTED => "ENOTSUPP".to_owned(),
        answer => i32::try_from(-answer)
            .map_or_else(|_| answer.to_string(), |e| format!("{:?}", Errno::from_raw(e))),
    }
}
