//! How a lab comes up for a test. A file or a text and what is to differ from it go in; a [`Lab`] comes out. It never leaves
//! anything when the lab does not come up.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Lab, program};
use crate::error::{Context as _, Error, Kind, Result};
use crate::lab::{self, Job, Message, Running, Starting};
use crate::model::{self, DataplaneChoice, Given};
use crate::observe::doctor::{self, Outline};

/// What errors call a lab without a file.
const TEXT: &str = "lab.yaml";

/// Labs of this process so far.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A lab that is to come up.
#[derive(Debug, Clone)]
pub struct Builder {
    path: PathBuf,
    /// None: it is in the file.
    text: Option<String>,
    params: Vec<Given>,
    dataplane: Option<DataplaneChoice>,
    name: Option<String>,
    patience: Option<Duration>,
}

impl Builder {
    /// Of a lab file.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            text: None,
            params: Vec::new(),
            dataplane: None,
            name: None,
            patience: None,
        }
    }

    /// Of a text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..Self::file(TEXT) }
    }

    /// A value for a parameter of the lab, as YAML: `vilab up -D name=value`.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.params.push(Given { name: name.into(), value: value.to_string() });
        self
    }

    /// What carries the virtual links, instead of what the file says.
    #[must_use]
    pub fn dataplane(mut self, choice: DataplaneChoice) -> Self {
        self.dataplane = Some(choice);
        self
    }

    /// The name the lab is to have, instead of one that no other lab has.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long routing may take to settle; by default longer the larger the lab.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Brings it up.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up(self) -> Result<Lab> {
        program::ensure()?;
        let (job, _outline) = self.job()?;
        let mut starting = Starting::begin(&job)?;
        let opened = ready(&mut starting).and_then(|()| Running::open(&job.lab.name));
        match opened {
            Ok(running) => Ok(Lab { running, starting: Some(starting) }),
            Err(e) => {
                starting.abandon();
                Err(e)
            }
        }
    }

    fn job(&self) -> Result<(Job, Outline)> {
        let mut lab = match &self.text {
            Some(text) => lab::load_text(&self.path, text, &self.params)?,
            None => lab::load_to_run(&self.path, &self.params, None)?,
        };
        lab.name = self.name.clone().unwrap_or_else(|| instance(&lab));
        if let Some(choice) = self.dataplane {
            lab.carry_by(choice);
        }
        let outline = doctor::outline(&lab)?;
        let machine = outline.machine.clone();
        let file = std::path::absolute(&self.path)
            .doing(Kind::Environment, || format!("cannot use {}", self.path.display()))?;
        Ok((Job { file, lab, machine, patience: self.patience, capture: None }, outline))
    }
}

/// A name that no other lab of this machine has.
fn instance(lab: &model::Lab) -> String {
    format!("{}-{}-{}", lab.name, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed) + 1)
}

fn ready(starting: &mut Starting) -> Result<()> {
    loop {
        match starting.receive()? {
            Message::Progress(_) => {}
            Message::Ready(_) => return Ok(()),
            Message::Failed(failure) => return Err(Error::from(failure)),
        }
    }
}
