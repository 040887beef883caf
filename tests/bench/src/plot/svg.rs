//! The part of [SVG](https://www.w3.org/TR/SVG11/) that charts need.

use std::fmt::Write as _;

/// Colors that are distinct on a light and on a dark background, also with most color vision
/// deficiencies.
const COLORS: [&str; 8] = ["#3b8eea", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#7f8c8d", "#56b4e9", "#b8a200"];

/// Elements without their own color follow the reader's choice of a light or a dark background.
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.faint { fill: #59636e }
line { stroke: #59636e; stroke-opacity: .35 }
.mark { stroke: #1f2328; stroke-opacity: .8 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .faint { fill: #9198a1 }
  line { stroke: #9198a1 }
  .mark { stroke: #f0f6fc }
}";

/// A picture under construction.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    body: String,
}

/// The position of a text relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64) -> Self {
        Self { width, body: String::new() }
    }

    /// A text with its middle line at `y`; `class` is one of [`STYLE`] or empty.
    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let (y, text) = (y + 4.5, escaped(text));
        self.put(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{class}>{text}</text>"#));
    }

    pub(super) fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, color: usize) {
        let color = COLORS[color % COLORS.len()];
        self.put(&format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="1.5" fill="{color}"/>"#
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(&format!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#));
    }

    /// A line through points, with a dot at each.
    pub(super) fn curve(&mut self, points: &[(f64, f64)], color: usize) {
        let color = COLORS[color % COLORS.len()];
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let list = list.join(" ");
        self.put(&format!(r#"<polyline points="{list}" fill="none" stroke="{color}" stroke-width="2"/>"#));
        for (x, y) in points {
            self.put(&format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{color}"/>"#));
        }
    }

    /// The complete document.
    pub(super) fn finish(self, height: f64, title: &str) -> String {
        let (width, body, title) = (self.width, self.body, escaped(title));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             role=\"img\">\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n{body}</svg>\n"
        )
    }

    fn put(&mut self, element: &str) {
        writeln!(self.body, "{element}").expect("writing to a string cannot fail");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Anchor, Svg};

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(100.0);
        svg.text(0.0, 0.0, Anchor::Start, "", "a < b & c");
        let svg = svg.finish(50.0, "<title>");
        assert!(svg.contains(">a &lt; b &amp; c</text>") && svg.contains("<title>&lt;title&gt;</title>"), "{svg}");
    }
}
