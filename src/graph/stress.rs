//! Where the nodes of one network lie on its plane. Links, and places that some nodes should be near to, go in; points
//! come out. It never draws chance and calls no trigonometry, so that equal graphs lie alike on every machine.
//!
//! Stress majorization (Gansner, Koren and North, Graph Drawing 2004): each pair of nodes wants to be as far apart as it
//! has hops between it. It starts from classical scaling, which is near the best layout already.

use std::collections::VecDeque;

use serde::Serialize;

/// A point of a plane; one unit is the length of a link that nothing bends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Point {
    pub x: f64,
    /// Grows towards the reader.
    pub y: f64,
}

impl Point {
    pub(super) fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }

    pub(super) fn plus(self, o: Self) -> Self {
        Self::new(self.x + o.x, self.y + o.y)
    }

    pub(super) fn minus(self, o: Self) -> Self {
        Self::new(self.x - o.x, self.y - o.y)
    }

    pub(super) fn times(self, k: f64) -> Self {
        Self::new(self.x * k, self.y * k)
    }

    pub(super) fn length(self) -> f64 {
        (self.x * self.x + self.y * self.y).sqrt()
    }
}

/// What holds a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Hold {
    Free,
    /// It is drawn to a point, the more so the greater the weight.
    Near(Point, f64),
    At(Point),
}

/// Links as pairs of indices.
pub(super) type Edges = [(usize, usize)];

const ROUNDS: usize = 400;
/// No two nodes are nearer.
pub(super) const APART: f64 = 0.72;

/// A layout that only the links decide, turned so that it is wider than high.
pub(super) fn alone(count: usize, edges: &Edges) -> Vec<Point> {
    let wanted = hops(count, edges);
    let mut points = scaled(&wanted);
    majorize(&mut points, &wanted, &vec![Hold::Free; count]);
    separate(&mut points, &vec![Hold::Free; count]);
    turn(&mut points, edges);
    points
}

/// A layout whose nodes are held. `start` is where they begin, `length` what a link measures.
pub(super) fn held(start: Vec<Point>, edges: &Edges, holds: &[Hold], length: f64) -> Vec<Point> {
    let mut wanted = hops(start.len(), edges);
    wanted.iter_mut().flatten().for_each(|d| *d *= length);
    let mut points: Vec<Point> = start.into_iter().enumerate().map(|(i, p)| p.plus(nudge(i))).collect();
    for (point, hold) in points.iter_mut().zip(holds) {
        if let Hold::At(at) = hold {
            *point = *at;
        }
    }
    majorize(&mut points, &wanted, holds);
    separate(&mut points, holds);
    points
}

/// Hops between each pair; parts that no link joins are as far apart as they are large.
fn hops(count: usize, edges: &Edges) -> Vec<Vec<f64>> {
    let mut near = vec![Vec::new(); count];
    for (a, b) in edges {
        near[*a].push(*b);
        near[*b].push(*a);
    }
    let row = |from: usize| {
        let mut row = vec![f64::INFINITY; count];
        row[from] = 0.0;
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for next in &near[at] {
                if row[*next].is_infinite() {
                    row[*next] = row[at] + 1.0;
                    queue.push_back(*next);
                }
            }
        }
        row
    };
    let mut rows: Vec<Vec<f64>> = (0..count).map(row).collect();
    let far = rows.iter().flatten().filter(|d| d.is_finite()).fold(1.0, |a: f64, b| a.max(*b));
    rows.iter_mut().flatten().filter(|d| d.is_infinite()).for_each(|d| *d = far / 2.0 + 1.0);
    rows
}

/// Classical scaling: the two greatest principal axes of the doubly centred squared distances, by power iteration.
fn scaled(wanted: &[Vec<f64>]) -> Vec<Point> {
    let n = wanted.len();
    if n < 2 {
        return vec![Point::default(); n];
    }
    let size = n as f64;
    let squared = |i: usize, j: usize| wanted[i][j] * wanted[i][j];
    let means: Vec<f64> = (0..n).map(|i| (0..n).map(|j| squared(i, j)).sum::<f64>() / size).collect();
    let mean = means.iter().sum::<f64>() / size;
    let mut centred: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| -0.5 * (squared(i, j) - means[i] - means[j] + mean)).collect())
        .collect();
    let [x, y] = [0, 1].map(|axis| {
        let (value, vector) = principal(&centred, axis);
        for (row, a) in centred.iter_mut().zip(&vector) {
            row.iter_mut().zip(&vector).for_each(|(cell, b)| *cell -= value * a * b);
        }
        vector.into_iter().map(|v| v * value.max(0.0).sqrt()).collect::<Vec<f64>>()
    });
    x.into_iter().zip(y).enumerate().map(|(i, (x, y))| Point::new(x, y).plus(nudge(i))).collect()
}

/// The greatest eigenvalue of a symmetric matrix and its vector.
fn principal(matrix: &[Vec<f64>], axis: usize) -> (f64, Vec<f64>) {
    let mut vector: Vec<f64> = (0..matrix.len()).map(|i| nudge(2 * i + axis).x * 100.0 + 0.1).collect();
    let mut value = 0.0;
    for _ in 0..ROUNDS {
        let next: Vec<f64> =
            matrix.iter().map(|row| row.iter().zip(&vector).map(|(a, b)| a * b).sum()).collect();
        value = next.iter().map(|v| v * v).sum::<f64>().sqrt();
        if value < 1e-9 {
            return (0.0, vec![0.0; matrix.len()]);
        }
        vector = next.into_iter().map(|v| v / value).collect();
    }
    (value, vector)
}

/// A small shift, another for each node, so that nodes which are alike do not lie on one another.
fn nudge(index: usize) -> Point {
    let mut state = index as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let high = u32::try_from(state >> 40).unwrap_or(0);
        (f64::from(high) / f64::from(1 << 24) - 0.5) * 0.02
    };
    next();
    Point::new(next(), next())
}

/// Moves each node in turn to where its stress is least.
fn majorize(points: &mut [Point], wanted: &[Vec<f64>], holds: &[Hold]) {
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for i in 0..points.len() {
            let (mut sum, mut weights) = match holds[i] {
                Hold::At(_) => continue,
                Hold::Near(at, weight) => (at.times(weight), weight),
                Hold::Free => (Point::default(), 0.0),
            };
            for j in (0..points.len()).filter(|j| *j != i) {
                let apart = points[i].minus(points[j]);
                let pull = wanted[i][j] / apart.length().max(1e-6);
                let weight = 1.0 / (wanted[i][j] * wanted[i][j]);
                sum = sum.plus(points[j].plus(apart.times(pull)).times(weight));
                weights += weight;
            }
            if weights > 0.0 {
                let next = sum.times(1.0 / weights);
                moved = moved.max(next.minus(points[i]).length());
                points[i] = next;
            }
        }
        if moved < 1e-4 {
            break;
        }
    }
}

/// Pushes nodes apart that are too near; those held at a point stay.
fn separate(points: &mut [Point], holds: &[Hold]) {
    let pinned = |i: usize| matches!(holds[i], Hold::At(_));
    for _ in 0..ROUNDS {
        let mut moved = false;
        for i in 0..points.len() {
            for j in i + 1..points.len() {
                let apart = points[j].minus(points[i]);
                let missing = APART - apart.length();
                if missing < 1e-3 || (pinned(i) && pinned(j)) {
                    continue;
                }
                let way = if apart.length() < 1e-6 { nudge(j).minus(nudge(i)) } else { apart };
                let push = way.times(missing / way.length().max(1e-9));
                let (a, b) = match (pinned(i), pinned(j)) {
                    (true, _) => (0.0, 1.0),
                    (_, true) => (1.0, 0.0),
                    _ => (0.5, 0.5),
                };
                points[i] = points[i].minus(push.times(a));
                points[j] = points[j].plus(push.times(b));
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
}

/// Turns a layout so that its longer axis runs from left to right, its first node on the left; where it has none, so
/// that its first link does.
fn turn(points: &mut [Point], edges: &Edges) {
    centre(points);
    let sum = |f: &dyn Fn(&Point) -> f64| points.iter().map(f).sum::<f64>();
    let (xx, yy, xy) = (sum(&|p| p.x * p.x), sum(&|p| p.y * p.y), sum(&|p| p.x * p.y));
    let spread = ((xx - yy) * (xx - yy) / 4.0 + xy * xy).sqrt();
    let axis = if spread < 0.1 * (xx + yy) {
        edges.first().map_or(Point::new(1.0, 0.0), |(a, b)| points[*b].minus(points[*a]))
    } else {
        let (a, b) = (Point::new((xx - yy) / 2.0 + spread, xy), Point::new(xy, spread - (xx - yy) / 2.0));
        if a.length() > b.length() { a } else { b }
    };
    let axis = axis.times(1.0 / axis.length().max(1e-9));
    for p in points.iter_mut() {
        *p = Point::new(p.x * axis.x + p.y * axis.y, p.y * axis.x - p.x * axis.y);
    }
    let left: f64 = points.iter().take(points.len().div_ceil(2)).map(|p| p.x).sum();
    let back: f64 = points.iter().take(points.len().div_ceil(2)).map(|p| p.y).sum();
    let (x, y) = (if left > 1e-6 { -1.0 } else { 1.0 }, if back > 1e-6 { -1.0 } else { 1.0 });
    points.iter_mut().for_each(|p| *p = Point::new(p.x * x, p.y * y));
}

/// Puts the middle of the points at the origin.
fn centre(points: &mut [Point]) {
    let count = points.len().max(1) as f64;
    let middle = points.iter().fold(Point::default(), |a, b| a.plus(*b)).times(1.0 / count);
    points.iter_mut().for_each(|p| *p = p.minus(middle));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: usize) -> Vec<(usize, usize)> {
        (1..count).map(|i| (i - 1, i)).collect()
    }

    #[test]
    fn a_chain_is_a_line_from_left_to_right() {
        let points = alone(6, &chain(6));
        for pair in points.windows(2) {
            let apart = pair[1].minus(pair[0]);
            assert!((apart.x - 1.0).abs() < 0.05 && apart.y.abs() < 0.05, "{points:?}");
        }
    }

    #[test]
    fn a_ring_is_round_and_no_two_nodes_of_a_star_meet() {
        let mut ring = chain(8);
        ring.push((7, 0));
        let radii: Vec<f64> = alone(8, &ring).iter().map(|p| p.length()).collect();
        assert!(radii.iter().all(|r| (r - radii[0]).abs() < 0.05), "{radii:?}");
        let star: Vec<(usize, usize)> = (1..20).map(|i| (0, i)).collect();
        let points = alone(20, &star);
        for i in 0..20 {
            for j in i + 1..20 {
                assert!(points[i].minus(points[j]).length() > APART - 0.01, "{i} and {j}: {points:?}");
            }
        }
    }

    #[test]
    fn what_is_held_stays_and_what_is_drawn_is_near() {
        let [a, b] = [Point::new(0.0, 0.0), Point::new(5.0, 1.0)];
        let holds = [Hold::At(a), Hold::At(b), Hold::Near(b, 50.0), Hold::Free];
        let points = held(vec![a, b, b, a], &[(0, 1), (1, 2), (2, 3)], &holds, 1.0);
        assert_eq!((points[0], points[1]), (a, b));
        assert!(points[2].minus(b).length() < 1.0, "{points:?}");
        assert!(points.iter().all(|p| p.x.is_finite() && p.y.is_finite()));
    }

    #[test]
    fn parts_that_no_link_joins_and_single_nodes_have_a_place() {
        for (count, edges) in [(0, vec![]), (1, vec![]), (2, vec![]), (5, vec![(0, 1), (3, 4)])] {
            let points = alone(count, &edges);
            assert_eq!(points.len(), count);
            assert!(points.iter().all(|p| p.x.is_finite() && p.y.is_finite()), "{points:?}");
        }
    }
}
