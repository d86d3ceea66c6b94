//! What people see of a test run: a line a test on standard output, and on a terminal a bar for each lab that is being
//! tested. What labs say goes in, in order; nothing comes out where a report is what was asked for.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::outcome::{Check, Counts, Outcome};
use super::pool::Audience;
use crate::apply::Progress;
use crate::cli::output;
use crate::cli::up::time;

/// The terminal, or a pipe.
#[derive(Debug)]
pub(super) struct Screen {
    /// Standard output is a report's.
    quiet: bool,
    files: Vec<PathBuf>,
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    labs: BTreeMap<usize, ProgressBar>,
}

impl Screen {
    pub(super) fn new(quiet: bool, files: &[PathBuf]) -> Self {
        let bars = io::stderr().is_terminal().then(|| Bars::new(files.len()));
        Self { quiet, files: files.to_vec(), bars }
    }

    /// Lines above the bars.
    fn print(&self, lines: &[String]) {
        let print = || lines.iter().for_each(|line| output::line(line));
        match &self.bars {
            _ if self.quiet => {}
            Some(bars) => bars.all.suspend(print),
            None => print(),
        }
    }

    /// After the last lab.
    pub(super) fn finish(&mut self, outcomes: &[Outcome]) {
        if let Some(bars) = self.bars.take() {
            bars.whole.finish_and_clear();
        }
        let grades = grades(outcomes);
        self.print(&grades);
        self.print(&[Counts::of(outcomes).words()]);
    }
}

impl Bars {
    fn new(labs: usize) -> Self {
        let all = MultiProgress::new();
        let whole = all.add(ProgressBar::new(labs as u64));
        whole.set_style(style("{msg:36} {bar:24} {pos}/{len} {elapsed}"));
        whole.set_message("labs");
        Self { all, whole, labs: BTreeMap::new() }
    }

    fn show(&mut self, lab: usize, file: &str, progress: &Progress) {
        let bar = self.labs.entry(lab).or_insert_with(|| {
            let bar = self.all.insert_before(&self.whole, ProgressBar::new(0));
            bar.set_style(style("{prefix:24!} {msg:11} {bar:24} {pos}/{len}"));
            bar.set_prefix(file.to_owned());
            bar
        });
        bar.set_message(progress.stage.clone());
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Audience for Screen {
    fn progress(&mut self, lab: usize, progress: &Progress) {
        let file = self.files.get(lab).and_then(|f| f.file_name()).unwrap_or_default();
        let file = file.to_string_lossy();
        if let Some(bars) = &mut self.bars {
            bars.show(lab, &file, progress);
        }
    }

    fn begun(&mut self, _: usize, head: &str) {
        self.print(&[head.to_owned()]);
    }

    fn check(&mut self, _: usize, check: &Check) {
        self.print(&lines(check));
    }

    fn ended(&mut self, lab: usize) {
        if let Some(bars) = &mut self.bars {
            if let Some(bar) = bars.labs.remove(&lab) {
                bar.finish_and_clear();
            }
            bars.whole.inc(1);
        }
    }

    fn done(&mut self, _: usize, outcome: &Outcome) {
        if let Some(error) = &outcome.error {
            let tell = || match error.report() {
                // It names the file itself.
                Some(_) => output::error(error),
                None => output::error_in(&outcome.title(), error),
            };
            match &self.bars {
                Some(bars) => bars.all.suspend(tell),
                None => tell(),
            }
        }
        self.print(&tail(outcome));
        if let (true, Some(kept)) = (self.quiet, &outcome.kept) {
            output::note(&format!("{}: {}", outcome.title(), staying(kept)));
        }
    }
}

/// A test that passed, or with what was expected and measured one that did not.
fn lines(check: &Check) -> Vec<String> {
    let Check { name, passed, line, .. } = check;
    let score = check.score().filter(|(_, worth)| *worth > 0);
    let score = score.map(|(reached, worth)| format!("{reached} of {worth} {}", points(worth)));
    let line = line.filter(|_| !passed).map(|line| format!("line {line}"));
    let about: Vec<String> = line.into_iter().chain(score).chain([time(check.elapsed_ms)]).collect();
    let verdict = if *passed { "ok  " } else { "FAIL" };
    let mut lines = vec![format!("  {verdict}  {name} ({})", about.join(", "))];
    if !passed {
        lines.extend(check.table().iter().map(|row| format!("          {row}")));
    }
    lines
}

fn points(n: u32) -> &'static str {
    if n == 1 { "point" } else { "points" }
}

/// What is left to say of a lab after its tests.
fn tail(outcome: &Outcome) -> Vec<String> {
    let grade = outcome
        .grade()
        .map(|(reached, worth)| format!("  {}: {reached} of {worth} {}", outcome.title(), points(worth)));
    let bundle = outcome.bundle.as_ref().map(|dir| format!("  what tells of the failure: {}", dir.display()));
    let kept = outcome.kept.as_ref().map(|lab| format!("  {}", staying(lab)));
    grade.into_iter().chain(bundle).chain(kept).collect()
}

fn staying(lab: &str) -> String {
    format!(
        "the lab stays up: enter it with `vilab shell -l {lab} NODE`, take it down with `vilab down {lab}`"
    )
}

/// Who reached how much, where there are several.
fn grades(outcomes: &[Outcome]) -> Vec<String> {
    let graded: Vec<_> = outcomes.iter().filter_map(|o| Some((o.title(), o.grade()?))).collect();
    if graded.len() < 2 {
        return Vec::new();
    }
    let row = |(title, (reached, worth)): &(String, (u32, u32))| {
        vec![title.clone(), reached.to_string(), worth.to_string()]
    };
    let rows: Vec<Vec<String>> = graded.iter().map(row).collect();
    crate::cli::table::table(&["lab", "points", "of"], &rows)
}

/// All that is said of a lab, for a file.
pub(super) fn text(outcome: &Outcome) -> String {
    let mut all = vec![head(outcome)];
    all.extend(outcome.checks.iter().flat_map(lines));
    if let Some(error) = &outcome.error {
        all.extend(error.report().map(|report| report.render(false)));
        all.push(format!("error: {error}"));
    }
    all.extend(tail(outcome));
    all.join("\n") + "\n"
}

/// The line above a lab's tests.
pub(super) fn head(outcome: &Outcome) -> String {
    match &outcome.why {
        Some(why) => format!("{} on {}: {why}", outcome.title(), outcome.carried_by),
        None => outcome.title(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::{check, outcomes};
    use super::*;

    #[test]
    fn a_failed_test_shows_its_line_and_both_sides() {
        assert_eq!(lines(&check("ping a -> b", true)), ["  ok    ping a -> b (12 ms)"]);
        let failed = lines(&check("ping a -> b", false));
        assert_eq!(failed[0], "  FAIL  ping a -> b (line 7, 12 ms)");
        assert!(failed.len() > 1 && failed[1..].join("\n").contains("b answers"), "{failed:?}");
    }

    #[test]
    fn points_stand_with_tests_labs_and_the_class() {
        let mut all = outcomes();
        for outcome in &mut all {
            outcome.worth = Some(2);
            outcome.checks.iter_mut().for_each(|c| c.points = Some(1));
        }
        assert_eq!(lines(&all[0].checks[0]), ["  ok    ping a -> b (1 of 1 point, 12 ms)"]);
        assert_eq!(tail(&all[1]), ["  dir/bad|1.yaml: 1 of 2 points"]);
        assert_eq!(
            grades(&all),
            [
                "lab             points  of",
                "good.yaml       1       2",
                "dir/bad|1.yaml  1       2",
                "broken.yaml     0       2"
            ]
        );
        assert!(grades(&all[..1]).is_empty());
    }

    #[test]
    fn the_text_of_a_lab_has_its_error_and_what_stays() {
        let mut outcome = outcomes().remove(2);
        outcome.kept = Some("t-test-1-1".into());
        let text = text(&outcome);
        for part in ["broken.yaml on fastpath: no ipip", "error: cannot add a route", "vilab down t-test-1-1"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
