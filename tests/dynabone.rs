#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
//! A VI over three others at once (DynaBone): shares, losses before and after the reaction, the return, copies, changes
//! while packets flow, and what is refused. Numbers are those of pings and of `vilab status`.

mod common;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::{Up, can, dataplanes, run, vilab};
use serde_json::Value;
use vilab::fastpath::control::Client;
use vilab::model::{Dataplane, Impairment};

/// How long a strand may take to go or to come back, however busy the machine is.
const LONG: Duration = Duration::from_secs(90);

/// `in1` takes R1, `in2` takes R2 with ESP, `in3` takes R3; `SPREAD` is what the link of `top` says.
const LAB: &str = "
name: dynabone
base: {links: ['X -- {R1 R2 R3}', 'Y -- {R1 R2 R3}']}
vis:
  in1: {nodes: {x: X, m: {at: R1, role: router}, y: Y}, links: [x -- m -- y]}
  in2: {nodes: {x: X, m: {at: R2, role: router}, y: Y}, links: [x -- m -- y], security: aes128-gcm}
  in3: {nodes: {x: X, m: {at: R3, role: router}, y: Y}, links: [x -- m -- y]}
  top:
    over: [in1, in2, in3]
    nodes: {a: x, b: y}
    links: [{link: a -- b, SPREAD}]
";

fn lab(spread: &str) -> String {
    LAB.replace("SPREAD", spread)
}

/// How many of `count` packets, sent one after the other, are answered.
fn ping(lab: &Up, count: u32) -> u32 {
    answers(lab, &["-c", &count.to_string(), "-i", "0.002"]).0
}

/// How many of `count` packets sent at once, as soon as `vi` is under attack and sooner than anything reacts, are
/// answered: whoever sends them waits for a file. The buffer of ping for answers grows with what it is told to send at
/// once (`-l`).
fn ping_under_attack(lab: &Up, vi: &str, count: u32) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("attacked").to_str().unwrap().to_owned();
    let count = count.to_string();
    let script = format!("until [ -e {file} ]; do sleep 0.01; done; exec ping -q -W5 -c{count} -l1000 b");
    let mut command = vilab();
    command.args(["exec", "-l", lab.name(), "top/a", "sh", "-c", &script]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lose(lab, vi, 100, Some(&file));
    parse(&waiting.wait_with_output().unwrap()).0
}

/// Packets that are answered, and answers beyond the first of each.
fn answers(lab: &Up, options: &[&str]) -> (u32, u32) {
    let mut command = vilab();
    command.args(["exec", "-l", lab.name(), "top/a", "ping", "-q", "-W5"]).args(options).arg("b");
    parse(&command.output().unwrap())
}

fn parse(Output { stdout, stderr, .. }: &Output) -> (u32, u32) {
    let text = String::from_utf8_lossy(stdout).into_owned();
    let before = |word: &str| -> Option<u32> {
        text.split(", ").find_map(|part| {
            part.strip_suffix(word)?.split(' ').next_back()?.trim_start_matches('+').parse().ok()
        })
    };
    let answered = before(" received");
    let answered = answered.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(stderr)));
    (answered, before(" duplicates").unwrap_or(0))
}

/// The strands of the link of `top`.
fn strands(lab: &Up) -> Vec<Value> {
    let status: Value = serde_json::from_str(&run(vilab().args(["status", lab.name(), "--json"]))).unwrap();
    let links = status["links"].as_array().unwrap().clone();
    let link = links.into_iter().find(|l| l["network"] == "top").unwrap();
    link["strands"].as_array().unwrap().clone()
}

/// Of each strand, what the end at `a` counts under `name`.
fn counts(lab: &Up, name: &str) -> Vec<u64> {
    strands(lab).iter().map(|s| s["ends"][0][name].as_u64().unwrap()).collect()
}

/// Waits until both ends use these strands and no others.
fn until_well(lab: &Up, wanted: [bool; 3]) -> Duration {
    let start = Instant::now();
    loop {
        let strands = strands(lab);
        let is = |end: usize| strands.iter().map(|s| s["ends"][end]["well"].as_bool().unwrap()).eq(wanted);
        if is(0) && is(1) {
            return start.elapsed();
        }
        assert!(start.elapsed() < LONG, "not {wanted:?}: {strands:#?}");
        // A probe more is worth another look.
        let _ = ping(lab, 100);
    }
}

/// How many of `count` packets each strand takes, none of which is lost: they are sent one after the other.
fn shares(lab: &Up, count: u32) -> Vec<u64> {
    let before = counts(lab, "sent");
    assert_eq!(answers(lab, &["-c", &count.to_string(), "-i", "0.002"]), (count, 0));
    counts(lab, "sent").iter().zip(before).map(|(after, before)| after - before).collect()
}

/// From here on the second half of `vi` loses this share of what goes from `a` to `b`, percent. The command for that
/// would go on to measure what it has done, which takes longer than the reaction. A file says when it has begun.
fn lose(lab: &Up, vi: &str, percent: u32, file: Option<&str>) {
    match lab.running().state().dataplanes[1] {
        Dataplane::Fastpath => {
            let control = lab.running().fastpath_control().unwrap();
            let to = Impairment { loss_ppm: percent * 10_000, ..Impairment::default() };
            Client::connect(&control).unwrap().impair(&format!("v.{vi}.m"), "v-y", to).unwrap();
            file.into_iter().for_each(|file| std::fs::write(file, "").unwrap());
        }
        Dataplane::Kernel => {
            let told = file.map(|file| format!(" && touch {file}")).unwrap_or_default();
            let netem = format!("tc qdisc replace dev v-y root netem loss {percent}%{told}");
            run(vilab().args(["exec", "-l", lab.name(), &format!("{vi}/m"), "sh", "-c", &netem]));
        }
    }
}

fn attack(lab: &Up, vi: &str) {
    lose(lab, vi, 100, None);
}

fn relieve(lab: &Up, vi: &str) {
    lose(lab, vi, 0, None);
}

fn near(found: u64, expected: u64) -> bool {
    found.abs_diff(expected) <= 5
}

#[test]
fn a_third_is_lost_until_the_reaction_and_nothing_after_it() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("dynabone-packet-{dataplane}"), &lab("spread: packet"), dataplane);
        until_well(&lab, [true; 3]);
        let all = shares(&lab, 300);
        assert!(all.iter().all(|share| near(*share, 100)), "100 each of 300: {all:?}");
        let before = ping_under_attack(&lab, "in2", 300);
        let then = strands(&lab);
        let reaction = until_well(&lab, [true, false, true]);
        let after = ping(&lab, 300);
        println!("of 300: {before} before the reaction, {after} after it; {reaction:?} after the first ping");
        assert!(near(before.into(), 200), "{before} of 300; after it {then:#?}");
        assert_eq!(after, 300);
        let two = shares(&lab, 300);
        assert!(near(two[0], 150) && two[1] == 0 && near(two[2], 150), "150, 0, 150: {two:?}");
        relieve(&lab, "in2");
        until_well(&lab, [true; 3]);
        let back = shares(&lab, 300);
        assert!(back.iter().all(|share| near(*share, 100)), "100 each again: {back:?}");
        assert!(counts(&lab, "lost")[1] >= 5);
    }
}

#[test]
fn copies_lose_nothing_even_before_the_reaction() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("dynabone-copies-{dataplane}"), &lab("spread: duplicate"), dataplane);
        until_well(&lab, [true; 3]);
        // Three of each request arrive, and three of the answer to each; ping ends with the first answers to all.
        let paced = ["-c50", "-i0.02"];
        let (answered, duplicates) = answers(&lab, &paced);
        assert!(answered == 50 && (45 * 8..=50 * 8).contains(&duplicates), "{answered} and {duplicates}");
        attack(&lab, "in1");
        attack(&lab, "in3");
        assert_eq!(ping(&lab, 50), 50);
        until_well(&lab, [false, true, false]);
        assert_eq!(answers(&lab, &paced), (50, 0), "one is left, and makes no copies");
    }
}

#[test]
fn a_flow_keeps_to_one_underlay_and_leaves_it_when_that_is_attacked() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("dynabone-flow-{dataplane}"), &lab("spread: flow"), dataplane);
        until_well(&lab, [true; 3]);
        let mut all = shares(&lab, 300);
        let first = all.iter().position(|n| *n > 0).unwrap();
        assert_eq!((all[first], all.iter().sum::<u64>()), (300, 300), "one flow, one way: {all:?}");
        let name = format!("in{}", first + 1);
        attack(&lab, &name);
        until_well(&lab, [0, 1, 2].map(|i| i != first));
        all = shares(&lab, 300);
        assert_eq!((all[first], all.iter().sum::<u64>()), (0, 300), "another way: {all:?}");
        relieve(&lab, &name);
        until_well(&lab, [true; 3]);
        assert_eq!(shares(&lab, 300)[first], 300, "and back");
    }
}

#[test]
fn weights_change_while_packets_flow() {
    for dataplane in dataplanes() {
        let lab = Up::new(
            &format!("dynabone-weights-{dataplane}"),
            &lab("spread: packet, security: aes256-gcm"),
            dataplane,
        );
        until_well(&lab, [true; 3]);
        assert!(shares(&lab, 300).iter().all(|share| near(*share, 100)));
        let apply = |text: &str| {
            let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
            std::fs::write(file.path(), text.replace("name: dynabone", &format!("name: {}", lab.name())))
                .unwrap();
            vilab().arg("apply").arg(file.path()).output().unwrap()
        };
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let weighted = self::lab("spread: packet, weights: [1, 1, 4], security: aes256-gcm");
        let changed = apply(&weighted);
        assert!(changed.status.success(), "{}", said(&changed));
        assert!(
            said(&changed).contains("~ link top/a--b: spread packet over in1:1 in2:1 in3:1 -> "),
            "{}",
            said(&changed)
        );
        let shares = shares(&lab, 300);
        assert!(shares.iter().zip([50, 50, 200]).all(|(n, is)| near(*n, is)), "50, 50, 200: {shares:?}");
        assert!(counts(&lab, "sent")[0] >= 100, "strands that stay go on counting");
        let fewer =
            weighted.replace("over: [in1, in2, in3]", "over: [in1, in3]").replace("[1, 1, 4]", "[1, 1]");
        let changed = apply(&fewer);
        assert!(changed.status.success(), "{}", said(&changed));
        assert_eq!(strands(&lab).len(), 2);
        assert_eq!(ping(&lab, 300), 300);
        let refused = apply(
            &fewer
                .replace("over: [in1, in3]", "over: in1")
                .replace(", weights: [1, 1]", "")
                .replace("spread: packet, ", ""),
        );
        assert!(!refused.status.success());
        assert!(said(&refused).contains("VI top rides on in1, in3; to ride on in1"), "{}", said(&refused));
    }
}

#[test]
fn a_link_that_is_set_down_is_down_by_every_way_and_one_below_by_its_own() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("dynabone-down-{dataplane}"), &lab("spread: packet"), dataplane);
        until_well(&lab, [true; 3]);
        run(vilab().args(["link", "down", "-l", lab.name(), "top/a--b"]));
        let mut command = vilab();
        command.args(["exec", "-l", lab.name(), "top/a", "ping", "-c1", "-W1", "b"]);
        assert!(!command.output().unwrap().status.success());
        run(vilab().args(["link", "up", "-l", lab.name(), "top/a--b"]));
        until_well(&lab, [true; 3]);
        assert_eq!(ping(&lab, 100), 100);
        run(vilab().args(["link", "down", "-l", lab.name(), "in1/x--m"]));
        until_well(&lab, [false, true, true]);
        assert_eq!(ping(&lab, 100), 100);
        run(vilab().args(["link", "up", "-l", lab.name(), "in1/x--m"]));
        until_well(&lab, [true; 3]);
    }
}

/// As many as DynaBone was shown with.
#[test]
fn fifty_underlays() {
    for dataplane in dataplanes() {
        let mut text = "name: dynabone\nbase: {links: [X -- M -- Y]}\nvis:\n".to_owned();
        for i in 0..50 {
            let security = if i % 2 == 0 { "none" } else { "aes128-gcm" };
            let nodes = "nodes: {x: X, m: {at: M, role: router}, y: Y}, links: [x -- m -- y]";
            text += &format!("  in{i}: {{{nodes}, security: {security}}}\n");
        }
        let names: Vec<String> = (0..50).map(|i| format!("in{i}")).collect();
        text += &format!("  top:\n    over: [{}]\n", names.join(", "));
        text += "    nodes: {a: x, b: y}\n    links: [{link: a -- b, spread: packet}]\n";
        let lab = Up::new(&format!("dynabone-fifty-{dataplane}"), &text, dataplane);
        let shares = shares(&lab, 300);
        assert!(shares.iter().all(|share| *share == 6), "6 each: {shares:?}");
        assert!(near(ping_under_attack(&lab, "in7", 300).into(), 294));
        let start = Instant::now();
        while ping(&lab, 300) < 300 {
            assert!(start.elapsed() < LONG, "in7 is used still");
        }
    }
}

/// One end in the kernel, one on the fast path: each spreads and watches by itself, and understands the other's probes.
#[test]
fn ends_on_different_dataplanes_are_ends_of_one_link() {
    if !can("netns") || !can("kernel") {
        return;
    }
    for spread in ["spread: packet", "spread: packet, security: aes128-gcm"] {
        let text = lab(spread)
            .replace("base: {", "base: {nodes: {X: {dataplane: kernel}, Y: {dataplane: fastpath}}, ");
        let lab = Up::new("dynabone-mixed", &text, "kernel");
        until_well(&lab, [true; 3]);
        let all = shares(&lab, 300);
        assert!(all.iter().all(|share| near(*share, 100)), "100 each of 300: {all:?}");
        attack(&lab, "in3");
        until_well(&lab, [true, true, false]);
        assert_eq!(ping(&lab, 300), 300);
        relieve(&lab, "in3");
        until_well(&lab, [true; 3]);
    }
}

/// What judges strands is started anew, forgets what it knew, and finds it out again. In the kernel packets flow
/// meanwhile.
#[test]
fn what_judges_strands_may_be_killed() {
    for dataplane in dataplanes() {
        let lab = Up::new(&format!("dynabone-killed-{dataplane}"), &lab("spread: packet"), dataplane);
        until_well(&lab, [true; 3]);
        attack(&lab, "in2");
        until_well(&lab, [true, false, true]);
        let name = if dataplane == "kernel" { "vilab-strands" } else { "vilab-fastpath" };
        let kill = format!("kill -9 $(grep -lx {name} /proc/[0-9]*/comm | cut -d/ -f3)");
        run(vilab().args(["exec", "-l", lab.name(), "base/X", "sh", "-c", &kill]));
        let service = if dataplane == "kernel" { "strands" } else { "fastpath" };
        let start = Instant::now();
        while !restarted(&lab, service) {
            assert!(start.elapsed() < LONG, "{service} is not started anew");
            assert!(dataplane != "kernel" || ping(&lab, 20) == 20, "the rules go on without it");
        }
        if dataplane == "fastpath" {
            // A new engine knows of no impairment that nobody wrote down.
            attack(&lab, "in2");
        }
        until_well(&lab, [true, false, true]);
        assert_eq!(ping(&lab, 300), 300);
        relieve(&lab, "in2");
        until_well(&lab, [true; 3]);
    }
}

fn restarted(lab: &Up, service: &str) -> bool {
    // While it does not run nobody says how strands are.
    let status = vilab().args(["status", lab.name(), "--json"]).output().unwrap();
    let Ok(status) = serde_json::from_slice::<Value>(&status.stdout) else { return false };
    let services = status["services"].as_array().unwrap();
    let of = services.iter().find(|s| s["name"] == service).unwrap();
    of["restarts"].as_u64() > Some(0) && of["state"] == "running"
}
