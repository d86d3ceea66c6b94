//! How the strands of links over parallel underlays are. A lab goes in; for each end of each such link, what is known of
//! its strands by what carries it comes out. It never judges a strand: the fast path has, or what watches the kernel's.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Context;
use crate::error::Result;
use crate::fastpath::StrandState;
use crate::fastpath::control::Client;
use crate::model::{Link, LinkId};

/// The strands of one link, by the side that sends, in the order of `over`; none where an end is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStrands {
    pub link: LinkId,
    pub sides: [Vec<StrandState>; 2],
}

/// Of every link that has any.
///
/// # Errors
/// If the fast path, or what watches strands, does not answer.
pub fn strands(ctx: &Context<'_>) -> Result<Vec<LinkStrands>> {
    let links = || ctx.lab.networks.iter().flat_map(|n| &n.links).filter(|l| l.parallel.is_some());
    if links().next().is_none() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for control in ctx.fastpath_control.iter().chain(&ctx.strands_control) {
        all.extend(Client::connect(control)?.strands()?);
    }
    let mut found: BTreeMap<(&str, &str), &Vec<StrandState>> = BTreeMap::new();
    found.extend(all.iter().map(|i| ((i.netns.as_str(), i.dev.as_str()), &i.strands)));
    let side = |link: &Link, side: usize| {
        let end = &link.ends[side];
        found.get(&(ctx.lab.netns(end), end.dev.as_str())).map(|s| (*s).clone()).unwrap_or_default()
    };
    Ok(links().map(|l| LinkStrands { link: l.id, sides: [0, 1].map(|s| side(l, s)) }).collect())
}
