//! The items of `gateways:`. Trees go in; [`GatewaySpec`]s with unbound names come out. It never asks where a node
//! stands.

use super::LinkSpec;
use super::decode::plain_link;
use super::diag::Spanned;
use super::fields::{Errors, Fields, boolean, number, text};
use super::yaml::{Tree, Value};

/// A wire between nodes of different networks on one base node.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewaySpec {
    /// What it connects: `blue/g -- red/g`, always a chain.
    pub link: LinkSpec,
    /// The network of the first node gets a default route through it.
    pub default: bool,
}

/// Reads one item of `gateways:`.
pub(super) fn gateway(tree: &Tree, errors: &mut Errors) -> Option<GatewaySpec> {
    if matches!(tree.value, Value::Scalar(_)) {
        let chain = text(tree, "a gateway", errors)?;
        return Some(GatewaySpec { link: plain_link(chain), default: false });
    }
    let mut fields = Fields::new(tree, "a gateway", errors)?;
    let chain = fields.require("link", errors).and_then(|t| text(t, "`link`", errors));
    let name = fields.take("name").and_then(|t| text(t, "`name`", errors));
    let cost = fields.take("cost").and_then(|t| number(t, "`cost`", 1..=65_535, errors)).unwrap_or(1);
    let mtu = fields.take("mtu").and_then(|t| {
        let mtu = number(t, "`mtu`", 68..=65_535, errors)?;
        Some(Spanned::new(mtu, t.span))
    });
    let default = fields.take("default").and_then(|t| boolean(t, "`default`", errors)).unwrap_or(false);
    fields.finish(errors);
    let link = LinkSpec { span: tree.span, name, cost, mtu, ..plain_link(chain?) };
    Some(GatewaySpec { link, default })
}
