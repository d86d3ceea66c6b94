//! `vilab resolve` on running labs: what it says of each layer is what the kernels do, and where it says that a chain
//! breaks, packets are lost.

mod common;

use std::process::Command;

use serde_json::Value;
use vilab::lab::Running;
use vilab::model::NodeId;
use vilab::observe::{self, Context};
use vilab::routing::Rib;

/// The exit status, and what it printed.
fn resolve(lab: &str, from: &str, to: &str) -> (Option<i32>, Value) {
    let output = common::vilab().args(["resolve", "-l", lab, from, to, "--json"]).output().expect("it runs");
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["schema"], "vilab.resolve/1");
    (output.status.code(), value)
}

/// Whether a packet sent from one node to another gets there.
fn passes(running: &Running, from: &str, to: &str) -> bool {
    let state = running.state();
    let (lab, rib, namespaces) = (&state.lab, Rib::compute(&state.lab), running.namespaces());
    let context = Context {
        lab,
        rib: &rib,
        namespaces: &namespaces,
        dataplanes: &state.dataplanes,
        netem: state.netem,
        fastpath_control: running.fastpath_control(),
        strands_control: None,
    };
    let id = |name: &str| -> NodeId { lab.nodes().find(|n| lab.full_name(n.id) == name).expect(name).id };
    observe::trace(&context, id(from), id(to)).expect("a trace").last().is_some_and(|hop| hop.reached)
}

/// What answered at each of these, in the order of the steps.
fn by(value: &Value, at: &str) -> Vec<String> {
    let steps = value["measured"].as_array().expect("steps").iter().filter(|s| s["at"] == at);
    steps.map(|s| s["by"].as_str().expect("a word").to_owned()).collect()
}

#[test]
fn e8_names_resolve_layer_by_layer_down_to_the_base_as_the_kernels_have_it() {
    for dataplane in common::dataplanes() {
        let up = common::Up::new(&format!("resolve-{dataplane}"), common::STACK_AND_ROUTER, dataplane);
        let (name, running) = (up.name(), up.running());
        for (from, to) in
            [("base/X", "Z"), ("low/l", "r"), ("high/a", "b"), ("outer/c", "d"), ("outer/d", "R")]
        {
            let (status, found) = resolve(name, from, to);
            assert_eq!(status, Some(0), "{dataplane}: {from} to {to}: {found:#}");
            assert_eq!((&found["arrives"], &found["difference"]), (&Value::Bool(true), &Value::Null));
            assert_eq!(found["measured"], found["computed"]);
            assert_eq!(found["measured"][0]["by"], "name");
            let net = from.split_once('/').expect("a full name").0;
            assert!(passes(&running, from, &format!("{net}/{to}")), "{dataplane}: {from} to {to}");
        }
        layers(name);
        lost_route(name, &running);
        lost_link(name, &running);
        refusals(name);
    }
}

/// The exit VH of one emulated router is reached through another.
#[test]
fn e8_an_exit_inside_an_exit_is_resolved_in_turn() {
    for dataplane in common::dataplanes() {
        let up =
            common::Up::lab(&format!("resolve-rr-{dataplane}"), "recursion-in-recursion.yaml", dataplane);
        let (status, found) = resolve(up.name(), "outer/a", "b");
        assert_eq!(status, Some(0), "{dataplane}: {found:#}");
        let steps = found["measured"].as_array().expect("steps").iter().filter(|s| s["by"] == "exit");
        let exits: Vec<(&Value, &Value, &Value)> =
            steps.map(|s| (&s["nesting"], &s["at"], &s["ways"][0]["exit_vh"])).collect();
        let [outer, core] = [(0, "outer/R.p1", "core/v2"), (1, "core/Q.q1", "heart/w2")]
            .map(|(nesting, at, exit)| [Value::from(nesting), Value::from(at), Value::from(exit)]);
        let expected = [(&outer[0], &outer[1], &outer[2]), (&core[0], &core[1], &core[2])];
        assert_eq!(exits, expected, "{dataplane}");
    }
}

/// Each layer is asked for what the one above has found.
fn layers(name: &str) {
    let (_, found) = resolve(name, "high/a", "b");
    assert_eq!(by(&found, "high/a"), ["name", "route"]);
    assert_eq!(by(&found, "high/a--b"), ["link"]);
    assert_eq!(by(&found, "low/m"), ["route"]);
    assert_eq!(by(&found, "base/X"), ["tunnel", "route"]);
    let steps = found["measured"].as_array().expect("steps");
    let (link, below) = (&steps[2], &steps[3]);
    assert_eq!((&link["to"], &below["at"]), (&below["asked"], &Value::from("low/l")));
    let (_, found) = resolve(name, "outer/c", "d");
    assert_eq!(by(&found, "outer/R.p1"), ["exit"]);
    assert_eq!(by(&found, "outer/R.p2"), ["port"]);
    assert_eq!(by(&found, "inner/w"), ["route"]);
    let exit = found["measured"].as_array().expect("steps").iter().find(|s| s["by"] == "exit").expect("one");
    assert_eq!(exit["ways"][0]["exit_vh"], "inner/v2");
    let words = common::run(common::vilab().args(["resolve", "-l", name, "outer/c", "d"]));
    assert!(words.contains("exit VH inner/v2") && words.contains("all is as computed"), "{words}");
}

/// Takes a route away behind the lab's back: two layers above, the chain breaks there, and so do the packets.
fn lost_route(name: &str, running: &Running) {
    let lab = &running.state().lab;
    let link = lab.links().find(|l| lab.full_link_name(l.id) == "high/a--b").expect("the link");
    let to = link.ends[1].link_addr.expect("a link address").to_string();
    let ip = |arguments: &[&str]| {
        let run = || Command::new("ip").args(arguments).output();
        let output = running.namespaces().run("v.low.m", run).expect("the namespace").expect("ip");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let route = ip(&["route", "show", &to]);
    ip(&["route", "del", &to]);
    let (status, found) = resolve(name, "high/a", "b");
    let step = found["broken"].as_u64().expect("a step");
    let broken = &found["measured"][usize::try_from(step).expect("a number") - 1];
    assert_eq!((status, &found["arrives"]), (Some(1), &Value::Bool(false)));
    assert_eq!((&broken["at"], &broken["layer"]), (&Value::from("low/m"), &Value::from("low")));
    assert_eq!(broken["why"], format!("no route to {to}"));
    assert_eq!(found["difference"]["step"], step);
    assert_eq!(found["difference"]["computed"]["by"], "route");
    assert!(!passes(running, "high/a", "high/b"));
    let words =
        common::vilab().args(["resolve", "-l", name, "high/a", "b"]).output().expect("it runs").stdout;
    let words = String::from_utf8(words).expect("text");
    assert!(
        words.contains("the chain breaks in low, at low/m") && words.contains("computed: low/m"),
        "{words}"
    );
    let back: Vec<&str> = ["route", "add"].into_iter().chain(route.split_whitespace()).collect();
    ip(&back);
    assert_eq!(resolve(name, "high/a", "b").0, Some(0));
}

/// A base link is set down: the router whose VI it carried has no exit, and that is what is computed.
fn lost_link(name: &str, running: &Running) {
    let run = |arguments: &[&str]| common::run(common::vilab().args(arguments));
    run(&["link", "down", "-l", name, "Y -- Z"]);
    run(&["wait", name]);
    for (from, to, at) in [("outer/c", "d", "outer/R.p1"), ("high/a", "b", "base/Y")] {
        let (status, found) = resolve(name, from, to);
        let last = found["measured"].as_array().expect("steps").last().expect("one");
        assert_eq!((status, &found["difference"]), (Some(1), &Value::Null), "{found:#}");
        assert_eq!((&last["by"], &last["at"]), (&Value::from("broken"), &Value::from(at)));
    }
    assert!(!passes(running, "outer/c", "outer/d"));
    run(&["link", "up", "-l", name, "Y -- Z"]);
    run(&["wait", name]);
    assert_eq!(resolve(name, "outer/c", "d").0, Some(0));
}

fn refusals(name: &str) {
    for (from, to, what) in [
        ("high/a", "low/m", "high/a and low/m are in different networks"),
        ("high/z", "b", "has no node high/z"),
        ("high/a", "224.0.0.5", "224.0.0.5 is no address of a node"),
    ] {
        let refused = common::vilab().args(["resolve", "-l", name, from, to]).output().expect("it runs");
        let words = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(words.contains(what), "{words}");
    }
}
