//! The Test Anything Protocol, version 13. Outcomes go in; numbered lines over all labs come out, a failed test with what
//! was expected and measured as YAML below it. A lab that could not be tested is one failed test.

use serde_json::json;

use super::{COMES_UP, error_text};
use crate::cli::test::outcome::{Check, Outcome};

pub(in crate::cli::test) fn tap(outcomes: &[Outcome]) -> String {
    let mut tap = Tap::default();
    for outcome in outcomes {
        let title = outcome.title();
        for check in &outcome.checks {
            let score = check.score().filter(|(_, worth)| *worth > 0);
            let score = score.map(|(reached, worth)| format!(" ({reached} of {worth} points)"));
            let name = format!("{title}: {}{}", check.name, score.unwrap_or_default());
            tap.test(check.passed, &name, || about(check));
        }
        if let Some(error) = error_text(outcome) {
            let about = vec![("error", json!(error))];
            tap.test(false, &format!("{title}: {COMES_UP}"), || about);
        }
    }
    let interrupted = outcomes.iter().any(|o| o.interrupted);
    tap.text(interrupted)
}

type Facts = Vec<(&'static str, serde_json::Value)>;

/// What stands below a failed test.
fn about(check: &Check) -> Facts {
    let line = check.line.map(|line| ("line", json!(line)));
    let not = check.not.then_some(("not", json!(true)));
    let expected = (!check.hidden).then(|| ("expected", json!(check.expected)));
    let causes = (!check.causes.is_empty()).then(|| ("causes", json!(check.causes)));
    let measured = Some(("measured", json!(check.measured)));
    [line, not, expected, measured, causes].into_iter().flatten().collect()
}

#[derive(Debug, Default)]
struct Tap {
    count: usize,
    lines: Vec<String>,
}

impl Tap {
    fn test(&mut self, passed: bool, name: &str, about: impl FnOnce() -> Facts) {
        self.count += 1;
        let verdict = if passed { "ok" } else { "not ok" };
        self.lines.push(format!("{verdict} {} - {}", self.count, description(name)));
        if !passed {
            self.lines.push("  ---".into());
            // JSON is YAML, and quotes whatever a command printed.
            self.lines.extend(about().into_iter().map(|(key, value)| format!("  {key}: {value}")));
            self.lines.push("  ...".into());
        }
    }

    fn text(self, interrupted: bool) -> String {
        let Self { count, lines } = self;
        let begin = ["TAP version 13".to_owned(), format!("1..{count}")];
        let bail = interrupted.then(|| "Bail out! interrupted".to_owned());
        begin.into_iter().chain(lines).chain(bail).fold(String::new(), |all, line| all + &line + "\n")
    }
}

/// One line in which nothing looks like a directive.
fn description(name: &str) -> String {
    name.replace('\\', "\\\\").replace('#', "\\#").split(char::is_control).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::super::outcome::tests::outcomes;
    use super::*;

    #[test]
    fn the_stream_is_as_the_protocol_says() {
        let text = tap(&outcomes());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["TAP version 13", "1..4"]);
        let tests: Vec<&&str> =
            lines.iter().filter(|l| l.starts_with("ok") || l.starts_with("not")).collect();
        let expected = [
            "ok 1 - good.yaml: ping a -> b",
            "ok 2 - dir/bad|1.yaml: a \\# b\\\\c",
            "not ok 3 - dir/bad|1.yaml: ping a -> b and \"c\"",
            "not ok 4 - broken.yaml: the lab can be tested",
        ];
        assert_eq!(tests, expected.iter().collect::<Vec<_>>());
        let below: Vec<&&str> = lines[2..].iter().filter(|l| !tests.contains(l)).collect();
        assert!(below.iter().all(|l| l.starts_with("  ")), "only what belongs to a test: {below:?}");
        assert_eq!(below.iter().filter(|l| ***l == "  ---").count(), 2);
    }

    #[test]
    fn what_stands_below_a_test_is_yaml() {
        let text = tap(&outcomes());
        let below = text.split("  ---\n").nth(1).unwrap().split("  ...").next().unwrap();
        let value: serde_yaml::Value = serde_yaml::from_str(below).unwrap();
        assert_eq!(value["measured"][0].as_str(), Some("no answer <>&\u{1b}[31m"));
        assert_eq!(value["line"].as_u64(), Some(7));
    }

    #[test]
    fn an_interrupted_run_says_so() {
        let mut all = outcomes();
        all[0].interrupted = true;
        assert!(tap(&all).ends_with("Bail out! interrupted\n"));
    }
}
