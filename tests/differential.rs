//! The kernel is the reference: the same packets through a virtual link on each dataplane, and what comes out is
//! compared byte for byte, on the wire and behind the link. Needs the kernel dataplane.

mod common;

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vilab::lab::{Namespaces, Running};
use vilab::sys::packet_socket::{Capture, Ipv4Socket};

const LAB: &str = "
name: differential
base:
  links:
    - X -- Y
vis:
  vi:
    nodes:
      A: X
      B: {at: Y, role: both}
      C: X
    links:
      - A -- B
      - B -- C
";
/// An experimental protocol (RFC 3692): nothing in the kernel answers it.
const PROTOCOL: u8 = 253;
/// Sent last, so that its arrival ends a run.
const LAST: &[u8] = b"the last packet of this run";

/// RFC 1071.
fn checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 =
        header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).expect("folded")).to_be_bytes()
}

/// The fields of an IPv4 header that the runs vary.
#[derive(Debug, Clone)]
struct Header {
    tos: u8,
    id: u16,
    /// Flags and fragment offset.
    fragment: u16,
    ttl: u8,
    protocol: u8,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    options: Vec<u8>,
}

impl Header {
    fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Self {
        Self { tos: 0, id: 0x4242, fragment: 0, ttl: 64, protocol, src, dst, options: Vec::new() }
    }

    fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len();
        let words = u8::try_from(length / 4).expect("a short header");
        let mut packet = vec![0x40 | words, self.tos];
        packet.extend(u16::try_from(length + payload.len()).expect("a short packet").to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.src.octets());
        packet.extend(self.dst.octets());
        packet.extend(&self.options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);
        packet
    }
}

fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length.max(8)).map(|i| u8::try_from((i * 7 + number * 13) % 251).expect("below 251")).collect()
}

/// Packets given to the link at A: every TOS, TTLs, DF, fragments, sizes, options; to B and through B to C.
fn outward(a: Ipv4Addr, b: Ipv4Addr, c: Ipv4Addr) -> Vec<Vec<u8>> {
    let to = |dst| Header::new(a, dst, PROTOCOL);
    let mut packets = Vec::new();
    let mut add = |header: Header, length: usize| {
        packets.push(header.packet(&payload(packets.len(), length)));
    };
    for dst in [b, c] {
        // Options first: the fast path hands them to the kernel, and what follows may overtake them.
        add(Header { options: vec![1, 1, 1, 0], ..to(dst) }, 40);
        add(Header { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..to(dst) }, 40);
        for tos in 0..=255 {
            add(Header { tos, ..to(dst) }, 40);
        }
        for ttl in [2, 3, 63, 64, 65, 255] {
            add(Header { ttl, ..to(dst) }, 40);
        }
        for fragment in [0x4000, 0x2000, 0x0010, 0x2010, 0x6000] {
            add(Header { fragment, id: 0x1000 + fragment, ..to(dst) }, 64);
        }
        for length in [8, 9, 63, 64, 100, 576, 1399, 1400, 1439, 1440] {
            add(to(dst), length);
        }
    }
    packets
}

/// Link-layer packets put into the base tunnel from X to Y: every pair of ECN values, TTLs, options, and headers that
/// are wrong in one way each.
fn inward(link: (Ipv4Addr, Ipv4Addr), net: (Ipv4Addr, Ipv4Addr)) -> Vec<Vec<u8>> {
    let inner = |tos: u8, number: usize| {
        Header { tos, ..Header::new(net.0, net.1, PROTOCOL) }.packet(&payload(number, 48))
    };
    let outer = Header::new(link.0, link.1, 4);
    let mut packets = Vec::new();
    for outer_ecn in 0..4 {
        for inner_ecn in 0..4 {
            let tos = 0x28 | outer_ecn;
            packets.push(Header { tos, ..outer.clone() }.packet(&inner(0xb8 | inner_ecn, packets.len())));
        }
    }
    for ttl in [1, 2, 64, 255] {
        packets.push(Header { ttl, ..outer.clone() }.packet(&inner(0, packets.len())));
    }
    packets.push(Header { options: vec![1, 1, 1, 0], ..outer.clone() }.packet(&inner(0, packets.len())));
    packets.push(Header { fragment: 0x4000, ..outer.clone() }.packet(&inner(0, packets.len())));
    let damage: [(usize, u8); 7] =
        [(0, 0x55), (3, 0xff), (10, 0xaa), (20, 0x65), (23, 0xff), (30, 0xaa), (0, 0x44)];
    for (at, value) in damage {
        let mut packet = outer.packet(&inner(0, packets.len()));
        packet[at] = value;
        packets.push(packet);
    }
    for length in [0, 1, 19, 20, 21, 30, 39] {
        packets.push(outer.packet(&inner(0, packets.len())[..length]));
    }
    for protocol in [0, 1, 6, 17, 47, 50, 253] {
        packets.push(Header { protocol, ..outer.clone() }.packet(&inner(0, packets.len())));
    }
    for (src, dst) in [(link.1, link.0), (net.0, link.1), (link.0, net.1), (link.0, link.0)] {
        packets.push(Header { src, dst, ..outer.clone() }.packet(&inner(0, packets.len())));
    }
    packets
}

/// One lab, and the addresses in it; the same in both, for the files are equal.
struct Bed {
    running: Running,
    namespaces: Namespaces,
    base: [Ipv4Addr; 2],
    link: (Ipv4Addr, Ipv4Addr),
    hosts: [Ipv4Addr; 3],
}

impl Bed {
    fn new(running: Running) -> Self {
        let lab = &running.state().lab;
        let host = |net: usize, node: usize| lab.networks[net].nodes[node].host.expect("a host");
        let ends = &lab.networks[1].links[0].ends;
        let link = |side: usize| ends[side].link_addr.expect("a link address");
        Self {
            namespaces: running.namespaces(),
            base: [host(0, 0), host(0, 1)],
            link: (link(0), link(1)),
            hosts: [host(1, 0), host(1, 1), host(1, 2)],
            running,
        }
    }

    /// Sends packets in namespace `from` and gives back what the namespace `at` receives, until the last of the run:
    /// IPv4 packets that `keep` chooses.
    fn run(
        &self,
        (from, last_to): (&str, usize),
        packets: &[Vec<u8>],
        at: &str,
        keep: impl Fn(&[u8]) -> bool,
    ) -> Vec<Vec<u8>> {
        let capture = self.namespaces.run(at, Capture::open).expect("the namespace").expect("a capture");
        let socket = self.namespaces.run(from, Ipv4Socket::open).expect("the namespace").expect("a socket");
        let mut seen = Vec::new();
        for batch in packets.chunks(16) {
            for packet in batch {
                let dst = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
                let _ = socket.send(dst, packet);
            }
            let marker = self.marker(from, last_to);
            let dst = Ipv4Addr::new(marker[16], marker[17], marker[18], marker[19]);
            socket.send(dst, &marker).expect("the marker is sent");
            self.collect(&capture, &mut seen);
        }
        seen.into_iter().filter(|p| keep(p)).collect()
    }

    /// A packet that always passes: from A's partition to another host, or the same within the base tunnel from X to
    /// Y.
    fn marker(&self, from: &str, to: usize) -> Vec<u8> {
        let inner = Header::new(self.hosts[0], self.hosts[to], PROTOCOL).packet(LAST);
        if from != "b.X" {
            return inner;
        }
        let link = Header::new(self.link.0, self.link.1, 4).packet(&inner);
        Header::new(self.base[0], self.base[1], 4).packet(&link)
    }

    fn collect(&self, capture: &Capture, seen: &mut Vec<Vec<u8>>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut buffer = vec![0; 65_536];
        loop {
            match capture.recv(&mut buffer).expect("the capture works") {
                Some(frame) if is_marker(frame.bytes) && !frame.outgoing => return,
                Some(frame) if !frame.outgoing && frame.protocol == 0x0800 => seen.push(frame.bytes.to_vec()),
                Some(_) => {}
                None => {
                    assert!(Instant::now() < deadline, "no end of the run on {}", self.running.name());
                    let mut fds = [PollFd::new(capture.as_fd(), PollFlags::POLLIN)];
                    poll(&mut fds, PollTimeout::from(100u8)).expect("poll");
                }
            }
        }
    }
}

/// The wire's packet with what may differ taken out: identification and checksum of the added headers.
fn plain(packet: &[u8], added: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for header in 0..added {
        for at in [4, 5, 10, 11] {
            packet[header * 20 + at] = 0;
        }
    }
    packet
}

/// Headers of 20 bytes and nothing else before the marker's content: an ICMP error that quotes it has 8 bytes more.
fn is_marker(packet: &[u8]) -> bool {
    packet.ends_with(LAST) && (packet.len() - LAST.len()).is_multiple_of(20)
}

/// Whether the stack of the receiver accepts the header (RFC 1812, 5.2.2): a device shows packets before that.
fn sound(packet: &[u8]) -> bool {
    let Some(header) = packet.get(..usize::from(packet[0] & 15) * 4).filter(|h| h.len() >= 20) else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    packet[0] >> 4 == 4 && checksum(header) == [0, 0] && length >= header.len() && length <= packet.len()
}

fn protocol_at(packet: &[u8], header: usize) -> Option<u8> {
    packet.get(header * 20 + 9).copied()
}

/// Both labs, side by side with the same addresses.
fn beds(tag: &str) -> [(common::Up, Bed); 2] {
    ["kernel", "fastpath"].map(|dataplane| {
        let up = common::Up::new(&format!("diff-{tag}-{dataplane}"), LAB, dataplane);
        let bed = Bed::new(up.running());
        (up, bed)
    })
}

fn compare(what: &str, runs: [Vec<Vec<u8>>; 2], least: usize) {
    let [kernel, fastpath] = runs;
    let only =
        |a: &[Vec<u8>], b: &[Vec<u8>]| a.iter().filter(|p| !b.contains(p)).cloned().collect::<Vec<_>>();
    let (lost, more) = (only(&kernel, &fastpath), only(&fastpath, &kernel));
    assert!(
        lost.is_empty() && more.is_empty(),
        "{what}: only the kernel: {lost:?}, only the fast path: {more:?}"
    );
    assert_eq!(kernel.len(), fastpath.len(), "{what}: packets the kernel lets out, and the fast path");
    assert!(kernel.len() >= least, "{what}: {} packets came out, too few to compare", kernel.len());
}

#[test]
fn encapsulation_and_forwarding_are_the_kernels() {
    if !common::can("kernel") {
        return;
    }
    let beds = beds("out");
    let runs = beds.each_ref().map(|(_, bed)| {
        let packets = outward(bed.hosts[0], bed.hosts[1], bed.hosts[2]);
        bed.run(("v.vi.A", 1), &packets, "b.Y", |p| protocol_at(p, 2) == Some(PROTOCOL))
            .iter()
            .map(|p| plain(p, 2))
            .collect()
    });
    compare("A to the wire at Y", runs, 500);
    let runs = beds.each_ref().map(|(_, bed)| {
        let packets = outward(bed.hosts[0], bed.hosts[1], bed.hosts[2]);
        let here = |p: &[u8]| protocol_at(p, 0) == Some(PROTOCOL) && p[16..20] == bed.hosts[1].octets();
        bed.run(("v.vi.A", 1), &packets, "v.vi.B", here)
    });
    compare("A to B", runs, 250);
    let runs = beds.each_ref().map(|(_, bed)| {
        let packets = outward(bed.hosts[0], bed.hosts[1], bed.hosts[2]);
        bed.run(("v.vi.A", 2), &packets, "b.X", |p| protocol_at(p, 2) == Some(PROTOCOL))
            .iter()
            .map(|p| plain(p, 2))
            .collect()
    });
    compare("A through B to the wire at X", runs, 250);
}

#[test]
fn decapsulation_is_the_kernels() {
    if !common::can("kernel") {
        return;
    }
    let runs = beds("in").each_ref().map(|(_, bed)| {
        let packets: Vec<Vec<u8>> = inward(bed.link, (bed.hosts[0], bed.hosts[1]))
            .iter()
            .map(|p| Header::new(bed.base[0], bed.base[1], 4).packet(p))
            .collect();
        bed.run(("b.X", 1), &packets, "v.vi.B", |p| sound(p) && protocol_at(p, 0) == Some(PROTOCOL))
    });
    compare("the wire at X to B", runs, 20);
}
