//! What became of a lab that was tested. Results of tests and errors go in; verdicts, points and exit codes come out. It
//! never prints: each kind of report reads it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{DONE, FAILED, code};
use crate::error::Error;
use crate::model::Expectation;
use crate::observe;

/// One test's result, as the process that measures tells it, or as whoever is tested may read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) name: String,
    /// Line in the lab file, or in that of the expectations.
    pub(super) line: Option<usize>,
    pub(super) passed: bool,
    pub(super) not: bool,
    pub(super) expected: Vec<String>,
    pub(super) measured: Vec<String>,
    /// What explains a failure, in lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) causes: Vec<String>,
    pub(super) elapsed_ms: f64,
    /// What the test is worth, where labs are graded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) points: Option<u32>,
    /// What it tests is not to be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) hidden: bool,
}

impl Check {
    /// A test that failed because the lab lacks what it names.
    pub(super) fn lacking(expectation: &Expectation, reasons: &[String]) -> Self {
        Self {
            name: expectation.name.clone(),
            line: Some(expectation.line),
            passed: false,
            not: false,
            expected: vec![expectation.name.clone()],
            measured: reasons.to_vec(),
            causes: Vec::new(),
            elapsed_ms: 0.0,
            points: None,
            hidden: false,
        }
    }

    /// Test number `number` of a file of expectations: with its points, and unless they may be revealed without what it
    /// tests and what was measured.
    pub(super) fn graded(self, expectation: &Expectation, number: usize, reveal: bool) -> Self {
        let points = Some(expectation.points);
        if reveal {
            return Self { points, ..self };
        }
        let name = if expectation.is_named { self.name } else { format!("test {number}") };
        let lacking = expectation.test.is_err();
        let measured = lacking.then(|| "the lab lacks something that this test names".to_owned());
        Self {
            name,
            line: None,
            passed: self.passed,
            not: false,
            expected: Vec::new(),
            measured: measured.into_iter().collect(),
            causes: Vec::new(),
            elapsed_ms: self.elapsed_ms,
            points,
            hidden: true,
        }
    }

    /// Points it brought, of those it is worth.
    pub(super) fn score(&self) -> Option<(u32, u32)> {
        self.points.map(|worth| (if self.passed { worth } else { 0 }, worth))
    }

    /// Expected and measured side by side, and what explains the difference; of a hidden test what may be told.
    pub(super) fn table(&self) -> Vec<String> {
        if self.hidden {
            return self.measured.clone();
        }
        let title = if self.not { "must not be" } else { "expected" };
        let mut lines = observe::side_by_side(title, &self.expected, &self.measured);
        lines.extend(self.causes.iter().cloned());
        lines
    }
}

/// What became of one lab file.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) file: PathBuf,
    /// The name in the file, once it has been read.
    pub(super) lab: Option<String>,
    /// What carries its virtual links, in words, and why.
    pub(super) carried_by: String,
    pub(super) why: Option<String>,
    pub(super) dataplanes: Option<Value>,
    pub(super) checks: Vec<Check>,
    /// Points that all tests together are worth, where labs are graded.
    pub(super) worth: Option<u32>,
    pub(super) error: Option<Error>,
    pub(super) interrupted: bool,
    pub(super) elapsed: Duration,
    /// Under which name it stays up.
    pub(super) kept: Option<String>,
    /// Where what tells of its failure lies.
    pub(super) bundle: Option<PathBuf>,
}

impl Outcome {
    pub(super) fn passed(&self) -> bool {
        !self.interrupted && self.error.is_none() && self.checks.iter().all(|c| c.passed)
    }

    /// Points reached, of those that all tests are worth.
    pub(super) fn grade(&self) -> Option<(u32, u32)> {
        let reached = self.checks.iter().filter_map(Check::score).map(|(reached, _)| reached);
        self.worth.map(|worth| (reached.fold(0, u32::saturating_add), worth))
    }

    /// How the file is called in reports.
    pub(super) fn title(&self) -> String {
        self.file.display().to_string()
    }
}

/// 1 if a test failed, else that of the first error.
pub(super) fn exit_code(outcomes: &[Outcome]) -> u8 {
    if outcomes.iter().flat_map(|o| &o.checks).any(|c| !c.passed) {
        return FAILED;
    }
    outcomes.iter().find_map(|o| o.error.as_ref().map(code)).unwrap_or(DONE)
}

/// How many tests there were, how many passed, and how many labs could not be tested, or not to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) labs: usize,
    pub(super) tests: usize,
    pub(super) passed: usize,
    pub(super) broken: usize,
    pub(super) interrupted: usize,
}

impl Counts {
    pub(super) fn of(outcomes: &[Outcome]) -> Self {
        let checks = || outcomes.iter().flat_map(|o| &o.checks);
        Self {
            labs: outcomes.len(),
            tests: checks().count(),
            passed: checks().filter(|c| c.passed).count(),
            broken: outcomes.iter().filter(|o| o.error.is_some()).count(),
            interrupted: outcomes.iter().filter(|o| o.interrupted).count(),
        }
    }

    /// In one line.
    pub(super) fn words(self) -> String {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let Self { labs, tests, passed, broken, interrupted } = self;
        let mut text =
            format!("{passed} of {tests} test{} of {labs} lab{} passed", plural(tests), plural(labs));
        if broken > 0 {
            text += &format!("; {broken} lab{} could not be tested", plural(broken));
        }
        if interrupted > 0 {
            text += &format!("; {interrupted} lab{} interrupted", plural(interrupted));
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::test) fn check(name: &str, passed: bool) -> Check {
        Check {
            name: name.into(),
            line: Some(7),
            passed,
            not: false,
            expected: vec!["b answers".into()],
            measured: vec!["no answer <>&\u{1b}[31m".into()],
            causes: Vec::new(),
            elapsed_ms: 12.5,
            points: None,
            hidden: false,
        }
    }

    /// One that passed, one with a failed test, one that did not come up.
    pub(in crate::cli::test) fn outcomes() -> Vec<Outcome> {
        let of = |file: &str, checks| Outcome {
            file: file.into(),
            lab: Some("t".into()),
            carried_by: "fastpath".into(),
            why: Some("no ipip".into()),
            checks,
            elapsed: Duration::from_millis(1500),
            ..Outcome::default()
        };
        let failed = vec![check("a # b\\c", true), check("ping a -> b\nand \"c\"", false)];
        let error = Error::kernel("cannot add a route").because("no such device");
        vec![
            of("good.yaml", vec![check("ping a -> b", true)]),
            of("dir/bad|1.yaml", failed),
            Outcome { error: Some(error), ..of("broken.yaml", Vec::new()) },
        ]
    }

    fn expectation(named: bool) -> Expectation {
        let (name, test) = ("secret".to_owned(), Err(vec!["`v` has no node `c`".to_owned()]));
        Expectation { name, is_named: named, line: 3, points: 2, test }
    }

    #[test]
    fn the_sum_says_what_was_not_tested() {
        let mut all = outcomes();
        let sum = "2 of 3 tests of 3 labs passed; 1 lab could not be tested";
        assert_eq!(Counts::of(&all).words(), sum);
        all[0].interrupted = true;
        assert_eq!(Counts::of(&all).words(), format!("{sum}; 1 lab interrupted"));
    }

    #[test]
    fn a_failed_test_comes_before_an_error_and_an_error_before_nothing() {
        let mut all = outcomes();
        assert_eq!(exit_code(&all), 1);
        all.remove(1);
        assert_eq!(exit_code(&all), 5);
        all.pop();
        assert_eq!(exit_code(&all), 0);
    }

    #[test]
    fn what_is_hidden_says_neither_what_was_tested_nor_what_was_found() {
        let whole = Check::lacking(&expectation(false), &["`v` has no node `c`".into()]);
        let hidden = whole.clone().graded(&expectation(false), 4, false);
        let text = serde_json::to_string(&hidden).unwrap() + &hidden.table().join("\n");
        assert!(text.contains("test 4") && text.contains("lacks something"), "{text}");
        assert!(!text.contains("secret") && !text.contains("`c`") && !text.contains('3'), "{text}");
        assert_eq!(hidden.score(), Some((0, 2)));
        let named = whole.clone().graded(&expectation(true), 4, false);
        assert_eq!(named.name, "secret", "a name that the teacher gave is for students");
        let revealed = whole.graded(&expectation(false), 4, true);
        assert!(revealed.table().join("\n").contains("no node `c`") && revealed.line == Some(3));
    }

    #[test]
    fn points_of_tests_that_never_ran_count_as_missed() {
        let mut outcome = outcomes().remove(1);
        outcome.checks[0].points = Some(3);
        outcome.checks[1].points = Some(4);
        assert_eq!(outcome.grade(), None);
        outcome.worth = Some(10);
        assert_eq!(outcome.grade(), Some((3, 10)));
    }
}
