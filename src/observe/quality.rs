//! What impaired links do, measured: delay, jitter, loss and rate of each direction. Links go in; what a few probes
//! over each of them came to goes out. It never takes long: all links are probed at once, for a quarter of a second
//! and their own delay.
//!
//! Both ends of a link are on this machine, so each direction is measured by itself: UDP datagrams bound to the one
//! end's device, with their time of sending, and the kernel's own stamp of their arrival at the other end.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::probe::timeout;
use super::{Context, each};
use crate::error::{Context as _, Kind, Result};
use crate::model::{EndId, Impairment, LinkId, LinkMeasured, Measured};
use crate::routing::{Journey, Journeys};
use crate::shape::{self, Nanos};
use crate::sys::{limits, socket};

/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// Number of the volley and of the probe, both big-endian.
const MARK: usize = 8;
/// IP length of a probe of delay and loss.
const PROBE: usize = HEADERS + MARK;
/// Headers that the layers below may put in front.
const BELOW: usize = 100;
/// Probes of one direction, and of all together.
const PROBES: u32 = 50;
const ALL_PROBES: usize = 4000;
/// How long probes of delay and loss are sent.
const SENDING: Duration = Duration::from_millis(200);
/// How long a burst takes that measures a rate, and how many packets it has.
const BURST: Duration = Duration::from_millis(40);
const BURST_PACKETS: std::ops::RangeInclusive<usize> = 6..=250;
/// How late a busy machine may be, beside the time of the impairments.
const SLACK: Duration = Duration::from_millis(250);
/// A direction that takes longer is not measured.
const LONGEST: Duration = Duration::from_secs(2);
const BUFFER: usize = 4 << 20;
const EVENTS: usize = 64;

/// One direction of a link, and the sockets at its two ends.
#[derive(Debug)]
struct Lane {
    end: EndId,
    asked: Impairment,
    /// The link and what lies below.
    way: Journey,
    mtu: usize,
    sender: UdpSocket,
    receiver: UdpSocket,
}

/// What a lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Train {
    packets: usize,
    /// IP length.
    len: usize,
    /// Between two of them.
    gap: Duration,
}

/// What became of a train: when each packet was sent, and which arrived when, in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Run {
    sent: Vec<Option<Nanos>>,
    heard: Vec<(usize, Nanos)>,
}

/// Measures both directions of each of these links.
///
/// # Errors
/// If a socket cannot be opened. A link that carries nothing is no error.
pub fn measure(ctx: &Context<'_>, links: &[LinkId]) -> Result<Vec<LinkMeasured>> {
    let ends: Vec<EndId> =
        links.iter().flat_map(|link| [0, 1].map(|side| EndId { link: *link, side })).collect();
    let journeys = Journeys::new(ctx.lab, ctx.rib);
    let ways: Vec<(EndId, Journey)> = ends.into_iter().map(|end| (end, journeys.over(end))).collect();
    let quick: Vec<_> = ways.into_iter().filter(|(_, way)| latest(way) <= LONGEST).collect();
    limits::raise_open_files().doing(Kind::Environment, || "cannot raise the limit on open files".into())?;
    let lanes = each(&quick, |(end, way)| open(ctx, *end, *way))?;
    let most = u32::try_from(ALL_PROBES / lanes.len().max(1)).unwrap_or(PROBES).clamp(5, PROBES);
    let all: Vec<&Lane> = lanes.iter().collect();
    let trains: Vec<Train> = lanes.iter().map(|lane| probes(&lane.way, most)).collect();
    let mut measured: Vec<Measured> = all
        .iter()
        .zip(volley(&all, &trains, 0)?)
        .map(|(lane, run)| times(&run, &lane.asked, &lane.way))
        .collect();
    // The links of one network at a time, for those above use those below.
    for network in &ctx.lab.networks {
        let limited = |i: &usize| lanes[*i].end.link.net == network.id && lanes[*i].asked.rate_bps.is_some();
        let chosen: Vec<usize> = (0..lanes.len()).filter(limited).collect();
        let some: Vec<&Lane> = chosen.iter().map(|i| &lanes[*i]).collect();
        let trains: Vec<Train> = some.iter().map(|lane| burst(&lane.asked, lane.mtu)).collect();
        let runs = volley(&some, &trains, network.id.0 + 1)?;
        for ((i, train), run) in chosen.into_iter().zip(&trains).zip(runs) {
            measured[i].rate_bps = rate(&run, train.len);
        }
    }
    let of = |link: LinkId, side| {
        lanes.iter().position(|lane| lane.end == EndId { link, side }).map(|i| measured[i])
    };
    Ok(links
        .iter()
        .map(|link| LinkMeasured { link: *link, directions: [0, 1].map(|s| of(*link, s)) })
        .collect())
}

fn open(ctx: &Context<'_>, end: EndId, way: Journey) -> Result<Lane> {
    let (near, far) = (ctx.lab.end(end), ctx.lab.peer(end));
    let what = |ns: &str| format!("cannot measure link {} from {ns}", ctx.lab.link(end.link).name);
    let ns = &ctx.lab.node(far.node).netns;
    let receiver = ctx
        .namespaces
        .run(ns, || receiver(far.addr.into()))
        .and_then(|r| r.doing(Kind::Kernel, || what(ns)))?;
    let to = receiver.local_addr().doing(Kind::Kernel, || what(ns))?;
    let ns = &ctx.lab.node(near.node).netns;
    let sender = ctx
        .namespaces
        .run(ns, || sender(near.addr.into(), &near.dev, to))
        .and_then(|s| s.doing(Kind::Kernel, || what(ns)))?;
    let from = sender.local_addr().doing(Kind::Kernel, || what(ns))?;
    receiver.connect(from).doing(Kind::Kernel, || what(ns))?;
    let link = ctx.lab.link(end.link);
    Ok(Lane { end, asked: link.impair[end.side], way, mtu: link.mtu as usize, sender, receiver })
}

fn receiver(addr: IpAddr) -> io::Result<UdpSocket> {
    let receiver = UdpSocket::bind(SocketAddr::new(addr, 0))?;
    receiver.set_nonblocking(true)?;
    setsockopt(&receiver, sockopt::ReceiveTimestampns, &true)?;
    socket::set_buffers(receiver.as_fd(), BUFFER)?;
    Ok(receiver)
}

/// Bound to the device: whatever routes say, the probe takes this link.
fn sender(addr: IpAddr, dev: &str, to: SocketAddr) -> io::Result<UdpSocket> {
    let sender = UdpSocket::bind(SocketAddr::new(addr, 0))?;
    sender.set_nonblocking(true)?;
    setsockopt(&sender, sockopt::BindToDevice, &dev.into())?;
    socket::set_buffers(sender.as_fd(), BUFFER)?;
    sender.connect(to)?;
    Ok(sender)
}

/// The latest that a probe arrives after it was sent.
fn latest(way: &Journey) -> Duration {
    let sending = way.rate_bps.map_or(0, |rate| shape::serialisation(rate, PROBE + BELOW));
    Duration::from_micros(way.delay_us + way.jitter_us) + Duration::from_nanos(sending)
}

/// Probes of delay and loss: at most half of what the slowest link takes, at most `most`.
fn probes(way: &Journey, most: u32) -> Train {
    let each = way.rate_bps.map_or(0, |rate| shape::serialisation(rate, PROBE + BELOW));
    let gap = (SENDING / most.max(1)).max(Duration::from_nanos(2 * each));
    let packets = SENDING.as_nanos() / gap.as_nanos().max(1);
    Train { packets: usize::try_from(packets).unwrap_or(usize::MAX).max(1), len: PROBE, gap }
}

/// Packets one after the other, as many as the asked rate takes in a short time, as large as leaves several.
fn burst(asked: &Impairment, mtu: usize) -> Train {
    let rate = u128::from(asked.rate_bps.unwrap_or(u64::MAX));
    let bytes = usize::try_from(rate * BURST.as_nanos() / 8_000_000_000).unwrap_or(usize::MAX);
    let len = (bytes / BURST_PACKETS.start()).clamp(PROBE, mtu.max(PROBE));
    let packets = (bytes / len).clamp(*BURST_PACKETS.start(), *BURST_PACKETS.end());
    Train { packets, len, gap: Duration::ZERO }
}

/// Sends a train on each lane, all at once, and listens until all has arrived or could have.
fn volley(lanes: &[&Lane], trains: &[Train], phase: usize) -> Result<Vec<Run>> {
    let what = || "cannot measure links".to_owned();
    let mut runs: Vec<Run> = lanes.iter().map(|_| Run::default()).collect();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(Kind::Kernel, what)?;
    for (i, lane) in lanes.iter().enumerate() {
        epoll
            .add(&lane.receiver, EpollEvent::new(EpollFlags::EPOLLIN, i as u64))
            .doing(Kind::Kernel, what)?;
    }
    let start = Instant::now();
    let mut ends: Vec<Instant> =
        lanes.iter().zip(trains).map(|(lane, train)| start + lasts(lane, train)).collect();
    loop {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        for (((lane, train), run), end) in lanes.iter().zip(trains).zip(&mut runs).zip(&ends) {
            while run.sent.len() < train.packets && now >= start + train.gap * number(run.sent.len()) {
                let sent = send(lane, train.len, phase, run.sent.len());
                run.sent.push(sent);
            }
            let due = if run.sent.len() < train.packets {
                Some(start + train.gap * number(run.sent.len()))
            } else {
                let complete = run.heard.len() >= run.sent.iter().flatten().count();
                Some(*end).filter(|end| !complete && now < *end)
            };
            next = next.into_iter().chain(due).min();
        }
        let Some(next) = next else { return Ok(runs) };
        let mut events = [EpollEvent::empty(); EVENTS];
        let wait = timeout(next.saturating_duration_since(Instant::now()));
        let ready = match epoll.wait(&mut events, wait) {
            Err(nix::Error::EINTR) => 0,
            other => other.doing(Kind::Kernel, what)?,
        };
        for event in &events[..ready] {
            let i = usize::try_from(event.data()).unwrap_or(usize::MAX);
            if let (Some(lane), Some(run)) = (lanes.get(i), runs.get_mut(i)) {
                drain(lane, phase, run).doing(Kind::Kernel, what)?;
                // What comes late on a busy machine is not lost: as long as something comes, more may.
                ends[i] = ends[i].max((Instant::now() + SLACK).min(start + LONGEST));
            }
        }
    }
}

/// From the first packet sent until the last must have arrived.
fn lasts(lane: &Lane, train: &Train) -> Duration {
    let bytes = train.packets * (train.len + BELOW);
    let rate = lane.way.rate_bps.map_or(0, |rate| shape::serialisation(rate, bytes));
    train.gap * number(train.packets) + Duration::from_nanos(rate) + latest(&lane.way) + SLACK
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Sends packet `i`; when, or none where the kernel does not take it.
fn send(lane: &Lane, len: usize, phase: usize, i: usize) -> Option<Nanos> {
    let mut payload = vec![0; len.saturating_sub(HEADERS).max(MARK)];
    payload[..4].copy_from_slice(&number(phase).to_be_bytes());
    payload[4..MARK].copy_from_slice(&number(i).to_be_bytes());
    let now = clock_gettime(ClockId::CLOCK_REALTIME).ok()?;
    lane.sender.send(&payload).ok()?;
    Some(nanos(&now))
}

/// Takes what has arrived of this volley.
fn drain(lane: &Lane, phase: usize, run: &mut Run) -> io::Result<()> {
    loop {
        let mut mark = [0; MARK];
        let mut control = cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut mark)];
        let fd = lane.receiver.as_raw_fd();
        let received = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let at = match received {
            Ok(message) => message.cmsgs()?.find_map(stamp),
            Err(nix::Error::EAGAIN) => return Ok(()),
            // An ICMP error about an earlier packet: it is not about this one.
            Err(nix::Error::EINTR | nix::Error::ECONNREFUSED) => continue,
            Err(e) => return Err(e.into()),
        };
        let (head, tail) = mark.split_at(4);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        if let Some(at) = at.filter(|_| word(head) == phase && word(tail) < run.sent.len()) {
            run.heard.push((word(tail), at));
        }
    }
}

fn stamp(control: ControlMessageOwned) -> Option<Nanos> {
    if let ControlMessageOwned::ScmTimestampns(at) = control { Some(nanos(&at)) } else { None }
}

fn nanos(time: &TimeSpec) -> Nanos {
    let part = |n: i64| Nanos::try_from(n).unwrap_or(0);
    part(time.tv_sec()) * 1_000_000_000 + part(time.tv_nsec())
}

/// Delay and loss of a run of probes. The delay is what the quickest took, for a busy machine makes packets late and never
/// early, or the median where jitter is asked; less the time that the link's own rate takes for a probe. Half of what the
/// slowest took more than the quickest is jitter.
fn times(run: &Run, asked: &Impairment, way: &Journey) -> Measured {
    let sent = run.sent.iter().flatten().count();
    let mut took: Vec<Nanos> = run
        .heard
        .iter()
        .filter_map(|(i, at)| Some(at.saturating_sub(run.sent.get(*i).copied().flatten()?)))
        .collect();
    took.sort_unstable();
    let sending = asked.rate_bps.map_or(0, |rate| shape::serialisation(rate, PROBE));
    let middle = if way.jitter_us > 0 { took.len() / 2 } else { 0 };
    let microseconds = |nanos: Nanos| nanos / 1000;
    let spread = took.first().zip(took.last()).map(|(first, last)| microseconds((last - first) / 2));
    Measured {
        delay_us: took.get(middle).map(|t| microseconds(t.saturating_sub(sending))),
        jitter_us: spread,
        sent: number(sent),
        lost: number(sent.saturating_sub(took.len())),
        rate_bps: None,
    }
}

/// The rate of a burst of packets of IP length `len`; none where fewer than four arrived. It is the median over all
/// packets of the time from one to that half the burst later, so that no single late one decides.
fn rate(run: &Run, len: usize) -> Option<u64> {
    let half = run.heard.len() / 2;
    let pairs = run.heard.iter().zip(run.heard.iter().skip(half));
    let mut took: Vec<Nanos> = pairs.map(|((_, from), (_, to))| to.saturating_sub(*from)).collect();
    took.sort_unstable();
    let middle = u128::from(took.get(took.len() / 2).copied().filter(|t| *t > 0 && half > 1)?);
    u64::try_from((half * len * 8) as u128 * 1_000_000_000 / middle).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn way(delay_us: u64, rate_bps: Option<u64>) -> Journey {
        Journey { delay_us, rate_bps, ..Journey::default() }
    }

    #[test]
    fn probes_leave_slow_links_half_their_time() {
        assert_eq!(probes(&way(0, None), 50).packets, 50);
        let slow = probes(&way(0, Some(8 * (PROBE + BELOW) as u64 * 100)), 50);
        assert_eq!((slow.packets, slow.gap), (10, Duration::from_millis(20)));
        assert_eq!(probes(&way(0, Some(8)), 50).packets, 1);
    }

    #[test]
    fn bursts_are_short_and_have_several_packets() {
        let of = |rate_bps| burst(&Impairment { rate_bps: Some(rate_bps), ..Impairment::default() }, 1500);
        assert_eq!((of(100_000_000).packets, of(100_000_000).len), (250, 1500));
        assert_eq!((of(10_000_000).packets, of(10_000_000).len), (33, 1500));
        assert_eq!((of(64_000).packets, of(64_000).len), (6, 53));
        assert_eq!((of(8).packets, of(8).len), (6, PROBE));
    }

    #[test]
    fn delays_are_of_the_quickest_and_losses_are_counted() {
        let sent = vec![Some(0), Some(10 * MS), None, Some(20 * MS), Some(30 * MS)];
        let heard = vec![(0, 5 * MS), (1, 16 * MS), (3, 27 * MS)];
        let (run, none) = (Run { sent, heard }, Impairment::default());
        let expected =
            Measured { delay_us: Some(5_000), jitter_us: Some(1_000), sent: 4, lost: 1, rate_bps: None };
        assert_eq!(times(&run, &none, &way(5_000, None)), expected);
        let jittered = Journey { jitter_us: 1_000, ..way(6_000, None) };
        assert_eq!(times(&run, &none, &jittered), Measured { delay_us: Some(6_000), ..expected });
        let nothing = times(&Run::default(), &none, &way(0, None));
        assert_eq!((nothing.delay_us, nothing.sent), (None, 0));
    }

    #[test]
    fn the_links_own_sending_time_is_no_delay() {
        let run = Run { sent: vec![Some(0)], heard: vec![(0, 6 * MS)] };
        let rate = 8 * PROBE as u64 * 1000;
        let asked = Impairment { rate_bps: Some(rate), ..Impairment::default() };
        assert_eq!(times(&run, &asked, &way(5_000, Some(rate))).delay_us, Some(5_000));
    }

    #[test]
    fn rates_are_of_packets_far_apart() {
        let mut heard: Vec<_> = (0..9).map(|i| (i, i as Nanos * MS)).collect();
        let of = |heard: &[(usize, Nanos)]| rate(&Run { sent: Vec::new(), heard: heard.to_vec() }, 1000);
        assert_eq!(of(&heard), Some(8_000_000));
        heard[0].1 += MS / 2;
        assert_eq!(of(&heard), Some(8_000_000), "one late packet");
        assert_eq!(of(&heard[..3]), None);
    }
}
