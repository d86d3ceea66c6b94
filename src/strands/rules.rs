//! The rules by which the kernel spreads packets over strands. An end of a link and how its strands are go in; text for
//! `nft -f` comes out. It never asks which rules there are.

use std::fmt::Write as _;

use super::config::End;
use crate::fastpath::spread::{Bundle, DATA, IDENT, PROBE_LEN};
use crate::model::Spread;

/// Flows of a strand that is left out try so many times, each by another hash, for one that is used; in the last all that
/// are left share those. So when a strand goes or returns, flows of others stay where they are.
const TRIES: usize = 4;
/// nft reads headers up to byte 255 of a packet: so many headers can be passed.
const DEEPEST: usize = 10;
/// Of an IPv4 header without options, bits.
const HEADER: usize = 160;

/// The whole table of an end, all of whose strands are well.
#[must_use]
pub fn ruleset(end: &End) -> String {
    let mut text = format!("table netdev {} {{\n", end.dev);
    let line = &mut text;
    for (at, strand) in end.strands.iter().enumerate() {
        // The comment has what the rules do not show, so that a change of it is one of the text.
        let (below, local, remote) = (&strand.below, strand.local, strand.remote);
        let _ = writeln!(line, "  # {}: {} of {below}, {local} to {remote}", strand.dev, strand.underlay);
        let _ = writeln!(line, "  chain to-{at} {{ fwd to \"{}\"; }}", strand.dev);
    }
    text += &spreading(end, &end.bundle());
    text += &hook("out", &end.dev, "spread");
    text += &taking(end);
    for (at, strand) in end.strands.iter().enumerate() {
        text += &hook(&format!("by-{at}"), &strand.dev, "in");
    }
    text + "}\n"
}

/// What makes an end whose table is there use the strands of `bundle` that are to be used, at once.
pub(super) fn change(end: &End, bundle: &Bundle) -> String {
    let mut text = String::new();
    for chain in tries(end.spread).chain(["spread".to_owned()]) {
        let _ = writeln!(text, "flush chain netdev {} {chain}", end.dev);
    }
    text + &format!("table netdev {} {{\n{}}}\n", end.dev, spreading(end, bundle))
}

fn hook(chain: &str, dev: &str, goes: &str) -> String {
    format!(
        "  chain {chain} {{
    type filter hook ingress device \"{dev}\" priority filter; policy drop;
    goto {goes}
  }}
"
    )
}

/// What comes by a strand has come by the link, but for probes, which the process has seen.
fn taking(end: &End) -> String {
    let End { near, far, dev, .. } = end;
    let data: String = DATA.iter().map(|byte| format!("{byte:02x}")).collect();
    let bits = 8 * DATA.len();
    format!(
        "  chain in {{
    ip saddr {far} ip daddr {near} ip length {PROBE_LEN} ip frag-off & 0x3fff == 0 icmp type {{ echo-request, echo-reply }} \
         icmp code 0 icmp id {IDENT:#06x} @th,64,{bits} 0x{data} drop
    fwd to \"{dev}\"
  }}
"
    )
}

/// The chains that depend on how the strands are.
fn spreading(end: &End, bundle: &Bundle) -> String {
    let used = bundle.used();
    let live: Vec<usize> = (0..used.len()).filter(|at| used[*at]).collect();
    let mut text = String::new();
    let mut chain = |name: &str, lines: Vec<String>| {
        let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
        let _ = write!(text, "  chain {name} {{\n{lines}  }}\n");
    };
    match (end.spread, live.split_first()) {
        (_, Some((only, []))) => {
            tries(end.spread).for_each(|name| chain(&name, Vec::new()));
            chain("spread", vec![format!("goto to-{only}")]);
        }
        (Spread::Duplicate, Some((first, others))) => {
            let copies = others.iter().map(|at| format!("dup to \"{}\"", end.strands[*at].dev));
            chain("spread", copies.chain([format!("goto to-{first}")]).collect());
        }
        (Spread::Packet, _) => {
            let round = bundle.round();
            let turns: Vec<String> =
                round.iter().enumerate().map(|(turn, at)| format!("{turn} : goto to-{at}")).collect();
            chain("spread", vec![format!("numgen inc mod {} vmap {{ {} }}", round.len(), turns.join(", "))]);
        }
        (Spread::Flow | Spread::Duplicate, _) => {
            let names: Vec<String> = tries(end.spread).collect();
            // A chain must be there before another leads to it.
            for (at, name) in names.iter().enumerate().rev() {
                let next = names.get(at + 1).map(String::as_str);
                chain(name, by_flow(end, &used, at + 1, next));
            }
            chain("spread", by_flow(end, &used, 0, names.first().map(String::as_str)));
        }
    }
    text
}

/// The chains of all tries for a flow but the first.
fn tries(spread: Spread) -> impl Iterator<Item = String> {
    let count = if spread == Spread::Flow { TRIES } else { 1 };
    (1..count).map(|at| format!("again-{at}"))
}

/// Rules for one try: deepest headers first, for what is in a tunnel tells more flows apart than the tunnel. With ports
/// where they can be seen: fragments have none, for only the first would.
fn by_flow(end: &End, used: &[bool], attempt: usize, next: Option<&str>) -> Vec<String> {
    let mut from = 0;
    let mut shares = Vec::new();
    for (at, strand) in end.strands.iter().enumerate() {
        let goes = match next {
            _ if used[at] => format!("to-{at}"),
            Some(next) => next.to_owned(),
            None => continue,
        };
        let weight = strand.weight.max(1);
        let share = if weight == 1 { from.to_string() } else { format!("{from}-{}", from + weight - 1) };
        shares.push(format!("{share} : goto {goes}"));
        from += weight;
    }
    let shares = shares.join(", ");
    // Links choose independently, and each try another way.
    let seed = (end.near.to_bits() ^ end.far.to_bits().rotate_left(16)).wrapping_add(attempt_seed(attempt));
    let hash = |at: usize, bits: usize| {
        format!("jhash @nh,{},{bits} mod {from} seed {seed:#x} vmap {{ {shares} }}", at + 96)
    };
    let mut rules = Vec::new();
    for depth in (0..=end.above.min(DEEPEST)).rev() {
        let at = depth * HEADER;
        let tunnels: String = (0..depth)
            .map(|i| i * HEADER)
            .map(|i| format!("@nh,{i},8 0x45 @nh,{},16 & 0x3fff == 0 @nh,{},8 4 ", i + 48, i + 72))
            .collect();
        let ports =
            format!("@nh,{at},8 0x45 @nh,{},16 & 0x3fff == 0 @nh,{},8 {{ 6, 17 }} ", at + 48, at + 72);
        rules.push(format!("{tunnels}{ports}{}", hash(at, 96)));
        rules.push(format!("{tunnels}{}", hash(at, 64)));
    }
    rules
}

/// Far from each other (the golden ratio's bits).
fn attempt_seed(attempt: usize) -> u32 {
    u32::try_from(attempt).unwrap_or(u32::MAX).wrapping_mul(0x9e37_79b9)
}
