//! The only file of this module that carries PDUs. TUN devices and raw sockets of all partitions of a lab go in; PDUs
//! change from one to the other. It never decides what a PDU is: [`super::pdu`] does.
//!
//! One thread serves all virtual links from one level-triggered epoll and sleeps without a timeout. What the kernel
//! refuses to send is lost, as on any link: IS-IS sends again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;

use super::config::{Config, End};
use super::ears::Ears;
use super::pdu;
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Namespaces;
use crate::sys::link_socket::LinkSocket;
use crate::sys::{carrier, limits, signals, tun};

/// PDUs go over one link and no further.
const TTL: u8 = 1;
/// Packet information and the largest IPv4 packet.
const BUFFER: usize = 4 + 65535;
/// PDUs read from one source before the next has its turn.
const BUDGET: usize = 64;
/// Sources told of by one wait.
const EVENTS: usize = 64;

/// What an epoll event is about; the index is that of [`Config::ends`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// isisd has sent a PDU.
    Tun(usize),
    /// A PDU has come over the link.
    Link(usize),
    Signal,
}

/// Event data: the kind in the upper half, the index in the lower.
impl From<Source> for u64 {
    fn from(source: Source) -> Self {
        let (kind, index) = match source {
            Source::Tun(i) => (0, i),
            Source::Link(i) => (1, i),
            Source::Signal => (2, 0),
        };
        kind << 32 | index as u64
    }
}

impl Source {
    fn of(data: u64) -> Option<Self> {
        let index = usize::try_from(data & 0xffff_ffff).ok()?;
        match data >> 32 {
            0 => Some(Self::Tun(index)),
            1 => Some(Self::Link(index)),
            2 => Some(Self::Signal),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Circuit {
    end: End,
    tun: OwnedFd,
    link: LinkSocket,
    ears: Ears,
}

/// Carries the PDUs of `config` until SIGTERM or SIGINT. `on_ready` is called once when all are carried. The signals are
/// blocked in the calling thread, so it should be the only one.
///
/// # Errors
/// If a namespace, a device or a socket cannot be opened, epoll fails, or isisd's sockets cannot be reached.
pub fn run(config: &Config, namespaces: &Namespaces, on_ready: impl FnOnce()) -> Result<()> {
    let kernel = |what: &str| {
        let what = format!("IS-IS: cannot {what}");
        move || what
    };
    limits::raise_open_files().doing(Kind::Kernel, kernel("raise the limit on open files"))?;
    let signals = signals::to_end().doing(Kind::Kernel, kernel("receive signals"))?;
    let mut circuits = Vec::with_capacity(config.ends.len());
    for end in &config.ends {
        circuits.push(Circuit::open(end, namespaces)?);
    }
    let epoll = watch(&circuits, &signals).doing(Kind::Kernel, kernel("watch its sources"))?;
    on_ready();
    serve(&epoll, &mut circuits)
}

fn watch(circuits: &[Circuit], signals: &SignalFd) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let event = |source: Source| EpollEvent::new(EpollFlags::EPOLLIN, source.into());
    for (index, circuit) in circuits.iter().enumerate() {
        epoll.add(&circuit.tun, event(Source::Tun(index)))?;
        epoll.add(&circuit.link, event(Source::Link(index)))?;
    }
    epoll.add(signals, event(Source::Signal))?;
    Ok(epoll)
}

fn serve(epoll: &Epoll, circuits: &mut [Circuit]) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => continue,
            Err(e) => return Err(Error::kernel("IS-IS: cannot wait for PDUs").because(e)),
        };
        for source in events[..count].iter().filter_map(|e| Source::of(e.data())) {
            match source {
                Source::Tun(index) => {
                    if !circuits[index].send(&mut buffer)? {
                        // The device is gone; left in the set, it would be ready for ever.
                        let _gone = epoll.delete(&circuits[index].tun);
                    }
                }
                Source::Link(index) => circuits[index].receive(&mut buffer),
                Source::Signal => return Ok(()),
            }
        }
    }
}

impl Circuit {
    fn open(end: &End, namespaces: &Namespaces) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let tun = tun::attach_with_info(&end.pdus)?;
            let link = LinkSocket::open(pdu::IP_PROTOCOL, &end.dev, end.local, end.peer, TTL)?;
            carrier::settle(link.as_fd(), &end.pdus)?;
            Ok(Self { end: end.clone(), tun, link, ears: Ears::open(&end.dev)? })
        };
        namespaces
            .run(&end.netns, open)?
            .doing(Kind::Kernel, || format!("IS-IS: cannot open {} in {}", end.dev, end.netns))
    }

    /// From isisd to the link. False when the TUN device is gone.
    fn send(&mut self, buffer: &mut [u8]) -> Result<bool> {
        for _ in 0..BUDGET {
            let len = match tun::read(self.tun.as_fd(), buffer) {
                Ok(len) => len,
                Err(e) => return Ok(e.kind() == io::ErrorKind::WouldBlock),
            };
            let Some(pdu) = pdu::of_tun(&buffer[..len]) else { continue };
            if pdu::says_deaf(pdu) {
                self.ears.open_up().doing(Kind::Environment, || {
                    format!(
                        "IS-IS: cannot reach the socket of isisd for {} in {}",
                        self.end.dev, self.end.netns
                    )
                })?;
            }
            let _lost = self.link.send(pdu);
        }
        Ok(true)
    }

    /// From the link to isisd.
    fn receive(&mut self, buffer: &mut [u8]) {
        for _ in 0..BUDGET {
            let Ok(Some(packet)) = self.link.receive(buffer) else { return };
            if let Some(framed) = pdu::of_ip(packet, self.end.peer) {
                let _lost = tun::write(self.tun.as_fd(), framed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_event() {
        for source in [Source::Tun(0), Source::Link(70_000), Source::Signal] {
            assert_eq!(Source::of(source.into()), Some(source));
        }
        assert_eq!(Source::of(9 << 32), None);
    }
}
