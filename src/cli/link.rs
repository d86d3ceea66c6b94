//! Links by name. What the user wrote goes in; one link, or an error that names the candidates, comes out. It never
//! guesses.

use super::node::suggest;
use crate::error::{Error, Result};
use crate::model::{Lab, LinkId};

/// A link by its nodes, `X -- Y`, its full name, `network/name`, or its name where that is unique in the lab.
pub(super) fn find(lab: &Lab, written: &str) -> Result<LinkId> {
    let found = lab.links_called(written);
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(unknown(lab, written)),
        several => {
            let names: Vec<String> = several.iter().map(|id| lab.full_link_name(*id)).collect();
            Err(Error::usage(format!("{written} names several links of lab {}", lab.name))
                .hint(format!("name one: {}", names.join(", "))))
        }
    }
}

fn unknown(lab: &Lab, written: &str) -> Error {
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
                    blue: {nodes: {a: X, b: Y, core: X}, links: [a -- b, a -- core, {link: b -- core, name: slow}]}\n";
        crate::model::parse(Path::new("t.yaml"), text).unwrap()
    }

    #[test]
    fn what_is_ambiguous_or_unknown_names_candidates() {
        let lab = lab();
        assert_eq!(lab.full_link_name(find(&lab, "core -- a").unwrap()), "blue/a--core");
        let hint = |written: &str| find(&lab, written).unwrap_err().hint_text().map(str::to_owned).unwrap();
        assert_eq!(hint("a -- b"), "name one: red/a--b, blue/a--b");
        assert!(hint("blue/slw").starts_with("did you mean blue/slow"));
        assert_eq!(hint("nothing"), "its links: vilab status t");
    }
}
