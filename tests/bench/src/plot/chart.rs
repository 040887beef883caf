//! Charts of two kinds: grouped horizontal bars, and curves.

use crate::tables::{distinct, number};

use super::svg::{Anchor, Svg};

const WIDTH: f64 = 820.0;
/// The space left of the bars for their names, and right of them for their numbers.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
/// The height of a chart of curves.
const CURVES: f64 = 300.0;

/// The data of a chart.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) points: Vec<Point>,
}

/// One bar, or one point of a curve.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// The group of bars; for a curve, the number on the x axis.
    pub(super) group: String,
    pub(super) series: String,
    pub(super) value: f64,
    /// The end of a thin line from the bar's end, such as the 99th percentile.
    pub(super) mark: Option<f64>,
}

impl Chart {
    /// A bar for each point, with the groups one below the other.
    pub(super) fn bars(&self) -> String {
        let mut svg = Svg::new(WIDTH);
        let series = self.series();
        let scale = (WIDTH - LEFT - RIGHT) / (self.longest() * 1.15);
        let mut y = self.head(&mut svg, &series);
        for group in distinct(self.points.iter().map(|point| &point.group)) {
            let points = self.points.iter().filter(|point| point.group == *group);
            let top = y;
            for point in points {
                let length = (point.value * scale).min(WIDTH - LEFT - RIGHT);
                let color = series.iter().position(|name| *name == point.series).unwrap_or_default();
                svg.bar(LEFT, y, length.max(1.0), BAR - 3.0, color);
                let (middle, mut end) = (y + BAR / 2.0 - 1.5, LEFT + length);
                if let Some(mark) = point.mark {
                    let to = (LEFT + mark * scale).min(WIDTH - RIGHT);
                    svg.line((end, middle), (to, middle), "mark");
                    end = end.max(to);
                }
                svg.text(end + 6.0, middle, Anchor::Start, "", &number(point.value));
                y += BAR;
            }
            svg.text(LEFT - 10.0, (top + y) / 2.0 - 1.5, Anchor::End, "", group);
            y += GAP;
        }
        svg.finish(y, &self.title)
    }

    /// A curve for each series; groups are numbers.
    pub(super) fn curves(&self) -> String {
        let mut svg = Svg::new(WIDTH);
        let series = self.series();
        let top = self.head(&mut svg, &series) + 10.0;
        let bottom = top + CURVES;
        let number_of = |point: &Point| point.group.parse::<f64>().expect("the group of a curve is a number");
        let widest = self.points.iter().map(number_of).fold(1.0, f64::max);
        let highest = self.points.iter().map(|point| point.value).fold(f64::MIN_POSITIVE, f64::max);
        let left = 60.0;
        let across = |value: f64| left + value / widest * (WIDTH - left - RIGHT);
        let down = |value: f64| bottom - value / highest * CURVES;
        for part in 0..=4 {
            let value = highest * f64::from(part) / 4.0;
            svg.line((left, down(value)), (WIDTH - RIGHT, down(value)), "");
            svg.text(left - 8.0, down(value), Anchor::End, "faint", &number(value));
        }
        for group in distinct(self.points.iter().map(|point| &point.group)) {
            let place = across(group.parse().expect("a number"));
            svg.text(place, bottom + 16.0, Anchor::Middle, "faint", group);
        }
        for (color, name) in series.iter().enumerate() {
            let points = self.points.iter().filter(|point| point.series == *name);
            let points: Vec<_> = points.map(|point| (across(number_of(point)), down(point.value))).collect();
            svg.curve(&points, color);
        }
        svg.finish(bottom + 30.0, &self.title)
    }

    /// The value of the longest bar. Much longer bars are cut, because the others would be too
    /// small to see.
    fn longest(&self) -> f64 {
        let mut values: Vec<f64> = self.points.iter().map(|point| point.value).collect();
        values.sort_by(f64::total_cmp);
        let far = 10.0 * values.get(values.len() / 2).copied().unwrap_or_default();
        values.into_iter().rfind(|value| *value <= far).unwrap_or(1.0)
    }

    /// Names of series, in the order of their colors.
    fn series(&self) -> Vec<&str> {
        distinct(self.points.iter().map(|point| point.series.as_str()))
    }

    /// Draws title, unit and legend. Returns the top of the remaining area.
    fn head(&self, svg: &mut Svg, series: &[&str]) -> f64 {
        svg.text(10.0, 18.0, Anchor::Start, "title", &self.title);
        svg.text(WIDTH - 10.0, 18.0, Anchor::End, "faint", &self.unit);
        if series.len() < 2 {
            return 40.0;
        }
        let mut x = 10.0;
        for (color, name) in series.iter().enumerate() {
            svg.bar(x, 36.0, 12.0, 12.0, color);
            svg.text(x + 18.0, 42.0, Anchor::Start, "", name);
            // Approximately the width of the text.
            x += 40.0 + 7.0 * name.len() as f64;
        }
        66.0
    }
}
