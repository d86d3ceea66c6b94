//! Owners of VIs (criterion E4): an unprivileged user changes the VI that is theirs, and the kernel itself keeps them from
//! every other and from the base. On every dataplane and with routing daemons where the machine has them. Needs root.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic; a skip must be seen")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::bench::{Bench, wait_for};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use vilab::sys::userns;

/// Two users without names: as many as chown(1) needs to know of them.
const ALICE: u32 = 47_001;
const BOB: u32 = 47_002;

/// `blue` is Alice's, `green` Bob's, `red` nobody's; `upper` rides on Alice's and is nobody's.
const LAB: &str = "
base:
  nodes: {Y: {role: router}}
  links: [X -- Y -- Z]
vis:
  blue:
    owner: 47001
    nodes: {a: X, b: {at: Y, role: router}, c: Z}
    links: [a -- b -- c]
    ROUTING
  green: {owner: 47002, nodes: {a: X, b: Z}, links: [a -- b]}
  red: {nodes: {a: X, b: Z}, links: [a -- b]}
  upper: {over: blue, nodes: {p: a, q: c}, links: [p -- q]}
";

/// A bench whose labs others can ask for, and a copy of the program that they can run.
struct Bed {
    bench: Bench,
    program: PathBuf,
}

impl Bed {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: only root can give a VI to another user");
            return None;
        }
        let bench = Bench::new()?;
        let program = bench.dir.path().join("vilab");
        common::copy_program(&program);
        for open in [bench.dir.path(), &bench.run_dir(), &program] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(Self { bench, program })
    }

    fn up(&self, name: &str, dataplane: &str, routing: &str) {
        let routing = format!("routing: {routing}");
        let file = self.bench.file(name, &LAB.replace("ROUTING", &routing));
        self.bench.ok(&["up", "--dataplane", dataplane, &file]);
    }

    /// `vilab exec` in a node by a user who is not root.
    fn exec(&self, uid: u32, lab: &str, node: &str, words: &str) -> Output {
        let mut command = Command::new(&self.program);
        command.args(["exec", "-l", lab, node]).args(words.split(' ')).current_dir("/");
        command.uid(uid).gid(uid).env("VILAB_RUNTIME_DIR", self.bench.run_dir());
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn succeeds(&self, uid: u32, lab: &str, node: &str, words: &str) -> String {
        let output = self.exec(uid, lab, node, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{uid} {node}: {words}: {}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What root sees in a node.
    fn seen(&self, lab: &str, node: &str, words: &str) -> String {
        let mut arguments = vec!["exec", "-l", lab, node];
        arguments.extend(words.split(' '));
        self.bench.ok(&arguments)
    }

    /// The namespace of a node, as root can open it.
    fn namespace(&self, lab: &str, netns: &str) -> File {
        let init = self.bench.process("lab-init", lab).unwrap();
        let inside = self.bench.run_dir().join(lab).join("ns").join(netns);
        let inside = inside.strip_prefix("/").unwrap();
        File::open(PathBuf::from(format!("/proc/{init}/root")).join(inside)).unwrap()
    }

    /// A user's process that has got into a namespace by root's hand, or tries to get there by its own.
    fn intrudes(&self, uid: u32, namespace: &File, by_root: bool, words: &str) -> Output {
        fcntl(namespace, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let net = format!("--net=/proc/self/fd/{}", namespace.as_raw_fd());
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
        let user = ["setpriv", &ids[0], &ids[1], &ids[2]];
        let enter = ["nsenter", net.as_str()];
        let [first, second] = if by_root { [&enter[..], &user[..]] } else { [&user[..], &enter[..]] };
        let line: Vec<&str> = first.iter().chain(second).copied().chain(words.split(' ')).collect();
        Command::new(line[0]).args(&line[1..]).env("LC_ALL", "C").output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The dataplanes of this machine, each with the routing that the owned VI has.
fn ways() -> Vec<(&'static str, &'static str)> {
    let routings = common::routings();
    let each = |d: &'static str| routings.iter().map(move |r| (d, *r)).collect::<Vec<_>>();
    common::dataplanes().into_iter().flat_map(each).collect()
}

#[test]
fn e4_an_owner_changes_one_vi_and_no_other() {
    let Some(bed) = Bed::new() else { return };
    for (dataplane, routing) in ways() {
        let name = &format!("owner-{dataplane}-{routing}");
        bed.up(name, dataplane, routing);
        bed.bench.ok(&["wait", name]);
        works(&bed, name);
        changes_what_is_theirs(&bed, name);
        is_refused_elsewhere(&bed, name);
        by_the_kernel_too(&bed, name);
        bed.bench.ok(&["wait", name]);
        works(&bed, name);
        bed.bench.ok(&["down", name]);
        bed.bench.nothing_left();
    }
}

/// Traffic and names in and above the owned VIs, for the owner and for root.
fn works(bed: &Bed, lab: &str) {
    bed.succeeds(ALICE, lab, "blue/a", "ping -c1 -W5 c");
    bed.succeeds(BOB, lab, "green/b", "ping -c1 -W5 a");
    bed.seen(lab, "upper/p", "ping -c1 -W5 q");
    bed.seen(lab, "red/a", "ping -c1 -W5 b");
    assert_eq!(bed.succeeds(ALICE, lab, "blue/c", "hostname").trim(), "c");
}

/// Addresses, links, routes and sysctls; root sees them, and all is as before at the end.
fn changes_what_is_theirs(bed: &Bed, lab: &str) {
    let theirs = |words: &str| bed.succeeds(ALICE, lab, "blue/a", words);
    let sees = |words: &str, what: &str| bed.seen(lab, "blue/a", words).contains(what);
    theirs("ip addr add 10.200.0.1/32 dev lo");
    assert!(sees("ip addr show dev lo", "10.200.0.1/32"));
    theirs("ip link set dev v-b mtu 1300");
    assert!(sees("ip link show dev v-b", "mtu 1300"));
    theirs("ip route add 10.201.0.0/16 dev v-b");
    assert!(sees("ip route", "10.201.0.0/16"));
    theirs("sysctl -qw net.ipv4.ip_default_ttl=77");
    assert!(sees("sysctl -n net.ipv4.ip_default_ttl", "77"));
    theirs("sysctl -qw net.ipv4.ip_default_ttl=64");
    theirs("ip route del 10.201.0.0/16 dev v-b");
    theirs("ip addr del 10.200.0.1/32 dev lo");
    let mtu = bed.seen(lab, "blue/b", "cat /sys/class/net/v-a/mtu");
    theirs(&format!("ip link set dev v-b mtu {}", mtu.trim()));
    assert_eq!(theirs("id -u").trim(), "0", "they are root there");
}

/// By the command, with a reason; and no command runs.
fn is_refused_elsewhere(bed: &Bed, lab: &str) {
    let foreign = ["red/a", "green/a", "upper/p", "base/X", "base/Y"].map(|node| (ALICE, node));
    for (uid, node) in foreign.into_iter().chain([(BOB, "blue/a"), (BOB, "base/Z"), (65_534, "blue/a")]) {
        let output = bed.exec(uid, lab, node, "touch /tmp/never");
        assert_eq!(output.status.code(), Some(4), "{uid} {node}: {}", said(&output));
        assert!(said(&output).contains(&format!("{node} is of no VI of yours")), "{}", said(&output));
    }
    for wrong in ["blue/none", "a", "../b.X", "blue/../../b.X"] {
        let output = bed.exec(ALICE, lab, wrong, "true");
        assert_eq!(output.status.code(), Some(4), "{wrong}: {}", said(&output));
    }
    let output = bed.exec(ALICE, "no-such-lab", "blue/a", "true");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// With a descriptor of the namespace in hand, setns(2) is refused; inside it, by root's hand, every change is.
fn by_the_kernel_too(bed: &Bed, lab: &str) {
    let owners = BTreeMap::from([("v.blue.a", ALICE), ("v.green.a", BOB), ("v.red.a", 0), ("b.X", 0)]);
    for (netns, owner) in owners {
        let namespace = bed.namespace(lab, netns);
        assert_eq!(userns::of(&namespace).and_then(userns::owner).unwrap(), owner, "{netns}");
        if owner == ALICE {
            continue;
        }
        let output = bed.intrudes(ALICE, &namespace, false, "true");
        assert!(!output.status.success() && said(&output).contains("Operation not permitted"), "{output:?}");
        for words in
            ["ip addr add 10.200.0.1/32 dev lo", "ip link set dev lo down", "ip route add 9.0.0.0/8 dev lo"]
        {
            let output = bed.intrudes(ALICE, &namespace, true, words);
            let refused = said(&output).contains("Operation not permitted");
            assert!(!output.status.success() && refused, "{netns}: {words}: {output:?}");
        }
    }
}

/// A tunnel keeps encapsulating where it was made, which is not the owner's: its ends, by which VIs are told apart below,
/// are not theirs to change. Kernels of before 2026 let them; see docs/language.md.
#[test]
fn e4_the_ends_of_a_tunnel_are_not_its_owners() {
    let Some(bed) = Bed::new() else { return };
    if !common::can("kernel") {
        return;
    }
    bed.up("owner-tunnel", "kernel", "static");
    let shown = bed.seen("owner-tunnel", "blue/a", "ip -d link show dev v-b");
    let words: Vec<&str> = shown.split_whitespace().collect();
    let after = |word: &str| words[words.iter().position(|w| *w == word).unwrap() + 1];
    let (local, remote) = (after("local"), after("remote"));
    for remote in [remote, "172.31.255.254"] {
        let change = format!("ip link set dev v-b type ipip local {local} remote {remote}");
        let output = bed.exec(ALICE, "owner-tunnel", "blue/a", &change);
        assert!(said(&output).contains("Operation not permitted"), "{change}: {output:?}");
        bed.seen("owner-tunnel", "blue/a", &change);
        bed.seen(
            "owner-tunnel",
            "blue/a",
            &format!("ip link set dev v-b type ipip local {local} remote {}", after("remote")),
        );
    }
    bed.bench.ok(&["down", "owner-tunnel"]);
    bed.bench.nothing_left();
}

/// What an owner breaks is their own VI: their devices go, and the others' traffic goes on.
#[test]
fn e4_an_owner_who_destroys_a_vi_harms_no_other() {
    let Some(bed) = Bed::new() else { return };
    for dataplane in common::dataplanes() {
        let name = &format!("owner-havoc-{dataplane}");
        bed.up(name, dataplane, "static");
        bed.succeeds(ALICE, name, "blue/b", "ip link del dev v-a");
        bed.succeeds(ALICE, name, "blue/b", "ip link set dev v-c mtu 60000");
        bed.succeeds(ALICE, name, "blue/c", "ip link set dev v-b down");
        bed.succeeds(ALICE, name, "blue/a", "nft add table ip mine");
        assert!(!bed.exec(ALICE, name, "blue/a", "ping -c1 -W1 c").status.success());
        bed.exec(ALICE, name, "blue/b", "ping -c2 -i0.2 -W1 -s 40000 c");
        for _ in 0..2 {
            bed.seen(name, "red/a", "ping -c3 -i0.1 -W5 b");
            bed.succeeds(BOB, name, "green/a", "ping -c3 -i0.1 -W5 b");
        }
        bed.bench.ok(&["down", name]);
        bed.bench.nothing_left();
    }
}

/// A VI with an owner comes to a lab that is up; one that is there cannot change hands.
#[test]
fn owned_vis_come_and_go_with_apply() {
    let Some(bed) = Bed::new() else { return };
    for dataplane in common::dataplanes() {
        let name = &format!("owner-apply-{dataplane}");
        let base = "base:\n  links: [X -- Y]\nvis:\n  red: {nodes: {a: X, b: Y}, links: [a -- b]}\n";
        let blue = |owner: &str| {
            format!("{base}  blue: {{owner: {owner}, nodes: {{a: X, b: Y}}, links: [a -- b]}}\n")
        };
        bed.bench.ok(&["up", "--dataplane", dataplane, &bed.bench.file(name, base)]);
        assert_eq!(bed.exec(ALICE, name, "blue/a", "true").status.code(), Some(2));
        let apply =
            |text: &str| bed.bench.vilab(&["apply", "--dataplane", dataplane, &bed.bench.file(name, text)]);
        let output = apply(&blue("47001"));
        assert!(output.status.success(), "{}", said(&output));
        bed.succeeds(ALICE, name, "blue/a", "ping -c1 -W5 b");
        let output = apply(&blue("47002"));
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("VI blue belongs to 47001"), "{}", said(&output));
        assert!(apply(base).status.success());
        assert_eq!(bed.exec(ALICE, name, "blue/a", "true").status.code(), Some(4));
        bed.bench.ok(&["down", name]);
        bed.bench.nothing_left();
    }
}

/// The lines that `vilab plan` prints for an owned namespace make one, in a shell of root's.
#[test]
fn the_printed_plan_makes_owned_namespaces() {
    let Some(bed) = Bed::new() else { return };
    let file = bed.bench.file("printed", &LAB.replace("ROUTING", ""));
    let plan = bed.bench.ok(&["plan", "--dataplane", "fastpath", &file]);
    let namespaces = plan.split("\n# ").find(|section| section.starts_with("namespaces")).unwrap();
    let (_, lines) = namespaces.split_once('\n').unwrap();
    let script = format!(
        "set -e\nmount --make-rprivate /\nmkdir -p /run/netns\nmount -t tmpfs tmpfs /run/netns\n{lines}\necho made\nread -r end\n"
    );
    let mut shell = Command::new("unshare")
        .args(["--mount", "--net", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = String::new();
    BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut word).unwrap();
    assert_eq!(word, "made\n");
    for (netns, uid) in [("v.blue.b", ALICE), ("v.green.a", BOB), ("v.red.a", 0), ("b.X", 0)] {
        let namespace = File::open(format!("/proc/{}/root/run/netns/{netns}", shell.id())).unwrap();
        assert_eq!(userns::of(&namespace).and_then(userns::owner).unwrap(), uid, "{netns}");
    }
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(shell.wait().unwrap().success());
}

/// Killed without warning, nothing is left: no namespace, no process, no socket.
#[test]
fn a_killed_lab_leaves_nothing_of_its_owners() {
    let Some(bed) = Bed::new() else { return };
    bed.up("owner-killed", "fastpath", "static");
    let (init, watcher) = bed.bench.pids("owner-killed");
    for pid in [watcher, init] {
        let _gone =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    wait_for("the lab to end", || bed.bench.processes().is_empty());
    assert_eq!(bed.exec(ALICE, "owner-killed", "blue/a", "true").status.code(), Some(2));
    bed.bench.nothing_left();
}

/// Several threads ask for the namespaces of an owner's nodes: no two get one and the same.
#[test]
fn each_node_of_an_owner_has_a_namespace_of_its_own() {
    let Some(bed) = Bed::new() else { return };
    let lab = "base: {nodes: [X]}\nvis: {v: {owner: 47001, nodes: {\"n[1..60]\": X}, links: [{line: \"n[1..60]\"}]}}\n";
    bed.bench.ok(&["up", "--dataplane", "fastpath", &bed.bench.file("owner-many", lab)]);
    let inode = |n: usize| bed.namespace("owner-many", &format!("v.v.n{n}")).metadata().unwrap().ino();
    let found: BTreeSet<u64> = (1..=60).map(inode).collect();
    assert_eq!(found.len(), 60);
    bed.bench.ok(&["down", "owner-many"]);
}

/// Who cannot own a VI is told with the place in the file, before anything is made.
#[test]
fn who_cannot_own_is_told_with_line_and_column() {
    let Some(bed) = Bed::new() else { return };
    let lab = |owner: &str| {
        format!(
            "base: {{links: [X -- Y]}}\nvis:\n  v:\n    owner: {owner}\n    nodes: {{a: X, b: Y}}\n    links: [a -- b]\n"
        )
    };
    for (owner, what) in [
        ("nobody-of-this-name", "this machine has no user `nobody-of-this-name`"),
        ("root", "`root` may change every VI"),
        ("\"0\"", "`0` may change every VI"),
    ] {
        let file = bed.bench.file("wrong-owner", &lab(owner));
        let output = bed.bench.vilab(&["up", &file]);
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains(what), "{}", said(&output));
        assert!(said(&output).contains("wrong-owner.yaml:5:12"), "{}", said(&output));
        bed.bench.nothing_left();
        assert!(
            bed.bench.vilab(&["check", &file]).status.success(),
            "whether there is such a user is not the file's"
        );
    }
    let output = bed.bench.vilab(&["check", &bed.bench.file("no-user", &lab("\"a b\""))]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("`a b` cannot be a user"), "{}", said(&output));
}

/// In a lab of an unprivileged user's all is theirs already, and nobody else's.
#[test]
fn an_unprivileged_lab_has_one_owner() {
    let Some(bench) = Bench::unprivileged() else { return };
    let lab = |owner: &str| {
        format!(
            "base: {{links: [X -- Y]}}\nvis:\n  v: {{owner: {owner}, nodes: {{a: X, b: Y}}, links: [a -- b]}}\n"
        )
    };
    let output = bench.vilab(&["up", "--dataplane", "fastpath", &bench.file("others", &lab("47001"))]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("only root can give a VI to `47001`"), "{}", said(&output));
    bench.nothing_left();
    bench.ok(&["up", "--dataplane", "fastpath", &bench.file("own", &lab("65534"))]);
    bench.ok(&["exec", "-l", "own", "v/a", "ping", "-c1", "-W5", "b"]);
    bench.ok(&["down", "own"]);
    bench.nothing_left();
}
