//! Where every node lies. A graph without places goes in, and has them when it comes out. A node that is alone on its
//! place lies exactly where that lies, so that it is straight above it.

use std::collections::BTreeMap;

use super::stress::{self, Hold, Point};
use super::{Graph, Place, Plane};

/// On average so many nodes of a VI on one place: from here on its links alone say where they lie.
const CROWDED: f64 = 3.5;
/// A base network is at least this share of the width of what is laid out without it.
const FOOT: f64 = 0.45;
/// How firmly a node keeps its place in a row.
const FIRM: f64 = 60.0;
/// A correlation from which on places lie one way.
const PLAIN: f64 = 0.3;
/// Attempts to make links cross less.
const SWEEPS: usize = 8;

pub(super) fn arrange(graph: &mut Graph) {
    let loose: Vec<Option<Vec<Point>>> =
        (0..graph.planes.len()).map(|p| is_loose(graph, p).then(|| alone(&graph.planes[p]))).collect();
    let Some(base) = graph.planes.first() else { return };
    let mut points = on_the_map(base).unwrap_or_else(|| alone(base));
    let visits = |p: &usize| loose[*p].is_none().then(|| most(&graph.planes[*p]));
    let room = 1.0 + 0.25 * ((1..graph.planes.len()).filter_map(|p| visits(&p)).fold(1.0, f64::max) - 1.0);
    let widest = loose.iter().flatten().map(|p| width(p)).fold(0.0, f64::max);
    let grow = if points.len() > 1 { FOOT * widest / width(&points).max(0.1) } else { 1.0 };
    let scale = room.max(grow).max(1.0);
    points.iter_mut().for_each(|p| *p = p.times(scale));
    lay(graph, 0, points);
    for (plane, loose) in loose.into_iter().enumerate().skip(1) {
        let points = match loose {
            Some(points) => mirrored(graph, plane, points),
            None => following(graph, plane),
        };
        lay(graph, plane, points);
    }
}

/// Whether the links of a plane alone say where its nodes lie: its places are crowded, or it is beside another plane, so
/// that no node is straight above its place anyway.
fn is_loose(graph: &Graph, plane: usize) -> bool {
    let own = &graph.planes[plane];
    let beside = graph.planes.iter().filter(|p| p.depth == own.depth).count() > 1;
    plane > 0 && (beside || crowd(own))
}

fn lay(graph: &mut Graph, plane: usize, points: Vec<Point>) {
    for (node, point) in graph.planes[plane].nodes.iter_mut().zip(points) {
        // Thousandths of a link are nothing that anybody sees, and shorter to write.
        node.lies = Point::new((point.x * 1000.0).round() / 1000.0, (point.y * 1000.0).round() / 1000.0);
    }
}

fn alone(plane: &Plane) -> Vec<Point> {
    stress::alone(plane.nodes.len(), &edges(plane))
}

/// A layout by the places of nodes on earth, where two links or more join nodes whose places are known: a map in which a
/// degree of latitude is as long as one of longitude in its middle (equirectangular), turned so that north is behind. A
/// link is as long as elsewhere on average; nodes too near one another are moved apart, and the others find their place.
fn on_the_map(plane: &Plane) -> Option<Vec<Point>> {
    let located: Vec<[f64; 2]> = plane.nodes.iter().filter_map(|n| n.location).collect();
    let middle = located.iter().map(|[north, _]| north).sum::<f64>() / located.len().max(1) as f64;
    let narrow = cosine(middle.to_radians());
    let places: Vec<Option<Point>> = plane
        .nodes
        .iter()
        .map(|n| n.location.map(|[north, east]| Point::new(east * narrow, -north)))
        .collect();
    let edges = edges(plane);
    let spans: Vec<f64> = edges
        .iter()
        .filter_map(|(a, b)| Some(places[*a]?.minus(places[*b]?).length()))
        .filter(|span| *span > 0.0)
        .collect();
    if spans.len() < 2 {
        return None;
    }
    let scale = spans.len() as f64 / spans.iter().sum::<f64>();
    let places: Vec<Option<Point>> = places.iter().map(|p| p.map(|p| p.times(scale))).collect();
    let known = places.iter().flatten();
    let centre =
        known.clone().fold(Point::default(), |sum, p| sum.plus(*p)).times(1.0 / located.len() as f64);
    let places: Vec<Option<Point>> = places.iter().map(|p| p.map(|p| p.minus(centre))).collect();
    let start = (0..places.len()).map(|i| places[i].unwrap_or_else(|| between(i, &edges, &places))).collect();
    let holds: Vec<Hold> = places.iter().map(|p| p.map_or(Hold::Free, |p| Hold::Near(p, FIRM))).collect();
    Some(stress::held(start, &edges, &holds, 1.0))
}

/// Of an angle of up to a right one, to a thousandth: its series, which is the same on every machine.
fn cosine(angle: f64) -> f64 {
    let square = angle * angle;
    1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0))
}

fn edges(plane: &Plane) -> Vec<(usize, usize)> {
    plane.links.iter().map(|l| (l.ends[0], l.ends[1])).filter(|(a, b)| a != b).collect()
}

fn width(points: &[Point]) -> f64 {
    let [least, most] = [f64::min, f64::max].map(|f| points.iter().map(|p| p.x).reduce(f).unwrap_or(0.0));
    most - least
}

/// How many nodes stand on each place.
fn visits(plane: &Plane) -> BTreeMap<(usize, usize), usize> {
    let mut visits = BTreeMap::new();
    for at in plane.nodes.iter().filter_map(|n| n.at.first()) {
        *visits.entry((at.plane, at.node)).or_insert(0) += 1;
    }
    visits
}

fn most(plane: &Plane) -> f64 {
    visits(plane).into_values().max().unwrap_or(1) as f64
}

fn crowd(plane: &Plane) -> bool {
    let visits = visits(plane);
    visits.values().sum::<usize>() as f64 > CROWDED * visits.len() as f64
}

/// Where what a node stands on lies: the middle, for one that stands on several.
fn foot(graph: &Graph, at: &[Place]) -> Option<Point> {
    let sum = at.iter().fold(Point::default(), |sum, at| sum.plus(graph.spot(*at).lies));
    (!at.is_empty()).then(|| sum.times(1.0 / at.len() as f64))
}

/// A layout that follows the places below. What stands on one place lies in a row, from back to front.
fn following(graph: &Graph, plane: usize) -> Vec<Point> {
    let (plane, edges) = (&graph.planes[plane], edges(&graph.planes[plane]));
    let feet: Vec<Option<Point>> = plane.nodes.iter().map(|n| foot(graph, &n.at)).collect();
    let start: Vec<Point> =
        (0..feet.len()).map(|i| feet[i].unwrap_or_else(|| between(i, &edges, &feet))).collect();
    let (points, rows) = rows(plane, &edges, start);
    let alone: Vec<usize> = rows.iter().filter(|row| row.len() == 1).map(|row| row[0]).collect();
    let hold = |node: usize| match feet[node] {
        None => Hold::Free,
        Some(_) if alone.contains(&node) => Hold::At(points[node]),
        Some(_) => Hold::Near(points[node], FIRM),
    };
    let holds: Vec<Hold> = (0..points.len()).map(hold).collect();
    let spans: Vec<f64> = edges
        .iter()
        .filter_map(|(a, b)| Some(feet[*a]?.minus(feet[*b]?).length()))
        .filter(|span| *span > 1e-6)
        .collect();
    let length = spans.iter().sum::<f64>() / spans.len().max(1) as f64;
    stress::held(points, &edges, &holds, length.max(1.0))
}

/// Spreads the nodes of each place in a row, in the order in which the links cross least. The points, and the rows.
fn rows(plane: &Plane, edges: &stress::Edges, mut points: Vec<Point>) -> (Vec<Point>, Vec<Vec<usize>>) {
    let mut rows: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (index, node) in plane.nodes.iter().enumerate() {
        if let Some(at) = node.at.first() {
            rows.entry((at.plane, at.node)).or_default().push(index);
        }
    }
    let mut rows: Vec<Vec<usize>> = rows.into_values().collect();
    for row in &rows {
        let middle = (row.len() as f64 - 1.0) / 2.0;
        for (place, node) in row.iter().enumerate() {
            points[*node].y += (place as f64 - middle) * stress::APART;
        }
    }
    let mut least = clutter(&points, edges);
    for _ in 0..SWEEPS {
        let before = least;
        for row in &mut rows {
            for (a, b) in
                (0..row.len()).flat_map(|a| (a + 1..row.len()).map(move |b| (a, b))).collect::<Vec<_>>()
            {
                points.swap(row[a], row[b]);
                let now = clutter(&points, edges);
                if now < least - 1e-9 {
                    least = now;
                    row.swap(a, b);
                } else {
                    points.swap(row[a], row[b]);
                }
            }
        }
        if least >= before {
            break;
        }
    }
    (points, rows)
}

/// How hard a layout is to read: crossings of links, nodes on links that are not theirs, and a little for length.
fn clutter(points: &[Point], edges: &stress::Edges) -> f64 {
    let mut bad = 0.0;
    for (index, (a, b)) in edges.iter().enumerate() {
        let (p, q) = (points[*a], points[*b]);
        bad += 0.02 * q.minus(p).length();
        for (c, d) in &edges[index + 1..] {
            if ![c, d].iter().any(|n| *n == a || *n == b) && cross(p, q, points[*c], points[*d]) {
                bad += 1.0;
            }
        }
        let on = |node: usize| node != *a && node != *b && near(p, q, points[node]);
        bad += (0..points.len()).filter(|n| on(*n)).count() as f64;
    }
    bad
}

fn side(a: Point, b: Point, p: Point) -> f64 {
    (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x)
}

fn cross(a: Point, b: Point, c: Point, d: Point) -> bool {
    side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0
}

/// Whether a node at `p` is on the line from `a` to `b`.
fn near(a: Point, b: Point, p: Point) -> bool {
    let (way, along) = (b.minus(a), p.minus(a));
    let share = (along.x * way.x + along.y * way.y) / (way.x * way.x + way.y * way.y).max(1e-9);
    (0.0..=1.0).contains(&share) && p.minus(a.plus(way.times(share))).length() < 0.2
}

/// The middle of the places of a node's neighbours.
fn between(node: usize, edges: &stress::Edges, feet: &[Option<Point>]) -> Point {
    let near = edges.iter().filter(|(a, b)| *a == node || *b == node);
    let near: Vec<Point> = near.filter_map(|(a, b)| feet[if *a == node { *b } else { *a }]).collect();
    let sum = near.iter().fold(Point::default(), |sum, p| sum.plus(*p));
    sum.times(1.0 / near.len().max(1) as f64)
}

/// A layout, or that of its mirror images which lies as its places do, where these plainly lie one way.
fn mirrored(graph: &Graph, plane: usize, points: Vec<Point>) -> Vec<Point> {
    let feet = graph.planes[plane].nodes.iter().map(|n| foot(graph, &n.at));
    let pairs: Vec<(Point, Point)> =
        points.iter().zip(feet).filter_map(|(p, foot)| Some((*p, foot?))).collect();
    let sign = |axis: fn(&Point) -> f64| {
        let mean = |of: &dyn Fn(&(Point, Point)) -> f64| {
            pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64
        };
        let (own, below) = (mean(&|p| axis(&p.0)), mean(&|p| axis(&p.1)));
        let sum = |f: &dyn Fn(f64, f64) -> f64| {
            pairs.iter().map(|(p, q)| f(axis(p) - own, axis(q) - below)).sum::<f64>()
        };
        let spread = (sum(&|p, _| p * p) * sum(&|_, q| q * q)).sqrt();
        if sum(&|p, q| p * q) < -PLAIN * spread { -1.0 } else { 1.0 }
    };
    let (x, y) = (sign(|p| p.x), sign(|p| p.y));
    points.iter().map(|p| Point::new(p.x * x, p.y * y)).collect()
}
