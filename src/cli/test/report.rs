//! Reports for programs. Outcomes go in; JSON, JUnit's XML, TAP, or Markdown for a CI run's page comes out, the same for the
//! same outcomes but for times. It never writes a file.

mod junit;
mod summary;
mod tap;

use serde_json::{Value, json};

use super::outcome::{Outcome, exit_code};
use crate::cli::DONE;

pub(super) use junit::junit;
pub(super) use summary::summary;
pub(super) use tap::tap;

/// The test that stands for a lab that could not be tested.
const COMES_UP: &str = "the lab can be tested";

/// Schema `vilab.test/1`: docs/test.md.
pub(super) fn json(outcomes: &[Outcome]) -> Value {
    let labs: Vec<Value> = outcomes.iter().map(lab).collect();
    let interrupted = outcomes.iter().any(|o| o.interrupted);
    let passed = !interrupted && exit_code(outcomes) == DONE;
    let mut whole =
        json!({ "schema": "vilab.test/1", "passed": passed, "interrupted": interrupted, "labs": labs });
    let grades = outcomes.iter().filter_map(Outcome::grade);
    if let Some((reached, worth)) = grades.reduce(|a, b| (a.0.saturating_add(b.0), a.1.saturating_add(b.1))) {
        whole["grade"] = json!({ "points": reached, "of": worth });
    }
    whole
}

fn lab(outcome: &Outcome) -> Value {
    let mut lab = json!({
        "file": outcome.file,
        "lab": outcome.lab,
        "passed": outcome.passed(),
        "error": outcome.error.as_ref().map(ToString::to_string),
        "why": outcome.why,
        "dataplanes": outcome.dataplanes,
        "elapsed_ms": outcome.elapsed.as_secs_f64() * 1000.0,
        "kept": outcome.kept,
        "bundle": outcome.bundle,
        "tests": outcome.checks,
    });
    if let Some((reached, worth)) = outcome.grade() {
        lab["grade"] = json!({ "points": reached, "of": worth });
    }
    lab
}

/// The error of a lab as plain text: that of a file with all errors of the file.
fn error_text(outcome: &Outcome) -> Option<String> {
    let error = outcome.error.as_ref()?;
    let report = error.report().map(|report| report.render(false));
    Some(report.into_iter().chain([error.to_string()]).collect::<Vec<_>>().join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::outcomes;
    use super::*;

    #[test]
    fn json_has_every_lab_and_test_and_grades_only_where_there_are_points() {
        let mut all = outcomes();
        let found = json(&all);
        assert_eq!(found["passed"], false);
        assert_eq!(found["labs"][1]["tests"][1]["measured"][0], "no answer <>&\u{1b}[31m");
        assert_eq!(found["labs"][2]["error"], "cannot add a route\n  caused by: no such device");
        assert!(found.get("grade").is_none() && found["labs"][0].get("grade").is_none());
        all.iter_mut().for_each(|o| o.worth = Some(3));
        all[0].checks[0].points = Some(2);
        assert_eq!(json(&all)["grade"], json!({ "points": 2, "of": 9 }));
    }

    #[test]
    fn what_was_interrupted_has_not_passed() {
        let mut all = outcomes();
        all.truncate(1);
        assert_eq!(json(&all)["passed"], true);
        all[0].interrupted = true;
        assert_eq!((&json(&all)["passed"], &json(&all)["interrupted"]), (&json!(false), &json!(true)));
    }
}
