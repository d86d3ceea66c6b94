//! A lab's life: it comes up, is entered, goes down; and whatever is killed whenever, nothing is left.
//!
//! Needs root or unprivileged user namespaces. Without, the tests say so and pass, unless `VILAB_REQUIRE` has
//! `netns` in it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::bench::{Bench, LINE, entries, network_namespaces, nobody_in, pause, wait_for};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// xorshift64: moments at random, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn up_exec_down() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let namespaces = bench.namespaces("one");
    assert!(namespaces.len() > 3 && !network_namespaces().is_disjoint(&namespaces));
    let ping = bench.ok(&["exec", "X", "ping", "-c1", "-W2", "Z"]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    assert_eq!(bench.ok(&["exec", "X", "--", "hostname"]), "X\n");
    assert_eq!(bench.ok(&["exec", "base/Y", "sh", "-c", "echo $VILAB_LAB $VILAB_NODE"]), "one base/Y\n");
    bench.ok(&["down"]);
    bench.nothing_left();
    nobody_in(&namespaces);
}

#[test]
fn a_lab_without_services_is_three_processes() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let (init, watcher) = bench.pids("one");
    let mut expected = vec![init, watcher, bench.process("lab-names", "one").unwrap()];
    expected.sort_unstable();
    let mut found = bench.processes();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn two_labs_with_the_same_addresses_side_by_side() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    bench.up("two");
    assert_eq!(bench.vilab(&["exec", "X", "true"]).status.code(), Some(2));
    for lab in ["one", "two"] {
        assert_eq!(bench.ok(&["exec", "-l", lab, "X", "sh", "-c", "echo $VILAB_LAB"]), format!("{lab}\n"));
        bench.ok(&["exec", "-l", lab, "X", "ping", "-c1", "-W2", "10.0.0.3"]);
    }
    bench.ok(&["down", "one"]);
    bench.ok(&["exec", "X", "ping", "-c1", "-W2", "Z"]);
    bench.ok(&["down", "--all"]);
    bench.nothing_left();
}

#[test]
fn a_name_that_is_up_is_refused_and_stays_up() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let again = bench.vilab(&["up", &bench.file("one", LINE)]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("vilab down one"));
    bench.ok(&["exec", "X", "true"]);
}

#[test]
fn what_the_command_says_is_what_exec_says() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let code = |args: &[&str]| bench.vilab(&[&["exec", "X"], args].concat()).status.code();
    assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["no-such-command"]), Some(127));
    assert_eq!(code(&["/etc"]), Some(126));
    let mut cat =
        bench.command(&["exec", "X", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through\n");
}

/// Starts a shell in a node that tells its own process id, as the lab sees it, and what signals it gets.
fn talker(bench: &Bench, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = bench
        .command(&["exec", "X", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, output)
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

#[test]
fn signals_reach_the_command() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let (mut child, mut output) = talker(&bench, script);
    send(pid_of(&child), Signal::SIGTERM);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!((line.as_str(), child.wait().unwrap().code()), ("got\n", Some(3)));
    let (mut child, _output) = talker(&bench, "echo ready; exec sleep 30");
    send(pid_of(&child), Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

#[test]
fn stopping_and_continuing_reach_both() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let (mut child, _output) = talker(&bench, "echo ready; exec sleep 30");
    let pid = pid_of(&child);
    let inner = children_of(pid)[0];
    send(pid, Signal::SIGTSTP);
    wait_for("both to stop", || state(pid) == Some('T') && state(inner) == Some('T'));
    send(pid, Signal::SIGCONT);
    wait_for("both to go on", || state(pid) == Some('S') && state(inner) == Some('S'));
    send(pid, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

fn children_of(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|p| p.parse().unwrap()).collect()
}

#[test]
fn a_killed_wrapper_takes_its_command_with_it() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    let (mut child, _output) = talker(&bench, "echo ready; exec sleep 30");
    let inner = children_of(pid_of(&child))[0];
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    wait_for("the command to end", || state(inner).is_none_or(|s| s == 'Z'));
}

#[test]
fn a_terminal_passes_through() {
    let Some(bench) = Bench::new() else { return };
    bench.up("one");
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no script(1)");
        return;
    }
    let vilab = env!("CARGO_BIN_EXE_vilab");
    let inside = format!("{vilab} exec X -- sh -c 'test -t 0 && test -t 1 && stty size && exit 5'");
    let output = Command::new("script")
        .args(["-qec", &inside, "/dev/null"])
        .env("VILAB_RUNTIME_DIR", bench.run_dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn killed_init_or_watcher_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    for victim in [0, 1] {
        bench.up("one");
        let namespaces = bench.namespaces("one");
        let (init, watcher) = bench.pids("one");
        send([init, watcher][victim], Signal::SIGKILL);
        bench.nothing_left();
        nobody_in(&namespaces);
    }
    bench.up("one");
    let (_, watcher) = bench.pids("one");
    send(watcher, Signal::SIGTERM);
    bench.nothing_left();
}

#[test]
fn up_killed_at_any_moment_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let file = bench.file("one", LINE);
    let start = Instant::now();
    bench.ok(&["up", &file]);
    let usual = u64::try_from(start.elapsed().as_micros()).unwrap();
    bench.ok(&["down"]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20 {
        let moment = Duration::from_micros(random.below(usual + usual / 4));
        let victim = random.below(3);
        let mut up =
            bench.command(&["up", &file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pause(moment);
        send(pid_of(&up), Signal::SIGSTOP);
        // Without a state, a stopped `up` has not committed: nothing else may end the lab for it. With one it may
        // have, and then the lab stays until it is taken down.
        let may_be_up = bench.run_dir().join("one/state.json").exists();
        let namespaces = bench.namespaces("one");
        strike(&bench, &mut up, victim);
        let _continued = kill(Pid::from_raw(pid_of(&up)), Signal::SIGCONT);
        let finished = up.wait().unwrap().success();
        if may_be_up || finished {
            bench.vilab(&["down"]);
        }
        bench.nothing_left();
        nobody_in(&namespaces);
    }
    bench.up("one");
    bench.ok(&["exec", "X", "ping", "-c1", "-W2", "Z"]);
}

/// SIGKILL to `up` itself, to the watcher or to init, if that is there yet.
fn strike(bench: &Bench, up: &mut Child, victim: u64) {
    let pid = match victim {
        0 => None,
        1 => bench.process("lab-watcher", "one"),
        _ => bench.process("lab-init", "one"),
    };
    match pid {
        Some(pid) => drop(kill(Pid::from_raw(pid), Signal::SIGKILL)),
        None => up.kill().unwrap(),
    }
}

#[test]
fn a_killed_engine_is_started_again() {
    let Some(bench) = Bench::new() else { return };
    let vis = "dataplane: fastpath\nvis:\n  v:\n    nodes: {a: X, b: Z}\n    links: [a -- b]\n";
    let file = bench.file("one", &format!("{LINE}{vis}"));
    bench.ok(&["up", &file]);
    for _ in 0..2 {
        send(bench.process("lab-engine", "one").unwrap(), Signal::SIGKILL);
        wait_for("the engine to forward again", || {
            bench.vilab(&["exec", "a", "ping", "-c1", "-W1", "b"]).status.success()
        });
    }
    bench.ok(&["down"]);
    bench.nothing_left();
}

#[test]
fn an_interrupted_up_leaves_nothing_and_says_so() {
    let Some(bench) = Bench::new() else { return };
    let vis = "vis:\n  v:\n    nodes: {a: X, b: Z}\n    links: [a -- b]\n";
    let file = bench.file("one", &format!("{LINE}{vis}"));
    let up = bench.command(&["up", &file]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the lab to begin", || !entries(&bench.run_dir()).is_empty());
    send(pid_of(&up), Signal::SIGINT);
    let output = up.wait_with_output().unwrap();
    if !output.status.success() {
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is left"));
        bench.nothing_left();
    }
}

#[test]
fn a_refused_operation_is_told_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let nodes = "base:\n  nodes: {X: {sysctls: {net.ipv4.no_such_key: '1'}}, Y: {}}\n  links: [X -- Y]\n";
    let output = bench.vilab(&["up", &bench.file("one", nodes)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("no_such_key") && said.contains("base/X"), "{said}");
    bench.nothing_left();
}

#[test]
fn directories_that_are_no_labs_are_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let other = bench.run_dir().join("photos");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("state.yaml"), "mine").unwrap();
    symlink(&other, bench.run_dir().join("linked")).unwrap();
    for args in [&["down", "photos"][..], &["down", "--all"], &["status"], &["down", "../run/photos"]] {
        bench.vilab(args);
    }
    assert_eq!(fs::read_to_string(other.join("state.yaml")).unwrap(), "mine");
}

#[test]
fn an_unprivileged_user_has_labs_too() {
    let Some(_bench) = Bench::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: every test of this run is unprivileged");
        return;
    }
    // Somebody's copy of the program, in a directory that somebody can read.
    let (uid, gid) = (54_321, 54_321);
    let home = tempfile::tempdir().unwrap();
    for path in [home.path().to_owned(), home.path().join("run")] {
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
    }
    let program = home.path().join("vilab");
    common::copy_program(&program);
    let file = home.path().join("lab.yaml");
    fs::write(&file, format!("name: mine\n{LINE}")).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).current_dir("/").uid(uid).gid(gid);
        command
            .env("XDG_RUNTIME_DIR", home.path().join("run"))
            .env_remove("VILAB_RUNTIME_DIR")
            .output()
            .unwrap()
    };
    let up = run(&["up", &file.to_string_lossy()]);
    let said = String::from_utf8_lossy(&up.stderr).into_owned();
    if up.status.code() == Some(4) && said.contains("user namespace") {
        eprintln!("SKIPPED: no user namespaces for unprivileged users here");
        return;
    }
    assert!(up.status.success(), "{said}");
    let ping = run(&["exec", "X", "ping", "-c1", "-W2", "Z"]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));
    assert_eq!(run(&["exec", "Y", "id", "-u"]).stdout, b"0\n");
    assert!(run(&["down"]).status.success());
    assert_eq!(entries(&home.path().join("run/vilab")), Vec::<String>::new());
}
