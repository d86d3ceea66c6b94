#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
//! Links whose packets are sent in fragments, on both dataplanes: what passes is what was sent, and a packet is lost with
//! each of its fragments.

mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::{Up, dataplanes};

const LOSSY: &str = "
name: lossy
base:
  links:
    - {link: X -- Y, forward: {loss: 5%}}
vis:
  v:
    mtu: fragment
    nodes: {a: X, b: Y}
    links: [a -- b]
";

fn socket(lab: &Up, at: &str) -> UdpSocket {
    let running = lab.running();
    let model = &running.state().lab;
    let node = model.nodes().find(|n| model.full_name(n.id) == at).unwrap();
    let open = || {
        // Without DF.
        std::fs::write("/proc/sys/net/ipv4/ip_no_pmtu_disc", "1").unwrap();
        UdpSocket::bind((node.host.unwrap(), 0)).unwrap()
    };
    running.namespaces().run(&node.netns, open).unwrap()
}

/// Of `count` datagrams with `size` bytes, the share that arrives, each as it was sent.
fn share(sender: &UdpSocket, receiver: &UdpSocket, size: usize, count: u32) -> f64 {
    let content = |number: u32| {
        let mut bytes = number.to_be_bytes().repeat(size.div_ceil(4));
        bytes.truncate(size);
        bytes
    };
    let (mut arrived, mut buffer) = (0, vec![0; size + 1]);
    for number in 0..count {
        sender.send(&content(number)).unwrap();
        // One after the other: nothing is lost but what the link loses.
        match receiver.recv(&mut buffer) {
            Ok(len) => {
                assert!(buffer[..len] == content(number), "datagram {number} of {size} bytes has changed");
                arrived += 1;
            }
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    f64::from(arrived) / f64::from(count)
}

/// D22: at 5 % base loss, 0.95^k of the datagrams in k fragments arrive.
#[test]
fn d22_a_packet_is_lost_with_each_of_its_fragments() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("fragments-{dataplane}"), LOSSY, dataplane);
        let (sender, receiver) = (socket(&lab, "v/a"), socket(&lab, "v/b"));
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
        let count = 600;
        // Sizes that have as many parts on the wire whether or not the kernel has learned of the path's 1,460 bytes: one that fits;
        // a packet of the VI in two parts, or two that fit; one in two parts and one that fits, or three.
        for (size, parts) in [(1000, 1), (1472, 2), (2900, 3)] {
            let expected = 0.95_f64.powi(parts);
            let mut shares = Vec::new();
            // Chance goes astray for a while; what is wrong stays so in the mean.
            let found = loop {
                shares.push(share(&sender, &receiver, size, count));
                let rounds = u32::try_from(shares.len()).unwrap();
                let found = shares.iter().sum::<f64>() / f64::from(rounds);
                let deviation = (expected * (1.0 - expected) / f64::from(count * rounds)).sqrt();
                let is_as_expected = (found - expected).abs() < 4.5 * deviation;
                if is_as_expected || rounds == 3 {
                    break is_as_expected.then_some(found).ok_or(found);
                }
            };
            println!("{dataplane}: {parts} fragments, {shares:?} arrive, expected {expected:.3}");
            assert!(
                found.is_ok(),
                "{found:?} of datagrams in {parts} fragments arrive on {dataplane}, not {expected}"
            );
        }
    }
}
