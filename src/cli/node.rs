//! Nodes by name. What the user wrote goes in; one node, or an error that names the candidates, comes out. It never
//! guesses.

use crate::error::{Error, Result};
use crate::model::{Lab, NodeId};

/// Names this alike to what was written are suggested: Jaro-Winkler, 0 to 1.
const ALIKE: f64 = 0.75;
const SUGGESTIONS: usize = 3;

/// A node by its full name, `base/X` or `VI/node`, or by its short name where that is unique in the lab.
pub(super) fn find(lab: &Lab, name: &str) -> Result<NodeId> {
    let full = |id: &NodeId| lab.full_name(*id);
    let ids: Vec<NodeId> = lab.nodes().map(|n| n.id).collect();
    if let Some(id) = ids.iter().find(|id| full(id) == name) {
        return Ok(*id);
    }
    let short: Vec<NodeId> = ids.iter().copied().filter(|id| lab.node(*id).name == name).collect();
    match short.as_slice() {
        [one] => Ok(*one),
        [] => Err(unknown(lab, name, &ids)),
        several => {
            let names: Vec<String> = several.iter().map(full).collect();
            Err(Error::usage(format!("{name} names several nodes of lab {}", lab.name))
                .hint(format!("name one: {}", names.join(", "))))
        }
    }
}

fn unknown(lab: &Lab, name: &str, ids: &[NodeId]) -> Error {
    let error = Error::usage(format!("lab {} has no node {name}", lab.name));
    let names = ids.iter().map(|id| (lab.full_name(*id), lab.node(*id).name.clone()));
    suggest(error, name, names, &format!("its nodes: vilab status {}", lab.name))
}

/// Adds the full names, of pairs of a full and a short one, that are most like what was written; else `otherwise`.
pub(super) fn suggest(
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
            let id = find(&lab, name).unwrap();
            assert!(lab.full_name(id).ends_with(name), "{name}");
        }
    }

    #[test]
    fn an_ambiguous_name_is_an_error_with_its_candidates() {
        let error = find(&lab(), "a").unwrap_err();
        assert_eq!(error.hint_text(), Some("name one: red/a, blue/a"));
    }

    #[test]
    fn an_unknown_name_is_an_error_with_its_neighbours() {
        let error = find(&lab(), "blue/cor").unwrap_err();
        assert!(error.hint_text().unwrap().contains("blue/core"), "{error}");
    }
}
