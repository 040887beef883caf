//! Which figures go into which picture.

use crate::report::{Figure, Report};

use super::chart::{Chart, Point};

/// A picture, and the figures in it.
pub(super) struct Picture {
    pub(super) file: &'static str,
    title: &'static str,
    measures: &'static [&'static str],
    kind: Kind,
}

/// How figures become a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bars by case, of the load that is nearest to 100.
    Cases,
    /// Bars by load, of the first case.
    Loads,
    /// Curves over the load, of the first case.
    Growth,
    /// One bar for each case, or for each implementation where there is one case.
    Single,
}

pub(super) const PICTURES: &[Picture] = &[
    Picture { file: "add.svg", title: "ADD beside 100 pods", measures: &["ADD"], kind: Kind::Cases },
    Picture { file: "del.svg", title: "DEL beside 100 pods", measures: &["DEL"], kind: Kind::Cases },
    Picture {
        file: "add-growth.svg",
        title: "ADD, by how many pods are there",
        measures: &["ADD"],
        kind: Kind::Growth,
    },
    Picture {
        file: "rates.svg",
        title: "ADDs per second, by how many run at once",
        measures: &["ADD rate"],
        kind: Kind::Loads,
    },
    Picture { file: "steps.svg", title: "Where our ADD spends its time", measures: &["steps"], kind: Kind::Single },
];

impl Picture {
    /// The picture as SVG, if the report has figures for it.
    pub(super) fn draw(&self, report: &Report) -> Option<String> {
        let all: Vec<&Figure> =
            report.figures.iter().filter(|figure| self.measures.contains(&figure.measure.as_str())).collect();
        let first = all.first()?;
        let near = all.iter().map(|figure| figure.load).min_by_key(|load| load.abs_diff(100))?;
        let has_part = |figure: &&&Figure| match self.kind {
            Kind::Cases => figure.load == near,
            Kind::Loads | Kind::Growth => figure.case == first.case,
            Kind::Single => true,
        };
        let points = all.iter().filter(has_part).map(|figure| self.point(figure)).collect();
        let (mut title, mut unit) = (self.title.to_owned(), first.unit.clone());
        if self.kind == Kind::Cases {
            title = title.replace("100", &near.to_string());
            unit += ", median and 99th percentile";
        } else {
            unit += ", median";
        }
        let chart = Chart { title, unit, points };
        Some(if self.kind == Kind::Growth { chart.curves() } else { chart.bars() })
    }

    fn point(&self, figure: &Figure) -> Point {
        let (group, series) = match self.kind {
            Kind::Cases => (figure.case.clone(), figure.implementation.clone()),
            Kind::Loads | Kind::Growth => (figure.load.to_string(), figure.implementation.clone()),
            Kind::Single => (figure.case.clone(), figure.measure.clone()),
        };
        let mark = (self.kind == Kind::Cases).then_some(figure.summary.p99);
        Point { group, series, value: figure.summary.p50, mark }
    }
}
