//! Packets as rows of boxes, the way the paper draws headers (Figures 7, 9 and 10): a row for each wire, a box for each
//! header, the outermost on the left. Rows go in, SVG comes out. Headers of one depth stand below one another, so that what
//! stays as it is from wire to wire can be seen.

use std::fmt::Write as _;

use super::svg::{escape, number, text_width, tone, wrapped};

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderBox {
    pub words: String,
    /// Below the words.
    pub more: String,
    /// Boxes with one number have one colour; 0 is the base network's.
    pub colour: usize,
}

/// A packet on a wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackRow {
    pub title: String,
    /// Outermost first.
    pub headers: Vec<HeaderBox>,
    /// Not there, but should be.
    pub missing: bool,
    /// What is wrong with it.
    pub fault: Option<String>,
}

const SIZE: f64 = 12.5;
const SMALL: f64 = 11.0;
const HIGH: f64 = 38.0;
const STEP: f64 = 52.0;
const MARGIN: f64 = 24.0;
const DATA: f64 = 64.0;
const RED: &str = "#b3261e";

/// Draws rows; `notes` are written below, the first of them in bold.
#[must_use]
pub fn stacks(rows: &[StackRow], notes: &[String]) -> String {
    let depth = rows.iter().map(|r| r.headers.len()).max().unwrap_or(0);
    // From the innermost header outwards.
    let wide = |column: usize| {
        let of = |row: &StackRow| {
            let header = row.headers.iter().rev().nth(column)?;
            Some(text_width(&header.words, SIZE).max(text_width(&header.more, SMALL)) + 22.0)
        };
        rows.iter().filter_map(of).fold(70.0, f64::max)
    };
    let widths: Vec<f64> = (0..depth).map(wide).collect();
    let titles = rows.iter().map(|r| text_width(&r.title, SIZE)).fold(0.0, f64::max) + 20.0;
    let right = MARGIN + titles + widths.iter().sum::<f64>();
    let faults =
        rows.iter().filter_map(|r| r.fault.as_ref()).map(|f| text_width(f, SIZE) + 20.0).fold(0.0, f64::max);
    let width = (right + DATA + faults + MARGIN).max(480.0);
    let (mut body, mut y) = (String::new(), MARGIN);
    for row in rows {
        row_at(&mut body, row, &widths, (right, y));
        y += STEP;
    }
    for (index, note) in notes.iter().enumerate() {
        let weight = if index == 0 { " font-weight=\"bold\"" } else { "" };
        for line in wrapped(note, width - 2.0 * MARGIN, 0.0, SIZE) {
            y += 18.0;
            put(
                &mut body,
                format_args!(
                    "<text x=\"{}\" y=\"{}\"{weight}>{}</text>",
                    number(MARGIN),
                    number(y),
                    escape(&line)
                ),
            );
        }
    }
    let (w, h) = (number(width), number(y + MARGIN));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\">\n\
         <style>text{{font-family:'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif;font-size:{SIZE}px;fill:#1d232b}}\
         .s{{font-size:{SMALL}px;fill-opacity:.75}}</style>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

fn row_at(out: &mut String, row: &StackRow, widths: &[f64], (right, y): (f64, f64)) {
    let dash = if row.missing { " stroke-dasharray=\"4 3\"" } else { "" };
    let middle = number(y + HIGH / 2.0 + 4.0);
    put(out, format_args!("<text x=\"{}\" y=\"{middle}\">{}</text>", number(MARGIN), escape(&row.title)));
    let mut x = right;
    for (header, wide) in row.headers.iter().rev().zip(widths) {
        x -= wide;
        let tone = tone(header.colour);
        let (fill, edge) = (if row.missing { "#fff".to_owned() } else { tone.mixed(0.82) }, tone.hex());
        let (left, top, w) = (number(x), number(y), number(*wide));
        put(
            out,
            format_args!(
                "<rect x=\"{left}\" y=\"{top}\" width=\"{w}\" height=\"{HIGH}\" fill=\"{fill}\" stroke=\"{edge}\"{dash}/>"
            ),
        );
        let (cx, upper, lower) = (number(x + wide / 2.0), number(y + 16.0), number(y + 31.0));
        put(
            out,
            format_args!(
                "<text text-anchor=\"middle\" x=\"{cx}\" y=\"{upper}\">{}</text>",
                escape(&header.words)
            ),
        );
        put(
            out,
            format_args!(
                "<text class=\"s\" text-anchor=\"middle\" x=\"{cx}\" y=\"{lower}\">{}</text>",
                escape(&header.more)
            ),
        );
    }
    let (left, top) = (number(right), number(y));
    put(
        out,
        format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{DATA}\" height=\"{HIGH}\" fill=\"#fff\" stroke=\"#8a93a0\"{dash}/>"
        ),
    );
    put(
        out,
        format_args!(
            "<text class=\"s\" text-anchor=\"middle\" x=\"{}\" y=\"{middle}\">data</text>",
            number(right + DATA / 2.0)
        ),
    );
    if let Some(fault) = &row.fault {
        let x = number(right + DATA + 12.0);
        put(
            out,
            format_args!("<text x=\"{x}\" y=\"{middle}\" style=\"fill:{RED}\">{}</text>", escape(fault)),
        );
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _never = out.write_fmt(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_headers_stand_below_one_another_whatever_is_outside() {
        let header = |words: &str| HeaderBox { words: words.to_owned(), more: String::new(), colour: 0 };
        let row = |words: &[&str]| StackRow {
            title: "1".to_owned(),
            headers: words.iter().map(|w| header(w)).collect(),
            missing: false,
            fault: None,
        };
        let svg = stacks(
            &[row(&["base", "inner <net>"]), row(&["base", "more", "inner <net>"])],
            &["note".to_owned()],
        );
        let places: Vec<&str> = svg
            .lines()
            .filter(|l| l.contains("inner &lt;net&gt;"))
            .filter_map(|l| l.split(" x=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(places.len(), 2);
        assert_eq!(places[0], places[1]);
        assert!(svg.contains(">note<"));
    }
}
