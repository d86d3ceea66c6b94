//! `vilab plan`, pasted into a root shell, gives the lab that `vilab up` gives: devices, MTUs, addresses, routes,
//! sysctls and rules of every namespace are the same. Needs the kernel dataplane.

mod common;

use std::process::{Command, Stdio};

use vilab::lab::Namespaces;

/// What is compared in each namespace. Interface indices differ from run to run.
const LOOK: &str = "ip -d -o link | sed -E 's/^[0-9]+: //; s/@[^:]*:/:/; s/link-netns[^ ]* [^ ]+//; s/link-netnsid [0-9]+//; \
                    s/qlen [0-9]+//' | sort; \
                    ip neighbour show nud permanent | sort; ip -4 -o addr | sed -E 's/^[0-9]+: //; s/\\\\.*//' | sort; \
                    ip route show table all | sed -E 's/link-netns[^ ]*//' | grep -v '^local.*:' | grep -v fe80 | grep -v ff00 | sort; \
                    sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.icmp_ratelimit; \
                    ip xfrm state | grep -vE 'seq|^\\s+[0-9a-f]{8} ' ; ip xfrm policy; \
                    nft list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//'";

/// The namespaces as `up` made them, each looked at.
fn looks(namespaces: &Namespaces) -> Vec<(String, String)> {
    let mut names: Vec<String> = std::fs::read_dir(namespaces.dir())
        .expect("the namespaces")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let look = |name: &String| {
        let text = namespaces.run(name, || common::run(Command::new("sh").args(["-c", LOOK])));
        (name.clone(), text.expect("the namespace"))
    };
    names.iter().map(look).collect()
}

/// The same from a shell that the plan was pasted into, in namespaces of its own. Namespace `from` reaches the second host
/// address of its VI.
fn pasted(plan: &str, from: &str) -> Vec<(String, String)> {
    let script = format!(
        "set -e\nmount --make-rprivate /\nmkdir -p /run/netns\nmount -t tmpfs tmpfs /run/netns\n{plan}\n\
         for ns in $(ls /run/netns | LC_ALL=C sort); do echo \"== $ns\"; ip netns exec $ns sh -c '{}'; done\n\
         echo '== end'; ip netns exec {from} ping -c1 -W5 10.128.0.2 >&2\n",
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
    let parts = text.split("== ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.filter(|(name, _)| *name != "end").map(|(n, t)| (n.to_owned(), t.to_owned())).collect()
}

#[test]
fn a_pasted_plan_is_the_same_lab() {
    if !common::can("kernel") {
        return;
    }
    for (file, from, namespaces) in [
        // Three base nodes, their link layers, six partitions.
        ("figure-11-revisitation.yaml", "v.line.A", 12),
        // Four base nodes, their link layers, partitions of three VIs.
        ("security.yaml", "v.closed.A", 16),
    ] {
        let path = format!("labs/{file}");
        let plan = common::run(common::vilab().args(["plan", "--dataplane", "kernel", &path]));
        let up = common::Up::lab("paste", file, "kernel");
        let (ours, theirs) = (looks(&up.running().namespaces()), pasted(&plan, from));
        assert_eq!(ours.len(), namespaces, "{file}");
        for ((ns, ours), (pasted_ns, theirs)) in ours.iter().zip(&theirs) {
            assert_eq!(ns, pasted_ns);
            assert_eq!(ours, theirs, "namespace {ns} of {file}");
        }
    }
}
