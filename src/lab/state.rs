//! What is known of a running lab: written once by its init process, read by every later command. A [`State`] goes
//! in and comes out as JSON. It never trusts a file that is half written: there is none until it is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::capture::Capture;
use super::dir::{STATE, STATE_UNFINISHED};
use crate::apply::Timings;
use crate::error::{Context, Kind, Result};
use crate::model::{Dataplane, Lab, LinkMeasured};
use crate::plan::Machine;

pub(super) const SCHEMA: &str = "vilab.state/1";

/// A running lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub schema: String,
    /// Process id of the lab's init, as the host sees it.
    pub init: i32,
    /// Process id of its watcher.
    pub watcher: i32,
    /// When it came up: UTC, RFC 3339.
    pub created: String,
    /// The lab file it came from.
    pub file: PathBuf,
    /// What carries each base node, in the order of the base network's nodes.
    pub dataplanes: Vec<Dataplane>,
    /// Why that dataplane.
    pub why: String,
    /// Impairments of the kernel's devices are netem's; else the engine's.
    pub netem: bool,
    pub timings: Timings,
    /// What the impaired links do, when they were measured last.
    pub measured: Vec<LinkMeasured>,
    pub lab: Lab,
}

/// What `up` hands to the lab's init process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub file: PathBuf,
    pub lab: Lab,
    /// What it is planned for: init makes the plan, while the kernel works.
    pub machine: Machine,
    /// How long routing may take to settle; `None` leaves it to who verifies.
    pub patience: Option<Duration>,
    /// What is captured from the beginning.
    pub capture: Option<Capture>,
}

impl State {
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let what = || format!("cannot write the state of lab {}", self.lab.name);
        let text = serde_json::to_vec(self).doing(Kind::Bug, what)?;
        let half = dir.join(STATE_UNFINISHED);
        fs::write(&half, text)
            .and_then(|()| fs::rename(&half, dir.join(STATE)))
            .doing(Kind::Environment, what)
    }

    /// `None` where there is none (yet) or it is not one this program wrote.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(STATE)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok().filter(|s: &Self| s.schema == SCHEMA)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// The time, UTC, to the second: `2026-11-23T10:04:00Z`.
pub(super) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    timestamp(seconds)
}

/// A time since 1970, UTC, to the nanosecond: `2026-11-23T10:04:00.000000001Z`.
#[must_use]
pub fn timestamp_ns(since: Duration) -> String {
    let seconds = timestamp(since.as_secs());
    format!("{}.{:09}Z", seconds.trim_end_matches('Z'), since.subsec_nanos())
}

/// Days to a date by Howard Hinnant's `civil_from_days`, whose years begin in March.
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_341_896), "2026-11-22T10:04:56Z");
        assert_eq!(timestamp_ns(Duration::new(0, 42)), "1970-01-01T00:00:00.000000042Z");
    }

    #[test]
    fn a_half_written_state_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        fs::write(dir.path().join(STATE), r#"{"schema":"vilab.state/1","lab":{"na"#).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
    }
}
