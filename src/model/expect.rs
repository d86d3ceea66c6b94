//! What a lab is expected to do, from a file of its own. The text of that file and somebody's lab go in; tests with their
//! points come out, and where the lab lacks what a test names, the reason instead. Nothing in the lab's file reaches
//! them: not its parameters, its tests, or its names for tests.

use std::path::Path;

use super::{Lab, Test, bind};
use crate::error::Result;
use crate::expand::control;
use crate::spec::{self, Diagnostic, ExpectSpec, GradedSpec, Instances, Report, Span, Tree, Value, position};

/// A file of expectations that is right in itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectations {
    spec: ExpectSpec,
    source: String,
}

/// One test of a file of expectations, bound to a lab.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// The `name:` given, or the test in words.
    pub name: String,
    /// The file gives it a name, which whoever is tested may read.
    pub is_named: bool,
    /// Line in the file of expectations, from 1.
    pub line: usize,
    pub points: u32,
    /// `Err` says what the lab lacks.
    pub test: Result<Test, Vec<String>>,
}

impl Expectations {
    /// Reads a file of expectations; `path` is for the errors.
    ///
    /// # Errors
    /// All errors of the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut errors = Vec::new();
        let mut instances = Instances::default();
        let spec = spec::read(text, &mut errors).and_then(|file| {
            no_templates(&file, &mut errors);
            let flat = control::flatten(&file, &[], &mut errors);
            let spec = spec::decode_expectations(&flat.tree, &mut errors);
            instances = flat.instances;
            spec
        });
        match spec {
            Some(spec) if errors.is_empty() => Ok(Self { spec, source: text.to_owned() }),
            _ => Err(Report::new(path, text, errors, &instances).into_error()),
        }
    }

    /// Whether labs may have apps.
    #[must_use]
    pub fn allows_apps(&self) -> bool {
        self.spec.apps
    }

    /// The number of tests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.spec.tests.len()
    }

    /// The points of all tests together.
    #[must_use]
    pub fn points(&self) -> u32 {
        self.spec.tests.iter().map(points).fold(0, u32::saturating_add)
    }

    /// The tests, bound to the names of `lab`.
    #[must_use]
    pub fn bind(&self, lab: &Lab) -> Vec<Expectation> {
        self.spec.tests.iter().map(|graded| self.bind_one(lab, graded)).collect()
    }

    fn bind_one(&self, lab: &Lab, graded: &GradedSpec) -> Expectation {
        let mut errors = Vec::new();
        let bound = bind::test(lab, &graded.test, &self.source, &mut errors);
        let test = bound.filter(|_| errors.is_empty()).ok_or_else(|| errors.iter().map(words).collect());
        Expectation {
            name: bind::title(&graded.test),
            is_named: graded.test.name.is_some(),
            line: position(&self.source, graded.test.span).0,
            points: points(graded),
            test,
        }
    }
}

/// One point, where the file does not say; none for an action, which tests nothing.
fn points(graded: &GradedSpec) -> u32 {
    graded.points.unwrap_or(u32::from(!graded.test.kind.is_action()))
}

fn words(error: &Diagnostic) -> String {
    match &error.help {
        Some(help) => format!("{}; {help}", error.title),
        None => error.title.clone(),
    }
}

/// Expansion takes templates away, and here nothing could use one.
fn no_templates(file: &Tree, errors: &mut Vec<Diagnostic>) {
    let Value::Map(items) = &file.value else { return };
    let is_templates = |key: &Tree| matches!(&key.value, Value::Scalar(word) if word == "templates");
    let spans = items.iter().map(|(key, _)| key).filter(|key| is_templates(key)).map(|key| key.span);
    let error =
        |span: Span| Diagnostic::new("unknown-key", span, "a file of expectations has no `templates`");
    errors.extend(spans.map(error));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    const LAB: &str = "name: t
params: {who: b}
base: {links: [X -- Y]}
vis:
  v: {nodes: {a: X, b: Y}, links: [a -- b]}
tests: [{name: mine, ping: v/a -> v/b}]
";

    fn expectations(text: &str) -> Result<Expectations> {
        Expectations::parse(Path::new("e.yaml"), text)
    }

    fn bound(text: &str) -> Vec<Expectation> {
        expectations(text).unwrap().bind(&model::parse(Path::new("t.yaml"), LAB).unwrap())
    }

    fn titles(text: &str) -> Vec<String> {
        let error = expectations(text).unwrap_err();
        error.report().unwrap().diagnostics().iter().map(|d| d.title.clone()).collect()
    }

    #[test]
    fn tests_are_bound_to_the_labs_names_and_carry_points() {
        let found = bound(
            "tests:\n- ping: v/a -> v/b\n- {name: far, points: 3, ttl: {from: v/a, to: v/b, is: 64}}\n- down: a--b\n",
        );
        let brief: Vec<_> = found.iter().map(|e| (e.name.as_str(), e.is_named, e.line, e.points)).collect();
        assert_eq!(
            brief,
            [("ping v/a -> v/b", false, 2, 1), ("far", true, 3, 3), ("down a--b", false, 4, 0)]
        );
        assert!(found.iter().all(|e| e.test.is_ok()));
    }

    #[test]
    fn names_of_tests_are_on_one_line() {
        let found = bound(
            "tests:\n- exec: {at: v/a, run: [sh, -c, \"a\\nb\"]}\n- name: |\n    two\n    lines\n  ping: v/a -> v/b\n",
        );
        let names: Vec<_> = found.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["exec at v/a: sh -c a b", "two lines"]);
    }

    #[test]
    fn a_name_that_the_lab_lacks_fails_that_test_alone() {
        let found = bound("tests:\n- ping: v/a -> v/c\n- ping: w/a -> v/b\n- ping: v/a -> v/b\n");
        assert_eq!(found[0].test.clone().unwrap_err(), ["there is no node `v/c`; did you mean `v/a`?"]);
        assert!(found[1].test.is_err() && found[2].test.is_ok());
    }

    #[test]
    fn parameters_are_the_files_own() {
        let own = "params: {who: b}\ntests: [{ping: \"v/a -> v/${who}\"}]\n";
        assert!(bound(own)[0].test.is_ok());
        let labs = titles("tests: [{ping: \"v/a -> v/${who}\"}]\n");
        assert_eq!(labs.len(), 1, "the lab's parameter is not known: {labs:?}");
    }

    #[test]
    fn errors_of_the_file_come_all_at_once() {
        let found =
            titles("templates: {}\nvis: {}\ntests:\n- {ping: a -> b, points: -1}\n- {pong: a -> b}\n");
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(titles("apps: true\n").len(), 1);
        assert_eq!(titles("tests: []\n"), ["the file expects nothing: `tests:` has no items"]);
        assert_eq!(titles("name: t\nbase: {}\n").len(), 3, "a lab is no file of expectations");
    }
}
