//! `vilab::testing`: labs in integration tests. They work, they disturb each other by nothing, and nothing is left of them
//! however the test ends.
//!
//! Tests whose name begins with `part_` are parts of others, which run them in a process of their own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::bench::{cmdline, numbers, wait_for};
use vilab::error::Kind;
use vilab::lab::Running;
use vilab::model::{DataplaneChoice, Impairment};
use vilab::testing::{Builder, Lab, use_program};

const LAB: &str = "
name: library
params: {delay: 0ms}
base: {links: [X -- Y -- Z]}
vis:
  blue:
    nodes: {a: X, b: {at: Y, role: router}, c: Z}
    links: [{link: a -- b, delay: '${delay}'}, b -- c]
tests:
  - ping: blue/a -> blue/c
  - ttl: {from: a, to: c, is: 63}
";

/// Tells a part that it is one.
const PART: &str = "VILAB_LIBRARY_PART";

fn builder(dataplane: &str) -> Builder {
    let choice = if dataplane == "kernel" { DataplaneChoice::Kernel } else { DataplaneChoice::Fastpath };
    if std::env::var_os(PART).is_none() {
        use_program(env!("CARGO_BIN_EXE_vilab")).unwrap();
    }
    Builder::text(LAB).dataplane(choice)
}

/// Nothing that knows the lab's name runs, and nothing is known of it.
fn nothing_left(name: &str) {
    let runs = |pid: i32| cmdline(pid).split(['\0', ' ', '/']).any(|word| word == name);
    wait_for("the lab's processes to end", || !numbers("/proc").any(runs));
    assert_eq!(Running::open(name).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn commands_closures_and_sockets_are_in_their_nodes() {
    for dataplane in common::dataplanes() {
        let lab = builder(dataplane).up().unwrap();
        let (a, c) = (lab.node("blue/a").unwrap(), lab.node("c").unwrap());
        let ping = a.command("ping").args(["-c1", "-W2", "c"]).output().unwrap();
        assert!(ping.status.success(), "{ping:?}");
        let mut shell = c.command("sh");
        shell.args(["-c", "cat; echo $VILAB_NODE $WORD; hostname; exit 7"]).env("WORD", "w");
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"in\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "in\nblue/c w\nc\n");
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(c.command("sh").args(["-c", "kill -9 $$"]).status().unwrap().code(), Some(137));
        assert_eq!(c.command("no-such-command").stderr(Stdio::null()).status().unwrap().code(), Some(127));

        // Names are the node's, and a socket stays in the node in which it was made.
        let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let listener = c.run(|| std::net::TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
        let resolved =
            a.run(|| ("c", 8080).to_socket_addrs().map(Iterator::collect::<Vec<_>>)).unwrap().unwrap();
        assert_eq!(resolved, [(c.address().unwrap(), 8080).into()]);
        let mut client = a.tcp_connect(resolved[0]).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), a.address().unwrap());
        client.write_all(b"through").unwrap();
        let mut word = [0; 7];
        server.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"through");
        assert_eq!(
            fs::read_link("/proc/thread-self/ns/net").unwrap(),
            here,
            "this thread stayed where it was"
        );
        assert!(c.tcp_listener(8080).unwrap_err().to_string().contains("blue/c"), "the port is taken");

        let (one, two) = (a.udp_socket(0).unwrap(), c.udp_socket(5000).unwrap());
        two.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        one.send_to(b"d", (c.address().unwrap(), 5000)).unwrap();
        assert_eq!(two.recv_from(&mut word).unwrap().1.ip(), a.address().unwrap());

        assert_eq!(lab.test().unwrap().len(), 2);
    }
}

#[test]
fn links_and_nodes_go_down_and_come_back_and_are_impaired() {
    for dataplane in common::dataplanes() {
        let lab = builder(dataplane).param("delay", "2ms").up().unwrap();
        let (a, c) = (lab.node("a").unwrap(), lab.node("c").unwrap());
        let _listener = c.tcp_listener(80).unwrap();
        let to = (c.address().unwrap(), 80);
        let reaches = || a.tcp_connect_within(to, Duration::from_millis(700)).is_ok();
        assert!(reaches());
        let link = lab.link("c -- b").unwrap();
        link.down().unwrap();
        wait_for("the link to be cut", || !reaches());
        link.up().unwrap();
        lab.wait(Duration::from_secs(20)).unwrap();
        assert!(reaches(), "and whole again");
        let node = lab.node("b").unwrap();
        node.down().unwrap();
        wait_for("the node to be down", || !reaches());
        node.up().unwrap();
        lab.wait(Duration::from_secs(20)).unwrap();
        assert!(reaches());

        // Forward is as written here, from c to b, which the file has the other way round.
        let slow = Impairment { delay_us: 40_000, ..Impairment::default() };
        let [forward, backward] = link.impair_each(slow, Impairment::default()).unwrap();
        let delay = |m: Option<vilab::model::Measured>| m.unwrap().delay_us.unwrap();
        assert!((40_000..200_000).contains(&delay(forward)), "{forward:?}");
        assert!(delay(backward) < 40_000, "{backward:?}");
        link.clear().unwrap();

        let trace = lab.trace("a", "c").unwrap();
        assert!(trace.arrived && trace.is_as_computed(), "{trace:?}");
        let words: Vec<&str> =
            trace.hops[0].captured.as_ref().unwrap().headers.iter().map(|h| h.words.as_str()).collect();
        assert_eq!(words, ["base X -> Y", "link a -> b", "net a -> c"]);
    }
}

#[test]
fn what_is_wrong_is_said_with_what_helps() {
    if !common::can("netns") {
        return;
    }
    let lab = builder("fastpath").up().unwrap();
    let error = lab.node("blue/cc").unwrap_err();
    assert!(error.to_string().contains("did you mean blue/c"), "{error}");
    let error = lab.link("a -- q").unwrap_err();
    assert!(error.to_string().contains("blue/a--b"), "{error}");
    lab.node("b").unwrap().down().unwrap();
    let error = lab.test().unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.to_string().contains("2 of 2 tests of lab"), "{error}");

    let error =
        Lab::from_text("name: wrong\nbase: {links: [X -- Y]}\nvis: {v: {nodes: {a: Q}}}\n").unwrap_err();
    assert_eq!(error.kind(), Kind::LabFile);
    let shown = format!("{error:?}");
    assert!(shown.contains("lab.yaml:3") && shown.contains("`Q`"), "{shown}");
    assert_eq!(Lab::up("no/such/file.yaml").unwrap_err().kind(), Kind::LabFile);
}

#[test]
fn equal_labs_run_side_by_side_and_end_with_their_values() {
    if !common::can("netns") {
        return;
    }
    let names: Vec<String> = std::thread::scope(|scope| {
        let one = || {
            let lab = builder("fastpath").up().unwrap();
            let ping = lab.node("a").unwrap().command("ping").args(["-c1", "-W2", "c"]).output().unwrap();
            assert!(ping.status.success(), "{ping:?}");
            lab.name().to_owned()
        };
        let threads = [0, 1, 2].map(|_| scope.spawn(one));
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    names.iter().for_each(|name| nothing_left(name));
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn a_panic_takes_the_lab_down() {
    if !common::can("netns") {
        return;
    }
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let lab = builder("fastpath").up().unwrap();
        tell.send(lab.name().to_owned()).unwrap();
        lab.node("a").unwrap().run(|| panic!("in the node")).unwrap();
    });
    assert!(thread.join().is_err());
    nothing_left(&told.recv().unwrap());
}

#[test]
fn a_lab_that_is_kept_stays_until_it_is_taken_down() {
    if !common::can("netns") {
        return;
    }
    let name = builder("fastpath").up().unwrap().keep().unwrap();
    Running::open(&name).unwrap();
    common::run(common::vilab().args(["down", &name]));
    nothing_left(&name);
}

/// This test program again, running one of its parts.
fn part(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]).env(PART, "1");
    command.env("VILAB_PROGRAM", env!("CARGO_BIN_EXE_vilab")).stdin(Stdio::piped());
    command
}

/// What stands behind this word in what a part prints.
fn word_behind(output: &mut impl BufRead, word: &str) -> String {
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "no {word}");
    }
    line.split_once(word).unwrap().1.trim().to_owned()
}

#[test]
fn a_killed_process_leaves_nothing() {
    if !common::can("netns") {
        return;
    }
    let this = std::env::current_exe().unwrap();
    let mut child = part(&this, "part_hold").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let name = word_behind(&mut output, "holding ");
    Running::open(&name).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_left(&name);
}

#[test]
#[ignore = "a part of another test"]
fn part_hold() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let lab = builder("fastpath").up().unwrap();
    // Something to end that would go on by itself.
    let mut sleeper = lab.node("a").unwrap().command("sleep").arg("1000").spawn().unwrap();
    println!("holding {}", lab.name());
    let _end = std::io::stdin().read(&mut [0]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn another_program_is_refused() {
    let this = std::env::current_exe().unwrap();
    let output = part(&this, "part_refused").env("VILAB_PROGRAM", "/bin/true").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "a part of another test"]
fn part_refused() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let error = builder("fastpath").up().unwrap_err();
    assert_eq!(error.kind(), Kind::Environment);
    let words = error.to_string();
    assert!(words.contains("/bin/true is no vilab") && words.contains("cargo install vilab"), "{words}");
}

#[test]
fn without_root_all_but_closures_works() {
    if !common::can("netns") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: every test of this run is unprivileged");
        return;
    }
    let (uid, dir) = (65_534, tempfile::tempdir().unwrap());
    let (program, this) = (dir.path().join("vilab"), dir.path().join("library"));
    common::copy_program(&program);
    common::run(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&this));
    for path in [dir.path().to_owned(), dir.path().join("run")] {
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
    }
    let mut command = part(&this, "part_without_root");
    command.uid(uid).gid(uid).current_dir("/").env("VILAB_PROGRAM", &program);
    let output = command.env("VILAB_RUNTIME_DIR", dir.path().join("run")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0, "nothing is left");
}

#[test]
#[ignore = "a part of another test"]
fn part_without_root() {
    if std::env::var_os(PART).is_none() {
        return;
    }
    let lab = match builder("fastpath").up() {
        Err(e) if e.to_string().contains("user namespace") => {
            println!("SKIPPED: no user namespaces for unprivileged users here");
            return;
        }
        other => other.unwrap(),
    };
    let (a, c) = (lab.node("a").unwrap(), lab.node("c").unwrap());
    assert_eq!(a.command("id").arg("-u").output().unwrap().stdout, b"0\n", "root of the lab");
    let listener = c.tcp_listener(80).unwrap();
    let mut client: TcpStream = a.tcp_connect((c.address().unwrap(), 80)).unwrap();
    let (mut server, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), a.address().unwrap());
    client.write_all(b"word").unwrap();
    let mut word = [0; 4];
    server.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"word");
    let error = c.tcp_listener(80).unwrap_err();
    assert!(error.to_string().contains("cannot listen at 0.0.0.0:80 in blue/c"), "{error}");
    lab.link("a -- b").unwrap().down().unwrap();
    let to = (c.address().unwrap(), 80);
    wait_for("the link to be cut", || a.tcp_connect_within(to, Duration::from_millis(500)).is_err());
    lab.link("a -- b").unwrap().up().unwrap();
    lab.wait(Duration::from_secs(20)).unwrap();
    lab.test().unwrap();
    let error = a.run(|| ()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("tcp_listener"), "{error}");
}

#[test]
fn labs_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Lab>();
    shared::<vilab::Error>();
}
