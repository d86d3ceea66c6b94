//! Where names stand. Nodes, lines and areas to keep clear of, and the names wanted, go in; text elements come out, each
//! beside its node on the side where it covers least.

use super::shapes::{distance, escape, number, text_width};
use super::{NAME_SIZE, styled};
use crate::graph::Point;

/// A name for something at a point.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Label {
    pub(super) text: String,
    pub(super) at: Point,
    pub(super) radius: f64,
    /// Rather below than above.
    pub(super) below: bool,
    /// In this colour and bold.
    pub(super) bold: Option<String>,
    /// Attributes in place of the class, for a page.
    pub(super) mark: String,
}

/// What a picture has so far.
#[derive(Debug, Default)]
pub(super) struct Labels {
    nodes: Vec<(Point, f64)>,
    lines: Vec<(Point, Point)>,
    areas: Vec<Area>,
    wanted: Vec<Label>,
    pub(super) page: bool,
}

#[derive(Debug, Clone, Copy)]
struct Area {
    least: Point,
    most: Point,
}

impl Area {
    fn meets(&self, o: &Self) -> bool {
        let apart = |a: f64, b: f64, c: f64, d: f64| b <= c || d <= a;
        !(apart(self.least.x, self.most.x, o.least.x, o.most.x)
            || apart(self.least.y, self.most.y, o.least.y, o.most.y))
    }

    /// The same with room on its left and right.
    fn spaced(&self) -> Self {
        let aside = |p: Point, by: f64| Point { x: p.x + by, ..p };
        Self { least: aside(self.least, -GAP), most: aside(self.most, GAP) }
    }

    fn corners(&self) -> [Point; 4] {
        let (a, b) = (self.least, self.most);
        [a, Point { x: b.x, y: a.y }, b, Point { x: a.x, y: b.y }]
    }

    /// Whether a line crosses it: both ends beyond one side do not, nor do corners all on one side of the line.
    fn is_crossed(&self, (a, b): (Point, Point)) -> bool {
        let line = Self {
            least: Point { x: a.x.min(b.x), y: a.y.min(b.y) },
            most: Point { x: a.x.max(b.x) + 0.01, y: a.y.max(b.y) + 0.01 },
        };
        let side = |p: Point| (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x);
        let sides = self.corners().map(side);
        self.meets(&line) && !(sides.iter().all(|s| *s > 0.0) || sides.iter().all(|s| *s < 0.0))
    }
}

/// Costs of covering things, and of names that stand so near that they read as one.
const NODE: f64 = 60.0;
const NAME: f64 = 80.0;
const NEAR: f64 = 40.0;
const LINE: f64 = 9.0;
const EDGE: f64 = 200.0;
/// Between two names on one line.
const GAP: f64 = 6.0;

impl Labels {
    pub(super) fn node(&mut self, at: Point, radius: f64) {
        self.nodes.push((at, radius));
    }

    pub(super) fn line(&mut self, a: Point, b: Point) {
        self.lines.push((a, b));
    }

    pub(super) fn area(&mut self, least: Point, most: Point) {
        self.areas.push(Area { least, most });
    }

    pub(super) fn want(&mut self, label: Label) {
        self.wanted.push(label);
    }

    /// The text elements, in a picture of this width.
    pub(super) fn placed(mut self, width: f64) -> Vec<String> {
        let wanted = std::mem::take(&mut self.wanted);
        wanted.iter().map(|label| self.place(label, width)).collect()
    }

    fn place(&mut self, label: &Label, width: f64) -> String {
        let (wide, high) = (text_width(&label.text, NAME_SIZE), NAME_SIZE);
        let away = label.radius + 3.0;
        let (side, slant) = (away + wide / 2.0 + 1.0, away * 0.75 + wide / 2.0);
        let (up, down) = (-away - high / 2.0, away + high / 2.0);
        // The order is that of preference.
        let mut places = [
            (0.0, up),
            (side, 0.0),
            (-side, 0.0),
            (slant, -away * 0.7 - high / 2.0),
            (-slant, -away * 0.7 - high / 2.0),
            (slant, away * 0.7 + high / 2.0),
            (-slant, away * 0.7 + high / 2.0),
            (0.0, down),
        ];
        if label.below {
            places.iter_mut().for_each(|p| p.1 = -p.1);
        }
        let area = |(x, y): (f64, f64)| {
            let middle = Point { x: label.at.x + x, y: label.at.y + y };
            Area {
                least: Point { x: middle.x - wide / 2.0, y: middle.y - high / 2.0 },
                most: Point { x: middle.x + wide / 2.0, y: middle.y + high / 2.0 },
            }
        };
        let cost = |(rank, place): (usize, &(f64, f64))| self.cost(label, &area(*place), width) + rank as f64;
        let costs: Vec<f64> = places.iter().enumerate().map(cost).collect();
        let best = (0..places.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).unwrap_or(0);
        let area = area(places[best]);
        self.areas.push(area);
        let (x, y) = (number((area.least.x + area.most.x) / 2.0), number(area.most.y - high * 0.16));
        let bold = label.bold.as_ref().map(|c| styled(self.page, &[("font-weight", "bold"), ("fill", c)]));
        let bold = bold.unwrap_or_default();
        let class = if label.mark.is_empty() { " class=\"n\"" } else { &label.mark };
        format!(
            "<text{class}{bold} text-anchor=\"middle\" x=\"{x}\" y=\"{y}\">{}</text>\n",
            escape(&label.text)
        )
    }

    /// What a name would cover there.
    fn cost(&self, label: &Label, area: &Area, width: f64) -> f64 {
        let corners = area.corners();
        let nodes = self.nodes.iter().filter(|(at, r)| *at != label.at && distance(&corners, *at) < *r + 1.0);
        let names = self.areas.iter().filter(|other| area.meets(other));
        let spaced = area.spaced();
        let near = self.areas.iter().filter(|other| spaced.meets(other) && !area.meets(other));
        let lines = self.lines.iter().filter(|line| area.is_crossed(**line));
        let outside = area.least.x < 2.0 || area.most.x > width - 2.0 || area.least.y < 2.0;
        NODE * nodes.count() as f64
            + NAME * names.count() as f64
            + NEAR * near.count() as f64
            + LINE * lines.count() as f64
            + if outside { EDGE } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str, x: f64) -> Label {
        Label {
            text: text.to_owned(),
            at: Point { x, y: 100.0 },
            radius: 9.0,
            below: false,
            bold: None,
            mark: String::new(),
        }
    }

    fn y(text: &str) -> f64 {
        text.split("y=\"").nth(1).and_then(|t| t.split('"').next()).unwrap().parse().unwrap()
    }

    #[test]
    fn a_name_stands_above_unless_something_is_there() {
        let mut labels = Labels::default();
        labels.want(label("free", 100.0));
        labels.want(label("shut", 300.0));
        labels.area(Point { x: 250.0, y: 20.0 }, Point { x: 350.0, y: 110.0 });
        let placed = labels.placed(500.0);
        assert!(y(&placed[0]) < 92.0, "{placed:?}");
        assert!(y(&placed[1]) > 108.0, "{placed:?}");
    }

    /// `y` and `L` side by side read `yL`.
    #[test]
    fn a_name_keeps_away_from_the_next() {
        let mut labels = Labels::default();
        labels.want(label("y", 100.0));
        labels.want(label("L", 110.0));
        let placed = labels.placed(500.0);
        let ys: Vec<f64> = placed.iter().map(|text| y(text)).collect();
        assert!((ys[0] - ys[1]).abs() > 1.0, "{placed:?}");
    }

    #[test]
    fn a_line_is_crossed_only_where_it_is() {
        let area = Area { least: Point { x: 0.0, y: 0.0 }, most: Point { x: 10.0, y: 10.0 } };
        let line = |a: (f64, f64), b: (f64, f64)| (Point { x: a.0, y: a.1 }, Point { x: b.0, y: b.1 });
        assert!(area.is_crossed(line((-5.0, 5.0), (15.0, 6.0))));
        assert!(area.is_crossed(line((5.0, -5.0), (5.0, 15.0))));
        assert!(!area.is_crossed(line((-5.0, 8.0), (8.0, 30.0))));
        assert!(!area.is_crossed(line((20.0, 0.0), (20.0, 10.0))));
    }
}
