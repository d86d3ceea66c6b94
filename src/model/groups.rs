//! Addresses by instance: nodes whose names begin alike up to a dot, as those of an instance of a template do, have one
//! prefix to themselves. A network goes in; for each node and link the place from which to number comes out. It looks at
//! names alone, so a flat lab is numbered as the one it was made of.

use std::collections::BTreeMap;

use super::{Lab, Network};

/// Groups of all levels, and how far down they are kept apart.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Each behind the one it is in.
    groups: Vec<Group>,
    nodes: Vec<Option<usize>>,
    links: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Group {
    parent: Option<usize>,
    /// 1 for those that are in no other.
    level: usize,
    hosts: u32,
    links: u32,
}

/// Where the members of each group are numbered from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Start {
    pub(super) hosts: u32,
    pub(super) links: u32,
}

impl Groups {
    /// The groups of a network in which blocks of all of them have `limit` addresses at most: where they would take
    /// more, those of the innermost levels are not kept apart.
    pub(super) fn of(lab: &Lab, network: &Network, limit: u64) -> Self {
        let all = Self::all(lab, network);
        let deepest = all.groups.iter().map(|g| g.level).max().unwrap_or(0);
        let fitting = (1..=deepest).rev().map(|level| all.down_to(level));
        fitting.into_iter().find(|groups| u64::from(groups.size()) <= limit).unwrap_or_default()
    }

    fn all(lab: &Lab, network: &Network) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
        let mut nodes = Vec::new();
        for node in &network.nodes {
            let mut inner: Option<usize> = None;
            for (dot, _) in node.name.match_indices('.') {
                let level = inner.map_or(1, |g| groups[g].level + 1);
                let index = *by_name.entry(&node.name[..dot]).or_insert(groups.len());
                if index == groups.len() {
                    groups.push(Group { parent: inner, level, hosts: 0, links: 0 });
                }
                inner = Some(index);
            }
            if let (Some(group), true) = (inner, node.host.is_some()) {
                groups[group].hosts += 1;
            }
            nodes.push(inner);
        }
        let mut links = Vec::new();
        for link in &network.links {
            let ends = link.ends.each_ref().map(|end| nodes[lab.node(end.node).id.index]);
            let common = common(&groups, ends);
            if let Some(group) = common {
                groups[group].links += 1;
            }
            links.push(common);
        }
        Self { groups, nodes, links }
    }

    /// The same, all that is deeper counted to the groups of this level.
    fn down_to(&self, level: usize) -> Self {
        let mut kept: Vec<Group> = Vec::new();
        let mut new: Vec<usize> = Vec::new();
        for group in &self.groups {
            let parent = group.parent.map(|p| new[p]);
            if group.level <= level {
                new.push(kept.len());
                kept.push(Group { parent, ..*group });
            } else {
                let into = parent.unwrap_or_default();
                kept[into].hosts += group.hosts;
                kept[into].links += group.links;
                new.push(into);
            }
        }
        let moved = |of: &[Option<usize>]| of.iter().map(|g| g.map(|g| new[g])).collect();
        Self { groups: kept, nodes: moved(&self.nodes), links: moved(&self.links) }
    }

    /// The number of addresses of each group, a power of two; `None` where there are too many to count.
    fn sizes(&self) -> Option<Vec<u32>> {
        let mut sizes: Vec<u32> = Vec::new();
        for group in &self.groups {
            sizes.push(group.links.checked_mul(2)?.checked_add(group.hosts)?);
        }
        for (index, group) in self.groups.iter().enumerate().rev() {
            sizes[index] = sizes[index].max(2).checked_next_power_of_two()?;
            if let Some(parent) = group.parent {
                sizes[parent] = sizes[parent].checked_add(sizes[index])?;
            }
        }
        Some(sizes)
    }

    /// Addresses of all groups together, a power of two, or 0 without groups.
    pub(super) fn size(&self) -> u32 {
        let Some(sizes) = self.sizes() else { return u32::MAX };
        let top = self.groups.iter().zip(sizes).filter(|(group, _)| group.parent.is_none());
        let sum = top.map(|(_, size)| size).try_fold(0u32, u32::checked_add);
        match sum {
            Some(0) => 0,
            sum => sum.and_then(u32::checked_next_power_of_two).unwrap_or(u32::MAX),
        }
    }

    /// Where each group's hosts and links start, the first block being at `first`. The greatest blocks come first, so
    /// that each begins at a multiple of its size.
    pub(super) fn starts(&self, first: u32) -> Vec<Start> {
        let sizes = self.sizes().unwrap_or_default();
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|g| (self.groups[*g].level, std::cmp::Reverse(sizes[*g]), *g));
        let mut free = first;
        let mut inside: Vec<u32> = vec![0; sizes.len()];
        for group in order {
            let next = match self.groups[group].parent {
                Some(parent) => &mut inside[parent],
                None => &mut free,
            };
            let start = *next;
            *next += sizes[group];
            inside[group] = start;
        }
        let start = |(links, group): (&u32, &Group)| Start { links: *links, hosts: links + 2 * group.links };
        inside.iter().zip(&self.groups).map(start).collect()
    }

    /// The group of a node, by index.
    pub(super) fn of_node(&self, index: usize) -> Option<usize> {
        self.nodes.get(index).copied().flatten()
    }

    /// The group of a link, by index: the innermost that both ends are in.
    pub(super) fn of_link(&self, index: usize) -> Option<usize> {
        self.links.get(index).copied().flatten()
    }
}

/// The innermost group that both are in.
fn common(groups: &[Group], [mut a, mut b]: [Option<usize>; 2]) -> Option<usize> {
    while a != b {
        let level = |g: Option<usize>| g.map_or(0, |g| groups[g].level);
        match level(a) >= level(b) {
            true => a = groups[a?].parent,
            false => b = groups[b?].parent,
        }
    }
    a
}
