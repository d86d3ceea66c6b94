//! `vilab apply`: a running lab becomes what a changed file says, and nothing else is touched.
//!
//! What the kernel has in every namespace is compared as text, numbers of devices and counters left out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::bench::{Arrivals, acknowledged, cmdline, dropped, numbers, pause, wait_for};
use common::{dataplanes, run, vilab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vilab::lab::Running;

/// `red`, whose flows nobody touches, beside `blue` and `green`, which change.
const BEFORE: &str = "
base:
  nodes: {Y: {role: router}}
  links: [X -- Y, Y -- Z, X -- Z, Z -- W]
vis:
  red: {nodes: {p: X, q: Z}, links: [p -- q]}
  blue:
    nodes: {a: X, b: {at: Y, role: router}, c: Z}
    links: [a -- b, b -- c, a -- c]
  green: {over: blue, nodes: {u: a, v: c}, links: [u -- v]}
";

/// A node and its links come, a link goes, another gets a delay and another cost, a VI comes; and everything stands in
/// another order.
const AFTER: &str = "
base:
  nodes: {Y: {role: router}}
  links: [Y -- Z, V -- Y, X -- Z, {link: X -- Y, delay: 3ms, cost: 7}, Z -- W]
vis:
  grey: {nodes: {s: W, t: V}, links: [s -- t]}
  blue:
    nodes: {d: V, c: Z, b: {at: Y, role: router}, a: X}
    links: [d -- b, {link: a -- c, delay: 1ms, mtu: 1300}, {link: b -- c, security: aes128-gcm}]
  red: {nodes: {p: X, q: Z}, links: [p -- q]}
  green: {over: blue, nodes: {u: a, v: c}, links: [u -- v]}
";

/// `blue` and `green` go.
const LESS: &str = "
base:
  nodes: {Y: {role: router}}
  links: [X -- Y, Y -- Z, X -- Z, Z -- W]
vis:
  red: {nodes: {p: X, q: Z}, links: [p -- q]}
";

/// A lab of one test; it goes down with this.
struct Bed {
    name: String,
    dataplane: &'static str,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new(name: &str, dataplane: &'static str, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bed = Self { name: format!("apply-{name}-{dataplane}-{}", std::process::id()), dataplane, dir };
        bed.ok(&["up"], text);
        bed
    }

    fn file(&self, text: &str) -> String {
        let path = self.dir.path().join("lab.yaml");
        fs::write(&path, format!("name: {}\n{text}", self.name)).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn command(&self, args: &[&str], text: &str) -> Command {
        let mut command = vilab();
        command.args(args).args(["--dataplane", self.dataplane]).arg(self.file(text));
        command
    }

    fn ok(&self, args: &[&str], text: &str) -> String {
        run(&mut self.command(args, text))
    }

    fn apply(&self, text: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["apply", "--json"], text)).unwrap()
    }

    fn running(&self) -> Running {
        Running::open(&self.name).unwrap()
    }

    fn in_node<T: Send>(&self, netns: &str, f: impl FnOnce() -> T + Send) -> T {
        self.running().namespaces().run(netns, f).unwrap()
    }

    fn namespaces(&self) -> BTreeSet<String> {
        let names = fs::read_dir(self.running().namespaces().dir()).unwrap();
        names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// What the kernel has in each namespace, a line each.
    fn dump(&self) -> BTreeMap<String, Vec<String>> {
        let of = |netns: &String| (netns.clone(), self.in_node(netns, dump));
        self.namespaces().iter().map(of).collect()
    }

    fn address(&self, node: &str) -> Ipv4Addr {
        let running = self.running();
        let lab = &running.state().lab;
        let id = lab.nodes().map(|n| n.id).find(|id| lab.full_name(*id) == node).unwrap();
        lab.address(id).unwrap()
    }

    /// The process inside the lab that changes it.
    fn changer(&self) -> Option<i32> {
        numbers("/proc").find(|pid| {
            let line = cmdline(*pid);
            line.contains("lab-change") && line.contains(&self.name)
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _down = vilab().args(["down", &self.name]).stderr(Stdio::null()).status();
    }
}

fn dump() -> Vec<String> {
    let commands = [
        "ip -4 -o addr",
        "ip -o -d link",
        "ip -4 route show table all",
        "ip -4 neigh show nud permanent",
        "tc qdisc",
        "nft list ruleset",
        "ip xfrm policy",
        "sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv4.tcp_ecn net.ipv4.conf.all.accept_redirects",
    ];
    let mut lines = Vec::new();
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        // A hook without filters stays where one was; the engine's own devices have addresses by chance.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let own = |line: &&str| ["clsact", "shape~", "fast~"].iter().any(|w| line.contains(w));
        lines.extend(text.lines().filter(|line| !own(line)).map(plain));
    }
    lines.sort();
    lines
}

/// A line without what numbers devices and counts packets, and what follows from a device's carrier only when the kernel's link
/// watch has had its turn, up to a second later.
fn plain(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = false;
    for (i, word) in line.split_whitespace().enumerate() {
        let numbered = i == 0 && word.ends_with(':') && word.trim_end_matches(':').parse::<u32>().is_ok();
        let handle = line.starts_with("qdisc") && word.ends_with(':');
        let counted = ["packets", "bytes", "link-netnsid", "refcnt", "index", "priority", "addrgenmode"]
            .contains(&word);
        if !(skip || numbered || handle || counted || word == "linkdown") {
            // Of what is down, or has no carrier, the flags lack UP or LOWER_UP at once.
            let word = if ["UNKNOWN", "DOWN"].contains(&word) { "UP" } else { word };
            words.push(word.replace("NO-CARRIER,", "").split('@').next().unwrap().to_owned());
        }
        skip = counted;
    }
    words.join(" ")
}

/// Fails with the lines that differ.
fn assert_same(is: &BTreeMap<String, Vec<String>>, was: &BTreeMap<String, Vec<String>>, when: &str) {
    let lines = |dump: &BTreeMap<String, Vec<String>>| -> BTreeSet<String> {
        dump.iter().flat_map(|(ns, lines)| lines.iter().map(move |l| format!("{ns}: {l}"))).collect()
    };
    let (is, was) = (lines(is), lines(was));
    let more: Vec<_> = is.difference(&was).collect();
    let less: Vec<_> = was.difference(&is).collect();
    assert!(more.is_empty() && less.is_empty(), "{when}: more {more:#?}, less {less:#?}");
}

fn failed(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Numbered datagrams from `p` to `q`, one each millisecond, until `end`, and 200 at least; how many were sent and how many
/// arrived.
fn datagrams(bed: &Bed, end: &AtomicBool) -> (usize, usize) {
    let to = bed.address("red/q");
    let receiver = bed.in_node("v.red.q", || UdpSocket::bind(("0.0.0.0", 7000)).unwrap());
    let sender = bed.in_node("v.red.p", || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    // Who reads may be late on a busy machine.
    vilab::sys::socket::set_buffers(receiver.as_fd(), 16 << 20).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            let mut number = [0; 8];
            while let Ok(8) = receiver.recv(&mut number) {
                seen.insert(u64::from_le_bytes(number));
            }
            seen.len()
        });
        let mut sent = 0_u64;
        while !end.load(Ordering::Relaxed) || sent < 200 {
            sender.send_to(&sent.to_le_bytes(), (to, 7000)).unwrap();
            sent += 1;
            pause(Duration::from_millis(1));
        }
        (usize::try_from(sent).unwrap(), counting.join().unwrap())
    })
}

/// A TCP stream from `p` to `q` until `end`, of 100 blocks at least: bytes written, and, with those that TCP sent again, for it
/// did not wait long enough or lost some, bytes sent and bytes that came.
fn stream(bed: &Bed, end: &AtomicBool) -> (u64, u64, u64) {
    let to = bed.address("red/q");
    let arrivals = bed.in_node("v.red.q", || Arrivals::open(7001));
    let listener = bed.in_node("v.red.q", || TcpListener::bind(("0.0.0.0", 7001)).unwrap());
    let mut sender = bed.in_node("v.red.p", || TcpStream::connect((to, 7001)).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| arrivals.bytes(&over));
        let reading = scope.spawn(move || std::io::copy(&mut receiver, &mut std::io::sink()).unwrap());
        for written in 0.. {
            if end.load(Ordering::Relaxed) && written >= 100 {
                break;
            }
            sender.write_all(&[7; 16 << 10]).unwrap();
            pause(Duration::from_millis(2));
        }
        let sent = bed.in_node("v.red.p", || acknowledged(7001));
        over.store(true, Ordering::Relaxed);
        let came = counting.join().unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        (reading.join().unwrap(), sent, came)
    })
}

/// I4, X3: a node, a link, a VI, a delay, a cost, security come and go while others talk; these lose nothing.
#[test]
fn i4_x3_untouched_flows_lose_no_packet() {
    for dataplane in dataplanes() {
        let bed = Bed::new("flows", dataplane, BEFORE);
        let end = AtomicBool::new(false);
        let (datagrams, stream) = std::thread::scope(|scope| {
            let datagrams = scope.spawn(|| datagrams(&bed, &end));
            let stream = scope.spawn(|| stream(&bed, &end));
            let texts = [AFTER, BEFORE, LESS, AFTER, LESS, BEFORE];
            let outputs = texts.map(|text| bed.command(&["apply"], text).output().unwrap());
            end.store(true, Ordering::Relaxed);
            for output in outputs {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            (datagrams.join().unwrap(), stream.join().unwrap())
        });
        let ((sent, arrived), (bytes, bytes_sent, bytes_came)) = (datagrams, stream);
        let again = bytes_sent - bytes;
        println!(
            "{dataplane}: {arrived} of {sent} datagrams, {bytes} bytes and {again} again, {bytes_came} came"
        );
        assert_eq!(arrived, sent, "datagrams on {dataplane}: {}", dropped(&bed.running().namespaces()));
        assert_eq!(
            bytes_came,
            bytes_sent,
            "bytes of TCP on {dataplane}: {}",
            dropped(&bed.running().namespaces())
        );
    }
}

/// C4: the same file, in whatever order, finds every address and name where it was.
#[test]
fn c4_the_same_file_changes_nothing() {
    for dataplane in dataplanes() {
        let bed = Bed::new("same", dataplane, AFTER);
        let before = bed.dump();
        let told = bed.apply(AFTER);
        assert_eq!((&told["changed"], &told["commands"]), (&false.into(), &serde_json::json!([])));
        let said = bed.command(&["apply"], AFTER).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stderr).contains("nothing to change"));
        assert_same(&bed.dump(), &before, dataplane);
    }
}

/// X3: what a change makes, the change back unmakes, to the last address; and all nodes reach each other in between,
/// which `apply` has verified.
#[test]
fn x3_there_and_back_is_where_it_began() {
    for dataplane in dataplanes() {
        let bed = Bed::new("back", dataplane, BEFORE);
        let before = bed.dump();
        let there = bed.apply(AFTER);
        assert!(there["differences"].as_array().unwrap().iter().any(|d| d["name"] == "blue/d"));
        let after = bed.dump();
        assert!(after.contains_key("v.grey.s") && after != before);
        assert_eq!(after["v.red.p"], before["v.red.p"]);
        bed.apply(BEFORE);
        assert_same(&bed.dump(), &before, "back");
        bed.apply(LESS);
        assert!(bed.namespaces().iter().all(|ns| !ns.starts_with("v.blue") && !ns.starts_with("v.green")));
        bed.apply(BEFORE);
        assert_same(&bed.dump(), &before, "back from less");
    }
}

#[test]
fn a_dry_run_and_a_refusal_touch_nothing() {
    for dataplane in dataplanes() {
        let bed = Bed::new("dry", dataplane, BEFORE);
        let before = bed.dump();
        let told = bed.ok(&["apply", "--dry-run"], AFTER);
        let removed = "ip -n b.X link del dev e-Y";
        assert!(!told.contains(removed), "a link that stays is changed in place:\n{told}");
        assert!(told.contains("ip netns add v.grey.s") && told.contains("route replace"), "{told}");
        assert!(bed.ok(&["apply", "--dry-run"], LESS).contains("ip netns del v.green.u"));
        let over = BEFORE.replace("over: blue, nodes: {u: a, v: c}", "over: base, nodes: {u: X, v: Z}");
        let refused = failed(&bed.command(&["apply"], &over).output().unwrap());
        assert!(
            refused.contains("rides on blue") && refused.contains("nothing has been touched"),
            "{refused}"
        );
        assert_same(&bed.dump(), &before, dataplane);
    }
}

/// I4: what is removed is gone: namespaces, devices, processes.
#[test]
fn i4_a_removed_vi_leaves_nothing() {
    for dataplane in dataplanes() {
        let bed = Bed::new("gone", dataplane, BEFORE);
        let init = bed.running().state().init;
        let mut inside =
            vilab().args(["exec", "-l", &bed.name, "green/u", "--", "sleep", "1000"]).spawn().unwrap();
        let in_green = |pid: &i32| {
            let of_green = fs::metadata(format!("/proc/{init}/root")).is_ok()
                && fs::read_link(format!("/proc/{pid}/ns/net")).ok()
                    == bed.in_node("v.green.u", || fs::read_link("/proc/thread-self/ns/net").ok());
            of_green && cmdline(*pid).contains("sleep")
        };
        wait_for("the command in the node", || numbers("/proc").any(|pid| in_green(&pid)));
        let netns = bed.in_node("v.green.u", || fs::read_link("/proc/thread-self/ns/net").unwrap());
        bed.apply(LESS);
        assert_eq!(bed.namespaces().iter().filter(|n| n.starts_with("v.")).count(), 2);
        let there = |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|l| l == netns);
        wait_for("its processes to end", || !numbers("/proc").any(|pid| there(&pid)));
        assert!(!inside.wait().unwrap().success());
        let devices = bed.dump().into_values().flatten().collect::<Vec<_>>().join("\n");
        assert!(!devices.contains("v-b") && !devices.contains("k2."), "{devices}");
    }
}

/// A change that is cut short anywhere is made good by the next, whichever way that goes.
#[test]
fn a_change_that_is_killed_is_made_good_by_the_next() {
    for dataplane in dataplanes() {
        let bed = Bed::new("kill", dataplane, BEFORE);
        let before = bed.dump();
        let applied = bed.apply(AFTER);
        let stages = applied["timings"].as_array().unwrap();
        let took: f64 = stages.iter().map(|stage| stage["ms"].as_f64().unwrap()).sum();
        let after = bed.dump();
        let running = bed.running();
        let mut cut = 0;
        for (round, share) in [0.005, 0.02, 0.1, 0.2, 0.4, 0.7].into_iter().enumerate() {
            let (from, to) = if round % 2 == 0 { (AFTER, BEFORE) } else { (BEFORE, AFTER) };
            let mut apply = bed.command(&["apply"], to).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            let changer = loop {
                let ended = apply.try_wait().unwrap().is_some();
                if ended || start.elapsed() > Duration::from_secs(20) {
                    break None;
                }
                if let Some(pid) = bed.changer() {
                    break Some(pid);
                }
            };
            // It has begun, and goes on for some of the time that it takes on this machine.
            while changer.is_some() && !running.is_half_changed() && apply.try_wait().unwrap().is_none() {
                pause(Duration::from_micros(200));
            }
            pause(Duration::from_secs_f64(took * share / 1000.0));
            let _ended = kill(Pid::from_raw(i32::try_from(apply.id()).unwrap()), Signal::SIGKILL);
            if let Some(pid) = changer {
                let _ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            apply.wait().unwrap();
            wait_for("the change to end", || bed.changer().is_none());
            cut += usize::from(bed.running().is_half_changed());
            let back = round % 3 == 2;
            let wanted = if back { from } else { to };
            bed.apply(wanted);
            assert!(!bed.running().is_half_changed());
            let expected = if wanted == AFTER { &after } else { &before };
            assert_same(&bed.dump(), expected, &format!("round {round} on {dataplane}"));
            bed.apply(to);
        }
        println!("{dataplane}: {cut} of 6 changes were cut short half way");
        assert!(cut > 0, "no change was cut short half way");
    }
}

/// A lab that is not up is brought up, and it is said.
#[test]
fn a_lab_that_is_not_up_is_brought_up() {
    for dataplane in dataplanes() {
        let bed = Bed::new("first", dataplane, LESS);
        run(vilab().args(["down", &bed.name]));
        let output = bed.command(&["apply"], LESS).output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("is not up: it is brought up"));
        assert_eq!(bed.namespaces().iter().filter(|n| n.starts_with("v.")).count(), 2);
    }
}

/// A daemon that routes takes a new link and a new cost as it runs; nodes that come get theirs.
#[test]
fn x3_routing_daemons_go_on() {
    let lab = |blue: &str| {
        format!("base: {{links: [X -- Y, Y -- Z, X -- Z]}}\nvis:\n  blue:\n    routing: ospf\n    {blue}\n")
    };
    let before = lab("nodes: {a: X, b: {at: Y, role: router}, c: Z}\n    links: [a -- b, b -- c]");
    let after = lab(
        "nodes: {d: X, a: X, b: {at: Y, role: router}, c: Z}\n    links: [d -- c, {link: b -- c, cost: 9}, a -- b, d -- a]",
    );
    for dataplane in dataplanes().into_iter().filter(|_| common::can("frr")) {
        let bed = Bed::new("ospf", dataplane, &before);
        let daemons = || {
            let services = bed.running().init().unwrap().services().unwrap();
            let of_b = services.into_iter().filter(|s| s.name.ends_with("@blue/b"));
            of_b.map(|s| (s.name, s.pid, s.restarts)).collect::<Vec<_>>()
        };
        let running = daemons();
        assert_eq!(running.len(), 2);
        bed.apply(&after);
        assert_eq!(daemons(), running);
        bed.apply(&before);
        assert_eq!(daemons(), running);
        let names: Vec<String> =
            bed.running().init().unwrap().services().unwrap().into_iter().map(|s| s.name).collect();
        assert!(!names.iter().any(|n| n.ends_with("@blue/d")), "{names:?}");
    }
}
