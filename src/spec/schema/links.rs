//! The links of a lab file as JSON Schema: items of `links:` and `gateways:`, and what links do to packets. Nothing goes in;
//! schemas come out. It never says which nodes there are.

use super::super::decode::SECURITIES;
use super::super::parallel::SPREADS;
use super::{Property, Value, any_of, list_of, mtu, number, object, one_of, refer, words};

pub(super) fn impairments() -> Vec<Property> {
    vec![
        ("delay", refer("time"), "one way"),
        ("jitter", refer("time"), "each packet's delay is up to this more or less"),
        ("loss", refer("share"), "share of packets lost"),
        ("rate", refer("rate"), "bits a second"),
    ]
}

/// Both directions, and each by itself.
pub(super) fn impaired() -> Vec<Property> {
    let mut all = impairments();
    all.push(("rtt", refer("time"), "twice the delay"));
    all.push(("forward", refer("direction"), "from the first end to the second"));
    all.push(("backward", refer("direction"), "from the second end to the first"));
    all
}

pub(super) fn link() -> Value {
    let members = || any_of([refer("text"), refer("names")]);
    let tree = object(
        &[
            ("of", members(), "its nodes, the root first"),
            ("arity", number(1, 65_535), "children of each (default: 2)"),
        ],
        &["of"],
    );
    let side = || number(1, 256);
    let grid = object(
        &[
            ("prefix", refer("text"), "nodes prefix1, prefix2 and so on"),
            ("rows", side(), "rows"),
            ("cols", side(), "columns"),
        ],
        &["prefix", "rows", "cols"],
    );
    let mut properties = impaired();
    properties.extend([
        ("link", refer("text"), "`a -- b`, a chain `a -- b -- c`, a star `hub -- {a b}`"),
        ("ring", members(), "each to the next, the last to the first"),
        ("line", members(), "each to the next"),
        ("mesh", members(), "each to each"),
        ("tree", any_of([members(), tree]), "a tree, row by row"),
        ("grid", grid, "a grid, row by row"),
        ("name", refer("text"), "instead of `a--b`"),
        ("cost", number(1, 65_535), "for shortest paths (default: 1)"),
        ("mtu", mtu(), "instead of the network's"),
        ("security", words(&SECURITIES), "instead of the VI's"),
        ("spread", words(&SPREADS), "which of several underlays a packet takes (default: flow)"),
        ("weights", list_of(number(1, 1000)), "one for each underlay"),
        ("when", refer("condition"), "the link is there only if this is true"),
    ]);
    let mut schema = object(&properties, &[]);
    schema["oneOf"] = one_of(&["link", "ring", "line", "mesh", "tree", "grid"]);
    schema
}

pub(super) fn gateway() -> Value {
    object(
        &[
            ("link", refer("text"), "`blue/g -- red/g`"),
            ("name", refer("text"), "instead of `blue/g--red/g`"),
            ("cost", number(1, 65_535), "default: 1"),
            ("mtu", mtu(), "of the wire"),
            ("default", refer("truth"), "the first network's default route leads through it"),
        ],
        &["link"],
    )
}
