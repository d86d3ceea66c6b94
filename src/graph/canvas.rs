//! The sheet of paper. A graph whose nodes lie on planes goes in; boards, which are planes seen from above and the side,
//! and where on the sheet every node is, come out. Lengths are pixels, y grows downwards.

use super::stress::Point;
use super::{Graph, Place, Plane};

/// A unit of a plane, across and in depth.
const ACROSS: f64 = 104.0;
const DEEP: f64 = 54.0;
/// How far a plane leans: across for each pixel of depth.
const LEAN: f64 = 0.5;
/// Plane around the nodes, units.
const RIM: Point = Point { x: 0.75, y: 0.62 };
/// The least half size of a plane, units.
const LEAST: Point = Point { x: 1.5, y: 0.8 };
/// Between boards, beside and above one another, and around all.
const BESIDE: f64 = 34.0;
const ABOVE: f64 = 58.0;
pub(super) const MARGIN: f64 = 24.0;
/// Boards of one depth beside one another.
const ABREAST: usize = 3;

/// A plane on the sheet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Board {
    /// Back left, back right, front right, front left.
    pub(super) corners: [Point; 4],
    /// Of the plane's nodes.
    pub(super) nodes: Vec<Point>,
}

/// All boards, in the order of the planes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sheet {
    pub(super) boards: Vec<Board>,
    /// Planes that are drawn at one height, from the bottom.
    pub(super) rows: Vec<Vec<usize>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// What a plane covers, units.
#[derive(Debug, Clone, Copy)]
struct Extent {
    least: Point,
    most: Point,
}

impl Extent {
    fn of(plane: &Plane) -> Self {
        let bound = |f: fn(f64, f64) -> f64| {
            let all = plane.nodes.iter().map(|n| n.lies);
            all.reduce(|a, b| Point::new(f(a.x, b.x), f(a.y, b.y))).unwrap_or_default()
        };
        let (least, most) = (bound(f64::min).minus(RIM), bound(f64::max).plus(RIM));
        let middle = least.plus(most).times(0.5);
        Self { least, most }.with(Self { least: middle.minus(LEAST), most: middle.plus(LEAST) })
    }

    fn with(self, o: Self) -> Self {
        let least = Point::new(self.least.x.min(o.least.x), self.least.y.min(o.least.y));
        Self { least, most: Point::new(self.most.x.max(o.most.x), self.most.y.max(o.most.y)) }
    }

    fn corners(self) -> [Point; 4] {
        let (a, b) = (self.least, self.most);
        [a, Point::new(b.x, a.y), b, Point::new(a.x, b.y)].map(project)
    }

    /// Of the board, across: from the front left to the back right.
    fn span(self) -> (f64, f64) {
        let [_, right, _, left] = self.corners();
        (left.x, right.x)
    }
}

fn project(p: Point) -> Point {
    Point::new(p.x * ACROSS - p.y * DEEP * LEAN, p.y * DEEP)
}

impl Sheet {
    pub(super) fn of(graph: &Graph) -> Self {
        let rows = rows(graph);
        let mut extents: Vec<Extent> = graph.planes.iter().map(Extent::of).collect();
        for row in &rows {
            if let [plane] = row[..]
                && let Some(below) = below(graph, plane).first()
            {
                extents[plane] = extents[plane].with(extents[*below]);
            }
        }
        let across = across(graph, &rows, &extents);
        let (mut origins, mut y) = (vec![Point::default(); extents.len()], MARGIN);
        for row in rows.iter().rev() {
            let [up, down] = [true, false].map(|up| {
                let reach = |p: &usize| if up { -extents[*p].least.y } else { extents[*p].most.y };
                row.iter().map(reach).fold(0.0, f64::max) * DEEP
            });
            row.iter().for_each(|p| origins[*p] = Point::new(across[*p], y + up));
            y += up + down + ABOVE;
        }
        let ends: Vec<(f64, f64)> =
            extents.iter().zip(&across).map(|(e, x)| (e.span().0 + x, e.span().1 + x)).collect();
        let left = ends.iter().map(|e| e.0).fold(f64::INFINITY, f64::min);
        let right = ends.iter().map(|e| e.1).fold(f64::NEG_INFINITY, f64::max);
        let shift = Point::new(MARGIN - left, 0.0);
        let board = |(plane, origin): (&Plane, &Point)| {
            let onto = |p: Point| project(p).plus(*origin).plus(shift);
            plane.nodes.iter().map(|n| onto(n.lies)).collect()
        };
        let boards = graph.planes.iter().zip(&origins).zip(&extents).map(|((plane, origin), extent)| Board {
            corners: extent.corners().map(|c| c.plus(*origin).plus(shift)),
            nodes: board((plane, origin)),
        });
        Self {
            boards: boards.collect(),
            rows,
            width: right - left + 2.0 * MARGIN,
            height: y - ABOVE + MARGIN,
        }
    }

    pub(super) fn spot(&self, at: Place) -> Point {
        self.boards[at.plane].nodes[at.node]
    }
}

/// Planes by what they stand on, from the bottom.
fn rows(graph: &Graph) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    let deepest = graph.planes.iter().map(|p| p.depth).max().unwrap_or(0);
    for depth in 0..=deepest {
        let same: Vec<usize> = (0..graph.planes.len()).filter(|p| graph.planes[*p].depth == depth).collect();
        let count = same.len().div_ceil(ABREAST).max(1);
        rows.extend(same.chunks(same.len().div_ceil(count).max(1)).map(<[usize]>::to_vec));
    }
    rows
}

/// The planes that a plane rides on.
fn below(graph: &Graph, plane: usize) -> Vec<usize> {
    let names = &graph.planes[plane].over;
    names.iter().filter_map(|name| graph.planes.iter().position(|p| p.name == *name)).collect()
}

/// Where the origin of each plane is, from left to right: above what it rides on, and beside others.
fn across(graph: &Graph, rows: &[Vec<usize>], extents: &[Extent]) -> Vec<f64> {
    let mut across = vec![0.0; extents.len()];
    for row in rows {
        if let [plane] = row[..] {
            let below = below(graph, plane);
            across[plane] = below.iter().map(|p| across[*p]).sum::<f64>() / below.len().max(1) as f64;
            continue;
        }
        let middle = |p: usize, across: &[f64]| {
            let (left, right) = extents[p].span();
            across[p] + (left + right) / 2.0
        };
        let wish = |p: usize| {
            let below = below(graph, p);
            below.iter().map(|b| middle(*b, &across)).sum::<f64>() / below.len().max(1) as f64
        };
        let mut order: Vec<(f64, usize)> = row.iter().map(|p| (wish(*p), *p)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let wide = |p: usize| extents[p].span().1 - extents[p].span().0;
        let total = order.iter().map(|(_, p)| wide(*p) + BESIDE).sum::<f64>() - BESIDE;
        let mean = order.iter().map(|(wish, _)| wish).sum::<f64>() / order.len().max(1) as f64;
        let mut left = mean - total / 2.0;
        for (_, plane) in order {
            across[plane] = left - extents[plane].span().0;
            left += wide(plane) + BESIDE;
        }
    }
    across
}
