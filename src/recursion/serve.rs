//! The process that serves the emulated routers of a lab: the only file of this module that does I/O. Packets for the
//! routers themselves, datagrams of the exit resolution protocol and changes of routes go in; packets, datagrams and the
//! routes of edges come out. It never sees a packet in transit.
//!
//! One thread serves all routers from one level-triggered epoll. A speaker's socket is in the namespace of its phantom VH,
//! so that what it says crosses the inner VI, as the packets do that follow from it, and is lost when these would be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use ipnet::Ipv4Net;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;

use super::config::{Config, Edge, Router};
use super::edge::{self, Exits};
use super::exchange::{self, Bind, Key, Port, Records, Speaker, State, Table, Timers, UDP_PORT};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::netlink::monitor::Monitor;
use crate::netlink::{Request, Socket};
use crate::routing::fabric;
use crate::sys::{limits, signals, tun};

/// The largest IPv4 packet.
const BUFFER: usize = 65_535;
/// Packets read from one source before the next has its turn.
const BUDGET: usize = 64;
/// Sources told of by one wait.
const EVENTS: usize = 64;
/// After a start, until all is known; before, ports that are not heard yet count as there, and routes that nobody speaks of yet
/// stay: the hold time of the others, and a second in which the kernel may notice that the
/// router's devices have a carrier again (`linkwatch`).
const START: Duration = Duration::from_secs(2);
/// After which a route that the kernel refused is asked for again: its device may be on its way up.
const AGAIN: Duration = Duration::from_millis(100);

/// What an epoll event is about. Indices are those of routers and their edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The router has sent a packet by this port.
    Sent(usize, usize),
    /// A packet for the router has come to this edge.
    Came(usize, usize),
    Datagram(usize, usize),
    /// Routes or devices of the router have changed.
    Router(usize),
    /// Routes or devices of the edge have changed.
    Edge(usize, usize),
    Signal,
}

/// A router and what it is served with.
#[derive(Debug)]
struct Served {
    router: Router,
    monitor: Monitor,
    ports: Vec<ServedPort>,
    exits: Exits,
}

/// One port of a router.
#[derive(Debug)]
struct ServedPort {
    /// The router's own device.
    card: OwnedFd,
    /// The edge's way to the router.
    punt: OwnedFd,
    carrier: bool,
    exchange: Option<Exchange>,
}

/// What an edge has where exits are found by the protocol.
#[derive(Debug)]
struct Exchange {
    socket: UdpSocket,
    speaker: Speaker,
    monitor: Monitor,
    requests: Socket,
    /// Of the speaker's table when the routes were written last.
    generation: Option<u64>,
    /// When to write them again.
    again: Option<Duration>,
    /// Routes that nobody speaks of any more, and until when they stay (docs/exit-resolution.md, section 9).
    fading: BTreeMap<Ipv4Net, Duration>,
}

/// Serves the routers of `config` until SIGTERM or SIGINT. `on_ready` is called once when all are served. The signals are
/// blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If a namespace, a device or a socket cannot be opened, or epoll fails.
pub fn run(config: &Config, namespaces: &Namespaces, on_ready: impl FnOnce()) -> Result<()> {
    let kernel = |what: &str| {
        let what = format!("emulated routers: cannot {what}");
        move || what
    };
    limits::raise_open_files().doing(Kind::Kernel, kernel("raise the limit on open files"))?;
    let signals = signals::to_end().doing(Kind::Kernel, kernel("receive signals"))?;
    let start = Instant::now();
    let mut served = Vec::with_capacity(config.routers.len());
    for router in &config.routers {
        served.push(Served::open(router, namespaces)?);
    }
    let mut sources = Sources::new().doing(Kind::Kernel, kernel("watch its sources"))?;
    sources.watch_all(&served, &signals).doing(Kind::Kernel, kernel("watch its sources"))?;
    for router in &mut served {
        router.look()?;
        router.settle(start.elapsed());
    }
    on_ready();
    serve(&sources, &mut served, start)
}

/// An epoll whose events carry indices of what they are about.
#[derive(Debug)]
struct Sources {
    epoll: Epoll,
    all: Vec<Source>,
}

impl Sources {
    fn new() -> nix::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, all: Vec::new() })
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, source: Source) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, self.all.len() as u64))?;
        self.all.push(source);
        Ok(())
    }

    fn watch_all(&mut self, served: &[Served], signals: &SignalFd) -> nix::Result<()> {
        for (r, router) in served.iter().enumerate() {
            self.watch(router.monitor.as_fd(), Source::Router(r))?;
            for (p, port) in router.ports.iter().enumerate() {
                self.watch(port.card.as_fd(), Source::Sent(r, p))?;
                self.watch(port.punt.as_fd(), Source::Came(r, p))?;
                let Some(exchange) = &port.exchange else { continue };
                self.watch(exchange.socket.as_fd(), Source::Datagram(r, p))?;
                self.watch(exchange.monitor.as_fd(), Source::Edge(r, p))?;
            }
        }
        self.watch(signals.as_fd(), Source::Signal)
    }

    fn source(&self, event: EpollEvent) -> Option<Source> {
        self.all.get(usize::try_from(event.data()).ok()?).copied()
    }
}

fn serve(sources: &Sources, served: &mut [Served], start: Instant) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let next = served.iter().filter_map(Served::next_timeout).min();
        let timeout = next.map_or(EpollTimeout::NONE, |at| until(at, start.elapsed()));
        let count = match sources.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => continue,
            Err(e) => return Err(Error::kernel("emulated routers: cannot wait for packets").because(e)),
        };
        let now = start.elapsed();
        for source in events[..count].iter().filter_map(|event| sources.source(*event)) {
            match source {
                Source::Sent(r, p) => {
                    let port = &served[r].ports[p];
                    if !carry(&port.card, &port.punt, &mut buffer) {
                        let _gone = sources.epoll.delete(&port.card);
                    }
                }
                Source::Came(r, p) => {
                    let port = &served[r].ports[p];
                    if !carry(&port.punt, &port.card, &mut buffer) {
                        let _gone = sources.epoll.delete(&port.punt);
                    }
                }
                Source::Datagram(r, p) => served[r].ports[p].receive(now, &mut buffer),
                Source::Router(r) => {
                    if served[r].monitor.changed()? {
                        served[r].look()?;
                    }
                }
                Source::Edge(r, p) => {
                    if let Some(exchange) = &mut served[r].ports[p].exchange
                        && exchange.monitor.changed()?
                    {
                        exchange.generation = None;
                    }
                }
                Source::Signal => return Ok(()),
            }
        }
        served.iter_mut().for_each(|router| router.settle(now));
    }
}

/// Rounded up: epoll counts milliseconds, and a wait that ends early would only be begun again.
fn until(at: Duration, now: Duration) -> EpollTimeout {
    let left = at.saturating_sub(now).as_micros().div_ceil(1000);
    u16::try_from(left).map_or(EpollTimeout::from(u16::MAX), EpollTimeout::from)
}

/// Moves packets from one TUN device to another. False when the first is gone; left in the set, it would be ready for ever.
/// What the other refuses, as one that is down does, is lost as on any link.
fn carry(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> bool {
    for _ in 0..BUDGET {
        match tun::read(from.as_fd(), buffer) {
            Ok(len) => {
                let _lost = tun::write(to.as_fd(), &buffer[..len]);
            }
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

impl Served {
    fn open(router: &Router, namespaces: &Namespaces) -> Result<Self> {
        let monitor = namespaces.run(&router.netns, Monitor::open)??;
        let port = |(number, edge)| ServedPort::open(router, number, edge, namespaces);
        let ports = router.edges.iter().enumerate().map(port).collect::<Result<Vec<_>>>()?;
        Ok(Self { router: router.clone(), monitor, ports, exits: Exits::new() })
    }

    /// What the router's kernel has now.
    fn look(&mut self) -> Result<()> {
        if self.router.exchange.is_none() {
            return Ok(());
        }
        // One that does not hold still notifies again.
        if let Some(snapshot) = self.monitor.snapshot()? {
            let exits = edge::exits(&snapshot);
            if exits != self.exits {
                self.exits = exits;
                self.ports.iter_mut().filter_map(|p| p.exchange.as_mut()).for_each(|e| e.generation = None);
            }
        }
        Ok(())
    }

    /// Says what there is to say, writes what routes have changed, and takes ports up or down.
    fn settle(&mut self, now: Duration) {
        let Self { router, ports, exits, .. } = self;
        for (port, edge) in ports.iter_mut().zip(&router.edges) {
            let Some(exchange) = &mut port.exchange else { continue };
            let own = exits.get(&edge.dev);
            exchange.speak(now, edge, own);
            exchange.write(now, router, edge, own);
        }
        self.judge(now);
    }

    /// A port that does not reach the others is none: its device loses its carrier, and routing hears of it.
    fn judge(&mut self, now: Duration) {
        if self.router.exchange.is_none() || now < START {
            return;
        }
        let hears: Vec<BTreeSet<Port>> = self.ports.iter().map(ServedPort::hears).collect();
        let hears = |a: usize, b: usize| hears[a].contains(&number(b));
        let whole = fabric::whole(self.ports.len(), &|a, b| hears(a, b) && hears(b, a));
        for (index, port) in self.ports.iter_mut().enumerate() {
            let carrier = whole.contains(&index);
            if port.carrier != carrier && tun::set_carrier(port.card.as_fd(), carrier).is_ok() {
                port.carrier = carrier;
            }
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        let exchanges = self.ports.iter().filter_map(|p| p.exchange.as_ref());
        let times = exchanges.flat_map(|e| [e.speaker.poll_timeout(), e.again]).flatten();
        times.min()
    }
}

fn number(index: usize) -> Port {
    Port(u16::try_from(index).unwrap_or(u16::MAX))
}

impl ServedPort {
    fn open(router: &Router, index: usize, edge: &Edge, namespaces: &Namespaces) -> Result<Self> {
        let failed = |netns: &str| {
            let what = format!("{}: cannot serve port {} in {netns}", router.name, edge.port);
            move || what
        };
        let attach = |netns: &str, dev: &str| {
            namespaces.run(netns, || tun::attach(dev))?.doing(Kind::Kernel, failed(netns))
        };
        let exchange = match &router.exchange {
            Some(key) => Some(Exchange::open(router, key, index, edge, namespaces)?),
            None => None,
        };
        Ok(Self {
            card: attach(&router.netns, &edge.dev)?,
            punt: attach(&edge.netns, &edge.punt)?,
            carrier: true,
            exchange,
        })
    }

    fn receive(&mut self, now: Duration, buffer: &mut [u8]) {
        let Some(exchange) = &mut self.exchange else { return };
        for _ in 0..BUDGET {
            let Ok((len, from)) = exchange.socket.recv_from(buffer) else { return };
            if let std::net::IpAddr::V4(from) = from.ip() {
                // What is no message of a peer has changed nothing.
                let _refused = exchange.speaker.handle_datagram(now, from, &buffer[..len]);
            }
        }
    }

    /// The ports whose speakers are heard here.
    fn hears(&self) -> BTreeSet<Port> {
        let peers = self.exchange.iter().flat_map(|e| e.speaker.peers());
        peers.filter(|peer| peer.state == State::Up).map(|peer| peer.port).collect()
    }
}

impl Exchange {
    fn open(router: &Router, key: &Key, index: usize, edge: &Edge, namespaces: &Namespaces) -> Result<Self> {
        let speaking = || format!("{}: cannot speak for port {}", router.name, edge.port);
        let bind = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind((edge.phantom, UDP_PORT))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = namespaces.run(&edge.phantom_netns, bind)?.doing(Kind::Kernel, speaking)?;
        let monitor = namespaces.run(&edge.netns, Monitor::open)??;
        let requests = namespaces.run(&edge.netns, Socket::open)?.doing(Kind::Kernel, speaking)?;
        let peers = router.edges.iter().enumerate().filter(|(other, _)| *other != index);
        let config = exchange::Config {
            router: router.edges.first().map_or(Ipv4Addr::UNSPECIFIED, |e| e.addr),
            port: number(index),
            u: edge.phantom,
            epoch: epoch(),
            peers: peers.map(|(other, edge)| (number(other), edge.phantom)).collect(),
            key: key.clone(),
            timers: Timers::default(),
        };
        let speaker = Speaker::new(&config, Duration::ZERO).doing(Kind::Bug, speaking)?;
        Ok(Self {
            socket,
            speaker,
            monitor,
            requests,
            generation: None,
            again: None,
            fading: BTreeMap::new(),
        })
    }

    /// Tells the others what leaves by this port.
    fn speak(&mut self, now: Duration, edge: &Edge, own: Option<&BTreeMap<Ipv4Net, edge::Leaving>>) {
        let mtu = u16::try_from(edge.mtu).unwrap_or(u16::MAX);
        let bind = Bind::new(edge.port.clone(), edge.phantom, [edge.addr].into(), mtu).ok();
        let reach = own.into_iter().flatten().map(|(prefix, leaving)| (*prefix, leaving.metric)).collect();
        let records = Records { bind, reach };
        if *self.speaker.records() != records {
            let _announced = self.speaker.handle_local(now, records);
        }
        if self.speaker.poll_timeout().is_some_and(|at| at <= now) {
            self.speaker.handle_timeout(now);
        }
        while let Some((to, bytes)) = self.speaker.poll_transmit() {
            // What the inner VI does not take is lost, and said again.
            let _lost = self.socket.send_to(&bytes, (to, UDP_PORT));
        }
    }

    /// Brings the edge's routes to what is known.
    fn write(
        &mut self,
        now: Duration,
        router: &Router,
        edge: &Edge,
        own: Option<&BTreeMap<Ipv4Net, edge::Leaving>>,
    ) {
        let due = self.again.is_some_and(|at| at <= now);
        if self.generation == Some(self.speaker.generation()) && !due {
            return;
        }
        self.generation = Some(self.speaker.generation());
        let table: &Table = self.speaker.table();
        let Some(snapshot) = self.monitor.snapshot().ok().flatten() else {
            self.again = Some(now + AGAIN);
            return;
        };
        let changes = edge::changes(edge, &edge::wanted(router, edge, table, own), &snapshot);
        // One by one: what one device that is down refuses must not keep back the others.
        let refused = |request: Request| self.requests.execute([request]).is_err();
        let mut refusals = changes.set.into_iter().map(refused).filter(|refused| *refused).count();
        self.fading.retain(|prefix, _| changes.gone.contains_key(prefix));
        for (prefix, own) in &changes.gone {
            let wait = if *own { Timers::default().linger } else { Duration::ZERO };
            let until = *self.fading.entry(*prefix).or_insert(now + wait);
            if now >= until.max(START) {
                refusals += usize::from(self.requests.execute([Request::del_route(*prefix)]).is_err());
                self.fading.remove(prefix);
            }
        }
        let faded = self.fading.values().map(|until| (*until).max(START)).min();
        let again = (refusals > 0).then_some(now + AGAIN);
        self.again = [faded, again].into_iter().flatten().min();
    }
}

/// Greater than in any former life of the process.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
}
