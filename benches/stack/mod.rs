//! Virtual Internets stacked on two base nodes, without I/O. A depth goes in; a packet goes from one end of the uppermost to the
//! other, through the decisions of the fast path. It opens no device and asks no kernel.

use std::net::Ipv4Addr;

use vilab::fastpath::config::{BaseNode, Below, Config, Interface, Partition};
use vilab::fastpath::fib::{Action, Fib, NextHop, Route};
use vilab::fastpath::forward::{Device, Forwarder, Input, Outcome};
use vilab::fastpath::frame::Frame;
use vilab::model::Impairment;
use vilab::packet::{Ipv4Repr, UdpRepr, ipv4};

const MTU: u16 = 9000;

/// So many Virtual Internets, each of two nodes and on the one below.
#[derive(Debug)]
pub(crate) struct Stack {
    forwarder: Forwarder,
    frame: Frame,
    packet: Vec<u8>,
    depth: usize,
}

fn octet(n: usize) -> u8 {
    u8::try_from(n).expect("few")
}

/// The base address of an end, the host address at a level, the link address at a level: end 0 or 1.
fn base(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, octet(end))
}

fn host(level: usize, end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, octet(level), 0, octet(end))
}

fn link(level: usize, end: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, octet(level), octet(end))
}

/// Of its partition and its only interface alike; levels count from 1.
fn index(level: usize, end: usize) -> usize {
    2 * (level - 1) + end
}

impl Stack {
    /// With `data` in the datagram that is carried.
    pub(crate) fn new(depth: usize, data: &[u8]) -> Self {
        let config = config(depth);
        let mut forwarder = Forwarder::new(&config);
        for level in 1..=depth {
            for end in 0..2 {
                forwarder.set_device(index(level, end), Device { up: true, mtu: usize::from(MTU) });
                forwarder.set_fib(index(level, end), Fib::new(&routes(level, end), false));
            }
        }
        let ends = (host(depth, 0), host(depth, 1));
        let message = UdpRepr { src_port: 1, dst_port: 2, data }.emit(ends.0, ends.1);
        let packet = Ipv4Repr::new(ends.0, ends.1, ipv4::UDP, 0).with_payload(&message);
        Self { forwarder, frame: Frame::new(), packet, depth }
    }

    /// Takes the packet from the TUN of one end to that of the other; gives the bytes that were on the base.
    ///
    /// # Panics
    /// If it does not arrive.
    pub(crate) fn carry(&mut self) -> usize {
        self.frame.copy_from(&self.packet);
        let input = Input::Tun(index(self.depth, 0));
        let sent = self.forwarder.handle(input, &mut self.frame, 0);
        assert_eq!(sent, Outcome::Send { node: 0, to: base(1) });
        let len = self.frame.len();
        let came = self.forwarder.handle(Input::Base(1), &mut self.frame, 0);
        assert_eq!(came, Outcome::Deliver(index(self.depth, 1)));
        len
    }
}

fn config(depth: usize) -> Config {
    let node = |end| BaseNode { name: format!("n{end}"), netns: String::new(), addr: base(end) };
    let mut config = Config { nodes: vec![node(0), node(1)], ..Config::default() };
    for level in 1..=depth {
        for end in 0..2 {
            let name = format!("v{level}/{end}");
            config.partitions.push(Partition { name, netns: String::new(), node: end, refuses: Vec::new() });
            let below = match level {
                1 => Below::Base { remote: base(1 - end) },
                _ => Below::Partition(index(level - 1, end)),
            };
            config.interfaces.push(Interface {
                partition: index(level, end),
                dev: "link".to_owned(),
                mtu: u32::from(MTU),
                local: link(level, end),
                remote: link(level, 1 - end),
                below,
                security: None,
                exit: None,
                fragments: None,
                bundle: None,
                impair: Impairment::default(),
            });
        }
    }
    config
}

/// To the host of each end, and to the ends of the link above.
fn routes(level: usize, end: usize) -> Vec<Route> {
    let route = |addr: Ipv4Addr, local_table: bool| {
        let hop = NextHop { interface: Some(index(level, end)), weight: 1 };
        let action = if local_table { Action::Local } else { Action::Unicast(vec![hop]) };
        Route { prefix: addr.into(), local_table, priority: 0, action }
    };
    let ends = [(end, true), (1 - end, false)];
    ends.iter()
        .flat_map(|(at, local)| [route(host(level, *at), *local), route(link(level + 1, *at), *local)])
        .collect()
}
