//! A program that uses the library and plays the processes of its labs itself: `vilab::init`. It has a `main` of its own, and
//! no program `vilab` to start.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; a skip must be seen"
)]

use std::fs;

use vilab::error::Kind;
use vilab::testing::Lab;

const LAB: &str = "
name: alone
base: {links: [X -- Y]}
vis:
  blue: {nodes: {a: X, b: Y}, links: [a -- b]}
";

fn main() {
    vilab::init();
    let lab = match Lab::from_text(LAB) {
        Err(e) if e.kind() == Kind::Environment => {
            println!("SKIPPED: {e}");
            return;
        }
        other => other.unwrap(),
    };
    let init = fs::read_link(format!("/proc/{}/exe", lab.running().state().init)).unwrap();
    assert_eq!(init, fs::read_link("/proc/self/exe").unwrap(), "init is this program");
    let (a, b) = (lab.node("a").unwrap(), lab.node("b").unwrap());
    let ping = a.command("ping").args(["-c1", "-W2", "b"]).output().unwrap();
    assert!(ping.status.success(), "{ping:?}");
    let listener = b.tcp_listener(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    a.tcp_connect((b.address().unwrap(), port)).unwrap();
    let name = lab.name().to_owned();
    lab.down();
    assert!(vilab::lab::Running::open(&name).is_err(), "{name} is gone");
    println!("ok");
}
