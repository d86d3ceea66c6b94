//! Echo requests in parallel. Namespaces to send from and shots go in, the fate of each shot comes out. It never
//! says what a fate means, and it never chooses a source address: that is the node's own choice.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::wire::{self, Answer, ECHO_REPLY, Echo, TIME_EXCEEDED, UNREACHABLE};
use super::{Context, each};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::NodeId;
use crate::packet::{IcmpRepr, icmp, ipv4};
use crate::sys::limits;
use crate::sys::packet_socket::IcmpSocket;

/// Payload of ping(8) where none is asked for, bytes.
pub(crate) const PAYLOAD: usize = 56;
/// The mark at the head of a payload: nonce of the battery (8 bytes), number of the shot (4), both big-endian.
const MARK: usize = 12;
/// IPv4 and ICMP headers: total size of an echo request is payload plus this.
pub(crate) const OVERHEAD: usize = ipv4::HEADER_LEN + icmp::HEADER_LEN;
const EVENTS: usize = 64;
const LARGEST: usize = 65_536;

/// One echo request to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shot {
    pub(crate) from: NodeId,
    pub(crate) to: Ipv4Addr,
    /// ICMP payload, bytes.
    pub(crate) payload: usize,
    pub(crate) ttl: u8,
    /// Must be settled before the volley ends; one that is not is sent once and only listened for.
    pub(crate) required: bool,
}

impl Shot {
    pub(crate) fn new(from: NodeId, to: Ipv4Addr) -> Self {
        Self { from, to, payload: PAYLOAD, ttl: 64, required: true }
    }
}

/// What became of a shot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No answer of any kind.
    Silent,
    Answered {
        by: Ipv4Addr,
        after: Duration,
    },
    /// An ICMP error came back; `mtu` with "fragmentation needed".
    Refused {
        by: Ipv4Addr,
        kind: u8,
        code: u8,
        mtu: u16,
    },
    /// The sender's own kernel did not take it.
    Unsent(Errno),
}

/// How a volley is fired.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// A shot without an answer is sent again after this.
    pub(crate) retry: Duration,
    pub(crate) attempts: u32,
    /// An error is an answer: do not try again after one.
    pub(crate) errors_settle: bool,
    /// All ends this long after the start.
    pub(crate) deadline: Duration,
    /// Keep listening this long after all required shots are settled.
    pub(crate) linger: Duration,
}

/// Required shots under way at a time, and shots sent between two looks at the sockets. It bounds what queues along
/// the way must hold: a neighbour that is still being resolved queues about a hundred packets (`unres_qlen`).
pub(crate) const WINDOW: usize = 64;
/// From this many nodes on, the default limit on open files may be too low.
const MANY: usize = 256;

/// ICMP sockets in the namespaces of some nodes, and the mark of their probes.
#[derive(Debug)]
pub(crate) struct Battery {
    sockets: Vec<IcmpSocket>,
    index: BTreeMap<NodeId, usize>,
    mark: Mark,
}

/// Tells the probes of one battery from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    nonce: u64,
    id: u16,
}

impl Mark {
    pub(crate) fn fresh() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_le_bytes();
        let clock = clock.iter().take(8).rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let nonce = (clock ^ u64::from(std::process::id()).rotate_left(40)).wrapping_add(count);
        let [.., high, low] = nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(20).to_be_bytes();
        Self { nonce, id: u16::from_be_bytes([high, low]) }
    }

    /// A number that differs from probe to probe, for header fields.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// The echo request of shot `number` with `payload` bytes.
    pub(crate) fn message(&self, number: usize, payload: usize) -> Vec<u8> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let mut body = vec![0; payload.max(MARK)];
        body[..8].copy_from_slice(&self.nonce.to_be_bytes());
        body[8..MARK].copy_from_slice(&number.to_be_bytes());
        body.truncate(payload);
        let [.., high, low] = number.to_be_bytes();
        IcmpRepr::EchoRequest { ident: self.id, seq: u16::from_be_bytes([high, low]), data: &body }.emit()
    }

    /// The number of the shot that an echo request or reply belongs to. Of a payload too short for the mark, only
    /// identifier and sequence number tell.
    pub(crate) fn number(&self, echo: &Echo<'_>) -> Option<usize> {
        if echo.ident != self.id {
            return None;
        }
        let Some(mark) = echo.data.get(..MARK) else { return Some(usize::from(echo.seq)) };
        let (nonce, number) = mark.split_at(8);
        if nonce != self.nonce.to_be_bytes() {
            return None;
        }
        Some(number.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// Whether `echo` is the probe of shot `number`, mark and all.
    pub(crate) fn is_probe(&self, echo: &Echo<'_>, number: usize) -> bool {
        echo.data.len() >= MARK && self.number(echo) == Some(number)
    }
}

impl Battery {
    /// A socket in the namespace of each node.
    pub(crate) fn open(ctx: &Context<'_>, nodes: impl IntoIterator<Item = NodeId>, df: bool) -> Result<Self> {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort();
        nodes.dedup();
        if nodes.len() > MANY {
            limits::raise_open_files()
                .doing(Kind::Environment, || "cannot raise the limit on open files".into())?;
        }
        let sockets = each(&nodes, |id| {
            let ns = &ctx.lab.node(*id).netns;
            let open = || {
                let socket = IcmpSocket::open(&[ECHO_REPLY, UNREACHABLE, TIME_EXCEEDED])?;
                if df {
                    socket.set_dont_fragment()?;
                }
                Ok(socket)
            };
            let opened: std::io::Result<IcmpSocket> = ctx.namespaces.run(ns, open)?;
            opened.doing(Kind::Kernel, || format!("cannot open an ICMP socket in namespace {ns}"))
        })?;
        let index = nodes.into_iter().enumerate().map(|(i, id)| (id, i)).collect();
        Ok(Self { sockets, index, mark: Mark::fresh() })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Sends all shots and waits for their fates, which come back in the order of the shots.
    pub(crate) fn fire(&mut self, shots: &[Shot], pace: &Pace) -> Result<Vec<Fate>> {
        self.mark = Mark::fresh();
        let epoll = self.watch().doing(Kind::Kernel, || "cannot wait for ICMP sockets".into())?;
        let mut volley = Volley::new(shots, pace, Instant::now());
        let mut events = vec![EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; LARGEST];
        while let Some(until) = volley.step(Instant::now(), |i| self.send(shots, i))? {
            let wait = until.saturating_duration_since(Instant::now());
            let ready = match epoll.wait(&mut events, timeout(wait)) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(Error::kernel("cannot wait for ICMP sockets").because(e)),
            };
            for event in &events[..ready] {
                let Ok(socket) = usize::try_from(event.data()) else { continue };
                self.drain(socket, &mut buffer, &mut volley)?;
            }
        }
        Ok(volley.fates)
    }

    fn watch(&self) -> nix::Result<Epoll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (i, socket) in self.sockets.iter().enumerate() {
            epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, i as u64))?;
        }
        Ok(epoll)
    }

    /// Sends shot `i`; `Some` is the error of the sender's kernel.
    fn send(&self, shots: &[Shot], i: usize) -> Result<Option<Errno>> {
        let shot = &shots[i];
        let socket = &self.sockets
            [*self.index.get(&shot.from).ok_or_else(|| Error::bug("a shot without a socket"))?];
        let sent =
            socket.set_ttl(shot.ttl).and_then(|()| socket.send(shot.to, &self.mark.message(i, shot.payload)));
        Ok(sent.err().map(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))
    }

    fn drain(&self, socket: usize, buffer: &mut [u8], volley: &mut Volley<'_>) -> Result<()> {
        let Some(socket) = self.sockets.get(socket) else { return Ok(()) };
        while let Some(packet) =
            socket.recv(buffer).doing(Kind::Kernel, || "cannot read an ICMP socket".into())?
        {
            if let Some((number, fate)) = self.judge(packet) {
                volley.settle(number, fate, Instant::now());
            }
        }
        Ok(())
    }

    /// What a received packet says about which shot.
    fn judge(&self, packet: &[u8]) -> Option<(usize, Fate)> {
        let (by, answer) = wire::parse_answer(packet)?;
        Some(match answer {
            Answer::Reply(echo) => (self.mark.number(&echo)?, Fate::Answered { by, after: Duration::ZERO }),
            Answer::Error { kind, code, mtu, about } => {
                (self.mark.number(&about)?, Fate::Refused { by, kind, code, mtu })
            }
        })
    }
}

/// The state of a volley: no sockets, no clock.
#[derive(Debug)]
struct Volley<'a> {
    shots: &'a [Shot],
    pace: &'a Pace,
    fates: Vec<Fate>,
    sent: Vec<Option<Instant>>,
    attempts: Vec<u32>,
    settled: Vec<bool>,
    /// Required shots under way and when to look at them again: in that order, since the wait is always the same.
    under_way: VecDeque<(Instant, usize)>,
    /// The first shot not sent yet.
    next: usize,
    /// Required shots sent and not settled.
    flying: usize,
    missing: usize,
    end: Instant,
    complete: Option<Instant>,
}

impl<'a> Volley<'a> {
    fn new(shots: &'a [Shot], pace: &'a Pace, now: Instant) -> Self {
        Self {
            shots,
            pace,
            fates: vec![Fate::Silent; shots.len()],
            sent: vec![None; shots.len()],
            attempts: vec![0; shots.len()],
            settled: vec![false; shots.len()],
            under_way: VecDeque::new(),
            next: 0,
            flying: 0,
            missing: shots.iter().filter(|s| s.required).count(),
            end: now + pace.deadline,
            complete: None,
        }
    }

    /// Sends what is due; the time until which to wait for answers, or `None` when all is over.
    fn step(
        &mut self,
        now: Instant,
        mut send: impl FnMut(usize) -> Result<Option<Errno>>,
    ) -> Result<Option<Instant>> {
        while let Some((due, i)) = self.under_way.front().copied() {
            if due > now && !self.settled[i] {
                break;
            }
            self.under_way.pop_front();
            if self.settled[i] {
                continue;
            }
            if self.attempts[i] >= self.pace.attempts {
                self.close(i, now);
            } else {
                self.shoot(i, now, &mut send)?;
            }
        }
        for _ in 0..WINDOW {
            if self.next == self.shots.len() || self.flying >= WINDOW {
                break;
            }
            let i = self.next;
            self.next += 1;
            self.flying += usize::from(self.shots[i].required);
            self.shoot(i, now, &mut send)?;
        }
        Ok(self.wait_until(now))
    }

    fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        let all_sent = self.next == self.shots.len();
        if all_sent && self.missing == 0 {
            let over = *self.complete.get_or_insert(now) + self.pace.linger;
            let over = over.min(self.end);
            return (now < over).then_some(over);
        }
        if now >= self.end {
            return None;
        }
        if !all_sent && self.flying < WINDOW {
            return Some(now);
        }
        Some(self.under_way.front().map_or(self.end, |(due, _)| *due).min(self.end))
    }

    fn shoot(
        &mut self,
        i: usize,
        now: Instant,
        send: &mut impl FnMut(usize) -> Result<Option<Errno>>,
    ) -> Result<()> {
        self.attempts[i] += 1;
        self.sent[i] = Some(now);
        if self.shots[i].required {
            self.under_way.push_back((now + self.pace.retry, i));
        }
        if let Some(errno) = send(i)? {
            self.settle(i, Fate::Unsent(errno), now);
        }
        Ok(())
    }

    fn settle(&mut self, i: usize, fate: Fate, now: Instant) {
        let Some(sent) = self.sent.get(i).copied().flatten() else { return };
        if matches!(self.fates[i], Fate::Answered { .. }) {
            return;
        }
        self.fates[i] = match fate {
            Fate::Answered { by, .. } => Fate::Answered { by, after: now.saturating_duration_since(sent) },
            Fate::Silent | Fate::Refused { .. } | Fate::Unsent(_) => fate,
        };
        let last = self.pace.errors_settle || self.attempts[i] >= self.pace.attempts;
        if last || matches!(fate, Fate::Answered { .. }) {
            self.close(i, now);
        }
    }

    fn close(&mut self, i: usize, now: Instant) {
        if std::mem::replace(&mut self.settled[i], true) || !self.shots[i].required {
            return;
        }
        self.missing -= 1;
        self.flying -= 1;
        if self.missing == 0 && self.next == self.shots.len() {
            self.complete = Some(now);
        }
    }
}

/// At least a millisecond where there is anything to wait for, so that rounding down does not spin.
pub(crate) fn timeout(wait: Duration) -> EpollTimeout {
    if wait.is_zero() {
        return EpollTimeout::ZERO;
    }
    let wait = wait.min(Duration::from_secs(60)) + Duration::from_micros(999);
    EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO)
}

/// Smallest total size of a probe that can carry its mark, bytes.
pub(crate) const SMALLEST: usize = OVERHEAD + MARK;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BASE;

    const HOME: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn shot(required: bool) -> Shot {
        Shot { required, ..Shot::new(NodeId { net: BASE, index: 0 }, HOME) }
    }

    fn pace(attempts: u32) -> Pace {
        let ms = Duration::from_millis;
        Pace { retry: ms(100), attempts, errors_settle: false, deadline: ms(1000), linger: ms(50) }
    }

    fn answered(ms: u64) -> Fate {
        Fate::Answered { by: HOME, after: Duration::from_millis(ms) }
    }

    /// Steps at `ms` after `start`; which shots were sent, and in how many milliseconds to look again.
    fn step(volley: &mut Volley<'_>, start: Instant, ms: u64) -> (Vec<usize>, Option<u128>) {
        let now = start + Duration::from_millis(ms);
        let mut sent = Vec::new();
        let until = volley.step(now, |i| {
            sent.push(i);
            Ok(None)
        });
        (sent, until.unwrap().map(|u| (u - now).as_millis()))
    }

    #[test]
    fn what_is_not_answered_is_sent_again_until_attempts_are_used_up() {
        let (shots, pace, start) = ([shot(true), shot(true)], pace(2), Instant::now());
        let mut volley = Volley::new(&shots, &pace, start);
        assert_eq!(step(&mut volley, start, 0), (vec![0, 1], Some(100)));
        volley.settle(0, answered(0), start + Duration::from_millis(30));
        assert_eq!(step(&mut volley, start, 100), (vec![1], Some(100)));
        assert_eq!(step(&mut volley, start, 200), (vec![], Some(50)));
        assert_eq!(step(&mut volley, start, 250), (vec![], None));
        assert_eq!(volley.fates, [answered(30), Fate::Silent]);
    }

    #[test]
    fn a_shot_that_is_not_required_is_sent_once_and_heard_while_lingering() {
        let (shots, pace, start) = ([shot(false), shot(true)], pace(5), Instant::now());
        let mut volley = Volley::new(&shots, &pace, start);
        assert_eq!(step(&mut volley, start, 0), (vec![0, 1], Some(100)));
        volley.settle(1, answered(0), start + Duration::from_millis(10));
        assert_eq!(step(&mut volley, start, 10), (vec![], Some(50)));
        volley.settle(0, answered(0), start + Duration::from_millis(40));
        assert_eq!(step(&mut volley, start, 60), (vec![], None));
        assert_eq!(volley.fates, [answered(40), answered(10)]);
    }

    #[test]
    fn no_more_than_a_window_is_under_way() {
        let (shots, pace, start) = (vec![shot(true); WINDOW + 1], pace(1), Instant::now());
        let mut volley = Volley::new(&shots, &pace, start);
        assert_eq!(step(&mut volley, start, 0).0.len(), WINDOW);
        assert_eq!(step(&mut volley, start, 1).0, Vec::<usize>::new());
        volley.settle(7, answered(0), start);
        assert_eq!(step(&mut volley, start, 2).0, [WINDOW]);
    }

    #[test]
    fn an_error_is_tried_again_unless_errors_settle() {
        let refused = Fate::Refused { by: HOME, kind: UNREACHABLE, code: 1, mtu: 0 };
        let (shots, start) = ([shot(true)], Instant::now());
        for (errors_settle, again) in [(false, vec![0]), (true, vec![])] {
            let pace = Pace { errors_settle, ..pace(3) };
            let mut volley = Volley::new(&shots, &pace, start);
            step(&mut volley, start, 0);
            volley.settle(0, refused, start);
            assert_eq!(step(&mut volley, start, 100).0, again);
            assert_eq!(volley.fates, [refused]);
        }
    }

    #[test]
    fn a_mark_knows_its_own_numbers_and_no_other() {
        let (mark, other) = (Mark::fresh(), Mark::fresh());
        let wrap = |message: &[u8]| wire::emit_stack(&[(HOME, HOME)], message, 0).unwrap();
        let bytes = wrap(&mark.message(70_000, PAYLOAD));
        let (_, echo) = wire::parse_request(&bytes).unwrap();
        assert!(mark.is_probe(&echo, 70_000));
        assert!(!mark.is_probe(&echo, 70_000 - 65_536));
        assert_eq!(other.number(&echo), None);
        let short = wrap(&mark.message(5, 0));
        assert_eq!(mark.number(&wire::parse_request(&short).unwrap().1), Some(5));
    }
}
