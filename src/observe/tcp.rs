//! The test `tcp`. Two nodes and a rate go in; the rate of one TCP stream between them and a verdict come out. It
//! needs no program in the nodes: both sockets are opened inside their namespaces and used from outside.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Context;
use super::patience::Ways;
use super::runner::Verdict;
use crate::error::{Context as _, Kind, Result};
use crate::model::NodeId;

/// How long a connection may take to come to be, and the stream to stand still, beside what impairments take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the stream is measured, from its first byte.
const WINDOW: Duration = Duration::from_secs(1);
const CHUNK: usize = 128 << 10;

/// Holds when the stream comes to be, and carries `at_least` bits a second.
pub(crate) fn test(ctx: &Context<'_>, from: NodeId, to: NodeId, at_least: Option<u64>) -> Result<Verdict> {
    let expected = at_least.map_or_else(|| "a TCP stream".to_owned(), |r| format!("at least {}", rate(r)));
    let Some(address) = ctx.lab.address(to) else {
        return Ok(Verdict::of(false, expected, format!("{} has no address", ctx.lab.full_name(to))));
    };
    let listener = ctx.namespaces.run(&ctx.lab.node(to).netns, || TcpListener::bind((address, 0)))?;
    let listener = listener.doing(Kind::Kernel, || format!("cannot listen on {}", ctx.lab.full_name(to)))?;
    // Three ways of a handshake, or a lost packet that is sent again.
    let patience = PATIENCE + 2 * Ways::there_and_back(ctx, [(from, to)]).time();
    let connected =
        ctx.namespaces.run(&ctx.lab.node(from).netns, || connect(address, &listener, patience))?;
    Ok(match connected.and_then(|(sender, receiver)| stream(sender, receiver, patience)) {
        Ok(measured) => {
            let holds = at_least.is_none_or(|wanted| measured >= wanted);
            Verdict::of(holds, expected, rate(measured))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            Verdict::of(false, expected, format!("nothing for {} s", patience.as_secs()))
        }
        Err(e) => Verdict::of(false, expected, e.to_string()),
    })
}

/// The calling thread is where the sender is.
fn connect(
    address: Ipv4Addr,
    listener: &TcpListener,
    patience: Duration,
) -> io::Result<(TcpStream, TcpStream)> {
    let to = SocketAddrV4::new(address, listener.local_addr()?.port());
    let sender = TcpStream::connect_timeout(&to.into(), patience)?;
    // Connected, so that it is waiting to be accepted.
    let (receiver, _) = listener.accept()?;
    Ok((sender, receiver))
}

/// Bits a second that arrive.
fn stream(sender: TcpStream, mut receiver: TcpStream, patience: Duration) -> io::Result<u64> {
    sender.set_write_timeout(Some(patience))?;
    receiver.set_read_timeout(Some(patience))?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![0; CHUNK];
            // It ends when the receiver closes.
            while (&sender).write(&chunk).is_ok() {}
        });
        let measured = receive(&mut receiver);
        let _closed = receiver.shutdown(Shutdown::Both);
        let _closed = sender.shutdown(Shutdown::Both);
        measured
    })
}

fn receive(receiver: &mut TcpStream) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    let mut start = None;
    loop {
        let read = receiver.read(&mut chunk)?;
        let Some(start) = start else {
            start = Some(Instant::now());
            continue;
        };
        bytes += read as u64;
        let elapsed = Instant::now().saturating_duration_since(start);
        if elapsed >= WINDOW || read == 0 {
            return Ok(per_second(bytes, elapsed));
        }
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    (bytes.saturating_mul(8_000_000)) / micros
}

/// With three digits, in the unit that suits it.
fn rate(bps: u64) -> String {
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1000, "kbit/s"), (1, "bit/s")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bps >= *unit).unwrap_or((1, "bit/s"));
    let (whole, milli) = (bps / unit, bps % unit * 1000 / unit);
    let text = match whole {
        100.. => format!("{whole}"),
        10.. => format!("{whole}.{}", milli / 100),
        _ => format!("{whole}.{:02}", milli / 10),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_in_words() {
        let words = [0, 999, 1500, 100_000_000, 12_340_000, 1_234_567_890].map(rate);
        assert_eq!(words, ["0 bit/s", "999 bit/s", "1.5 kbit/s", "100 Mbit/s", "12.3 Mbit/s", "1.23 Gbit/s"]);
    }

    #[test]
    fn a_stream_is_measured() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sender, receiver) = connect(Ipv4Addr::LOCALHOST, &listener, PATIENCE).unwrap();
        let start = Instant::now();
        assert!(stream(sender, receiver, PATIENCE).unwrap() > 1_000_000);
        assert!(start.elapsed() >= WINDOW);
    }
}
