//! Requests of traffic control, a constructor each. Indices and parameters go in, one message with its flags comes
//! out. It never sends.

use std::os::fd::RawFd;

use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::request::Request;
use crate::plan::{Hook, Instruction, Netem, Taken, priority};

const TCA_OPTIONS: u16 = 2;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_RATE64: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;
const TCA_NETEM_JITTER64: u16 = 11;
/// netem's first fields count 64 ns ticks (PSCHED_SHIFT 6).
const PSCHED_SHIFT: u32 = 6;

/// `TC_H_CLSACT` and its hooks, `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };
/// Our filter among those of the hook; a user's own with lower numbers come first.
const PRIORITY: u16 = 0xff00;
const ETH_P_ALL: u16 = 3;

const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const FIRST_ACTION: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TC_ACT_STOLEN: u32 = 4;
const TCA_EGRESS_REDIR: u32 = 1;
const TCA_INGRESS_REDIR: u32 = 3;

impl Request {
    /// netem as the root qdisc, in place of the one that is there.
    #[must_use]
    pub fn set_netem(index: u32, netem: &Netem) -> Self {
        qdisc(index, TcHandle::ROOT, "netem", Some(netem_options(netem)))
    }

    /// The hooks for filters that see what enters and leaves a device.
    #[must_use]
    pub fn add_clsact(index: u32) -> Self {
        qdisc(index, CLSACT, "clsact", None)
    }

    /// What leaves device `index` goes to device `to` instead, unless it bears `mark`.
    #[must_use]
    pub fn set_redirect(index: u32, to: u32, mark: u32) -> Self {
        let mut message = filter(index);
        message.attributes.push(TcAttribute::Kind("bpf".into()));
        let options = redirect_options(&all_but(mark), to, Hook::Egress);
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
        Self { message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
    }

    /// What `takes` takes of what passes `hook` of device `index` goes on at hook `into` of device `to`.
    #[must_use]
    pub fn add_redirect(index: u32, hook: Hook, takes: &Taken, to: u32, into: Hook) -> Self {
        let mut message = filter(index);
        message.header.parent = parent(hook);
        message.header.info = u32::from(takes.priority()) << 16 | u32::from(takes.protocol().to_be());
        message.attributes.push(TcAttribute::Kind("bpf".into()));
        let options = redirect_options(&takes.program(), to, into);
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
        Self { message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// A loaded program decides about what comes in at device `index`. It stays loaded for as long as the device is there.
    #[must_use]
    pub fn add_program(index: u32, program: RawFd) -> Self {
        Self::add_program_at(index, Hook::Ingress, program)
    }

    /// The same of what passes `hook`.
    #[must_use]
    pub fn add_program_at(index: u32, hook: Hook, program: RawFd) -> Self {
        let mut message = filter(index);
        message.header.parent = parent(hook);
        message.attributes.push(TcAttribute::Kind("bpf".into()));
        let options = nested(&[
            (TCA_BPF_FD, &program.to_ne_bytes()),
            (TCA_BPF_NAME, b"vilab\0"),
            (TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
        ]);
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
        Self { message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Undoes [`Request::add_redirect`].
    #[must_use]
    pub fn del_filter(index: u32, hook: Hook, protocol: u16) -> Self {
        let mut message = filter(index);
        message.header.parent = parent(hook);
        message.header.handle = TcHandle { major: 0, minor: 0 };
        message.header.info = u32::from(priority(protocol)) << 16 | u32::from(protocol.to_be());
        Self { message: RouteNetlinkMessage::DelTrafficFilter(message), flags: 0 }
    }

    /// Undoes [`Request::add_program_at`].
    #[must_use]
    pub fn del_program(index: u32, hook: Hook) -> Self {
        let mut message = filter(index);
        message.header.parent = parent(hook);
        Self { message: RouteNetlinkMessage::DelTrafficFilter(message), flags: 0 }
    }

    /// Undoes [`Request::set_redirect`].
    #[must_use]
    pub fn del_redirect(index: u32) -> Self {
        Self::del_program(index, Hook::Egress)
    }
}

fn qdisc(index: u32, parent: TcHandle, kind: &str, options: Option<Vec<u8>>) -> Request {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    message.header.parent = parent;
    if parent == CLSACT {
        message.header.handle = TcHandle { major: CLSACT.major, minor: 0 };
    }
    message.attributes.push(TcAttribute::Kind(kind.into()));
    let options = options.map(|bytes| TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, bytes)));
    message.attributes.extend(options);
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn parent(hook: Hook) -> TcHandle {
    match hook {
        Hook::Ingress => INGRESS,
        Hook::Egress => EGRESS,
    }
}

fn filter(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or(i32::MAX));
    message.header.parent = EGRESS;
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message
}

/// `struct tc_netem_qopt` (latency in ticks, limit, loss of 2^32, gap, duplicate, jitter in ticks; u32 each), then
/// attributes: latency and jitter as i64 nanoseconds, which the kernel prefers, and the rate.
fn netem_options(netem: &Netem) -> Vec<u8> {
    let nanoseconds = |us: u64| i64::try_from(us * 1000).unwrap_or(i64::MAX);
    let ticks = |us: u64| u32::try_from((us * 1000) >> PSCHED_SHIFT).unwrap_or(u32::MAX);
    let loss = u64::from(u32::MAX) * u64::from(netem.loss_ppm) / 1_000_000;
    let loss = u32::try_from(loss).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(96);
    for field in [ticks(netem.delay_us), netem.limit, loss, 0, 0, ticks(netem.jitter_us)] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
    attribute(&mut bytes, TCA_NETEM_LATENCY64, &nanoseconds(netem.delay_us).to_ne_bytes());
    attribute(&mut bytes, TCA_NETEM_JITTER64, &nanoseconds(netem.jitter_us).to_ne_bytes());
    if let Some(bps) = netem.rate_bps {
        rate(&mut bytes, (bps / 8).max(1), netem.overhead);
    }
    bytes
}

/// `struct tc_netem_rate` (bytes a second, overhead of a packet, cell size, overhead of a cell), and the rate again
/// where 32 bits are too few.
fn rate(bytes: &mut Vec<u8>, rate: u64, overhead: i32) {
    let short = u32::try_from(rate).unwrap_or(u32::MAX);
    if short == u32::MAX {
        attribute(bytes, TCA_NETEM_RATE64, &rate.to_ne_bytes());
    }
    let fields = [short.to_ne_bytes(), overhead.to_ne_bytes(), [0; 4], [0; 4]];
    attribute(bytes, TCA_NETEM_RATE, &fields.concat());
}

/// Takes every packet.
const ALL: [Instruction; 1] = [(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX)];

/// Loads the mark; if it is ours, takes nothing; else takes the packet.
fn all_but(mark: u32) -> [Instruction; 4] {
    let ancillary_mark = (libc::SKF_AD_OFF + libc::SKF_AD_MARK).cast_unsigned();
    [
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, ancillary_mark),
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, mark),
        (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        ALL[0],
    ]
}

/// A program that says what to take, and the action for what it takes.
fn redirect_options(program: &[Instruction], to: u32, hook: Hook) -> Vec<u8> {
    let redirect = match hook {
        Hook::Ingress => TCA_INGRESS_REDIR,
        Hook::Egress => TCA_EGRESS_REDIR,
    };
    let mut code = Vec::new();
    for (operation, yes, no, operand) in program {
        code.extend_from_slice(&u16::try_from(*operation).unwrap_or(0).to_ne_bytes());
        code.extend_from_slice(&[*yes, *no]);
        code.extend_from_slice(&operand.to_ne_bytes());
    }
    // `struct tc_mirred`: index, capabilities, action, two counts, what to do, where.
    let mirred = [0, 0, TC_ACT_STOLEN, 0, 0, redirect, to].map(u32::to_ne_bytes).concat();
    let options = nested(&[(TCA_MIRRED_PARMS, &mirred)]);
    let action = nested(&[(TCA_ACT_KIND, b"mirred\0"), (TCA_ACT_OPTIONS, &options)]);
    let length = u16::try_from(program.len()).unwrap_or(0).to_ne_bytes();
    nested(&[
        (TCA_BPF_OPS_LEN, &length),
        (TCA_BPF_OPS, &code),
        (TCA_BPF_ACT, &nested(&[(FIRST_ACTION, &action)])),
    ])
}

fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    attributes.iter().for_each(|(kind, value)| attribute(&mut bytes, *kind, value));
    bytes
}

/// One netlink attribute, padded to four bytes.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netem(rate_bps: Option<u64>) -> Netem {
        Netem { delay_us: 10, jitter_us: 0, loss_ppm: 500_000, rate_bps, overhead: -14, limit: 7 }
    }

    #[test]
    fn netem_takes_nanoseconds_and_ticks() {
        let bytes = netem_options(&netem(None));
        assert_eq!(bytes.len(), 24 + 12 + 12);
        assert_eq!(bytes[..4], 156_u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 7_u32.to_ne_bytes());
        assert_eq!(bytes[8..12], (u32::MAX / 2).to_ne_bytes());
        assert_eq!(bytes[28..36], 10_000_i64.to_ne_bytes());
    }

    #[test]
    fn protocol_and_priority_of_a_redirect_share_a_word() {
        let request = Request::add_redirect(3, Hook::Ingress, &Taken::Protocol(0x00fe), 4, Hook::Ingress);
        let RouteNetlinkMessage::NewTrafficFilter(filter) = request.message else { panic!("a filter") };
        assert_eq!(filter.header.info, 0xfe01 << 16 | u32::from(0x00fe_u16.to_be()));
        let request = Request::add_redirect(3, Hook::Egress, &Taken::Protocol(0x0800), 4, Hook::Egress);
        let RouteNetlinkMessage::NewTrafficFilter(other) = request.message else { panic!("a filter") };
        assert_eq!(other.header.info >> 16, 0xfe00, "filters of one priority are for one protocol");
        assert_eq!(filter.header.parent, INGRESS);
    }

    #[test]
    fn rates_beyond_32_bits_are_given_twice() {
        let (slow, fast) =
            (netem_options(&netem(Some(64_000))), netem_options(&netem(Some(100_000_000_000))));
        assert_eq!(fast.len(), slow.len() + 12);
        assert_eq!(slow[52..56], 8_000_u32.to_ne_bytes());
        assert_eq!(slow[56..60], (-14_i32).to_ne_bytes());
        assert_eq!(fast[52..60], 12_500_000_000_u64.to_ne_bytes());
    }
}
