//! The library's error: what was being done, to what, and what the kernel said. It carries a kind, from which
//! the command line chooses its exit code, a chain of causes and a hint. It never prints itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::Report;

/// What went wrong, as far as the caller has to tell cases apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A test failed, drift was found, or a checked file has errors.
    Failed,
    /// The command line was wrong: no such lab, no such node.
    Usage,
    /// The lab file is wrong.
    LabFile,
    /// The machine lacks something: privilege, a kernel feature, a program.
    Environment,
    /// The kernel refused an operation.
    Kernel,
    /// A bug in vilab.
    Bug,
}

/// An error with its causes, outermost first.
///
/// Its `Debug` is its `Display`, with the errors of a lab file before it: that is what a test shows that returns it.
pub struct Error {
    kind: Kind,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
    report: Option<Box<Report>>,
}

/// What most of the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), causes: Vec::new(), hint: None, report: None }
    }

    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    #[must_use]
    pub fn environment(what: impl Into<String>) -> Self {
        Self::new(Kind::Environment, what)
    }

    #[must_use]
    pub fn kernel(what: impl Into<String>) -> Self {
        Self::new(Kind::Kernel, what)
    }

    #[must_use]
    pub fn bug(what: impl Into<String>) -> Self {
        Self::new(Kind::Bug, what)
    }

    /// Appends a cause: the innermost is added last.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Attaches the errors of a lab file.
    #[must_use]
    pub fn with_report(mut self, report: Report) -> Self {
        self.report = Some(Box::new(report));
        self
    }

    /// The errors of a lab file, when that is what this is; they are to be shown before the error itself.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.report.as_deref()
    }

    /// Wraps this error: `what` comes first, this error becomes its cause.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.what, what.into()));
        self
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What was being done, without causes and hint.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(report) = &self.report {
            writeln!(f, "{}", report.render(false).trim_end())?;
        }
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to a plain operating system error.
pub trait Context<T> {
    /// # Errors
    /// The same failure, as an [`Error`] of `kind` that says `what` was being done.
    fn doing(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(kind, what()).because(e))
    }
}
