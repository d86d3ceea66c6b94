//! Drawing. The state of the screen goes in; one frame of a terminal comes out. It never asks anything and decides nothing but
//! what there is room for.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::pane::{self, Pane, Title, Tone};
use super::ui::Ui;

/// Between two columns.
const GAP: u16 = 2;
/// The widest that a column gets beside others.
const WIDEST: usize = 60;
const KEYS: &str = "q quit  tab pane  jk move  / filter  s sort  p pause";

pub(super) fn draw(frame: &mut Frame<'_>, ui: &mut Ui) {
    let [head, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(ui)), head);
    frame.render_widget(Paragraph::new(panes(ui)), tabs);
    table(frame, body, ui);
    frame.render_widget(Paragraph::new(footline(ui)), foot);
}

/// The lab in one line: what is wrong stands out.
fn headline(ui: &Ui) -> Line<'static> {
    let view = ui.view();
    let mut words =
        vec![Span::styled(format!("lab {}", view.lab), Style::new().add_modifier(Modifier::BOLD))];
    let mut say = |text: String, tone: Tone| words.push(Span::styled(format!("  {text}"), style(tone)));
    match view.networks.iter().find(|n| n.converged == Some(false)) {
        None => say("routes as computed".into(), Tone::Good),
        Some(network) => match &network.first {
            Some(first) => say(format!("{} differs to {}", first.node, first.prefix), Tone::Bad),
            None => say(format!("{} differs", network.network), Tone::Bad),
        },
    }
    if let Some(engine) = view.engine {
        say(format!("engine {} %", engine.cpu_percent.map_or("-".into(), |p| p.to_string())), Tone::Plain);
    }
    let per_s: u64 = view.drops.iter().filter_map(|d| d.per_s).sum();
    if per_s > 0 {
        say(format!("drops {}/s", pane::short(per_s)), Tone::Bad);
    }
    if !view.down.is_empty() {
        say(format!("down: {}", view.down.join(", ")), Tone::Bad);
    }
    Line::from(words)
}

fn panes(ui: &Ui) -> Line<'static> {
    let tab = |pane: Pane| {
        let name = format!(" {} ", pane.name());
        let chosen = Style::new().add_modifier(Modifier::REVERSED);
        Span::styled(name, if pane == ui.pane() { chosen } else { Style::new() })
    };
    Line::from(Pane::ALL.map(tab).to_vec())
}

fn footline(ui: &Ui) -> Line<'static> {
    if ui.is_typing() {
        return Line::from(format!("/{}_  enter keep  esc clear", ui.filter()));
    }
    let mut words = vec![Span::styled(KEYS, style(Tone::Quiet))];
    if !ui.filter().is_empty() {
        words.push(Span::from(format!("  filter: {}", ui.filter())));
    }
    if ui.is_paused() {
        words.push(Span::styled("  paused", style(Tone::Bad)));
    }
    Line::from(words)
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, ui: &mut Ui) {
    let (titles, rows) = (ui.pane().titles(), ui.rows());
    if rows.is_empty() {
        let nothing = if ui.filter().is_empty() { "none" } else { "none with this filter" };
        frame.render_widget(Paragraph::new(Span::styled(nothing, style(Tone::Quiet))), area);
        return;
    }
    let heads: Vec<String> = titles.iter().enumerate().map(|(i, t)| head(t, ui.sort() == Some(i))).collect();
    let widths = widths(&heads, &rows, usize::from(area.width));
    let shown = widths.len();
    let align = |title: &Title| if title.number { Alignment::Right } else { Alignment::Left };
    let cell = |text: String, i: usize| Cell::from(Text::from(text).alignment(align(&titles[i])));
    let header = Row::new(heads.into_iter().take(shown).enumerate().map(|(i, text)| cell(text, i)));
    let drawn = rows.into_iter().map(|row| {
        Row::new(row.into_iter().take(shown).enumerate().map(|(i, c)| cell(c.text, i).style(style(c.tone))))
    });
    let table = Table::new(drawn, widths.iter().map(|w| Constraint::Length(*w)))
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(GAP)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut ui.table);
}

fn head(title: &Title, sorted: bool) -> String {
    if sorted { format!("{}*", title.text) } else { title.text.to_owned() }
}

/// Of the columns that there is room for, from the left; at least one.
fn widths(heads: &[String], rows: &[pane::Row], room: usize) -> Vec<u16> {
    let mut widths = Vec::new();
    let mut left = room;
    for (i, head) in heads.iter().enumerate() {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.text.chars().count());
        let wanted = cells.chain([head.chars().count()]).max().unwrap_or(0).min(WIDEST);
        let gap = if i == 0 { 0 } else { usize::from(GAP) };
        // A column of words may be cut, as long as its title is whole.
        let least = if i == 0 { 1 } else { wanted.min(head.chars().count().max(8)) };
        if left < gap + least {
            break;
        }
        let width = wanted.min(left - gap);
        widths.push(u16::try_from(width).unwrap_or(u16::MAX));
        left -= gap + width;
    }
    widths
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::watch::ui::tests::{press, view};

    /// The text of a terminal of this size after these keys.
    fn drawn(width: u16, height: u16, keys: &str) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut ui = Ui::new(view());
        press(&mut ui, keys);
        terminal.draw(|frame| draw(frame, &mut ui)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
            cells.trim_end().to_owned()
        };
        (0..height).map(line).collect::<Vec<_>>().join("\n") + "\n"
    }

    fn expected(file: &str) -> String {
        std::fs::read_to_string(format!("fixtures/watch/{file}")).unwrap()
    }

    #[test]
    fn a_small_terminal_shows_what_it_has_room_for() {
        assert_eq!(drawn(72, 9, ""), expected("small.txt"));
    }

    #[test]
    fn a_large_terminal_shows_everything() {
        assert_eq!(drawn(130, 12, "sss"), expected("large.txt"));
    }

    #[test]
    fn other_panes_a_filter_and_a_pause() {
        let found = ["\t", "\t\t", "\t\t\tp", "\t\t\t\t", "/blue"].map(|keys| drawn(100, 7, keys)).concat();
        assert_eq!(found, expected("panes.txt"));
    }

    #[test]
    fn no_terminal_is_too_small() {
        for (width, height) in [(1, 1), (3, 2), (10, 3), (200, 4)] {
            drawn(width, height, "G");
        }
    }
}
