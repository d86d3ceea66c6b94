//! Which devices of a lab are captured on, and what they are called in the file. Names of namespaces and what the user
//! wrote go in; names such as `X:e-Y@base` and verdicts come out. It never looks at a lab: names say it all, so that what
//! a change of the lab adds has its name at once.

/// A namespace of a lab as a place to capture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub ns: String,
    pub node: String,
    /// `base`, `link` for the link layers of base nodes, a VI, or `VI.strands`.
    pub layer: String,
}

/// The layer of the link layers of base nodes.
const LINK: &str = "link";
const BASE: &str = "base";
/// Behind the VI whose link over parallel underlays it is.
const STRANDS: &str = ".strands";

/// In the names of the engine's own devices, those beside impaired links and those by which large packets go to the base, and
/// in no name of a lab's.
const ENGINES: char = '~';
/// In front of the names of devices of IS-IS, whose PDUs are on the links in IPv4.
const ISIS: &str = "iso-";

/// By way of which packets of a deep stack leave. They are on the links, too.
const BREAK: &str = "break";

/// Devices that the kernel itself puts into every namespace when it can carry their kind of tunnel.
const FALLBACKS: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];

impl Point {
    /// A namespace by its name; `None` where it is no node's.
    #[must_use]
    pub fn of(ns: &str) -> Option<Self> {
        let (kind, rest) = ns.split_once('.')?;
        let (node, layer) = match (kind, rest.split_once('.')) {
            ("b", _) => (rest, BASE.to_owned()),
            ("l", _) => (rest, LINK.to_owned()),
            ("v", Some((vi, node))) => (node, vi.to_owned()),
            ("s", Some((vi, node))) => (node, format!("{vi}{STRANDS}")),
            _ => return None,
        };
        Some(Self { ns: ns.to_owned(), node: node.to_owned(), layer })
    }

    /// A device in it, as the file names it.
    #[must_use]
    pub fn name(&self, device: &str) -> String {
        format!("{}:{device}@{}", self.node, self.layer)
    }

    /// `base/X`, `blue/a`; link layers and strands are their nodes'.
    #[must_use]
    pub fn full_name(&self) -> String {
        let layer = if self.layer == LINK { BASE } else { self.layer.trim_end_matches(STRANDS) };
        format!("{layer}/{}", self.node)
    }

    /// Whether a device of it is one of the lab's network, not one that only helps.
    #[must_use]
    pub fn shows(&self, device: &str) -> bool {
        let carries_others = device == "lo" || device.contains(ENGINES) || device.starts_with(ISIS);
        !carries_others && device != BREAK && !FALLBACKS.contains(&device)
    }

    /// The node itself, not what is beside it.
    fn is_node(&self) -> bool {
        self.layer != LINK && !self.layer.ends_with(STRANDS)
    }
}

/// What is captured; everything where nothing is named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection(Vec<Want>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Want {
    /// As written.
    words: String,
    node: Option<String>,
    layer: Option<String>,
    device: Option<String>,
}

impl Want {
    fn has(&self, point: &Point) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
        is(&self.node, &point.node) && is(&self.layer, &point.layer)
    }
}

/// Why what was written names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No node, network or layer is called so.
    Unknown(String),
    /// It names these nodes.
    Several(String, Vec<String>),
}

impl Selection {
    /// What `words` name, of the points there are: `X`, `blue/a`, `blue`, `@link`, `X@link`, each of them with `:device`.
    ///
    /// # Errors
    /// The first that names nothing, or several nodes by one short name.
    pub fn parse(points: &[Point], words: &[String]) -> Result<Self, Fault> {
        words.iter().map(|word| want(points, word)).collect::<Result<_, _>>().map(Self)
    }

    #[must_use]
    pub fn has(&self, point: &Point) -> bool {
        self.0.is_empty() || self.0.iter().any(|want| want.has(point))
    }

    #[must_use]
    pub fn has_device(&self, point: &Point, device: &str) -> bool {
        let named = |want: &Want| want.device.as_deref() == Some(device);
        if self.0.iter().any(|want| want.has(point) && named(want)) {
            return true;
        }
        let all = self.0.is_empty() || self.0.iter().any(|want| want.has(point) && want.device.is_none());
        point.shows(device) && all
    }

    /// Names a device that is none of `found`, if one is named: as it was written, and what its node has instead.
    #[must_use]
    pub fn missing(&self, found: &[(&Point, &str)]) -> Option<(String, Vec<String>)> {
        let is = |want: &Want, point: &Point, device: &str| {
            want.has(point) && want.device.as_deref().is_none_or(|d| d == device)
        };
        let want = self.0.iter().find(|want| !found.iter().any(|(point, device)| is(want, point, device)))?;
        let offered =
            |point: &Point, device: &str| want.has(point) && (device == "lo" || point.shows(device));
        let there = found.iter().filter(|(point, d)| offered(point, d)).map(|(_, d)| (*d).to_owned());
        Some((want.words.clone(), there.collect()))
    }
}

fn want(points: &[Point], words: &str) -> Result<Want, Fault> {
    // Edges of emulated routers have an `@` in their own names; nodes have no `:`.
    let found = |want: Want| points.iter().any(|p| want.has(p)).then_some(want);
    let unknown = || Fault::Unknown(words.to_owned());
    if let Some((rest, layer)) = words.rsplit_once('@') {
        let (node, device) = device(rest);
        let want = Want {
            words: words.to_owned(),
            node: Some(node.to_owned()).filter(|n| !n.is_empty()),
            layer: Some(layer.to_owned()),
            device,
        };
        if let Some(want) = found(want) {
            return Ok(want);
        }
    }
    let (name, device) = device(words);
    let of = |point: &Point| Want {
        words: words.to_owned(),
        node: Some(point.node.clone()),
        layer: Some(point.layer.clone()),
        device: device.clone(),
    };
    let nodes = || points.iter().filter(|p| p.is_node());
    if let Some(point) = nodes().find(|p| p.full_name() == name) {
        return Ok(of(point));
    }
    let short: Vec<&Point> = nodes().filter(|p| p.node == name).collect();
    let layer = Want {
        words: words.to_owned(),
        layer: Some(name.to_owned()),
        device: device.clone(),
        ..Want::default()
    };
    match (short.as_slice(), found(layer)) {
        ([one], None) => Ok(of(one)),
        ([], layer) => layer.ok_or_else(unknown),
        (several, layer) => {
            let nodes = several.iter().map(|p| p.full_name());
            Err(Fault::Several(words.to_owned(), nodes.chain(layer.map(|_| format!("@{name}"))).collect()))
        }
    }
}

fn device(words: &str) -> (&str, Option<String>) {
    match words.split_once(':') {
        Some((node, device)) => (node, Some(device.to_owned())),
        None => (words, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<Point> {
        let names =
            ["b.X", "l.X", "b.blue", "v.blue.a", "v.blue.t.l.top", "v.red.a", "s.red.a", "v.out.R@p1"];
        names.iter().map(|ns| Point::of(ns).unwrap()).collect()
    }

    fn selected(words: &[&str]) -> Result<Vec<String>, Fault> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let points = points();
        let selection = Selection::parse(&points, &words)?;
        Ok(points.iter().filter(|p| selection.has(p)).map(|p| p.ns.clone()).collect())
    }

    #[test]
    fn a_namespace_tells_node_and_layer() {
        let names: Vec<String> = points().iter().map(|p| p.name("e0")).collect();
        assert_eq!(
            names,
            [
                "X:e0@base",
                "X:e0@link",
                "blue:e0@base",
                "a:e0@blue",
                "t.l.top:e0@blue",
                "a:e0@red",
                "a:e0@red.strands",
                "R@p1:e0@out"
            ]
        );
        assert_eq!(Point::of("host"), None);
        assert_eq!(Point::of("v.x"), None);
    }

    #[test]
    fn nodes_networks_layers_and_devices_are_selected() {
        assert_eq!(selected(&[]).unwrap().len(), 8);
        for (words, is) in [
            ("X", vec!["b.X"]),
            ("base/X", vec!["b.X"]),
            ("X@link", vec!["l.X"]),
            ("@link", vec!["l.X"]),
            ("red", vec!["v.red.a"]),
            ("red/a", vec!["v.red.a"]),
            ("a@red.strands", vec!["s.red.a"]),
            ("t.l.top", vec!["v.blue.t.l.top"]),
            ("R@p1", vec!["v.out.R@p1"]),
            ("R@p1:e0@out", vec!["v.out.R@p1"]),
            ("X:e0", vec!["b.X"]),
            ("base", vec!["b.X", "b.blue"]),
        ] {
            assert_eq!(selected(&[words]).unwrap(), is, "{words}");
        }
        assert_eq!(selected(&["X", "red"]).unwrap(), ["b.X", "v.red.a"]);
    }

    #[test]
    fn what_names_nothing_or_too_much_is_refused() {
        assert_eq!(selected(&["Q"]), Err(Fault::Unknown("Q".to_owned())));
        assert_eq!(selected(&["X@blue"]), Err(Fault::Unknown("X@blue".to_owned())));
        let several = |words: &str, names: [&str; 2]| {
            Err(Fault::Several(words.to_owned(), names.map(str::to_owned).to_vec()))
        };
        assert_eq!(selected(&["a"]), several("a", ["blue/a", "red/a"]));
        assert_eq!(selected(&["blue"]), several("blue", ["base/blue", "@blue"]));
    }

    #[test]
    fn devices_beside_others_are_captured_only_where_named() {
        let points = points();
        let all = Selection::default();
        let taken = |s: &Selection, dev: &str| s.has_device(&points[0], dev);
        assert!(taken(&all, "e-Y"));
        for beside in ["lo", "break", "tunl0", "shape~3", "fast~0a000001", "iso-v-b"] {
            assert!(!taken(&all, beside), "{beside}");
        }
        let lo = Selection::parse(&points, &["X:lo".to_owned()]).unwrap();
        assert!(taken(&lo, "lo") && !taken(&lo, "e-Y"));
        let gone = Selection::parse(&points, &["X:e-Q".to_owned()]).unwrap();
        let found = [(&points[0], "lo"), (&points[0], "e-Y"), (&points[3], "v-b")];
        assert_eq!(gone.missing(&found), Some(("X:e-Q".to_owned(), vec!["lo".to_owned(), "e-Y".to_owned()])));
        assert_eq!(lo.missing(&found), None);
        assert_eq!(all.missing(&[]), None);
    }
}
