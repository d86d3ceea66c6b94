//! A graph as a Mermaid flowchart, which several forges and editors draw: a subgraph for each plane, dotted edges to where
//! nodes are placed. A graph goes in, text comes out. It never says where a node lies: who draws it decides that.

use std::fmt::Write as _;

use super::{Graph, Place, Plane, Spot};
use crate::model::Role;

/// Text of a flowchart.
#[must_use]
pub fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart TB\n");
    // The highest planes first, for Mermaid draws from the top.
    for (index, plane) in graph.planes.iter().enumerate().rev() {
        subgraph(&mut out, index, plane);
    }
    for (index, plane) in graph.planes.iter().enumerate() {
        for (node, spot) in plane.nodes.iter().enumerate() {
            let own = id(Place { plane: index, node });
            spot.at.iter().for_each(|at| line(&mut out, format_args!("  {own} -.- {}", id(*at))));
            spot.ports.iter().for_each(|p| line(&mut out, format_args!("  {} -. port .- {own}", id(*p))));
        }
    }
    for wire in &graph.gateways {
        let [a, b] = wire.ends.map(id);
        line(&mut out, format_args!("  {a} == gateway === {b}"));
    }
    out
}

fn subgraph(out: &mut String, index: usize, plane: &Plane) {
    line(out, format_args!("  subgraph p{index} [{}]", quoted(&plane.name)));
    for (node, spot) in plane.nodes.iter().enumerate() {
        let [open, close] = brackets(spot);
        let own = id(Place { plane: index, node });
        line(out, format_args!("    {own}{open}{}{close}", quoted(&spot.name)));
    }
    for link in &plane.links {
        let [a, b] = link.ends.map(|node| id(Place { plane: index, node }));
        let cost = if link.cost == 1 { String::new() } else { format!("|{}|", link.cost) };
        line(out, format_args!("    {a} ---{cost} {b}"));
    }
    out.push_str("  end\n");
}

/// The shape of a node: hosts are boxes, routers round.
fn brackets(node: &Spot) -> [&'static str; 2] {
    match node.role {
        _ if node.played_by.is_some() => ["{{", "}}"],
        Role::Host => ["[", "]"],
        Role::Router => ["((", "))"],
        Role::Both => ["(((", ")))"],
        Role::Phantom => ["[/", "/]"],
    }
}

/// Names of nodes may be words of Mermaid's; numbers are not.
fn id(at: Place) -> String {
    format!("p{}n{}", at.plane, at.node)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('#', "#35;").replace('"', "#quot;"))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _never = out.write_fmt(text);
    out.push('\n');
}
