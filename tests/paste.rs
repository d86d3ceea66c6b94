//! `vilab plan`, pasted into a root shell, gives the lab that `vilab up` gives: devices, MTUs, addresses, routes,
//! sysctls and rules of every namespace are the same. Needs the kernel dataplane.

mod common;

use std::process::{Command, Stdio};

use vilab::lab::Namespaces;

/// What is looked at in each namespace: few processes, for each costs much on an emulated machine.
const LOOK: &str = "ip -d -o link; echo ==; ip neighbour show nud permanent; echo ==; ip -4 -o addr; echo ==; \
                    ip -4 route show table all; echo ==; \
                    sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.icmp_ratelimit; echo ==; \
                    ip xfrm state; echo ==; ip xfrm policy; echo ==; nft list ruleset";
/// Sections, from the first, whose lines have no order: links, neighbours, addresses, routes.
const UNORDERED: usize = 4;

/// The same without what numbers things, counts packets, or is by chance; sections whose lines have no order are sorted.
fn compared(look: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, section) in look.split("==\n").enumerate() {
        let mut plain: Vec<String> = section.lines().filter(|l| !counts(l)).map(plain).collect();
        if number < UNORDERED {
            plain.sort();
        }
        lines.extend(plain);
    }
    lines
}

/// Sequence numbers of a security association, and the bits of its window, in words of eight digits.
fn counts(line: &str) -> bool {
    let digits = |word: &str| word.len() == 8 && word.chars().all(|c| c.is_ascii_hexdigit());
    let window = line.starts_with(char::is_whitespace) && line.split_whitespace().next().is_some_and(digits);
    window || line.contains("seq")
}

fn plain(line: &str) -> String {
    let mut words = line.split_whitespace().peekable();
    // An index, and that of the other end.
    if words.peek().is_some_and(|w| w.trim_end_matches(':').parse::<u32>().is_ok()) {
        words.next();
    }
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if ["link-netns", "link-netnsid", "qlen", "packets", "bytes"].contains(&word) {
            words.next();
        } else if word.contains("@if") {
            kept.extend(word.split('@').next());
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// The namespaces as `up` made them, each looked at.
fn looks(namespaces: &Namespaces) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<String> = std::fs::read_dir(namespaces.dir())
        .expect("the namespaces")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let look = |name: &String| {
        let text = namespaces.run(name, || common::run(Command::new("sh").args(["-c", LOOK])));
        (name.clone(), compared(&text.expect("the namespace")))
    };
    names.iter().map(look).collect()
}

/// The same from a shell that the plan was pasted into, in namespaces of its own. Namespace `from` reaches the second host
/// address of its VI.
fn pasted(plan: &str, from: &str) -> Vec<(String, Vec<String>)> {
    let script = format!(
        "set -e\nmount --make-rprivate /\nmkdir -p /run/netns\nmount -t tmpfs tmpfs /run/netns\n{plan}\n\
         for ns in $(ls /run/netns | LC_ALL=C sort); do echo \"=== $ns\"; ip netns exec $ns sh -c '{}'; done\n\
         echo '=== end'; ip netns exec {from} ping -c1 -W5 10.128.0.2 >&2\n",
        LOOK.replace('\'', r"'\''")
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "--net", "sh", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut input = child.stdin.take().expect("its input");
    std::io::Write::write_all(&mut input, script.as_bytes()).expect("the script is taken");
    drop(input);
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "the pasted plan fails: {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let parts = text.split("=== ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.filter(|(name, _)| *name != "end").map(|(n, t)| (n.to_owned(), compared(t))).collect()
}

#[test]
fn a_pasted_plan_is_the_same_lab() {
    // Three base nodes, their link layers, six partitions.
    same("figure-11-revisitation.yaml", "v.line.A", 12);
}

#[test]
fn a_pasted_plan_with_security_is_the_same_lab() {
    // Four base nodes, their link layers, partitions of three VIs.
    same("security.yaml", "v.closed.A", 16);
}

/// Compares the lab of a file, pasted into the node `from`, with that of `vilab up`.
fn same(file: &str, from: &str, namespaces: usize) {
    if !common::can("kernel") {
        return;
    }
    let path = format!("labs/{file}");
    let plan = common::run(common::vilab().args(["plan", "--dataplane", "kernel", &path]));
    let up = common::Up::lab("paste", file, "kernel");
    let (ours, theirs) = (looks(&up.running().namespaces()), pasted(&plan, from));
    assert_eq!(ours.len(), namespaces, "{file}");
    for ((ns, ours), (pasted_ns, theirs)) in ours.iter().zip(&theirs) {
        assert_eq!(ns, pasted_ns);
        assert!(ours.iter().any(|l| l.contains("lo:")), "{ns} is looked at");
        assert_eq!(ours, theirs, "namespace {ns} of {file}");
    }
}
