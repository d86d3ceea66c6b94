//! Who reaches whom. Pairs of nodes go in, round-trip times or reasons come out; [`verify`] does so for a whole
//! lab, layer by layer, and says what is broken first. It never asks more than echo requests can tell.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::patience::{HOPELESS, Ways};
use super::probe::{Battery, Fate, Pace, Shot};
use super::wire::{TIME_EXCEEDED, UNREACHABLE};
use super::{Context, across, names};
use crate::error::{Error, Kind, Result};
use crate::model::{EndId, GATEWAYS, NetId, Network, NodeId, Routing};
use crate::routing::Journeys;

/// Networks with at most this many nodes are verified completely, ordered pair by ordered pair.
const ALL_PAIRS: usize = 32;
/// Pairs verified in larger networks, besides the two ends of every link.
const SAMPLE: usize = 200;
/// Time a network has to answer when a lab comes up: neighbour resolution and program start included.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(150);

/// What became of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    pub from: NodeId,
    pub to: NodeId,
    /// Round-trip time, or why there is none.
    pub answer: std::result::Result<Duration, String>,
}

/// A network of which every probed pair answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// [`GATEWAYS`]: the pairs are of different networks.
    pub net: NetId,
    pub pairs: usize,
}

/// Sends an echo request for each ordered pair, again and again until all have answered or `deadline` has passed, or
/// later where impairments take their time.
/// The source address is the sender's own choice.
///
/// # Errors
/// If a namespace or a socket cannot be used. A pair that does not answer is no error.
pub fn reach(ctx: &Context<'_>, pairs: &[(NodeId, NodeId)], deadline: Duration) -> Result<Vec<Reached>> {
    let mut battery = Battery::open(ctx, pairs.iter().map(|(from, _)| *from), false)?;
    let shots: Vec<_> =
        pairs.iter().filter_map(|(from, to)| Some(Shot::new(*from, ctx.lab.address(*to)?))).collect();
    let pace =
        Pace { retry: RETRY, attempts: u32::MAX, errors_settle: false, deadline, linger: Duration::ZERO };
    let pace = Ways::there_and_back(ctx, pairs.iter().copied()).persistent(&pace, shots.len());
    let mut fates = battery.fire(&shots, &pace)?.into_iter();
    let reached = pairs.iter().map(|(from, to)| {
        let fate = ctx.lab.address(*to).and_then(|_| fates.next());
        let answer = fate.map_or_else(|| Err("it has no address".into()), |fate| answer(ctx, from.net, fate));
        Reached { from: *from, to: *to, answer }
    });
    Ok(reached.collect())
}

fn answer(ctx: &Context<'_>, net: NetId, fate: Fate) -> std::result::Result<Duration, String> {
    match fate {
        Fate::Answered { after, .. } => Ok(after),
        Fate::Silent | Fate::Refused { .. } | Fate::Unsent(_) => Err(reason(ctx, net, fate)),
    }
}

/// A fate in words, addresses named as seen in `net`.
pub(crate) fn reason(ctx: &Context<'_>, net: NetId, fate: Fate) -> String {
    match fate {
        Fate::Silent => "no answer".into(),
        Fate::Answered { by, .. } => format!("{} answered", names::name_of(ctx.lab, net, by)),
        Fate::Refused { by, kind, code, mtu } => {
            format!("{} says {}", names::name_of(ctx.lab, net, by), icmp_words(kind, code, mtu))
        }
        Fate::Unsent(errno) => format!("not sent: {}", errno.desc()),
    }
}

fn icmp_words(kind: u8, code: u8, mtu: u16) -> String {
    match (kind, code) {
        (UNREACHABLE, 0) => "network unreachable".into(),
        (UNREACHABLE, 1) => "host unreachable".into(),
        (UNREACHABLE, 2) => "protocol unreachable".into(),
        (UNREACHABLE, 3) => "port unreachable".into(),
        (UNREACHABLE, 4) => format!("fragmentation needed, MTU {mtu}"),
        (UNREACHABLE, 13) => "administratively prohibited".into(),
        (TIME_EXCEEDED, 0) => "TTL exceeded".into(),
        _ => format!("ICMP type {kind} code {code}"),
    }
}

/// Links that a packet sent with TTL 64 can pass: the last router may leave it 1.
const FARTHEST: usize = 64;

/// Probes every network, the base first, then the VIs by depth, then across gateways; stops at the first network with a pair that the
/// routes predict to work and that does not. `progress` hears of each network when it is done.
///
/// # Errors
/// Names the first failing pair, its path as predicted, and whether the underlay of the first link works.
pub fn verify(ctx: &Context<'_>, progress: &mut dyn FnMut(&Verified)) -> Result<Vec<Verified>> {
    verify_within(ctx, PATIENCE, progress)
}

/// The same, with this much time for each network to answer.
///
/// # Errors
/// As [`verify`].
pub fn verify_within(
    ctx: &Context<'_>,
    patience: Duration,
    progress: &mut dyn FnMut(&Verified),
) -> Result<Vec<Verified>> {
    let mut networks: Vec<&Network> = ctx.lab.named_networks().collect();
    networks.sort_by_key(|n| (n.depth, n.id));
    let mut parts: Vec<(NetId, Vec<(NodeId, NodeId)>)> =
        networks.iter().map(|network| (network.id, expected_pairs(ctx, network))).collect();
    if !ctx.lab.gateways.is_empty() {
        parts.push((GATEWAYS, across::pairs(ctx)));
    }
    let mut done = Vec::new();
    for (net, pairs) in parts {
        let reached = reach(ctx, &pairs, patience)?;
        if let Some(failed) = reached.iter().find(|r| r.answer.is_err()) {
            return Err(diagnose(ctx, failed, &reached));
        }
        done.push(Verified { net, pairs: pairs.len() });
        done.iter().last().into_iter().for_each(&mut *progress);
    }
    Ok(done)
}

/// What must work. Where routes are not vilab's, in the network itself or below, nothing is known beyond its wires.
fn expected_pairs(ctx: &Context<'_>, network: &Network) -> Vec<(NodeId, NodeId)> {
    let below = network.underlays().flat_map(|net| ctx.lab.foundations(net));
    if below.into_iter().any(|net| ctx.lab.net(net).routing == Routing::None) {
        return Vec::new();
    }
    let mut pairs = pairs_to_verify(network);
    pairs.retain(|(from, to)| in_reach(ctx, *from, *to) && in_reach(ctx, *to, *from));
    let journeys = Journeys::new(ctx.lab, ctx.rib);
    let arrives = |from, to| journeys.at_worst(from, to).is_some_and(|share| share >= HOPELESS);
    pairs.retain(|(from, to)| arrives(*from, *to));
    pairs
}

/// Whether the routes predict that a packet gets from one node to another.
pub(crate) fn in_reach(ctx: &Context<'_>, from: NodeId, to: NodeId) -> bool {
    predicted(ctx, from, to).is_some_and(|path| path.len() <= FARTHEST)
}

/// The path the routes predict between two nodes.
pub(crate) fn predicted(ctx: &Context<'_>, from: NodeId, to: NodeId) -> Option<Vec<EndId>> {
    ctx.rib.path(ctx.lab, from, ctx.lab.address(to)?)
}

/// All ordered pairs of a small network; of a large one the ends of each link and a sample that is the same every
/// time.
fn pairs_to_verify(network: &Network) -> Vec<(NodeId, NodeId)> {
    let id = |index| NodeId { net: network.id, index };
    let count = network.nodes.len();
    let mut pairs = BTreeSet::new();
    if count <= ALL_PAIRS {
        pairs.extend((0..count * count).map(|i| (id(i / count), id(i % count))));
    } else {
        for link in &network.links {
            let [a, b] = [link.ends[0].node, link.ends[1].node];
            pairs.extend([(a, b), (b, a)]);
        }
        // Multiplying by odd constants far apart spreads the sample without chance.
        pairs.extend((0..SAMPLE).map(|i| (id(i * 7919 % count), id((i * 104_729 + count / 2) % count))));
    }
    pairs.into_iter().filter(|(a, b)| a != b).collect()
}

fn diagnose(ctx: &Context<'_>, failed: &Reached, all: &[Reached]) -> Error {
    let lab = ctx.lab;
    let broken = all.iter().filter(|r| r.answer.is_err()).count();
    let why = failed.answer.as_ref().err().map_or("no answer", String::as_str);
    let mut error = Error::new(
        Kind::Failed,
        format!("{} does not reach {}: {why}", lab.full_name(failed.from), lab.full_name(failed.to)),
    )
    .because(match failed.from.net == failed.to.net {
        true => format!("{broken} of {} pairs of network {} fail", all.len(), lab.net(failed.from.net).name),
        false => format!("{broken} of {} pairs across gateways fail", all.len()),
    });
    let Some(ends) = predicted(ctx, failed.from, failed.to) else { return error };
    error = error.because(format!("predicted path: {}", names::path(lab, failed.from, &ends)));
    match ends.first() {
        Some(first) => error.because(underlay(ctx, *first)),
        None => error,
    }
}

/// Whether what lies below the link of `end` works.
fn underlay(ctx: &Context<'_>, end: EndId) -> String {
    let (lab, link) = (ctx.lab, ctx.lab.link(end.link));
    let (near, far) = (lab.end(end), lab.peer(end));
    let (near_at, far_at) = (lab.site(near).at, lab.site(far).at);
    let (Some(a), Some(b)) = (near_at, far_at) else {
        let works = answers(ctx, near.node, far.addr);
        return format!(
            "the first link, {}, {}",
            link.name,
            if works { "works" } else { "does not work itself" }
        );
    };
    if a == b {
        return format!("the first link, {}, stays on {}", link.name, lab.full_name(a));
    }
    let works = lab.address(b).is_some_and(|to| answers(ctx, a, to));
    let verdict = if works { "works" } else { "does not work" };
    format!("below the first link, {}, {} {verdict}", link.name, names::pair(lab, a, b))
}

fn answers(ctx: &Context<'_>, from: NodeId, to: Ipv4Addr) -> bool {
    echo(ctx, from, to).is_ok_and(|fate| matches!(fate, Fate::Answered { .. }))
}

/// One echo request, tried a few times.
pub(crate) fn echo(ctx: &Context<'_>, from: NodeId, to: Ipv4Addr) -> Result<Fate> {
    let pace = Pace {
        retry: RETRY * 2,
        attempts: 3,
        errors_settle: false,
        deadline: Duration::from_secs(2),
        linger: Duration::ZERO,
    };
    let owner = ctx.lab.owner(from.net, to);
    let pace = Ways::there_and_back(ctx, owner.map(|to| (from, to))).persistent(&pace, 1);
    let fates = Battery::open(ctx, [from], false)?.fire(&[Shot::new(from, to)], &pace)?;
    fates.first().copied().ok_or_else(|| Error::bug("a shot without a fate"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::model;

    fn ring(nodes: usize) -> model::Lab {
        let mut text = "name: ring\nbase:\n  links:\n".to_owned();
        for i in 0..nodes {
            writeln!(text, "    - n{i} -- n{}", (i + 1) % nodes).unwrap();
        }
        model::parse(Path::new("lab.yaml"), &text).unwrap()
    }

    #[test]
    fn pairs_beyond_the_reach_of_a_packet_are_not_expected() {
        let lab = ring(200);
        let (rib, namespaces) = (crate::routing::Rib::compute(&lab), crate::lab::Namespaces::at("nowhere"));
        let ctx = Context {
            lab: &lab,
            rib: &rib,
            namespaces: &namespaces,
            dataplanes: &[],
            netem: true,
            fastpath_control: None,
            strands_control: None,
        };
        let pairs = expected_pairs(&ctx, lab.base());
        assert!(pairs.len() >= 400, "the ends of all links at least");
        assert!(pairs.iter().all(|(a, b)| predicted(&ctx, *a, *b).is_some_and(|p| p.len() <= 64)));
    }

    #[test]
    fn without_routes_there_is_nothing_to_expect() {
        let expected = |text: &str| {
            let lab = model::parse(Path::new("lab.yaml"), text).unwrap();
            let (rib, namespaces) =
                (crate::routing::Rib::compute(&lab), crate::lab::Namespaces::at("nowhere"));
            let ctx = Context {
                lab: &lab,
                rib: &rib,
                namespaces: &namespaces,
                dataplanes: &[],
                netem: true,
                fastpath_control: None,
                strands_control: None,
            };
            lab.networks.iter().map(|network| expected_pairs(&ctx, network).len()).collect::<Vec<_>>()
        };
        let lab = |base: &str, vi: &str| {
            format!(
                "name: t\nbase: {{links: [X -- Y], routing: {base}}}\nvis:\n  v:\n    routing: {vi}\n    \
                 nodes: {{a: X, r: {{at: Y, role: router}}}}\n    links: [a -- r]\n"
            )
        };
        assert_eq!(expected(&lab("static", "static")), [2, 2]);
        assert_eq!(expected(&lab("static", "none")), [2, 0], "the router knows no way back to the host");
        assert_eq!(expected(&lab("none", "static")), [0, 0], "nothing leads through the base");
    }

    #[test]
    fn small_networks_are_verified_pair_by_pair() {
        assert_eq!(pairs_to_verify(ring(32).base()).len(), 32 * 31);
    }

    #[test]
    fn of_large_networks_every_link_and_the_same_sample_each_time() {
        let lab = ring(100);
        let pairs = pairs_to_verify(lab.base());
        assert_eq!(pairs, pairs_to_verify(lab.base()));
        for link in &lab.base().links {
            assert!(pairs.contains(&(link.ends[0].node, link.ends[1].node)));
        }
        assert!((250..=2 * 100 + SAMPLE).contains(&pairs.len()), "{}", pairs.len());
        assert!(pairs.iter().all(|(a, b)| a != b));
    }
}
