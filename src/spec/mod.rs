//! What the user wrote. The text of a lab file goes in; a [`LabSpec`], in which every value knows its line, or all
//! errors of form come out. It never binds a name and never reads a file itself.

mod apps;
mod decode;
mod diag;
mod fields;
mod gateways;
mod impair;
mod origin;
mod parallel;
pub mod schema;
mod tests;
pub mod units;
mod write;
mod yaml;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

pub use apps::AppSpec;
pub use diag::{Diagnostic, Report, Span, Spanned, nearest, position};
pub use gateways::GatewaySpec;
pub use origin::{Instance, Instances, Origin};
pub use parallel::SpreadSpec;
pub use tests::{
    DROPPED_BY, ExecSpec, ExpectSpec, GradedSpec, InjectSpec, PairSpec, RowSpec, TestKindSpec, TestSpec,
};
pub use units::duration;

pub(crate) use decode::{link, vi_node};
pub(crate) use fields::{Errors, Fields, boolean, entries, list, text, wrong_type};
pub(crate) use write::write;
pub(crate) use yaml::{Tree, Value};

use crate::model::{DataplaneChoice, Impairment, Resolve, Role, Routing, Security};

/// A lab file, form checked, names not bound.
#[derive(Debug, Clone, PartialEq)]
pub struct LabSpec {
    pub name: Spanned<String>,
    pub description: Option<String>,
    pub dataplane: DataplaneChoice,
    pub base: BaseSpec,
    pub vis: Vec<ViSpec>,
    pub gateways: Vec<GatewaySpec>,
    pub apps: Vec<AppSpec>,
    pub tests: Vec<TestSpec>,
}

/// `base:`
#[derive(Debug, Clone, PartialEq)]
pub struct BaseSpec {
    pub span: Span,
    pub nodes: Vec<BaseNodeSpec>,
    pub links: Vec<LinkSpec>,
    pub addresses: Option<Spanned<Ipv4Net>>,
    pub mtu: u32,
    pub routing: Spanned<Routing>,
}

/// A node of `base: nodes:`; the name may hold a range.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseNodeSpec {
    pub name: Spanned<String>,
    pub role: Option<Role>,
    pub dataplane: Option<DataplaneChoice>,
    pub loopback: Option<Spanned<Ipv4Addr>>,
    pub sysctls: BTreeMap<String, String>,
    /// Degrees north and east.
    pub location: Option<[f64; 2]>,
}

impl BaseNodeSpec {
    /// A node that is merely named.
    #[must_use]
    pub fn named(name: Spanned<String>) -> Self {
        Self { name, role: None, dataplane: None, loopback: None, sysctls: BTreeMap::new(), location: None }
    }
}

/// One of `vis:`
#[derive(Debug, Clone, PartialEq)]
pub struct ViSpec {
    pub name: Spanned<String>,
    /// What it rides on, or the first of several.
    pub over: Spanned<String>,
    /// The others of several parallel underlays.
    pub besides: Vec<Spanned<String>>,
    pub nodes: Vec<ViNodeSpec>,
    pub links: Vec<LinkSpec>,
    pub addresses: Option<Spanned<Ipv4Net>>,
    /// `None` is `fit`.
    pub mtu: Option<Spanned<ViMtu>>,
    pub routing: Spanned<Routing>,
    /// Of the links that say nothing themselves.
    pub security: Option<Security>,
    /// Of a VI that plays a router.
    pub emulate: Option<EmulateSpec>,
    /// Name or number of the user who may change it.
    pub owner: Option<Spanned<String>>,
}

/// `emulate:` of a VI.
#[derive(Debug, Clone, PartialEq)]
pub struct EmulateSpec {
    pub span: Span,
    pub resolve: Resolve,
}

/// A node of a VI; name and placement may hold ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct ViNodeSpec {
    pub name: Spanned<String>,
    pub at: Spanned<String>,
    /// What the file says, if anything.
    pub role: Option<Spanned<Role>>,
    pub address: Option<Spanned<Ipv4Addr>>,
    /// The VI that plays this router.
    pub emulate: Option<Spanned<String>>,
    /// The interface of the router its VI plays that this phantom VH is.
    pub port: Option<Spanned<String>>,
}

impl ViNodeSpec {
    /// A VH that is merely placed.
    #[must_use]
    pub fn placed(name: Spanned<String>, at: Spanned<String>) -> Self {
        Self { name, at, role: None, address: None, emulate: None, port: None }
    }

    /// The role that the file gives it, or that follows from the rest.
    #[must_use]
    pub fn role(&self) -> Role {
        let implied = match (&self.emulate, &self.port) {
            (Some(_), _) => Role::Router,
            (None, Some(_)) => Role::Phantom,
            (None, None) => Role::Host,
        };
        self.role.as_ref().map_or(implied, |role| role.value)
    }
}

/// One item of `links:`
/// What a VI says of the MTU of its links, other than that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViMtu {
    /// That of what lies below: link packets may be sent in fragments.
    Fragment,
    Bytes(u32),
}

#[derive(Debug, Clone, PartialEq)]
pub struct LinkSpec {
    pub span: Span,
    pub shape: Shape,
    pub name: Option<Spanned<String>>,
    pub cost: u32,
    pub mtu: Option<Spanned<u32>>,
    /// What the link itself says: `none` too.
    pub security: Option<Spanned<Option<Security>>>,
    pub spread: SpreadSpec,
    /// From the first end to the second, and back.
    pub impair: [Impairment; 2],
}

/// What an item of `links:` connects.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// `a -- b -- {c d}`
    Chain(Spanned<String>),
    Ring(Spanned<Vec<Spanned<String>>>),
    Line(Spanned<Vec<Spanned<String>>>),
    Mesh(Spanned<Vec<Spanned<String>>>),
    Tree {
        of: Spanned<Vec<Spanned<String>>>,
        arity: usize,
    },
    /// Nodes `prefix1` to `prefixN`, row by row.
    Grid {
        prefix: Spanned<String>,
        rows: usize,
        cols: usize,
    },
}

/// Reads the text of a lab file as YAML, noting why it is none.
pub(crate) fn read(text: &str, errors: &mut Vec<Diagnostic>) -> Option<Tree> {
    yaml::parse(text).map_err(|error| errors.push(error)).ok()
}

/// Takes an expanded lab file apart, noting every error of form. With errors there may still be a lab to look for
/// more errors in: what could not be read stands as an empty text, and an error about it was noted.
pub(crate) fn decode(tree: &Tree, errors: &mut Vec<Diagnostic>) -> Option<LabSpec> {
    decode::lab(tree, errors)
}

/// The same for a file of expectations.
pub(crate) fn decode_expectations(tree: &Tree, errors: &mut Vec<Diagnostic>) -> Option<ExpectSpec> {
    tests::expectations(tree, errors)
}
