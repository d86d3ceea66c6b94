//! `vilab capture`: whole labs in one file, in one order of time, by names that say node and layer; what it misses it
//! counts. The file is read here by its blocks, and where tshark is installed by tshark too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; a skip must be seen"
)]

mod common;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vilab::model::Lab;
use vilab::observe;
use vilab::packet;

/// What is read of a file.
#[derive(Debug, Default)]
struct Capture {
    interfaces: Vec<String>,
    link_types: Vec<u16>,
    packets: Vec<Packet>,
    /// Received and dropped as last told, by interface.
    counts: BTreeMap<u32, (u64, u64)>,
    sections: usize,
}

#[derive(Debug)]
struct Packet {
    interface: usize,
    at: u64,
    sent: bool,
    length: u32,
    bytes: Vec<u8>,
}

/// Reads the blocks of a file, which must be whole.
fn read(bytes: &[u8]) -> Capture {
    let (mut rest, mut capture) = (bytes, Capture::default());
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    while !rest.is_empty() {
        let length = word(rest, 4) as usize;
        assert!(length >= 12 && length.is_multiple_of(4) && length <= rest.len(), "a block cut short");
        assert_eq!(word(rest, length - 4) as usize, length);
        let body = &rest[8..length - 4];
        let time = |at: usize| u64::from(word(body, at)) << 32 | u64::from(word(body, at + 4));
        match word(rest, 0) {
            0x0a0d_0d0a => {
                capture.sections += 1;
                assert_eq!(capture.sections, 1, "one section");
            }
            1 => {
                let options = options(&body[8..]);
                assert_eq!(options[&9], [9], "nanoseconds");
                capture.interfaces.push(String::from_utf8(options[&2].clone()).unwrap());
                capture.link_types.push(u16::from_le_bytes([body[0], body[1]]));
            }
            5 => {
                let number =
                    |code: u16| u64::from_le_bytes(options(&body[12..])[&code][..].try_into().unwrap());
                capture.counts.insert(word(body, 0), (number(4), number(5)));
            }
            6 => {
                let kept = word(body, 12) as usize;
                let flags = options(&body[20 + kept.next_multiple_of(4)..])[&2].clone();
                capture.packets.push(Packet {
                    interface: word(body, 0) as usize,
                    at: time(4),
                    sent: flags[0] & 3 == 2,
                    length: word(body, 16),
                    bytes: body[20..20 + kept].to_vec(),
                });
            }
            other => panic!("a block of type {other}"),
        }
        rest = &rest[length..];
    }
    capture
}

fn options(mut rest: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut options = BTreeMap::new();
    while rest.len() >= 4 {
        let half = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        let (code, length) = (half(0), usize::from(half(2)));
        if code == 0 {
            break;
        }
        options.insert(code, rest[4..4 + length].to_vec());
        rest = &rest[4 + length.next_multiple_of(4)..];
    }
    options
}

impl Capture {
    fn name(&self, packet: &Packet) -> &str {
        &self.interfaces[packet.interface]
    }

    /// The IPv4 headers of a packet, outermost first.
    fn stack(&self, packet: &Packet) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let ethernet = self.link_types[packet.interface] == 1;
        let bytes = if ethernet { &packet.bytes[14..] } else { &packet.bytes[..] };
        packet::stack(bytes).iter().map(|h| (h.src, h.dst)).collect()
    }

    /// Echo requests on a device, by the protocol and type under all headers.
    fn requests(&self, name: &str, stack: usize) -> Vec<&Packet> {
        let is = |p: &&Packet| {
            let headers = self.stack(p).len();
            let skip = if self.link_types[p.interface] == 1 { 14 } else { 0 } + 20 * headers;
            headers == stack && self.name(p) == name && p.bytes.get(skip) == Some(&8)
        };
        self.packets.iter().filter(is).collect()
    }

    fn is_in_order(&self) -> bool {
        self.packets.is_sorted_by_key(|p| p.at)
    }
}

/// A capture that runs.
struct Running {
    child: Child,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Running {
    /// Returns when all taps are open.
    fn start(up: &common::Up, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.pcapng");
        let mut command = common::vilab();
        command.args(["capture", "-l", up.name(), "-o"]).arg(&file).args(arguments);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, file, _dir: dir };
        let begun = |running: &mut Self| {
            assert_eq!(running.child.try_wait().unwrap(), None, "it has ended");
            std::fs::metadata(&running.file).is_ok_and(|m| m.len() > 0)
        };
        wait_for(|| begun(&mut running));
        running
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(self) -> (Capture, String) {
        self.interrupt_and(|_| ())
    }

    fn interrupt_and(self, look: impl FnOnce(&Path)) -> (Capture, String) {
        self.signal(Signal::SIGINT);
        self.end_and(look)
    }

    /// Waits until it ends; the file and what it said.
    fn end(self) -> (Capture, String) {
        self.end_and(|_| ())
    }

    fn end_and(mut self, look: impl FnOnce(&Path)) -> (Capture, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        look(&self.file);
        (self.read(), said)
    }

    fn read(&self) -> Capture {
        read(&std::fs::read(&self.file).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "another process writes the file, and tells nobody")]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ping(up: &common::Up, arguments: &[&str]) {
    common::run(common::vilab().args(["exec", "-l", up.name()]).args(arguments));
}

/// The paper's table, as the base node sees it.
const ROWS: [(&str, bool, [&str; 3]); 5] = [
    ("Y:e-X@base", false, ["base X -> Y", "link A -> B", "net A -> F"]),
    ("Y:e-Z@base", true, ["base Y -> Z", "link B -> C", "net A -> F"]),
    ("Y:e-Z@base", false, ["base Z -> Y", "link C -> D", "net A -> F"]),
    ("Y:e-Z@base", true, ["base Y -> Z", "link D -> E", "net A -> F"]),
    ("Y:e-Z@base", false, ["base Z -> Y", "link E -> F", "net A -> F"]),
];

#[test]
fn a_whole_lab_has_the_rows_of_figure_11_in_order() {
    for dataplane in common::dataplanes() {
        let up =
            common::Up::lab(&format!("capture-fig-{dataplane}"), "figure-11-revisitation.yaml", dataplane);
        let capture = Running::start(&up, &[]);
        ping(&up, &["A", "ping", "-c1", "F"]);
        let running = up.running();
        let lab = &running.state().lab;
        let (found, said) = capture.interrupt_and(|file| {
            tshark_agrees(file);
            tshark_finds_the_rows(file, lab);
        });
        assert_eq!(said, "", "quiet in a pipe");
        for name in ["X:e-Y@base", "Y:e-X@base", "A:v-B@line", "F:v-E@line"] {
            assert!(
                found.interfaces.iter().any(|i| i == name),
                "{dataplane}: no {name}: {:?}",
                found.interfaces
            );
        }
        assert!(found.is_in_order(), "{dataplane}");
        let rows: Vec<(&str, bool, Vec<String>)> = found
            .packets
            .iter()
            .filter(|p| found.name(p).starts_with("Y:") && found.name(p).ends_with("@base"))
            .map(|p| (found.name(p), p.sent, observe::layers(lab, lab.networks[1].id, &found.stack(p))))
            .filter(|(_, _, layers)| layers.len() == 3 && layers[2] == "net A -> F")
            .collect();
        let wanted: Vec<(&str, bool, Vec<String>)> =
            ROWS.iter().map(|(name, sent, row)| (*name, *sent, row.map(str::to_owned).to_vec())).collect();
        assert_eq!(rows, wanted, "{dataplane}");
        let total: u64 = found.counts.values().map(|(received, dropped)| received - dropped).sum();
        assert_eq!(total, found.packets.len() as u64, "{dataplane}: nothing is lost");
    }
}

/// tshark reads the same names, in order, and finds nothing wrong.
fn tshark_agrees(file: &Path) {
    let arguments = ["-nr", &file.to_string_lossy(), "-T", "fields", "-e", "frame.interface_name"];
    let fields = ["-e", "frame.time_delta", "-e", "_ws.malformed", "-e", "frame.packet_flags_direction"];
    let Ok(said) = Command::new("tshark").args(arguments).args(fields).output() else {
        println!("SKIPPED: no tshark");
        return;
    };
    assert!(said.status.success());
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("Y:e-X@base"));
    for line in text.lines() {
        let [_, delta, malformed, direction] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert!(delta.parse::<f64>().unwrap() >= 0.0 && malformed.is_empty(), "{line}");
        assert!(["0x00000001", "0x00000002", "1", "2"].contains(&direction), "{line}");
    }
}

/// Figure 11 as tshark's fields have it: each device of Y, which says node and layer, with the three headers of the packet.
fn tshark_finds_the_rows(file: &Path, lab: &Lab) {
    let mut tshark = Command::new("tshark");
    tshark.args(["-nr", &file.to_string_lossy(), "-Y", "icmp.type == 8", "-T", "fields"]);
    let fields = ["frame.interface_name", "frame.packet_flags_direction", "ip.src", "ip.dst"];
    let Ok(said) = tshark.args(fields.iter().flat_map(|field| ["-e", field])).output() else {
        println!("SKIPPED: no tshark");
        return;
    };
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let addresses = |list: &str| -> Vec<Ipv4Addr> { list.split(',').map(|a| a.parse().unwrap()).collect() };
    let row = |line: &str| {
        let [device, direction, src, dst] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let pairs: Vec<_> = addresses(src).into_iter().zip(addresses(dst)).collect();
        // Of the flags of pcapng, 2 is "sent".
        (device.to_owned(), direction.ends_with('2'), observe::layers(lab, lab.networks[1].id, &pairs))
    };
    let rows: Vec<_> = text
        .lines()
        .map(row)
        .filter(|(device, _, layers)| {
            device.starts_with("Y:") && device.ends_with("@base") && layers.len() == 3
        })
        .filter(|(.., layers)| layers[2] == "net A -> F")
        .collect();
    let wanted = ROWS.map(|(device, sent, row)| (device.to_owned(), sent, row.map(str::to_owned).to_vec()));
    assert_eq!(rows, wanted, "{text}");
}

const TWO: &str = "
name: two
base: {links: [X -- Y]}
vis:
  vi: {nodes: {a: X, b: Y}, links: [a -- b]}
";

#[test]
fn a_count_a_filter_and_a_length_are_kept() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("capture-some", TWO, "fastpath");
    let capture = Running::start(&up, &["--count", "3", "--filter", "icmp", "--snaplen", "60", "a", "X"]);
    ping(&up, &["b", "ping", "-c5", "-i0.01", "-s", "200", "a"]);
    let (found, _) = capture.end();
    assert_eq!(found.packets.len(), 3);
    assert_eq!(found.interfaces, ["X:e-Y@base", "a:v-b@vi"]);
    for packet in &found.packets {
        assert_eq!((found.name(packet), packet.bytes.len(), packet.length), ("a:v-b@vi", 60, 228));
    }
    // On the wire below, ICMP is inside ipip.
    let capture = Running::start(&up, &["-c2", "-f", "ip proto 4", "@base"]);
    ping(&up, &["a", "ping", "-c3", "-i0.01", "b"]);
    let (found, _) = capture.end();
    assert_eq!(found.packets.len(), 2);
    assert!(found.packets.iter().all(|p| found.stack(p).len() == 3));
    let one = Running::start(&up, &["X:e-Y", "--duration", "100ms"]).end().0;
    assert_eq!(one.interfaces, ["X:e-Y@base"]);
}

#[test]
fn a_stream_ends_with_its_reader() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("capture-stream", TWO, "fastpath");
    let mut child = common::vilab();
    let mut child =
        child.args(["capture", "-l", up.name(), "-o", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut head = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut head).unwrap();
    assert_eq!(head, 0x0a0d_0d0a_u32.to_le_bytes());
    // The pipe is closed, and nothing more needs to be sent for the capture to end.
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_was_not_taken_in_time_is_counted() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("capture-flood", TWO, "fastpath");
    let capture = Running::start(&up, &["X", "Y", "--filter", "icmp"]);
    capture.signal(Signal::SIGSTOP);
    const PINGS: usize = 12_000;
    ping(&up, &["X", "ping", "-q", "-f", "-c", &PINGS.to_string(), "-s", "1400", "Y"]);
    capture.signal(Signal::SIGCONT);
    let (found, said) = capture.interrupt();
    assert_eq!(found.counts.len(), 2);
    for (interface, (received, dropped)) in &found.counts {
        // A request and a reply for each, however many of them did not fit.
        assert_eq!(*received, 2 * PINGS as u64, "all that passed is known");
        let kept = found.packets.iter().filter(|p| p.interface == *interface as usize).count() as u64;
        assert_eq!(kept, received - dropped);
        assert!(*dropped > 0 && kept > 0, "{received} {dropped}");
    }
    assert!(said.contains("dropped"), "{said}");
    assert!(found.is_in_order());
}

#[test]
fn a_device_that_comes_is_captured_and_the_lab_s_end_is_the_capture_s() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("capture-apply", TWO, "fastpath");
    let capture = Running::start(&up, &[]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("more.yaml");
    let more = TWO.replace("name: two", "name: capture-apply").replace("X -- Y]", "X -- Y -- Z]");
    std::fs::write(&file, more).unwrap();
    common::run(common::vilab().arg("apply").arg(&file));
    wait_for(|| capture.read().interfaces.iter().any(|name| name == "Z:e-Y@base"));
    ping(&up, &["Z", "ping", "-c1", "-s", "777", "Y"]);
    common::run(common::vilab().args(["down", up.name()]));
    up.has_ended();
    let (found, _) = capture.end();
    for (name, sent) in [("Z:e-Y@base", true), ("Y:e-Z@base", false)] {
        // The probes of `apply` are smaller.
        let requests = found.requests(name, 1).into_iter().filter(|p| p.length == 14 + 28 + 777);
        assert_eq!(requests.map(|p| p.sent).collect::<Vec<_>>(), [sent], "{name}");
    }
    assert!(found.is_in_order());
}

#[test]
fn a_capture_begins_with_the_lab_and_ends_with_it() {
    if !common::can("netns") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("up.pcapng");
    let up = common::Up::with("capture-up", TWO, |command| {
        command.args(["--dataplane", "fastpath", "--capture-filter", "ip", "--capture"]).arg(&file);
    });
    ping(&up, &["a", "ping", "-c1", "-s", "777", "b"]);
    common::run(common::vilab().args(["down", up.name()]));
    up.has_ended();
    let found = read(&std::fs::read(&file).unwrap());
    assert!(found.is_in_order());
    assert!(found.interfaces.contains(&"a:v-b@vi".to_owned()), "{:?}", found.interfaces);
    // The first packets are those by which `up` verifies the lab, and the last came just before the end.
    assert!(found.requests("a:v-b@vi", 1).len() > 1, "{:?}", found.packets.len());
    let last = found.packets.last().unwrap();
    assert!(last.length >= 805, "{last:?}");
    let total: u64 = found.counts.values().map(|(received, dropped)| received - dropped).sum();
    assert_eq!(total, found.packets.len() as u64);
}

#[test]
fn what_cannot_be_is_said() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("capture-wrong", TWO, "fastpath");
    for (arguments, status, words) in [
        (vec!["Q"], 2, "has no node, network or layer Q"),
        (vec!["X:e-Q"], 2, "its devices: lo, e-Y"),
        (vec!["-f", "host and"], 2, "does not understand the filter"),
        (vec!["--count", "0"], 2, "invalid value"),
        (vec!["--snaplen", "300000"], 2, "invalid value"),
        (vec!["--duration", "soon"], 2, "it must be a time"),
        (vec!["-o", "/nonexistent/c.pcapng"], 4, "cannot write /nonexistent/c.pcapng"),
    ] {
        let said = common::vilab().args(["capture", "-l", up.name()]).args(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(said.stdout.is_empty(), "{arguments:?}");
    }
    let said = common::vilab().args(["up", "--capture", "-", "labs/ospf.yaml"]).output().unwrap();
    assert_eq!(said.status.code(), Some(2));
}
