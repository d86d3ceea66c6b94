//! The lab file's sections. A [`Tree`] goes in; a [`LabSpec`] comes out, unless an error was noted. It never binds
//! names: that is for [`crate::model`].

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::apps::app;
use super::diag::{Diagnostic, Spanned};
use super::fields::{Errors, Fields, choice, entries, list, name, number, parsed, text, wrong_type};
use super::gateways::gateway;
use super::impair;
use super::parallel::{self, SpreadSpec};
use super::tests::test;
use super::yaml::{Tree, Value};
use super::{BaseNodeSpec, BaseSpec, EmulateSpec, LabSpec, LinkSpec, Shape, ViMtu, ViNodeSpec, ViSpec};
use crate::model::{DataplaneChoice, Impairment, Resolve, Role, Routing, Security};

pub(super) const DATAPLANES: [(&str, DataplaneChoice); 3] = [
    ("auto", DataplaneChoice::Auto),
    ("kernel", DataplaneChoice::Kernel),
    ("fastpath", DataplaneChoice::Fastpath),
];
pub(super) const ROUTINGS: [(&str, Routing); 6] = [
    ("static", Routing::Static),
    ("ospf", Routing::Ospf),
    ("isis", Routing::Isis),
    ("rip", Routing::Rip),
    ("bgp", Routing::Bgp),
    ("none", Routing::None),
];
pub(super) const SECURITIES: [(&str, Option<Security>); 4] = [
    ("none", None),
    ("aes128-gcm", Some(Security::Aes128Gcm)),
    ("aes256-gcm", Some(Security::Aes256Gcm)),
    ("aes256-cbc-sha256", Some(Security::Aes256CbcSha256)),
];

/// The whole file.
pub(super) fn lab(tree: &Tree, errors: &mut Errors) -> Option<LabSpec> {
    let mut fields = Fields::new(tree, "the lab", errors)?;
    let name = fields.require("name", errors).and_then(|t| lab_name(t, errors));
    let description =
        fields.section("description").and_then(|t| text(t, "`description`", errors)).map(|s| s.value);
    let dataplane = fields.take("dataplane").and_then(|t| choice(t, "`dataplane`", &DATAPLANES, errors));
    let base = fields.require("base", errors).and_then(|t| base(t, errors));
    let vis = fields.section("vis").map(|t| vis(t, errors)).unwrap_or_default();
    let gateways = fields
        .section("gateways")
        .map(|t| list(t, "`gateways`", errors).iter().filter_map(|t| gateway(t, errors)).collect());
    let apps = fields
        .section("apps")
        .map(|t| list(t, "`apps`", errors).iter().filter_map(|t| app(t, errors)).collect());
    let tests = fields
        .section("tests")
        .map(|t| list(t, "`tests`", errors).iter().filter_map(|t| test(t, errors)).collect());
    // Expansion has used them up: they are named so that they can be meant.
    let _expanded = [fields.take("templates"), fields.take("params")];
    fields.finish(errors);
    Some(LabSpec {
        name: name.unwrap_or_else(|| unread(tree)),
        description,
        dataplane: dataplane.unwrap_or_default(),
        base: base?,
        vis,
        gateways: gateways.unwrap_or_default(),
        apps: apps.unwrap_or_default(),
        tests: tests.unwrap_or_default(),
    })
}

fn lab_name(tree: &Tree, errors: &mut Errors) -> Option<Spanned<String>> {
    let name = text(tree, "`name`", errors)?;
    let mut chars = name.value.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    let rest = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if first && rest && name.value.len() <= 31 {
        return Some(name);
    }
    errors.push(
        Diagnostic::new("name", tree.span, format!("`{}` cannot be the name of a lab", name.value))
            .label("a small letter, then at most 30 small letters, digits or `-`"),
    );
    None
}

fn base(tree: &Tree, errors: &mut Errors) -> Option<BaseSpec> {
    let mut fields = Fields::new(tree, "`base`", errors)?;
    let nodes = fields.section("nodes").map(|t| base_nodes(t, errors)).unwrap_or_default();
    let links = fields.section("links").map(|t| links(t, errors)).unwrap_or_default();
    let addresses = fields.take("addresses").and_then(|t| prefix(t, errors));
    let mtu = fields.take("mtu").and_then(|t| number(t, "`mtu`", 68..=65_535, errors));
    let routing = fields.take("routing").and_then(|t| routing(t, errors));
    // Expansion has used it up: it is named so that it can be meant.
    let _expanded = fields.take("import");
    fields.finish(errors);
    Some(BaseSpec {
        span: tree.span,
        nodes,
        links,
        addresses,
        mtu: mtu.unwrap_or(1500),
        routing: routing.unwrap_or(Spanned::new(Routing::Static, tree.span)),
    })
}

fn routing(tree: &Tree, errors: &mut Errors) -> Option<Spanned<Routing>> {
    choice(tree, "`routing`", &ROUTINGS, errors).map(|routing| Spanned::new(routing, tree.span))
}

fn prefix(tree: &Tree, errors: &mut Errors) -> Option<Spanned<Ipv4Net>> {
    let net = parsed::<Ipv4Net>(tree, "`addresses`", "a prefix such as 10.20.0.0/16", errors)?;
    if net.value != net.value.trunc() {
        let fixed = net.value.trunc();
        errors.push(
            Diagnostic::new(
                "wrong-value",
                tree.span,
                format!("{} has bits set beyond its length", net.value),
            )
            .help(format!("did you mean `{fixed}`?")),
        );
        return None;
    }
    Some(net)
}

fn base_nodes(tree: &Tree, errors: &mut Errors) -> Vec<BaseNodeSpec> {
    match &tree.value {
        Value::Seq(items) => {
            items.iter().filter_map(|t| name(t, "a node", errors)).map(BaseNodeSpec::named).collect()
        }
        Value::Map(_) => entries(tree, "`nodes`", errors)
            .into_iter()
            .map(|(name, value)| match value.value {
                Value::Null => BaseNodeSpec::named(name),
                Value::Scalar(_) | Value::Seq(_) | Value::Map(_) => {
                    base_node(name.clone(), value, errors).unwrap_or(BaseNodeSpec::named(name))
                }
            })
            .collect(),
        Value::Null | Value::Scalar(_) => {
            errors.push(wrong_type(tree, "`nodes`", "a list or a map"));
            Vec::new()
        }
    }
}

fn base_node(name: Spanned<String>, tree: &Tree, errors: &mut Errors) -> Option<BaseNodeSpec> {
    const ROLES: [(&str, Role); 2] = [("host", Role::Host), ("router", Role::Router)];
    let mut fields = Fields::new(tree, "a base node", errors)?;
    let role = fields.take("role").and_then(|t| choice(t, "`role`", &ROLES, errors));
    let dataplane = fields.take("dataplane").and_then(|t| choice(t, "`dataplane`", &DATAPLANES, errors));
    let loopback = fields.take("loopback").and_then(|t| parsed(t, "`loopback`", "an IPv4 address", errors));
    let sysctls = fields.take("sysctls").map(|t| sysctls(t, errors)).unwrap_or_default();
    let location = fields.take("location").and_then(|t| location(t, errors));
    fields.finish(errors);
    Some(BaseNodeSpec { name, role, dataplane, loopback, sysctls, location })
}

/// A place on earth: `[latitude, longitude]` in degrees, north and east positive.
fn location(tree: &Tree, errors: &mut Errors) -> Option<[f64; 2]> {
    const EXPECTED: &str = "`[latitude, longitude]` in degrees, such as [52.1, 11.6]";
    let Value::Seq(items) = &tree.value else {
        errors.push(wrong_type(tree, "`location`", EXPECTED));
        return None;
    };
    let [latitude, longitude] = items.as_slice() else {
        errors.push(Diagnostic::new("wrong-value", tree.span, format!("`location` is {EXPECTED}")));
        return None;
    };
    let mut degrees = |tree: &Tree, what: &str, most: f64| {
        let found = parsed::<f64>(tree, what, "a number of degrees", errors)?;
        if (-most..=most).contains(&found.value) {
            return Some(found.value);
        }
        let title = format!("{what} is between -{most} and {most}, not {}", found.value);
        errors.push(Diagnostic::new("wrong-value", tree.span, title));
        None
    };
    let latitude = degrees(latitude, "a latitude", 90.0);
    let longitude = degrees(longitude, "a longitude", 180.0);
    Some([latitude?, longitude?])
}

fn sysctls(tree: &Tree, errors: &mut Errors) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (key, value) in entries(tree, "`sysctls`", errors) {
        let Some(value) = text(value, "a sysctl", errors) else { continue };
        let path = key.value.replace('.', "/");
        if !path.starts_with("net/") || path.split('/').any(|part| part.is_empty() || part == "..") {
            errors.push(
                Diagnostic::new(
                    "wrong-value",
                    key.span,
                    format!("`{}` is not a sysctl of a namespace", key.value),
                )
                .label("it must start with `net.`"),
            );
        }
        found.insert(path, value.value);
    }
    found
}

fn vis(tree: &Tree, errors: &mut Errors) -> Vec<ViSpec> {
    entries(tree, "`vis`", errors).into_iter().filter_map(|(name, value)| vi(name, value, errors)).collect()
}

fn vi(name: Spanned<String>, tree: &Tree, errors: &mut Errors) -> Option<ViSpec> {
    let mut fields = Fields::new(tree, "a VI", errors)?;
    let _expanded = [fields.take("use"), fields.take("with")];
    let (over, besides) = match fields.take("over") {
        Some(t) => parallel::over(t, errors).unwrap_or_else(|| (unread(t), Vec::new())),
        None => (Spanned::new("base".to_owned(), name.span), Vec::new()),
    };
    let nodes = fields.require("nodes", errors).map(|t| vi_nodes(t, errors)).unwrap_or_default();
    let links = fields.section("links").map(|t| links(t, errors)).unwrap_or_default();
    let routing = fields.take("routing").and_then(|t| routing(t, errors));
    let addresses = fields.take("addresses").and_then(|t| prefix(t, errors));
    let mtu = fields.take("mtu").and_then(|t| vi_mtu(t, errors));
    let security = fields.take("security").and_then(|t| security(t, errors)).and_then(|s| s.value);
    let emulate = fields.take("emulate").and_then(|t| emulate(t, errors));
    let owner = fields.take("owner").and_then(|t| owner(t, errors));
    fields.finish(errors);
    let routing = routing.unwrap_or(Spanned::new(Routing::Static, name.span));
    Some(ViSpec { name, over, besides, nodes, links, addresses, mtu, routing, security, emulate, owner })
}

/// Options of a VI that plays a router.
fn emulate(tree: &Tree, errors: &mut Errors) -> Option<EmulateSpec> {
    const RESOLVES: [(&str, Resolve); 2] = [("exchange", Resolve::Exchange), ("computed", Resolve::Computed)];
    let mut fields = Fields::new(tree, "`emulate`", errors)?;
    let resolve = fields.take("resolve").and_then(|t| choice(t, "`resolve`", &RESOLVES, errors));
    fields.finish(errors);
    Some(EmulateSpec { span: tree.span, resolve: resolve.unwrap_or_default() })
}

/// A word that can be the name of a user, or a number. Whether there is such a user is the machine's to say.
fn owner(tree: &Tree, errors: &mut Errors) -> Option<Spanned<String>> {
    let user = text(tree, "`owner`", errors)?;
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "._-@$".contains(c));
    if user.value.is_empty() || user.value.starts_with('-') || user.value.contains(odd) {
        let title = format!("`{}` cannot be a user", user.value);
        errors
            .push(Diagnostic::new("wrong-value", user.span, title).label("the name of a user, or a number"));
        return None;
    }
    Some(user)
}

fn security(tree: &Tree, errors: &mut Errors) -> Option<Spanned<Option<Security>>> {
    choice(tree, "`security`", &SECURITIES, errors).map(|s| Spanned::new(s, tree.span))
}

fn vi_mtu(tree: &Tree, errors: &mut Errors) -> Option<Spanned<ViMtu>> {
    match &tree.value {
        Value::Scalar(word) if word == "fit" => None,
        Value::Scalar(word) if word == "fragment" => Some(Spanned::new(ViMtu::Fragment, tree.span)),
        Value::Null | Value::Scalar(_) | Value::Seq(_) | Value::Map(_) => {
            let words = "`mtu` of a VI, if not `fit` or `fragment`,";
            number(tree, words, 68..=65_535, errors).map(|n| Spanned::new(ViMtu::Bytes(n), tree.span))
        }
    }
}

fn vi_nodes(tree: &Tree, errors: &mut Errors) -> Vec<ViNodeSpec> {
    entries(tree, "`nodes`", errors)
        .into_iter()
        .map(|(name, value)| {
            let plain = ViNodeSpec::placed(name.clone(), unread(value));
            vi_node(name, value, errors).unwrap_or(plain)
        })
        .collect()
}

/// Stands for what could not be read; an error about it was noted.
fn unread(tree: &Tree) -> Spanned<String> {
    Spanned::new(String::new(), tree.span)
}

pub(crate) fn vi_node(name: Spanned<String>, tree: &Tree, errors: &mut Errors) -> Option<ViNodeSpec> {
    const ROLES: [(&str, Role); 4] =
        [("host", Role::Host), ("router", Role::Router), ("both", Role::Both), ("phantom", Role::Phantom)];
    if matches!(tree.value, Value::Scalar(_)) {
        let at = text(tree, "a placement", errors)?;
        return Some(ViNodeSpec::placed(name, at));
    }
    let mut fields = Fields::new(tree, "a node of a VI", errors)?;
    let expanded = has_key(tree, "emulate");
    let _expanded = [fields.take("use"), fields.take("with"), fields.take("when")];
    let at = match expanded {
        true => fields.take("at"),
        false => fields.require("at", errors),
    };
    let at = at.and_then(|t| text(t, "`at`", errors));
    let role = fields
        .take("role")
        .and_then(|t| choice(t, "`role`", &ROLES, errors).map(|role| Spanned::new(role, t.span)));
    let address = fields.take("address").and_then(|t| parsed(t, "`address`", "an IPv4 address", errors));
    let emulate = fields.take("emulate").and_then(|t| text(t, "`emulate`", errors));
    let port = fields.take("port").and_then(|t| text(t, "`port`", errors));
    fields.finish(errors);
    let at = at.unwrap_or_else(|| unread(tree));
    Some(ViNodeSpec { name, at, role, address, emulate, port })
}

fn has_key(tree: &Tree, key: &str) -> bool {
    let Value::Map(map) = &tree.value else { return false };
    map.iter().any(|(k, _)| matches!(&k.value, Value::Scalar(s) if s == key))
}

fn links(tree: &Tree, errors: &mut Errors) -> Vec<LinkSpec> {
    list(tree, "`links`", errors).iter().filter_map(|t| link(t, errors)).collect()
}

/// A chain without options.
pub(super) fn plain_link(chain: Spanned<String>) -> LinkSpec {
    LinkSpec {
        span: chain.span,
        shape: Shape::Chain(chain),
        name: None,
        cost: 1,
        mtu: None,
        security: None,
        spread: SpreadSpec::default(),
        impair: [Impairment::default(); 2],
    }
}

/// One item of `links:`.
pub(crate) fn link(tree: &Tree, errors: &mut Errors) -> Option<LinkSpec> {
    if matches!(tree.value, Value::Scalar(_)) {
        return text(tree, "a link", errors).map(plain_link);
    }
    let mut fields = Fields::new(tree, "a link", errors)?;
    let shape = shape(tree, &mut fields, errors);
    let name = fields.take("name").and_then(|t| text(t, "`name`", errors));
    let cost = fields.take("cost").and_then(|t| number(t, "`cost`", 1..=65_535, errors)).unwrap_or(1);
    let mtu = fields
        .take("mtu")
        .and_then(|t| number(t, "`mtu`", 68..=65_535, errors).map(|value| Spanned::new(value, t.span)));
    let security = fields.take("security").and_then(|t| security(t, errors));
    let impair = impair::take(&mut fields, tree.span, errors);
    let spread = parallel::take(&mut fields, errors);
    let _expanded = fields.take("when");
    fields.finish(errors);
    Some(LinkSpec { span: tree.span, shape: shape?, name, cost, mtu, security, spread, impair })
}

fn shape(tree: &Tree, fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Shape> {
    let link = fields.take("link").map(|t| text(t, "`link`", errors).map(Shape::Chain));
    let ring = fields.take("ring").map(|t| members(t, errors).map(Shape::Ring));
    let line = fields.take("line").map(|t| members(t, errors).map(Shape::Line));
    let mesh = fields.take("mesh").map(|t| members(t, errors).map(Shape::Mesh));
    let tree_shape = fields.take("tree").map(|t| tree_of(t, errors));
    let grid = fields.take("grid").map(|t| grid(t, errors));
    let mut found: Vec<Option<Shape>> =
        [link, ring, line, mesh, tree_shape, grid].into_iter().flatten().collect();
    if found.len() == 1 {
        return found.remove(0);
    }
    errors.push(Diagnostic::new(
        "link",
        tree.span,
        "a link is exactly one of `link`, `ring`, `line`, `mesh`, `tree`, `grid`",
    ));
    None
}

/// The nodes a generator connects: a list, or one text with names between spaces or commas.
fn members(tree: &Tree, errors: &mut Errors) -> Option<Spanned<Vec<Spanned<String>>>> {
    let names = match &tree.value {
        Value::Seq(items) => items.iter().filter_map(|t| name(t, "a node", errors)).collect(),
        Value::Null | Value::Scalar(_) | Value::Map(_) => {
            let whole = text(tree, "the nodes", errors)?;
            let words = whole.value.split([' ', ',', '\t', '\n']).filter(|w| !w.is_empty());
            words.map(|w| whole.part(w)).collect()
        }
    };
    Some(Spanned::new(names, tree.span))
}

fn tree_of(tree: &Tree, errors: &mut Errors) -> Option<Shape> {
    if !matches!(tree.value, Value::Map(_)) {
        return members(tree, errors).map(|of| Shape::Tree { of, arity: 2 });
    }
    let mut fields = Fields::new(tree, "`tree`", errors)?;
    let of = fields.require("of", errors).and_then(|t| members(t, errors));
    let arity = fields.take("arity").and_then(|t| number(t, "`arity`", 1..=65_535, errors)).unwrap_or(2);
    fields.finish(errors);
    Some(Shape::Tree { of: of?, arity: arity as usize })
}

fn grid(tree: &Tree, errors: &mut Errors) -> Option<Shape> {
    let mut fields = Fields::new(tree, "`grid`", errors)?;
    let prefix = fields.require("prefix", errors).and_then(|t| text(t, "`prefix`", errors));
    let rows = fields.require("rows", errors).and_then(|t| number(t, "`rows`", 1..=256, errors));
    let cols = fields.require("cols", errors).and_then(|t| number(t, "`cols`", 1..=256, errors));
    fields.finish(errors);
    Some(Shape::Grid { prefix: prefix?, rows: rows? as usize, cols: cols? as usize })
}
