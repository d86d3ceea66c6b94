//! Who carries out the impairment of each end of a link, and how. A lab, its dataplanes and whether the machine has
//! netem go in; a [`Way`] comes out. It never touches the kernel.

use serde::{Deserialize, Serialize};

use super::build::needs_break;
use super::{Op, Plan, Stage};
use crate::fastpath::Config;
use crate::fastpath::config::ShapedDevice;
use crate::model::{BASE, Dataplane, EndId, Impairment, Lab};
use crate::shape;

/// The shortest delay. A queue lifts the kernel's limit on nested devices, but not always the nesting: whoever puts a packet
/// into it takes out those whose time has come, in the same call.
const BREAK_US: u64 = 1;
/// A rate that takes nobody's time and yet makes netem keep the order of packets: without one, jitter lets them pass
/// each other.
const IN_ORDER_BPS: u64 = 1_000_000_000_000;
/// An Ethernet header, which the rate of a link does not count.
const ETHERNET: i32 = 14;

/// The parameters of a netem qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netem {
    pub delay_us: u64,
    pub jitter_us: u64,
    pub loss_ppm: u32,
    pub rate_bps: Option<u64>,
    /// Bytes added to the length of each packet for the rate.
    pub overhead: i32,
    /// Packets held at most.
    pub limit: u32,
}

impl Netem {
    /// On a device whose packets have Ethernet headers or not.
    #[must_use]
    pub fn new(to: &Impairment, ethernet: bool) -> Self {
        let Impairment { delay_us, jitter_us, loss_ppm, rate_bps } = *to;
        let rate_bps = rate_bps.or((jitter_us > 0).then_some(IN_ORDER_BPS));
        let overhead = if ethernet { -ETHERNET } else { 0 };
        Self { delay_us, jitter_us, loss_ppm, rate_bps, overhead, limit: shape::limit(to) }
    }

    /// The same, with a delay at any rate, so that the kernel counts nested devices anew.
    #[must_use]
    pub fn with_break(self) -> Self {
        Self { delay_us: self.delay_us.max(BREAK_US), ..self }
    }
}

/// Who impairs what leaves an end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The kernel, by a root qdisc.
    Netem { ns: String, dev: String, netem: Netem },
    /// The engine, as part of forwarding.
    Interface { ns: String, dev: String },
    /// The engine, from outside the device.
    Device { node: String, ns: String, dev: String, ethernet: bool },
}

/// Who carries out `to` for what leaves `end`.
#[must_use]
pub fn way(lab: &Lab, dataplanes: &[Dataplane], netem: bool, end: EndId, to: &Impairment) -> Way {
    let base = lab.site(lab.end(end)).base;
    let (ns, dev) = (lab.netns(lab.end(end)).to_owned(), lab.end(end).dev.clone());
    let ethernet = end.link.net == BASE;
    if !ethernet && dataplanes.get(base.index) == Some(&Dataplane::Fastpath) {
        return Way::Interface { ns, dev };
    }
    if !netem {
        return Way::Device { node: lab.node(base).name.clone(), ns, dev, ethernet };
    }
    let plain = Netem::new(to, ethernet);
    let breaks = !ethernet && needs_break(lab, end.link.net);
    Way::Netem { ns, dev, netem: if breaks { plain.with_break() } else { plain } }
}

/// Writes the impairments of a lab into what the engine is told of it.
pub fn impair(lab: &Lab, dataplanes: &[Dataplane], netem: bool, config: &mut Config) {
    config.devices.clear();
    let links = lab.networks.iter().flat_map(|n| &n.links);
    for (link, side) in links.flat_map(|link| [(link, 0), (link, 1)]) {
        let to = link.impair[side];
        match way(lab, dataplanes, netem, EndId { link: link.id, side }, &to) {
            Way::Netem { .. } => {}
            Way::Interface { ns, dev } => {
                let partitions = &config.partitions;
                let mut interfaces = config.interfaces.iter_mut();
                let found = interfaces.find(|i| i.dev == dev && partitions[i.partition].netns == ns);
                found.into_iter().for_each(|i| i.impair = to);
            }
            Way::Device { node, ns, dev, ethernet } if !to.is_none() => {
                config.devices.push(ShapedDevice { node, netns: ns, dev, ethernet, impair: to });
            }
            Way::Device { .. } => {}
        }
    }
}

/// The plan of a lab whose impairments have been changed since it came up.
#[must_use]
pub fn impaired(plan: &Plan, lab: &Lab, config: Option<Config>) -> Plan {
    let mut plan = plan.clone();
    for stage in &mut plan.stages {
        stage.ops.retain(|op| !matches!(op, Op::AddNetem { .. }));
    }
    let links = lab.networks.iter().flat_map(|n| &n.links);
    let ends = links.flat_map(|link| [0, 1].map(|side| (EndId { link: link.id, side }, link.impair[side])));
    let qdiscs = ends.filter_map(|(end, to)| qdisc(lab, &plan.dataplanes, plan.netem, end, &to));
    let ops = qdiscs.collect();
    plan.stages.push(Stage { name: "impairments".to_owned(), ops });
    plan.fastpath = config;
    plan
}

/// What the kernel is given for what leaves an end, if it is impaired or must break nesting.
pub(super) fn qdisc(
    lab: &Lab,
    dataplanes: &[Dataplane],
    netem: bool,
    end: EndId,
    to: &Impairment,
) -> Option<Op> {
    let needed = !to.is_none() || (end.link.net != BASE && needs_break(lab, end.link.net));
    match way(lab, dataplanes, netem, end, to) {
        Way::Netem { ns, dev, netem } if needed => Some(Op::AddNetem { ns, dev, netem }),
        Way::Netem { .. } | Way::Interface { .. } | Way::Device { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netem_keeps_order_and_leaves_ethernet_headers_out() {
        let to = Impairment { delay_us: 9_000, jitter_us: 1_000, ..Impairment::default() };
        let netem = Netem::new(&to, true);
        assert_eq!((netem.rate_bps, netem.overhead), (Some(IN_ORDER_BPS), -14));
        let plain = Netem::new(&Impairment { jitter_us: 0, ..to }, false);
        assert_eq!((plain.rate_bps, plain.overhead), (None, 0));
        assert_eq!(plain.with_break(), plain);
        assert_eq!(Netem::new(&Impairment::default(), false).with_break().delay_us, 1);
    }
}
