//! The tests of a file of expectations against what is measured. [`Expectation`]s go in; each result comes out with its
//! points, those that could not be measured in their places among the others. It never measures.

use std::collections::VecDeque;

use super::outcome::Check;
use crate::model::{Expectation, Test};

/// What is still to come; nothing where a lab's own tests are run.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    /// With their numbers, from 1.
    left: VecDeque<(usize, Expectation)>,
    graded: bool,
    reveal: bool,
}

impl Sheet {
    pub(super) fn new(expectations: Vec<Expectation>, reveal: bool) -> Self {
        Self { left: (1..).zip(expectations).collect(), graded: true, reveal }
    }

    /// What can be measured, in order.
    pub(super) fn tests(&self) -> Option<Vec<Test>> {
        let bound = self.left.iter().filter_map(|(_, e)| e.test.clone().ok());
        self.graded.then(|| bound.collect())
    }

    /// The number of tests.
    pub(super) fn count(&self) -> Option<usize> {
        self.graded.then_some(self.left.len())
    }

    /// Takes the next measured result; gives it back behind those before it that could not be measured.
    pub(super) fn enter(&mut self, check: Check) -> Vec<Check> {
        let mut checks = self.lacking();
        checks.push(match self.left.pop_front() {
            Some((number, expectation)) => check.graded(&expectation, number, self.reveal),
            None => check,
        });
        checks
    }

    /// Those at the end that could not be measured.
    pub(super) fn rest(&mut self) -> Vec<Check> {
        self.lacking()
    }

    fn lacking(&mut self) -> Vec<Check> {
        let mut checks = Vec::new();
        while let Some((number, expectation)) = self.left.front()
            && let Err(reasons) = &expectation.test
        {
            checks.push(Check::lacking(expectation, reasons).graded(expectation, *number, self.reveal));
            self.left.pop_front();
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::tests::check;
    use super::*;
    use crate::model::TestKind;

    fn expectation(name: &str, points: u32, bound: bool) -> Expectation {
        let test =
            Test { name: name.into(), line: 1, within_ms: None, not: false, kind: TestKind::Converged };
        let test = if bound { Ok(test) } else { Err(vec!["no node".to_owned()]) };
        Expectation { name: name.into(), is_named: false, line: 1, points, test }
    }

    fn brief(checks: &[Check]) -> Vec<(String, bool, Option<u32>)> {
        checks.iter().map(|c| (c.name.clone(), c.passed, c.points)).collect()
    }

    #[test]
    fn what_cannot_be_measured_keeps_its_place() {
        let all = [("a", 1, false), ("b", 2, true), ("c", 3, false), ("d", 4, true), ("e", 5, false)];
        let mut sheet = Sheet::new(all.map(|(n, p, bound)| expectation(n, p, bound)).into(), true);
        assert_eq!(sheet.count(), Some(5));
        let names: Vec<String> = sheet.tests().unwrap().into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["b", "d"]);
        let passed = |name: &str, passed, points| (name.to_owned(), passed, Some(points));
        assert_eq!(brief(&sheet.enter(check("b", true))), [passed("a", false, 1), passed("b", true, 2)]);
        assert_eq!(brief(&sheet.enter(check("d", false))), [passed("c", false, 3), passed("d", false, 4)]);
        assert_eq!(brief(&sheet.rest()), [passed("e", false, 5)]);
        assert_eq!(brief(&sheet.enter(check("undo all actions", false)))[0].2, None, "it is nobody's point");
    }

    #[test]
    fn numbers_are_those_of_the_file() {
        let mut sheet = Sheet::new(vec![expectation("a", 1, false), expectation("b", 1, true)], false);
        let names: Vec<String> = sheet.enter(check("b", true)).into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["test 1", "test 2"]);
    }

    #[test]
    fn a_labs_own_tests_pass_through() {
        let mut sheet = Sheet::default();
        assert_eq!((sheet.tests(), sheet.count()), (None, None));
        assert_eq!(sheet.enter(check("x", true)), [check("x", true)]);
    }
}
