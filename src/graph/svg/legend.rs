//! What the signs of a picture mean. The signs that were drawn go in; a row of each with its words comes out. It names no sign
//! that is not there.

use super::shapes::{self, Glyph, number};
use super::{CAPTION_SIZE, LEAST_WIDTH, Picture};
use crate::graph::Point;
use crate::graph::canvas::MARGIN;

impl Picture<'_> {
    /// What the signs mean; where it ends.
    pub(super) fn legend(&mut self, top: f64) -> f64 {
        let mut entries: Vec<(String, &str)> = Vec::new();
        let at = |x: f64, y: f64| Point::new(x, y);
        let glyphs: Vec<Glyph> = self.glyphs.iter().copied().collect();
        let tone = self.tone(0);
        entries.extend(
            glyphs
                .iter()
                .map(|g| (g.drawn(at(0.0, 0.0), if g.is_part() { self.mapped() } else { tone }), g.words())),
        );
        let line = |style: &str| format!("<path d=\"M-13 0 13 0\" stroke=\"{}\" {style}/>", tone.hex());
        if self.graph.planes.len() > 1 {
            entries.push((line("class=\"f\""), "placed on"));
        }
        if self.graph.planes.iter().flat_map(|p| &p.nodes).any(|n| !n.ports.is_empty()) {
            entries.push((
                line("class=\"l\" stroke-width=\"2.6\" stroke-dasharray=\"0.1 5.5\""),
                "is a port of",
            ));
        }
        if self.graph.planes.iter().flat_map(|p| &p.links).any(|l| l.security.is_some()) {
            let twice = line("class=\"l\" stroke-width=\"5\"")
                + &format!("<path d=\"M-13 0 13 0\" stroke=\"{}\" stroke-width=\"1.6\"/>", tone.paper());
            entries.push((twice, "link under ESP"));
        }
        if self.graph.planes.iter().flat_map(|p| &p.links).any(|l| l.carries) {
            let glow = format!(
                "<path d=\"M-13 0 13 0\" stroke=\"{}\" stroke-width=\"9\"/>",
                self.mapped().mixed(0.6)
            );
            entries.push((glow + &line("class=\"l\" stroke-width=\"2\""), "carries its tunnels"));
        }
        if !self.graph.gateways.is_empty() {
            entries.push((
                format!("<path d=\"M-13 0 13 0\" stroke=\"{}\" stroke-width=\"2.4\"/>", self.ink()),
                "gateway",
            ));
        }
        let (mut x, mut y) = (MARGIN + 14.0, top + 12.0);
        let width = self.sheet.width.max(LEAST_WIDTH);
        for (shape, words) in entries {
            let wide = 22.0 + shapes::text_width(words, CAPTION_SIZE) + 26.0;
            if x + wide - 20.0 > width && x > MARGIN + 20.0 {
                (x, y) = (MARGIN + 14.0, y + 26.0);
            }
            let (gx, gy, tx, ty) = (number(x), number(y), number(x + 21.0), number(y + 4.5));
            self.put(format_args!(
                "<g transform=\"translate({gx} {gy})\">{shape}</g><text class=\"c\" x=\"{tx}\" y=\"{ty}\">{words}</text>"
            ));
            x += wide;
        }
        y + 18.0
    }
}
