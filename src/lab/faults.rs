//! What has been set down in a running lab, kept beside its state. [`Faults`] go in and come out, written as names, for
//! numbers are the lab's own. It never leaves a half written file, and commands that change it take turns.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Running;
use super::dir::{FAULTS, FAULTS_UNFINISHED};
use crate::error::{Context, Kind, Result};
use crate::model::{Lab, Target};
use crate::routing::Faults;

/// Links as `network/link`, nodes as `network/node`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Named {
    links: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Named {
    fn of(lab: &Lab, faults: &Faults) -> Self {
        Self {
            links: faults.links.iter().map(|id| lab.full_link_name(*id)).collect(),
            nodes: faults.nodes.iter().map(|id| lab.full_name(*id)).collect(),
        }
    }

    /// What the lab has no more is not down either.
    fn bind(&self, lab: &Lab) -> Faults {
        Faults {
            links: lab
                .links()
                .map(|l| l.id)
                .filter(|id| self.links.contains(&lab.full_link_name(*id)))
                .collect(),
            nodes: lab.nodes().map(|n| n.id).filter(|id| self.nodes.contains(&lab.full_name(*id))).collect(),
        }
    }
}

impl Running {
    /// What is set down now.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn faults(&self) -> Result<Faults> {
        let _turn = self.turn(FlockArg::LockShared)?;
        self.read_faults()
    }

    /// Notes that `target` is down, or up again, and lets `enact` do it with all that is down then; no other command
    /// does so meanwhile. If it fails, the record is as before.
    ///
    /// # Errors
    /// That of `enact`, or if the record cannot be read or written.
    pub fn set_fault(
        &self,
        target: Target,
        down: bool,
        enact: impl FnOnce(&Faults) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.turn(FlockArg::LockExclusive)?;
        let before = self.read_faults()?;
        let mut faults = before.clone();
        faults.set(target, down);
        self.write_faults(&faults)?;
        enact(&faults).or_else(|e| self.write_faults(&before).and(Err(e)))
    }

    /// A lock on the lab's directory: whoever changes the lab takes it.
    pub(super) fn turn(&self, how: FlockArg) -> Result<Flock<File>> {
        let what = || format!("cannot lock the state of lab {}", self.name());
        let dir = File::open(self.dir()).doing(Kind::Environment, what)?;
        Flock::lock(dir, how).map_err(|(_, e)| e).doing(Kind::Environment, what)
    }

    pub(super) fn read_faults(&self) -> Result<Faults> {
        let what = || format!("cannot read what is down in lab {}", self.name());
        match fs::read(self.dir().join(FAULTS)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Faults::default()),
            Err(e) => Err(e).doing(Kind::Environment, what),
            Ok(text) => {
                let named: Named = serde_json::from_slice(&text).doing(Kind::Environment, what)?;
                Ok(named.bind(&self.state().lab))
            }
        }
    }

    fn write_faults(&self, faults: &Faults) -> Result<()> {
        let what = || format!("cannot note what is down in lab {}", self.name());
        let text = serde_json::to_vec(&Named::of(&self.state().lab, faults)).doing(Kind::Bug, what)?;
        let half = self.dir().join(FAULTS_UNFINISHED);
        fs::write(&half, text)
            .and_then(|()| fs::rename(&half, self.dir().join(FAULTS)))
            .doing(Kind::Environment, what)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model;

    #[test]
    fn names_survive_a_lab_that_lost_some_of_its_own() {
        let lab = |links: &str| {
            let text = format!("name: t\nbase: {{links: [{links}]}}\n");
            model::parse(Path::new("t.yaml"), &text).unwrap()
        };
        let old = lab("W -- X, X -- Y, X -- Y");
        let mut faults = Faults::default();
        old.base().links.iter().for_each(|l| faults.set(Target::Link(l.id), true));
        faults.set(Target::Node(old.base().nodes[2].id), true);
        let named = Named::of(&old, &faults);
        assert_eq!(named.links.iter().collect::<Vec<_>>(), ["base/W--X", "base/X--Y", "base/X--Y.2"]);
        assert_eq!(named.bind(&old), faults);
        let left = named.bind(&lab("X -- Y"));
        assert_eq!((left.links.len(), left.nodes.len()), (1, 1));
    }
}
