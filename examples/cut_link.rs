//! A service on TCP whose link is cut for a moment: what was sent meanwhile arrives when the link is whole again.
//!
//! ```text
//! cargo run --example cut_link
//! ```

#![allow(clippy::print_stdout, reason = "it shows what happens")]

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use vilab::testing::Lab;

const LAB: &str = "
name: cut-link
base: {links: [X -- Y -- Z]}
vis:
  blue:
    nodes: {client: X, middle: {at: Y, role: router}, server: Z}
    links: [client -- middle -- server]
";

fn main() -> Result<(), Box<dyn Error>> {
    // This program is also the processes that its lab is made of.
    vilab::init();
    let lab = Lab::from_text(LAB)?;
    let server = lab.node("blue/server")?;
    let listener = server.tcp_listener(7)?;
    std::thread::spawn(move || echo(&listener));

    let mut client = lab.node("blue/client")?.tcp_connect((server.address()?, 7))?;
    client.set_read_timeout(Some(Duration::from_millis(500)))?;
    println!("one: {}", said(&mut client, b"one")?);

    lab.link("middle -- server")?.down()?;
    match said(&mut client, b"two") {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            println!("two: no answer")
        }
        other => return Err(format!("the link is down, and there is an answer: {other:?}").into()),
    }

    let whole = Instant::now();
    lab.link("middle -- server")?.up()?;
    client.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut answer = [0; 3];
    client.read_exact(&mut answer)?;
    println!("two: {} after {:.1} s", String::from_utf8_lossy(&answer), whole.elapsed().as_secs_f64());
    Ok(())
}

/// The service: whatever comes goes back.
fn echo(listener: &TcpListener) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    io::copy(&mut &stream, &mut &stream).map(drop)
}

/// The answer to a word.
fn said(stream: &mut (impl Read + Write), word: &[u8; 3]) -> io::Result<String> {
    stream.write_all(word)?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
