//! Link ends in a VI or an instance: which node of the flat VI each one is. The names of the place and the ports of its
//! instances go in; flat names, or why there is none, come out. It never makes a node.

use std::collections::BTreeMap;

use crate::spec::{Diagnostic, Span, Spanned, nearest};

/// What a name stands for where nodes are named.
#[derive(Debug, Clone)]
pub(super) enum Local {
    Node,
    /// The instance of this number.
    Instance(usize),
    /// Its `when`, at this place, is false.
    Absent(Span),
    /// It could not be made; an error was noted.
    Failed,
}

/// A VI, or an instance of a template, while it is written out.
#[derive(Debug)]
pub(super) struct Frame {
    /// The VI's name, and `VI/t.l` for an instance.
    pub(super) path: String,
    /// `t.l.` for an instance, empty for a VI.
    pub(super) prefix: String,
    /// Levels of instances above.
    pub(super) level: usize,
    pub(super) locals: BTreeMap<String, Local>,
    /// The instances made here and where, in order.
    pub(super) children: Vec<(usize, Span)>,
}

impl Frame {
    pub(super) fn of_vi(name: &str) -> Self {
        Self {
            path: name.to_owned(),
            prefix: String::new(),
            level: 0,
            locals: BTreeMap::new(),
            children: Vec::new(),
        }
    }

    /// The frame of the instance `name` of this place.
    pub(super) fn inner(&self, name: &str) -> Self {
        let mark = if self.prefix.is_empty() { '/' } else { '.' };
        Self {
            path: format!("{}{mark}{name}", self.path),
            prefix: format!("{}{name}.", self.prefix),
            level: self.level + 1,
            locals: BTreeMap::new(),
            children: Vec::new(),
        }
    }
}

/// An instance, as those see it who link to it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) path: String,
    pub(super) template: String,
    pub(super) ports: BTreeMap<String, Port>,
}

/// One unbound interface of an instance.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) owner: Owner,
    pub(super) optional: bool,
    /// Where the template declares it.
    pub(super) declared: Span,
    /// What binds it.
    pub(super) bound: Option<Span>,
}

/// Who owns a port.
#[derive(Debug, Clone)]
pub(super) enum Owner {
    /// The node of this flat name.
    Node(String),
    /// A node whose `when`, at this place, is false.
    Absent(String, Span),
    /// There was an error.
    Unknown,
}

/// Why an end has no node.
pub(super) enum Refusal {
    Absent(String, Span),
    /// An error was noted before.
    Known,
    Error(Box<Diagnostic>),
}

impl Refusal {
    fn error(error: Diagnostic) -> Self {
        Self::Error(Box::new(error))
    }
}

/// The flat name of an end. `strict`: names that are not there are refused; else they are left to the model, which
/// knows the ports of emulated routers.
pub(super) fn resolve(
    frame: &Frame,
    made: &mut [Made],
    end: &Spanned<String>,
    strict: bool,
) -> Result<String, Refusal> {
    let name = end.value.as_str();
    let found = frame.locals.get(name).map(|local| (name, local, "")).or_else(|| {
        let dots = name.match_indices('.');
        let mut heads = dots.map(|(dot, _)| (&name[..dot], &name[dot + 1..]));
        heads.find_map(|(head, rest)| Some((head, frame.locals.get(head)?, rest)))
    });
    match found {
        // The end of an emulated router's port is the model's to know.
        Some((_, Local::Node, _)) => Ok(format!("{}{name}", frame.prefix)),
        Some((_, Local::Failed, _)) => Err(Refusal::Known),
        Some((head, Local::Absent(when), _)) => Err(Refusal::Absent(head.to_owned(), *when)),
        Some((head, Local::Instance(number), "")) => {
            let instance = &made[*number];
            let title = format!("`{head}` is an instance of template `{}`, not a node", instance.template);
            Err(Refusal::error(Diagnostic::new("port", end.span, title).help(ports(head, instance))))
        }
        Some((head, Local::Instance(number), port)) => bind(&mut made[*number], head, port, end.span),
        None if strict => Err(Refusal::error(unknown(frame, end))),
        None => Ok(format!("{}{name}", frame.prefix)),
    }
}

/// Binds a port of an instance.
fn bind(instance: &mut Made, head: &str, name: &str, span: Span) -> Result<String, Refusal> {
    let path = instance.path.clone();
    let Some(port) = instance.ports.get_mut(name) else {
        let title =
            format!("`{head}`, an instance of template `{}`, has no port `{name}`", instance.template);
        let error = Diagnostic::new("port", span, title);
        let near = nearest(name, instance.ports.keys().map(String::as_str)).map(str::to_owned);
        return Err(Refusal::error(match near {
            Some(near) => error.help(format!("did you mean `{head}.{near}`?")),
            None => error.help(ports(head, instance)),
        }));
    };
    if let Some(first) = port.bound {
        let error = Diagnostic::new("port", span, format!("port `{name}` of `{path}` is bound twice"));
        let error = error.see(first, "first here").help("a port is one interface: give the template another");
        return Err(Refusal::error(error));
    }
    port.bound = Some(span);
    match &port.owner {
        Owner::Node(owner) => Ok(owner.clone()),
        Owner::Absent(node, when) => Err(Refusal::Absent(node.clone(), *when)),
        Owner::Unknown => Err(Refusal::Known),
    }
}

/// Says what the ports of an instance are.
fn ports(head: &str, instance: &Made) -> String {
    if instance.ports.is_empty() {
        return format!("template `{}` has no `ports:`, so nothing can be linked to it", instance.template);
    }
    let names: Vec<String> = instance.ports.keys().map(|p| format!("`{head}.{p}`")).collect();
    format!("only its ports can be linked: {}", names.join(", "))
}

fn unknown(frame: &Frame, end: &Spanned<String>) -> Diagnostic {
    let title = format!("the template has no node `{}`", end.value);
    let error = Diagnostic::new("unknown-end", end.span, title).label(format!("`{}`", end.value));
    error.meant(&end.value, frame.locals.keys().map(String::as_str))
}

/// The error about an end whose node is not there.
pub(super) fn absent(node: &str, when: Span, end: Span) -> Diagnostic {
    let title = format!("`{node}` does not exist here: its `when` is false");
    Diagnostic::new("absent-node", end, title).see(when, "false").help("give the link the same `when`")
}
