//! The panes of `vilab watch` as tables of cells. A [`View`] goes in; titles and rows come out, filtered and sorted. It knows
//! nothing of where they are drawn.

use crate::model::{Impairment, Measured};
use crate::observe::watch::{Direction, LinkState, View};

/// What is shown at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Links,
    Nodes,
    Drops,
    Routes,
    Services,
}

/// What a cell says, beside its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// Nothing happens.
    Quiet,
    Good,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
    /// What a number is sorted by.
    value: Option<u64>,
}

/// A column's title, and whether it holds numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Title {
    pub(super) text: &'static str,
    pub(super) number: bool,
}

pub(super) type Row = Vec<Cell>;

/// `12.3M` of a number, in three digits.
pub(super) fn short(n: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, letter)) = units.into_iter().find(|(unit, _)| n >= *unit) else {
        return n.to_string();
    };
    let tenths = n / (unit / 10);
    match tenths {
        0..1000 => format!("{}.{}{letter}", tenths / 10, tenths % 10),
        _ => format!("{}{letter}", tenths / 10),
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), ..Cell::default() }
}

fn toned(words: impl Into<String>, tone: Tone) -> Cell {
    Cell { tone, ..text(words) }
}

/// A rate, or a dash where there is none yet.
fn number(n: Option<u64>) -> Cell {
    let tone = if n.unwrap_or(0) == 0 { Tone::Quiet } else { Tone::Plain };
    Cell { text: n.map_or("-".to_owned(), short), tone, value: Some(n.unwrap_or(0)) }
}

/// A rate of something bad.
fn loss(n: Option<u64>) -> Cell {
    let cell = number(n);
    if cell.tone == Tone::Plain { Cell { tone: Tone::Bad, ..cell } } else { cell }
}

/// What both directions have in common, or both.
fn both<T: PartialEq>(of: [Option<T>; 2], words: impl Fn(&T) -> String) -> Cell {
    let [a, b] = of;
    if a == b {
        return text(a.as_ref().map(words).unwrap_or_default());
    }
    let words = [a, b].map(|x| x.as_ref().map_or("-".to_owned(), &words));
    text(words.join(" | "))
}

impl Pane {
    pub(super) const ALL: [Self; 5] = [Self::Links, Self::Nodes, Self::Drops, Self::Routes, Self::Services];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Nodes => "nodes",
            Self::Drops => "drops",
            Self::Routes => "routes",
            Self::Services => "services",
        }
    }

    /// The first column is the name of what a row is about.
    pub(super) fn titles(self) -> &'static [Title] {
        const fn words(text: &'static str) -> Title {
            Title { text, number: false }
        }
        const fn count(text: &'static str) -> Title {
            Title { text, number: true }
        }
        match self {
            Self::Links => {
                const {
                    &[
                        words("link"),
                        words("state"),
                        count("-> bit/s"),
                        count("pkt/s"),
                        count("<- bit/s"),
                        count("pkt/s"),
                        count("drop/s"),
                        words("asked"),
                        words("measured"),
                    ]
                }
            }
            Self::Nodes => {
                const {
                    &[
                        words("node"),
                        words("at"),
                        words("state"),
                        count("sent bit/s"),
                        count("pkt/s"),
                        count("received bit/s"),
                        count("pkt/s"),
                    ]
                }
            }
            Self::Drops => {
                const { &[words("base node"), words("reason"), count("packets"), count("a second")] }
            }
            Self::Routes => {
                const {
                    &[
                        words("network"),
                        words("state"),
                        count("nodes"),
                        count("differ"),
                        words("first"),
                        words("expected"),
                        words("found"),
                    ]
                }
            }
            Self::Services => {
                const {
                    &[
                        words("service"),
                        words("node"),
                        words("state"),
                        count("pid"),
                        count("restarts"),
                        words("last end"),
                    ]
                }
            }
        }
    }

    /// All rows, in the order of the lab.
    pub(super) fn rows(self, view: &View) -> Vec<Row> {
        match self {
            Self::Links => links(view),
            Self::Nodes => nodes(view),
            Self::Drops => drops(view),
            Self::Routes => routes(view),
            Self::Services => services(view),
        }
    }
}

fn links(view: &View) -> Vec<Row> {
    // Where the end that sends does not count, the other may.
    let flow = |d: &Direction| d.sent.or(d.received);
    let bits = |d: &Direction| number(flow(d).map(|f| f.bits_per_s));
    let packets = |d: &Direction| number(flow(d).map(|f| f.packets_per_s));
    let row = |link: &crate::observe::watch::LinkRow| {
        let [a, b] = &link.directions;
        let tone = if link.state == LinkState::Up { Tone::Good } else { Tone::Bad };
        let dropped = |d: &Direction| d.dropped_per_s;
        vec![
            text(link.link.clone()),
            toned(link.state.as_str(), tone),
            bits(a),
            packets(a),
            bits(b),
            packets(b),
            loss(dropped(a).zip(dropped(b)).map(|(a, b)| a + b)),
            both([a.asked, b.asked], Impairment::to_string),
            both([a.measured, b.measured], Measured::to_string),
        ]
    };
    view.links.iter().map(row).collect()
}

fn nodes(view: &View) -> Vec<Row> {
    let row = |node: &crate::observe::watch::NodeRow| {
        let (state, tone) = if node.down { ("down", Tone::Bad) } else { ("up", Tone::Good) };
        vec![
            text(node.node.clone()),
            text(node.at.clone().unwrap_or_default()),
            toned(state, tone),
            number(node.sent.map(|f| f.bits_per_s)),
            number(node.sent.map(|f| f.packets_per_s)),
            number(node.received.map(|f| f.bits_per_s)),
            number(node.received.map(|f| f.packets_per_s)),
        ]
    };
    view.nodes.iter().map(row).collect()
}

fn drops(view: &View) -> Vec<Row> {
    let row = |drop: &crate::observe::watch::DropRow| {
        let total = Cell { text: drop.total.to_string(), value: Some(drop.total), ..Cell::default() };
        vec![text(format!("base/{}", drop.node)), text(drop.reason.clone()), total, loss(drop.per_s)]
    };
    view.drops.iter().map(row).collect()
}

fn routes(view: &View) -> Vec<Row> {
    let row = |network: &crate::observe::watch::NetworkRow| {
        let (state, tone) = match network.converged {
            Some(true) => ("as computed", Tone::Good),
            Some(false) => ("differ", Tone::Bad),
            None => ("not known", Tone::Quiet),
        };
        let first = network.first.as_ref();
        vec![
            text(network.network.clone()),
            toned(state, tone),
            number(Some(network.nodes as u64)),
            loss(Some(network.diverged as u64)),
            text(first.map(|f| format!("{} to {}", f.node, f.prefix)).unwrap_or_default()),
            text(first.map(|f| f.expected.clone()).unwrap_or_default()),
            text(first.map(|f| f.found.clone()).unwrap_or_default()),
        ]
    };
    view.networks.iter().map(row).collect()
}

fn services(view: &View) -> Vec<Row> {
    use crate::lab::course::State;
    let row = |service: &crate::observe::events::Service| {
        let tone = match service.state {
            State::Running => Tone::Good,
            State::Waiting | State::Starting | State::Stopping | State::Stopped => Tone::Plain,
            State::Pausing | State::Ended => Tone::Bad,
        };
        let plain = |n: Option<u64>| Cell {
            text: n.map(|n| n.to_string()).unwrap_or_default(),
            value: n,
            ..Cell::default()
        };
        vec![
            text(service.service.clone()),
            text(service.node.clone().unwrap_or_default()),
            toned(service.state.to_string(), tone),
            plain(service.pid.and_then(|pid| u64::try_from(pid).ok())),
            plain(Some(u64::from(service.restarts))),
            text(service.last.clone().unwrap_or_default()),
        ]
    };
    view.services.iter().map(row).collect()
}

/// Those rows in which a cell has `filter`, whatever the case; sorted by a column, numbers from the greatest.
pub(super) fn chosen(mut rows: Vec<Row>, filter: &str, sort: Option<usize>) -> Vec<Row> {
    let wanted = filter.to_lowercase();
    rows.retain(|row| row.iter().any(|cell| cell.text.to_lowercase().contains(&wanted)));
    if let Some(column) = sort {
        rows.sort_by(|a, b| match (a.get(column), b.get(column)) {
            (Some(a), Some(b)) => b.value.cmp(&a.value).then_with(|| a.text.cmp(&b.text)),
            _ => std::cmp::Ordering::Equal,
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (n, words) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0k"),
            (12_345, "12.3k"),
            (99_999, "99.9k"),
            (123_456, "123k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (9_400_000_000, "9.4G"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(short(n), words);
        }
    }

    #[test]
    fn rows_are_filtered_and_sorted() {
        let row = |name: &str, n: u64| vec![text(name), number(Some(n))];
        let rows = || vec![row("base/X--Y", 5), row("blue/a--b", 500), row("base/Y--Z", 70)];
        let names = |rows: Vec<Row>| rows.iter().map(|r| r[0].text.clone()).collect::<Vec<_>>();
        assert_eq!(names(chosen(rows(), "", None)), ["base/X--Y", "blue/a--b", "base/Y--Z"]);
        assert_eq!(names(chosen(rows(), "BASE", None)), ["base/X--Y", "base/Y--Z"]);
        assert_eq!(names(chosen(rows(), "", Some(1))), ["blue/a--b", "base/Y--Z", "base/X--Y"]);
        assert_eq!(names(chosen(rows(), "", Some(0))), ["base/X--Y", "base/Y--Z", "blue/a--b"]);
        assert_eq!(names(chosen(rows(), "nothing", Some(9))), Vec::<String>::new());
    }

    #[test]
    fn directions_that_agree_are_said_once() {
        let some = |n: u64| Some(n);
        assert_eq!(both([some(1), some(1)], u64::to_string).text, "1");
        assert_eq!(both([some(1), None], u64::to_string).text, "1 | -");
        assert_eq!(both([None, None], u64::to_string).text, "");
    }
}
