//! Stacks of Virtual Internets, one on the other, up to 16 deep on each dataplane this machine has and 64 on the fast
//! path: packets of the uppermost have one header more than there are VIs, and all the room that these leave.

mod common;

use std::fmt::Write as _;

use vilab::lab;
use vilab::model::Dataplane;
use vilab::plan::{self, Machine, Op};
use vilab::routing::Rib;

const HEADER: usize = 20;
/// What every kernel carries without a break: two VIs and the base.
const UNBROKEN: usize = 2;
/// VIs for whose tunnels the kernel's stack has room.
const ROOM: usize = 8;

/// The file of `depth` VIs on a base of two nodes, with the tests of the uppermost.
fn stack(depth: usize, base_mtu: usize) -> String {
    let mut text = format!("name: depth-{depth}\nbase:\n  mtu: {base_mtu}\n  links: [X -- Y]\nvis:\n");
    for level in 1..=depth {
        let (over, nodes) = match level {
            1 => ("base".to_owned(), "{a: X, b: Y}"),
            _ => (format!("v{}", level - 1), "{a: a, b: b}"),
        };
        let _ = writeln!(text, "  v{level}: {{over: {over}, nodes: {nodes}, links: [a -- b]}}");
    }
    let headers = depth + 1;
    let mtu = base_mtu - HEADER * headers;
    let ends = format!("from: v{depth}/a, to: v{depth}/b");
    let _ = write!(
        text,
        "tests:\n  - ping: all in v{depth}\n  - depth: {{vi: v{depth}, headers: {headers}, mtu: {mtu}}}\n  \
         - mtu: {{{ends}, is: {mtu}}}\n  - ttl: {{{ends}, is: 64}}\n  - tcp: {{{ends}}}\n"
    );
    text
}

/// Writes the file; it is there until the value is dropped.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    std::fs::write(file.path(), text).expect("the lab is written");
    file
}

fn holds(depth: usize, base_mtu: usize, dataplane: &str) {
    let file = file(&stack(depth, base_mtu));
    common::run(common::vilab().args(["test", "--dataplane", dataplane]).arg(file.path()));
}

#[test]
fn d1_d14_stacks_of_2_to_16_add_a_header_for_each_vi() {
    for dataplane in common::dataplanes() {
        for depth in [2, 4, 8, 16] {
            holds(depth, 1500, dataplane);
        }
    }
}

/// Four streams to a host that answers keep all queues full, so that whoever sends finds packets of others that are due.
#[test]
fn d1_a_deep_stack_bears_load() {
    const LOAD: &str = r#"
  - exec:
      at: v16/a
      run:
        - sh
        - -c
        - |
          for stream in 1 2 3 4; do
            { head -c 150000 /dev/zero | socat -t 20 - TCP:b:5001 | wc -c; } &
          done
          wait
      stdout: "150000\n150000\n150000\n150000"
apps:
  - {at: v16/b, name: echo, run: "socat -t 20 TCP-LISTEN:5001,fork EXEC:cat", ready: {tcp: 5001}}
"#;
    for dataplane in common::dataplanes() {
        let stack = stack(16, 1500);
        let (networks, _) = stack.split_once("  - ping").expect("tests");
        let file = file(&(networks.trim_end().to_owned() + LOAD));
        common::run(common::vilab().args(["test", "--dataplane", dataplane]).arg(file.path()));
    }
}

/// Two VIs take 60 bytes: over 10 % of the base MTU that every IPv4 host takes, 576.
#[test]
fn d23_two_vis_work_with_a_tenth_of_the_mtu_gone() {
    for dataplane in common::dataplanes() {
        holds(2, 576, dataplane);
    }
}

#[test]
fn d1_the_fast_path_stacks_64() {
    if common::dataplanes().contains(&"fastpath") {
        holds(64, 1500, "fastpath");
        holds(64, 9000, "fastpath");
    }
}

/// A base link of 1500 bytes has room for 71 headers of 20 and the 68 bytes that IPv4 asks for, not for 72.
#[test]
fn d1_only_the_mtu_ends_a_stack() {
    let check = |depth| {
        let file = file(&stack(depth, 1500));
        common::vilab().arg("check").arg(file.path()).output().expect("vilab starts")
    };
    assert!(check(70).status.success());
    let refused = check(71);
    let told =
        String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && told.contains("v71") && told.contains("MTU"), "{told}");
}

/// The kernel's plan of a deep stack breaks the nesting on each odd level; that of a flat one does not.
#[test]
fn d1_breaks_are_there_where_the_kernel_needs_them() {
    let kernel =
        Machine { ipip: true, nft: true, netem: true, redirect: true, ifb: true, ..Machine::default() };
    for depth in [1, UNBROKEN, UNBROKEN + 1, 8, 16] {
        let file = file(&stack(depth, 1500));
        let lab = lab::load(file.path()).expect("a lab");
        let plan = plan::build(&lab, &Rib::compute(&lab), &kernel).expect("a plan");
        let ops = plan.stages.iter().flat_map(|stage| &stage.ops).map(ToString::to_string);
        let breaks: Vec<String> = ops.filter(|op| op.contains("netem")).collect();
        let expected = if depth > UNBROKEN { 2 * depth.div_ceil(2) } else { 0 };
        assert_eq!(breaks.len(), expected, "two ends of each odd level of {depth}: {breaks:#?}");
        let ops = plan.stages.iter().flat_map(|stage| &stage.ops);
        let deferred = ops.filter(|op| matches!(op, Op::AddRedirect { .. })).count();
        assert_eq!(
            deferred,
            if depth > ROOM { expected } else { 0 },
            "a stack of its own for each of {depth}"
        );
        let auto =
            plan::build(&lab, &Rib::compute(&lab), &Machine { ifb: false, tun: true, ..kernel.clone() });
        let expected = if depth > ROOM { Dataplane::Fastpath } else { Dataplane::Kernel };
        assert_eq!(auto.expect("a plan").dataplanes, [expected; 2], "without ifb, {depth} deep");
    }
}
