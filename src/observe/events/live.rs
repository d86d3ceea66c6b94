//! The events of a running lab as they happen. Its namespaces, its init and its state directory are listened to, by one
//! epoll; events come out with the time. It never asks again what nobody said has changed, and never changes the lab.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Event, SCHEMA, Service, What};
use crate::capture::Point;
use crate::error::{Context as _, Kind, Result};
use crate::lab::control::{Heard, Status, Watch};
use crate::lab::{self, Running};
use crate::model::{Lab, LinkId, NetId, NodeId};
use crate::netlink::links::{self, Links, News};
use crate::netlink::monitor::Monitor;
use crate::observe::fib::{self, Difference};
use crate::observe::probe::timeout;
use crate::routing::{Expected, Faults, Rib};
use crate::sys::{limits, pidfd};

/// Between two looks at one node, as for waiting until routing has settled.
const PAUSE: Duration = Duration::from_millis(10);
const EVENTS: usize = 256;

// What a wake-up is about: one of these, or a caller's descriptor, or a namespace's devices or routes.
const INIT: u64 = 0;
const GONE: u64 = 1;
const FILES: u64 = 2;
const OTHER: u64 = 1 << 32;
const DEVICES: u64 = 1 << 33;
const ROUTES: u64 = 1 << 34;

/// A namespace that is listened to.
#[derive(Debug)]
struct Place {
    number: u64,
    point: Point,
    links: Links,
    /// As last told, by index.
    devices: BTreeMap<u32, News>,
    routes: Option<Routes>,
}

/// The routes of a node.
#[derive(Debug)]
struct Routes {
    node: NodeId,
    monitor: Monitor,
    difference: Option<Difference>,
    looked: Instant,
    stale: bool,
}

/// A lab that is listened to.
#[derive(Debug)]
pub struct Live {
    running: Running,
    rib: Rib,
    faults: Faults,
    expected: Expected,
    epoll: Epoll,
    files: Inotify,
    gone: OwnedFd,
    init: Option<Watch>,
    places: BTreeMap<String, Place>,
    next: u64,
    services: BTreeMap<String, Status>,
    /// Networks that have diverged.
    diverged: BTreeMap<NetId, bool>,
    told: Vec<What>,
}

/// What [`Live::wait`] came back with.
#[derive(Debug, Default)]
pub struct Woken {
    pub events: Vec<Event>,
    /// The lab has gone down.
    pub ended: bool,
    /// What [`Live::attend`] was told of is ready.
    pub other: bool,
}

impl Live {
    /// Listens to a lab, whose user namespace the caller has joined. The first event is [`What::Start`].
    ///
    /// # Errors
    /// If a namespace cannot be entered, or init does not answer.
    pub fn open(running: Running) -> Result<Self> {
        let what = || format!("cannot listen to lab {}", running.name());
        limits::raise_open_files().doing(Kind::Environment, what)?;
        let gone = pidfd::open(running.state().init).doing(Kind::Environment, what)?;
        let files = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let files = files.doing(Kind::Environment, what)?;
        files.add_watch(running.dir(), AddWatchFlags::IN_MOVED_TO).doing(Kind::Environment, what)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).doing(Kind::Environment, what)?;
        let (init, services) = running.init()?.watch()?;
        for (fd, tag) in [(files.as_fd(), FILES), (gone.as_fd(), GONE), (init.as_fd(), INIT)] {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, tag)).doing(Kind::Environment, what)?;
        }
        let rib = Rib::compute(&running.state().lab);
        // What changed since the caller looked is in the files.
        let faults = running.faults()?;
        let expected = Expected::compute(&running.state().lab, &rib, &faults);
        let lab = &running.state().lab;
        let start = What::Start { nodes: lab.named_nodes().count(), links: lab.links().count() };
        let mut live = Self {
            rib,
            faults,
            expected,
            epoll,
            files,
            gone,
            init: Some(init),
            places: BTreeMap::new(),
            next: 0,
            services: services.into_iter().map(|s| (s.name.clone(), s)).collect(),
            diverged: BTreeMap::new(),
            told: vec![start],
            running,
        };
        live.enter()?;
        live.look()?;
        Ok(live)
    }

    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Partitions of a network whose routes are not the computed ones, of those whose routes are known.
    #[must_use]
    pub fn diverged(&self, net: NetId) -> usize {
        let routes = self.places.values().filter_map(|p| p.routes.as_ref());
        routes.filter(|r| r.node.net == net && r.difference.is_some()).count()
    }

    /// The first of these, and the first route that is not the computed one.
    #[must_use]
    pub fn first_difference(&self, net: NetId) -> Option<(NodeId, &Difference)> {
        let routes = self.places.values().filter_map(|p| p.routes.as_ref()).filter(|r| r.node.net == net);
        routes.filter_map(|r| Some((r.node, r.difference.as_ref()?))).min_by_key(|(node, _)| *node)
    }

    /// Virtual links whose packets do not pass what lies below, as computed.
    #[must_use]
    pub fn dead(&self) -> &BTreeSet<LinkId> {
        &self.expected.cut.dead
    }

    /// The services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Status> {
        self.services.values()
    }

    /// Whether routes of this network are known in advance.
    #[must_use]
    pub fn is_known(&self, net: NetId) -> bool {
        !self.expected.unknown.contains(&net)
    }

    /// Has [`Self::wait`] come back, too, when this can be read, or else only when it is hung up.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn attend(&self, fd: BorrowedFd<'_>, readable: bool) -> Result<()> {
        // A hang-up is always told.
        let flags = if readable { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        match self.epoll.add(fd, EpollEvent::new(flags, OTHER)) {
            // Files have no hang-ups.
            Err(Errno::EPERM) if !readable => Ok(()),
            other => other.doing(Kind::Environment, waiting),
        }
    }

    /// Waits until something happens, something else that is attended to is ready, or the time is over.
    ///
    /// # Errors
    /// If the lab can no longer be listened to.
    pub fn wait(&mut self, limit: Option<Instant>) -> Result<Woken> {
        let mut woken = self.turn(limit)?;
        if woken.ended {
            self.told.push(What::LabDown);
        }
        woken.events = std::mem::take(&mut self.told).into_iter().map(|what| self.event(what)).collect();
        Ok(woken)
    }

    fn event(&self, what: What) -> Event {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Event { schema: SCHEMA, time: lab::timestamp_ns(time), lab: self.running.name().to_owned(), what }
    }

    fn turn(&mut self, limit: Option<Instant>) -> Result<Woken> {
        let mut woken = Woken::default();
        let mut events = [EpollEvent::empty(); EVENTS];
        let ready = match self.epoll.wait(&mut events, timeout(self.time_left(limit))) {
            Err(Errno::EINTR) => 0,
            other => other.doing(Kind::Environment, waiting)?,
        };
        let tags = || events[..ready].iter().map(EpollEvent::data);
        woken.ended = tags().any(|tag| tag == GONE);
        woken.other = tags().any(|tag| tag == OTHER);
        if woken.ended {
            return Ok(woken);
        }
        let handled = tags().try_for_each(|tag| self.handle(tag)).and_then(|()| self.look());
        match handled {
            // A lab that ends takes away what is looked at.
            Err(_) if self.has_ended() => woken.ended = true,
            other => other?,
        }
        Ok(woken)
    }

    /// Whether the lab has gone down, or does so in this moment.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.gone.as_fd(), PollFlags::POLLIN)];
        // A process that is being killed takes a moment.
        poll(&mut fds, PollTimeout::from(500u16)).is_ok_and(|ready| ready > 0)
    }

    /// Nothing that was found is told yet, or a node is due.
    fn time_left(&self, limit: Option<Instant>) -> Duration {
        if !self.told.is_empty() {
            return Duration::ZERO;
        }
        let stale = self.places.values().filter_map(|p| p.routes.as_ref()).filter(|r| r.stale);
        let due = stale.map(|r| r.looked + PAUSE).chain(limit).min();
        due.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, tag: u64) -> Result<()> {
        match tag {
            INIT => self.hear_init(),
            FILES => self.read_files(),
            tag if tag & DEVICES != 0 => self.hear_devices(tag & !DEVICES),
            tag if tag & ROUTES != 0 => {
                let place = self.places.values_mut().find(|p| p.number == tag & !ROUTES);
                if let Some(routes) = place.and_then(|p| p.routes.as_mut()) {
                    routes.stale |= routes.monitor.changed()?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // ---- services ----------------------------------------------------------------------------------------

    fn hear_init(&mut self) -> Result<()> {
        let Some(init) = &mut self.init else { return Ok(()) };
        let Some(heard) = init.news()? else {
            // Init tells no one who is slow; who hears it again learns all at once. Or the lab ends.
            let _closed = self.epoll.delete(init.as_fd());
            self.init = None;
            if self.has_ended() {
                return Ok(());
            }
            let (watch, services) = self.running.init()?.watch()?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, INIT);
            self.epoll.add(watch.as_fd(), event).doing(Kind::Environment, waiting)?;
            self.init = Some(watch);
            services.into_iter().for_each(|status| self.service(status));
            return Ok(());
        };
        for news in heard {
            match news {
                Heard::Changed(status) => self.service(status),
                Heard::Removed(service) => {
                    self.services.remove(&service);
                    self.told.push(What::ServiceRemoved { service });
                }
            }
        }
        Ok(())
    }

    fn service(&mut self, status: Status) {
        if self.services.get(&status.name) != Some(&status) {
            self.told.push(What::Service(Service::from(&status)));
            self.services.insert(status.name.clone(), status);
        }
    }

    // ---- the state directory -----------------------------------------------------------------------------

    fn read_files(&mut self) -> Result<()> {
        let mut names = Vec::new();
        while let Ok(events) = self.files.read_events() {
            names.extend(events.into_iter().filter_map(|e| e.name));
        }
        if names.iter().any(|name| self.running.is_begun_change(name)) {
            self.told.push(What::ApplyStarted);
        }
        let Ok(now) = self.running.again() else { return Ok(()) };
        let before = std::mem::replace(&mut self.running, now);
        let (old, new) = (&before.state().lab, &self.running.state().lab);
        let changes = super::changes(old, new);
        let faults = self.running.faults()?;
        self.told.extend(super::faults(new, &rebound(old, new, &self.faults), &faults));
        let other = changes.iter().any(|c| matches!(c, What::Applied(_)));
        self.told.extend(changes);
        if other {
            self.rib = Rib::compute(new);
            self.enter()?;
        }
        if other || faults != self.faults {
            self.faults = faults;
            self.expected = Expected::compute(&self.running.state().lab, &self.rib, &self.faults);
            self.places.values_mut().filter_map(|p| p.routes.as_mut()).for_each(|r| r.stale = true);
        }
        Ok(())
    }

    // ---- namespaces --------------------------------------------------------------------------------------

    /// Listens to the namespaces the lab has, and to no others.
    fn enter(&mut self) -> Result<()> {
        let namespaces = self.running.namespaces();
        let points = crate::capture::points(&namespaces)?;
        let nodes: BTreeMap<String, NodeId> =
            self.running.state().lab.nodes().map(|n| (n.netns.clone(), n.id)).collect();
        self.places.retain(|ns, _| points.iter().any(|p| p.ns == *ns));
        for point in points {
            let node = nodes.get(&point.ns).copied();
            if let Some(place) = self.places.get_mut(&point.ns) {
                if let (Some(routes), Some(node)) = (&mut place.routes, node) {
                    routes.node = node;
                }
                continue;
            }
            let open = || -> Result<_> {
                let links = Links::open().doing(Kind::Kernel, waiting)?;
                let devices = links::present().doing(Kind::Kernel, waiting)?;
                Ok((links, devices, node.map(|_| Monitor::open()).transpose()?))
            };
            let (links, devices, monitor) = namespaces.run(&point.ns, open)??;
            let routes = node.zip(monitor).map(|(node, monitor)| Routes {
                node,
                monitor,
                difference: None,
                looked: Instant::now().checked_sub(PAUSE).unwrap_or_else(Instant::now),
                stale: true,
            });
            self.listen(point, links, devices, routes)?;
        }
        Ok(())
    }

    fn listen(
        &mut self,
        point: Point,
        links: Links,
        devices: Vec<News>,
        routes: Option<Routes>,
    ) -> Result<()> {
        let number = self.next;
        self.next += 1;
        let add = |fd: BorrowedFd<'_>, tag: u64| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, tag | number);
            self.epoll.add(fd, event).doing(Kind::Environment, waiting)
        };
        add(links.as_fd(), DEVICES)?;
        if let Some(routes) = &routes {
            add(routes.monitor.as_fd(), ROUTES)?;
        }
        let devices = devices.into_iter().map(|d| (d.index, d)).collect();
        self.places.insert(point.ns.clone(), Place { number, point, links, devices, routes });
        Ok(())
    }

    fn hear_devices(&mut self, number: u64) -> Result<()> {
        let place = self.places.values_mut().find(|p| p.number == number);
        let Some(Place { point, links, devices, .. }) = place else { return Ok(()) };
        let (news, lost) = links.news().doing(Kind::Kernel, waiting)?;
        let node = point.full_name();
        if lost {
            self.told.push(What::Lost { node: node.clone() });
        }
        for news in news.into_iter().filter(|d| point.shows(&d.name)) {
            let device = point.name(&news.name);
            let before = devices.get(&news.index).filter(|b| b.name == news.name).cloned();
            if news.gone {
                devices.remove(&news.index);
                self.told.push(What::DeviceRemoved { device, node: node.clone() });
                continue;
            }
            if before.is_none() {
                self.told.push(What::DeviceAdded { device: device.clone(), node: node.clone() });
            }
            if before.is_some_and(|b| b.running) != news.running {
                let link = link_of(&self.running.state().lab, &point.ns, &news.name);
                let node = node.clone();
                self.told.push(match news.running {
                    true => What::DeviceUp { device, node, link },
                    false => What::DeviceDown { device, node, link },
                });
            }
            devices.insert(news.index, news);
        }
        Ok(())
    }

    /// Looks at the routes of nodes in which something changed, and tells of those that are not as they were.
    fn look(&mut self) -> Result<()> {
        let (lab, expected) = (&self.running.state().lab, &self.expected);
        let mut told = Vec::new();
        for routes in self.places.values_mut().filter_map(|p| p.routes.as_mut()) {
            if !routes.stale || routes.looked + PAUSE > Instant::now() {
                continue;
            }
            let snapshot = routes.monitor.snapshot()?;
            routes.looked = Instant::now();
            routes.stale = snapshot.is_none();
            let Some(snapshot) = snapshot else { continue };
            let known = !expected.unknown.contains(&routes.node.net);
            let found = known.then(|| fib::compare(lab, expected, routes.node, &snapshot)).flatten();
            let node = lab.full_name(routes.node);
            match (&routes.difference, &found) {
                (None, Some(d)) => told.push(What::Diverged {
                    node,
                    prefix: d.prefix.to_string(),
                    expected: d.expected.to_string(),
                    found: d.found.to_string(),
                }),
                (Some(_), None) => told.push(What::Converged { node }),
                (None, None) | (Some(_), Some(_)) => {}
            }
            routes.difference = found;
        }
        for network in &lab.networks {
            let now = self.diverged(network.id) > 0;
            let before = self.diverged.insert(network.id, now).unwrap_or(false);
            let network = network.name.clone();
            match (before, now) {
                (false, true) => told.push(What::NetworkDiverged { network }),
                (true, false) => told.push(What::NetworkConverged { network }),
                (true, true) | (false, false) => {}
            }
        }
        self.told.extend(told);
        Ok(())
    }
}

/// The link whose end a device is.
fn link_of(lab: &Lab, ns: &str, dev: &str) -> Option<String> {
    let is = |end: &crate::model::End| end.dev == dev && lab.node(lab.site(end).partition).netns == ns;
    lab.links().find(|l| l.ends.iter().any(is)).map(|l| lab.full_link_name(l.id))
}

/// Faults of one lab by the numbers of another, by name.
fn rebound(old: &Lab, new: &Lab, faults: &Faults) -> Faults {
    let links: Vec<String> = faults.links.iter().map(|id| old.full_link_name(*id)).collect();
    let nodes: Vec<String> = faults.nodes.iter().map(|id| old.full_name(*id)).collect();
    Faults {
        links: new.links().map(|l| l.id).filter(|id| links.contains(&new.full_link_name(*id))).collect(),
        nodes: new.nodes().map(|n| n.id).filter(|id| nodes.contains(&new.full_name(*id))).collect(),
    }
}

fn waiting() -> String {
    "cannot listen to the lab".to_owned()
}
