//! Links by what people write. A lab and `X -- Y`, `blue/a -- b`, a name or `network/name` go in; every link that
//! may be meant comes out. It never chooses between several.

use super::{Lab, Link, LinkId};

impl Lab {
    /// The links that `written` names: by name, else by their two nodes, in either order. A network before it is that
    /// of the link, and so of both nodes.
    #[must_use]
    pub fn links_called(&self, written: &str) -> Vec<LinkId> {
        self.links_among(self.links(), written)
    }

    /// The same in a lab file, which knows nothing of what is inside emulated routers.
    pub(super) fn named_links_called(&self, written: &str) -> Vec<LinkId> {
        self.links_among(self.named_links(), written)
    }

    fn links_among<'a>(&'a self, links: impl Iterator<Item = &'a Link>, written: &str) -> Vec<LinkId> {
        let plain = written.replace(' ', "");
        let (net, rest) =
            plain.split_once('/').map_or((None, plain.as_str()), |(net, rest)| (Some(net), rest));
        let short =
            |name| net.and_then(|net| str::strip_prefix(name, net)?.strip_prefix('/')).unwrap_or(name);
        let pair = rest.split_once("--").map(|(a, b)| (a, short(b)));
        let names = pair.map(|(a, b)| [format!("{a}--{b}"), format!("{b}--{a}")]).unwrap_or_default();
        let links: Vec<&Link> = links.filter(|l| net.is_none_or(|net| self.place(l.id) == net)).collect();
        let keep = |f: &dyn Fn(&Link) -> bool| {
            links.iter().filter(|link| f(link)).map(|link| link.id).collect::<Vec<_>>()
        };
        let named = keep(&|link| link.name == rest || names.contains(&link.name));
        if !named.is_empty() {
            return named;
        }
        keep(&|link| pair.is_some_and(|pair| self.joins(link, pair)))
    }

    fn joins(&self, link: &Link, (a, b): (&str, &str)) -> bool {
        let [p, q] = link.ends.each_ref().map(|end| self.node(end.node).name.as_str());
        (p, q) == (a, b) || (q, p) == (a, b)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn names_go_before_nodes() {
        let text = "name: t\nbase: {links: [X -- Y]}\nvis:\n  red: {nodes: {a: X, b: Y}, links: [a -- b]}\n  \
                    blue: {nodes: {a: X, b: Y, c: Y}, links: [a -- b, a -- b, {link: b -- c, name: slow}]}\n";
        let lab = crate::model::parse(Path::new("t.yaml"), text).unwrap();
        let called = |written: &str| -> Vec<String> {
            lab.links_called(written).iter().map(|id| lab.full_link_name(*id)).collect()
        };
        for (written, found) in [
            ("X -- Y", vec!["base/X--Y"]),
            ("Y--X", vec!["base/X--Y"]),
            ("base/Y -- base/X", vec!["base/X--Y"]),
            ("a -- b", vec!["red/a--b", "blue/a--b"]),
            ("blue/a -- b", vec!["blue/a--b"]),
            ("blue/b -- a", vec!["blue/a--b"]),
            ("blue/a -- blue/b", vec!["blue/a--b"]),
            ("a--b.2", vec!["blue/a--b.2"]),
            ("slow", vec!["blue/slow"]),
            ("c -- b", vec!["blue/slow"]),
            ("blue/b -- c", vec!["blue/slow"]),
            ("red/b -- c", vec![]),
            ("X -- b", vec![]),
        ] {
            assert_eq!(called(written), found, "{written}");
        }
    }
}
