//! The command line: the only code that parses arguments, prints, and chooses exit codes.

use std::process::ExitCode;

/// Runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
