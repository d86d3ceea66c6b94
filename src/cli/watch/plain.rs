//! What is watched as lines. A [`View`] goes in; a table, or one JSON object, is written. It never waits for a reader.

use std::io::{self, Write};

use super::pane::{self, Pane};
use crate::cli::table::table;
use crate::observe::watch::View;

/// Writes a view, whole.
pub(super) fn write(to: &mut impl Write, view: &View, json: bool) -> io::Result<()> {
    let text = if json { serde_json::to_string(view)? + "\n" } else { lines(view).join("\n") + "\n\n" };
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// The links, and of the rest what is not as it should be.
fn lines(view: &View) -> Vec<String> {
    let mut head = format!("lab {}  {}  {} ms", view.lab, view.time, view.interval_ms);
    head += if view.is_converged() { "  routes as computed" } else { "  routes differ" };
    if let Some(percent) = view.engine.and_then(|e| e.cpu_percent) {
        head += &format!("  engine {percent} %");
    }
    let mut lines = vec![head];
    if !view.down.is_empty() {
        lines.push(format!("down: {}", view.down.join(", ")));
    }
    let differs = view.networks.iter().filter_map(|n| n.first.as_ref());
    lines.extend(
        differs.map(|f| format!("{} to {}: expected {}, found {}", f.node, f.prefix, f.expected, f.found)),
    );
    lines.extend(rows(Pane::Links, view));
    if !view.drops.is_empty() {
        lines.extend(rows(Pane::Drops, view));
    }
    lines
}

fn rows(pane: Pane, view: &View) -> Vec<String> {
    let titles: Vec<&str> = pane.titles().iter().map(|t| t.text).collect();
    let rows = pane::chosen(pane.rows(view), "", None);
    let cells: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.into_iter().map(|cell| cell.text).collect()).collect();
    table(&titles, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::ui::tests::view;

    #[test]
    fn a_table_has_links_drops_and_what_differs() {
        let mut text = Vec::new();
        write(&mut text, &view(), false).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = std::fs::read_to_string("fixtures/watch/plain.txt").unwrap();
        assert_eq!(text, expected);
    }

    #[test]
    fn an_object_is_one_line_with_its_schema() {
        let mut text = Vec::new();
        write(&mut text, &view(), true).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["schema"], "vilab.watch/1");
        assert_eq!(value["links"][0]["directions"][0]["sent"]["bits_per_s"], 1_250_000);
        assert_eq!(value["links"][0]["directions"][1]["asked"], serde_json::Value::Null);
    }
}
