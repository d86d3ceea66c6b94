//! JUnit's XML, as CI servers read it (the schema of Jenkins' xUnit plugin). Outcomes go in; a suite for each lab, with a
//! case for each test, comes out. A lab that could not be tested is a case with an error.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{COMES_UP, error_text};
use crate::cli::test::outcome::{Check, Outcome};
use crate::error::{Context, Kind, Result};

pub(in crate::cli::test) fn junit(outcomes: &[Outcome]) -> Result<String> {
    let mut report = Report::new("vilab test");
    report.add_test_suites(outcomes.iter().map(suite));
    report.set_time(outcomes.iter().map(|o| o.elapsed).sum());
    let xml = report.to_string().doing(Kind::Bug, || "cannot write JUnit's XML".into())?;
    // Of all suites together the schema has no such count; nothing is ever skipped.
    Ok(xml.replacen(" skipped=\"0\"", "", 1))
}

fn suite(outcome: &Outcome) -> TestSuite {
    let mut suite = TestSuite::new(outcome.title());
    suite.set_time(outcome.elapsed);
    let class = outcome.lab.clone().unwrap_or_else(|| outcome.title());
    suite.add_test_cases(outcome.checks.iter().map(|check| case(check, &class)));
    let failure = error_text(outcome).or_else(|| outcome.interrupted.then(|| "interrupted".to_owned()));
    if let Some(text) = failure {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        let message = outcome.error.as_ref().map_or("interrupted", |e| e.what());
        status.set_type("error").set_message(message).set_description(text);
        let mut case = TestCase::new(COMES_UP, status);
        case.set_classname(class).set_time(Duration::ZERO);
        suite.add_test_case(case);
    }
    if let Some(why) = &outcome.why {
        suite.add_property(("dataplane", format!("{}: {why}", outcome.carried_by).as_str()));
    }
    if let Some((reached, worth)) = outcome.grade() {
        suite.add_property(("points", format!("{reached} of {worth}").as_str()));
    }
    suite
}

fn case(check: &Check, class: &str) -> TestCase {
    let status = match check.passed {
        true => TestCaseStatus::success(),
        false => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let line = check.line.map(|line| format!(" (line {line})")).unwrap_or_default();
            status.set_type("failure").set_message(format!("{}{line}", check.name));
            status.set_description(check.table().join("\n"));
            status
        }
    };
    let mut case = TestCase::new(check.name.as_str(), status);
    case.set_classname(class).set_time(Duration::from_secs_f64(check.elapsed_ms.max(0.0) / 1000.0));
    case
}

#[cfg(test)]
mod tests {
    use super::super::super::outcome::tests::outcomes;
    use super::*;

    /// What the schema lets each element have: attributes, then elements.
    const SCHEMA: [(&str, &[&str], &[&str]); 7] = [
        ("testsuites", &["name", "time", "tests", "failures", "errors"], &["testsuite"]),
        (
            "testsuite",
            &["name", "tests", "failures", "errors", "time", "skipped", "timestamp", "file"],
            &["properties", "testcase"],
        ),
        ("properties", &[], &["property"]),
        ("property", &["name", "value"], &[]),
        ("testcase", &["name", "time", "classname", "group"], &["failure", "error"]),
        ("failure", &["type", "message"], &[]),
        ("error", &["type", "message"], &[]),
    ];

    #[test]
    fn nothing_is_there_that_the_schema_does_not_have() {
        let xml = junit(&outcomes()).unwrap();
        let document = roxmltree::Document::parse(&xml).unwrap();
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            let name = node.tag_name().name();
            let (_, attributes, elements) = SCHEMA.iter().find(|(n, ..)| *n == name).expect(name);
            assert!(node.attributes().all(|a| attributes.contains(&a.name())), "{name}: {xml}");
            let inner = node.children().filter(roxmltree::Node::is_element);
            assert!(inner.into_iter().all(|c| elements.contains(&c.tag_name().name())), "{name}: {xml}");
        }
    }

    #[test]
    fn an_xml_parser_finds_every_test_and_what_became_of_it() {
        let xml = junit(&outcomes()).unwrap();
        let document = roxmltree::Document::parse(&xml).expect("well-formed, whatever a command printed");
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "testsuites");
        let count = |node: roxmltree::Node<'_, '_>, of: &str| node.attribute(of).unwrap().to_owned();
        assert_eq!(["tests", "failures", "errors"].map(|a| count(root, a)), ["4", "1", "1"]);
        let suites: Vec<_> = root.children().filter(roxmltree::Node::is_element).collect();
        let names: Vec<String> = suites.iter().map(|s| count(*s, "name")).collect();
        assert_eq!(names, ["good.yaml", "dir/bad|1.yaml", "broken.yaml"]);
        let failure = suites[1].descendants().find(|n| n.has_tag_name("failure")).unwrap();
        assert!(failure.text().unwrap().contains("no answer <>&"), "as it was, without what XML forbids");
        assert_eq!(failure.parent().unwrap().attribute("classname"), Some("t"));
        let error = suites[2].descendants().find(|n| n.has_tag_name("error")).unwrap();
        assert_eq!(error.attribute("message"), Some("cannot add a route"));
        assert!(error.text().unwrap().contains("no such device"));
    }
}
