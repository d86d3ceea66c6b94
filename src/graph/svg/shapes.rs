//! Signs, colours and lines. Points go in, pieces of SVG come out. It never knows what a point stands for.

use std::fmt::Write as _;

use crate::graph::Point;
use crate::graph::canvas::Board;

/// The colour of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::graph) enum Tone {
    /// Red, green, blue.
    Rgb(u8, u8, u8),
    /// What the style sheet of the page around the picture says: `--p0` is the base network's.
    Page(usize),
}

impl Tone {
    pub(in crate::graph) fn hex(self) -> String {
        match self {
            Self::Rgb(r, g, b) => format!("#{r:02x}{g:02x}{b:02x}"),
            Self::Page(number) => format!("var(--p{number})"),
        }
    }

    /// What is behind everything.
    pub(super) fn paper(self) -> &'static str {
        match self {
            Self::Rgb(..) => "#fff",
            Self::Page(_) => "var(--paper)",
        }
    }

    /// With a share of white, from 0 to 1.
    pub(in crate::graph) fn mixed(self, white: f64) -> String {
        let (r, g, b) = match self {
            Self::Rgb(r, g, b) => (r, g, b),
            Self::Page(network) => {
                let share = number(white * 100.0);
                return format!("color-mix(in srgb,var(--p{network}),var(--paper) {share}%)");
            }
        };
        let mix = |c: u8| (f64::from(c) * (1.0 - white) + 255.0 * white).round();
        let [r, g, b] = [r, g, b].map(|c| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
            let byte = mix(c) as u8;
            byte
        });
        Self::Rgb(r, g, b).hex()
    }
}

/// The sign of a node. Hosts are squares and routers circles, as in the paper's Figure 8; what base nodes are to one VI is
/// drawn as in its Figures 3 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Glyph {
    Host,
    Router,
    Both,
    Phantom,
    Emulated,
    Part { vh: bool, vr: bool, transit: bool },
}

impl Glyph {
    pub(super) fn radius(self) -> f64 {
        match self {
            Self::Host | Self::Router | Self::Both | Self::Phantom => 9.0,
            Self::Emulated => 14.0,
            Self::Part { transit, .. } => {
                if transit {
                    14.0
                } else {
                    11.0
                }
            }
        }
    }

    pub(super) fn is_part(self) -> bool {
        matches!(self, Self::Part { .. })
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Router => "router",
            Self::Both => "host and router",
            Self::Phantom => "phantom host",
            Self::Emulated => "router played by a VI",
            Self::Part { vh, vr, transit } => match (vh, vr, transit) {
                (true, false, false) => "virtual host",
                (false, true, false) => "virtual router",
                (true, true, false) => "virtual host and router",
                (true, false, true) => "virtual host, tunnel transit",
                (false, true, true) => "virtual router, tunnel transit",
                (true, true, true) => "virtual host and router, tunnel transit",
                (false, false, true) => "tunnel transit",
                (false, false, false) => "no part in it",
            },
        }
    }

    pub(super) fn drawn(self, at: Point, tone: Tone) -> String {
        let (colour, light) = (tone.hex(), tone.mixed(0.8));
        let circle = |r: f64, fill: &str, stroke: &str| {
            format!(
                "<circle cx=\"{}\" cy=\"{}\" r=\"{r}\" fill=\"{fill}\" {stroke}/>",
                number(at.x),
                number(at.y)
            )
        };
        let square = |fill: &str, more: &str| {
            let (x, y) = (number(at.x - 7.5), number(at.y - 7.5));
            format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"15\" height=\"15\" rx=\"2\" fill=\"{fill}\" stroke=\"{colour}\" {more}/>"
            )
        };
        let line = |wide: f64| format!("stroke=\"{colour}\" stroke-width=\"{wide}\"");
        match self {
            Self::Host => square(&colour, "stroke-width=\"1.5\""),
            Self::Router => circle(8.5, tone.paper(), &line(2.4)),
            Self::Both => circle(8.5, tone.paper(), &line(2.4)) + &circle(4.2, &colour, ""),
            Self::Phantom => square(&light, "stroke-width=\"1.6\" stroke-dasharray=\"2.5 1.8\""),
            Self::Emulated => circle(13.0, tone.paper(), &line(2.4)) + &circle(8.5, &light, &line(1.4)),
            Self::Part { vh, vr, transit } => {
                let mut drawn = String::new();
                if transit {
                    drawn += &circle(13.0, tone.paper(), &format!("{} stroke-dasharray=\"4 3\"", line(1.8)));
                }
                if vr {
                    drawn += &circle(9.0, tone.paper(), &line(2.4));
                }
                if vh {
                    drawn += &circle(if vr { 4.5 } else { 7.0 }, &colour, "");
                }
                if !(vh || vr || transit) {
                    let dots = "stroke=\"#6b7480\" stroke-width=\"1.8\" stroke-linecap=\"round\" stroke-dasharray=\"0.1 4\"";
                    drawn += &circle(9.0, tone.paper(), dots);
                }
                drawn
            }
        }
    }
}

/// One decimal, without `.0` and `-0`.
pub(in crate::graph) fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text as it may stand in an element.
pub(in crate::graph) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && !c.is_whitespace() => {
                let _never = write!(out, "\u{fffd}");
            }
            c => out.push(c),
        }
    }
    out
}

/// About how wide a text is in a sans-serif font of this size.
pub(in crate::graph) fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| match c {
        'i' | 'l' | 'j' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.32,
        'f' | 't' | 'r' | '-' | '(' | ')' | '/' => 0.4,
        'm' | 'w' | 'M' | 'W' => 0.93,
        c if c.is_uppercase() => 0.7,
        _ => 0.61,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// Lines no wider than `width`, the first shorter by `first`; at least one.
pub(in crate::graph) fn wrapped(text: &str, width: f64, first: f64, size: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let used = if lines.len() == 1 { first } else { 0.0 };
        let Some(line) = lines.last_mut() else { break };
        let joined = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if text_width(&joined, size) + used <= width || line.is_empty() {
            *line = joined;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// The point at `away` from `from`, towards `to`.
pub(super) fn around(from: Point, to: Point, away: f64) -> Point {
    let way = to.minus(from);
    let length = way.length();
    if length <= away * 2.0 { from } else { from.plus(way.times(away / length)) }
}

/// The way of a link: straight, or bent at its middle so that it misses nodes that are not its own, and links between the
/// same two (`twin` of them before it).
pub(super) fn bent(board: &Board, ends: [usize; 2], twin: usize) -> Vec<Point> {
    let [a, b] = ends.map(|end| board.nodes[end]);
    let (middle, way) = (a.plus(b).times(0.5), b.minus(a));
    let across = Point::new(-way.y, way.x).times(1.0 / way.length().max(1e-9));
    let others: Vec<Point> = (0..board.nodes.len())
        .filter(|n| !ends.contains(n))
        .map(|n| board.nodes[n])
        .filter(|p| distance(&[a, b], *p) < 60.0)
        .collect();
    let hits = |bend: f64| {
        let via = middle.plus(across.times(bend));
        others.iter().filter(|p| distance(&[a, via], **p) < 14.0 || distance(&[via, b], **p) < 14.0).count()
    };
    let bends = [0.0, -13.0, 13.0, -26.0, 26.0, -40.0, 40.0];
    let mut ordered: Vec<(usize, usize)> =
        bends.iter().enumerate().map(|(i, bend)| (hits(*bend), i)).collect();
    ordered.sort_unstable();
    let bend = ordered.get(twin).or(ordered.last()).map_or(0.0, |(_, i)| bends[*i]);
    if bend == 0.0 { vec![a, b] } else { vec![a, middle.plus(across.times(bend)), b] }
}

/// The convex hull of points, counter-clockwise where y grows upwards (Andrew's monotone chain).
pub(super) fn hull(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
    points.dedup();
    if points.len() < 3 {
        return points;
    }
    let left = |o: Point, a: Point, b: Point| (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x) > 0.0;
    let half = |points: &mut dyn Iterator<Item = Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for p in points {
            while chain.len() > 1 && !left(chain[chain.len() - 2], chain[chain.len() - 1], p) {
                chain.pop();
            }
            chain.push(p);
        }
        chain.pop();
        chain
    };
    let mut lower = half(&mut points.iter().copied());
    lower.extend(half(&mut points.iter().rev().copied()));
    lower
}

/// How far a point is from a convex shape, or from a line of two points; 0 inside.
pub(super) fn distance(shape: &[Point], p: Point) -> f64 {
    let count = shape.len();
    if count < 2 {
        return shape.first().map_or(f64::INFINITY, |q| p.minus(*q).length());
    }
    let sides = |i: usize| (shape[i], shape[(i + 1) % count]);
    let turn = |(a, b): (Point, Point)| (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x);
    if count > 2 && (0..count).all(|i| turn(sides(i)) >= 0.0) {
        return 0.0;
    }
    let to_side = |(a, b): (Point, Point)| {
        let way = b.minus(a);
        let along = p.minus(a);
        let share = (along.x * way.x + along.y * way.y) / (way.x * way.x + way.y * way.y).max(1e-9);
        p.minus(a.plus(way.times(share.clamp(0.0, 1.0)))).length()
    };
    (0..count).map(|i| to_side(sides(i))).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(x: f64, y: f64) -> Point {
        Point { x, y }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.0, -0.01, 2.25, -3.5].map(number), ["1", "0", "2.2", "-3.5"]);
    }

    #[test]
    fn a_hull_goes_around_and_knows_what_is_inside() {
        let square = hull(vec![p(0.0, 0.0), p(4.0, 0.0), p(2.0, 2.0), p(4.0, 4.0), p(0.0, 4.0)]);
        assert_eq!(square.len(), 4);
        assert_eq!(distance(&square, p(1.0, 3.0)), 0.0);
        assert_eq!(distance(&square, p(7.0, 2.0)), 3.0);
        assert_eq!(distance(&hull(vec![p(0.0, 0.0), p(2.0, 0.0)]), p(1.0, 5.0)), 5.0);
    }

    #[test]
    fn a_link_bends_around_a_node_in_its_way_and_away_from_its_twin() {
        let nodes = vec![p(0.0, 0.0), p(100.0, 0.0), p(50.0, 0.0)];
        let board = Board { corners: [p(0.0, 0.0); 4], nodes };
        assert_eq!(bent(&board, [0, 2], 0).len(), 2);
        let way = bent(&board, [0, 1], 0);
        assert_eq!(way.len(), 3);
        assert!(distance(&way[..2], p(50.0, 0.0)) >= 14.0, "{way:?}");
        assert_ne!(bent(&board, [0, 1], 1), way);
    }

    #[test]
    fn what_xml_would_misread_is_escaped() {
        assert_eq!(escape("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }

    #[test]
    fn text_is_wrapped_and_no_word_is_lost() {
        let lines = wrapped("one two three four five six", 60.0, 20.0, 12.0);
        assert!(lines.len() > 2);
        assert_eq!(lines.join(" "), "one two three four five six");
        assert_eq!(wrapped("", 60.0, 0.0, 12.0), [""]);
    }
}
