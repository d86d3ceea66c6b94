//! The test `headers`: the stack of IP headers of one probe each time it passes a base node. Nodes and expected
//! rows go in, a verdict with both as tables comes out. It never counts the reply or anyone else's packets.

use std::net::Ipv4Addr;

use super::Context;
use super::arrival::{self, Flight};
use super::esp::{self, Keys, Sealed};
use super::names;
use super::probe::{Mark, OVERHEAD, PAYLOAD};
use super::runner::Verdict;
use super::wire;
use super::wires::{self, Tap};
use crate::error::{Error, Result};
use crate::model::{BASE, HeaderRow, Lab, NetId, NodeId};

type Pair = (Ipv4Addr, Ipv4Addr);

/// One passage of the probe over one interface of the base node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) inward: bool,
    pub(crate) neighbour: NodeId,
    /// Outermost first, those under ESP too.
    pub(crate) stack: Vec<Pair>,
    pub(crate) sealed: Sealed,
}

/// What a capture of one probe saw.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) rows: Vec<Row>,
    pub(crate) flight: Flight,
    /// That some of it may not have been seen, in words.
    pub(crate) lost: Option<String>,
}

/// Captures on the wires of base node `at` while one marked probe goes from `from` to the address `dst` of `to`.
pub(crate) fn measure(
    ctx: &Context<'_>,
    from: NodeId,
    to: NodeId,
    dst: Ipv4Addr,
    at: NodeId,
) -> Result<Passage> {
    let tap = Tap::open(ctx, at, &wires::lengths_of(ctx.lab, PAYLOAD + OVERHEAD))?;
    let flight = arrival::fly(ctx, from, to, dst)?;
    let number = flight.arrived.map_or(flight.attempts - 1, |a| a.number);
    let rows = drain(ctx.lab, &tap, (flight.mark, number))?;
    Ok(Passage { rows, flight, lost: tap.lost(ctx.lab)?.map(|cause| cause.what) })
}

fn drain(lab: &Lab, tap: &Tap, (mark, number): (Mark, usize)) -> Result<Vec<Row>> {
    let (keys, mut rows) = (Keys::of(lab), Vec::new());
    tap.drain(&mut |passed| {
        let (packet, sealed) = keys.open(passed.bytes);
        let Some((headers, echo)) = wire::parse_request(&packet) else { return };
        if mark.is_probe(&echo, number) {
            let stack = headers.iter().map(|h| (h.src, h.dst)).collect();
            let neighbour = lab.peer(passed.end).node;
            rows.push(Row { inward: !passed.outgoing, neighbour, stack, sealed });
        }
    })?;
    Ok(rows)
}

/// The test.
pub(crate) fn test(
    ctx: &Context<'_>,
    from: NodeId,
    to: NodeId,
    at: NodeId,
    is: &[HeaderRow],
) -> Result<Verdict> {
    let dst = ctx.lab.address(to);
    let dst = dst.ok_or_else(|| Error::usage(format!("{} has no address", ctx.lab.full_name(to))))?;
    let passage = measure(ctx, from, to, dst, at)?;
    let mut verdict = compare(ctx.lab, from.net, is, &passage.rows);
    if let Some(lost) = passage.lost.filter(|_| !verdict.holds) {
        verdict.and(Verdict::of(false, "the capture sees all that passes".into(), lost));
    }
    if passage.flight.arrived.is_none() {
        verdict.and(Verdict::of(false, "the probe arrives".into(), passage.flight.failure()));
    }
    Ok(verdict)
}

/// Holds when there are as many rows as expected and each has what is expected of it, and ESP where links are protected
/// and nowhere else. Where every row expected is of one direction, that alone is compared.
fn compare(lab: &Lab, net: NetId, is: &[HeaderRow], rows: &[Row]) -> Verdict {
    let asked = |row: &&Row| is.is_empty() || is.iter().any(|expected| expected.inward == row.inward);
    let rows: Vec<&Row> = rows.iter().filter(asked).collect();
    let holds = is.len() == rows.len() && is.iter().zip(&rows).all(|(e, m)| matches(lab, net, e, m));
    let measured = rows.iter().enumerate().map(|(i, row)| measured_text(lab, net, row, is.get(i))).collect();
    Verdict { holds, expected: is.iter().map(|e| text(lab, net, e)).collect(), measured }
}

fn matches(lab: &Lab, net: NetId, expected: &HeaderRow, row: &Row) -> bool {
    let same = |wanted: Option<Pair>, found: Option<Pair>| wanted.is_none() || wanted == found;
    expected.inward == row.inward
        && expected.neighbour == row.neighbour
        && same(expected.base, row.base())
        && same(expected.link, row.link())
        && same(expected.net, row.net())
        && expected.stack.as_ref().is_none_or(|s| *s == row.stack)
        && row.sealed == esp::expected(lab, net, &row.stack)
}

impl Row {
    fn base(&self) -> Option<Pair> {
        self.stack.first().copied()
    }

    /// The header just outside the network header, where that is not the base header.
    fn link(&self) -> Option<Pair> {
        (self.stack.len() > 2).then(|| self.stack[self.stack.len() - 2])
    }

    fn net(&self) -> Option<Pair> {
        self.stack.last().copied()
    }
}

/// The row as measured, in the words of the expected row beside it, so that only differences differ: ESP is told where it
/// is not as expected.
fn measured_text(lab: &Lab, net: NetId, row: &Row, beside: Option<&HeaderRow>) -> String {
    let mut words = headers_text(lab, net, row, beside);
    if row.sealed != esp::expected(lab, net, &row.stack) {
        let spis: Vec<String> = row.sealed.iter().map(|(_, spi)| format!("{spi:#010x}")).collect();
        words +=
            &if spis.is_empty() { "  not in ESP".to_owned() } else { format!("  in ESP {}", spis.join(" ")) };
    }
    words
}

fn headers_text(lab: &Lab, net: NetId, row: &Row, beside: Option<&HeaderRow>) -> String {
    let all = HeaderRow {
        inward: row.inward,
        neighbour: row.neighbour,
        base: None,
        link: None,
        net: None,
        stack: Some(row.stack.clone()),
    };
    let Some(expected) =
        beside.filter(|e| e.base.is_some() || e.link.is_some() || e.net.is_some() || e.stack.is_some())
    else {
        return text(lab, net, &all);
    };
    let shown = HeaderRow {
        base: expected.base.and_then(|_| row.base()),
        link: expected.link.and_then(|_| row.link()),
        net: expected.net.and_then(|_| row.net()),
        stack: expected.stack.as_ref().map(|_| row.stack.clone()),
        ..all
    };
    text(lab, net, &shown)
}

fn text(lab: &Lab, net: NetId, row: &HeaderRow) -> String {
    let direction = if row.inward { "in " } else { "out" };
    let mut words = vec![format!("{direction}  {}", lab.node(row.neighbour).name)];
    let named = |label: &str, pair: Option<Pair>, name: &dyn Fn(Ipv4Addr) -> String| {
        pair.map(|(src, dst)| format!("{label} {} -> {}", name(src), name(dst)))
    };
    words.extend(named("base", row.base, &|a| names::name_of(lab, BASE, a)));
    words.extend(named("link", row.link, &|a| names::link_end_name(lab, net, a)));
    words.extend(row.link.and_then(|pair| esp::spi(lab, net, pair)).map(|spi| format!("esp {spi:#010x}")));
    words.extend(named("net", row.net, &|a| names::name_of(lab, net, a)));
    words.extend(row.stack.iter().flat_map(|s| layers(lab, net, s)));
    words.join("  ")
}

/// The layers of a stack, and the ESP that must be between them.
fn layers(lab: &Lab, net: NetId, stack: &[Pair]) -> Vec<String> {
    let mut words = names::layers(lab, net, stack);
    for (index, spi) in esp::expected(lab, net, stack).into_iter().rev() {
        words.insert(index + 1, format!("esp {spi:#010x}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{self, TestKind};

    /// Figure 11 and the rows its `headers:` test expects.
    fn figure_11() -> (Lab, NetId, Vec<HeaderRow>) {
        let text = include_str!("../../labs/figure-11-revisitation.yaml");
        let lab = model::parse(Path::new("lab.yaml"), text).unwrap();
        let headers = |kind: &TestKind| {
            let TestKind::Headers { from, is, .. } = kind else { return None };
            Some((from.net, is.clone()))
        };
        let found = lab.tests.iter().find_map(|t| headers(&t.kind));
        let (net, rows) = found.unwrap();
        (lab, net, rows)
    }

    fn measured(row: &HeaderRow) -> Row {
        let stack = [row.base, row.link, row.net].into_iter().flatten().collect();
        Row { inward: row.inward, neighbour: row.neighbour, stack, sealed: Vec::new() }
    }

    #[test]
    fn rows_as_expected_hold_and_read_alike() {
        let (lab, net, is) = figure_11();
        let rows: Vec<Row> = is.iter().map(measured).collect();
        let verdict = compare(&lab, net, &is, &rows);
        assert!(verdict.holds);
        assert_eq!(verdict.expected, verdict.measured);
        assert_eq!(verdict.expected[0], "in   X  base X -> Y  link A -> B  net A -> F");
    }

    #[test]
    fn another_visit_is_another_link_header() {
        let (lab, net, is) = figure_11();
        let mut rows: Vec<Row> = is.iter().map(measured).collect();
        rows[2].stack[1] = rows[0].stack[1];
        let verdict = compare(&lab, net, &is, &rows);
        assert!(!verdict.holds);
        assert_eq!(verdict.measured[2], "in   Z  base Z -> Y  link A -> B  net A -> F");
    }

    #[test]
    fn b11_a_protected_link_must_be_in_esp() {
        let text = include_str!("../../labs/security.yaml");
        let lab = model::parse(Path::new("lab.yaml"), text).unwrap();
        let TestKind::Headers { from, is, .. } =
            lab.tests.iter().map(|t| &t.kind).find(|k| matches!(k, TestKind::Headers { .. })).unwrap()
        else {
            unreachable!()
        };
        let clear: Vec<Row> = is.iter().map(measured).collect();
        let verdict = compare(&lab, from.net, is, &clear);
        assert!(!verdict.holds);
        assert!(verdict.measured[0].ends_with("  not in ESP"), "{}", verdict.measured[0]);
        let sealed = |row: Row| Row { sealed: esp::expected(&lab, from.net, &row.stack), ..row };
        let verdict = compare(&lab, from.net, is, &clear.into_iter().map(sealed).collect::<Vec<_>>());
        assert!(verdict.holds);
        assert_eq!(verdict.expected, verdict.measured);
        assert!(verdict.expected[0].contains("  esp 0x"), "{}", verdict.expected[0]);
    }

    #[test]
    fn what_is_not_given_is_not_compared_but_the_number_of_rows_is() {
        let (lab, net, is) = figure_11();
        let rows: Vec<Row> = is.iter().map(measured).collect();
        let bare: Vec<HeaderRow> =
            is.iter().map(|r| HeaderRow { base: None, link: None, net: None, ..r.clone() }).collect();
        assert!(compare(&lab, net, &bare, &rows).holds);
        assert!(!compare(&lab, net, &bare, &rows[1..]).holds);
        assert!(!compare(&lab, net, &bare[1..], &rows).holds);
    }

    #[test]
    fn rows_of_one_direction_are_compared_with_that_alone() {
        let (lab, net, is) = figure_11();
        let rows: Vec<Row> = is.iter().map(measured).collect();
        for inward in [true, false] {
            let half: Vec<HeaderRow> = is.iter().filter(|r| r.inward == inward).cloned().collect();
            assert!(half.len() > 1 && compare(&lab, net, &half, &rows).holds);
            assert!(!compare(&lab, net, &half[1..], &rows).holds);
            assert!(!compare(&lab, net, &half, &rows[2..]).holds);
        }
        assert!(!compare(&lab, net, &[], &rows).holds, "no rows: nothing passes in either direction");
    }

    #[test]
    fn a_single_header_is_base_and_net_at_once_and_no_link() {
        let pair = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let row = Row {
            inward: true,
            neighbour: NodeId { net: BASE, index: 0 },
            stack: vec![pair],
            sealed: Vec::new(),
        };
        assert_eq!((row.base(), row.link(), row.net()), (Some(pair), None, Some(pair)));
    }
}
