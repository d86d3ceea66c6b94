//! TCP through a stack of eight Virtual Internets, on each dataplane this machine has: ten megabytes arrive as they
//! were sent.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

use vilab::lab::Running;
use vilab::model::{Lab, NodeId};

const BYTES: usize = 10 * 1024 * 1024;

fn node(lab: &Lab, full_name: &str) -> NodeId {
    lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == full_name).expect("a node of the lab")
}

/// Bytes without a period that packet sizes could hide.
fn content() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..BYTES).map(|_| next()).collect()
}

fn transfer(running: &Running, from: &str, to: &str) -> Vec<u8> {
    let (lab, namespaces) = (&running.state().lab, running.namespaces());
    let (from, to) = (lab.node(node(lab, from)), lab.node(node(lab, to)));
    let address = to.host.expect("a host");
    let listener = namespaces.run(&to.netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5001)));
    let listener = listener.expect("the namespace").expect("a listener");
    let receiver = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().expect("a connection");
        let mut received = Vec::with_capacity(BYTES);
        stream.read_to_end(&mut received).expect("the bytes");
        (received, peer.ip())
    });
    let stream = namespaces.run(&from.netns, || TcpStream::connect((address, 5001)));
    let mut stream = stream.expect("the namespace").expect("a connection");
    stream.write_all(&content()).expect("the bytes are taken");
    stream.shutdown(Shutdown::Write).expect("the end is sent");
    let (received, peer) = receiver.join().expect("the receiver");
    assert_eq!(peer, std::net::IpAddr::V4(from.host.expect("a host")), "the host address is the source");
    received
}

#[test]
fn ten_megabytes_pass_through_a_stack_of_eight() {
    for dataplane in common::dataplanes() {
        let up = common::Up::lab(&format!("transfer-{dataplane}"), "stack-of-eight.yaml", dataplane);
        let received = transfer(&up.running(), "v8/a", "v8/b");
        assert!(received == content(), "{} bytes of {BYTES}, or changed, on {dataplane}", received.len());
    }
}

#[test]
fn tcp_passes_a_router_visited_three_times() {
    for dataplane in common::dataplanes() {
        let name = format!("transfer-line-{dataplane}");
        let up = common::Up::lab(&name, "figure-11-revisitation.yaml", dataplane);
        let received = transfer(&up.running(), "line/A", "line/F");
        assert!(received == content(), "{} bytes of {BYTES}, or changed, on {dataplane}", received.len());
    }
}
