#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
//! The fast path on real namespaces: base nodes X - Y - Z, a VI A - B - C on top, and a VI P - Q stacked on A and
//! C. Another link of A and C passes Y in the base alone. The engine runs in a process of its own: this binary again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use vilab::fastpath::config::{BaseNode, Below, Config, Interface, Partition};
use vilab::fastpath::control::{AllCounters, Client};
use vilab::lab::Namespaces;
use vilab::model::Impairment;
use vilab::packet::{self, IcmpRepr, Ipv4Repr};
use vilab::sys;

const CONFIG: &str = "VILAB_TEST_FASTPATH_CONFIG";
const CONTROL: &str = "VILAB_TEST_FASTPATH_CONTROL";
const NETNS_DIR: &str = "/run/netns";

/// Not a test: the engine's process.
#[test]
fn engine_process() {
    let (Ok(config), Ok(control)) = (std::env::var(CONFIG), std::env::var(CONTROL)) else { return };
    let config: Config = serde_json::from_str(&config).unwrap();
    vilab::fastpath::run(&config, &Namespaces::at(NETNS_DIR), Path::new(&control), || {
        println!("\nengine ready");
        std::io::stdout().flush().unwrap();
    })
    .unwrap();
}

/// Whether to run; a machine that must be able to may not skip.
fn can_run(test: &str) -> bool {
    let able = nix::unistd::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    let required = std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r == "netns"));
    assert!(able || !required, "network namespaces are required but this is not root or there is no TUN");
    if !able {
        eprintln!("SKIPPED {test}: needs root and /dev/net/tun");
    }
    able
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn addr(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// The namespaces; removed when dropped.
struct Spaces {
    prefix: String,
    names: Vec<String>,
    all: Namespaces,
}

impl Spaces {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("vilabfp{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { prefix, names: Vec::new(), all: Namespaces::at(NETNS_DIR) }
    }

    fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    fn add(&mut self, short: &str) {
        let name = self.name(short);
        ip(&format!("netns add {name}"));
        self.names.push(name.clone());
        ip(&format!("-n {name} link set dev lo up"));
        self.run(short, || {
            for (key, value) in [("ip_forward", "1"), ("icmp_ratelimit", "0"), ("conf/all/rp_filter", "0")] {
                std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value).unwrap();
            }
        });
    }

    fn run<T: Send>(&self, short: &str, f: impl FnOnce() -> T + Send) -> T {
        self.all.run(&self.name(short), f).unwrap()
    }

    fn ip(&self, short: &str, args: &str) {
        ip(&format!("-n {} {args}", self.name(short)));
    }

    /// What a command in a namespace prints, and whether it succeeded.
    fn exec(&self, short: &str, command: &str) -> (bool, String) {
        let name = self.name(short);
        let mut args = vec!["netns", "exec", name.as_str()];
        args.extend(command.split_whitespace());
        let output = Command::new("ip").args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn wire(&self, a: (&str, &str, &str), b: (&str, &str, &str)) {
        let peer = self.name(b.0);
        self.ip(a.0, &format!("link add name {} type veth peer name {} netns {peer}", a.1, b.1));
        for (ns, dev, address) in [a, b] {
            self.ip(ns, &format!("addr add {address} dev {dev}"));
            self.ip(ns, &format!("link set dev {dev} up"));
        }
    }

    fn tun(&self, short: &str, dev: &str, address: &str, mtu: u32) {
        self.run(short, || sys::tun::create_persistent(dev).unwrap());
        self.ip(short, &format!("addr add {address} dev {dev}"));
        self.ip(short, &format!("link set dev {dev} mtu {mtu} multicast on up"));
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A running lab; the engine ends before the namespaces go.
struct Lab {
    engine: Child,
    /// Kept open: the test harness in there prints at its end.
    _output: BufReader<ChildStdout>,
    control: PathBuf,
    _dir: tempfile::TempDir,
    spaces: Spaces,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}

fn interface(partition: usize, dev: &str, mtu: u32, ends: (&str, &str), below: Below) -> Interface {
    Interface {
        partition,
        dev: dev.to_owned(),
        mtu,
        local: addr(ends.0),
        remote: addr(ends.1),
        below,
        security: None,
        exit: None,
        fragments: None,
        bundle: None,
        impair: Impairment::default(),
    }
}

fn config(spaces: &Spaces) -> Config {
    let node = |name: &str, address| BaseNode {
        name: name.to_owned(),
        netns: spaces.name(&format!("b.{name}")),
        addr: addr(address),
    };
    let partition = |name: &str, node| Partition {
        name: name.to_owned(),
        netns: spaces.name(&format!("v.{name}")),
        node,
        refuses: Vec::new(),
    };
    let (x, y, z) = ("10.255.0.1", "10.255.0.2", "10.255.0.3");
    let tunnel = |remote| Below::Base { remote: addr(remote) };
    Config {
        nodes: vec![node("X", x), node("Y", y), node("Z", z)],
        partitions: vec![
            partition("A", 0),
            partition("B", 1),
            partition("C", 2),
            partition("P", 0),
            partition("Q", 2),
        ],
        interfaces: vec![
            interface(0, "b", 1460, ("172.16.0.0", "172.16.0.1"), tunnel(y)),
            interface(1, "a", 1460, ("172.16.0.1", "172.16.0.0"), tunnel(x)),
            interface(1, "c", 1460, ("172.16.0.2", "172.16.0.3"), tunnel(z)),
            interface(2, "b", 1460, ("172.16.0.3", "172.16.0.2"), tunnel(y)),
            interface(3, "q", 1440, ("10.1.8.0", "10.1.8.1"), Below::Partition(0)),
            interface(4, "p", 1440, ("10.1.8.1", "10.1.8.0"), Below::Partition(2)),
            interface(0, "c", 1460, ("172.16.0.4", "172.16.0.5"), tunnel(z)),
            interface(2, "a", 1460, ("172.16.0.5", "172.16.0.4"), tunnel(x)),
        ],
        devices: Vec::new(),
    }
}

fn build_base(spaces: &mut Spaces) {
    for ns in ["b.X", "b.Y", "b.Z", "v.A", "v.B", "v.C", "v.P", "v.Q"] {
        spaces.add(ns);
    }
    for (ns, address) in [("b.X", "10.255.0.1"), ("b.Y", "10.255.0.2"), ("b.Z", "10.255.0.3")] {
        spaces.ip(ns, &format!("addr add {address}/32 dev lo"));
    }
    spaces.wire(("b.X", "y", "10.254.0.0/31"), ("b.Y", "x", "10.254.0.1/31"));
    spaces.wire(("b.Y", "z", "10.254.0.2/31"), ("b.Z", "y", "10.254.0.3/31"));
    spaces.ip("b.X", "route add 10.255.0.0/24 via 10.254.0.1");
    spaces.ip("b.Z", "route add 10.255.0.0/24 via 10.254.0.2");
    spaces.ip("b.Y", "route add 10.255.0.1/32 via 10.254.0.0");
    spaces.ip("b.Y", "route add 10.255.0.3/32 via 10.254.0.3");
}

fn build_overlays(spaces: &Spaces) {
    spaces.tun("v.A", "b", "10.1.0.0/31", 1460);
    spaces.tun("v.B", "a", "10.1.0.1/31", 1460);
    spaces.tun("v.B", "c", "10.1.0.2/31", 1460);
    spaces.tun("v.C", "b", "10.1.0.3/31", 1460);
    spaces.tun("v.A", "c", "10.1.0.4/31", 1460);
    spaces.tun("v.C", "a", "10.1.0.5/31", 1460);
    spaces.ip("v.A", "addr add 10.1.8.0/32 dev lo");
    spaces.ip("v.C", "addr add 10.1.8.1/32 dev lo");
    spaces.ip("v.A", "addr add 10.2.0.1/32 dev lo");
    spaces.ip("v.C", "addr add 10.2.0.3/32 dev lo");
    spaces.ip("v.A", "route add 10.0.0.0/8 via 10.1.0.1 src 10.2.0.1");
    spaces.ip("v.C", "route add 10.0.0.0/8 via 10.1.0.2 src 10.2.0.3");
    spaces.ip("v.B", "route add 10.2.0.1/32 via 10.1.0.0");
    spaces.ip("v.B", "route add 10.1.8.0/32 via 10.1.0.0");
    spaces.ip("v.B", "route add 10.2.0.3/32 via 10.1.0.3");
    spaces.ip("v.B", "route add 10.1.8.1/32 via 10.1.0.3");
    spaces.tun("v.P", "q", "10.3.0.0/31", 1440);
    spaces.tun("v.Q", "p", "10.3.0.1/31", 1440);
}

impl Lab {
    fn up() -> Self {
        let mut spaces = Spaces::new();
        build_base(&mut spaces);
        build_overlays(&spaces);
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let (engine, output) = Self::start(&spaces, &control);
        Self { engine, _output: output, control, _dir: dir, spaces }
    }

    fn start(spaces: &Spaces, control: &Path) -> (Child, BufReader<ChildStdout>) {
        let config = serde_json::to_string(&config(spaces)).unwrap();
        let mut engine = Command::new("env")
            .arg("--block-signal=TERM") // the test harness has threads that would take the signal
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "engine_process", "--nocapture"])
            .envs([(CONFIG, config), (CONTROL, control.to_str().unwrap().to_owned())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(engine.stdout.take().unwrap());
        let ready = output.by_ref().lines().any(|l| l.unwrap().contains("engine ready"));
        assert!(ready, "the engine ended");
        (engine, output)
    }

    /// Kills the engine and starts another.
    fn restart(&mut self) {
        self.engine.kill().unwrap();
        self.engine.wait().unwrap();
        std::fs::remove_file(&self.control).unwrap();
        (self.engine, self._output) = Self::start(&self.spaces, &self.control);
    }

    fn counters(&self) -> AllCounters {
        let counters = Client::connect(&self.control).unwrap().counters().unwrap();
        for (node, named) in &counters {
            let not_ends =
                ["rx-base", "rx-tun", "forwarded", "encapsulated", "decapsulated", "rx-overrun", "shaped"];
            let ended: u64 =
                named.iter().filter(|(n, _)| !not_ends.contains(&n.as_str())).map(|(_, v)| v).sum();
            assert_eq!(named["rx-base"] + named["rx-tun"], ended, "{node}: {named:#?}");
        }
        counters
    }

    fn count(&self, node: &str, name: &str) -> u64 {
        self.counters()[node][name]
    }

    fn ping(&self, ns: &str, args: &str) -> (bool, String) {
        self.spaces.exec(ns, &format!("ping -n -W 1 {args}"))
    }

    fn assert_ping(&self, ns: &str, args: &str) -> String {
        let (good, text) = self.ping(ns, args);
        assert!(good, "ping {args} in {ns}:\n{text}\n{:#?}", self.counters());
        text
    }

    /// Waits until a ping succeeds, or fails.
    fn await_ping(&self, ns: &str, to: &str, expected: bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ping(ns, &format!("-c 1 {to}")).0 != expected {
            assert!(Instant::now() < deadline, "ping {to} in {ns} is not {expected}: {:#?}", self.counters());
        }
    }

    /// Sends bytes from a base node, base header included.
    fn inject(&self, node: &str, bytes: &[u8]) {
        let headers = packet::stack(bytes);
        self.spaces.run(node, || {
            let sender = sys::socket::raw_sender(Ipv4Addr::UNSPECIFIED).unwrap();
            let packets = std::iter::once((bytes, headers[0].dst));
            assert_eq!(sys::socket::send(sender.as_fd(), packets).unwrap(), 1);
        });
    }

    /// Everything that passes the interfaces of a namespace, link headers taken off.
    fn capture(&self, ns: &str) -> OwnedFd {
        self.spaces.run(ns, || {
            let protocol = SockProtocol::EthAll;
            let fd =
                socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(2)).unwrap();
            fd
        })
    }
}

/// Reads a capture until `wanted` packets of a kind are there, or none comes for two seconds.
fn read_capture(capture: &OwnedFd, wanted: usize, is: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 65536];
    while found.len() < wanted {
        let Ok(len) = recv(capture.as_raw_fd(), &mut buffer, nix::sys::socket::MsgFlags::empty()) else {
            break;
        };
        if is(&buffer[..len]) {
            found.push(buffer[..len].to_vec());
        }
    }
    found
}

fn pairs(bytes: &[u8]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    packet::stack(bytes).iter().map(|h| (h.src, h.dst)).collect()
}

fn pair(src: &str, dst: &str) -> (Ipv4Addr, Ipv4Addr) {
    (addr(src), addr(dst))
}

const X_Y: (&str, &str) = ("10.255.0.1", "10.255.0.2");
const Y_Z: (&str, &str) = ("10.255.0.2", "10.255.0.3");

fn stack_of(rows: &[(&str, &str)]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    rows.iter().map(|(src, dst)| pair(src, dst)).collect()
}

/// Whether the innermost packet is an echo request.
fn is_echo_request(bytes: &[u8]) -> bool {
    let headers = packet::stack(bytes);
    let message = bytes.get(20 * headers.len()..).unwrap_or_default();
    headers.len() > 1
        && headers.last().is_some_and(|h| h.protocol == packet::ipv4::ICMP)
        && matches!(IcmpRepr::parse(message), Ok(IcmpRepr::EchoRequest { .. }))
}

#[test]
fn ping_ttl_mtu_and_headers() {
    if !can_run("ping_ttl_mtu_and_headers") {
        return;
    }
    let lab = Lab::up();
    let capture = lab.capture("b.Y");
    let text = lab.assert_ping("v.A", "-c 1 10.2.0.3");
    assert!(text.contains("ttl=63"), "{text}");
    let seen = read_capture(&capture, 2, is_echo_request);
    let net = ("10.2.0.1", "10.2.0.3");
    let expected = [
        stack_of(&[X_Y, ("172.16.0.0", "172.16.0.1"), net]),
        stack_of(&[Y_Z, ("172.16.0.2", "172.16.0.3"), net]),
    ];
    assert_eq!([pairs(&seen[0]), pairs(&seen[1])], expected);
    for (bytes, ttl) in seen.iter().zip([64, 63]) {
        assert_like_ipip(bytes, ttl);
    }
    assert_eq!(seen[0][60..], seen[1][60..], "the message changed on the way");

    let full = lab.assert_ping("v.A", "-c 1 -M do -s 1432 10.2.0.3");
    assert!(full.contains("1440 bytes from"), "{full}");
    let (good, text) = lab.ping("v.A", "-c 1 -M do -s 1433 10.2.0.3");
    assert!(!good && text.contains("1460"), "{text}");
    // First: Linux paces this error by the time since the last one to the same host, whatever icmp_ratelimit says.
    let (good, text) = lab.ping("v.A", "-c 1 10.9.9.9");
    assert!(
        !good && text.contains("From 10.1.0.1") && text.contains("Net Unreachable"),
        "{text} {:#?}",
        lab.counters()
    );
    let (good, text) = lab.ping("v.A", "-c 1 -t 1 10.2.0.3");
    assert!(!good && text.contains("From 10.1.0.1") && text.contains("Time to live exceeded"), "{text}");
    lab.assert_ping("v.A", "-c 1 -s 8000 10.2.0.3");
    lab.assert_ping("v.A", "-c 1 10.1.0.2");
}

/// Base and link header as a kernel ipip device with TTL 64 makes them.
fn assert_like_ipip(bytes: &[u8], net_ttl: u8) {
    let headers = packet::stack(bytes);
    for (depth, header) in headers[..headers.len() - 1].iter().enumerate() {
        let len = bytes.len() - 20 * (depth + 1);
        let expected = Ipv4Repr::ipip(header.src, header.dst, len, packet::Ecn::NotEct, header.id);
        assert_eq!(*header, expected);
        assert_ne!(header.id, 0);
        Ipv4Repr::parse(&bytes[20 * depth..]).unwrap();
    }
    assert_eq!(headers.last().unwrap().ttl, net_ttl);
}

#[test]
fn stacked_vi() {
    if !can_run("stacked_vi") {
        return;
    }
    let lab = Lab::up();
    let capture = lab.capture("b.Y");
    let text = lab.assert_ping("v.P", "-c 1 -M do -s 1412 10.3.0.1");
    assert!(text.contains("ttl=64"), "{text}");
    let seen = read_capture(&capture, 2, is_echo_request);
    let top = [("10.1.8.0", "10.1.8.1"), ("10.3.0.0", "10.3.0.1")];
    assert_eq!(pairs(&seen[0]), stack_of(&[X_Y, ("172.16.0.0", "172.16.0.1"), top[0], top[1]]));
    assert_eq!(pairs(&seen[1]), stack_of(&[Y_Z, ("172.16.0.2", "172.16.0.3"), top[0], top[1]]));
    let ttls = |bytes: &[u8]| packet::stack(bytes).iter().map(|h| h.ttl).collect::<Vec<_>>();
    assert_eq!((ttls(&seen[0]), ttls(&seen[1])), (vec![64; 4], vec![64, 64, 63, 64]));
    assert_eq!(seen[0].len(), 1500);
}

#[test]
fn strong_host_and_other_injections() {
    if !can_run("strong_host_and_other_injections") {
        return;
    }
    let lab = Lab::up();
    let inner = Ipv4Repr::new(addr("10.2.0.1"), addr("10.2.0.3"), 17, 8).with_payload(&[0; 8]);
    let wrong_tunnel = stack_of(&[("10.255.0.3", "10.255.0.2"), ("172.16.0.0", "172.16.0.1")]);
    let wrong_pair = stack_of(&[("10.255.0.3", "10.255.0.2"), ("172.16.0.0", "172.16.0.2")]);
    let no_tunnel = stack_of(&[("10.254.0.3", "10.255.0.2"), ("172.16.0.3", "172.16.0.2")]);
    let cases = [(&wrong_tunnel, "strong-host"), (&wrong_pair, "no-link"), (&no_tunnel, "no-tunnel")];
    for (stack, counter) in cases {
        lab.inject("b.Z", &packet::nest(stack, &inner, 1));
        assert_counter(&lab, "Y", counter, 1);
    }
    let mut control = Client::connect(&lab.control).unwrap();
    control.set_strong_host("Y", false).unwrap();
    assert!(control.set_strong_host("W", false).is_err());
    let before = lab.count("Z", "delivered");
    lab.inject("b.Z", &packet::nest(&wrong_tunnel, &inner, 1));
    assert_counter(&lab, "Z", "delivered", before + 1);
    assert_eq!(lab.count("Y", "strong-host"), 1);
}

/// Waits for a counter to have a value: a packet takes a moment through the base.
fn assert_counter(lab: &Lab, node: &str, name: &str, value: u64) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while lab.count(node, name) != value {
        assert!(Instant::now() < deadline, "{name} of {node} is not {value}: {:#?}", lab.counters());
    }
}

#[test]
fn routes_and_links_are_followed() {
    if !can_run("routes_and_links_are_followed") {
        return;
    }
    let lab = Lab::up();
    lab.await_ping("v.A", "10.2.0.3", true);
    lab.spaces.ip("v.B", "route del 10.2.0.3/32");
    lab.await_ping("v.A", "10.2.0.3", false);
    lab.spaces.ip("v.B", "route add 10.2.0.3/32 dev c");
    lab.await_ping("v.A", "10.2.0.3", true);
    lab.spaces.ip("v.B", "link set dev c down");
    lab.await_ping("v.A", "10.2.0.3", false);
    lab.spaces.ip("v.B", "link set dev c up");
    lab.spaces.ip("v.B", "route add 10.2.0.3/32 dev c");
    lab.await_ping("v.A", "10.2.0.3", true);
    lab.spaces.ip("v.B", "addr add 10.7.0.1/32 dev c");
    lab.await_ping("v.A", "10.7.0.1", true);
    lab.spaces.ip("v.B", "addr del 10.7.0.1/32 dev c");
    lab.await_ping("v.A", "10.7.0.1", false);
    lab.spaces.ip("v.B", "rule add from 10.2.0.1 prohibit");
    lab.await_ping("v.A", "10.2.0.3", false);
    lab.spaces.ip("v.B", "rule del from 10.2.0.1 prohibit");
    lab.await_ping("v.A", "10.2.0.3", true);
}

#[test]
fn tcp_carries_every_byte() {
    if !can_run("tcp_carries_every_byte") {
        return;
    }
    let lab = Lab::up();
    for (from, to, address) in [("v.A", "v.C", "10.2.0.3"), ("v.P", "v.Q", "10.3.0.1")] {
        let size = 64 << 20;
        let seconds = transfer(&lab, from, to, address, size);
        let gbit = 8.0 * size as f64 / seconds / 1e9;
        println!("TCP {from} to {to}: {size} bytes in {seconds:.3} s = {gbit:.2} Gbit/s");
    }
    let ping = lab.assert_ping("v.A", "-q -c 200 -i 0.002 10.2.0.3");
    println!("{}", ping.lines().last().unwrap());
    println!("{:#?}", lab.counters());
}

/// Packets of the base, IP header first, that are larger than any link of it.
fn read_whole(capture: &OwnedFd) -> Vec<Vec<u8>> {
    read_capture(capture, 1, |bytes| bytes.len() > 1500 && packet::stack(bytes).len() > 1)
}

#[test]
fn packets_that_stand_for_several_pass_routers_whole() {
    if !can_run("packets_that_stand_for_several_pass_routers_whole") {
        return;
    }
    let lab = Lab::up();
    let net = ("10.1.0.4", "10.1.0.5");
    let ways = [
        ("10.1.0.5", stack_of(&[("10.255.0.1", "10.255.0.3"), ("172.16.0.4", "172.16.0.5"), net])),
        ("10.2.0.3", stack_of(&[X_Y, ("172.16.0.0", "172.16.0.1"), ("10.2.0.1", "10.2.0.3")])),
    ];
    for (address, expected) in ways {
        let capture = lab.capture("b.Y");
        transfer(&lab, "v.A", "v.C", address, 4 << 20);
        let whole = read_whole(&capture);
        assert_eq!(whole.len(), 1, "nothing of {address} is whole: {:#?}", lab.counters());
        assert_eq!(pairs(&whole[0]), expected);
        for depth in 0..3 {
            Ipv4Repr::parse(&whole[0][20 * depth..]).unwrap();
        }
    }
    let counters = lab.counters();
    assert!(counters["Y"]["forwarded"] >= (4 << 20) / 1460, "each packet counts: {counters:#?}");
}

/// Sends these from `v.A` while the engine stands still, so that they wait for it in a row; a datagram is a port and its data. Gives
/// what arrives at `v.C` by port.
fn at_once(lab: &Lab, address: &str, datagrams: &[(u16, Vec<u8>)]) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let ports: BTreeSet<u16> = datagrams.iter().map(|(port, _)| *port).collect();
    let listen = |port: &u16| {
        let socket = lab.spaces.run("v.C", || UdpSocket::bind((addr(address), *port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        (*port, socket)
    };
    let receivers: BTreeMap<u16, UdpSocket> = ports.iter().map(listen).collect();
    let sender = lab.spaces.run("v.A", || UdpSocket::bind("0.0.0.0:0").unwrap());
    let engine = Pid::from_raw(lab.engine.id().cast_signed());
    kill(engine, Signal::SIGSTOP).unwrap();
    for (port, data) in datagrams {
        sender.send_to(data, (addr(address), *port)).unwrap();
    }
    kill(engine, Signal::SIGCONT).unwrap();
    let mut buffer = [0; 2000];
    let mut read = |socket: &UdpSocket| -> Vec<Vec<u8>> {
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())).collect()
    };
    receivers.iter().map(|(port, socket)| (*port, read(socket))).collect()
}

/// Forty datagrams of two flows, of lengths that can be joined and others.
fn forty() -> Vec<(u16, Vec<u8>)> {
    let len = |n: u8| [500, 500, 500, 500, 500, 499, 0, 700][usize::from(n / 2 % 8)];
    (0..40).map(|n| (7000 + u16::from(n % 2), vec![n; len(n)])).collect()
}

fn by_port(datagrams: &[(u16, Vec<u8>)]) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let mut all: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    datagrams.iter().for_each(|(port, data)| all.entry(*port).or_default().push(data.clone()));
    all
}

#[test]
fn datagrams_in_a_row_pass_as_one_and_arrive_each() {
    if !can_run("datagrams_in_a_row_pass_as_one_and_arrive_each") {
        return;
    }
    let lab = Lab::up();
    let joins = lab.spaces.run("b.X", || sys::tun::attach_offloading("probe", false).unwrap().joins_udp);
    for address in ["10.1.0.5", "10.2.0.3"] {
        lab.await_ping("v.A", address, true);
        let capture = lab.capture("b.Y");
        let before = lab.count("Z", "delivered");
        assert_eq!(at_once(&lab, address, &forty()), by_port(&forty()), "{address}: {:#?}", lab.counters());
        assert_eq!(lab.count("Z", "delivered") - before, 40);
        if joins {
            assert_eq!(read_whole(&capture).len(), 1, "nothing to {address} is whole: {:#?}", lab.counters());
        } else {
            eprintln!("SKIPPED datagrams as one: the kernel knows none (Linux 6.2)");
        }
    }
}

/// Where something is about each packet, and a stack above.
#[test]
fn datagrams_in_a_row_arrive_where_they_must_be_cut() {
    if !can_run("datagrams_in_a_row_arrive_where_they_must_be_cut") {
        return;
    }
    let lab = Lab::up();
    lab.await_ping("v.A", "10.2.0.3", true);
    let to = Impairment { delay_us: 1000, ..Impairment::default() };
    Client::connect(&lab.control).unwrap().impair(&lab.spaces.name("v.B"), "c", to).unwrap();
    assert_eq!(at_once(&lab, "10.2.0.3", &forty()), by_port(&forty()), "{:#?}", lab.counters());
    assert_eq!(lab.count("Y", "shaped"), 40, "each by itself");
}

#[test]
fn each_packet_of_several_is_lost_by_itself() {
    if !can_run("each_packet_of_several_is_lost_by_itself") {
        return;
    }
    let lab = Lab::up();
    let to = Impairment { loss_ppm: 10_000, ..Impairment::default() };
    Client::connect(&lab.control).unwrap().impair(&lab.spaces.name("v.B"), "c", to).unwrap();
    transfer(&lab, "v.A", "v.C", "10.2.0.3", 8 << 20);
    let (sent, lost) = (lab.count("Y", "forwarded"), lab.count("Y", "impaired-loss"));
    assert!(sent > (8 << 20) / 1460 && (sent / 400..sent / 40).contains(&lost), "{lost} of {sent}");
}

#[test]
fn what_is_too_big_for_the_next_link_is_told() {
    if !can_run("what_is_too_big_for_the_next_link_is_told") {
        return;
    }
    let lab = Lab::up();
    lab.await_ping("v.A", "10.2.0.3", true);
    lab.spaces.ip("v.B", "link set dev c mtu 1200");
    transfer(&lab, "v.A", "v.C", "10.2.0.3", 4 << 20);
    let (_, text) = lab.spaces.exec("v.A", "ip route get 10.2.0.3");
    assert!(text.contains("mtu 1200"), "{text}");
}

/// Sends bytes that all differ and compares them; gives the seconds it took.
fn transfer(lab: &Lab, from: &str, to: &str, address: &str, size: usize) -> f64 {
    let words = u32::try_from(size / 4).unwrap();
    let sent: Vec<u8> = (0..words).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let listener = lab.spaces.run(to, || TcpListener::bind((addr(address), 5001)).unwrap());
    let start = Instant::now();
    let received = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::with_capacity(size);
            stream.read_to_end(&mut received).unwrap();
            received
        });
        let mut stream = lab.spaces.run(from, || TcpStream::connect((addr(address), 5001)).unwrap());
        stream.write_all(&sent).unwrap();
        drop(stream);
        reader.join().unwrap()
    });
    let seconds = start.elapsed().as_secs_f64();
    assert!(received == sent, "the bytes changed on the way");
    seconds
}

#[test]
fn idle_engine_sleeps_and_sigterm_ends_it() {
    if !can_run("idle_engine_sleeps_and_sigterm_ends_it") {
        return;
    }
    let mut lab = Lab::up();
    lab.assert_ping("v.A", "-c 1 10.2.0.3");
    let before = switches(lab.engine.id());
    let _ = lab.ping("b.X", "-c 1 -W 1 10.253.0.1");
    let woken: u64 = switches(lab.engine.id()) - before;
    assert!(woken <= 8, "an idle engine woke up {woken} times");
    kill(Pid::from_raw(lab.engine.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(lab.engine.wait().unwrap().success());
    assert!(!lab.control.exists());
}

#[test]
fn an_engine_that_is_to_end_has_nothing_open_and_the_next_one_takes_over() {
    if !can_run("an_engine_that_is_to_end_has_nothing_open_and_the_next_one_takes_over") {
        return;
    }
    let mut lab = Lab::up();
    let sockets = |lab: &Lab| lab.spaces.exec("b.X", "cat /proc/net/packet").1.lines().count() - 1;
    assert_eq!((tuns(lab.engine.id()), sockets(&lab)), (8 + 3, 1));
    Client::connect(&lab.control).unwrap().end(Duration::from_secs(10)).unwrap();
    assert_eq!((tuns(lab.engine.id()), sockets(&lab)), (0, 0));
    assert!(lab.engine.try_wait().unwrap().is_none(), "it waits to be killed");
    let (_, devices) = lab.spaces.exec("b.X", "ip -o link");
    assert!(devices.contains("fast~"), "{devices}");
    lab.restart();
    lab.assert_ping("v.A", "-c 1 10.2.0.3");
    let capture = lab.capture("b.Y");
    transfer(&lab, "v.A", "v.C", "10.2.0.3", 4 << 20);
    assert_eq!(read_whole(&capture).len(), 1, "the device marks packets still: {:#?}", lab.counters());
}

/// TUN devices that a process has open.
fn tuns(pid: u32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links.filter(|l| std::fs::read_link(l.path()).is_ok_and(|to| to == Path::new("/dev/net/tun"))).count()
}

/// Voluntary context switches of all threads of a process.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap());
    let of = |status: String| {
        let fields: BTreeMap<_, _> = status.lines().filter_map(|l| l.split_once(':')).map(own).collect();
        fields["voluntary_ctxt_switches"].trim().parse::<u64>().unwrap()
    };
    status.map(of).sum()
}

fn own(field: (&str, &str)) -> (String, String) {
    (field.0.to_owned(), field.1.to_owned())
}
