//! The fast path's I/O, with the files below and beside it that open what it uses. TUN devices, raw sockets of the base nodes,
//! netlink notifications and control requests go in; packets, counters and answers come out. It never decides about a packet:
//! [`Forwarder`] does.
//!
//! One thread serves all the nodes of its [`Config`] from one level-triggered epoll: each source is read up to a
//! budget and its packets are finished before the next source, and an engine that has nothing to do sleeps without
//! a timeout, but for a timer while packets are held back and where strands are probed. What the kernel may keep waiting,
//! such as opening and closing devices and dumps of routes, is done in threads that end with it, beside the packets. A base
//! node and everything on it depend on no other node, so a lab can be split over engines by node.
//!
//! TUN devices hand over TCP segments and UDP datagrams that stand for many packets (see [`crate::packet::segment`]), datagrams
//! that come singly are joined (see [`crate::packet::join`]), and all these stay whole on every base node of the fast path. From
//! the base they are read through a packet socket, which alone tells how to cut them; a raw socket of protocol 4 receives what is
//! for another address of the node, and keeps the kernel from answering "protocol unreachable". To the base they go
//! through a TUN device in its namespace, single packets through a raw socket: either way the base node's own kernel
//! routes and resolves neighbours, exactly as it does around an ipip device.

mod closing;
mod held;
mod packets;
mod probe;
mod reload;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::config::{BaseNode, Config};
use super::control::{self, Reply, Request};
use super::counters::{Count, Reason};
use super::follow::{self, Devices};
use super::forward::Forwarder;
use super::frame::{ETHERNET, Frame};
use super::injector::{self, Injector, execute};
use super::join::Joiner;
use super::shaped;
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::model::Impairment;
use crate::netlink::monitor::{Monitor, Snapshot};
use crate::netlink::{Request as LinkRequest, Socket};
use crate::packet::ipv4;
use crate::shape::{Later, Nanos};
use crate::sys::packet_socket::{self, IcmpSocket};
use crate::sys::tun::{self, Offloading};
use crate::sys::{carrier, limits, signals, socket};

/// Bytes asked for the socket buffers of a base node.
const BASE_BUFFER: usize = 16 << 20;
/// The most bytes that a partition puts into one packet, so that headers of all layers fit in front (a stack has up to 64).
const GSO_MAX_SIZE: u32 = 64_000;
const _: () = assert!(GSO_MAX_SIZE as usize == crate::packet::join::LARGEST);
/// Packets of a partition that may wait to be read. A TUN device does not slow down who sends, and drops what finds no room: TCP
/// has up to 4 MiB on the way by default (`tcp_wmem`), which is some 1,800 segments of 1,400 bytes as the kernel counts them.
const TUN_QUEUE: u32 = 2048;
/// Sources told of by one wait.
const EVENTS: usize = 64;
/// Rounds over the ready sources before a control request is answered even though packets keep coming.
const SETTLE_ROUNDS: usize = 256;
/// How long it sleeps at most, with packets possibly waiting, while it carries them beside other work.
const PAUSE: Duration = Duration::from_micros(200);
/// How long packets wait for a change of routes to be followed: some ten times what that takes.
const SOON: Duration = Duration::from_millis(3);
/// A control line longer than this closes the connection, bytes.
const LONGEST_REQUEST: usize = 4096;

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Tun(usize),
    Base(usize),
    /// Packets to other addresses of the node.
    Others(usize),
    Routes(usize),
    Listener,
    Client(usize),
    Signal,
    /// A device of the kernel that is impaired.
    Shaped(usize),
    Timer,
}

/// Event data: the kind in the upper half, the index in the lower.
impl From<Source> for u64 {
    fn from(source: Source) -> Self {
        let (kind, index) = match source {
            Source::Tun(i) => (0, i),
            Source::Base(i) => (1, i),
            Source::Routes(i) => (2, i),
            Source::Listener => (3, 0),
            Source::Client(i) => (4, i),
            Source::Signal => (5, 0),
            Source::Shaped(i) => (6, i),
            Source::Timer => (7, 0),
            Source::Others(i) => (8, i),
        };
        kind << 32 | index as u64
    }
}

impl Source {
    fn of(data: u64) -> Option<Self> {
        let index = usize::try_from(data & 0xffff_ffff).ok()?;
        match data >> 32 {
            0 => Some(Self::Tun(index)),
            1 => Some(Self::Base(index)),
            2 => Some(Self::Routes(index)),
            3 => Some(Self::Listener),
            4 => Some(Self::Client(index)),
            5 => Some(Self::Signal),
            6 => Some(Self::Shaped(index)),
            7 => Some(Self::Timer),
            8 => Some(Self::Others(index)),
            _ => None,
        }
    }
}

/// What one wait told of.
#[derive(Debug)]
struct Ready {
    events: [EpollEvent; EVENTS],
    count: usize,
}

impl Ready {
    fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.events[..self.count].iter().filter_map(|e| Source::of(e.data()))
    }
}

/// The sockets of a base node.
#[derive(Debug)]
struct Base {
    receiver: OwnedFd,
    /// For what is sent to another address than that of the tunnels.
    others: OwnedFd,
    sender: OwnedFd,
    injector: Injector,
    /// Of the receiver, as far as counted.
    overruns: u32,
}

#[derive(Debug)]
struct Follower {
    /// Elsewhere while the kernel is asked.
    monitor: Option<Monitor>,
    devices: Devices,
}

#[derive(Debug)]
struct ControlClient {
    stream: UnixStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    /// No more requests come, or one was no request: it is closed when all is sent.
    ended: bool,
}

/// A packet that an impairment holds back.
#[derive(Debug)]
enum Held {
    Packet { interface: usize, bytes: Box<[u8]> },
    Frame { device: usize, bytes: Box<[u8]> },
}

#[derive(Debug)]
struct Engine {
    config: Config,
    namespaces: Namespaces,
    /// Of each namespace by name: another of the same name has another.
    inodes: BTreeMap<String, u64>,
    epoll: Epoll,
    forwarder: Forwarder,
    names: Vec<String>,
    /// Namespace and device of each interface.
    places: Vec<(String, String)>,
    tuns: Vec<Offloading>,
    bases: Vec<Base>,
    followers: Vec<Follower>,
    listener: UnixListener,
    clients: BTreeMap<usize, ControlClient>,
    signals: SignalFd,
    frames: Vec<Frame>,
    /// The pieces of a packet that is cut.
    pieces: Vec<Frame>,
    /// Frames to be sent, by index, and where to.
    to_send: Vec<(usize, Ipv4Addr)>,
    /// Frames for partitions, by index, and for which interface.
    to_write: Vec<(usize, usize, Count)>,
    joiner: Joiner,
    /// The base node that has an address.
    by_addr: BTreeMap<Ipv4Addr, usize>,
    /// Sources that probably have something to read, each once.
    ahead: VecDeque<Source>,
    shaped: shaped::Devices,
    /// What partitions say of packets too big for them, by their index; opened when first there is something to say.
    answers: BTreeMap<usize, IcmpSocket>,
    held: Later<Held>,
    /// When strands are probed next; none where there are none.
    probes_due: Option<Nanos>,
    timer: TimerFd,
    /// What the timer is set to.
    armed: Option<Nanos>,
    start: Instant,
}

/// Carries the packets of `config` until SIGTERM or SIGINT. `on_ready` is called once when all packets are carried
/// and `control_path` is listened to. The signals are blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If a namespace, a device or a socket cannot be opened, or epoll fails.
pub fn run(
    config: &Config,
    namespaces: &Namespaces,
    control_path: &Path,
    on_ready: impl FnOnce(),
) -> Result<()> {
    let mut engine = Engine::open(config, namespaces, control_path)?;
    on_ready();
    let end = engine.serve();
    let removed = std::fs::remove_file(control_path);
    end?;
    removed.doing(Kind::Environment, || format!("cannot remove {}", control_path.display()))
}

impl Engine {
    fn open(config: &Config, namespaces: &Namespaces, control_path: &Path) -> Result<Self> {
        let kernel = |what: &str| {
            let what = format!("fast path: cannot {what}");
            move || what
        };
        limits::raise_open_files().doing(Kind::Kernel, kernel("raise the limit on open files"))?;
        let signals = signals::to_end().doing(Kind::Kernel, kernel("receive signals"))?;
        let listener = UnixListener::bind(control_path)
            .doing(Kind::Environment, || format!("cannot listen at {}", control_path.display()))?;
        listener.set_nonblocking(true).doing(Kind::Kernel, kernel("listen"))?;
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(Kind::Kernel, kernel("make an epoll"))?;
        let bases = open_bases(config, namespaces)?;
        let (tuns, followers) = open_partitions(config, namespaces)?;
        let (followers, snapshots): (Vec<_>, Vec<_>) = followers.into_iter().unzip();
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .doing(Kind::Kernel, kernel("make a timer"))?;
        let mut engine = Self {
            config: config.clone(),
            namespaces: namespaces.clone(),
            inodes: inodes(config, namespaces),
            epoll,
            forwarder: Forwarder::new(config),
            names: config.nodes.iter().map(|n| n.name.clone()).collect(),
            places: places(config),
            tuns,
            bases,
            followers,
            listener,
            clients: BTreeMap::new(),
            signals,
            frames: (0..socket::BATCH).map(|_| Frame::new()).collect(),
            pieces: (0..socket::BATCH).map(|_| Frame::new()).collect(),
            to_send: Vec::with_capacity(socket::BATCH),
            to_write: Vec::with_capacity(socket::BATCH),
            joiner: Joiner::default(),
            by_addr: by_addr(config),
            ahead: VecDeque::with_capacity(packets::AHEAD),
            shaped: shaped::Devices::new(namespaces.clone()),
            answers: BTreeMap::new(),
            held: Later::default(),
            probes_due: None,
            timer,
            armed: None,
            start: Instant::now(),
        };
        engine.tell_what_bases_take();
        engine.plan_probes();
        engine.watch_all().doing(Kind::Kernel, kernel("watch its sources"))?;
        for (partition, snapshot) in snapshots.iter().enumerate() {
            if let Some(snapshot) = snapshot {
                engine.take_over(partition, snapshot);
            }
        }
        for device in &config.devices {
            engine.shape(device.clone())?;
        }
        Ok(engine)
    }

    fn tell_what_bases_take(&mut self) {
        for (node, base) in self.bases.iter().enumerate() {
            self.forwarder.set_sends_whole(node, base.injector.takes_whole);
        }
    }

    fn watch_all(&self) -> nix::Result<()> {
        for (i, fd) in self.tuns.iter().enumerate() {
            self.watch(fd, Source::Tun(i))?;
        }
        for (i, base) in self.bases.iter().enumerate() {
            self.watch(&base.receiver, Source::Base(i))?;
            self.watch(&base.others, Source::Others(i))?;
        }
        for (i, follower) in self.followers.iter().enumerate() {
            if let Some(monitor) = &follower.monitor {
                self.watch(monitor, Source::Routes(i))?;
            }
        }
        self.watch(&self.listener, Source::Listener)?;
        self.watch(&self.timer, Source::Timer)?;
        self.watch(&self.signals, Source::Signal)
    }

    fn watch(&self, fd: impl AsFd, source: Source) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.into()))
    }

    fn wait(&self, timeout: EpollTimeout) -> Result<Ready> {
        let mut events = [EpollEvent::empty(); EVENTS];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(Ready { events, count }),
            Err(nix::Error::EINTR) => Ok(Ready { events, count: 0 }),
            Err(e) => Err(Error::kernel("fast path: cannot wait for packets").because(e)),
        }
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            self.set_timer()?;
            let ready = self.wait(EpollTimeout::NONE)?;
            if ready.sources().any(|source| source == Source::Signal) {
                return self.end();
            }
            self.carry(&ready)?;
            let requests = || ready.sources().filter(|s| matches!(s, Source::Listener | Source::Client(_)));
            if requests().next().is_some() {
                self.settle()?;
            }
            for source in requests() {
                self.talk(source);
            }
        }
    }

    /// Handles the packets and route changes among the ready sources; says whether there were any.
    fn carry(&mut self, ready: &Ready) -> Result<bool> {
        let mut any = false;
        for source in ready.sources() {
            if let Source::Routes(partition) = source {
                self.follow_changes(partition)?;
                any = true;
            }
        }
        Ok(self.carry_packets(ready) || any)
    }

    /// Carries packets until none waits.
    fn settle(&mut self) -> Result<()> {
        for _ in 0..SETTLE_ROUNDS {
            let ready = self.wait(EpollTimeout::ZERO)?;
            if !self.carry(&ready)? {
                break;
            }
        }
        Ok(())
    }

    fn follow_changes(&mut self, partition: usize) -> Result<()> {
        let Some(monitor) = &mut self.followers[partition].monitor else { return Ok(()) };
        if monitor.changed()? { self.follow(partition) } else { Ok(()) }
    }

    /// Does in a thread of its own what the kernel may keep waiting: many requests wait while another process changes
    /// devices. Packets are carried until it is done, but for the first `patience`; nothing else is looked at.
    fn meanwhile<T: Send + 'static>(
        &mut self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (done, result) = mpsc::channel();
        let worker = std::thread::spawn(move || {
            // The receiver waits.
            let _taken = done.send(work());
        });
        let mut wait = patience;
        loop {
            match result.recv_timeout(wait) {
                Ok(found) => return Ok(found),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Ok(()) => return Err(Error::bug("a thread of the fast path has no result")),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
            }
            self.set_timer()?;
            let ready = self.wait(EpollTimeout::ZERO)?;
            wait = if self.carry_packets(&ready) { Duration::ZERO } else { PAUSE };
        }
    }

    /// Asks for the partition's routes and devices, and takes them over; where they do not hold still, a notification
    /// is on its way.
    fn follow(&mut self, partition: usize) -> Result<()> {
        let Some(mut monitor) = self.followers[partition].monitor.take() else { return Ok(()) };
        // What has changed is known before the next packet is carried, unless the kernel is busy.
        let (monitor, snapshot) = self.meanwhile(SOON, move || {
            let snapshot = monitor.snapshot();
            (monitor, snapshot)
        })?;
        self.followers[partition].monitor = Some(monitor);
        if let Some(snapshot) = snapshot? {
            self.take_over(partition, &snapshot);
        }
        Ok(())
    }

    fn take_over(&mut self, partition: usize, snapshot: &Snapshot) {
        let devices = &self.followers[partition].devices;
        for (interface, device) in follow::devices(snapshot, devices) {
            self.forwarder.set_device(interface, device);
        }
        self.forwarder.set_fib(partition, follow::fib(snapshot, devices));
    }

    fn now(&self) -> Nanos {
        Nanos::try_from(self.start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    fn set_timer(&mut self) -> Result<()> {
        let due = self.held.due().into_iter().chain(self.probes_due).min();
        if due == self.armed {
            return Ok(());
        }
        let set = match due {
            Some(due) => {
                let wait = i64::try_from(due.saturating_sub(self.now()).max(1)).unwrap_or(i64::MAX);
                let when = Expiration::OneShot(TimeSpec::nanoseconds(wait));
                self.timer.set(when, TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        self.armed = due;
        set.doing(Kind::Kernel, || "fast path: cannot set its timer".into())
    }

    fn impair(&mut self, netns: &str, dev: &str, to: Impairment) -> Reply {
        match self.places.iter().position(|(ns, name)| ns == netns && name == dev) {
            Some(interface) => {
                self.forwarder.set_impairment(interface, to);
                Reply::Done
            }
            None => Reply::Refused(format!("no interface {dev} in namespace {netns}")),
        }
    }

    fn talk(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Client(id) => self.converse(id),
            Source::Tun(_)
            | Source::Base(_)
            | Source::Others(_)
            | Source::Routes(_)
            | Source::Signal
            | Source::Shaped(_)
            | Source::Timer => {}
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let id = (0..).find(|id| !self.clients.contains_key(id)).unwrap_or(usize::MAX);
            if stream.set_nonblocking(true).is_ok() && self.watch(&stream, Source::Client(id)).is_ok() {
                let (received, to_send) = (Vec::new(), Vec::new());
                self.clients.insert(id, ControlClient { stream, received, to_send, ended: false });
            }
        }
    }

    /// Reads what a control client sent, answers whole lines and closes the connection when it is over.
    fn converse(&mut self, id: usize) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        client.receive();
        while let Some(line) = client.next_line() {
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(request),
                Err(e) => Reply::Refused(e.to_string()),
            };
            client.to_send.extend(control::line(&reply).unwrap_or_default());
        }
        client.send();
        if client.ended && client.to_send.is_empty() {
            return;
        }
        let mut interest = EpollFlags::EPOLLIN;
        if !client.to_send.is_empty() {
            interest = EpollFlags::EPOLLOUT;
        }
        if self
            .epoll
            .modify(&client.stream, &mut EpollEvent::new(interest, Source::Client(id).into()))
            .is_ok()
        {
            self.clients.insert(id, client);
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Counters => Reply::Counters(self.counters()),
            Request::Strands => Reply::Strands(self.strands()),
            Request::Accepted => Reply::Accepted(self.accepted()),
            Request::Reload { config } => match read_config(&config).and_then(|new| self.reload(new)) {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Refused(e.to_string()),
            },
            Request::End => match self.end() {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Refused(e.to_string()),
            },
            Request::Impair { netns, dev, to } => self.impair(&netns, &dev, to),
            Request::Shape(device) => match self.shape(device) {
                Ok(()) => Reply::Done,
                Err(e) => Reply::Refused(e.to_string()),
            },
            Request::StrongHost { node, on } => match self.names.iter().position(|name| *name == node) {
                Some(index) => {
                    self.forwarder.set_strong_host(index, on);
                    Reply::Done
                }
                None => Reply::Refused(format!("no base node {node}")),
            },
        }
    }

    fn accepted(&self) -> control::AllAccepted {
        let names = self.names.iter().enumerate();
        let of = |(index, name): (usize, &String)| Some((name.clone(), self.forwarder.accepted(index)?));
        names.filter_map(of).collect()
    }

    fn counters(&mut self) -> control::AllCounters {
        let mut all = BTreeMap::new();
        for (index, base) in self.bases.iter_mut().enumerate() {
            let counters = self.forwarder.counters(index);
            if let Ok(total) = socket::overruns(base.receiver.as_fd()) {
                counters.drop_many(Reason::RxOverrun, u64::from(total.wrapping_sub(base.overruns)));
                base.overruns = total;
            }
            all.insert(self.names[index].clone(), counters.by_name());
        }
        for (node, name, count) in self.shaped.counters() {
            *all.entry(node.to_owned()).or_default().entry(name.to_owned()).or_default() += count;
        }
        all
    }
}

impl ControlClient {
    fn receive(&mut self) {
        let mut chunk = [0; 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(len) => {
                    self.received.extend_from_slice(&chunk[..len]);
                    if self.received.len() < LONGEST_REQUEST {
                        continue;
                    }
                    self.ended = true;
                }
                Err(e) => self.ended |= e.kind() != io::ErrorKind::WouldBlock,
            }
            return;
        }
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.received.iter().position(|b| *b == b'\n')?;
        Some(self.received.drain(..=end).collect())
    }

    fn send(&mut self) {
        while !self.to_send.is_empty() {
            match self.stream.write(&self.to_send) {
                Ok(len) => drop(self.to_send.drain(..len)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.ended = true;
                    self.to_send.clear();
                }
            }
        }
    }
}

/// Why the kernel of a base node did not take a packet.
pub(super) fn refusal(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Reason::TooBig,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EACCES) => {
            Reason::BaseUnreachable
        }
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Reason::TxOverrun,
        _ => Reason::TxError,
    }
}

/// What closing waits for in the kernel, packets need not wait for.
fn close(left_over: Option<shaped::LeftOver>) {
    if let Some(left_over) = left_over {
        std::thread::spawn(move || left_over.remove());
    }
}

fn open_bases(config: &Config, namespaces: &Namespaces) -> Result<Vec<Base>> {
    let program = injector::Program::load();
    let nodes: Vec<_> = config.nodes.iter().map(|node| (node.netns.as_str(), node)).collect();
    namespaces.visit(&nodes, |node| open_base(node, &program))?.into_iter().collect()
}

/// In the namespace of the calling thread.
fn open_base(node: &BaseNode, program: &injector::Program) -> Result<Base> {
    let open = || -> io::Result<Base> {
        let others = packet_socket::others(node.addr, ipv4::IPIP)?;
        let sender = socket::raw_sender(node.addr)?;
        let injector = injector::open(node.addr, program)?;
        let receiver = packet_socket::receiver(node.addr, ipv4::IPIP)?;
        socket::set_buffers(receiver.as_fd(), BASE_BUFFER)?;
        socket::set_buffers(sender.as_fd(), BASE_BUFFER)?;
        Ok(Base { receiver, others, sender, injector, overruns: 0 })
    };
    open().doing(Kind::Kernel, || format!("fast path: cannot open its sockets on base node {}", node.name))
}

/// TUN devices of a partition, in the namespace of the calling thread.
fn open_tuns(devices: &[&str]) -> io::Result<Vec<Offloading>> {
    let tuns = devices.iter().map(|dev| tun::attach_offloading(dev, false)).collect::<io::Result<_>>()?;
    let queue = |dev: &&str| {
        Ok(LinkRequest::set_queue(nix::net::if_::if_nametoindex(*dev)?, TUN_QUEUE, GSO_MAX_SIZE))
    };
    execute(devices.iter().map(queue).collect::<io::Result<Vec<_>>>()?)?;
    let socket = Socket::open()?;
    devices.iter().try_for_each(|dev| carrier::settle(socket.as_fd(), dev).map(drop))?;
    Ok(tuns)
}

fn read_config(config: &Path) -> Result<Config> {
    let what = || format!("fast path: cannot read {}", config.display());
    let bytes = std::fs::read(config).doing(Kind::Environment, what)?;
    serde_json::from_slice(&bytes).doing(Kind::Bug, what)
}

fn inodes(config: &Config, namespaces: &Namespaces) -> BTreeMap<String, u64> {
    let names = config.nodes.iter().map(|n| &n.netns).chain(config.partitions.iter().map(|p| &p.netns));
    names.filter_map(|ns| Some((ns.clone(), std::fs::metadata(namespaces.path(ns)).ok()?.ino()))).collect()
}

fn by_addr(config: &Config) -> BTreeMap<Ipv4Addr, usize> {
    config.nodes.iter().enumerate().map(|(index, node)| (node.addr, index)).collect()
}

fn places(config: &Config) -> Vec<(String, String)> {
    let place = |i: &super::config::Interface| (config.partitions[i.partition].netns.clone(), i.dev.clone());
    config.interfaces.iter().map(place).collect()
}

/// What follows a partition, and what it has seen first.
type Opened = (Follower, Option<Snapshot>);

/// The TUN of each interface, in the order of the config, and the routes of each partition, as far as they hold still.
fn open_partitions(config: &Config, namespaces: &Namespaces) -> Result<(Vec<Offloading>, Vec<Opened>)> {
    let mut all = vec![Devices::new(); config.partitions.len()];
    for (i, interface) in config.interfaces.iter().enumerate() {
        all[interface.partition].insert(interface.dev.clone(), i);
    }
    let partitions: Vec<_> = config.partitions.iter().map(|p| p.netns.as_str()).zip(&all).collect();
    let opened = namespaces.visit(&partitions, |devices| {
        let (tuns, mut monitor) = open_partition(devices)?;
        let snapshot = monitor.snapshot()?;
        Ok::<_, Error>((tuns, monitor, snapshot))
    })?;
    let mut tuns: BTreeMap<usize, Offloading> = BTreeMap::new();
    let mut followers = Vec::new();
    for (opened, devices) in opened.into_iter().zip(all) {
        let (opened, monitor, snapshot) = opened?;
        tuns.extend(opened);
        followers.push((Follower { monitor: Some(monitor), devices }, snapshot));
    }
    Ok((tuns.into_values().collect(), followers))
}

/// In the namespace of the calling thread.
fn open_partition(devices: &Devices) -> Result<(Vec<(usize, Offloading)>, Monitor)> {
    let names: Vec<&str> = devices.keys().map(String::as_str).collect();
    let tuns = open_tuns(&names)
        .doing(Kind::Kernel, || format!("fast path: cannot open TUN {}", names.join(" or ")))?;
    Ok((devices.values().copied().zip(tuns).collect(), Monitor::open()?))
}
