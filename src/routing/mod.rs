//! Shortest paths. A [`Lab`] goes in; a [`Rib`], every route of every namespace, comes out. It never looks at the
//! kernel: `up` and the tests compare the two.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::{EndId, Lab, NodeId};

/// Computed routes of all nodes, without the connected ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rib {
    pub tables: BTreeMap<NodeId, Vec<Route>>,
}

/// One prefix and all its equal-cost next hops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: Ipv4Net,
    /// The node's own ends through which to leave; the next hop's address is that of the peer end.
    pub hops: Vec<EndId>,
    /// Preferred source: the host address, where the node has one.
    pub src: Option<Ipv4Addr>,
}

impl Rib {
    #[must_use]
    pub fn compute(_lab: &Lab) -> Self {
        Self::default()
    }

    /// The ends through which a packet leaves each node on its way from `from` to `to`, an address of the same
    /// network; the first next hop where several are equal. `None` where there is no route.
    #[must_use]
    pub fn path(&self, _lab: &Lab, _from: NodeId, _to: Ipv4Addr) -> Option<Vec<EndId>> {
        None
    }
}
