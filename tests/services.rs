//! Services of nodes: they start, say when they are ready, are started again, print into logs, see what is their
//! node's own, and end with the lab. Each as root and as a user without privilege.
//!
//! Needs root or unprivileged user namespaces. Without, the tests say so and pass, unless `VILAB_REQUIRE` has
//! `netns` in it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::bench::{Bench, LINE, wait_for};
use serde_json::Value;

/// Labs of root's and of a user's who has no privilege.
fn benches() -> Vec<Bench> {
    Bench::new().into_iter().chain(Bench::unprivileged()).collect()
}

/// Three hosts in a row, one VI over them, and these apps.
fn lab(bench: &Bench, apps: &str) -> String {
    let vis = "vis:\n  v:\n    nodes: {a: X, b: Z}\n    links: [a -- b]\n";
    bench.file("one", &format!("{LINE}{vis}apps:\n{apps}"))
}

/// One service's row of `vilab status --json`.
fn service(bench: &Bench, name: &str) -> Value {
    let status: Value = serde_json::from_str(&bench.ok(&["status", "one", "--json"])).unwrap();
    let found = status["services"].as_array().unwrap().iter().find(|s| s["name"] == name);
    found.unwrap_or_else(|| panic!("{name} in {status}")).clone()
}

fn logs(bench: &Bench, name: &str) -> String {
    bench.ok(&["logs", name])
}

/// X6, G6: what dies is started again, what has done its work is not, and all ends with the lab.
#[test]
fn services_are_started_again_and_end_with_the_lab() {
    for bench in benches() {
        let apps = "
  - {at: a, name: lives, run: \"sh -c 'echo begins; exec sleep 4711'\", restart: on-failure, ready: {log: begins}}
  - {at: a, name: works, run: \"sh -c 'echo done'\", restart: on-failure}
  - {at: b, name: fails, run: \"sh -c 'exit 3'\"}
";
        bench.ok(&["up", &lab(&bench, apps)]);
        wait_for("the short ones to end", || {
            ["works", "fails"].iter().all(|name| service(&bench, name)["state"] == "ended")
        });
        assert_eq!(service(&bench, "fails")["last"]["status"], 3);
        let before = service(&bench, "lives");
        assert_eq!((&before["state"], &before["node"]), (&"running".into(), &"v/a".into()));
        bench.ok(&["exec", "a", "kill", "-KILL", &before["pid"].to_string()]);
        wait_for("it to run again", || {
            let now = service(&bench, "lives");
            now["state"] == "running" && now["restarts"] == 1 && now["pid"] != before["pid"]
        });
        assert_eq!(
            logs(&bench, "lives"),
            "begins\n[vilab] it was ended by SIGKILL; it starts again in 100 ms\nbegins\n"
        );
        bench.ok(&["restart", "lives"]);
        assert_eq!(service(&bench, "lives")["restarts"], 2);
        let running = bench.ok(&["exec", "a", "--", "pgrep", "-fc", "sleep 4711"]);
        assert_eq!(running.trim(), "1");
        bench.ok(&["down"]);
        bench.nothing_left();
        wait_for("the services to end", || !running_on_host("sleep 4711"));
    }
}

fn running_on_host(words: &str) -> bool {
    Command::new("pgrep").args(["-fx", words]).output().unwrap().status.success()
}

/// One that does not get ready is named with the end of what it printed, and nothing is left of the lab.
#[test]
fn a_service_that_does_not_become_ready_fails_the_lab() {
    for bench in benches() {
        let apps = "  - {at: a, name: broken, run: \"sh -c 'echo port 80 is taken; exit 7'\", \
                    restart: always, ready: {tcp: 80}}\n";
        let start = Instant::now();
        let up = bench.vilab(&["up", &lab(&bench, apps)]);
        let said = String::from_utf8_lossy(&up.stderr).into_owned();
        assert_eq!(up.status.code(), Some(1), "{said}");
        for words in ["`broken` on v/a", "exit status 7", "port 80 is taken"] {
            assert!(said.contains(words), "{said}");
        }
        assert!(start.elapsed() < Duration::from_secs(15), "given up before its time is over");
        bench.nothing_left();

        let missing = lab(&bench, "  - {at: a, run: no-such-program --at-all}\n");
        let up = bench.vilab(&["up", &missing]);
        let said = String::from_utf8_lossy(&up.stderr).into_owned();
        assert!(!up.status.success() && said.contains("cannot run no-such-program"), "{said}");
        bench.nothing_left();
    }
}

/// `up` waits for a port, a command and a text.
#[test]
fn services_are_ready_when_they_say() {
    for bench in benches() {
        let apps = "
  - {at: a, name: late, run: \"sh -c 'sleep 0.3; touch /run/late; exec sleep 4712'\", ready: {exec: test -e /run/late}}
  - {at: b, name: web, run: python3 -m http.server 8080, ready: {tcp: 8080}}
  - {at: b, name: says, run: \"sh -c 'sleep 0.2; echo now; exec sleep 4713'\", ready: {log: now}}
";
        bench.ok(&["up", &lab(&bench, apps)]);
        for name in ["late", "web", "says"] {
            let service = service(&bench, name);
            assert_eq!(
                (&service["state"], &service["restarts"]),
                (&"running".into(), &0.into()),
                "{service}"
            );
        }
        let page = bench.ok(&["exec", "a", "--", "curl", "-s", "http://b:8080/"]);
        assert!(page.contains("Directory listing"), "{page}");
    }
}

/// Output is followed until the lab goes, under the name of its service where there are several.
#[test]
fn logs_are_followed() {
    for bench in benches() {
        let apps = "
  - {at: a, name: ticks, run: \"sh -c 'while :; do echo tick; sleep 0.05; done'\"}
  - {at: b, name: other, run: \"sh -c 'echo only; exec sleep 4714'\"}
";
        bench.ok(&["up", &lab(&bench, apps)]);
        let mut follow =
            bench.command(&["logs", "-f", "-n", "0", "ticks"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
        for _ in 0..3 {
            assert_eq!(lines.next().unwrap().unwrap(), "tick");
        }
        wait_for("the other to print", || logs(&bench, "other").contains("only"));
        let all = bench.ok(&["logs"]);
        assert!(all.contains("ticks    | tick\n") && all.contains("other    | only\n"), "{all}");
        let last = bench.ok(&["logs", "-n", "1", "ticks"]);
        assert_eq!(last, "tick\n");
        let unknown = bench.vilab(&["logs", "nobody"]);
        assert_eq!(unknown.status.code(), Some(2));
        bench.ok(&["down"]);
        assert!(follow.wait().unwrap().success());
    }
}

/// E3: a node has its own run and log directory, host name and names file; two nodes do not meet in them, and
/// nothing of it appears on the host. What all that runs in one node sees is the same.
#[test]
fn nodes_have_private_files() {
    for bench in benches() {
        let run =
            "sh -c 'hostname > /run/vilab-private; echo kept > /var/log/vilab-private; exec sleep 4715'";
        let apps = format!(
            "  - {{at: a, name: a, run: \"{run}\", ready: {{exec: test -e /var/log/vilab-private}}}}\n  \
             - {{at: b, name: b, run: \"{run}\", ready: {{exec: test -e /var/log/vilab-private}}}}\n"
        );
        bench.ok(&["up", &lab(&bench, &apps)]);
        for node in ["a", "b"] {
            assert_eq!(bench.ok(&["exec", node, "cat", "/run/vilab-private"]), format!("{node}\n"));
            let hosts = bench.ok(&["exec", node, "cat", "/etc/hosts"]);
            assert!(hosts.contains("a.v") && !hosts.contains("X.base"), "{hosts}");
        }
        let elsewhere = bench.ok(&["exec", "X", "ls", "/run", "/var/log"]);
        assert!(!elsewhere.contains("vilab-private"), "{elsewhere}");
        for path in ["/run/vilab-private", "/var/log/vilab-private"] {
            assert!(!Path::new(path).exists(), "{path} on the host");
        }
        bench.ok(&["exec", "a", "sh", "-c", "echo more >> /var/log/vilab-private"]);
        assert_eq!(bench.ok(&["exec", "a", "cat", "/var/log/vilab-private"]), "kept\nmore\n");
        bench.ok(&["down"]);
        bench.nothing_left();
    }
}

/// C11, F2, I6, C9: on one base host three processes in three VIs and one on the base listen on the same port of all
/// addresses at once; each client sees its own VI's.
#[test]
fn three_vis_and_the_base_share_a_port_of_one_host() {
    for bench in benches() {
        let vi = |name: &str| {
            format!("  {name}:\n    nodes: {{{name}-s: X, {name}-c: Z}}\n    links: [{name}-s -- {name}-c]\n")
        };
        let vis: String = ["star", "ring", "two"].map(vi).concat();
        let serve = |node: &str| {
            let run = "python3 -c 'import http.server as h,os; os.chdir(os.environ[\\\"HERE\\\"]); \
                       h.test(h.SimpleHTTPRequestHandler, port=8080)'";
            let run = run.replace("os.environ[\\\"HERE\\\"]", &format!("\\\"{}\\\"", place(&bench, node)));
            format!("  - {{at: {node}, name: {node}, run: \"{run}\", ready: {{tcp: 8080}}}}\n")
        };
        let apps: String = ["star-s", "ring-s", "two-s", "X"].map(serve).concat();
        bench.ok(&["up", &bench.file("one", &format!("{LINE}vis:\n{vis}apps:\n{apps}"))]);
        let get = |from: &str, to: &str| {
            let url = format!("http://{to}:8080/who");
            bench.vilab(&["exec", from, "--", "curl", "-s", "-m", "2", &url])
        };
        for (from, to) in [("star-c", "star-s"), ("ring-c", "ring-s"), ("two-c", "two-s"), ("Z", "X")] {
            assert_eq!(get(from, to).stdout, to.as_bytes(), "{from} -> {to}");
        }
        // Nobody is reached from another VI, by name or by address.
        let address = bench.ok(&["exec", "star-s", "--", "hostname", "-i"]);
        for from in ["ring-c", "two-c", "Z"] {
            assert!(!get(from, "star-s").status.success(), "{from} by name");
            assert!(!get(from, address.trim()).status.success(), "{from} by address");
        }
    }
}

/// A directory with a page that says whose it is.
fn place(bench: &Bench, name: &str) -> String {
    let dir = bench.dir.path().join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("who"), name).unwrap();
    dir.to_string_lossy().into_owned()
}

/// Asks a node's name server over UDP, as programs do that read no names file; prints the code and the records.
const ASK: &str = "
import socket, struct, sys
name, kind = sys.argv[1], int(sys.argv[2])
labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.'))
query = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + b'\\0' + struct.pack('>HH', kind, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(query, ('127.0.0.53', 53))
r = s.recv(4096)
print(r[3] & 15, struct.unpack('>H', r[6:8])[0], '.'.join(map(str, r[-4:])))
";

/// Names: each network is a zone of its own, forwards and backwards, and there is nothing else.
#[test]
fn every_node_can_ask_for_the_names_of_its_network() {
    for bench in benches() {
        bench.ok(&["up", &lab(&bench, "  - {at: a, run: sleep 4718}\n")]);
        let ask = |at: &str, name: &str, kind: &str| {
            bench.ok(&["exec", at, "--", "python3", "-c", ASK, name, kind]).trim().to_owned()
        };
        let address = bench.ok(&["exec", "b", "--", "hostname", "-i"]).trim().to_owned();
        for name in ["b", "b.v", "B.V"] {
            assert_eq!(ask("a", name, "1"), format!("0 1 {address}"));
        }
        let reversed: Vec<&str> = address.rsplit('.').collect();
        let reversed = format!("{}.in-addr.arpa", reversed.join("."));
        assert!(ask("a", &reversed, "12").starts_with("0 1 "));
        assert!(ask("a", "X", "1").starts_with("3 0 ") && ask("a", "example.org", "1").starts_with("3 0 "));
        assert!(ask("X", "Z.base", "1").starts_with("0 1 ") && ask("X", "b.v", "1").starts_with("3 0 "));
        let resolver = bench.ok(&["exec", "a", "cat", "/etc/resolv.conf"]);
        assert_eq!(resolver, "nameserver 127.0.0.53\nsearch v\n");
    }
}

/// A program of the user's that answers names has its port: one that is ready before the lab's own asks for it keeps
/// it, alone; any that shares its UDP port, and any over TCP, starts at any time.
#[test]
fn a_name_server_of_the_users_has_its_port() {
    let Some(bench) = Bench::new() else { return };
    let own = "python3 -c 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); \
               s.bind((\\\"\\\", 53)); print(\\\"bound\\\", flush=True); \
               [s.sendto(m[:2] + bytes([0x80, 5]) + m[4:], f) for m, f in iter(lambda: s.recvfrom(512), 0)]'";
    let apps = format!("  - {{at: a, name: own, run: \"{own}\", restart: always, ready: {{log: bound}}}}\n");
    bench.ok(&["up", &lab(&bench, &apps)]);
    let ask = || bench.ok(&["exec", "a", "--", "python3", "-c", ASK, "b", "1"]);
    assert!(ask().starts_with("5 "), "the user's own refuses");
    bench.ok(&["restart", "own"]);
    assert!(ask().starts_with("5 "), "and again");
    let bind = |kind: &str, option: &str| {
        let program = format!(
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_{kind}); {option}; s.bind(('', 53)); \
             s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == 1 and s.listen()"
        );
        bench.vilab(&["exec", "b", "--", "python3", "-c", &program]).status.success()
    };
    let share = "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)";
    assert!(bind("DGRAM", share) && bind("STREAM", share) && bind("STREAM", "0"));
    assert!(!bind("DGRAM", "0"), "the port is the lab's where a program came too late and does not share it");
}

/// Many services start side by side: what 40 of them take is far from 40 times what one takes.
#[test]
fn forty_services_start_within_a_second() {
    let Some(bench) = Bench::new() else { return };
    let app = |i: usize| {
        format!("  - {{at: {}, name: s{i}, run: sleep 4716}}\n", if i.is_multiple_of(2) { "a" } else { "b" })
    };
    let apps: String = (0..40).map(app).collect();
    let up: Value = serde_json::from_str(&bench.ok(&["up", "--json", &lab(&bench, &apps)])).unwrap();
    let stage = up["timings"].as_array().unwrap().iter().find(|t| t["stage"] == "apps").unwrap();
    assert!(stage["ms"].as_f64().unwrap() < 1000.0, "{stage}");
    let status: Value = serde_json::from_str(&bench.ok(&["status", "one", "--json"])).unwrap();
    let running = status["services"].as_array().unwrap().iter().filter(|s| s["state"] == "running").count();
    assert!(running >= 40, "{running}");
}

/// While nothing happens, init does nothing: it is not even woken.
#[test]
fn an_idle_init_sleeps() {
    let Some(bench) = Bench::new() else { return };
    bench.ok(&["up", &lab(&bench, "  - {at: a, run: sleep 4717}\n")]);
    let (init, _) = bench.pids("one");
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    let before = switches();
    common::bench::pause(Duration::from_millis(1500));
    assert!(switches() - before <= 1, "woken {} times", switches() - before);
}

/// What a service prints stays within bounds.
#[test]
fn endless_output_is_kept_within_bounds() {
    let Some(bench) = Bench::new() else { return };
    let apps =
        "  - {at: a, name: noisy, run: \"sh -c 'head -c 20000000 /dev/zero | tr \\\\\\\\0 x; echo end'\"}\n";
    bench.ok(&["up", &lab(&bench, apps)]);
    wait_for("it to end", || service(&bench, "noisy")["state"] == "ended");
    let dir = bench.run_dir().join("one/logs");
    let sizes: u64 = fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(sizes <= 2 << 20, "{sizes}");
    assert!(logs(&bench, "noisy").ends_with("end\n[vilab] it ended with exit status 0\n"));
}
