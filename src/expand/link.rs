//! Links written out. One item of `links:` goes in; the single links it stands for come out, in order. It never
//! checks that the nodes exist.

use super::{FlatLink, MAX_NODES, range};
use crate::spec::{Diagnostic, LinkSpec, Shape, Span, Spanned};

type Pair = (Spanned<String>, Spanned<String>);

/// The links of one item in network `own`, whose nodes may have their full names in it.
pub(super) fn expand_in(own: &str, spec: &LinkSpec, errors: &mut Vec<Diagnostic>) -> Vec<FlatLink> {
    let mut links = expand(spec, errors);
    for end in links.iter_mut().flat_map(|link| [&mut link.a, &mut link.b]) {
        if let Some(short) = end.value.strip_prefix(own).and_then(|rest| rest.strip_prefix('/')) {
            end.value = short.to_owned();
        }
    }
    links
}

/// The links of one item.
pub(super) fn expand(spec: &LinkSpec, errors: &mut Vec<Diagnostic>) -> Vec<FlatLink> {
    let pairs = match pairs(spec, errors) {
        Ok(pairs) => pairs,
        Err(error) => {
            errors.push(error);
            return Vec::new();
        }
    };
    if let (Some(name), true) = (&spec.name, pairs.len() > 1) {
        let title = format!("`{}` cannot be the name of {} links", name.value, pairs.len());
        errors.push(Diagnostic::new("link", name.span, title));
    }
    for (a, b) in &pairs {
        if a.value == b.value {
            errors.push(Diagnostic::new("link", b.span, format!("`{}` cannot be linked to itself", a.value)));
        }
    }
    // One link has the name, so that no other error follows.
    let one = |(i, (a, b))| FlatLink {
        a,
        b,
        name: spec.name.clone().filter(|_| i == 0),
        cost: spec.cost,
        mtu: spec.mtu.clone(),
        security: spec.security.clone(),
        spread: spec.spread.clone(),
        impair: spec.impair,
    };
    pairs.into_iter().enumerate().map(one).collect()
}

fn pairs(spec: &LinkSpec, errors: &mut Vec<Diagnostic>) -> Result<Vec<Pair>, Diagnostic> {
    match &spec.shape {
        Shape::Chain(text) => chain(text),
        Shape::Line(of) => Ok(line(&nodes(of, 2, "a line", errors)?)),
        Shape::Ring(of) => Ok(ring(&nodes(of, 3, "a ring", errors)?)),
        Shape::Mesh(of) => mesh(&nodes(of, 2, "a mesh", errors)?, of.span),
        Shape::Tree { of, arity } => Ok(tree(&nodes(of, 2, "a tree", errors)?, *arity)),
        Shape::Grid { prefix, rows, cols } => Ok(grid(prefix, *rows, *cols)),
    }
}

fn nodes(
    of: &Spanned<Vec<Spanned<String>>>,
    least: usize,
    what: &str,
    errors: &mut Vec<Diagnostic>,
) -> Result<Vec<Spanned<String>>, Diagnostic> {
    let before = errors.len();
    let names: Vec<_> = of.value.iter().flat_map(|n| range::expand_or(n, errors)).collect();
    if names.len() < least && errors.len() == before {
        return Err(Diagnostic::new("link", of.span, format!("{what} needs {least} nodes or more")));
    }
    Ok(names)
}

fn line(names: &[Spanned<String>]) -> Vec<Pair> {
    names.windows(2).map(|w| (w[0].clone(), w[1].clone())).collect()
}

fn ring(names: &[Spanned<String>]) -> Vec<Pair> {
    let mut pairs = line(names);
    if let (Some(first), Some(last)) = (names.first(), names.last()) {
        pairs.push((last.clone(), first.clone()));
    }
    pairs
}

fn mesh(names: &[Spanned<String>], span: Span) -> Result<Vec<Pair>, Diagnostic> {
    if names.len() * names.len().saturating_sub(1) / 2 > MAX_NODES * 2 {
        return Err(Diagnostic::new("too-big", span, format!("a mesh of {} nodes is too big", names.len())));
    }
    let rest = |i: usize| names[i + 1..].iter().map(move |b| (names[i].clone(), b.clone()));
    Ok((0..names.len()).flat_map(rest).collect())
}

/// The children of node i are nodes arity·i+1 to arity·i+arity.
fn tree(names: &[Spanned<String>], arity: usize) -> Vec<Pair> {
    (1..names.len()).map(|i| (names[(i - 1) / arity].clone(), names[i].clone())).collect()
}

/// Nodes are numbered from 1, row by row; each is linked to the next in its row and in its column.
fn grid(prefix: &Spanned<String>, rows: usize, cols: usize) -> Vec<Pair> {
    let name = |row: usize, col: usize| {
        Spanned::new(format!("{}{}", prefix.value, row * cols + col + 1), prefix.span)
    };
    let mut pairs = Vec::new();
    for row in 0..rows {
        for col in 0..cols {
            if col + 1 < cols {
                pairs.push((name(row, col), name(row, col + 1)));
            }
            if row + 1 < rows {
                pairs.push((name(row, col), name(row + 1, col)));
            }
        }
    }
    pairs
}

/// One term of a chain.
struct Term {
    names: Vec<Spanned<String>>,
    /// A bare range, which pairs up with another one of the same length.
    range: bool,
}

/// `a -- {b c} -- d[1..3]`: neighbours in the chain are linked, each with each, but two bare ranges pair up.
fn chain(text: &Spanned<String>) -> Result<Vec<Pair>, Diagnostic> {
    let terms = text.value.split("--").map(|t| term(t, text)).collect::<Result<Vec<_>, _>>()?;
    if terms.len() < 2 {
        let error = Diagnostic::new("link", text.span, "a link needs two ends").label("such as `a -- b`");
        return Err(error);
    }
    let mut pairs = Vec::new();
    for two in terms.windows(2) {
        let (left, right) = (&two[0], &two[1]);
        if left.range && right.range {
            if left.names.len() != right.names.len() {
                let title = format!("{} nodes cannot pair up with {}", left.names.len(), right.names.len());
                return Err(Diagnostic::new("range", text.span, title));
            }
            pairs.extend(left.names.iter().cloned().zip(right.names.iter().cloned()));
        } else {
            let each = |a: &Spanned<String>| {
                let a = a.clone();
                right.names.iter().map(move |b| (a.clone(), b.clone())).collect::<Vec<_>>()
            };
            pairs.extend(left.names.iter().flat_map(each));
        }
    }
    Ok(pairs)
}

fn term(text: &str, whole: &Spanned<String>) -> Result<Term, Diagnostic> {
    let text = text.trim();
    let error = |why: &str| Diagnostic::new("link", whole.span, why);
    let names = |word: &str| -> Result<Vec<Spanned<String>>, Diagnostic> {
        let span = whole.part(word).span;
        let names = range::expand(word).map_err(|why| Diagnostic::new("range", span, why))?;
        Ok(names.into_iter().map(|n| Spanned::new(n, span)).collect())
    };
    if let Some(inside) = text.strip_prefix('{') {
        let inside = inside.strip_suffix('}').ok_or_else(|| error("`{` without `}`"))?;
        let words = inside.split([' ', ',', '\t', '\n']).filter(|w| !w.is_empty());
        let all = words.map(names).collect::<Result<Vec<_>, _>>()?.concat();
        return match all.is_empty() {
            true => Err(error("`{}` holds no node")),
            false => Ok(Term { names: all, range: false }),
        };
    }
    if text.is_empty() {
        return Err(error("a name is missing beside `--`"));
    }
    if text.contains(char::is_whitespace) {
        return Err(error("names side by side must stand in braces: `{a b}`"));
    }
    let names = names(text)?;
    let range = names.len() > 1;
    Ok(Term { names, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain_text(text: &str) -> Vec<String> {
        let spanned = Spanned::new(text.to_owned(), Span::default());
        chain(&spanned).unwrap().iter().map(|(a, b)| format!("{}-{}", a.value, b.value)).collect()
    }

    fn named(names: &[&str]) -> Vec<Spanned<String>> {
        names.iter().map(|n| Spanned::new((*n).to_owned(), Span::default())).collect()
    }

    #[test]
    fn chains() {
        assert_eq!(chain_text("a -- b"), ["a-b"]);
        assert_eq!(chain_text("a -- b -- c -- a"), ["a-b", "b-c", "c-a"]);
        assert_eq!(chain_text("hub -- {a b, c}"), ["hub-a", "hub-b", "hub-c"]);
        assert_eq!(chain_text("x[1..3] -- y[1..3]"), ["x1-y1", "x2-y2", "x3-y3"]);
        assert_eq!(chain_text("hub -- n[1..3]"), ["hub-n1", "hub-n2", "hub-n3"]);
        assert_eq!(chain_text("{a b} -- {c d}"), ["a-c", "a-d", "b-c", "b-d"]);
        assert_eq!(chain_text("a--b"), ["a-b"]);
    }

    #[test]
    fn wrong_chains() {
        for text in
            ["a", "a --", "-- a", "a b -- c", "{a -- b", "{} -- a", "x[1..2] -- y[1..3]", "a -- b[1.."]
        {
            assert!(chain(&Spanned::new(text.to_owned(), Span::default())).is_err(), "{text}");
        }
    }

    #[test]
    fn generators() {
        let shown = |pairs: Vec<Pair>| -> Vec<String> {
            pairs.iter().map(|(a, b)| format!("{}-{}", a.value, b.value)).collect()
        };
        assert_eq!(shown(ring(&named(&["a", "b", "c"]))), ["a-b", "b-c", "c-a"]);
        assert_eq!(shown(mesh(&named(&["a", "b", "c"]), Span::default()).unwrap()), ["a-b", "a-c", "b-c"]);
        assert_eq!(shown(tree(&named(&["1", "2", "3", "4", "5"]), 2)), ["1-2", "1-3", "2-4", "2-5"]);
        let prefix = Spanned::new("n".to_owned(), Span::default());
        assert_eq!(shown(grid(&prefix, 2, 2)), ["n1-n2", "n1-n3", "n2-n4", "n3-n4"]);
    }
}
