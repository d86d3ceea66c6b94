//! What an emulated router is made of beside the links of its VI and of its fabric. A lab and one of its emulated routers
//! go in; operations, and the table of the process that serves the router, come out. It never writes routes of edges that
//! the exit resolution protocol finds.
//!
//! ```text
//!   v.outer.R    v-a (TUN)    v-b (TUN)      where R routes: what is for R itself, and only that, comes here
//!                   |            |           (carried between the TUN devices by a process)
//!             . . . | . . . . . .|. . .
//!   punt (TUN) <----+            +----> punt (TUN)
//!    |  ^                                |  ^
//!    v  |  v.outer.R@p1                  v  |  v.outer.R@p2
//!  v-a ------- route ---- x-p2 ======= x-p1 ------- leaves ---- v-b
//!    a's link             the inner VI               b's link
//! ```

use std::net::Ipv4Addr;

use hkdf::Hkdf;
use ipnet::Ipv4Net;
use sha2::Sha256;

use super::build::{host_addr, set};
use super::{Hook, Machine, Op, Taken};
use crate::error::{Error, Result};
use crate::model::{Emulated, Lab, Port, Resolve};
use crate::recursion::config::{Config, Edge, Router};
use crate::recursion::exchange::Key;

/// All the secret there is (HKDF's input, RFC 5869).
const SECRET: &[u8] = b"vilab: keys of exit resolution, version 1";
/// The device of an edge behind which its router is.
const PUNT: &str = "punt";
const IPV4: Taken = Taken::Protocol(0x0800);

/// What the processes of emulated routers must know; `None` where there are none.
///
/// # Errors
/// If the machine cannot lead packets to them.
pub(super) fn config(lab: &Lab, machine: &Machine) -> Result<Option<Config>> {
    if lab.emulated.is_empty() {
        return Ok(None);
    }
    if !(machine.redirect && machine.tun) {
        return Err(Error::environment("this machine cannot carry routers that VIs play")
            .because("it lacks TUN devices, or what redirects packets to them (clsact, cls_bpf, mirred)")
            .hint("`vilab doctor` says what to load"));
    }
    Ok(Some(Config { routers: lab.emulated.iter().map(|e| router(lab, e)).collect() }))
}

fn router(lab: &Lab, emulated: &Emulated) -> Router {
    let edge = |port: &Port| {
        let end = lab.end(port.end);
        let inside = emulated.ports.iter().filter_map(|to| {
            let inside = emulated.inside(lab, port, to)?;
            Some((to.name.clone(), (lab.end(inside).dev.clone(), lab.peer(inside).addr)))
        });
        Edge {
            port: port.name.clone(),
            netns: lab.node(port.edge).netns.clone(),
            dev: end.dev.clone(),
            punt: PUNT.to_owned(),
            addr: end.addr,
            mtu: lab.link(port.end.link).mtu,
            phantom_netns: lab.node(port.phantom).netns.clone(),
            phantom: lab.node(port.phantom).host.unwrap_or(Ipv4Addr::UNSPECIFIED),
            inside: inside.collect(),
        }
    };
    Router {
        name: lab.full_name(emulated.router),
        netns: lab.node(emulated.router).netns.clone(),
        exchange: (emulated.resolve == Resolve::Exchange).then(|| key(lab, emulated)),
        edges: emulated.ports.iter().map(edge).collect(),
    }
}

/// The key of what the router's speakers say to each other: from names, as those of protected links, so that equal files
/// give equal plans, and no secret to who has the file.
fn key(lab: &Lab, emulated: &Emulated) -> Key {
    let mut bytes = [0; 32];
    let router = lab.full_name(emulated.router);
    let info: [&str; 3] = [&lab.name, &router, &lab.net(emulated.inner).name];
    let secret = Hkdf::<Sha256>::new(None, SECRET);
    secret.expand(info.join("\0").as_bytes(), &mut bytes).expect("HKDF gives up to 8,160 bytes");
    Key(bytes)
}

/// The devices of the router itself, before they get addresses. Routes through a device whose port is lost do not count.
pub(super) fn devices(lab: &Lab, emulated: &Emulated) -> Vec<Op> {
    let ns = &lab.node(emulated.router).netns;
    let mut ops = vec![set(ns, "net/ipv4/conf/default/ignore_routes_with_linkdown", "1")];
    for port in &emulated.ports {
        let dev = lab.end(port.end).dev.clone();
        ops.push(Op::AddTun { ns: ns.clone(), dev: dev.clone(), info: false });
        ops.push(Op::SetUp { ns: ns.clone(), dev, mtu: lab.link(port.end.link).mtu });
    }
    ops
}

/// What joins an edge with its router, its link and the inner VI; `kernel` where the kernel carries its base node.
pub(super) fn edge(lab: &Lab, emulated: &Emulated, port: &Port, kernel: bool) -> Vec<Op> {
    let ns = &lab.node(port.edge).netns;
    let (dev, mtu) = (lab.end(port.end).dev.as_str(), lab.link(port.end.link).mtu);
    let hooks = |dev: &str| Op::AddHooks { ns: ns.clone(), dev: dev.to_owned() };
    let lead = |from: &str, takes: Taken, to: &str| Op::AddRedirect {
        ns: ns.clone(),
        dev: from.to_owned(),
        hook: Hook::Ingress,
        takes,
        to: to.to_owned(),
        into: Hook::Egress,
    };
    let own: Vec<Ipv4Addr> = emulated.ports.iter().map(|p| lab.end(p.end).addr).collect();
    let mut ops = vec![
        Op::AddTun { ns: ns.clone(), dev: PUNT.to_owned(), info: false },
        Op::SetUp { ns: ns.clone(), dev: PUNT.to_owned(), mtu },
        Op::AddAddr {
            ns: ns.clone(),
            dev: dev.to_owned(),
            addr: Ipv4Net::new_assert(lab.end(port.end).addr, 31),
            prefix_route: true,
        },
    ];
    let others = own.iter().filter(|addr| **addr != lab.end(port.end).addr);
    ops.extend(others.map(|addr| host_addr(ns, "lo", *addr)));
    ops.extend([hooks(dev), hooks(PUNT)]);
    ops.push(lead(dev, Taken::Addressed(own), PUNT));
    ops.push(lead(PUNT, IPV4, dev));
    if kernel {
        for end in &lab.node(port.edge).ends {
            let inside = lab.end(*end).dev.as_str();
            ops.extend([hooks(inside), lead(inside, IPV4, dev)]);
        }
        ops.push(Op::AddRuleset { ns: ns.clone(), text: guard(&refused(lab, emulated)) });
    }
    ops
}

/// Link addresses of the inner VI that are network addresses of the router's own: what is tunnelled to them must not pass
/// the router, or it would be tunnelled through itself.
pub(super) fn refused(lab: &Lab, emulated: &Emulated) -> Vec<Ipv4Addr> {
    let pool = lab.net(emulated.router.net).pool;
    let ends = lab.net(emulated.inner).links.iter().flat_map(|l| &l.ends);
    let mut found: Vec<Ipv4Addr> = ends.filter_map(|e| e.link_addr).filter(|a| pool.contains(a)).collect();
    found.sort();
    found
}

fn guard(refused: &[Ipv4Addr]) -> String {
    let elements: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }};", elements.join(", ")),
    };
    format!(
        "table inet vi_transit {{
  counter self-transit {{ }}
  set inner {{ type ipv4_addr;{elements} }}
  chain forward {{
    type filter hook forward priority raw; policy accept;
    ip protocol {{ 4, 50 }} ip daddr @inner counter name \"self-transit\" drop
  }}
}}
"
    )
}
