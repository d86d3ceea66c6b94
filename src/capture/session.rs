//! A capture that runs. Taps go in, with descriptors that say when it is to end; a file comes out. It waits for packets,
//! devices and ends alike, with one epoll, and for time only while packets wait to be put in order.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::devices::{self, Device, Room};
use super::merge::Merge;
use super::writer::Writer;
use super::{Options, Point, Selection};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::packet::pcapng::{Direction, Packet};
use crate::sys::limits;
use crate::sys::tap::{Caught, Net, Passage, Tap};

/// A packet is in its queue at most this long after its stamp, however late its processor gets round to it.
const SLACK: Duration = Duration::from_millis(100);
/// Batches taken from one tap before the others have their turn.
const TURN: usize = 8;
/// Between two looks at what the kernel dropped, while packets come.
const COUNTING: Duration = Duration::from_secs(1);
/// From a change of namespaces to the look at them, which are made in several steps, and how often one is tried.
const SETTLE: Duration = Duration::from_millis(50);
const ATTEMPTS: u32 = 40;

// What an event is about: one of these, or an end, a namespace or a tap.
const NAMESPACES: u64 = 0;
const OUTPUT: u64 = 1;
const END: u64 = 1 << 32;
const ROOM: u64 = 1 << 33;
const TAP: u64 = 1 << 34;

/// Why a capture has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Count,
    Duration,
    /// Whoever read its output has gone.
    Reader,
    /// One of the descriptors given.
    Asked(usize),
}

/// What a capture has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub why: End,
    /// In the file.
    pub packets: u64,
    pub devices: usize,
    /// Dropped by the kernel because nobody took them in time.
    pub dropped: u64,
    /// In the file, but behind a younger one.
    pub late: u64,
}

/// A packet that waits for its turn, with the number of its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    interface: u32,
    direction: Direction,
    length: u32,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Source {
    tap: Tap,
    interface: u32,
}

/// Open taps, and what they catch.
#[derive(Debug)]
pub struct Session {
    options: Options,
    namespaces: Namespaces,
    epoll: Epoll,
    changes: Inotify,
    rooms: BTreeMap<u64, Room>,
    sources: BTreeMap<u64, Source>,
    next: u64,
    net: Net,
    merge: Merge<Kept>,
    writer: Writer,
    written: u64,
    counted: Instant,
    /// When to look for namespaces, and how often that may still fail.
    look: Option<(Instant, u32)>,
}

impl Session {
    /// Opens taps on all that is wanted; from then on nothing is missed.
    ///
    /// # Errors
    /// If a namespace or device cannot be opened, or none is wanted.
    pub fn open(options: Options, namespaces: Namespaces) -> Result<Self> {
        let what = || "cannot prepare a capture".to_owned();
        limits::raise_open_files().doing(Kind::Environment, what)?;
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let changes = changes.doing(Kind::Environment, what)?;
        changes
            .add_watch(namespaces.dir(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE)
            .doing(Kind::Environment, what)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(Kind::Environment, what)?;
        let readable = |tag| EpollEvent::new(EpollFlags::EPOLLIN, tag);
        epoll.add(&changes, readable(NAMESPACES)).doing(Kind::Environment, what)?;
        let longest = usize::try_from(options.filter.snaplen).unwrap_or(usize::MAX).max(1);
        let writer = Writer::new(&options.filter);
        let mut session = Self {
            options,
            namespaces,
            epoll,
            changes,
            rooms: BTreeMap::new(),
            sources: BTreeMap::new(),
            next: 0,
            net: Net::new(longest),
            merge: Merge::default(),
            writer,
            written: 0,
            counted: Instant::now(),
            look: None,
        };
        session.open_all()?;
        Ok(session)
    }

    /// How many devices are captured on.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.sources.len()
    }

    fn open_all(&mut self) -> Result<()> {
        let mut names = Vec::new();
        for point in devices::points(&self.namespaces)? {
            if self.options.selection.has(&point) {
                names.push(self.enter(point)?);
            }
        }
        let points = self.rooms.values().map(|room| &room.point);
        let found: Vec<_> =
            points.zip(&names).flat_map(|(p, names)| names.iter().map(move |n| (p, n.as_str()))).collect();
        no_such_device(&self.options.selection, &found)
    }

    /// Captures in one more namespace; the names of all its devices.
    fn enter(&mut self, point: Point) -> Result<Vec<String>> {
        let number = self.next;
        self.next += 1;
        let room = Room::open(&self.namespaces, point)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, ROOM | number);
        self.epoll.add(room.links.as_fd(), event).doing(Kind::Environment, waiting)?;
        self.rooms.insert(number, room);
        self.look(number)
    }

    /// Opens and closes taps in one namespace; the names of all its devices.
    fn look(&mut self, room: u64) -> Result<Vec<String>> {
        let Some(place) = self.rooms.get_mut(&room) else { return Ok(Vec::new()) };
        let difference = place.look(&self.namespaces, &self.options)?;
        for Device { index, name, link_type, tap } in difference.opened {
            let (number, at) = (self.next, now());
            self.next += 1;
            place.devices.insert(index, number);
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TAP | number);
            self.epoll.add(tap.as_fd(), event).doing(Kind::Environment, waiting)?;
            let interface = self.writer.interface(&name, link_type, at);
            self.sources.insert(number, Source { tap, interface });
        }
        self.close(room, &difference.gone)?;
        Ok(difference.names)
    }

    /// Closes the taps on devices that have gone, when what they caught has been taken.
    fn close(&mut self, room: u64, gone: &[u32]) -> Result<()> {
        let Some(place) = self.rooms.get_mut(&room) else { return Ok(()) };
        let gone: Vec<u64> = gone.iter().filter_map(|index| place.devices.remove(index)).collect();
        for number in gone {
            while self.take(number)?.is_some() {}
            self.count(number)?;
            self.sources.remove(&number);
        }
        Ok(())
    }

    // ---- running -----------------------------------------------------------------------------------------

    /// Writes to `out` what is captured until one of `ends` is readable, `reader` has been hung up, or there is enough.
    /// `progress` hears how many packets are in the file.
    ///
    /// # Errors
    /// If the file cannot be written, or the kernel refuses.
    pub fn run(
        mut self,
        out: &mut dyn Write,
        ends: &[BorrowedFd<'_>],
        reader: Option<BorrowedFd<'_>>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Ended> {
        for (number, fd) in (0..).zip(ends) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, END | number);
            self.epoll.add(fd, event).doing(Kind::Environment, waiting)?;
        }
        if let Some(fd) = reader {
            // A hang-up is always told; files have none and cannot be waited for.
            let _file = self.epoll.add(fd, EpollEvent::new(EpollFlags::empty(), OUTPUT));
        }
        let until = self.options.duration.map(|d| Instant::now() + d);
        let begun = self.writer.flush(out).map_err(Stop::from);
        let mut turn = begun.map(|()| None);
        let why = loop {
            match turn {
                Ok(None) => {}
                Ok(Some(why)) => break why,
                Err(Stop::Reader) => break End::Reader,
                Err(Stop::Error(e)) => return Err(e),
            }
            turn = self.turn(out, until, progress);
        };
        self.finish(out, why)
    }

    fn turn(
        &mut self,
        out: &mut dyn Write,
        until: Option<Instant>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<End>, Stop> {
        if self.enough() {
            return Ok(Some(End::Count));
        }
        let read_to = now();
        // Room for all that can be ready: what is not told of has nothing older.
        let mut events = vec![EpollEvent::empty(); self.sources.len() + self.rooms.len() + 16];
        let ready = match self.epoll.wait(&mut events, self.timeout(until)) {
            Err(Errno::EINTR) => 0,
            other => other.doing(Kind::Environment, waiting)?,
        };
        let (mut oldest, mut asked, mut changed) = (u64::MAX, None, Vec::new());
        for event in &events[..ready] {
            match event.data() {
                NAMESPACES => {
                    while self.changes.read_events().is_ok_and(|events| !events.is_empty()) {}
                    self.look = Some((Instant::now() + SETTLE, ATTEMPTS));
                }
                OUTPUT => return Err(Stop::Reader),
                tag if tag & TAP != 0 => {
                    oldest = oldest.min(self.drain(tag & !TAP)?.unwrap_or(u64::MAX));
                }
                tag if tag & ROOM != 0 => changed.push(tag & !ROOM),
                tag => asked = asked.or(usize::try_from(tag & !END).ok()),
            }
        }
        let slack = u64::try_from(SLACK.as_nanos()).unwrap_or(u64::MAX);
        self.write(out, oldest.min(read_to.saturating_sub(slack)))?;
        progress(self.written);
        if self.enough() {
            return Ok(Some(End::Count));
        }
        if let Some(number) = asked {
            return Ok(Some(End::Asked(number)));
        }
        if until.is_some_and(|at| at <= Instant::now()) {
            return Ok(Some(End::Duration));
        }
        self.follow(&changed)?;
        Ok(None)
    }

    fn enough(&self) -> bool {
        self.options.count.is_some_and(|count| self.written >= count)
    }

    fn timeout(&self, until: Option<Instant>) -> EpollTimeout {
        let here = Instant::now();
        let left = |at: Instant| at.saturating_duration_since(here);
        let held = self.merge.oldest().map(|at| Duration::from_nanos(at.saturating_sub(now())) + SLACK);
        let look = self.look.map(|(at, _)| left(at));
        match [until.map(left), held, look].into_iter().flatten().min() {
            Some(wait) => {
                EpollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(EpollTimeout::MAX)
            }
            None => EpollTimeout::NONE,
        }
    }

    /// Devices and namespaces that came and went.
    fn follow(&mut self, changed: &[u64]) -> Result<()> {
        for room in changed {
            let Some(place) = self.rooms.get(room) else { continue };
            let (news, _) = place.links.news().doing(Kind::Kernel, waiting)?;
            // Another device may have the number by now.
            let gone: Vec<u32> = news.iter().filter(|n| n.gone).map(|n| n.index).collect();
            self.close(*room, &gone)?;
            // A namespace that ends with its lab, or with a change, has nothing to open any more.
            if let Err(e) = self.look(*room)
                && self.rooms.get(room).is_some_and(|r| self.namespaces.path(&r.point.ns).exists())
            {
                return Err(e);
            }
        }
        match self.look {
            Some((at, attempts)) if at <= Instant::now() => {
                let again = self.look_for_namespaces().is_err() && attempts > 1;
                self.look = again.then(|| (Instant::now() + SETTLE, attempts - 1));
            }
            Some(_) | None => {}
        }
        if self.counted.elapsed() >= COUNTING {
            self.count_all()?;
        }
        Ok(())
    }

    fn look_for_namespaces(&mut self) -> Result<()> {
        let points = devices::points(&self.namespaces)?;
        let left = |room: &Room| !points.contains(&room.point);
        let left: Vec<u64> = self.rooms.iter().filter(|(_, room)| left(room)).map(|(n, _)| *n).collect();
        left.into_iter().try_for_each(|room| self.leave(room))?;
        for point in points {
            let known = self.rooms.values().any(|r| r.point == point);
            if !known && self.options.selection.has(&point) {
                self.enter(point)?;
            }
        }
        Ok(())
    }

    /// A namespace is no longer the lab's: closes what is open in it, so that the kernel can remove it.
    fn leave(&mut self, room: u64) -> Result<()> {
        let Some(place) = self.rooms.get(&room) else { return Ok(()) };
        let devices: Vec<u32> = place.devices.keys().copied().collect();
        self.close(room, &devices)?;
        self.rooms.remove(&room);
        Ok(())
    }

    // ---- packets -----------------------------------------------------------------------------------------

    /// Takes what a tap has, up to its share; if there may be more, the stamp of the last one.
    fn drain(&mut self, number: u64) -> Result<Option<u64>> {
        let mut last = None;
        for _ in 0..TURN {
            match self.take(number)? {
                Some(at) => last = Some(at),
                None => return Ok(None),
            }
        }
        Ok(last)
    }

    /// Takes one batch from a tap; the stamp of the last packet, `None` where there is none.
    fn take(&mut self, number: u64) -> Result<Option<u64>> {
        let Some(source) = self.sources.get(&number) else { return Ok(None) };
        let (merge, interface, mut last) = (&mut self.merge, source.interface, None);
        let hauled = self.net.haul(&source.tap, &mut |caught: Caught<'_>| {
            last = Some(caught.at);
            let (length, bytes) = (caught.length, caught.bytes.to_vec());
            merge.push(caught.at, Kept { interface, direction: direction(caught.passage), length, bytes });
        });
        match hauled {
            // It has been set down; if it has gone, that is told elsewhere.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENETDOWN | libc::ENODEV)) => Ok(last),
            other => other.map(|_| last).doing(Kind::Kernel, || "cannot read a capture".to_owned()),
        }
    }

    /// Writes what nothing can overtake any more.
    fn write(&mut self, out: &mut dyn Write, until: u64) -> Result<(), Stop> {
        while !self.enough() {
            let Some(held) = self.merge.pop(until) else { break };
            let Kept { interface, direction, length, bytes } = &held.packet;
            let packet =
                Packet { interface: *interface, at: held.at, direction: *direction, length: *length, bytes };
            self.writer.packet(&packet, out)?;
            self.written += 1;
        }
        Ok(self.writer.flush(out)?)
    }

    fn count(&mut self, number: u64) -> Result<()> {
        if let Some(source) = self.sources.get(&number) {
            let counts = source.tap.statistics().doing(Kind::Kernel, || "cannot count drops".to_owned())?;
            self.writer.count(source.interface, counts.seen, counts.dropped);
        }
        Ok(())
    }

    fn count_all(&mut self) -> Result<()> {
        self.counted = Instant::now();
        let numbers: Vec<u64> = self.sources.keys().copied().collect();
        numbers.into_iter().try_for_each(|number| self.count(number))?;
        self.writer.statistics(now(), false);
        Ok(())
    }

    /// Takes what is still in the queues, counts, and closes the file.
    fn finish(mut self, out: &mut dyn Write, why: End) -> Result<Ended> {
        let until = now();
        for number in self.sources.keys().copied().collect::<Vec<u64>>() {
            // What came later is not this capture's: a flood would never let it end.
            while self.take(number)?.is_some_and(|at| at <= until) {}
        }
        self.count_all()?;
        let result = self.write(out, u64::MAX).and_then(|()| {
            self.writer.statistics(now(), true);
            Ok(self.writer.flush(out)?)
        });
        let ended = Ended {
            why,
            packets: self.written,
            devices: self.writer.devices(),
            dropped: self.writer.dropped(),
            late: self.merge.late(),
        };
        devices::close(self.sources.into_values().map(|s| s.tap).collect());
        match result {
            Ok(()) | Err(Stop::Reader) => Ok(ended),
            Err(Stop::Error(e)) => Err(e),
        }
    }
}

/// What ends a capture from inside.
#[derive(Debug)]
enum Stop {
    Reader,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        if e.kind() == ErrorKind::BrokenPipe {
            Self::Reader
        } else {
            Self::Error(Error::environment(writing()).because(e))
        }
    }
}

fn no_such_device(selection: &Selection, found: &[(&Point, &str)]) -> Result<()> {
    let Some((words, there)) = selection.missing(found) else { return Ok(()) };
    let error = Error::usage(format!("there is no device {words}"));
    Err(if there.is_empty() { error } else { error.hint(format!("its devices: {}", there.join(", "))) })
}

fn direction(passage: Passage) -> Direction {
    match passage {
        Passage::Unicast => Direction::Unicast,
        Passage::Broadcast => Direction::Broadcast,
        Passage::Multicast => Direction::Multicast,
        Passage::Other => Direction::Promiscuous,
        Passage::Sent => Direction::Outbound,
    }
}

/// Of the clock that stamps packets.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn waiting() -> String {
    "cannot wait for packets".to_owned()
}

fn writing() -> String {
    "cannot write the capture".to_owned()
}
