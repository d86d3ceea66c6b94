//! A graph as DOT, for Graphviz: a cluster for each plane, dashed edges to where nodes are placed. A graph goes in, text
//! comes out. It never says where a node lies: Graphviz decides that.

use std::fmt::Write as _;

use super::{Graph, Place, Plane, Spot};
use crate::model::Role;

/// Text of a graph named as the lab. Graphviz draws it with `dot -Tsvg`.
#[must_use]
pub fn dot(graph: &Graph) -> String {
    let mut out = format!(
        "graph {} {{\n  rankdir=TB; compound=true; node [fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\"];\n",
        quoted(&graph.lab)
    );
    if let Some(about) = &graph.description {
        line(&mut out, format_args!("  label={}; labelloc=b;", quoted(about)));
    }
    // The highest planes first, for Graphviz draws from the top.
    for (index, plane) in graph.planes.iter().enumerate().rev() {
        cluster(&mut out, graph, index, plane);
    }
    for (index, plane) in graph.planes.iter().enumerate() {
        for (node, spot) in plane.nodes.iter().enumerate() {
            let own = id(graph, Place { plane: index, node });
            for at in &spot.at {
                line(&mut out, format_args!("  {own} -- {} [style=dashed];", id(graph, *at)));
            }
            for port in &spot.ports {
                line(&mut out, format_args!("  {} -- {own} [style=dotted];", id(graph, *port)));
            }
        }
    }
    for wire in &graph.gateways {
        let [a, b] = wire.ends.map(|end| id(graph, end));
        line(&mut out, format_args!("  {a} -- {b} [style=bold, constraint=false];"));
    }
    out.push_str("}\n");
    out
}

fn cluster(out: &mut String, graph: &Graph, index: usize, plane: &Plane) {
    line(
        out,
        format_args!(
            "  subgraph {} {{\n    label={};",
            quoted(&format!("cluster_{}", plane.name)),
            quoted(&plane.name)
        ),
    );
    for (node, spot) in plane.nodes.iter().enumerate() {
        let own = id(graph, Place { plane: index, node });
        line(out, format_args!("    {own} [label={}, shape={}];", quoted(&spot.name), shape(spot)));
    }
    for link in &plane.links {
        let [a, b] = link.ends.map(|node| id(graph, Place { plane: index, node }));
        let cost = if link.cost == 1 { String::new() } else { format!(" [label=\"{}\"]", link.cost) };
        line(out, format_args!("    {a} -- {b}{cost};"));
    }
    out.push_str("  }\n");
}

fn shape(node: &Spot) -> &'static str {
    match node.role {
        _ if node.played_by.is_some() => "doubleoctagon",
        Role::Host => "box",
        Role::Router => "circle",
        Role::Both => "doublecircle",
        Role::Phantom => "box, style=\"dashed,filled\"",
    }
}

fn id(graph: &Graph, at: Place) -> String {
    quoted(&graph.full_name(at))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _never = out.write_fmt(text);
    out.push('\n');
}
