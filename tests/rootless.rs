//! Everything that vilab does, done by users without any privilege: labs of each kind, two users at once under equal names,
//! each command once, and afterwards nothing left. Where they may not, the error and `vilab doctor` name what keeps them.
//!
//! The users are plain numbers: nothing of the machine is changed for them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic; a skip must be seen")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::bench::{cmdline, devices, entries, numbers, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const ALICE: u32 = 64_001;
const BOB: u32 = 64_002;
/// As users have it whom nobody has given the programs of the system.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One of each kind: several networks at once, apps, strong hosts, both recursions, revisitation, ESP, gateways, impairments,
/// fragments, a router in a router, and a protocol of FRR.
const LABS: [&str; 10] = [
    "figure-02-users-view",
    "figure-06-strong-weak",
    "figure-08-recursion",
    "figure-11-revisitation",
    "security",
    "gateway",
    "impaired",
    "fragments",
    "recursion-in-recursion",
    "ospf",
];

/// What a lab of commands needs: a service, a VI on the base, a test that fails.
const LAB: &str = "name: own
base:
  links: [X -- Y -- Z]
vis:
  blue:
    nodes: {a: X, b: {at: Y, role: router}, c: Z}
    links: [a -- b -- c]
apps:
  - {at: blue/a, name: clock, run: [sh, -c, 'echo begun; exec sleep 1000']}
tests:
  - ping: blue/a -> blue/c
  - ttl: {from: a, to: c, is: 62}
";

/// Somebody without privilege, with a directory of theirs.
struct User {
    uid: u32,
    home: tempfile::TempDir,
}

impl User {
    /// `None`, and a word, where this cannot be tried.
    fn new(uid: u32) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: only root can become others");
            return None;
        }
        if !common::can("netns") {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        common::copy_program(&home.path().join("vilab"));
        for dir in ["run", "labs", "tmp"] {
            fs::create_dir(home.path().join(dir)).unwrap();
        }
        let labs = |from: &str, to: &Path| {
            let copied = Command::new("cp").args(["-r", from]).arg(to).status().unwrap();
            assert!(copied.success());
        };
        labs("labs/.", &home.path().join("labs"));
        let owned = Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(home.path()).status();
        assert!(owned.unwrap().success());
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(home.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let user = Self { uid, home };
        let doctor = user.vilab(&["doctor"]);
        if !doctor.status.success() {
            let required = std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.contains("netns"));
            assert!(!required, "{}", said(&doctor));
            println!("SKIPPED: users may make no namespaces here: {}", said(&doctor));
            return None;
        }
        Some(user)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// A file of theirs.
    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        chown(self.path(name), Some(self.uid), Some(self.uid)).unwrap();
        self.text(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("vilab"));
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"));
        command.uid(self.uid).gid(self.uid).current_dir(self.home.path()).args(args).stdin(Stdio::null());
        command
    }

    fn vilab(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Both outputs of a command that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.vilab(args);
        assert!(output.status.success(), "{args:?}: {}: {}", output.status, said(&output));
        said(&output)
    }

    /// Both outputs of a command that ends with this status.
    fn ends(&self, args: &[&str], status: i32) -> String {
        let output = self.vilab(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", said(&output));
        said(&output)
    }

    /// No process, no file of a lab's, no mount, no device.
    fn nothing_left(&self, devices_before: &BTreeSet<String>) {
        let mark = self.home.path().to_string_lossy().into_owned();
        wait_for("the labs to end", || numbers("/proc").all(|pid| !cmdline(pid).contains(&mark)));
        assert_eq!(entries(&self.path("run").join("vilab")), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&mark), "{mounts}");
        assert_eq!(&devices(), devices_before);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _down = self.command(&["down", "--all"]).stderr(Stdio::null()).status();
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat()
}

/// All labs, where the environment variable `VILAB_ROOTLESS_ALL` is set.
fn labs(user: &User) -> Vec<String> {
    if std::env::var_os("VILAB_ROOTLESS_ALL").is_none() {
        let can_route = common::can("frr");
        let kept = LABS.iter().filter(|lab| can_route || !matches!(**lab, "ospf" | "figure-08-recursion"));
        return kept.map(|lab| user.text(&format!("labs/{lab}.yaml"))).collect();
    }
    let all = entries(&user.path("labs"));
    all.iter().filter(|name| name.ends_with(".yaml")).map(|name| user.text(&format!("labs/{name}"))).collect()
}

#[test]
fn labs_of_every_kind_pass_without_privilege() {
    let Some(alice) = User::new(ALICE) else { return };
    let before = devices();
    let files = labs(&alice);
    let arguments: Vec<&str> = ["test"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let told = alice.ok(&arguments);
    assert!(told.contains(&format!("of {} labs passed", files.len())), "{told}");
    alice.nothing_left(&before);
}

/// Labs of equal names, each user's own, at the same time; neither sees or can touch the other's.
#[test]
fn two_users_at_once_have_labs_of_equal_names() {
    let (Some(alice), Some(bob)) = (User::new(ALICE), User::new(BOB)) else { return };
    let before = devices();
    let users = [&alice, &bob];
    let coming = users.map(|user| user.command(&["up", &user.file("own.yaml", LAB)]).spawn().unwrap());
    for mut up in coming {
        assert!(up.wait().unwrap().success());
    }
    for user in users {
        user.ok(&["exec", "blue/a", "ping", "-c1", "-W5", "c"]);
        user.ok(&["trace", "blue/a", "c"]);
    }
    let inits = users.map(|user| {
        let mark = user.text("run");
        numbers("/proc")
            .find(|pid| cmdline(*pid).contains("lab-init") && cmdline(*pid).contains(&mark))
            .unwrap()
    });
    let entered = |user: &User, init: i32| {
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["-t", &init.to_string(), "-U", "-n", "--preserve-credentials", "true"])
            .uid(user.uid)
            .gid(user.uid);
        nsenter.stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(entered(&alice, inits[0]) && !entered(&alice, inits[1]) && !entered(&bob, inits[0]));
    alice.ok(&["down"]);
    bob.ok(&["exec", "blue/a", "ping", "-c1", "-W5", "c"]);
    bob.ok(&["down", "own"]);
    users.iter().for_each(|user| user.nothing_left(&before));
}

/// A command that goes on until it is told to end.
struct Going {
    child: Child,
}

impl Going {
    fn start(user: &User, args: &[&str]) -> Self {
        let child = user.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child }
    }

    /// Reads what it prints until a line has these words.
    fn says(&mut self, words: &str) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let found = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains(words));
        assert!(found, "it never says {words}");
    }

    fn interrupt(mut self) -> bool {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap().success()
    }
}

#[test]
fn each_command_works_without_privilege() {
    let Some(alice) = User::new(ALICE) else { return };
    let before = devices();
    let file = alice.file("own.yaml", LAB);
    without_a_lab(&alice, &file);
    let capture = alice.text("up.pcapng");
    alice.ok(&["up", "--capture", &capture, &file]);
    look(&alice);
    observe(&alice);
    change(&alice);
    services(&alice);
    // The one test that fails leaves a bundle, under the names of their own.
    let bundle = alice.text("failed");
    let told = alice.ends(&["test", "--bundle", &bundle, &file], 1);
    assert!(told.contains("1 of 2 tests of 1 lab passed"), "{told}");
    assert!(fs::metadata(alice.path("failed/own/trace.txt")).is_ok_and(|m| m.len() > 0), "{told}");
    alice.ok(&["down"]);
    assert!(fs::metadata(&capture).is_ok_and(|m| m.len() > 1000), "what `up` captured");
    alice.nothing_left(&before);
}

fn without_a_lab(user: &User, file: &str) {
    user.ok(&["check", file]);
    assert!(user.ok(&["plan", file]).contains("ip netns"));
    assert!(user.ok(&["expand", file]).contains("blue"));
    user.ok(&["graph", file, "-o", &user.text("own.svg")]);
    assert!(user.ok(&["doctor"]).contains("in a user namespace, without privilege"));
    assert!(user.ends(&["status", "own"], 2).contains("no lab called own is up"));
}

fn look(user: &User) {
    assert!(user.ok(&["status"]).contains("blue"));
    assert!(user.ok(&["rules"]).contains("yes"));
    assert!(user.ok(&["resolve", "blue/a", "c"]).contains("arrived"));
    assert!(user.ok(&["trace", "blue/a", "c"]).contains("all is as computed"));
    assert!(user.ok(&["wait"]).contains("has converged"));
    assert!(user.ok(&["exec", "blue/a", "id", "-u"]).contains('0'));
    assert!(user.ok(&["exec", "blue/a", "sh", "-c", "echo $PATH"]).contains("/usr/sbin:/sbin"));
    let mut shell = user.command(&["shell", "blue/a"]);
    let mut shell =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"ping -c1 -W5 c\nexit 7\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    assert!(said(&output).contains(" 0% packet loss"), "{}", said(&output));
}

/// What hears packets and changes: captures, events, live traffic.
fn observe(user: &User) {
    let mut ping =
        user.command(&["exec", "blue/a", "ping", "-i0.1", "c"]).stdout(Stdio::null()).spawn().unwrap();
    let file = user.text("some.pcapng");
    user.ok(&["capture", "-o", &file, "--filter", "icmp", "--count", "4", "blue/a"]);
    assert!(fs::metadata(&file).is_ok_and(|m| m.len() > 300));
    assert!(user.ok(&["trace", "--live", "blue/a", "c"]).contains("all is as computed"));
    ping.kill().unwrap();
    ping.wait().unwrap();
    let mut events = Going::start(user, &["events"]);
    events.says("\"type\"");
    user.ok(&["link", "down", "X", "--", "Y"]);
    events.says("X--Y");
    user.ok(&["link", "up", "X", "--", "Y"]);
    assert!(events.interrupt());
}

fn change(user: &User) {
    user.ok(&["node", "down", "base/Y"]);
    user.ends(&["exec", "blue/a", "ping", "-c1", "-W1", "c"], 1);
    user.ok(&["node", "up", "base/Y"]);
    assert!(user.ok(&["impair", "X--Y", "--delay", "5ms"]).contains("delay 5ms"));
    user.ok(&["impair", "X--Y", "--clear"]);
    let more = LAB.replace("X -- Y -- Z]", "X -- Y -- Z, Y -- W]").replace("c: Z}", "c: Z, d: W}");
    let more = more.replace("links: [a -- b -- c]", "links: [a -- b -- c, b -- d]");
    let file = user.file("more.yaml", &more);
    user.ok(&["apply", "--dry-run", &file]);
    user.ok(&["apply", &file]);
    user.ok(&["exec", "blue/d", "ping", "-c1", "-W5", "a"]);
    user.ok(&["wait"]);
}

fn services(user: &User) {
    assert!(user.ok(&["logs", "clock"]).contains("begun"));
    user.ok(&["restart", "clock"]);
    assert!(user.ok(&["logs", "-n", "9"]).contains("begun"));
    assert!(user.ok(&["status", "--json"]).contains("\"clock\""));
}

/// Runs `vilab` where `script`, a line of a shell, has been run with all rights in new mount and user namespaces: what it does
/// to settings and files is theirs alone. `vilab` itself has none of these rights.
fn hindered(user: &User, script: &str, args: &[&str]) -> Output {
    let words = args.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(" ");
    let run = "exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all --no-new-privs";
    let whole = format!("{script} && {run} '{}' {words}", user.text("vilab"));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c", &whole]);
    command.env("XDG_RUNTIME_DIR", user.path("run")).env_remove("VILAB_RUNTIME_DIR");
    command.uid(user.uid).gid(user.uid).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn what_keeps_a_user_from_labs_is_named_with_what_helps() {
    let Some(alice) = User::new(ALICE) else { return };
    let file = alice.file("own.yaml", LAB);
    for kind in ["user", "net", "mnt", "pid", "uts", "ipc"] {
        let limit = format!("echo 0 > /proc/sys/user/max_{kind}_namespaces");
        let told = hindered(&alice, &limit, &["up", &file]);
        assert_eq!(told.status.code(), Some(4), "{kind}: {}", said(&told));
        let fix = format!("run vilab as root, or allow it: sudo sysctl user.max_{kind}_namespaces=10000");
        for words in [format!("user.max_{kind}_namespaces is 0"), format!("hint: {fix}")] {
            assert!(said(&told).contains(&words), "{kind}: {}", said(&told));
        }
    }
    let limit = "echo 0 > /proc/sys/user/max_user_namespaces";
    let told = hindered(&alice, limit, &["doctor", "--json"]);
    let doctor: Value =
        serde_json::from_slice(&told.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&told)));
    assert_eq!((told.status.code(), &doctor["carries_labs"]), (Some(4), &Value::Bool(false)));
    let first = &doctor["findings"][0];
    let fix = Value::from("sudo sysctl user.max_user_namespaces=10000");
    assert_eq!((&first["name"], &first["fix"]), (&Value::from("namespaces"), &fix));
    assert_eq!(first["detail"], "user.max_user_namespaces is 0");
    // A machine's own and a container's are had in different ways.
    let helps = ["sudo mkdir -p /dev/net && sudo mknod", "start the container with --device /dev/net/tun"];
    let helps = |told: &Output| helps.iter().any(|words| said(told).contains(words));
    let hidden = "mount -t tmpfs none /dev/net";
    let told = hindered(&alice, hidden, &["doctor"]);
    assert!(said(&told).contains("there is no /dev/net/tun") && helps(&told), "{}", said(&told));
    let told = hindered(&alice, hidden, &["up", &file]);
    assert_eq!(told.status.code(), Some(4), "{}", said(&told));
    assert!(said(&told).contains("it lacks TUN devices (/dev/net/tun)") && helps(&told), "{}", said(&told));
    assert!(!alice.path("run/vilab/own").exists(), "nothing is left");
}
