//! The items of `apps:`. Trees go in; [`AppSpec`]s with unbound names come out. It never looks for a program.

use super::diag::{Diagnostic, Span, Spanned};
use super::fields::{Errors, Fields, choice, list, number, text};
use super::yaml::{Tree, Value};
use crate::model::{Ready, Restart};

/// A process that runs in a node while the lab is up, the node's name not bound.
#[derive(Debug, Clone, PartialEq)]
pub struct AppSpec {
    pub span: Span,
    pub at: Spanned<String>,
    pub name: Option<Spanned<String>>,
    /// Program and arguments; not empty.
    pub run: Vec<String>,
    pub restart: Restart,
    pub ready: Option<Ready>,
}

/// Reads one item of `apps:`.
pub(super) fn app(tree: &Tree, errors: &mut Errors) -> Option<AppSpec> {
    const RESTARTS: [(&str, Restart); 3] =
        [("never", Restart::Never), ("on-failure", Restart::OnFailure), ("always", Restart::Always)];
    let mut fields = Fields::new(tree, "an app", errors)?;
    let at = fields.require("at", errors).and_then(|t| text(t, "`at`", errors));
    let run = fields.require("run", errors).and_then(|t| command(t, "`run`", errors));
    let name = fields.take("name").and_then(|t| text(t, "`name`", errors));
    let restart = fields.take("restart").and_then(|t| choice(t, "`restart`", &RESTARTS, errors));
    let ready = fields.take("ready").and_then(|t| ready(t, errors));
    fields.finish(errors);
    Some(AppSpec { span: tree.span, at: at?, name, run: run?, restart: restart.unwrap_or_default(), ready })
}

/// A command: a string split as a shell splits words, or a list.
pub(super) fn command(tree: &Tree, what: &str, errors: &mut Errors) -> Option<Vec<String>> {
    let words = match &tree.value {
        Value::Seq(_) => list(tree, what, errors)
            .iter()
            .map(|t| text(t, "a word of a command", errors).map(|w| w.value))
            .collect::<Option<Vec<_>>>()?,
        Value::Null | Value::Scalar(_) | Value::Map(_) => {
            let line = text(tree, what, errors)?;
            let Some(words) = shlex::split(&line.value) else {
                let title = format!("{what} has a quote that does not end");
                errors.push(Diagnostic::new("wrong-value", tree.span, title));
                return None;
            };
            words
        }
    };
    if words.first().is_none_or(String::is_empty) {
        errors.push(Diagnostic::new("wrong-value", tree.span, format!("{what} names no program")));
        return None;
    }
    Some(words)
}

/// `{tcp: 8080}`, `{exec: "test -e /tmp/x"}` or `{log: "listening"}`.
fn ready(tree: &Tree, errors: &mut Errors) -> Option<Ready> {
    let mut fields = Fields::new(tree, "`ready`", errors)?;
    let before = errors.len();
    let port = fields.take("tcp").and_then(|t| number(t, "`tcp`", 1..=65_535, errors));
    let found = [
        port.and_then(|p| u16::try_from(p).ok()).map(Ready::Tcp),
        fields.take("exec").and_then(|t| command(t, "`exec`", errors)).map(Ready::Exec),
        fields.take("log").and_then(|t| text(t, "`log`", errors)).map(|s| Ready::Log(s.value)),
    ];
    fields.finish(errors);
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one),
        _ if errors.len() > before => None,
        _ => {
            let title = "`ready` is one of `{tcp: PORT}`, `{exec: COMMAND}` and `{log: TEXT}`";
            errors.push(Diagnostic::new("wrong-value", tree.span, title));
            None
        }
    }
}
