//! The actions `down` and `up` of a test run. Links and nodes go in; the kernel's devices change, and [`Actions`]
//! remembers how they were. It never leaves a device changed: what is not undone is undone on drop.

use std::collections::{BTreeMap, BTreeSet};

use super::{Context, devices};
use crate::error::Result;
use crate::model::{EndId, NodeId, Target};

/// The links changed so far.
#[derive(Debug)]
pub struct Actions<'a> {
    ctx: &'a Context<'a>,
    /// Whether each end touched was up before.
    before: BTreeMap<EndId, bool>,
}

impl<'a> Actions<'a> {
    #[must_use]
    pub fn new(ctx: &'a Context<'a>) -> Self {
        Self { ctx, before: BTreeMap::new() }
    }

    /// Sets both ends of a link, or of all links of a node, down.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn down(&mut self, target: Target) -> Result<()> {
        self.change(target, false)
    }

    /// Sets both ends up, and puts back the routes that the kernel forgot when they went down.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn up(&mut self, target: Target) -> Result<()> {
        self.change(target, true)
    }

    /// Puts every end back as it was before the first action, and the routes with them.
    ///
    /// # Errors
    /// The first failure; the rest is put back all the same.
    pub fn undo(&mut self) -> Result<()> {
        let before = std::mem::take(&mut self.before);
        let (up, down): (Vec<_>, Vec<_>) = before.into_iter().partition(|(_, up)| *up);
        let ends = |list: Vec<(EndId, bool)>| list.into_iter().map(|(end, _)| end).collect::<Vec<_>>();
        let downed = self.set(&ends(down), false);
        let upped = self.set(&ends(up), true);
        downed.and(upped)
    }

    fn change(&mut self, target: Target, up: bool) -> Result<()> {
        let ends = self.ends(target);
        for (node, ends) in self.by_node(&ends) {
            for (end, was) in devices::are_up(self.ctx, node, &ends)? {
                self.before.entry(end).or_insert(was);
            }
        }
        self.set(&ends, up)
    }

    fn ends(&self, target: Target) -> Vec<EndId> {
        let links: BTreeSet<_> = match target {
            Target::Link(link) => [link].into(),
            Target::Node(node) => {
                let node = self.ctx.lab.node(node);
                node.ends.iter().chain(&node.wires).map(|e| e.link).collect()
            }
        };
        links.into_iter().flat_map(|link| [0, 1].map(|side| EndId { link, side })).collect()
    }

    fn by_node(&self, ends: &[EndId]) -> BTreeMap<NodeId, Vec<EndId>> {
        let mut nodes = BTreeMap::<NodeId, Vec<EndId>>::new();
        for end in ends {
            nodes.entry(self.ctx.lab.end(*end).node).or_default().push(*end);
        }
        nodes
    }

    /// All devices first, then all routes: a route needs its device up.
    fn set(&self, ends: &[EndId], up: bool) -> Result<()> {
        let nodes = self.by_node(ends);
        let mut result = Ok(());
        for (node, ends) in &nodes {
            result = result.and(devices::set_up(self.ctx, *node, ends, up));
        }
        for node in nodes.keys().filter(|_| up) {
            result = result.and(devices::restore_routes(self.ctx, *node));
        }
        result
    }
}

impl Drop for Actions<'_> {
    fn drop(&mut self) {
        drop(self.undo());
    }
}
