//! What a person has chosen to see. Keys and views go in; the rows to draw come out. It draws nothing.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use super::pane::{self, Pane, Row};
use crate::observe::watch::View;

/// Rows that page up and page down go.
const PAGE: usize = 10;

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Ui {
    view: View,
    pane: Pane,
    /// The column that rows are sorted by; none is the order of the lab.
    sort: Option<usize>,
    filter: String,
    /// Keys go to the filter.
    typing: bool,
    paused: bool,
    pub(super) table: TableState,
}

impl Ui {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            pane: Pane::Links,
            sort: None,
            filter: String::new(),
            typing: false,
            paused: false,
            table: TableState::new().with_selected(0),
        }
    }

    pub(super) fn show(&mut self, view: View) {
        self.view = view;
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn pane(&self) -> Pane {
        self.pane
    }

    pub(super) fn sort(&self) -> Option<usize> {
        self.sort
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn is_typing(&self) -> bool {
        self.typing
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// What is to be drawn; the selection is one of them.
    pub(super) fn rows(&mut self) -> Vec<Row> {
        let rows = pane::chosen(self.pane.rows(&self.view), &self.filter, self.sort);
        let last = rows.len().saturating_sub(1);
        self.table.select(Some(self.table.selected().unwrap_or(0).min(last)));
        rows
    }

    /// Takes a key; true if it ends the program.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return true;
        }
        if self.typing {
            self.write(key.code)
        } else {
            return self.command(key.code);
        }
        false
    }

    /// For the filter. What is not text or its end goes nowhere.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has many keys; most do nothing")]
    fn write(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has many keys; most do nothing")]
    fn command(&mut self, key: KeyCode) -> bool {
        let at = self.table.selected().unwrap_or(0);
        match key {
            KeyCode::Char('q') => return true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.table.select(Some(at + 1)),
            KeyCode::Up | KeyCode::Char('k') => self.table.select(Some(at.saturating_sub(1))),
            KeyCode::PageDown => self.table.select(Some(at + PAGE)),
            KeyCode::PageUp => self.table.select(Some(at.saturating_sub(PAGE))),
            KeyCode::Home | KeyCode::Char('g') => self.table.select(Some(0)),
            KeyCode::End | KeyCode::Char('G') => self.table.select(Some(usize::MAX)),
            KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => self.turn(1),
            KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => self.turn(Pane::ALL.len() - 1),
            KeyCode::Char('/') => {
                self.typing = true;
                self.filter.clear();
            }
            KeyCode::Char('s') => self.sort_next(),
            KeyCode::Char('p') | KeyCode::Char(' ') => self.paused = !self.paused,
            _ => {}
        }
        false
    }

    fn turn(&mut self, by: usize) {
        let at = Pane::ALL.iter().position(|p| *p == self.pane).unwrap_or(0);
        self.pane = Pane::ALL[(at + by) % Pane::ALL.len()];
        self.sort = None;
        self.table = TableState::new().with_selected(0);
    }

    /// By the next column; behind the last, in the order of the lab.
    fn sort_next(&mut self) {
        let next = self.sort.map_or(0, |column| column + 1);
        self.sort = (next < self.pane.titles().len()).then_some(next);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Impairment;
    use crate::observe::watch::{
        Direction, DropRow, Engine, FirstDifference, Flow, LinkRow, LinkState, NetworkRow, NodeRow, SCHEMA,
    };

    fn flow(bits_per_s: u64) -> Option<Flow> {
        Some(Flow { bits_per_s, packets_per_s: bits_per_s / 12_000 })
    }

    fn link(link: &str, state: LinkState, forward: u64, backward: u64) -> LinkRow {
        let name = link.split_once('/').unwrap().1;
        let (a, b) = name.split_once("--").unwrap();
        let slow = Impairment { delay_us: 10_000, loss_ppm: 10_000, ..Impairment::default() };
        let direction = |from: &str, to: &str, bits: u64| Direction {
            from: from.to_owned(),
            to: to.to_owned(),
            sent: flow(bits),
            received: flow(bits),
            dropped_per_s: Some(u64::from(state != LinkState::Up) * 3),
            asked: (name == "X--Y" && from == "X").then_some(slow),
            measured: None,
        };
        LinkRow {
            link: link.to_owned(),
            state,
            directions: [direction(a, b, forward), direction(b, a, backward)],
        }
    }

    pub(in crate::cli::watch) fn view() -> View {
        let first = FirstDifference {
            node: "blue/b".into(),
            prefix: "10.128.0.3/32".into(),
            expected: "via c".into(),
            found: "nothing".into(),
        };
        let network = |network: &str, diverged: usize, first| NetworkRow {
            network: network.into(),
            nodes: 3,
            converged: Some(diverged == 0),
            diverged,
            first,
        };
        let node = |node: &str, at: Option<&str>| NodeRow {
            node: node.into(),
            at: at.map(str::to_owned),
            down: node == "blue/b",
            sent: flow(48_000),
            received: Some(Flow::default()),
        };
        View {
            schema: SCHEMA,
            time: "2026-11-23T10:04:00.000000000Z".into(),
            lab: "first".into(),
            interval_ms: u64::try_from(Duration::from_secs(1).as_millis()).unwrap(),
            down: vec!["node blue/b".into()],
            engine: Some(Engine { pid: 5, cpu_percent: Some(12) }),
            networks: vec![network("base", 0, None), network("blue", 1, Some(first))],
            links: vec![
                link("base/X--Y", LinkState::Up, 1_250_000, 48_000),
                link("base/Y--Z", LinkState::Up, 0, 0),
                link("blue/a--b", LinkState::Down, 96_000_000, 24_000),
                link("blue/b--c", LinkState::Dead, 0, 0),
            ],
            nodes: vec![node("base/X", None), node("blue/b", Some("base/Y"))],
            drops: vec![DropRow {
                node: "Y".into(),
                reason: "strong-host".into(),
                total: 19,
                per_s: Some(2),
            }],
            services: Vec::new(),
        }
    }

    pub(in crate::cli::watch) fn press(ui: &mut Ui, keys: &str) -> bool {
        keys.chars().any(|c| {
            let code = match c {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            ui.press(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    fn names(ui: &mut Ui) -> Vec<String> {
        ui.rows().into_iter().map(|row| row[0].text.clone()).collect()
    }

    #[test]
    fn keys_choose_panes_rows_and_an_end() {
        let mut ui = Ui::new(view());
        assert!(!press(&mut ui, "jjkj"));
        ui.rows();
        assert_eq!(ui.table.selected(), Some(2));
        press(&mut ui, "G");
        ui.rows();
        assert_eq!(ui.table.selected(), Some(3), "the last row there is");
        press(&mut ui, "\t");
        assert_eq!((ui.pane(), ui.table.selected()), (Pane::Nodes, Some(0)));
        press(&mut ui, "h");
        assert_eq!(ui.pane(), Pane::Links);
        press(&mut ui, "p");
        assert!(ui.is_paused());
        assert!(press(&mut ui, "q"));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut ui, "/");
        assert!(ui.press(control_c), "while a filter is written too");
    }

    #[test]
    fn a_filter_is_written_kept_and_cleared() {
        let mut ui = Ui::new(view());
        assert!(!press(&mut ui, "/blueq"), "q is a letter here");
        assert!(ui.is_typing() && names(&mut ui).is_empty());
        ui.press(KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE));
        press(&mut ui, "\n");
        assert_eq!((ui.is_typing(), names(&mut ui)), (false, vec!["blue/a--b".into(), "blue/b--c".into()]));
        press(&mut ui, "\u{1b}");
        assert_eq!(names(&mut ui).len(), 4);
    }

    #[test]
    fn s_sorts_by_the_next_column_and_at_last_by_none() {
        let mut ui = Ui::new(view());
        press(&mut ui, "sss");
        assert_eq!(ui.sort(), Some(2));
        assert_eq!(names(&mut ui)[..2], ["blue/a--b", "base/X--Y"]);
        press(&mut ui, &"s".repeat(Pane::Links.titles().len() - 2));
        assert_eq!(ui.sort(), None);
    }
}
