//! The rules by which the kernel spreads packets over strands. An end of a link and how its strands are go in; text for
//! `nft -f` comes out. It never asks which rules there are.

use std::fmt::Write as _;

use super::config::End;
use crate::fastpath::spread::{Bundle, DATA, IDENT, PROBE_LEN};
use crate::model::Spread;

/// Flows of a strand that is left out try so many times, each by another hash, for one that is used; in the last all
/// that are left share those. So when a strand goes or returns, flows of others stay where they are.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fastpath::health::{PATIENCE, TOO_MANY};
    use crate::strands::config::Strand;

    fn end(spread: Spread, weights: &[u32]) -> End {
        let strand = |(at, weight): (usize, &u32)| Strand {
            underlay: format!("in{at}"),
            weight: *weight,
            dev: format!("s-{at}"),
            below: format!("v.in{at}.x"),
            local: [10, 1, 0, 0].into(),
            remote: [10, 1, 0, 1].into(),
        };
        End {
            base: "X".to_owned(),
            partition: "v.top.a".to_owned(),
            netns: "s.top.a".to_owned(),
            dev: "v-b".to_owned(),
            near: [10, 9, 0, 0].into(),
            far: [10, 9, 0, 1].into(),
            spread,
            above: 1,
            strands: weights.iter().enumerate().map(strand).collect(),
        }
    }

    fn without(end: &End, broken: &[usize]) -> Bundle {
        let mut bundle = end.bundle();
        for strand in broken {
            (0..PATIENCE + TOO_MANY).for_each(|_| drop(bundle.probe(*strand, 1)));
        }
        bundle
    }

    /// The rules of a chain.
    fn chain<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let from =
            text.find(&format!("  chain {name} {{\n")).unwrap_or_else(|| panic!("no {name} in {text}"));
        text[from..].lines().skip(1).map(str::trim).take_while(|line| *line != "}").collect()
    }

    #[test]
    fn packets_take_turns_by_weight() {
        let end = end(Spread::Packet, &[1, 2]);
        let text = ruleset(&end);
        assert_eq!(
            chain(&text, "spread"),
            ["numgen inc mod 3 vmap { 0 : goto to-1, 1 : goto to-0, 2 : goto to-1 }"]
        );
        assert_eq!(chain(&change(&end, &without(&end, &[1])), "spread"), ["goto to-0"]);
        assert!(chain(&change(&end, &without(&end, &[0, 1])), "spread")[0].contains("mod 3"), "all or none");
    }

    #[test]
    fn copies_take_the_strands_that_are_used() {
        let end = end(Spread::Duplicate, &[1, 1, 1]);
        assert_eq!(chain(&ruleset(&end), "spread"), ["dup to \"s-1\"", "dup to \"s-2\"", "goto to-0"]);
        let two = change(&end, &without(&end, &[0]));
        assert_eq!(chain(&two, "spread"), ["dup to \"s-2\"", "goto to-1"]);
    }

    #[test]
    fn flows_of_a_broken_strand_alone_try_again() {
        let end = end(Spread::Flow, &[1, 3, 1]);
        let whole = ruleset(&end);
        let shares = |rules: &[&str]| -> BTreeSet<String> {
            rules.iter().map(|r| r.split_once("vmap").unwrap().1.to_owned()).collect()
        };
        let all = " { 0 : goto to-0, 1-3 : goto to-1, 4 : goto to-2 }".to_owned();
        assert_eq!(shares(&chain(&whole, "spread")), [all].into());
        let text = change(&end, &without(&end, &[1]));
        let retried = |next: &str| format!(" {{ 0 : goto to-0, 1-3 : goto {next}, 4 : goto to-2 }}");
        assert_eq!(shares(&chain(&text, "spread")), [retried("again-1")].into());
        assert_eq!(shares(&chain(&text, "again-1")), [retried("again-2")].into());
        assert_eq!(shares(&chain(&text, "again-3")), [" { 0 : goto to-0, 1 : goto to-2 }".to_owned()].into());
        let seed =
            |rules: &[&str]| rules[0].split_once("seed ").unwrap().1.split_once(' ').unwrap().0.to_owned();
        let seeds: BTreeSet<String> =
            ["spread", "again-1", "again-2", "again-3"].iter().map(|c| seed(&chain(&text, c))).collect();
        assert_eq!(seeds.len(), 4, "each try by another hash");
    }

    #[test]
    fn flows_are_told_apart_as_deep_as_vis_may_lie() {
        let end = end(Spread::Flow, &[1, 1]);
        let text = ruleset(&end);
        let rules = chain(&text, "spread");
        assert_eq!(rules.len(), 4, "with ports and without, in a tunnel and outside");
        // Protocol 4, no fragment, in front of the inner addresses and ports at byte 32.
        assert!(rules[0].starts_with("@nh,0,8 0x45 @nh,48,16 & 0x3fff == 0 @nh,72,8 4 @nh,160,8 0x45"));
        assert!(rules[0].contains("@nh,232,8 { 6, 17 } jhash @nh,256,96 mod 2"));
        assert!(rules[3].starts_with("jhash @nh,96,64 mod 2"));
    }

    /// What a change flushes is there, and it makes all of it anew.
    #[test]
    fn a_change_is_about_the_chains_of_the_ruleset() {
        for spread in [Spread::Flow, Spread::Packet, Spread::Duplicate] {
            let end = end(spread, &[1, 1, 1]);
            let whole = ruleset(&end);
            for broken in [&[][..], &[1], &[0, 2]] {
                let text = change(&end, &without(&end, broken));
                let flushed: BTreeSet<&str> =
                    text.lines().filter_map(|l| l.strip_prefix("flush chain netdev v-b ")).collect();
                assert!(flushed.contains("spread"));
                for name in flushed {
                    let _there = (chain(&whole, name), chain(&text, name));
                }
            }
        }
    }

    #[test]
    fn what_comes_in_is_a_probe_or_comes_by_the_link() {
        let text = ruleset(&end(Spread::Packet, &[1, 1]));
        let rules = chain(&text, "in");
        assert!(rules[0].starts_with("ip saddr 10.9.0.1 ip daddr 10.9.0.0 ip length 40"), "{}", rules[0]);
        assert!(
            rules[0].ends_with("icmp id 0x7669 @th,64,96 0x76696c616220737472616e64 drop"),
            "{}",
            rules[0]
        );
        assert_eq!(rules[1..], ["fwd to \"v-b\""]);
        assert!(text.contains("device \"s-1\" priority filter; policy drop;"));
    }
}
