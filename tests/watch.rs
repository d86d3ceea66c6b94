//! `vilab watch`: in a pipe a table or an object for each interval; on a terminal, which is left as it was, a screen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use serde_json::Value;

use common::bench::{pause, wait_for};

const LAB: &str = "
name: l
base: {links: [{link: X -- Y, delay: 1ms}, Y -- Z]}
vis:
  vi: {nodes: {a: X, b: {at: Y, role: router}, c: Z}, links: [a -- b -- c]}
apps:
  - {name: flood, at: vi/a, run: [ping, -q, -i, '0.02', -s, '1000', c]}
";

fn watch(name: &str, options: &[&str]) -> Command {
    let mut command = common::vilab();
    command.args(["watch", name]).args(options).stdin(Stdio::null());
    command
}

#[test]
fn a_pipe_gets_objects_and_tables() {
    for dataplane in common::dataplanes() {
        let name = "watch-pipe";
        let _up = common::Up::new(name, LAB, dataplane);
        let text = common::run(&mut watch(name, &["--json", "--count", "2", "--interval", "500ms"]));
        let views: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(views.len(), 2);
        assert!(views[0]["time"].as_str() < views[1]["time"].as_str());
        for view in &views {
            assert_eq!((&view["schema"], &view["lab"]), (&"vilab.watch/1".into(), &name.into()));
            let passed = view["interval_ms"].as_u64().unwrap();
            assert!((450..5000).contains(&passed), "{passed}");
            for link in ["base/X--Y", "vi/a--b", "vi/b--c"] {
                let row = link_row(view, link);
                assert_eq!(row["state"], "up", "{row}");
                for direction in row["directions"].as_array().unwrap() {
                    // The fast path forwards past the devices of a router, which is b here.
                    let by = |end: &str| !(dataplane == "fastpath" && direction[end] == "vi/b");
                    for (flow, is_counted) in [("sent", by("from")), ("received", by("to"))] {
                        let flow = &direction[flow];
                        assert_eq!(flow.is_object(), is_counted, "{link}: {direction}");
                        // 50 packets a second, of which a busy machine may send fewer.
                        let (packets, bits) = (flow["packets_per_s"].as_u64(), flow["bits_per_s"].as_u64());
                        let plausible =
                            packets.zip(bits).is_some_and(|(p, b)| (5..500).contains(&p) && b > p * 6000);
                        assert!(plausible || !is_counted, "{link}: {direction}");
                    }
                }
            }
            assert_eq!(link_row(view, "base/X--Y")["directions"][0]["asked"]["delay_us"], 1000);
            assert!(link_row(view, "base/X--Y")["directions"][0]["measured"]["sent"].as_u64() > Some(0));
            assert_eq!(view["networks"][1]["converged"], true);
            assert!(view["services"].as_array().unwrap().iter().any(|s| s["service"] == "flood"));
            if dataplane == "fastpath" {
                assert!(view["engine"]["cpu_percent"].as_u64() < Some(200), "{}", view["engine"]);
            }
        }
        common::run(common::vilab().args(["link", "down", "-l", name, "vi/b--c"]));
        let text = common::run(&mut watch(name, &["--json", "--count", "1", "--interval", "100ms"]));
        let view: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&link_row(&view, "vi/b--c")["state"], &view["down"][0]),
            (&"down".into(), &"link vi/b--c".into())
        );

        let text = common::run(&mut watch(name, &["--count", "2", "--interval", "100ms"]));
        assert_eq!(text.matches("lab watch-pipe").count(), 2, "{text}");
        assert_eq!(
            text.lines().filter(|l| l.starts_with("vi/b--c  ") && l.contains("down")).count(),
            2,
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "no escape sequences in a pipe");
    }
}

fn link_row<'a>(view: &'a Value, link: &str) -> &'a Value {
    view["links"].as_array().unwrap().iter().find(|l| l["link"] == link).unwrap()
}

#[test]
fn it_ends_with_its_reader_and_with_its_lab() {
    if !common::can("netns") {
        return;
    }
    let name = "watch-end";
    let up = common::Up::new(name, LAB, "fastpath");
    let mut unread = watch(name, &["--json"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(unread.stdout.take());
    wait_for("it to notice that nobody reads", || unread.try_wait().unwrap().is_some());
    let mut child =
        watch(name, &["--interval", "1h"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    common::run(common::vilab().args(["down", name]));
    up.has_ended();
    wait_for("it to end with the lab", || child.try_wait().unwrap().is_some());
}

/// `vilab watch` on a terminal of its own.
struct OnTerminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    before: Termios,
    shown: JoinHandle<String>,
}

impl OnTerminal {
    fn start(name: &str) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = common::vilab();
        command.args(["watch", name, "--interval", "100ms"]).env("TERM", "xterm");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop(command);
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let shown = std::thread::spawn(move || {
            let (mut text, mut piece) = (Vec::new(), [0; 4096]);
            // EIO: nobody has the other end any more.
            while let Ok(n) = reader.read(&mut piece) {
                text.extend_from_slice(&piece[..n]);
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, master, slave, before, shown }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Its exit status and all that it has shown, once the terminal is found as it was.
    fn ended(mut self) -> (Option<i32>, String) {
        wait_for("it to end", || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        assert_eq!(tcgetattr(self.slave.as_fd()).unwrap(), self.before, "the terminal is as it was");
        drop(self.slave);
        drop(self.master);
        (code, self.shown.join().unwrap())
    }
}

#[test]
fn a_terminal_shows_a_screen_and_is_left_as_it_was() {
    if !common::can("netns") {
        return;
    }
    let name = "watch-terminal";
    let up = common::Up::new(name, LAB, "fastpath");
    for end in ["q", "TERM", "down"] {
        let mut terminal = OnTerminal::start(name);
        wait_for("the screen", || terminal.is_raw());
        pause(std::time::Duration::from_millis(600));
        let code = match end {
            "q" => {
                terminal.master.write_all(b"\t/vi\rsjp").unwrap();
                terminal.master.write_all(b"q").unwrap();
                0
            }
            "TERM" => {
                kill(Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()), Signal::SIGTERM).unwrap();
                143
            }
            _ => {
                common::run(common::vilab().args(["down", name]));
                0
            }
        };
        let (found, shown) = terminal.ended();
        assert_eq!(found, Some(code), "{end}: {shown}");
        for (what, sequence) in [
            ("other screen", "\u{1b}[?1049h"),
            ("the usual one again", "\u{1b}[?1049l"),
            ("cursor", "\u{1b}[?25h"),
        ] {
            assert!(shown.contains(sequence), "{end}: {what}: {shown:?}");
        }
        assert!(shown.contains("watch-terminal") && shown.contains("vi/a--b"), "{end}: {shown:?}");
    }
    up.has_ended();
}
