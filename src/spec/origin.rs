//! Where text that the file does not have comes from. Instances of templates are numbered as they are made; spans carry
//! the number, so that an error of any later stage says in which instance it is. It never looks at the text itself.

/// How a piece of the lab came to stand at its place in the file: as written there, or by expansion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Origin {
    /// The number of an instance from 1, shifted by one bit; the lowest bit is set for what was computed.
    packed: u32,
}

impl Origin {
    /// Text of the body of a template, in its instance of this number.
    pub(crate) fn of_instance(number: usize) -> Self {
        Self { packed: u32::try_from(number + 1).map_or(0, |n| n << 1) }
    }

    /// The same place, but the text there is not the file's.
    #[must_use]
    pub(crate) fn computed(self) -> Self {
        Self { packed: self.packed | 1 }
    }

    pub(crate) fn is_computed(self) -> bool {
        self.packed & 1 == 1
    }

    /// The number of the instance, none outside templates.
    pub(crate) fn instance(self) -> Option<usize> {
        (self.packed >> 1).checked_sub(1).map(|n| n as usize)
    }
}

/// One instance of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `big/t.l.r`, or the VI's name where the whole VI is one.
    pub path: String,
    pub template: String,
}

/// The instances of a lab, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    made: Vec<Instance>,
}

impl Instances {
    /// Adds one; its number.
    pub(crate) fn add(&mut self, path: String, template: String) -> usize {
        self.made.push(Instance { path, template });
        self.made.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.made.len()
    }

    pub(crate) fn of(&self, origin: Origin) -> Option<&Instance> {
        self.made.get(origin.instance()?)
    }
}
