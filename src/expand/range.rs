//! `n[1..8]` written out. A name with ranges goes in; the names it stands for, in order, come out. It never judges
//! whether a name is a good one.

use super::MAX_NODES;
use crate::spec::{Diagnostic, Spanned};

/// The names that `text` stands for; several ranges count like an odometer, the last fastest. Digits keep the
/// width of a bound written with leading zeros.
pub(super) fn expand(text: &str) -> Result<Vec<String>, String> {
    let Some(open) = text.find('[') else {
        return if text.contains(']') {
            Err("`]` without `[`".to_owned())
        } else {
            Ok(vec![text.to_owned()])
        };
    };
    let close = text[open..].find(']').map(|i| open + i).ok_or("`[` without `]`")?;
    let (head, inside, tail) = (&text[..open], &text[open + 1..close], &text[close + 1..]);
    if head.contains(']') {
        return Err("`]` without `[`".to_owned());
    }
    let numbers = numbers(inside)?;
    let tails = expand(tail)?;
    if numbers.len().saturating_mul(tails.len()) > MAX_NODES {
        return Err(format!("more than {MAX_NODES} names"));
    }
    Ok(numbers.iter().flat_map(|n| tails.iter().map(move |t| format!("{head}{n}{t}"))).collect())
}

/// `1..8`, both ends included; downwards when the first is the greater.
fn numbers(inside: &str) -> Result<Vec<String>, String> {
    let form = || format!("`[{inside}]` is not a range such as [1..8]");
    let (first, last) = inside.split_once("..").ok_or_else(form)?;
    let (first, last) = (first.trim(), last.trim());
    let number = |s: &str| s.parse::<u32>().map_err(|_| form());
    let (from, to) = (number(first)?, number(last)?);
    if from.abs_diff(to) as usize >= MAX_NODES {
        return Err(format!("`[{inside}]` is more than {MAX_NODES} names"));
    }
    let padded = [first, last].iter().any(|s| s.len() > 1 && s.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    let write = |n: u32| format!("{n:0width$}");
    Ok(if from <= to { (from..=to).map(write).collect() } else { (to..=from).rev().map(write).collect() })
}

/// Like [`expand`], noting an error and giving nothing back.
pub(super) fn expand_or(name: &Spanned<String>, errors: &mut Vec<Diagnostic>) -> Vec<Spanned<String>> {
    match expand(&name.value) {
        Ok(names) => names.into_iter().map(|n| Spanned::new(n, name.span)).collect(),
        Err(why) => {
            errors.push(Diagnostic::new("range", name.span, why));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cases: [(&str, &[&str]); 7] = [
            ("a", &["a"]),
            ("n[1..3]", &["n1", "n2", "n3"]),
            ("n[3..1]", &["n3", "n2", "n1"]),
            ("n[08..10]x", &["n08x", "n09x", "n10x"]),
            ("n[0..1]", &["n0", "n1"]),
            ("r[1..2]c[1..2]", &["r1c1", "r1c2", "r2c1", "r2c2"]),
            ("n[5..5]", &["n5"]),
        ];
        for (text, names) in cases {
            assert_eq!(expand(text).unwrap(), names, "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["n[", "n]", "n[1]", "n[a..b]", "n[1..]", "n]1..2[", "n[0..70000]", "n[1..300]m[1..300]"]
        {
            assert!(expand(text).is_err(), "{text}");
        }
    }
}
