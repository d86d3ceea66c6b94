//! The picture itself, as SVG 1.1. A graph goes in, text comes out. It needs no other program, no fonts of its own and no
//! script; what a node or link is stands in its `title`, which browsers show under the pointer.

mod labels;
mod legend;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use self::labels::{Label, Labels};
use self::shapes::{Glyph, Tone, around, bent, hull};
pub(super) use self::shapes::{escape, number, text_width, wrapped};
use super::canvas::{Board, MARGIN, Sheet};
use super::{Graph, Line, Place, Plane, Point, Spot, instances};
use crate::model::Role;

/// Okabe and Ito's colours, told apart by those who are colour-blind too, darkened where thin lines need it; first the
/// base network's.
const BASE_TONE: Tone = Tone::Rgb(0x3f, 0x4a, 0x59);
const TONES: [Tone; 7] = [
    Tone::Rgb(0x00, 0x6f, 0xb0),
    Tone::Rgb(0xcf, 0x5a, 0x00),
    Tone::Rgb(0x00, 0x8a, 0x66),
    Tone::Rgb(0xa8, 0x4b, 0x87),
    Tone::Rgb(0x8a, 0x6d, 0x00),
    Tone::Rgb(0x2a, 0x8f, 0xc4),
    Tone::Rgb(0x7a, 0x4a, 0xc0),
];
const NAME_SIZE: f64 = 12.5;
const TITLE_SIZE: f64 = 15.0;
const CAPTION_SIZE: f64 = 13.0;
const CAPTION_LEADING: f64 = 18.0;
/// A caption is no narrower.
const LEAST_WIDTH: f64 = 560.0;
/// So many dashed lines are drawn faintly.
const MANY: usize = 24;
/// Longer lines of a caption are hard to read.
const WIDEST_TEXT: f64 = 820.0;
/// Of the blob around the nodes of one instance, and of each one around it.
const PAD: f64 = 19.0;
const PAD_MORE: f64 = 11.0;

/// Draws a graph.
#[must_use]
pub fn svg(graph: &Graph) -> String {
    Picture::new(graph).draw()
}

/// Draws a graph for a page that shows it with a style sheet of its own: colours are the variables `--p0` to `--p7`, `--ink`
/// and `--paper`; nodes, their names and lines to their places have `data-node`, links and gateways `data-link`, planes
/// `data-plane`, with full names.
#[must_use]
pub fn page_svg(graph: &Graph) -> String {
    let mut picture = Picture::new(graph);
    picture.page = true;
    picture.labels.page = true;
    picture.draw()
}

pub(super) fn tone(plane: usize) -> Tone {
    if plane == 0 { BASE_TONE } else { TONES[(plane - 1) % TONES.len()] }
}

/// An instance of a template on its board.
struct Blob<'a> {
    name: &'a str,
    nodes: BTreeSet<usize>,
    outline: Vec<Point>,
    pad: f64,
    /// The name, as seen from the blob around it.
    short: &'a str,
    /// Blobs around it.
    level: usize,
}

struct Picture<'a> {
    graph: &'a Graph,
    sheet: Sheet,
    labels: Labels,
    glyphs: BTreeSet<Glyph>,
    /// For a page around it.
    page: bool,
    out: String,
}

impl<'a> Picture<'a> {
    fn new(graph: &'a Graph) -> Self {
        let sheet = Sheet::of(graph);
        let (labels, glyphs) = (Labels::default(), BTreeSet::new());
        Self { graph, sheet, labels, glyphs, page: false, out: String::new() }
    }

    fn draw(mut self) -> String {
        for row in self.sheet.rows.clone() {
            row.iter().for_each(|plane| self.feet(*plane));
            row.iter().for_each(|plane| self.board(*plane));
        }
        self.gateways();
        let width = self.sheet.width.max(LEAST_WIDTH);
        for label in std::mem::take(&mut self.labels).placed(width) {
            self.out.push_str(&label);
        }
        let bottom = self.legend(self.sheet.height + 8.0);
        let name = escape(&self.graph.lab);
        if self.page {
            let (w, h) = (number(width), number(bottom));
            return format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\">\n{}</svg>\n",
                self.out
            );
        }
        let height = self.caption(bottom, width);
        let style = format!(
            "text{{font-family:'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#1d232b}}\
             .n{{font-size:{NAME_SIZE}px;paint-order:stroke;stroke:#fff;stroke-width:3.5px;stroke-linejoin:round}}\
             .t{{font-size:{TITLE_SIZE}px;font-weight:bold}}.c{{font-size:{CAPTION_SIZE}px}}\
             .l{{fill:none;stroke-linecap:round}}.f{{fill:none;stroke-width:1.1;stroke-dasharray:5 4}}"
        );
        let (w, h) = (number(width), number(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\">\n\
             <title>{name}</title>\n<style>{style}</style>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>\n{}</svg>\n",
            self.out
        )
    }

    fn tone(&self, plane: usize) -> Tone {
        if self.page {
            Tone::Page(if plane == 0 { 0 } else { (plane - 1) % TONES.len() + 1 })
        } else {
            tone(plane)
        }
    }

    fn ink(&self) -> &'static str {
        if self.page { "var(--ink)" } else { "#1d232b" }
    }

    /// What tells the page around it whose this is.
    fn mark(&self, class: &str, kind: &str, name: &str) -> String {
        match self.page {
            true => format!(" class=\"{class}\" data-{kind}=\"{}\"", escape(name)),
            false => String::new(),
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _never = self.out.write_fmt(text);
        self.out.push('\n');
    }

    /// Dashed lines from the nodes of a plane to where they are placed, and dotted ones from phantom VHs to the router
    /// whose ports they are.
    fn feet(&mut self, plane: usize) {
        let colour = self.tone(plane).hex();
        let faint = if self.graph.planes[plane].nodes.len() > MANY { 0.45 } else { 1.0 };
        self.put(format_args!("<g stroke=\"{colour}\" stroke-opacity=\"{faint}\">"));
        for (index, node) in self.graph.planes[plane].nodes.iter().enumerate() {
            let from = self.sheet.spot(Place { plane, node: index });
            for at in &node.at {
                let to = self.sheet.spot(*at);
                self.labels.line(from, to);
                let (a, b) = (around(from, to, 9.0), around(to, from, 11.0));
                let mark =
                    self.mark("f foot", "node", &format!("{}/{}", self.graph.planes[plane].name, node.name));
                let class = if self.page { &mark } else { " class=\"f\"" };
                self.put(format_args!("<path{class} d=\"M{} {}\"/>", pair(a), pair(b)));
            }
        }
        let ports = self.ports(plane);
        for (index, (from, to)) in ports.iter().copied().enumerate() {
            // Each is bent another way, so that none hides another.
            let bend = (index as f64 - (ports.len() as f64 - 1.0) / 2.0) * 34.0;
            let via = from.plus(to).times(0.5).plus(Point::new(bend, 0.0));
            self.labels.line(from, via);
            self.labels.line(via, to);
            let (a, b) = (around(from, via, 9.0), around(to, via, 15.0));
            let dots = "stroke-width=\"2.6\" stroke-dasharray=\"0.1 5.5\"";
            self.put(format_args!("<path class=\"l\" {dots} d=\"M{}Q{} {}\"/>", pair(a), pair(via), pair(b)));
        }
        self.put(format_args!("</g>"));
    }

    /// The phantom VHs of a plane, each with the router whose port it is.
    fn ports(&self, plane: usize) -> Vec<(Point, Point)> {
        let mut found = Vec::new();
        for (index, other) in self.graph.planes.iter().enumerate() {
            for (node, spot) in other.nodes.iter().enumerate() {
                let router = self.sheet.spot(Place { plane: index, node });
                let own = spot.ports.iter().filter(|port| port.plane == plane);
                found.extend(own.map(|port| (self.sheet.spot(*port), router)));
            }
        }
        found
    }

    fn board(&mut self, index: usize) {
        let graph = self.graph;
        let (plane, board) = (&graph.planes[index], self.sheet.boards[index].clone());
        let tone = self.tone(index);
        let mark = self.mark("plane", "plane", &plane.name);
        let corners: Vec<String> = board.corners.iter().map(|c| pair(*c)).collect();
        let (fill, edge) = (tone.mixed(0.93), tone.mixed(0.55));
        self.put(format_args!(
            "<g{mark}>\n<polygon points=\"{}\" fill=\"{fill}\" fill-opacity=\"0.82\" stroke=\"{edge}\"/>",
            corners.join(" ")
        ));
        let blobs = blobs(plane, &board);
        blobs.iter().for_each(|blob| self.blob(blob, &board, tone));
        self.links(plane, &board, tone);
        for (node, at) in plane.nodes.iter().zip(&board.nodes) {
            self.node(plane, node, *at, tone);
        }
        self.put(format_args!("</g>"));
        self.title(plane, &board, tone);
        for (number, (node, at)) in plane.nodes.iter().zip(&board.nodes).enumerate() {
            let around = blobs.iter().rev().find(|b| b.nodes.contains(&number)).map_or("", |b| b.name);
            let name = node.name.strip_prefix(around).and_then(|n| n.strip_prefix('.')).unwrap_or(&node.name);
            let radius = glyph(node).radius();
            self.labels.node(*at, radius);
            let mark = self.mark("n", "node", &format!("{}/{}", plane.name, node.name));
            let below = index == 0;
            self.labels.want(Label { text: name.to_owned(), at: *at, radius, below, bold: None, mark });
        }
    }

    /// The name of a plane, at its front left corner.
    fn title(&mut self, plane: &Plane, board: &Board, tone: Tone) {
        let [.., right, left] = board.corners;
        let at = Point::new(left.x + 15.0, left.y - 9.0);
        let about = match &plane.plays {
            Some(router) => format!("plays {router}"),
            None if plane.depth > 0 => format!("over {}", plane.over.join(", ")),
            None => "network".to_owned(),
        };
        let wide =
            shapes::text_width(&plane.name, TITLE_SIZE) + shapes::text_width(&about, CAPTION_SIZE) + 8.0;
        let about = if wide < right.x - left.x - 30.0 { escape(&about) } else { String::new() };
        let (x, y, size) = (number(at.x), number(at.y), format!("{CAPTION_SIZE}px"));
        let fill = styled(self.page, &[("fill", &tone.hex())]);
        let light = styled(self.page, &[("font-weight", "normal"), ("font-size", &size)]);
        self.put(format_args!(
            "<text class=\"t\" x=\"{x}\" y=\"{y}\"{fill}>{}<tspan dx=\"7\"{light} \
             fill-opacity=\"0.75\">{about}</tspan></text>",
            escape(&plane.name)
        ));
        self.labels.area(Point::new(at.x - 4.0, at.y - TITLE_SIZE), Point::new(at.x + wide, at.y + 4.0));
    }

    fn blob(&mut self, blob: &Blob<'_>, board: &Board, tone: Tone) {
        let corners: Vec<String> = blob.outline.iter().map(|p| pair(*p)).collect();
        let path = format!("M{}Z", corners.join("L"));
        let light = (0.88 - 0.07 * blob.level as f64).max(0.6);
        let shades = [(2.0 * blob.pad + 2.0, tone.mixed(0.45)), (2.0 * blob.pad, tone.mixed(light))];
        for (wide, colour) in shades {
            let wide = number(wide);
            self.put(format_args!(
                "<path d=\"{path}\" fill=\"{colour}\" stroke=\"{colour}\" stroke-width=\"{wide}\" stroke-linejoin=\"round\"/>"
            ));
        }
        let top = blob.outline.iter().copied().min_by(|a, b| a.y.total_cmp(&b.y)).unwrap_or(board.corners[0]);
        let at = Point::new(top.x, top.y - blob.pad);
        self.labels.want(Label {
            text: blob.short.to_owned(),
            at,
            radius: 0.0,
            below: false,
            bold: Some(tone.hex()),
            mark: String::new(),
        });
    }

    fn links(&mut self, plane: &Plane, board: &Board, tone: Tone) {
        let mut twins: BTreeMap<[usize; 2], usize> = BTreeMap::new();
        let colour = tone.hex();
        self.put(format_args!("<g stroke=\"{colour}\">"));
        for line in &plane.links {
            let mut key = line.ends;
            key.sort_unstable();
            let twin = twins.entry(key).or_insert(0);
            let way = bent(board, line.ends, *twin);
            *twin += 1;
            let [a, b] = line.ends.map(|end| board.nodes[end]);
            way.windows(2).for_each(|part| self.labels.line(part[0], part[1]));
            let path = match way[..] {
                [_, middle, _] => format!(
                    "M{}Q{} {}",
                    pair(a),
                    pair(middle.times(2.0).minus(a.plus(b).times(0.5))),
                    pair(b)
                ),
                _ => format!("M{} {}", pair(a), pair(b)),
            };
            let about = escape(&about_link(plane, line));
            if line.carries {
                let glow = self.mapped().mixed(0.6);
                self.put(format_args!(
                    "<path class=\"l\" stroke=\"{glow}\" stroke-width=\"9\" d=\"{path}\"/>"
                ));
            }
            let wide = if line.security.is_some() { 5.0 } else { 2.0 };
            let mark = self.mark("l link", "link", &format!("{}/{}", plane.name, line.name));
            let class = if self.page { &mark } else { " class=\"l\"" };
            self.put(format_args!(
                "<path{class} stroke-width=\"{wide}\" d=\"{path}\"><title>{about}</title></path>"
            ));
            if line.security.is_some() {
                let light = styled(self.page, &[("stroke", tone.paper())]);
                self.put(format_args!("<path class=\"l\"{light} stroke-width=\"1.6\" d=\"{path}\"/>"));
            }
        }
        self.put(format_args!("</g>"));
    }

    fn node(&mut self, plane: &Plane, node: &Spot, at: Point, tone: Tone) {
        let glyph = glyph(node);
        self.glyphs.insert(glyph);
        let tone = if node.part.is_some() { self.mapped() } else { tone };
        let about = escape(&about_node(self.graph, plane, node));
        let shape = glyph.drawn(at, tone);
        let mark = self.mark("node", "node", &format!("{}/{}", plane.name, node.name));
        self.put(format_args!("<g{mark}><title>{about}</title>{shape}</g>"));
    }

    fn gateways(&mut self) {
        let graph = self.graph;
        for wire in &graph.gateways {
            let [a, b] = wire.ends.map(|end| self.sheet.spot(end));
            // An arc, so that it does not lie on the links of planes beside one another.
            let rise = (b.minus(a).length() * 0.22).min(80.0);
            let via = a.plus(b).times(0.5).minus(Point::new(0.0, rise));
            self.labels.line(a, via);
            self.labels.line(via, b);
            let (a, b) = (around(a, via, 9.0), around(b, via, 9.0));
            let about = escape(&format!("gateway {}", wire.name));
            let (ink, mark) = (self.ink(), self.mark("l link", "link", &format!("gateways/{}", wire.name)));
            let class = if self.page { &mark } else { " class=\"l\"" };
            self.put(format_args!(
                "<path{class} stroke=\"{ink}\" stroke-width=\"2.4\" d=\"M{}Q{} {}\"><title>{about}</title></path>",
                pair(a),
                pair(via),
                pair(b)
            ));
        }
    }

    /// The colour of the VI whose map this is: the highest one.
    fn mapped(&self) -> Tone {
        self.tone(self.graph.planes.len().saturating_sub(1))
    }

    /// The lab's name and description; where it ends.
    fn caption(&mut self, top: f64, width: f64) -> f64 {
        // Descriptions are Markdown as far as names stand between backticks.
        let text = self.graph.description.clone().unwrap_or_default().replace('`', "");
        let name = &self.graph.lab;
        let first = shapes::text_width(name, CAPTION_SIZE) * 1.1 + 10.0;
        let lines = shapes::wrapped(&text, (width - 2.0 * MARGIN).min(WIDEST_TEXT), first, CAPTION_SIZE);
        let mut y = top + CAPTION_LEADING;
        for (index, line) in lines.iter().enumerate() {
            let head = if index == 0 {
                format!("<tspan font-weight=\"bold\">{}</tspan>  ", escape(name))
            } else {
                String::new()
            };
            let (x, at) = (number(MARGIN), number(y));
            self.put(format_args!(
                "<text class=\"c\" x=\"{x}\" y=\"{at}\" xml:space=\"preserve\">{head}{}</text>",
                escape(line)
            ));
            y += CAPTION_LEADING;
        }
        y + MARGIN - CAPTION_LEADING + 4.0
    }
}

/// Properties of an element: in a page as attributes, which its policy allows and its style sheet overrides.
fn styled(page: bool, properties: &[(&str, &str)]) -> String {
    if page {
        return properties.iter().map(|(name, value)| format!(" {name}=\"{value}\"")).collect();
    }
    let all: Vec<String> = properties.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    format!(" style=\"{}\"", all.join(";"))
}

fn pair(p: Point) -> String {
    format!("{},{}", number(p.x), number(p.y))
}

/// The sign of a node.
fn glyph(node: &Spot) -> Glyph {
    match (node.part, node.role) {
        (Some(part), _) => Glyph::Part { vh: part.vh, vr: part.vr, transit: part.transit },
        (None, _) if node.played_by.is_some() => Glyph::Emulated,
        (None, Role::Host) => Glyph::Host,
        (None, Role::Router) => Glyph::Router,
        (None, Role::Both) => Glyph::Both,
        (None, Role::Phantom) => Glyph::Phantom,
    }
}

fn about_node(graph: &Graph, plane: &Plane, node: &Spot) -> String {
    let role = match (&node.played_by, node.role) {
        (Some(vi), _) => format!("router that {vi} plays"),
        (None, Role::Host) => "host".to_owned(),
        (None, Role::Router) => "router".to_owned(),
        (None, Role::Both) => "host and router".to_owned(),
        (None, Role::Phantom) => "phantom host".to_owned(),
    };
    let mut words = format!("{}/{}: {role}", plane.name, node.name);
    if let Some(address) = node.address {
        let _never = write!(words, ", {address}");
    }
    let at: Vec<String> = node.at.iter().map(|at| graph.full_name(*at)).collect();
    if !at.is_empty() {
        let _never = write!(words, ", on {}", at.join(" and "));
    }
    if let Some(part) = node.part {
        let _never = write!(words, "; {}", part.words());
    }
    words
}

fn about_link(plane: &Plane, line: &Line) -> String {
    let security = line.security.map(|s| format!(", {s}")).unwrap_or_default();
    let cost = if line.cost == 1 { String::new() } else { format!(", cost {}", line.cost) };
    format!("{}/{}: MTU {}{cost}{security}", plane.name, line.name, line.mtu)
}

/// The instances of templates on a board, outer ones first; one that would enclose strangers is left out.
fn blobs<'a>(plane: &'a Plane, board: &Board) -> Vec<Blob<'a>> {
    let mut found: Vec<Blob<'a>> = Vec::new();
    // Inner ones first, so that each knows what it goes around.
    let mut all: Vec<(&str, Vec<usize>)> = instances(plane).into_iter().collect();
    all.sort_by_key(|(name, _)| std::cmp::Reverse(name.matches('.').count()));
    for (name, nodes) in all {
        let inside = |b: &&Blob<'_>| b.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let pad = found.iter().filter(inside).map(|b| b.pad + PAD_MORE).fold(PAD, f64::max);
        let outline = hull(nodes.iter().map(|n| board.nodes[*n]).collect());
        let nodes: BTreeSet<usize> = nodes.into_iter().collect();
        let strange = |(index, at): (usize, &Point)| {
            !nodes.contains(&index) && shapes::distance(&outline, *at) < pad + 6.0
        };
        if !board.nodes.iter().enumerate().any(strange) {
            found.push(Blob { name, nodes, outline, pad, short: name, level: 0 });
        }
    }
    found.reverse();
    found.sort_by_key(|b| b.name.matches('.').count());
    for index in 0..found.len() {
        let own = found[index].name;
        let outer =
            found.iter().filter(|b| own.strip_prefix(b.name).is_some_and(|rest| rest.starts_with('.')));
        let outer: Vec<usize> = outer.map(|b| b.name.len() + 1).collect();
        found[index].level = outer.len();
        found[index].short = &own[outer.into_iter().max().unwrap_or(0)..];
    }
    found
}
