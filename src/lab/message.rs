//! What a starting lab tells `up`: one JSON object a line. Messages go in and come out as bytes. It never blocks on
//! a reader that is gone: a lost message is of no use to anybody.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::apply::{Progress, Timings};
use crate::error::{Error, Kind};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    Progress(Progress),
    Ready(Timings),
    Failed(Failure),
}

/// An [`Error`] on its way to another process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    kind: Kind,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(e: &Error) -> Self {
        Self {
            kind: e.kind(),
            what: e.what().to_owned(),
            causes: e.causes().to_vec(),
            hint: e.hint_text().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(f: Failure) -> Self {
        let error = f.causes.into_iter().fold(Self::new(f.kind, f.what), Self::because);
        match f.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl Message {
    pub(super) fn send(&self, mut to: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_journey() {
        let error = Error::kernel("cannot add route").because("no").because("really").hint("do this");
        let mut line = Vec::new();
        Message::Failed(Failure::from(&error)).send(&mut line).unwrap();
        let Some(Message::Failed(failure)) = Message::parse(std::str::from_utf8(&line).unwrap()) else {
            panic!("a failure")
        };
        assert_eq!(Error::from(failure).to_string(), error.to_string());
    }
}
