//! Every lab that comes with the project loads, says what it shows, tests something, and has a page beside it.

#[path = "common/labs.rs"]
mod all;

use std::path::Path;

use all::labs;
use vilab::lab;
use vilab::plan::{self, Machine};
use vilab::routing::Rib;

fn load(path: &Path) -> vilab::model::Lab {
    lab::load(path).unwrap_or_else(|e| {
        let report = e.report().map(|r| r.render(false)).unwrap_or_default();
        panic!("{}: {report}\n{e}", path.display())
    })
}

#[test]
fn every_lab_loads_and_says_what_it_shows() {
    assert!(labs().len() >= 9);
    for path in labs() {
        let lab = load(&path);
        assert!(lab.description.is_some_and(|d| d.len() > 40), "{} needs a description", path.display());
        assert!(lab.tests.len() >= 3, "{} tests too little", path.display());
        assert!(path.with_extension("md").exists(), "{} has no page", path.display());
    }
}

#[test]
fn every_lab_can_be_planned_on_both_dataplanes() {
    let all = Machine {
        ipip: true,
        nft: true,
        tun: true,
        netem: true,
        redirect: true,
        ifb: true,
        spread: true,
        esp: true,
        frr: Some("/usr/lib/frr".to_owned()),
        one_user: false,
    };
    let fastpath_only = Machine { tun: true, redirect: true, frr: all.frr.clone(), ..Machine::default() };
    for path in labs() {
        let lab = load(&path);
        let rib = Rib::compute(&lab);
        plan::build(&lab, &rib, &all).expect("a machine that can do all");
        let mixed = path.parent().is_some_and(|p| p.ends_with("mixed"));
        let plan = plan::build(&lab, &rib, &fastpath_only);
        assert_eq!(plan.is_err(), mixed, "{}", path.display());
    }
}
