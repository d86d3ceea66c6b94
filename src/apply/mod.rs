//! The imperative shell. Stages of a plan go in, their operations are carried out in order, batched for each namespace,
//! and the time each stage took comes out. It never decides what to create, and on failure it undoes nothing:
//! everything lives in the lab's own namespaces, which end with the lab's init process.

mod change;
mod lanes;
mod linux;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::{Op, Stage};

pub use change::change;
pub use linux::Linux;

use lanes::{ByNetns, Class, namespace};

/// How far a stage has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: String,
    pub done: usize,
    pub total: usize,
}

/// How long a stage took, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    pub stage: String,
    pub ms: f64,
}

/// In the order of the stages.
pub type Timings = Vec<StageTime>;

/// What the kernel is asked to do, a call for each batch. The real one is [`Linux`]; tests record.
pub trait Kernel {
    /// Makes network namespaces, `lo` up.
    ///
    /// # Errors
    /// If one cannot be made.
    fn add_netns(&mut self, ops: &[&Op]) -> Result<()>;

    /// Makes veth pairs: [`Op::AddVeth`] only, in one batch.
    ///
    /// # Errors
    /// The first refusal.
    fn add_veths(&mut self, ops: &[&Op]) -> Result<()>;

    /// Link, address, route and qdisc operations, those of a namespace in order, in one batch.
    ///
    /// # Errors
    /// A refusal, the first in its namespace.
    fn configure(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()>;

    /// Writes sysctls, all of a namespace in one visit.
    ///
    /// # Errors
    /// The first that cannot be written.
    fn set_sysctls(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()>;

    /// Makes persistent TUN devices: [`Op::AddTun`] only.
    ///
    /// # Errors
    /// The first that cannot be made.
    fn add_tuns(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()>;

    /// Adds security associations and policies, all of a namespace in one batch: [`Op::AddAssociation`] and
    /// [`Op::AddPolicy`] only.
    ///
    /// # Errors
    /// The first refusal.
    fn add_security(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()>;

    /// Loads rulesets: [`Op::AddRuleset`] only.
    ///
    /// # Errors
    /// The first that nft refuses.
    fn add_rulesets(&mut self, ops: &[&Op]) -> Result<()>;
}

/// Carries out stages of a plan, those before them having been carried out.
///
/// # Errors
/// The first operation the kernel refuses, with its reason.
pub fn execute(
    kernel: &mut dyn Kernel,
    stages: &[Stage],
    progress: &mut dyn FnMut(&Progress),
) -> Result<Timings> {
    let mut timings = Timings::new();
    for stage in stages {
        let start = Instant::now();
        execute_stage(kernel, stage, progress)?;
        timings.push(StageTime { stage: stage.name.clone(), ms: start.elapsed().as_secs_f64() * 1000.0 });
    }
    Ok(timings)
}

fn execute_stage(kernel: &mut dyn Kernel, stage: &Stage, progress: &mut dyn FnMut(&Progress)) -> Result<()> {
    let total = stage.ops.len();
    let mut report = |done| progress(&Progress { stage: stage.name.clone(), done, total });
    report(0);
    let mut done = 0;
    for (class, by_ns) in lanes::batches(&stage.ops) {
        execute_batch(kernel, class, &by_ns)?;
        done += by_ns.values().map(Vec::len).sum::<usize>();
        report(done);
    }
    Ok(())
}

fn execute_batch(kernel: &mut dyn Kernel, class: Class, by_ns: &ByNetns<'_>) -> Result<()> {
    let ops = || by_ns.values().flatten().copied().collect::<Vec<_>>();
    match class {
        Class::Netns => kernel.add_netns(&ops()),
        Class::Sysctl => kernel.set_sysctls(by_ns),
        Class::Tun => kernel.add_tuns(by_ns),
        Class::Veth => kernel.add_veths(&ops()),
        Class::Ruleset => kernel.add_rulesets(&ops()),
        Class::Xfrm => kernel.add_security(by_ns),
        Class::Netlink => kernel.configure(by_ns),
    }
}

/// A namespace in the lab's words: `base/X`, `blue/a`, or the link layer of a base node.
#[must_use]
pub fn place(ns: &str) -> String {
    if let Some(node) = ns.strip_prefix("b.") {
        format!("base/{node}")
    } else if let Some(node) = ns.strip_prefix("l.") {
        format!("the link layer of base/{node}")
    } else if let Some((vi, node)) = ns.strip_prefix("s.").and_then(|rest| rest.split_once('.')) {
        format!("the strands of {vi}/{node}")
    } else if let Some((vi, node)) = ns.strip_prefix("v.").and_then(|rest| rest.split_once('.')) {
        format!("{vi}/{node}")
    } else {
        ns.to_owned()
    }
}

/// What an operation does, to what: the first line of its error.
fn doing(op: &Op) -> String {
    let at = place(namespace(op));
    match op {
        Op::AddNetns { ns, .. } => format!("make namespace {ns}"),
        Op::SetSysctl { key, value, .. } => format!("set {} to {value} on {at}", key.replace('/', ".")),
        Op::AddVeth { a, b, .. } => format!("add link {at}:{} -- {}:{}", a.1, place(&b.0), b.1),
        Op::AddAddr { dev, addr, .. } => format!("add address {addr} to {dev} on {at}"),
        Op::AddIpip { dev, local, remote, .. } => format!("add tunnel {dev} {local} -> {remote} on {at}"),
        Op::AddTun { dev, .. } => format!("add TUN device {dev} on {at}"),
        Op::MoveLink { dev, to, name, .. } => format!("move {dev} from {at} to {}:{name}", place(to)),
        Op::SetUp { dev, mtu, .. } => format!("set {dev} up with MTU {mtu} on {at}"),
        Op::AddNetem { dev, .. } => format!("add netem to {dev} on {at}"),
        Op::AddHooks { dev, .. } => format!("add clsact to {dev} on {at}"),
        Op::AddIfb { dev, .. } => format!("add ifb device {dev} on {at}"),
        Op::AddRedirect { dev, to, .. } => format!("add a redirect from {dev} to {to} on {at}"),
        Op::AddNeighbour { addr, .. } => format!("add neighbour {addr} on {at}"),
        Op::AddRoute { prefix, .. } | Op::AddUnreachable { prefix, .. } => {
            format!("add route {prefix} on {at}")
        }
        Op::AddAssociation { src, dst, .. } => format!("add security association {src} -> {dst} on {at}"),
        Op::AddPolicy { src, dst, .. } => format!("add security policy {src} -> {dst} on {at}"),
        Op::AddRuleset { .. } => format!("load the ruleset of {at}"),
    }
}

fn cannot(op: &Op) -> Error {
    Error::kernel(format!("cannot {}", doing(op)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hop;

    /// Records each call as one line.
    #[derive(Default)]
    struct Recorder {
        calls: Vec<String>,
        refuse: Option<&'static str>,
    }

    impl Recorder {
        fn call(&mut self, what: &str, ops: &[&Op]) -> Result<()> {
            let ops: Vec<_> = ops.iter().map(|op| doing(op)).collect();
            if let Some(refused) = self.refuse
                && ops.iter().any(|op| op.contains(refused))
            {
                return Err(Error::kernel(refused));
            }
            self.calls.push(format!("{what}: {}", ops.join("; ")));
            Ok(())
        }
    }

    impl Kernel for Recorder {
        fn add_netns(&mut self, ops: &[&Op]) -> Result<()> {
            let names: Vec<&str> = ops.iter().map(|op| namespace(op)).collect();
            self.calls.push(format!("netns: {}", names.join(" ")));
            Ok(())
        }
        fn add_veths(&mut self, ops: &[&Op]) -> Result<()> {
            self.call("veths", ops)
        }
        fn configure(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
            by_ns.iter().try_for_each(|(ns, ops)| self.call(ns, ops))
        }
        fn set_sysctls(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
            by_ns.iter().try_for_each(|(ns, ops)| self.call(&format!("sysctl {ns}"), ops))
        }
        fn add_tuns(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
            by_ns.iter().try_for_each(|(ns, ops)| self.call(&format!("tun {ns}"), ops))
        }
        fn add_security(&mut self, by_ns: &BTreeMap<&str, Vec<&Op>>) -> Result<()> {
            by_ns.iter().try_for_each(|(ns, ops)| self.call(&format!("xfrm {ns}"), ops))
        }
        fn add_rulesets(&mut self, ops: &[&Op]) -> Result<()> {
            self.call("nft", ops)
        }
    }

    fn netns(ns: &str) -> Op {
        Op::AddNetns { ns: ns.into(), owner: None }
    }

    fn veth(a: (&str, &str), b: (&str, &str)) -> Op {
        Op::AddVeth {
            a: (a.0.into(), a.1.into()),
            b: (b.0.into(), b.1.into()),
            macs: [crate::plan::Mac([2, 0, 0, 0, 0, 0]), crate::plan::Mac([2, 0, 0, 0, 0, 1])],
            mtu: 1500,
        }
    }

    fn addr(ns: &str, dev: &str, addr: &str) -> Op {
        Op::AddAddr { ns: ns.into(), dev: dev.into(), addr: addr.parse().unwrap(), prefix_route: true }
    }

    fn route(ns: &str, prefix: &str, dev: &str) -> Op {
        let hops = vec![Hop { via: Some("10.0.0.1".parse().unwrap()), dev: dev.into() }];
        Op::AddRoute { ns: ns.into(), prefix: prefix.parse().unwrap(), hops, src: None }
    }

    fn calls(ops: Vec<Op>) -> Vec<String> {
        let mut recorder = Recorder::default();
        execute(&mut recorder, &[Stage { name: "all".into(), ops }], &mut |_| {}).unwrap();
        recorder.calls
    }

    #[test]
    fn a_namespace_gets_one_batch_however_its_operations_are_mixed() {
        let calls = calls(vec![
            netns("b.X"),
            netns("b.Y"),
            veth(("b.X", "Y"), ("b.Y", "X")),
            addr("b.X", "Y", "10.0.0.0/31"),
            addr("b.Y", "X", "10.0.0.1/31"),
            route("b.X", "10.9.0.0/24", "Y"),
            route("b.Y", "10.8.0.0/24", "X"),
        ]);
        assert_eq!(
            calls,
            [
                "netns: b.X b.Y",
                "veths: add link base/X:Y -- base/Y:X",
                "b.X: add address 10.0.0.0/31 to Y on base/X; add route 10.9.0.0/24 on base/X",
                "b.Y: add address 10.0.0.1/31 to X on base/Y; add route 10.8.0.0/24 on base/Y",
            ]
        );
    }

    #[test]
    fn all_veths_of_a_run_are_one_batch() {
        let calls = calls(vec![
            veth(("b.X", "Y"), ("b.Y", "X")),
            addr("b.X", "Y", "10.0.0.0/31"),
            veth(("b.Y", "Z"), ("b.Z", "Y")),
            addr("b.Y", "Z", "10.0.0.2/31"),
        ]);
        assert_eq!(calls[0], "veths: add link base/X:Y -- base/Y:X; add link base/Y:Z -- base/Z:Y");
        assert_eq!(calls.len(), 3);
    }

    #[test]
    fn a_moved_device_is_used_after_it_has_arrived() {
        let tunnel = |ns: &str, dev: &str| Op::AddIpip {
            ns: ns.into(),
            dev: dev.into(),
            local: "172.16.0.0".parse().unwrap(),
            remote: "172.16.0.1".parse().unwrap(),
        };
        let move_to = |ns: &str, dev: &str, to: &str| Op::MoveLink {
            ns: ns.into(),
            dev: dev.into(),
            to: to.into(),
            name: "b".into(),
        };
        let calls = calls(vec![
            tunnel("v.low.a", "t1"),
            move_to("v.low.a", "t1", "b.A"),
            tunnel("l.X", "t0"),
            move_to("l.X", "t0", "v.low.a"),
            addr("v.low.a", "b", "10.128.0.0/31"),
        ]);
        assert_eq!(
            calls,
            [
                "l.X: add tunnel t0 172.16.0.0 -> 172.16.0.1 on the link layer of base/X; \
                 move t0 from the link layer of base/X to low/a:b",
                "v.low.a: add tunnel t1 172.16.0.0 -> 172.16.0.1 on low/a; move t1 from low/a to base/A:b",
                "v.low.a: add address 10.128.0.0/31 to b on low/a",
            ]
        );
    }

    #[test]
    fn other_kinds_keep_their_place() {
        let sysctl = Op::SetSysctl { ns: "b.X".into(), key: "net/ipv4/ip_forward".into(), value: "1".into() };
        let calls = calls(vec![addr("b.X", "lo", "10.0.0.9/32"), sysctl, addr("b.X", "lo", "10.0.0.8/32")]);
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[1], "sysctl b.X: set net.ipv4.ip_forward to 1 on base/X");
    }

    #[test]
    fn progress_counts_to_the_end_and_stops_at_a_refusal() {
        let ops = vec![netns("b.X"), addr("b.X", "lo", "10.0.0.9/32")];
        let stages = [Stage { name: "s".into(), ops }];
        let mut seen = Vec::new();
        let mut kernel = Recorder { refuse: Some("10.0.0.9"), ..Recorder::default() };
        assert!(execute(&mut kernel, &stages, &mut |p| seen.push(p.done)).is_err());
        assert_eq!(seen, [0, 1]);
        seen.clear();
        execute(&mut Recorder::default(), &stages, &mut |p| seen.push(p.done)).unwrap();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn places_are_in_the_labs_words() {
        assert_eq!(place("v.big.t.l.r.top"), "big/t.l.r.top");
        assert_eq!(place("b.X"), "base/X");
        assert_eq!(place("l.X"), "the link layer of base/X");
    }
}
