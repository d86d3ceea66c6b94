//! Watching one marked probe arrive where it is sent to. A sender, a receiver and a destination go in; the IPv4
//! header under which the probe arrived comes out. It never looks at the reply.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Context;
use super::patience::Ways;
use super::probe::{Mark, PAYLOAD};
use super::wire::{self, ECHO};
use crate::error::{Context as _, Kind, Result};
use crate::model::NodeId;
use crate::packet::Ipv4Repr;
use crate::routing::Journeys;
use crate::sys::packet_socket::IcmpSocket;

const ATTEMPTS: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(500);

/// Hears the echo requests that are delivered to a node.
#[derive(Debug)]
pub(crate) struct Listener(IcmpSocket);

impl Listener {
    pub(crate) fn open(ctx: &Context<'_>, node: NodeId) -> Result<Self> {
        Ok(Self(open(ctx, node, &[ECHO])?))
    }

    /// Waits for the probe that `is_it` recognises, at most until `until`.
    pub(crate) fn wait(&self, mark: Mark, number: usize, until: Instant) -> Result<Option<Ipv4Repr>> {
        let mut buffer = vec![0; 65_536];
        loop {
            while let Some(packet) =
                self.0.recv(&mut buffer).doing(Kind::Kernel, || "cannot read a probe".into())?
            {
                if let Some(header) = recognised(packet, mark, number) {
                    return Ok(Some(header));
                }
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            wait_readable(&self.0, until)?;
        }
    }

    /// The numbers of all probes of `mark` that have arrived, without waiting.
    pub(crate) fn arrived(&self, mark: Mark) -> Result<Vec<usize>> {
        let mut buffer = vec![0; 65_536];
        let mut numbers = Vec::new();
        while let Some(packet) =
            self.0.recv(&mut buffer).doing(Kind::Kernel, || "cannot read a probe".into())?
        {
            numbers.extend(wire::parse_request(packet).and_then(|(_, echo)| mark.number(&echo)));
        }
        Ok(numbers)
    }
}

fn recognised(packet: &[u8], mark: Mark, number: usize) -> Option<Ipv4Repr> {
    let (headers, echo) = wire::parse_request(packet)?;
    headers.first().copied().filter(|_| mark.is_probe(&echo, number))
}

fn open(ctx: &Context<'_>, node: NodeId, types: &[u8]) -> Result<IcmpSocket> {
    let ns = &ctx.lab.node(node).netns;
    let opened = ctx.namespaces.run(ns, || IcmpSocket::open(types))?;
    opened.doing(Kind::Kernel, || format!("cannot open an ICMP socket in namespace {ns}"))
}

/// Waits until there is something to read or `until` has come.
fn wait_readable(socket: &impl AsFd, until: Instant) -> Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    wait(&mut fds, until)
}

/// Lets time pass until `until`: for tests that ask for it, and between attempts that fail at once.
pub(crate) fn pass_time(until: Instant) -> Result<()> {
    while Instant::now() < until {
        wait(&mut [], until)?;
    }
    Ok(())
}

fn wait(fds: &mut [PollFd<'_>], until: Instant) -> Result<()> {
    let left = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
    let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO);
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e).doing(Kind::Kernel, || "cannot wait for a probe".into()),
    }
}

/// A probe that arrived: which of the attempts, and its IPv4 header at the receiver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) number: usize,
    pub(crate) header: Ipv4Repr,
}

/// What sending a probe came to.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) mark: Mark,
    /// Attempts made: all probes of this flight have numbers below.
    pub(crate) attempts: usize,
    /// The last error of the sender's own kernel.
    pub(crate) unsent: Option<std::io::Error>,
    pub(crate) arrived: Option<Arrived>,
}

/// Sends a marked echo request from `from` to the address `dst` of `to` until one has arrived there, a few times.
pub(crate) fn fly(ctx: &Context<'_>, from: NodeId, to: NodeId, dst: Ipv4Addr) -> Result<Flight> {
    fly_sized(ctx, from, to, dst, None)
}

/// The same with an ICMP payload of `payload` bytes and DF set; without, a usual payload and DF clear.
pub(crate) fn fly_sized(
    ctx: &Context<'_>,
    from: NodeId,
    to: NodeId,
    dst: Ipv4Addr,
    payload: Option<usize>,
) -> Result<Flight> {
    let (sender, listener) = (open(ctx, from, &[])?, Listener::open(ctx, to)?);
    if payload.is_some() {
        sender.set_dont_fragment().doing(Kind::Kernel, || "cannot set DF on a probe".into())?;
    }
    let mut flight = Flight { mark: Mark::fresh(), attempts: 0, unsent: None, arrived: None };
    let journey = Journeys::new(ctx.lab, ctx.rib).one_way(from, dst);
    // Where a link loses everything, no number of attempts helps.
    let hopeless = journey.iter().any(|journey| journey.delivered <= 0.0);
    let ways = Ways::of(journey);
    let attempts = if hopeless { ATTEMPTS } else { ways.attempts(ATTEMPTS, 1) };
    for number in 0..attempts as usize {
        flight.attempts = number + 1;
        flight.unsent = sender.send(dst, &flight.mark.message(number, payload.unwrap_or(PAYLOAD))).err();
        let patience = if flight.unsent.is_some() { PATIENCE / 10 } else { PATIENCE + ways.time() };
        if let Some(header) = listener.wait(flight.mark, number, Instant::now() + patience)? {
            flight.arrived = Some(Arrived { number, header });
            break;
        }
    }
    Ok(flight)
}

impl Flight {
    /// Why nothing arrived, in words.
    pub(crate) fn failure(&self) -> String {
        match &self.unsent {
            Some(e) => format!("the probe was not sent: {e}"),
            None => format!("none of {} probes arrived", self.attempts),
        }
    }
}
