//! VIs and instances written out. The tree of a VI goes in; the tree of a flat VI comes out: nodes in the order of
//! the file, those of an instance where it stands, and links after the nodes of their place. It never goes beyond
//! [`MAX_NODES`] nodes and [`MAX_LEVELS`] levels.

use std::collections::BTreeMap;

use super::ends::{self, Frame, Local, Made, Owner, Port, Refusal};
use super::evaluate::{Evaluator, Place};
use super::expression::{Names, Turns};
use super::template::{Template, get, scalar_text};
use super::unmade::Seen;
use super::written::{flat_link, placed};
use super::{MAX_LEVELS, fitting, is_plain, names_of};
use crate::expand::{MAX_NODES, link, range};
use crate::spec::{self, Diagnostic, Fields, Instances, Origin, Span, Spanned, Tree, Value, entries};

/// Bound on the links of all VIs.
const MAX_LINKS: usize = 4 * MAX_NODES;
/// So many errors are enough: most are one, in many instances.
const MAX_ERRORS: usize = 1000;

/// Writes VIs out.
#[derive(Debug)]
pub(super) struct Expander<'t, 'e> {
    pub(super) values: Evaluator<'e>,
    templates: &'t [Template<'t>],
    /// The lab's parameters.
    names: &'t Names,
    turns: Turns,
    pub(super) instances: Instances,
    /// What has been made.
    pub(super) seen: Seen,
    /// By number of the instance.
    made: Vec<Made>,
    nodes: usize,
    links: usize,
    /// A bound was met: nothing more is made.
    stopped: bool,
}

/// The nodes and links of a flat VI.
#[derive(Debug, Default)]
struct Out {
    nodes: Vec<(Tree, Tree)>,
    links: Vec<Tree>,
}

impl<'t, 'e> Expander<'t, 'e> {
    pub(super) fn new(
        values: Evaluator<'e>,
        templates: &'t [Template<'t>],
        names: &'t Names,
        turns: Turns,
    ) -> Self {
        Self {
            values,
            templates,
            names,
            turns,
            instances: Instances::default(),
            seen: Seen::default(),
            made: Vec::new(),
            nodes: 0,
            links: 0,
            stopped: false,
        }
    }

    /// One VI.
    pub(super) fn vi(&mut self, name: &str, tree: &Tree, place: Place<'_>) -> Tree {
        self.turns.restart();
        let Value::Map(items) = &tree.value else { return self.values.tree(tree, place) };
        if is_plain(tree) {
            return tree.clone();
        }
        let mut frame = Frame::of_vi(name);
        let mut out = Out::default();
        let whole = match (get(tree, "use"), get(tree, "with")) {
            (Some(used), with) => self.whole(&mut frame, used, with, place, &mut out),
            (None, with) => {
                self.with_alone(with);
                None
            }
        };
        // What is no map or no list is left to those who read the flat VI.
        let own = get(tree, "nodes").filter(|t| matches!(t.value, Value::Map(_)));
        let links = get(tree, "links").and_then(|t| match &t.value {
            Value::Seq(items) => Some(items.as_slice()),
            Value::Null | Value::Scalar(_) | Value::Map(_) => None,
        });
        if let Some(own) = own {
            let nodes = entries(own, "`nodes`", &mut self.values.errors);
            self.nodes(&mut frame, &nodes, place, &mut out);
        }
        if let Some(used) = &whole {
            let inner = Place { names: &used.names, origin: used.origin };
            self.links(&mut frame, used.template.links, inner, true, &mut out);
        }
        self.links(&mut frame, links.unwrap_or_default(), place, false, &mut out);
        self.unbound(&frame);
        let mut flat = Vec::new();
        for (key, value) in items {
            let made = match scalar_text(key) {
                Some("use" | "with") => continue,
                Some("nodes") if own.is_some() => Value::Map(std::mem::take(&mut out.nodes)),
                Some("links") if links.is_some() => Value::Seq(std::mem::take(&mut out.links)),
                _ => {
                    flat.push((self.values.tree(key, place), self.values.tree(value, place)));
                    continue;
                }
            };
            flat.push((key.clone(), Tree::new(value.span, made)));
        }
        if let Some(used) = get(tree, "use") {
            let key = |name: &str| Tree::text(used.span, name);
            if own.is_none() {
                flat.push((key("nodes"), Tree::new(used.span, Value::Map(out.nodes))));
            }
            if links.is_none() && !out.links.is_empty() {
                flat.push((key("links"), Tree::new(used.span, Value::Seq(out.links))));
            }
        }
        Tree::new(tree.span, Value::Map(flat))
    }

    /// A whole VI from a template: its nodes are the VI's own.
    fn whole(
        &mut self,
        frame: &mut Frame,
        used: &Tree,
        with: Option<&Tree>,
        place: Place<'_>,
        out: &mut Out,
    ) -> Option<Used<'t>> {
        let (template, names) = self.used(used, with, place)?;
        let number = self.register(frame.path.clone(), template);
        let origin = Origin::of_instance(number);
        self.nodes(frame, &template.nodes, Place { names: &names, origin }, out);
        Some(Used { template, names, origin })
    }

    fn register(&mut self, path: String, template: &Template<'_>) -> usize {
        let template = template.name.value.clone();
        self.made.push(Made { path: path.clone(), template: template.clone(), ports: BTreeMap::new() });
        self.instances.add(path, template)
    }

    fn with_alone(&mut self, with: Option<&Tree>) {
        if let Some(with) = with {
            let error =
                Diagnostic::new("missing-key", with.span, "`with` goes with `use`, which names the template");
            self.values.error(error);
        }
    }

    /// Nothing more is to be made.
    pub(super) fn halted(&self) -> bool {
        self.stopped || self.values.is_full() || self.values.errors.len() > MAX_ERRORS
    }

    fn stop(&mut self, rule: &'static str, span: Span, title: String) {
        if !self.stopped {
            self.values.error(Diagnostic::new(rule, span, title));
        }
        self.stopped = true;
    }

    // ---- templates ---------------------------------------------------------------------------------------

    /// The template that `use` names and the values of its parameters.
    fn used(
        &mut self,
        used: &Tree,
        with: Option<&Tree>,
        place: Place<'_>,
    ) -> Option<(&'t Template<'t>, Names)> {
        let name = self.values.text(used, "`use`", place)?;
        let templates = self.templates;
        let Some(template) = templates.iter().find(|t| t.name.value == name.value) else {
            let title = format!("there is no template `{}`", name.value);
            let known = templates.iter().map(|t| t.name.value.as_str());
            self.values
                .error(Diagnostic::new("unknown-template", name.span, title).meant(&name.value, known));
            return None;
        };
        let names = self.arguments(template, name.span, with, place)?;
        template.sound.then_some((template, names))
    }

    fn arguments(
        &mut self,
        template: &Template<'_>,
        span: Span,
        with: Option<&Tree>,
        place: Place<'_>,
    ) -> Option<Names> {
        let before = self.values.errors.len();
        let given = match with.filter(|t| t.value != Value::Null) {
            Some(with) => entries(with, "`with`", &mut self.values.errors),
            None => Vec::new(),
        };
        for (name, _) in &given {
            if template.params.iter().all(|(param, _)| param.value != name.value) {
                self.unknown_argument(template, name, place);
            }
        }
        let mut names = self.names.with([]);
        for (param, default) in &template.params {
            let name = &param.value;
            let outside = Place { names: &names, origin: Origin::default() };
            let default = default.and_then(|tree| self.values.value(tree, outside));
            let argument = given.iter().find(|(given, _)| given.value == *name);
            let value = match (argument, default) {
                (Some((key, tree)), default) => {
                    let found = self.values.value(tree, place)?;
                    match fitting(found, default.as_ref()) {
                        Ok(value) => value,
                        Err(why) => {
                            let title = format!("`{name}` of template `{}` is {why}", template.name.value);
                            let error = Diagnostic::new("wrong-parameter", place.span(tree.span), title);
                            self.values.error(error.see(place.span(key.span), ""));
                            continue;
                        }
                    }
                }
                (None, Some(default)) => default,
                (None, None) => {
                    let title = format!("template `{}` needs `{name}`", template.name.value);
                    let error = Diagnostic::new("missing-parameter", span, title);
                    self.values.error(error.help(format!("give it: `with: {{{name}: …}}`")));
                    continue;
                }
            };
            names = names.with([(name.clone(), value)]);
        }
        (self.values.errors.len() == before).then_some(names)
    }

    fn unknown_argument(&mut self, template: &Template<'_>, name: &Spanned<String>, place: Place<'_>) {
        let title = format!("template `{}` has no parameter `{}`", template.name.value, name.value);
        let error = Diagnostic::new("unknown-parameter", place.span(name.span), title);
        let known = || template.params.iter().map(|(param, _)| param.value.as_str());
        self.values.error(match (spec::nearest(&name.value, known()), template.params.as_slice()) {
            (Some(near), _) => error.help(format!("did you mean `{near}`?")),
            (None, []) => error.help("it has none"),
            (None, params) => error.help(format!("its parameters are {}", names_of(params))),
        });
    }

    /// One instance, all that is in it included; its number.
    fn instance(
        &mut self,
        frame: &Frame,
        name: &Spanned<String>,
        value: &Tree,
        place: Place<'_>,
        out: &mut Out,
    ) -> Option<usize> {
        let used = get(value, "use")?;
        let mut inner = frame.inner(&name.value);
        let span = place.span(used.span);
        if inner.level > MAX_LEVELS {
            let title =
                format!("recursion without end: `{}` is more than {MAX_LEVELS} levels deep", inner.path);
            self.stop("too-deep", span, title);
            return None;
        }
        if self.instances.len() >= MAX_NODES {
            let title = format!("more than {MAX_NODES} instances: `{}` is one too many", inner.path);
            self.stop("too-big", span, title);
            return None;
        }
        let (template, names) = self.used(used, get(value, "with"), place)?;
        let number = self.register(inner.path.clone(), template);
        let place = Place { names: &names, origin: Origin::of_instance(number) };
        self.nodes(&mut inner, &template.nodes, place, out);
        self.ports(&inner, number, template, place);
        self.links(&mut inner, template.links, place, true, out);
        self.unbound(&inner);
        Some(number)
    }

    /// Finds out who owns each port.
    fn ports(&mut self, frame: &Frame, number: usize, template: &Template<'_>, place: Place<'_>) {
        for port in &template.ports {
            let to = self.values.text(port.to, "the node of a port", place);
            let owner = match to.map(|to| ends::resolve(frame, &mut self.made, &to, true)) {
                Some(Ok(node)) => Owner::Node(node),
                Some(Err(Refusal::Absent(node, when))) => Owner::Absent(node, when),
                Some(Err(Refusal::Error(error))) => {
                    self.values.error(*error);
                    Owner::Unknown
                }
                Some(Err(Refusal::Known)) | None => Owner::Unknown,
            };
            let declared = port.name.span;
            let port =
                (port.name.value.clone(), Port { owner, optional: port.optional, declared, bound: None });
            self.made[number].ports.extend([port]);
        }
    }

    /// Ports of the instances made here that nothing binds.
    fn unbound(&mut self, frame: &Frame) {
        if self.halted() {
            return;
        }
        for (number, span) in &frame.children {
            let made = &self.made[*number];
            for (name, port) in &made.ports {
                if port.bound.is_some() || port.optional || !matches!(port.owner, Owner::Node(_)) {
                    continue;
                }
                let title = format!("port `{name}` of `{}` is bound to nothing", made.path);
                let help = format!("link it, or let the template say `{name}: {{node: …, optional: true}}`");
                let error = Diagnostic::new("unbound-port", *span, title);
                self.values.error(error.see(port.declared, "declared here").help(help));
            }
        }
    }

    // ---- nodes -------------------------------------------------------------------------------------------

    fn nodes(
        &mut self,
        frame: &mut Frame,
        nodes: &[(Spanned<String>, &Tree)],
        place: Place<'_>,
        out: &mut Out,
    ) {
        for (name, value) in nodes {
            if self.halted() {
                return;
            }
            self.node(frame, name, value, place, out);
        }
    }

    fn node(
        &mut self,
        frame: &mut Frame,
        key: &Spanned<String>,
        value: &Tree,
        place: Place<'_>,
        out: &mut Out,
    ) {
        let key = Tree::text(key.span, key.value.clone());
        let Some(name) = self.values.text(&key, "a name", place) else { return };
        let names = range::expand_or(&name, &mut self.values.errors);
        let exists = get(value, "when").map_or(Some(true), |when| self.values.holds(when, place));
        let missing = match (exists, get(value, "when")) {
            (Some(true), _) => None,
            (Some(false), Some(when)) => Some(Local::Absent(place.span(when.span))),
            _ => Some(Local::Failed),
        };
        if exists != Some(false) {
            self.seen.add(value);
        }
        if let Some(missing) = missing {
            names.iter().for_each(|name| self.declare(frame, name, missing.clone()));
        } else if get(value, "use").is_some() {
            self.instances_of(frame, &names, value, place, out);
        } else {
            self.with_alone(get(value, "with"));
            names.iter().for_each(|name| self.declare(frame, name, Local::Node));
            self.count(names.len(), &frame.path, name.span);
            self.plain_node(frame, &name, &names, &without(value, &["when", "with"]), place, out);
        }
    }

    fn instances_of(
        &mut self,
        frame: &mut Frame,
        names: &[Spanned<String>],
        value: &Tree,
        place: Place<'_>,
        out: &mut Out,
    ) {
        if let Some(mut fields) = Fields::new(value, "an instance", &mut self.values.errors) {
            let _known = ["use", "with", "when"].map(|key| fields.take(key));
            fields.finish(&mut self.values.errors);
        }
        for name in names {
            if self.halted() {
                return;
            }
            let number = self.instance(frame, name, value, place, out);
            self.declare(frame, name, number.map_or(Local::Failed, Local::Instance));
            frame.children.extend(number.map(|number| (number, name.span)));
        }
    }

    fn plain_node(
        &mut self,
        frame: &Frame,
        name: &Spanned<String>,
        names: &[Spanned<String>],
        value: &Tree,
        place: Place<'_>,
        out: &mut Out,
    ) {
        if names.len() <= 1 || is_plain(value) {
            let key = flat_name(frame, name);
            return out.nodes.push((key, self.values.tree(value, place)));
        }
        for (index, name) in names.iter().enumerate() {
            let value = placed(&self.values.tree(value, place), index, names.len());
            out.nodes.push((flat_name(frame, name), value));
        }
    }

    fn declare(&mut self, frame: &mut Frame, name: &Spanned<String>, local: Local) {
        let is_instance = matches!(local, Local::Instance(_));
        let before = frame.locals.insert(name.value.clone(), local);
        if before.is_some_and(|before| is_instance || matches!(before, Local::Instance(_))) {
            let title = format!("`{}` has two nodes `{}`", frame.path, name.value);
            self.values.error(Diagnostic::new("duplicate-node", name.span, title));
        }
    }

    fn count(&mut self, nodes: usize, path: &str, span: Span) {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            self.stop(
                "too-big",
                span,
                format!("more than {MAX_NODES} nodes: those of `{path}` are too many"),
            );
        }
    }

    // ---- links -------------------------------------------------------------------------------------------

    fn links(&mut self, frame: &mut Frame, links: &[Tree], place: Place<'_>, strict: bool, out: &mut Out) {
        for item in links {
            if self.halted() {
                return;
            }
            let holds = get(item, "when").map_or(Some(true), |when| self.values.holds(when, place));
            if holds != Some(false) {
                self.seen.add(item);
            }
            if holds == Some(true) {
                let before = self.values.errors.len();
                let item = self.values.tree(&without(item, &["when"]), place);
                if self.values.errors.len() == before {
                    self.link(frame, &item, strict, out);
                }
            }
        }
    }

    /// One item of `links:`, its expressions carried out.
    fn link(&mut self, frame: &Frame, item: &Tree, strict: bool, out: &mut Out) {
        let Some(spec) = spec::link(item, &mut self.values.errors) else { return };
        let before = self.values.errors.len();
        let links = match frame.prefix.as_str() {
            "" => link::expand_in(&frame.path, &spec, &mut self.values.errors),
            _ => link::expand(&spec, &mut self.values.errors),
        };
        if self.values.errors.len() > before {
            return;
        }
        self.links += links.len();
        if self.links > MAX_LINKS {
            let title = format!("more than {MAX_LINKS} links: those of `{}` are too many", frame.path);
            return self.stop("too-big", item.span, title);
        }
        let mut same = frame.prefix.is_empty();
        let mut flat = Vec::new();
        for link in &links {
            let ends = [&link.a, &link.b].map(|end| self.end(frame, end, strict));
            let [Some(a), Some(b)] = ends else {
                same = false;
                continue;
            };
            same = same && a == link.a.value && b == link.b.value;
            flat.push(flat_link(item, &a, &b, &frame.prefix));
        }
        match same {
            true => out.links.push(item.clone()),
            false => out.links.extend(flat),
        }
    }

    fn end(&mut self, frame: &Frame, end: &Spanned<String>, strict: bool) -> Option<String> {
        match ends::resolve(frame, &mut self.made, end, strict) {
            Ok(name) => return Some(name),
            Err(Refusal::Absent(node, when)) => self.values.error(ends::absent(&node, when, end.span)),
            Err(Refusal::Error(error)) => self.values.error(*error),
            Err(Refusal::Known) => {}
        }
        None
    }
}

/// A template that a whole VI is made of.
struct Used<'t> {
    template: &'t Template<'t>,
    names: Names,
    origin: Origin,
}

/// The key of a node in the flat VI.
fn flat_name(frame: &Frame, name: &Spanned<String>) -> Tree {
    let origin = if frame.prefix.is_empty() { name.span.origin } else { name.span.origin.computed() };
    Tree::text(Span { origin, ..name.span }, format!("{}{}", frame.prefix, name.value))
}

/// A map without these keys; any other tree as it is.
pub(super) fn without(tree: &Tree, keys: &[&str]) -> Tree {
    let Value::Map(items) = &tree.value else { return tree.clone() };
    let keep = |(key, _): &&(Tree, Tree)| scalar_text(key).is_none_or(|key| !keys.contains(&key));
    Tree::new(tree.span, Value::Map(items.iter().filter(keep).cloned().collect()))
}
