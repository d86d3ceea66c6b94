//! The process that watches the strands of the links that the kernel carries: the only file of this module that does
//! I/O. Probes, answers to them and requests go in; probes, answers and rulesets come out. It never sees a packet of a
//! user.
//!
//! One thread serves all ends from one level-triggered epoll. Probes are taken by a packet socket for each namespace of
//! strands, before the rules drop them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::config::{Config, End};
use super::rules;
use crate::error::{Context, Error, Kind, Result};
use crate::fastpath::control::{AllCounters, InterfaceStrands, Reply, Request};
use crate::fastpath::health::{PATIENCE, TOO_MANY};
use crate::fastpath::spread::{Arrival, Bundle, IDENT, PROBE_LEN, StrandState};
use crate::fastpath::{Count, PROBE_EVERY};
use crate::lab::Namespaces;
use crate::lab::control::Server;
use crate::netlink::monitor::Monitor;
use crate::packet::{Ipv4View, icmp, ipv4};
use crate::process;
use crate::sys::packet_socket::{Capture, Injector};
use crate::sys::{filter, limits, signals};

/// Sources told of by one wait.
const EVENTS: usize = 64;
/// Probes read from one namespace before others have their turn.
const BUDGET: usize = 256;
/// So many probes have to be sent until something is known of a strand that answers none.
const ENOUGH: u32 = PATIENCE + TOO_MANY;
/// Longer than any probe.
const BUFFER: usize = 256;

/// What epoll events are about; from [`FIRST`] on places, watched in pairs: probes, then devices.
const SIGNAL: u64 = 0;
const LISTENER: u64 = 1;
const FIRST: u64 = 2;
/// Set in the numbers of clients.
const CLIENT: u64 = 1 << 32;

/// Watches the strands of `config` until SIGTERM or SIGINT, and answers at `control`. `on_ready` is called once when
/// all are watched. The signals are blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If a namespace, a device or a socket cannot be opened, or epoll fails.
pub fn run(config: &Config, namespaces: &Namespaces, control: &Path, on_ready: impl FnOnce()) -> Result<()> {
    let kernel = |what: &str| {
        let what = format!("strands: cannot {what}");
        move || what
    };
    limits::raise_open_files().doing(Kind::Kernel, kernel("raise the limit on open files"))?;
    let signals = signals::to_end().doing(Kind::Kernel, kernel("receive signals"))?;
    let server = Server::bind(control)
        .doing(Kind::Environment, || format!("cannot listen at {}", control.display()))?;
    let watched = Watched::open(config, namespaces)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(Kind::Kernel, kernel("wait"))?;
    let mut process = Process { epoll, server, namespaces, watched, ident: 0 };
    process.watch(signals.as_fd(), SIGNAL).doing(Kind::Kernel, kernel("wait"))?;
    process.watch(process.server.listener(), LISTENER).doing(Kind::Kernel, kernel("wait"))?;
    process.watch_places().doing(Kind::Kernel, kernel("wait"))?;
    on_ready();
    process.serve()
}

/// All that is watched by one configuration.
#[derive(Debug)]
struct Watched {
    places: Vec<Place>,
}

/// A namespace of strands, and the partition whose links have them.
#[derive(Debug)]
struct Place {
    netns: String,
    partition: String,
    probes: Capture,
    devices: Monitor,
    /// The devices of the partition have changed, or have not been looked at.
    look: bool,
    ends: Vec<Watch>,
}

/// An end of a link.
#[derive(Debug)]
struct Watch {
    end: End,
    bundle: Bundle,
    strands: Vec<Device>,
    /// Whether the device of the link is up.
    up: bool,
    /// The strands that the kernel's rules use, where that is known.
    used: Option<Vec<bool>>,
    /// Probes sent of each strand since somebody watches.
    probes: u32,
    /// Answers heard to probes of all strands.
    answers: u64,
}

/// The device of a strand, and what has passed it that was no packet of a user, or before anybody watched.
#[derive(Debug)]
struct Device {
    index: u32,
    injector: Injector,
    beside: Passed,
}

/// Packets that a device has sent, or should have, and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Passed {
    sent: u64,
    received: u64,
}

struct Process<'a> {
    epoll: Epoll,
    server: Server,
    namespaces: &'a Namespaces,
    watched: Watched,
    /// Identification of the next probe or answer.
    ident: u16,
}

impl Process<'_> {
    fn watch(&self, fd: BorrowedFd<'_>, number: u64) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))
    }

    fn watch_places(&self) -> nix::Result<()> {
        for (place, number) in self.watched.places.iter().zip((FIRST..).step_by(2)) {
            self.watch(place.probes.as_fd(), number)?;
            self.watch(place.devices.as_fd(), number + 1)?;
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut due = Instant::now();
        loop {
            let count = match self.epoll.wait(&mut events, until(due)) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(Error::kernel("strands: cannot wait for probes").because(e)),
            };
            for number in events[..count].iter().map(EpollEvent::data) {
                match number {
                    SIGNAL => return Ok(()),
                    LISTENER => self.accept(),
                    client if client >= CLIENT => self.converse(client - CLIENT),
                    place => self.hear(place - FIRST)?,
                }
            }
            // The next time counts from here, however late this is: strands are judged by the number of probes, and
            // none is sent to make up for a time in which no answer could be read.
            if due <= Instant::now() {
                self.probe();
                due = Instant::now() + PROBE_EVERY;
                self.settle();
            }
        }
    }

    /// Something has come to a namespace of strands, or its partition has changed.
    fn hear(&mut self, number: u64) -> Result<()> {
        let Some(place) = usize::try_from(number / 2).ok().and_then(|at| self.watched.places.get_mut(at))
        else {
            return Ok(());
        };
        if number.is_multiple_of(2) {
            place.receive(&mut self.ident);
        } else if place.devices.changed()? {
            place.look = true;
            place.look()?;
        }
        Ok(())
    }

    fn probe(&mut self) {
        for place in &mut self.watched.places {
            for watch in place.ends.iter_mut().filter(|w| w.up) {
                watch.probes = watch.probes.saturating_add(1);
                for (at, device) in watch.strands.iter_mut().enumerate() {
                    self.ident = self.ident.wrapping_add(1);
                    device.send(&watch.bundle.probe(at, self.ident));
                }
            }
        }
    }

    /// Has the kernel use the strands that are to be used. What it refuses is asked for again with the next probes: a
    /// change of the lab may have taken the rules away, and will say so.
    fn settle(&mut self) {
        for place in &mut self.watched.places {
            if place.look {
                let _again = place.look();
            }
            // Until something is known, the rules stay that are there: the plan's, or those of the process before this
            // one.
            for watch in place.ends.iter_mut().filter(|w| w.probes >= ENOUGH) {
                let used = watch.bundle.used();
                if watch.used.as_ref() == Some(&used) {
                    continue;
                }
                let text = rules::change(&watch.end, &watch.bundle);
                let load = || process::feed(Command::new("nft").args(["-f", "-"]), &text);
                let loaded = self.namespaces.run(&place.netns, load);
                watch.used = matches!(loaded, Ok(Ok(_))).then_some(used);
            }
        }
    }

    // ---- requests ----------------------------------------------------------------------------------------

    fn accept(&mut self) {
        while let Ok(Some((id, fd))) = self.server.accept() {
            // One that cannot be watched is never answered, and gives up.
            let _unwatched = self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, CLIENT | id));
        }
    }

    fn converse(&mut self, client: u64) {
        for request in self.server.hear(client) {
            let reply = request.map_or_else(Reply::Refused, |request| self.answer(&request));
            self.server.answer(client, &reply);
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let refused = |e: Error| Reply::Refused(e.to_string());
        match request {
            Request::Strands => self.states().map_or_else(refused, Reply::Strands),
            Request::Reload { config } => self.reload(config).map_or_else(refused, |()| Reply::Done),
            Request::Counters => Reply::Counters(self.counters()),
            Request::Accepted
            | Request::StrongHost { .. }
            | Request::Impair { .. }
            | Request::Shape(_)
            | Request::End => Reply::Refused("strands have nothing to do with that".to_owned()),
        }
    }

    /// By base node, under the names that the fast path has for them.
    fn counters(&self) -> AllCounters {
        let mut all = AllCounters::new();
        for watch in self.watched.places.iter().flat_map(|p| &p.ends) {
            let counters = all.entry(watch.end.base.clone()).or_default();
            let probes: u64 = watch.bundle.states().iter().map(|s| s.probes).sum();
            *counters.entry(Count::Probes.as_str().to_owned()).or_default() += probes;
            *counters.entry(Count::Answers.as_str().to_owned()).or_default() += watch.answers;
        }
        all
    }

    fn states(&self) -> Result<Vec<InterfaceStrands>> {
        let mut states = Vec::new();
        for place in &self.watched.places {
            let passed = passed(self.namespaces, &place.netns)?;
            states.extend(place.ends.iter().map(|watch| InterfaceStrands {
                netns: place.partition.clone(),
                dev: watch.end.dev.clone(),
                strands: watch.states(&passed),
            }));
        }
        Ok(states)
    }

    /// Goes on with another configuration, and with what is known of the strands that stay.
    fn reload(&mut self, file: &Path) -> Result<()> {
        let what = || format!("cannot read {}", file.display());
        let bytes = fs::read(file).doing(Kind::Environment, what)?;
        let config: Config = serde_json::from_slice(&bytes).doing(Kind::Bug, what)?;
        let mut watched = Watched::open(&config, self.namespaces)?;
        let before = std::mem::replace(&mut self.watched, Watched { places: Vec::new() });
        watched.inherit(&before);
        self.watched = watched;
        // Closed with the descriptors, those of before are in no epoll any more.
        drop(before);
        self.watch_places().doing(Kind::Kernel, || "strands: cannot wait for probes".to_owned())?;
        self.settle();
        Ok(())
    }
}

/// Rounded up: epoll counts milliseconds, and a wait that ends early would only be begun again.
fn until(due: Instant) -> EpollTimeout {
    let left = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

impl Watched {
    fn open(config: &Config, namespaces: &Namespaces) -> Result<Self> {
        let mut ends: BTreeMap<(&str, &str), Vec<&End>> = BTreeMap::new();
        for end in &config.ends {
            ends.entry((&end.netns, &end.partition)).or_default().push(end);
        }
        let places = ends.into_iter().map(|((netns, partition), ends)| {
            let passed = passed(namespaces, netns)?;
            let what = || format!("cannot watch the strands in namespace {netns}");
            let opened = namespaces.run(netns, || -> io::Result<(Capture, Vec<Watch>)> {
                let probes = Capture::of(&PROBES)?;
                Ok((probes, ends.iter().map(|end| Watch::open(end, &passed)).collect::<io::Result<_>>()?))
            })?;
            let (probes, ends) = opened.doing(Kind::Kernel, what)?;
            let devices = namespaces.run(partition, Monitor::open)??;
            let (netns, partition) = (netns.to_owned(), partition.to_owned());
            let mut place = Place { netns, partition, probes, devices, look: true, ends };
            place.look()?;
            Ok(place)
        });
        Ok(Self { places: places.collect::<Result<_>>()? })
    }

    fn inherit(&mut self, before: &Self) {
        let known = |place: &Place, end: &End| {
            let mut places = before.places.iter().filter(|p| p.netns == place.netns);
            let same = |w: &&Watch| (&w.end.dev, w.end.near, w.end.far) == (&end.dev, end.near, end.far);
            places.find_map(|p| p.ends.iter().find(same))
        };
        for at in 0..self.places.len() {
            let known: Vec<Option<&Watch>> =
                self.places[at].ends.iter().map(|w| known(&self.places[at], &w.end)).collect();
            for (watch, known) in self.places[at].ends.iter_mut().zip(known) {
                known.into_iter().for_each(|known| watch.inherit(known));
            }
        }
    }
}

impl Place {
    /// Whether the links are up; asked for again where that could not be seen.
    fn look(&mut self) -> Result<()> {
        let Some(snapshot) = self.devices.snapshot()? else { return Ok(()) };
        for watch in &mut self.ends {
            watch.up = snapshot.links.values().any(|link| link.name == watch.end.dev && link.up);
        }
        self.look = false;
        Ok(())
    }

    fn receive(&mut self, ident: &mut u16) {
        let mut buffer = [0; BUFFER];
        for _ in 0..BUDGET {
            let Ok(Some(frame)) = self.probes.recv(&mut buffer) else { return };
            let Ok(packet) = Ipv4View::new_checked(frame.bytes) else { continue };
            let found = self.ends.iter_mut().find_map(|watch| {
                let at = watch.strands.iter().position(|d| d.index as usize == frame.device)?;
                Some((watch, at))
            });
            if let Some((watch, at)) = found.filter(|_| !frame.outgoing) {
                watch.receive(at, &packet, ident);
            }
        }
    }
}

impl Watch {
    /// In the namespace of the strands.
    fn open(end: &End, passed: &BTreeMap<String, Passed>) -> io::Result<Self> {
        let device = |strand: &super::config::Strand| {
            let index = if_nametoindex(strand.dev.as_str())?;
            let beside = passed.get(&strand.dev).copied().unwrap_or_default();
            Ok(Device { index, injector: Injector::open(index, false, 0)?, beside })
        };
        let strands = end.strands.iter().map(device).collect::<io::Result<_>>()?;
        Ok(Self {
            end: end.clone(),
            bundle: end.bundle(),
            strands,
            up: false,
            used: None,
            probes: 0,
            answers: 0,
        })
    }

    fn inherit(&mut self, known: &Self) {
        self.bundle.inherit(&known.bundle);
        (self.probes, self.answers) = (known.probes, known.answers);
        for device in &mut self.strands {
            if let Some(known) = known.strands.iter().find(|k| k.index == device.index) {
                device.beside = known.beside;
            }
        }
    }

    fn receive(&mut self, at: usize, packet: &Ipv4View<'_>, ident: &mut u16) {
        let Some(arrival) = self.bundle.read(packet) else { return };
        let device = &mut self.strands[at];
        device.beside.received += 1;
        match arrival {
            // A link that is down answers nothing, as on the fast path.
            Arrival::Probe(seq) if self.up => {
                *ident = ident.wrapping_add(1);
                device.send(&self.bundle.answer(seq, *ident));
            }
            Arrival::Answer(seq) if self.up => {
                self.bundle.heard(at, seq);
                self.answers += 1;
            }
            Arrival::Probe(_) | Arrival::Answer(_) | Arrival::Packet => {}
        }
    }

    /// Packets of users are those that the devices count and the process has not sent or taken.
    fn states(&self, passed: &BTreeMap<String, Passed>) -> Vec<StrandState> {
        let own = self.end.strands.iter().zip(&self.strands).zip(self.bundle.states());
        own.map(|((strand, device), state)| {
            let all = passed.get(&strand.dev).copied().unwrap_or_default();
            StrandState {
                sent: all.sent.saturating_sub(device.beside.sent),
                received: all.received.saturating_sub(device.beside.received),
                ..state
            }
        })
        .collect()
    }
}

impl Device {
    fn send(&mut self, packet: &[u8]) {
        // One that a device does not take is lost, which is what probes are to find out.
        self.beside.sent += u64::from(self.injector.send(packet).is_ok());
    }
}

/// What the devices of a namespace count.
fn passed(namespaces: &Namespaces, netns: &str) -> Result<BTreeMap<String, Passed>> {
    let what = || format!("cannot read the counts of devices in namespace {netns}");
    let text = namespaces.run(netns, || fs::read_to_string("/proc/thread-self/net/dev"))?;
    Ok(parse(&text.doing(Kind::Kernel, what)?))
}

/// `/proc/net/dev`: behind each name eight numbers of what was received, packets second, and eight of what was sent:
/// bytes, packets, errors, drops and others. What a tunnel could not send has been sent too, as far as choosing a
/// strand goes.
fn parse(text: &str) -> BTreeMap<String, Passed> {
    let device = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let [_, received, .., _, sent, errors, drops, _, _, _, _] = numbers[..] else { return None };
        Some((name.trim().to_owned(), Passed { sent: sent + errors + drops, received }))
    };
    text.lines().filter_map(device).collect()
}

const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Takes what may be a probe, so that packets of users cost nothing here: header without options, length, protocol,
/// identifier.
#[expect(clippy::cast_possible_truncation, reason = "40 bytes")]
const PROBES: [filter::Instruction; 10] = [
    (LOAD_BYTE, 0, 0, 0),
    (JUMP_EQUAL, 0, 7, 0x45),
    (LOAD_HALF, 0, 0, 2),
    (JUMP_EQUAL, 0, 5, PROBE_LEN as u32),
    (LOAD_BYTE, 0, 0, 9),
    (JUMP_EQUAL, 0, 3, ipv4::ICMP as u32),
    (LOAD_HALF, 0, 0, (ipv4::HEADER_LEN + icmp::IDENT) as u32),
    (JUMP_EQUAL, 0, 1, IDENT as u32),
    (RETURN, 0, 0, u32::MAX),
    (RETURN, 0, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_devices_are_read_by_name() {
        let text = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  100 1 0 0 0 0 0 0  200 2 0 0 0 0 0 0
s-0a80: 4200 50 0 0 0 0 0 0 5000 60 3 1 0 0 3 0
";
        let passed = parse(text);
        assert_eq!(passed.len(), 2);
        assert_eq!(passed["s-0a80"], Passed { sent: 64, received: 50 });
    }
}
