//! Nodes and links by name. What somebody wrote goes in; one node or link, or an error that names the candidates, comes out.
//! It never guesses.

use super::{Lab, LinkId, NodeId};
use crate::error::{Error, Result};

/// Names this alike to what was written are suggested: Jaro-Winkler, 0 to 1.
const ALIKE: f64 = 0.75;
const SUGGESTIONS: usize = 3;

/// A node by its full name, `base/X` or `VI/node`, or by its short name where that is unique in the lab.
///
/// # Errors
/// If there is none, or several; the hint names those that may be meant.
pub fn node(lab: &Lab, name: &str) -> Result<NodeId> {
    let full = |id: &NodeId| lab.full_name(*id);
    let ids: Vec<NodeId> = lab.nodes().map(|n| n.id).collect();
    if let Some(id) = ids.iter().find(|id| full(id) == name) {
        return Ok(*id);
    }
    let short: Vec<NodeId> = ids.iter().copied().filter(|id| lab.node(*id).name == name).collect();
    match short.as_slice() {
        [one] => Ok(*one),
        [] => Err(unknown_node(lab, name, &ids)),
        several => {
            let names: Vec<String> = several.iter().map(full).collect();
            Err(Error::usage(format!("{name} names several nodes of lab {}", lab.name))
                .hint(format!("name one: {}", names.join(", "))))
        }
    }
}

fn unknown_node(lab: &Lab, name: &str, ids: &[NodeId]) -> Error {
    let error = Error::usage(format!("lab {} has no node {name}", lab.name));
    let names = ids.iter().map(|id| (lab.full_name(*id), lab.node(*id).name.clone()));
    suggest(error, name, names, &format!("its nodes: vilab status {}", lab.name))
}

/// Adds the full names, of pairs of a full and a short one, that are most like what was written; else `otherwise`.
#[must_use]
pub fn suggest(
    error: Error,
    written: &str,
    names: impl Iterator<Item = (String, String)>,
    otherwise: &str,
) -> Error {
    let alike = |(full, short): (String, String)| {
        (strsim::jaro_winkler(written, &full).max(strsim::jaro_winkler(written, &short)), full)
    };
    let mut near: Vec<(f64, String)> = names.map(alike).filter(|(score, _)| *score > ALIKE).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let near: Vec<String> = near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect();
    match near.as_slice() {
        [] => error.hint(otherwise),
        some => error.hint(format!("did you mean {}?", some.join(", "))),
    }
}

/// A link by its nodes, `X -- Y`, its full name, `network/name`, or its name where that is unique in the lab.
///
/// # Errors
/// As [`node`].
pub fn link(lab: &Lab, written: &str) -> Result<LinkId> {
    let found = lab.links_called(written);
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(unknown_link(lab, written)),
        several => {
            let names: Vec<String> = several.iter().map(|id| lab.full_link_name(*id)).collect();
            Err(Error::usage(format!("{written} names several links of lab {}", lab.name))
                .hint(format!("name one: {}", names.join(", "))))
        }
    }
}

fn unknown_link(lab: &Lab, written: &str) -> Error {
    let error = Error::usage(format!("lab {} has no link {written}", lab.name));
    let names = lab.links().map(|l| (lab.full_link_name(l.id), lab.link(l.id).name.clone()));
    suggest(error, written, names, &format!("its links: vilab status {}", lab.name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lab() -> Lab {
        let text = "name: t\nbase: {links: [X -- Y]}\nvis:\n  red: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
                    blue: {nodes: {a: X, core: Y}, links: [a -- core]}\n";
        crate::model::parse(Path::new("t.yaml"), text).unwrap()
    }

    #[test]
    fn full_and_unique_short_names() {
        let lab = lab();
        for name in ["red/b", "b", "X", "base/X", "core"] {
            let id = node(&lab, name).unwrap();
            assert!(lab.full_name(id).ends_with(name), "{name}");
        }
    }

    #[test]
    fn an_ambiguous_name_is_an_error_with_its_candidates() {
        let error = node(&lab(), "a").unwrap_err();
        assert_eq!(error.hint_text(), Some("name one: red/a, blue/a"));
    }

    #[test]
    fn an_unknown_name_is_an_error_with_its_neighbours() {
        let error = node(&lab(), "blue/cor").unwrap_err();
        assert!(error.hint_text().unwrap().contains("blue/core"), "{error}");
    }

    #[test]
    fn links_too_name_their_candidates() {
        let text = "name: t\nbase: {links: [X -- Y]}\nvis:\n  red: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
                    blue: {nodes: {a: X, b: Y, core: X}, links: [a -- b, a -- core, {link: b -- core, name: slow}]}\n";
        let lab = crate::model::parse(Path::new("t.yaml"), text).unwrap();
        assert_eq!(lab.full_link_name(link(&lab, "core -- a").unwrap()), "blue/a--core");
        let hint = |written: &str| link(&lab, written).unwrap_err().hint_text().map(str::to_owned).unwrap();
        assert_eq!(hint("a -- b"), "name one: red/a--b, blue/a--b");
        assert!(hint("blue/slw").starts_with("did you mean blue/slow"));
        assert_eq!(hint("nothing"), "its links: vilab status t");
    }
}
