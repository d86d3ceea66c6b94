//! Another configuration while packets flow. A [`Config`] goes in; what is new is opened, what is gone is closed, and
//! what stays keeps its sockets, devices and queues. It never lets packets wait: they are carried while things are opened
//! and closed, and the change itself asks nothing of the kernel but where to send events.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::closing::LeftOver;
use super::{
    Base, Engine, Follower, Held, Source, by_addr, injector, inodes, open_base, open_partition, open_tuns,
    places, tun,
};
use crate::error::{Context, Kind, Result};
use crate::fastpath::Reason;
use crate::fastpath::config::{Config, ShapedDevice};
use crate::fastpath::follow::Devices;
use crate::fastpath::forward::Moves;
use crate::fastpath::shaped;
use crate::netlink::monitor::Monitor;
use crate::shape::Later;
use crate::sys::tun::Offloading;

/// What has been opened for a new configuration, by its indices there.
#[derive(Debug, Default)]
struct Opened {
    bases: BTreeMap<usize, Base>,
    monitors: BTreeMap<usize, Monitor>,
    tuns: BTreeMap<usize, Offloading>,
}

impl Engine {
    /// Goes on as `new` says.
    ///
    /// # Errors
    /// If something new cannot be opened: then nothing has changed.
    pub(super) fn reload(&mut self, new: Config) -> Result<()> {
        self.go_on(new, LeftOver::remove)
    }

    /// Carries nothing any more and has nothing open, so that the end of this process takes no time.
    ///
    /// # Errors
    /// If the kernel refuses to close.
    pub(super) fn end(&mut self) -> Result<()> {
        let shaped = std::mem::replace(&mut self.shaped, shaped::Devices::new(self.namespaces.clone()));
        self.held = Later::default();
        self.go_on(Config::default(), |left_over| left_over.close(shaped))
    }

    fn go_on(&mut self, new: Config, close: impl FnOnce(LeftOver)) -> Result<()> {
        let mut moves = Moves::new(&self.config, &new);
        let inodes = inodes(&new, &self.namespaces);
        moves.leave_out(&new, |netns| self.inodes.get(netns) != inodes.get(netns));
        let opened = self.open_new(&new, &moves)?;
        let changed = self.changed(&new, &moves);
        let old = std::mem::replace(&mut self.config, new.clone());
        self.drop_held(&moves, old.interfaces.len());
        self.forwarder.reload(&old, &new, &moves);
        self.plan_probes();
        // By the old numbers.
        self.answers.clear();
        self.names = new.nodes.iter().map(|n| n.name.clone()).collect();
        self.places = places(&new);
        self.by_addr = by_addr(&new);
        self.ahead.clear();
        self.inodes = inodes;
        let closed = self.exchange(&new, &moves, opened);
        self.tell_what_bases_take();
        close(closed);
        let watching = || "fast path: cannot watch its sources".to_owned();
        self.watch_again().doing(Kind::Kernel, watching)?;
        for partition in changed {
            self.follow(partition)?;
        }
        self.reshape()
    }

    fn open_new(&mut self, new: &Config, moves: &Moves) -> Result<Opened> {
        let mut opened = Opened::default();
        for (index, node) in new.nodes.iter().enumerate() {
            let stays = moves.nodes[index].is_some_and(|old| self.config.nodes[old].addr == node.addr);
            if !stays {
                let (namespaces, node) = (self.namespaces.clone(), node.clone());
                let open =
                    move || namespaces.run(&node.netns, || open_base(&node, &injector::Program::load()));
                opened.bases.insert(index, self.meanwhile(Duration::ZERO, open)???);
            }
        }
        for (index, partition) in new.partitions.iter().enumerate() {
            let own = new.interfaces.iter().enumerate().filter(|(_, i)| i.partition == index);
            let stays = |old: usize| tun::is_attached(self.tuns[old].as_fd());
            let missing = own.filter(|(i, _)| !moves.interfaces[*i].is_some_and(stays));
            let devices: Devices = missing.map(|(i, interface)| (interface.dev.clone(), i)).collect();
            let (namespaces, netns) = (self.namespaces.clone(), partition.netns.clone());
            if moves.partitions[index].is_none() {
                let open = move || namespaces.run(&netns, || open_partition(&devices));
                let (tuns, monitor) = self.meanwhile(Duration::ZERO, open)???;
                opened.tuns.extend(tuns);
                opened.monitors.insert(index, monitor);
            } else if !devices.is_empty() {
                let names: Vec<String> = devices.keys().cloned().collect();
                let open = move || open_tuns(&names.iter().map(String::as_str).collect::<Vec<_>>());
                let tuns = self.meanwhile(Duration::ZERO, move || namespaces.run(&netns, open))??;
                let what = || format!("fast path: cannot open the TUNs of {}", partition.name);
                opened.tuns.extend(devices.into_values().zip(tuns.doing(Kind::Kernel, what)?));
            }
        }
        Ok(opened)
    }

    /// Partitions whose routes must be looked at again: new ones, and those that gain or lose an interface.
    fn changed(&self, new: &Config, moves: &Moves) -> Vec<usize> {
        let names = |config: &Config, partition: usize| -> Vec<String> {
            let own = config.interfaces.iter().filter(|i| i.partition == partition);
            let mut names: Vec<String> = own.map(|i| i.dev.clone()).collect();
            names.sort();
            names
        };
        let stays = |new_index: usize, old: usize| names(new, new_index) == names(&self.config, old);
        let partitions = moves.partitions.iter().enumerate();
        partitions.filter(|(i, old)| !old.is_some_and(|old| stays(*i, old))).map(|(i, _)| i).collect()
    }

    /// Packets held for interfaces that go are dropped; the others wait for their time under their new number.
    fn drop_held(&mut self, moves: &Moves, interfaces: usize) {
        let back = moves.interfaces_back(interfaces);
        let forwarder = &mut self.forwarder;
        self.held.retain_map(|held| match held {
            Held::Packet { interface, bytes } => match back[interface] {
                Some(interface) => Some(Held::Packet { interface, bytes }),
                None => {
                    let node = forwarder.node_of(interface);
                    forwarder.counters(node).drop(Reason::LinkDown);
                    None
                }
            },
            frame @ Held::Frame { .. } => Some(frame),
        });
    }

    /// Puts what has been opened and what stays in the order of `new`; gives back what is left over.
    fn exchange(&mut self, new: &Config, moves: &Moves, mut opened: Opened) -> LeftOver {
        let mut tuns: Vec<_> = std::mem::take(&mut self.tuns).into_iter().map(Some).collect();
        let mut bases: Vec<_> = std::mem::take(&mut self.bases).into_iter().map(Some).collect();
        let mut followers: Vec<_> = std::mem::take(&mut self.followers).into_iter().map(Some).collect();
        for (index, old) in moves.interfaces.iter().enumerate() {
            let tun = opened.tuns.remove(&index).or_else(|| old.and_then(|old| tuns[old].take()));
            self.tuns.extend(tun);
        }
        for (index, old) in moves.nodes.iter().enumerate() {
            let base = opened.bases.remove(&index).or_else(|| old.and_then(|old| bases[old].take()));
            self.bases.extend(base);
        }
        for (index, old) in moves.partitions.iter().enumerate() {
            let own = new.interfaces.iter().enumerate().filter(|(_, i)| i.partition == index);
            let devices: Devices = own.map(|(i, interface)| (interface.dev.clone(), i)).collect();
            let before = old.and_then(|old| followers[old].take());
            let monitor = opened.monitors.remove(&index).or_else(|| before.and_then(|f| f.monitor));
            self.followers.push(Follower { monitor, devices });
        }
        // A descriptor that another holds too would go on being told of.
        for fd in tuns.iter().flatten() {
            let _gone = self.epoll.delete(fd);
        }
        for base in bases.iter().flatten() {
            let _gone = self.epoll.delete(&base.receiver);
            let _gone = self.epoll.delete(&base.others);
        }
        for monitor in followers.iter().flatten().filter_map(|f| f.monitor.as_ref()) {
            let _gone = self.epoll.delete(monitor);
        }
        LeftOver { tuns, bases, followers }
    }

    /// Has events told under the new numbers.
    fn watch_again(&self) -> nix::Result<()> {
        for (i, fd) in self.tuns.iter().enumerate() {
            self.renumber(fd, Source::Tun(i))?;
        }
        for (i, base) in self.bases.iter().enumerate() {
            self.renumber(&base.receiver, Source::Base(i))?;
            self.renumber(&base.others, Source::Others(i))?;
        }
        for (i, follower) in self.followers.iter().enumerate() {
            if let Some(monitor) = &follower.monitor {
                self.renumber(monitor, Source::Routes(i))?;
            }
        }
        Ok(())
    }

    fn renumber(&self, fd: impl AsFd, source: Source) -> nix::Result<()> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, source.into());
        match self.epoll.modify(fd.as_fd(), &mut event) {
            Err(nix::Error::ENOENT) => self.epoll.add(fd, event),
            other => other,
        }
    }

    /// Devices of the kernel: those that are impaired no more, those whose impairment differs, and those that have been
    /// made anew.
    fn reshape(&mut self) -> Result<()> {
        let wanted = self.config.devices.clone();
        for gone in self.shaped.all_but(&wanted) {
            self.forget(gone)?;
        }
        for device in wanted {
            if self.shaped.is_stale(&device) {
                self.forget(device.clone())?;
            }
            if !self.shaped.does(&device) {
                self.shape(device)?;
            }
        }
        Ok(())
    }

    /// Impairs a device no more that may be gone.
    fn forget(&mut self, device: ShapedDevice) -> Result<()> {
        let (namespaces, what) = (self.namespaces.clone(), device.clone());
        // With the device its filter has gone.
        let _gone = self.meanwhile(Duration::ZERO, move || shaped::detach(&namespaces, &what))?;
        self.leave(&device);
        Ok(())
    }
}
