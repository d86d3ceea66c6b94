//! The tests of a lab file as JSON Schema. Nothing goes in; definitions come out, one for an item of `tests:`, and one with
//! points for those of a file of expectations. It never says more than the decoder asks for.

use serde_json::{Value, json};

use super::super::tests::{DROPPED_BY, KINDS};
use super::links::impaired;
use super::{Property, any_of, expression_or, list_of, mtu, number, object, one_of, refer};

pub(super) fn definitions() -> Vec<(&'static str, Value)> {
    let arrow = expression_or(json!({ "type": "string", "pattern": "\\S\\s*->\\s*\\S" }));
    vec![
        ("arrow", arrow),
        ("header_row", header_row()),
        ("test", item(None)),
        ("graded", item(Some(("points", number(0, 10_000), "what it is worth (default: 1, an action 0)")))),
    ]
}

fn item(extra: Option<Property>) -> Value {
    let mut properties = vec![
        ("name", refer("text"), "instead of the test in words"),
        ("within", refer("time"), "tried again until then"),
        ("not", refer("truth"), "the contrary must hold"),
    ];
    properties.extend(extra);
    properties.extend(networks());
    properties.extend(packets());
    properties.extend(programs_and_actions());
    let mut schema = object(&properties, &[]);
    schema["oneOf"] = one_of(&KINDS);
    schema
}

fn pair(more: &[Property], required: &[&str]) -> Value {
    let ends = [("from", refer("text"), "the node that sends"), ("to", refer("text"), "the node it is for")];
    let properties: Vec<Property> = ends.into_iter().chain(more.iter().cloned()).collect();
    object(&properties, &[&["from", "to"], required].concat())
}

fn networks() -> Vec<Property> {
    let whole = json!({ "type": "string", "pattern": "^all in " });
    let ping = pair(
        &[
            ("count", number(1, 100_000), "echo requests (default: 1)"),
            ("size", number(0, 65_507), "payload, as ping(8) has it"),
            ("df", refer("truth"), "must not be fragmented"),
        ],
        &[],
    );
    let route = object(
        &[
            ("node", refer("text"), "whose kernel is asked"),
            ("to", refer("text"), "the destination"),
            ("via", refer("names"), "all next hops, in any order"),
        ],
        &["node", "to", "via"],
    );
    let depth = object(
        &[
            ("vi", refer("text"), "the VI"),
            ("headers", number(0, 1000), "IP headers added below the network layer's own"),
            ("mtu", mtu(), "the largest packet that passes unfragmented"),
        ],
        &["vi", "headers"],
    );
    vec![
        ("ping", any_of([whole, refer("arrow"), ping]), "`a -> b`, `all in VI`, or a map: b answers"),
        ("isolated", refer("names"), "no node of one network reaches an address of another"),
        ("route", route, "the kernel sends what is for `to` to these neighbours"),
        ("depth", depth, "so many headers are added on the wire"),
        (
            "converged",
            expression_or(json!({ "enum": [true, "true"] })),
            "the kernels' routes are the computed ones",
        ),
    ]
}

fn packets() -> Vec<Property> {
    let hops = [("hops", refer("names"), "the nodes that answer, the destination last")];
    let headers = [
        ("at", refer("text"), "the base node it passes"),
        ("is", list_of(refer("header_row")), "one row each time it passes"),
    ];
    let inject = object(
        &[
            ("at", refer("text"), "the base node that sends it"),
            ("stack", list_of(refer("arrow")), "its IP headers, outermost first"),
            (
                "is",
                expression_or(json!({ "enum": ["dropped", "delivered", "accepted"] })),
                "what becomes of it",
            ),
            (
                "by",
                expression_or(json!({ "enum": DROPPED_BY })),
                "the counter that counts it, such as `strong-host`",
            ),
            (
                "strong-host",
                any_of([json!({ "enum": ["on", "off", true, false] }), refer("expression")]),
                "`off` takes the rule away meanwhile",
            ),
        ],
        &["at", "stack", "is"],
    );
    let is = |schema: Value, about: &'static str| pair(&[("is", schema, about)], &["is"]);
    let tcp = pair(&[("at-least", refer("rate"), "what it must carry")], &[]);
    vec![
        ("trace", pair(&hops, &["hops"]), "a traceroute meets these nodes"),
        (
            "ttl",
            is(number(0, 255), "TTL at the destination"),
            "a packet sent with TTL 64 arrives with this one",
        ),
        ("headers", pair(&headers, &["at", "is"]), "a probe passes base node `at` with these IP headers"),
        ("mtu", is(mtu(), "bytes"), "the largest packet that passes unfragmented"),
        (
            "source",
            is(refer("text"), "a node, `link.NODE`, or an address"),
            "a probe arrives with this source",
        ),
        ("tcp", tcp, "a TCP stream of a second comes to be"),
        ("inject", inject, "a hand-built packet is dropped or delivered"),
    ]
}

fn header_row() -> Value {
    let mut row = object(
        &[
            ("in", refer("text"), "the base node it comes from"),
            ("out", refer("text"), "the base node it goes to"),
            ("base", refer("arrow"), "the base header"),
            ("link", refer("arrow"), "the header just outside `net`"),
            ("net", refer("arrow"), "the network header"),
            ("stack", list_of(refer("arrow")), "all headers, outermost first"),
        ],
        &[],
    );
    row["oneOf"] = one_of(&["in", "out"]);
    row
}

fn programs_and_actions() -> Vec<Property> {
    let exec = object(
        &[
            ("at", refer("text"), "the node"),
            ("run", refer("command"), "the command"),
            ("stdout", refer("text"), "what it prints: `*` for anything, `?` for one character"),
            ("status", number(0, 255), "default: 0"),
        ],
        &["at", "run"],
    );
    let mut to = vec![("link", refer("text"), "`X -- Y`, or its name")];
    to.extend(impaired());
    vec![
        ("exec", exec, "a command, run in the node, ends and prints as said"),
        ("down", refer("text"), "an action: a link or a node"),
        ("up", refer("text"), "an action: a link or a node"),
        ("impair", object(&to, &["link"]), "an action: what is not given is none"),
        ("wait", refer("time"), "an action"),
    ]
}
