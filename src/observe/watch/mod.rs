//! A running lab as it goes: what passes its links, what is dropped, and what is not as computed. A lab goes in; a [`View`]
//! comes out whenever one is asked for. It keeps its sockets, so a look is one request to each namespace, and it never
//! changes the lab.

mod rates;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, sysconf};
use rtnetlink::packet_route::RouteNetlinkMessage;

pub use rates::{Flow, Flows, Reading};
pub use view::{
    Direction, DropRow, Engine, FirstDifference, LinkRow, LinkState, NetworkRow, NodeRow, SCHEMA, View,
};

use super::devices::{self, Device};
use super::events::{Live, Service, What, Woken};
use crate::error::{Context as _, Kind, Result};
use crate::lab::{self, Running};
use crate::model::EndId;
use crate::netlink::{Request, Socket};
use rates::Ticks;
use view::{Known, Sample};

/// The service that is the engine.
const ENGINE: &str = "fastpath";
/// Ticks a second where nobody says: `USER_HZ` of every common machine.
const HZ: u64 = 100;
/// Looks after which the counters of drops are read although nothing has passed any link.
const SOMETIMES: u32 = 10;

/// A lab that is watched.
#[derive(Debug)]
pub struct Watch {
    live: Live,
    begun: Instant,
    hz: u64,
    /// By namespace.
    sockets: BTreeMap<String, Socket>,
    last: Option<Sample>,
    /// Looks since the counters were read.
    unread: u32,
}

impl Watch {
    /// Watches a lab, whose user namespace the caller has joined.
    ///
    /// # Errors
    /// If a namespace cannot be entered, or init does not answer.
    pub fn open(running: Running) -> Result<Self> {
        let hz = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hz| u64::try_from(hz).ok());
        Ok(Self {
            live: Live::open(running)?,
            begun: Instant::now(),
            hz: hz.unwrap_or(HZ),
            sockets: BTreeMap::new(),
            last: None,
            unread: 0,
        })
    }

    #[must_use]
    pub fn running(&self) -> &Running {
        self.live.running()
    }

    /// As [`Live::attend`].
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn attend(&self, fd: BorrowedFd<'_>, readable: bool) -> Result<()> {
        self.live.attend(fd, readable)
    }

    /// As [`Live::wait`].
    ///
    /// # Errors
    /// If the lab can no longer be listened to.
    pub fn wait(&mut self, limit: Option<Instant>) -> Result<Woken> {
        let woken = self.live.wait(limit)?;
        if woken.events.iter().any(|e| matches!(e.what, What::Applied(_))) {
            // A namespace of the same name may be another one, and so may ends of the same number.
            self.sockets.clear();
            self.last = None;
        }
        Ok(woken)
    }

    /// The lab between the last look and this one; `None` if it has gone down.
    ///
    /// # Errors
    /// If a namespace or the fast path does not answer.
    pub fn look(&mut self) -> Result<Option<View>> {
        let sample = match self.sample() {
            // A lab that ends takes away what is looked at.
            Err(_) if self.live.has_ended() => return Ok(None),
            other => other?,
        };
        let view = self.view(self.last.as_ref(), &sample);
        self.last = Some(sample);
        Ok(Some(view))
    }

    fn sample(&mut self) -> Result<Sample> {
        let ends = self.ends()?;
        let engine = self.engine();
        Ok(Sample { at: self.begun.elapsed(), counters: self.counters(&ends)?, ends, engine })
    }

    /// The devices of all links.
    fn ends(&mut self) -> Result<BTreeMap<EndId, Reading>> {
        let lab = &self.live.running().state().lab;
        let namespaces = self.live.running().namespaces();
        let mut devices: BTreeMap<&str, BTreeMap<String, Device>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for (link, side, end) in
            lab.links().flat_map(|l| l.ends.iter().enumerate().map(|(i, e)| (l.id, i, e)))
        {
            let ns = lab.netns(end);
            if !devices.contains_key(ns) {
                let socket = match self.sockets.remove(ns) {
                    Some(socket) => socket,
                    None => namespaces.run(ns, Socket::open)?.doing(Kind::Kernel, || asking(ns))?,
                };
                let socket = self.sockets.entry(ns.to_owned()).or_insert(socket);
                devices.insert(ns, dump(socket).doing(Kind::Kernel, || asking(ns))?);
            }
            if let Some(device) = devices.get(ns).and_then(|d| d.get(&end.dev)) {
                found.insert(EndId { link, side }, Reading { index: device.index, stats: device.stats });
            }
        }
        Ok(found)
    }

    /// Counters by base node and name. Reading those of the kernel's dataplane takes a process for each namespace, so they
    /// are left alone while nothing passes any link.
    fn counters(
        &mut self,
        ends: &BTreeMap<EndId, Reading>,
    ) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
        self.unread += 1;
        if let Some(last) = self.last.as_ref().filter(|last| last.ends == *ends && self.unread < SOMETIMES) {
            return Ok(last.counters.clone());
        }
        self.unread = 0;
        super::with_context(self.live.running(), super::counters)
    }

    /// What the engine has used of the processors.
    fn engine(&self) -> Option<Ticks> {
        let pid = self.live.services().find(|s| s.name == ENGINE)?.pid?;
        let init = self.live.running().state().init;
        let stat = fs::read_to_string(format!("/proc/{init}/root/proc/{pid}/stat")).ok()?;
        Some(Ticks { pid, used: used(&stat)? })
    }

    fn view(&self, before: Option<&Sample>, after: &Sample) -> View {
        let state = self.live.running().state();
        let route = |net| {
            let first = || {
                self.live.first_difference(net).map(|(node, difference)| FirstDifference {
                    node: state.lab.full_name(node),
                    prefix: difference.prefix.to_string(),
                    expected: difference.expected.clone(),
                    found: difference.found.clone(),
                })
            };
            self.live.is_known(net).then(|| (self.live.diverged(net), first()))
        };
        let known = Known {
            lab: &state.lab,
            faults: self.live.faults(),
            dead: self.live.dead(),
            measured: &state.measured,
            dataplanes: &state.dataplanes,
            routes: state.lab.networks.iter().map(|n| (n.id, route(n.id))).collect(),
            services: self.live.services().map(Service::from).collect(),
            hz: self.hz,
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        View::of(&known, before, after, lab::timestamp_ns(time))
    }
}

fn asking(ns: &str) -> String {
    format!("cannot ask for the devices of namespace {ns}")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open; only devices were asked for")]
fn dump(socket: &mut Socket) -> std::io::Result<BTreeMap<String, Device>> {
    let messages = socket.dump(&Request::dump_links())?;
    let device = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewLink(link) => devices::device(link),
        _ => None,
    };
    Ok(messages.iter().filter_map(device).collect())
}

/// The ticks of a process in user and in system mode: fields 14 and 15 of `/proc/PID/stat`, proc(5). The name, which may
/// hold anything, ends at the last parenthesis.
fn used(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (vilab) (x) 1) S 1 7 7 0 -1 4194304 100 0 0 0 25 17 0 0 20 0 3 0 100 0 0";
        assert_eq!(used(stat), Some(42));
        assert_eq!(used("7 (short) S 1"), None);
    }
}
