//! The labs of the project, built as their plans say on the fast path, verified and tested: what the pure stages
//! predict is what is measured. Needs root; skips visibly without it unless `VILAB_REQUIRE` names `netns`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and speak")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use vilab::error::Kind;
use vilab::lab::{self, Namespaces};
use vilab::model::{Lab, Routing, Target, Test, TestKind};
use vilab::observe::{self, Context};
use vilab::plan::{self, Machine, Plan};
use vilab::routing::Rib;

const NETNS: &str = "/run/netns";
const ENGINE: &str = "VILAB_TEST_ENGINE";

/// The program of the engine's process, not a test: carries the configuration that the environment names.
#[test]
fn engine() {
    let Ok(dir) = std::env::var(ENGINE) else { return };
    let config = serde_json::from_slice(&std::fs::read(format!("{dir}/config.json")).unwrap()).unwrap();
    let control = format!("{dir}/control");
    vilab::fastpath::run(&config, &Namespaces::at(NETNS), Path::new(&control), || println!("ready")).unwrap();
}

/// The engine's process, ended on drop.
struct Engine(Child);

impl Engine {
    fn start(dir: &Path, plan: &Plan) -> Self {
        std::fs::write(dir.join("config.json"), serde_json::to_vec(&plan.fastpath).unwrap()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "engine", "--nocapture"])
            .env(ENGINE, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the engine did not start");
        Self(child)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives the calling thread a directory of network namespaces that ends with it.
fn hide_namespaces() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    std::fs::create_dir_all(NETNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), NETNS, Some("tmpfs"), MsFlags::empty(), none).unwrap();
}

fn build(plan: &Plan) {
    let mut shell = Command::new("sh").arg("-e").stdin(Stdio::piped()).spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    for op in plan.stages.iter().flat_map(|s| &s.ops) {
        writeln!(input, "{op}").unwrap();
    }
    drop(input);
    assert!(shell.wait().unwrap().success());
}

fn able() -> bool {
    let able = nix::unistd::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    let required = std::env::var("VILAB_REQUIRE").is_ok_and(|v| v.split(',').any(|w| w == "netns"));
    assert!(able || !required, "VILAB_REQUIRE=netns, but this is not root or there is no TUN");
    if !able {
        eprintln!("SKIPPED: needs root and TUN");
    }
    able
}

/// Takes the first link of each network down and up again, then the first node of each down, for the end of the run
/// to undo.
fn down_and_up(lab: &Lab) -> Vec<Test> {
    let test = |kind| Test { name: format!("{kind:?}"), line: 0, within_ms: None, not: false, kind };
    let links = lab.networks.iter().filter_map(|n| n.links.first()).map(|l| Target::Link(l.id));
    let nodes = lab.networks.iter().filter_map(|n| n.nodes.first()).map(|n| Target::Node(n.id));
    let links = links.flat_map(|link| [TestKind::Down(link), TestKind::Up(link)]);
    links.chain(nodes.map(TestKind::Down)).map(test).collect()
}

/// Builds a lab, verifies it and runs its tests; what failed, in words.
fn failures(path: &Path) -> Vec<String> {
    hide_namespaces();
    let mut lab = lab::load(path).unwrap();
    // There is no init here that would run them.
    if !lab.apps.is_empty() {
        println!("SKIPPED: the tests of apps; `vilab test` runs them");
        lab.tests.retain(|t| !matches!(t.kind, TestKind::Exec { .. }));
    }
    let rib = Rib::compute(&lab);
    let machine = Machine { tun: true, nft: true, ..Machine::default() };
    let plan = match plan::build(&lab, &rib, &machine) {
        Ok(plan) => plan,
        // Nor one that would run daemons or shape what leaves a device.
        Err(e) if e.kind() == Kind::Environment => {
            println!("SKIPPED: {e}; `vilab test` runs it");
            return Vec::new();
        }
        Err(e) => return vec![e.to_string()],
    };
    build(&plan);
    let dir = tempfile::tempdir().unwrap();
    let engine = plan.fastpath.is_some().then(|| Engine::start(dir.path(), &plan));
    let namespaces = Namespaces::at(NETNS);
    let ctx = Context {
        lab: &lab,
        rib: &rib,
        namespaces: &namespaces,
        dataplanes: &plan.dataplanes,
        netem: plan.netem,
        fastpath_control: engine.as_ref().map(|_| dir.path().join("control")),
        strands_control: None,
    };
    if let Err(e) = observe::verify(&ctx, &mut |_| ()) {
        return vec![e.to_string()];
    }
    let mut results = observe::run_tests(&ctx, &mut |r, _| println!("{:?}  {}", r.elapsed, r.name));
    let downed = Lab { tests: down_and_up(&lab), ..lab.clone() };
    results.extend(observe::run_tests(&Context { lab: &downed, ..ctx.clone() }, &mut |_, _| ()));
    if let Err(e) = observe::verify(&ctx, &mut |_| ()) {
        return vec![format!("after links were down and up again: {e}")];
    }
    let failed = results.iter().filter(|r| !r.passed);
    failed.map(|r| format!("{}:{} {}\n{}", path.display(), r.line, r.name, r.table().join("\n"))).collect()
}

#[test]
fn every_lab_measures_what_it_predicts() {
    if !able() {
        return;
    }
    let mut paths: Vec<_> = std::fs::read_dir("labs").unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    let mut failed = Vec::new();
    for path in paths {
        // Daemons and apps are children of a lab's init, and there is none here; `vilab test` runs the labs
        // whose routes they write.
        let by_others = |routing: Routing| routing.is_dynamic() || routing == Routing::None;
        if lab::load(&path).unwrap().networks.iter().any(|n| by_others(n.routing)) {
            continue;
        }
        println!("{}", path.display());
        failed.extend(std::thread::spawn(move || failures(&path)).join().unwrap());
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
