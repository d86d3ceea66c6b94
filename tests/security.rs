//! ESP on virtual links (paper, II.1 and II.2.3): on the wire, against forgers, under load, and beside the security of
//! other layers; on each dataplane this machine has, and with one at each end of a link.

#![expect(
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a skip must be seen; of all operations, tests name those they are about"
)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::bench::{Arrivals, acknowledged, dropped};
use vilab::lab::{Namespaces, Running};
use vilab::model::{self, Lab, Security};
use vilab::packet::esp::{Association, EspView, Key, Sealer};
use vilab::packet::{self, Ecn, Ipv4Repr, ipv4};
use vilab::plan::security::associations;
use vilab::plan::{self, Machine, Op, Plan};
use vilab::routing::Rib;
use vilab::sys::packet_socket::{Capture, Ipv4Socket};

const KERNEL: &str = "kernel";
const FASTPATH: &str = "fastpath";
const IPV4: u16 = 0x0800;
/// Repeated in what is sent, and not to be found on the wire.
const MARKER: &[u8] = b"not to be seen; ";

/// One protected link between two base nodes, and one within the first.
fn text(security: &str, [x, y]: [&str; 2]) -> String {
    format!(
        "name: security
base:
  nodes:
    X: {{dataplane: {x}}}
    Y: {{dataplane: {y}}}
  links:
    - X -- Y
vis:
  vi:
    security: {security}
    nodes:
      A: X
      B: Y
      C: X
    links:
      - A -- B
      - A -- C
"
    )
}

/// VIs side by side on the same two base nodes, one for each suite and one without; `index` of [`VIS`] is one less than
/// that of the network.
const VIS: [(&str, &str); 4] =
    [("open", "none"), ("g128", "aes128-gcm"), ("g256", "aes256-gcm"), ("cbc", "aes256-cbc-sha256")];
const OPEN: usize = 0;
const G128: usize = 1;

fn all_suites([x, y]: [&str; 2]) -> String {
    let mut text = format!(
        "name: all\nbase:\n  nodes:\n    X: {{dataplane: {x}}}\n    Y: {{dataplane: {y}}}\n  links:\n    - X -- Y\nvis:\n"
    );
    for (vi, security) in VIS {
        text += &format!(
            "  {vi}:\n    security: {security}\n    nodes: {{A: X, B: Y, C: X}}\n    links: [A -- B, A -- C]\n"
        );
    }
    text
}

fn parse(text: &str) -> Lab {
    model::parse(Path::new("lab.yaml"), text).expect("a good lab")
}

/// What carries X and Y, in all ways that this machine can.
fn carriers() -> Vec<[&'static str; 2]> {
    let all = common::all_dataplanes();
    all.iter().flat_map(|x| all.iter().map(|y| [*x, *y])).collect()
}

struct Bed {
    running: Running,
    namespaces: Namespaces,
    _up: common::Up,
}

impl Bed {
    fn new(what: &str, carriers: [&str; 2]) -> Self {
        let name = format!("esp-{what}-{}-{}", &carriers[0][..1], &carriers[1][..1]);
        let up = common::Up::as_written(&name, &all_suites(carriers));
        let running = up.running();
        Self { namespaces: running.namespaces(), running, _up: up }
    }

    fn lab(&self) -> &Lab {
        &self.running.state().lab
    }

    fn base(&self, index: usize) -> Ipv4Addr {
        self.lab().base().nodes[index].host.expect("a loopback")
    }

    /// Host addresses of A and B.
    fn hosts(&self, vi: usize) -> (Ipv4Addr, Ipv4Addr) {
        let nodes = &self.lab().networks[vi + 1].nodes;
        (nodes[0].host.expect("a host"), nodes[1].host.expect("a host"))
    }

    /// From A to B.
    fn link(&self, vi: usize) -> &model::Link {
        &self.lab().networks[vi + 1].links[0]
    }

    /// Link addresses of A and B.
    fn pair(&self, vi: usize) -> (Ipv4Addr, Ipv4Addr) {
        let ends = &self.link(vi).ends;
        (ends[0].link_addr.expect("of A"), ends[1].link_addr.expect("of B"))
    }

    fn capture(&self, ns: &str) -> Capture {
        self.namespaces.run(ns, Capture::open).expect("the namespace").expect("a capture")
    }

    /// `vilab exec` in a node of a VI.
    fn exec(&self, vi: usize, node: &str, command: &[&str]) -> String {
        self.exec_at(&format!("{}/{node}", VIS[vi].0), command)
    }

    fn exec_at(&self, node: &str, command: &[&str]) -> String {
        common::run(common::vilab().args(["exec", "-l", self.running.name(), node]).args(command))
    }

    /// A counter of base node Y, as `vilab status` shows it.
    fn count(&self, name: &str) -> u64 {
        let status = common::run(common::vilab().args(["status", "--json", self.running.name()]));
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["counters"]["Y"][name].as_u64().unwrap_or(0)
    }

    fn await_count(&self, name: &str, value: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.count(name) != value {
            let now = || common::run(common::vilab().args(["status", "--json", self.running.name()]));
            assert!(Instant::now() < deadline, "{name} is not {value} on {}: {}", self.running.name(), now());
        }
    }
}

/// The IPv4 packets of protocol 4 captured so far.
fn tunnelled(capture: &Capture) -> Vec<Vec<u8>> {
    let (mut packets, mut buffer) = (Vec::new(), vec![0; 65_536]);
    while let Some(frame) = capture.recv(&mut buffer).expect("the capture works") {
        if frame.protocol == IPV4
            && packet::stack(frame.bytes).first().is_some_and(|h| h.protocol == ipv4::IPIP)
        {
            packets.push(frame.bytes.to_vec());
        }
    }
    packets
}

fn holds(packet: &[u8], what: &[u8]) -> bool {
    packet.windows(what.len()).any(|w| w == what)
}

/// A file of packets for tcpdump and tshark: LINKTYPE_IPV4.
fn pcap(packets: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 228] {
        bytes.extend(word.to_ne_bytes());
    }
    for packet in packets {
        let length = u32::try_from(packet.len()).expect("a packet");
        for word in [0, 0, length, length] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(packet);
    }
    let file = tempfile::Builder::new().suffix(".pcap").tempfile().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("the packets are written");
    file
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("SKIPPED in part: {program} is not installed");
    }
    found.is_ok()
}

/// What two programs of others make of the packets: ESP inside two IPv4 headers, and nothing behind.
fn assert_decoded_as_esp(packets: &[Vec<u8>]) {
    let file = pcap(packets);
    let said = common::run(Command::new("tcpdump").args(["-nr"]).arg(file.path()));
    assert_eq!(said.lines().count(), packets.len(), "{said}");
    assert!(said.lines().all(|line| line.contains("ESP(spi=0x")), "{said}");
    if is_installed("tshark") {
        let arguments = ["-T", "fields", "-e", "frame.protocols", "-e", "esp.spi", "-r"];
        let said = common::run(Command::new("tshark").args(arguments).arg(file.path()));
        assert_eq!(said.lines().count(), packets.len(), "{said}");
        assert!(said.lines().all(|line| line.contains("ip:ip:esp\t0x")), "{said}");
    }
}

/// Sends and answers the marker: pings whose payload it is.
fn ping_with_marker(bed: &Bed, vi: usize, to: &str) {
    let pattern: String = MARKER.iter().map(|b| format!("{b:02x}")).collect();
    bed.exec(vi, "A", &["ping", "-c3", "-i0.05", "-W5", "-s400", "-p", &pattern, to]);
}

/// B10, B11: on the wire of a protected link there is ESP behind the link header, and no byte of what it carries. A VI
/// without security on the same wire shows it all.
#[test]
fn b11_the_wire_shows_esp_and_nothing_inside() {
    let mut shown = Vec::new();
    for carriers in carriers() {
        let bed = Bed::new("wire", carriers);
        for (vi, (_, security)) in VIS.iter().enumerate() {
            let capture = bed.capture("b.Y");
            ping_with_marker(&bed, vi, "B");
            let packets = tunnelled(&capture);
            assert!(packets.len() >= 6, "{} packets on {carriers:?}", packets.len());
            let (a, b) = bed.hosts(vi);
            let addresses = [a.octets(), b.octets()].concat();
            let in_clear = packets.iter().filter(|p| holds(p, &MARKER[..8]) || holds(p, &addresses)).count();
            if vi == OPEN {
                assert!(in_clear >= 6, "the marker is looked for where it must be");
                continue;
            }
            assert_eq!(in_clear, 0, "{security} on {carriers:?}");
            for packet in &packets {
                let protocols: Vec<u8> = packet::stack(packet).iter().map(|h| h.protocol).collect();
                assert_eq!(protocols, [ipv4::IPIP, ipv4::ESP], "{security} on {carriers:?}");
            }
            shown.extend(packets);
        }
    }
    if !shown.is_empty() {
        assert_decoded_as_esp(&shown);
    }
}

/// B11: a link within a base node passes its loopback device in the kernel, sealed there as anywhere.
#[test]
fn b11_a_link_within_a_node_is_sealed_too() {
    if !common::can(KERNEL) {
        return;
    }
    let bed = Bed::new("inside", [KERNEL, KERNEL]);
    for vi in G128..VIS.len() {
        let capture = bed.capture("l.X");
        ping_with_marker(&bed, vi, "C");
        let mut buffer = vec![0; 65_536];
        let mut sealed = 0;
        while let Some(frame) = capture.recv(&mut buffer).expect("the capture works") {
            assert!(!holds(frame.bytes, &MARKER[..8]));
            sealed += usize::from(frame.bytes.get(9) == Some(&ipv4::ESP));
        }
        assert!(sealed >= 6, "{sealed} ESP packets on lo");
    }
}

/// What can be sent to B's end of the link from X by someone who may know the key.
struct Forger<'a> {
    bed: &'a Bed,
    vi: usize,
    own: Association,
    sealer: Sealer,
}

impl<'a> Forger<'a> {
    /// Ahead of what A itself sends.
    fn new(bed: &'a Bed, vi: usize) -> Self {
        let [own, _] = associations(bed.lab(), bed.link(vi)).expect("a protected link");
        let mut sealer = Sealer::new(&own);
        (0..5_000).for_each(|_| drop(seal(&mut sealer, b"")));
        Self { bed, vi, own, sealer }
    }

    /// A UDP packet from A to B.
    fn net(&self) -> Vec<u8> {
        let udp = [0x13, 0x88, 0x13, 0x88, 0, 12, 0, 0, 1, 2, 3, 4];
        let (a, b) = self.bed.hosts(self.vi);
        Ipv4Repr::new(a, b, ipv4::UDP, 0).with_payload(&udp)
    }

    fn sealed(&mut self) -> Vec<u8> {
        let net = self.net();
        seal(&mut self.sealer, &net)
    }

    /// As the base tunnel from X would bring it.
    fn send(&self, protocol: u8, payload: &[u8]) {
        let (src, dst) = self.bed.pair(self.vi);
        let link = Ipv4Repr { protocol, ..Ipv4Repr::ipip(src, dst, payload.len(), Ecn::NotEct, 7) };
        let base = (self.bed.base(0), self.bed.base(1));
        let packet = packet::nest(&[base], &link.with_payload(payload), 7);
        let socket = self.bed.namespaces.run("b.X", Ipv4Socket::open).expect("the namespace");
        socket.expect("a socket").send(base.1, &packet).expect("it is sent");
    }
}

fn seal(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let suite = sealer.suite();
    let mut bytes = vec![0; suite.sealed_len(payload.len())];
    bytes[suite.header_len()..][..payload.len()].copy_from_slice(payload);
    sealer.seal(&mut bytes, payload.len(), ipv4::IPIP).expect("numbers are left");
    bytes
}

/// B11: cleartext, a wrong key, a replay, truncation, a wrong SPI: all dropped, and all counted under one name on both
/// dataplanes. What is right passes, so the rest fails for its own fault.
#[test]
fn b11_forgeries_are_dropped_and_counted() {
    for dataplane in common::dataplanes() {
        let bed = Bed::new("forged", [dataplane, dataplane]);
        for vi in G128..VIS.len() {
            forge(&bed, vi);
        }
    }
}

fn forge(bed: &Bed, vi: usize) {
    let mut forger = Forger::new(bed, vi);
    let rounds = u64::try_from(vi - G128).expect("a round");
    let ns = format!("v.{}.B", VIS[vi].0);
    let received = bed.namespaces.run(&ns, || std::net::UdpSocket::bind(("0.0.0.0", 5000)));
    let received = received.expect("the namespace").expect("a socket");
    received.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut buffer = [0; 16];

    let good = forger.sealed();
    forger.send(ipv4::ESP, &good);
    assert_eq!(received.recv(&mut buffer).expect("what is right passes"), 4);
    forger.send(ipv4::ESP, &good);
    bed.await_count("esp-replay", rounds + 1);

    forger.send(ipv4::IPIP, &forger.net());
    bed.await_count("esp-required", rounds + 1);

    let mut changed = forger.sealed();
    *changed.last_mut().expect("an ICV") ^= 1;
    forger.send(ipv4::ESP, &changed);
    let other = Association { key: Key::new([1; Key::LEN]), ..forger.own.clone() };
    let mut other = Sealer::new(&other);
    (0..6_000).for_each(|_| drop(seal(&mut other, b"")));
    forger.send(ipv4::ESP, &seal(&mut other, &forger.net()));
    let cut = forger.sealed();
    forger.send(ipv4::ESP, &cut[..cut.len() - 1]);
    bed.await_count("esp-auth", 3 * rounds + 3);

    forger.send(ipv4::ESP, &cut[..forger.own.suite.header_len() + 15]);
    forger.send(ipv4::ESP, &cut[..7]);
    bed.await_count("esp-malformed", 2 * rounds + 2);

    let spi = Association { spi: forger.own.spi ^ 1, ..forger.own.clone() };
    forger.send(ipv4::ESP, &seal(&mut Sealer::new(&spi), &forger.net()));
    bed.await_count("esp-unexpected", rounds + 1);

    let last = forger.sealed();
    forger.send(ipv4::ESP, &last);
    assert_eq!(received.recv(&mut buffer).expect("what is right passes still"), 4);
    received.set_nonblocking(true).expect("no waiting");
    assert!(received.recv(&mut buffer).is_err(), "nothing else was delivered");
}

/// B11: ESP for a link that is not protected is dropped and counted.
#[test]
fn b11_esp_for_an_open_link_is_counted() {
    for dataplane in common::dataplanes() {
        let bed = Bed::new("unasked", [dataplane, dataplane]);
        let forger = Forger { vi: OPEN, ..Forger::new(&bed, G128) };
        forger.send(ipv4::ESP, &seal(&mut Sealer::new(&forger.own), &forger.net()));
        bed.await_count("esp-unexpected", 1);
    }
}

/// Megabytes of a transfer: few by default, for an emulated machine seals slowly.
fn megabytes() -> usize {
    std::env::var("VILAB_TRANSFER_MB").ok().and_then(|mb| mb.parse().ok()).unwrap_or(1)
}

/// Words that all differ, so that nothing can be lost, doubled or moved unseen.
fn word(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}

/// Sends between A and B of a VI; gives the seconds it took, and the bytes that were sent more than once.
fn transfer(bed: &Bed, vi: usize, from_a: bool, megabytes: usize) -> (f64, u64) {
    let [a, b] = ["A", "B"].map(|node| format!("v.{}.{node}", VIS[vi].0));
    let (at_a, at_b) = bed.hosts(vi);
    let (from, to, address) = if from_a { (a, b, at_b) } else { (b, a, at_a) };
    let words = u64::try_from(megabytes * 1_000_000 / 8).expect("a size");
    let listener = bed.namespaces.run(&to, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5001)));
    let listener = listener.expect("the namespace").expect("a listener");
    let arrivals = bed.namespaces.run(&to, || Arrivals::open(5001)).expect("the namespace");
    let over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| arrivals.bytes(&over));
        let receiver = scope.spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let mut stream = std::io::BufReader::with_capacity(1 << 20, stream);
            let mut found = [0; 8];
            for number in 0..words {
                stream.read_exact(&mut found).expect("all bytes come");
                assert!(found == word(number), "word {number} is another");
            }
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(stream.read(&mut found).expect("the end"), 0);
            seconds
        });
        let stream = bed.namespaces.run(&from, || TcpStream::connect((address, 5001)));
        let mut stream =
            std::io::BufWriter::with_capacity(1 << 20, stream.expect("the namespace").expect("a connection"));
        for number in 0..words {
            stream.write_all(&word(number)).expect("the bytes are taken");
        }
        stream.flush().expect("the bytes are taken");
        let sent = bed.namespaces.run(&from, || acknowledged(5001)).expect("the namespace");
        over.store(true, Ordering::Relaxed);
        let came = counting.join().expect("the count");
        stream.get_ref().shutdown(Shutdown::Write).expect("the end is sent");
        let seconds = receiver.join().expect("the receiver");
        assert_eq!(came, sent, "bytes of TCP that came, and that were sent: {}", dropped(&bed.namespaces));
        (seconds, sent - 8 * words)
    })
}

/// Much of a hundred megabytes each way over links with the kernel at one end and the fast path at the other (elsewhere:
/// over the fast path alone): it arrives as it was sent, nothing is lost, and ESP drops nothing.
#[test]
fn megabytes_pass_between_the_dataplanes() {
    let carriers = carriers();
    let Some([x, y]) = carriers.iter().find(|[x, y]| x != y).or(carriers.last()).copied() else { return };
    let bed = Bed::new("transfer", [x, y]);
    for from_a in [true, false] {
        let (seconds, again) = transfer(&bed, G128, from_a, megabytes());
        let rate = 8.0 * f64::from(u32::try_from(megabytes()).expect("a size")) / seconds;
        let (from, to) = if from_a { (x, y) } else { (y, x) };
        println!(
            "{} MB from {from} to {to}: {seconds:.1} s, {rate:.0} Mbit/s, {again} bytes needlessly again",
            megabytes()
        );
    }
    for name in ["esp-auth", "esp-replay", "esp-malformed", "esp-required", "esp-unexpected", "esp-sequence"]
    {
        assert_eq!(bed.count(name), 0, "{name}");
    }
}

/// Differential: what each dataplane seals the other opens, with every suite, at sizes of all paddings up to the MTU.
#[test]
fn each_dataplane_opens_what_the_other_seals() {
    for [x, y] in carriers().into_iter().filter(|[x, y]| x != y) {
        let bed = Bed::new("sizes", [x, y]);
        for vi in G128..VIS.len() {
            let most = bed.link(vi).mtu - 28;
            let sizes: Vec<String> = (56..90).chain(most - 17..=most).map(|s| s.to_string()).collect();
            let pings = format!(
                "for size in {}; do ping -qc1 -W5 -Mdo -s $size B >&2 || exit 1; done; ! ping -qc1 -W1 -Mdo -s {} B >&2",
                sizes.join(" "),
                most + 1
            );
            bed.exec(vi, "A", &["sh", "-c", &pings]);
            transfer(&bed, vi, true, 1);
            transfer(&bed, vi, false, 1);
        }
    }
}

/// B12: security end to end, by protocols above, is simply traffic: a TLS session over a protected link.
#[test]
fn b12_tls_passes_a_protected_link() {
    if !is_installed("openssl") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (key, certificate) = (file("key"), file("certificate"));
    let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let files = ["-subj", "/CN=B", "-keyout", &key, "-out", &certificate];
    common::run(Command::new("openssl").args(["req", "-x509"]).args(kind).args(files));
    for carriers in carriers() {
        let bed = Bed::new("tls", carriers);
        let capture = bed.capture("b.Y");
        let in_node = |node: &str| {
            let mut command = common::vilab();
            command.args(["exec", "-l", bed.running.name(), node, "openssl"]).stderr(Stdio::null());
            command
        };
        let server =
            ["s_server", "-4", "-rev", "-quiet", "-accept", "4433", "-key", &key, "-cert", &certificate];
        let mut server = in_node("g256/B").args(server).stdout(Stdio::null()).spawn().expect("a server");
        let listening = || bed.exec(2, "B", &["cat", "/proc/net/tcp"]).contains(":1151 00000000:0000 0A");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !listening() {
            assert!(Instant::now() < deadline, "the server does not listen");
        }
        let client =
            ["s_client", "-quiet", "-verify_return_error", "-CAfile", &certificate, "-connect", "B:4433"];
        let mut command = in_node("g256/A");
        command.args(client).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().expect("a client");
        client.stdin.take().expect("its input").write_all(b"drawer\n").expect("it is taken");
        let mut answer = [0; 7];
        let read = client.stdout.take().expect("its output").read_exact(&mut answer);
        for child in [&mut client, &mut server] {
            // The command passes this on to what it runs.
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id().cast_signed()),
                nix::sys::signal::SIGTERM,
            )
            .expect("it runs");
            child.wait().expect("it ends");
        }
        read.expect("an answer");
        assert_eq!(&answer, b"reward\n", "{carriers:?}");
        let packets = tunnelled(&capture);
        assert!(packets.len() > 8);
        assert!(packets.iter().all(|p| packet::stack(p).last().is_some_and(|h| h.protocol == ipv4::ESP)));
    }
}

/// Security associations and policies for what passes from `src` to `dst`, by hand, on one side.
fn by_hand(bed: &Bed, node: &str, (src, dst): (Ipv4Addr, Ipv4Addr), selector: &str) {
    for (from, to, direction, spi) in [(src, dst, "out", src), (dst, src, "in", dst)] {
        let spi = 0x1000 + u32::from(spi.octets()[3]);
        let key = "0x000102030405060708090a0b0c0d0e0f10111213";
        let state = format!("ip xfrm state add src {from} dst {to} proto esp spi {spi} mode transport");
        let policy = format!("ip xfrm policy add src {from} dst {to} {selector} dir {direction}");
        let template = format!("tmpl src {from} dst {to} proto esp mode transport");
        let lines = format!("{state} aead 'rfc4106(gcm(aes))' {key} 128 && {policy} {template}");
        bed.exec_at(node, &["sh", "-c", &lines]);
    }
}

/// C24: security of the base, of the link and of the network layer, each on and off: all eight pass traffic, and each is
/// where it was put. That of the base and of the network are set by hand.
#[test]
fn c24_security_of_three_layers_is_independent() {
    if !common::can(KERNEL) {
        return;
    }
    let bed = Bed::new("c24", [KERNEL, KERNEL]);
    for (link, vi) in [(false, OPEN), (true, G128)] {
        for (base, net) in [(false, false), (false, true), (true, false), (true, true)] {
            let (bases, hosts) = ((bed.base(0), bed.base(1)), bed.hosts(vi));
            let nodes = ["A", "B"].map(|node| format!("{}/{node}", VIS[vi].0));
            if base {
                by_hand(&bed, "base/X", bases, "proto 4");
                by_hand(&bed, "base/Y", (bases.1, bases.0), "proto 4");
            }
            if net {
                by_hand(&bed, &nodes[0], hosts, "");
                by_hand(&bed, &nodes[1], (hosts.1, hosts.0), "");
            }
            let looks = ["b.Y", "l.Y", &format!("v.{}.B", VIS[vi].0)].map(|ns| bed.capture(ns));
            bed.exec(vi, "A", &["ping", "-c3", "-i0.05", "-W5", "-s400", "B"]);
            transfer(&bed, vi, true, 1);
            let on = looks.each_ref().map(esp_seen);
            assert_eq!(on, [base, link, net], "base {base}, link {link}, net {net}");
            for node in ["base/X", "base/Y", &nodes[0], &nodes[1]] {
                bed.exec_at(node, &["sh", "-c", "ip xfrm policy flush && ip xfrm state flush"]);
            }
        }
    }
}

/// Whether packets under one IPv4 header are ESP where this capture is.
fn esp_seen(capture: &Capture) -> bool {
    let mut buffer = vec![0; 65_536];
    let mut protocols = BTreeSet::new();
    while let Some(frame) = capture.recv(&mut buffer).expect("the capture works") {
        protocols.extend(packet::stack(frame.bytes).first().map(|h| h.protocol));
    }
    assert!(!protocols.is_empty(), "something was captured");
    protocols.contains(&ipv4::ESP)
}

/// A machine that carries both dataplanes.
fn machine() -> Machine {
    Machine { ipip: true, nft: true, tun: true, netem: true, esp: true, ..Machine::default() }
}

fn build(lab: &Lab, machine: &Machine) -> vilab::error::Result<Plan> {
    plan::build(lab, &Rib::compute(lab), machine)
}

fn ops(plan: &Plan) -> Vec<&Op> {
    plan.stages.iter().flat_map(|s| &s.ops).collect()
}

/// B10: `security` on and off: the plans differ in what XFRM gets, in MTUs, in the fast path's associations, and in the
/// pairs for which the strong-host rules let ESP in; addresses, routes, devices and names are the same.
#[test]
fn b10_a_plan_with_security_is_the_plan_without() {
    for carriers in [[KERNEL, KERNEL], [KERNEL, FASTPATH], [FASTPATH, FASTPATH]] {
        let plans = ["none", "aes256-cbc-sha256"]
            .map(|s| build(&parse(&text(s, carriers)), &machine()).expect("a plan"));
        let plain = |plan: &Plan| -> Vec<String> {
            let about_security = |op: &Op| match op {
                Op::AddAssociation { .. } | Op::AddPolicy { .. } => true,
                Op::SetSysctl { key, .. } => key.starts_with("net/ipv4/conf/lo/disable_"),
                _ => false,
            };
            let without_mtu = |op: &Op| match op {
                Op::SetUp { ns, dev, .. } => format!("up {ns} {dev}"),
                Op::AddRuleset { ns, text } => {
                    let lines = text.lines().filter(|l| !l.contains("set protected"));
                    format!("{ns} {}", lines.collect::<Vec<_>>().join("\n"))
                }
                other => other.to_string(),
            };
            ops(plan).into_iter().filter(|op| !about_security(op)).map(without_mtu).collect()
        };
        assert_eq!(plain(&plans[0]), plain(&plans[1]));
        assert_ne!(
            plans[0].to_string() + &format!("{:?}", plans[0].fastpath),
            plans[1].to_string() + &format!("{:?}", plans[1].fastpath)
        );
        let plain = |plan: &Plan| {
            let mut config = plan.fastpath.clone().unwrap_or_default();
            config.interfaces.iter_mut().for_each(|i| (i.security, i.mtu) = (None, 0));
            config
        };
        assert_eq!(plain(&plans[0]), plain(&plans[1]));
        assert_eq!((&plans[0].views, &plans[0].services), (&plans[1].views, &plans[1].services));
    }
}

/// A link's own word comes before that of its VI, `none` too.
#[test]
fn a_links_own_security_comes_first() {
    let text = "name: own\nbase: {links: [X -- Y -- Z]}\nvis:\n  vi:\n    security: aes128-gcm\n    nodes: {a: X, b: Y, c: Z}\n    \
                links:\n      - a -- b\n      - {link: b -- c, security: none}\n      - {link: c -- a, security: aes256-gcm}\n";
    let found: Vec<_> = parse(text).networks[1].links.iter().map(|l| (l.security, l.mtu)).collect();
    let expected = [(Some(Security::Aes128Gcm), 1426), (None, 1460), (Some(Security::Aes256Gcm), 1426)];
    assert_eq!(found, expected);
}

/// Without ESP the kernel dataplane is refused before anything is made, and `auto` says why it takes the fast path.
#[test]
fn a_kernel_without_esp_carries_no_protected_link() {
    let without = Machine { esp: false, ..machine() };
    let protected = |carriers| parse(&text("aes128-gcm", carriers));
    for carriers in [[KERNEL, KERNEL], [KERNEL, FASTPATH]] {
        let refused = build(&protected(carriers), &without).expect_err("no ESP");
        assert!(refused.causes().iter().any(|c| c.contains("ESP")), "{refused:?}");
        assert!(build(&parse(&text("none", carriers)), &without).is_ok());
    }
    let plan = build(&protected(["auto", "auto"]), &without).expect("the fast path");
    assert!(plan.why.contains("ESP") && plan.fastpath.is_some(), "{}", plan.why);
    let plan = build(&protected(["auto", "auto"]), &machine()).expect("the kernel");
    assert!(plan.fastpath.is_none(), "{}", plan.why);
}

/// Keys and SPIs: equal for equal files, another for each link, direction and suite, and untouched by the rest of the file.
#[test]
fn keys_follow_from_names_alone() {
    let links = |text: &str| {
        let lab = parse(text);
        let of_link = |l: &model::Link| associations(&lab, l).map(|a| (l.name.clone(), a));
        lab.networks.iter().flat_map(|n| &n.links).filter_map(of_link).collect::<Vec<_>>()
    };
    let lab = common::text("security.yaml");
    let found = links(&lab);
    assert_eq!(found, links(&lab));
    let all: Vec<&Association> = found.iter().flat_map(|(_, both)| both).collect();
    let keys: BTreeSet<String> = all.iter().map(|a| a.key.clone().into()).collect();
    let spis: BTreeSet<u32> = all.iter().map(|a| a.spi).collect();
    assert_eq!((keys.len(), spis.len(), all.len()), (6, 6, 6));
    assert!(spis.iter().all(|spi| *spi >= 256));

    let changed = lab.replace("    links:\n      - A -- B\n", "    links:\n      - D -- B\n      - A -- B\n");
    let again = links(&changed.replace("aes256-gcm", "aes128-gcm"));
    let of = |found: &[(String, [Association; 2])], name: &str| {
        found.iter().find(|(n, _)| n == name).map(|(_, both)| both.clone()).expect("a link")
    };
    assert_eq!(of(&again, "A--B"), of(&found, "A--B"), "another link changes nothing");
    assert_ne!(of(&again, "p--q")[0].key, of(&found, "p--q")[0].key, "another suite has another key");
}

/// One destination, one SPI: in each namespace of a plan no two associations would be mistaken for each other.
#[test]
fn spis_are_unique_for_their_destination() {
    for file in ["security.yaml", "mixed/security.yaml"] {
        let plan = build(&parse(&common::text(file)), &machine()).expect("a plan");
        let mut seen = BTreeSet::new();
        for op in ops(&plan) {
            if let Op::AddAssociation { ns, dst, association, .. } = op {
                assert!(seen.insert((ns.clone(), *dst, association.spi)), "{op}");
            }
        }
        assert!(seen.len() >= 4, "{file}");
        let view = EspView::new_checked(&[0x80, 0, 0, 1, 0, 0, 0, 9]).expect("a header");
        assert_eq!((view.spi(), view.sequence()), (0x8000_0001, 9));
    }
}

/// `fit` leaves no byte: the largest packet's ESP fits below the link, and one byte more does not.
#[test]
fn fit_subtracts_what_esp_takes() {
    for base_mtu in (600..1600).step_by(7) {
        for suite in Security::ALL {
            let text = text(suite.as_str(), ["auto", "auto"])
                .replace("base:\n", &format!("base:\n  mtu: {base_mtu}\n"));
            let mtu = usize::try_from(parse(&text).networks[1].links[0].mtu).expect("a size");
            let room = base_mtu - 40;
            assert!(
                suite.sealed_len(mtu) <= room && suite.sealed_len(mtu + 1) > room,
                "{suite:?} on {base_mtu}: {mtu}"
            );
        }
    }
    let too_big = text("aes128-gcm", ["auto", "auto"])
        .replace("      - A -- B\n", "      - {link: A -- B, mtu: 1427}\n");
    let error = model::parse(Path::new("lab.yaml"), &too_big).expect_err("one byte more");
    assert!(format!("{:?}", error.report()).contains("at most 1426"), "{error:?}");
}
