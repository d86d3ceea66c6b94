//! A summary in Markdown for the page of a CI run (GitHub's `GITHUB_STEP_SUMMARY`). Outcomes go in; a table of labs, and below
//! it what failed, comes out. It never exceeds what such a page takes.

use std::time::Duration;

use super::error_text;
use crate::cli::test::outcome::{Check, Counts, Outcome};
use crate::cli::up::time;

/// GitHub takes a mebibyte a step, and drops what is longer as a whole. Other steps' part is theirs.
const MOST: usize = 900 << 10;

pub(in crate::cli::test) fn summary(outcomes: &[Outcome]) -> String {
    let graded = outcomes.iter().any(|o| o.grade().is_some());
    let mut text = format!("### vilab test: {}\n\n", Counts::of(outcomes).words());
    text += if graded {
        "| | lab | points | tests | time |\n|---|---|---|---|---|\n"
    } else {
        "| | lab | tests | time |\n|---|---|---|---|\n"
    };
    for outcome in outcomes {
        text += &row(outcome, graded);
    }
    let failed: Vec<String> = outcomes.iter().filter(|o| !o.passed()).map(details).collect();
    for (index, part) in failed.iter().enumerate() {
        if text.len() + part.len() > MOST {
            text += &format!("\n{} more failed.\n", failed.len() - index);
            break;
        }
        text += part;
    }
    text
}

fn row(outcome: &Outcome, graded: bool) -> String {
    let mark = if outcome.passed() { "✅" } else { "❌" };
    let passed = outcome.checks.iter().filter(|c| c.passed).count();
    let points = outcome.grade().map(|(reached, worth)| format!("{reached} of {worth}")).unwrap_or_default();
    let points = if graded { format!(" {points} |") } else { String::new() };
    let (title, tests) = (cell(&outcome.title()), outcome.checks.len());
    let time = time(outcome.elapsed.max(Duration::ZERO).as_secs_f64() * 1000.0);
    format!("| {mark} | {title} |{points} {passed} of {tests} | {time} |\n")
}

/// What failed of one lab, folded.
fn details(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    for check in outcome.checks.iter().filter(|c| !c.passed) {
        lines.push(first_line(check));
        lines.extend(check.table().iter().map(|row| format!("    {row}")));
    }
    lines.extend(error_text(outcome));
    lines.extend(outcome.interrupted.then(|| "interrupted".to_owned()));
    let text = lines.join("\n");
    let fence = fence(&text);
    let title = html(&outcome.title());
    format!("\n<details><summary>{title}</summary>\n\n{fence}text\n{text}\n{fence}\n\n</details>\n")
}

fn first_line(check: &Check) -> String {
    let line = check.line.map(|line| format!(" (line {line})")).unwrap_or_default();
    format!("FAIL {}{line}", check.name)
}

/// Longer than any run of backticks in `text`.
fn fence(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(3))
}

/// Text of a table's cell.
fn cell(text: &str) -> String {
    html(text).replace('|', "\\|").replace('\n', " ")
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::super::outcome::tests::{check, outcomes};
    use super::*;

    #[test]
    fn a_row_a_lab_and_what_failed_below() {
        let text = summary(&outcomes());
        assert!(
            text.starts_with("### vilab test: 2 of 3 tests of 3 labs passed; 1 lab could not be tested\n")
        );
        assert!(text.contains("| ✅ | good.yaml | 1 of 1 | 1.50 s |\n"), "{text}");
        assert!(text.contains("| ❌ | dir/bad\\|1.yaml | 1 of 2 |"), "a bar does not end the cell: {text}");
        assert_eq!(text.matches("<details>").count(), 2);
        assert!(text.contains("FAIL ping a -> b\nand") && text.contains("no such device"), "{text}");
    }

    #[test]
    fn points_have_a_column_where_labs_are_graded() {
        let mut all = outcomes();
        all[0].worth = Some(4);
        assert!(summary(&all).contains("| ✅ | good.yaml | 0 of 4 | 1 of 1 |"), "{}", summary(&all));
    }

    #[test]
    fn no_fence_ends_early() {
        assert_eq!(fence("a ``` b ```` c"), "`````");
        assert_eq!(fence("plain"), "```");
    }

    #[test]
    fn it_stays_below_what_a_page_takes() {
        let mut all = Vec::new();
        for _ in 0..40 {
            let mut outcome = outcomes().remove(1);
            outcome.checks.push(check(&"x".repeat(30 << 10), false));
            all.push(outcome);
        }
        let text = summary(&all);
        assert!(text.len() < 1 << 20 && text.contains("more failed."), "{}", text.len());
    }
}
