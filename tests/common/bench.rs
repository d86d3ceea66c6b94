//! A directory of lab files and state of one test, its labs, and what is left of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

/// The user and group that stand for those who are not root.
const NOBODY: u32 = 65_534;
pub const LINE: &str = "base:\n  links: [X -- Y -- Z]\n";
/// Whatever must happen happens within this; a failing test waits as long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of lab files and state of one test. No two tests see each other's labs.
#[derive(Debug)]
pub struct Bench {
    pub dir: tempfile::TempDir,
    /// Among the arguments of every process of a lab made here: they are found by it.
    mark: String,
    /// Network devices of the host.
    devices: BTreeSet<String>,
    /// Whose labs they are, if not ours, and the copy of the program that this user may run.
    user: Option<(u32, PathBuf)>,
}

impl Bench {
    /// `None`, and a word, where this machine cannot make namespaces.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().to_string_lossy().into_owned();
        Self::over(Self { dir, mark, devices: devices(), user: None })
    }

    /// A bench of an unprivileged user's; `None`, and a word, where that cannot be.
    pub fn unprivileged() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: every test of this run is unprivileged");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("vilab");
        super::copy_program(&program);
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mark = dir.path().to_string_lossy().into_owned();
        Self::over(Self { dir, mark, devices: devices(), user: Some((NOBODY, program)) })
    }

    fn over(mut bench: Self) -> Option<Self> {
        fs::create_dir(bench.run_dir()).unwrap();
        if let Some((uid, _)) = bench.user {
            std::os::unix::fs::chown(bench.run_dir(), Some(uid), Some(uid)).unwrap();
        }
        let able = bench.vilab(&["doctor", "--json"]).status.success();
        // The module of ipip, which this may have loaded, brings a device to the host.
        bench.devices = devices();
        if !able {
            let required = std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.contains("netns"));
            assert!(!required, "VILAB_REQUIRE asks for namespaces and there are none");
            eprintln!("SKIPPED: this machine makes no network namespaces for us");
        }
        able.then_some(bench)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn file(&self, name: &str, rest: &str) -> String {
        let path = self.dir.path().join(format!("{name}.yaml"));
        fs::write(&path, format!("name: {name}\n{rest}")).unwrap();
        path.to_string_lossy().into_owned()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.user {
            Some((uid, program)) => {
                let mut command = Command::new(program);
                command.uid(*uid).gid(*uid).current_dir("/");
                command
            }
            None => Command::new(env!("CARGO_BIN_EXE_vilab")),
        };
        command.args(args).env("VILAB_RUNTIME_DIR", self.run_dir()).env_remove("VILAB_LAB");
        command
    }

    pub fn vilab(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.vilab(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn up(&self, name: &str) {
        self.ok(&["up", &self.file(name, LINE)]);
    }

    /// Process ids of a lab's init and watcher.
    pub fn pids(&self, name: &str) -> (i32, i32) {
        (self.process("lab-init", name).unwrap(), self.process("lab-watcher", name).unwrap())
    }

    /// The network namespaces of a lab that has an init: those it is made of, and init's own once it has one.
    pub fn namespaces(&self, lab: &str) -> BTreeSet<String> {
        let Some(init) = self.process("lab-init", lab) else { return BTreeSet::new() };
        let own = fs::read_link(format!("/proc/{init}/ns/net")).map(|l| l.to_string_lossy().into_owned());
        let inside = self.run_dir().join(lab).join("ns");
        let inside =
            Path::new("/proc").join(init.to_string()).join("root").join(inside.strip_prefix("/").unwrap());
        let files = fs::read_dir(inside).into_iter().flatten().flatten();
        let host = fs::read_link("/proc/self/ns/net").map(|l| l.to_string_lossy().into_owned()).ok();
        own.into_iter()
            .filter(|own| Some(own) != host.as_ref())
            .chain(files.filter_map(|f| fs::metadata(f.path()).ok()).map(|m| format!("net:[{}]", m.ino())))
            .collect()
    }

    pub fn process(&self, subcommand: &str, lab: &str) -> Option<i32> {
        self.processes().into_iter().find(|pid| {
            let line = cmdline(*pid);
            line.contains(subcommand) && line.split(['\0', ' ', '/']).any(|word| word == lab)
        })
    }

    /// Processes started with this bench's directory among their arguments, zombies aside.
    pub fn processes(&self) -> Vec<i32> {
        numbers("/proc").filter(|pid| cmdline(*pid).contains(&self.mark)).collect()
    }

    /// Waits until no process of this bench's labs is left.
    pub fn gone(&self) {
        wait_for("the lab's processes to end", || self.processes().is_empty());
    }

    /// No process, no file, no mount, no device on the host. The lab's namespaces were held by its processes and by
    /// mounts in a namespace of theirs.
    pub fn nothing_left(&self) {
        self.gone();
        self.ok(&["status"]);
        assert_eq!(entries(&self.run_dir()), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&self.mark), "{mounts}");
        assert_eq!(devices(), self.devices);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _down = self.command(&["down", "--all"]).stderr(Stdio::null()).status();
    }
}

pub fn entries(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

pub fn numbers(dir: &str) -> impl Iterator<Item = i32> {
    fs::read_dir(dir).unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

pub fn cmdline(pid: i32) -> String {
    fs::read(format!("/proc/{pid}/cmdline"))
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default()
}

/// Waits for a condition without sleeping: a pipe nobody writes to times out.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "gave up waiting for {what}");
        pause(Duration::from_millis(2));
    }
}

pub fn pause(time: Duration) {
    let (reader, _writer) = std::os::unix::net::UnixStream::pair().unwrap();
    reader.set_read_timeout(Some(time)).unwrap();
    let _timeout = std::io::Read::read(&mut &reader, &mut [0]);
}

/// The TCP segments to a port that come to the namespace it is made in, those that come again too.
pub struct Arrivals {
    socket: OwnedFd,
    port: u16,
}

impl Arrivals {
    pub fn open(port: u16) -> Self {
        let socket = vilab::sys::socket::raw(6).unwrap();
        vilab::sys::socket::set_buffers(socket.as_fd(), 64 << 20).unwrap();
        Self { socket, port }
    }

    /// The bytes they bring, until `end` and nothing more comes.
    pub fn bytes(&self, end: &AtomicBool) -> u64 {
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0;
        loop {
            let over = end.load(Ordering::Relaxed);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(300u16)).unwrap() == 0 && over {
                assert_eq!(vilab::sys::socket::overruns(self.socket.as_fd()).unwrap(), 0, "all is counted");
                return bytes;
            }
            while let Ok(len) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                let (ip, tcp) = buffer[..len].split_at(usize::from(buffer[0] & 0xf) * 4);
                if tcp[2..4] == self.port.to_be_bytes() {
                    bytes += (len - ip.len() - usize::from(tcp[12] >> 4) * 4) as u64;
                }
            }
        }
    }
}

/// The bytes that the connection to a port has sent in this namespace, those sent again too, once all are acknowledged.
pub fn acknowledged(port: u16) -> u64 {
    let mut sent = None;
    wait_for("all bytes are acknowledged", || {
        let filter = format!("dport = :{port}");
        let line = super::run(Command::new("ss").args(["-tinHO", "state", "established", &filter]));
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = words.iter().find_map(|word| word.strip_prefix("bytes_sent:"));
        sent = count.map(|count| count.parse().unwrap());
        // RECV-Q SEND-Q
        words.get(1) == Some(&"0")
    });
    sent.unwrap()
}

/// What each node of a lab has dropped, by device and by what is above it, and how many packets each processor had no room
/// for: for whoever looks into a loss.
pub fn dropped(namespaces: &vilab::lab::Namespaces) -> String {
    let mut found = String::new();
    let mut names: Vec<_> = fs::read_dir(namespaces.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names.iter().map(|name| name.to_string_lossy()) {
        let text =
            namespaces.run(&name, || fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
        for (dev, counters) in text.lines().filter_map(|line| line.split_once(':')) {
            let counters: Vec<&str> = counters.split_whitespace().collect();
            // Errors and drops: received, then sent.
            let bad = [2, 3, 10, 11].map(|i| counters[i]);
            if bad != ["0"; 4] {
                writeln!(found, "{name} {}: rx {} {}, tx {} {}", dev.trim(), bad[0], bad[1], bad[2], bad[3])
                    .unwrap();
            }
        }
        for line in namespaces.run(&name, dropped_above_devices).unwrap() {
            writeln!(found, "{name} {line}").unwrap();
        }
    }
    let processors = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    for row in processors.lines() {
        writeln!(found, "backlog full: {}", row.split_whitespace().nth(1).unwrap()).unwrap();
    }
    found
}

/// What protocols, security and nftables count of what they drop in the current namespace, where it is not 0.
fn dropped_above_devices() -> Vec<String> {
    const BAD: [&str; 7] = ["Error", "Discard", "NoRoute", "NoPort", "Fail", "ReversePath", "DestUnreach"];
    let mut told = Vec::new();
    for file in ["snmp", "netstat", "xfrm_stat"] {
        let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{file}")) else { continue };
        let lines: Vec<&str> = text.lines().collect();
        let pairs: Vec<(&str, &str)> = match file {
            "xfrm_stat" => lines.iter().filter_map(|line| line.split_once(char::is_whitespace)).collect(),
            _ => lines
                .chunks(2)
                .flat_map(|two| two[0].split_whitespace().zip(two[1].split_whitespace()).skip(1))
                .collect(),
        };
        for (name, count) in pairs {
            let bad = file == "xfrm_stat" || BAD.iter().any(|word| name.contains(word));
            if bad && count.trim() != "0" {
                told.push(format!("{file} {name}: {}", count.trim()));
            }
        }
    }
    let counters = Command::new("nft").args(["list", "counters"]).output().unwrap();
    let counters = String::from_utf8_lossy(&counters.stdout).replace("{\n", "");
    told.extend(
        counters
            .lines()
            .filter(|l| l.contains("packets") && !l.contains("packets 0"))
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")),
    );
    told
}

/// The network namespaces that processes are in.
pub fn network_namespaces() -> BTreeSet<String> {
    numbers("/proc")
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

/// Waits until no process is in one of these. The kernel gives the number of a namespace that has ended to the next
/// one, so another test's lab may have it for a moment.
pub fn nobody_in(namespaces: &BTreeSet<String>) {
    wait_for("the namespaces to end", || network_namespaces().is_disjoint(namespaces));
}

pub fn devices() -> BTreeSet<String> {
    entries(Path::new("/sys/class/net")).into_iter().collect()
}
