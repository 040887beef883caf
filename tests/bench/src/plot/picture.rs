//! The figures of each picture.

use crate::report::{Figure, ONE_NODE, OTHER_NODE, Report};

use super::chart::{Chart, Point};

/// A picture and its figures.
pub(super) struct Picture {
    pub(super) file: &'static str,
    title: &'static str,
    measures: &'static [&'static str],
    kind: Kind,
}

/// How figures become a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bars by case, for the load nearest to 100.
    Cases,
    /// Bars by load, for the first case.
    Loads,
    /// Curves over the load, for the first case.
    Growth,
    /// One bar for each case.
    Steps,
    /// One bar for each path between pods of one node, for the lowest number of pods.
    Paths,
    /// One bar for each path to a pod of another node.
    OtherNode,
}

pub(super) const PICTURES: &[Picture] = &[
    Picture { file: "add.svg", title: "ADD with 100 pods", measures: &["ADD"], kind: Kind::Cases },
    Picture { file: "del.svg", title: "DEL with 100 pods", measures: &["DEL"], kind: Kind::Cases },
    Picture { file: "add-growth.svg", title: "ADD by the number of pods", measures: &["ADD"], kind: Kind::Growth },
    Picture {
        file: "rates.svg",
        title: "ADDs per second by the number of parallel calls",
        measures: &["ADD rate"],
        kind: Kind::Loads,
    },
    Picture { file: "steps.svg", title: "Steps of an ADD of simple-ebpf-cni", measures: &["steps"], kind: Kind::Steps },
    Picture {
        file: "round-trip.svg",
        title: "TCP round trip of one byte",
        measures: &["TCP_RR p50", "TCP_RR p99"],
        kind: Kind::Paths,
    },
    Picture { file: "stream.svg", title: "One TCP stream", measures: &["TCP_STREAM"], kind: Kind::Paths },
    Picture {
        file: "stream-cpu.svg",
        title: "CPU time for a TCP stream",
        measures: &["TCP_STREAM, CPU"],
        kind: Kind::Paths,
    },
    Picture { file: "datagrams.svg", title: "UDP datagrams of 64 bytes", measures: &["UDP"], kind: Kind::Paths },
    Picture { file: "connections.svg", title: "TCP connections", measures: &["connections"], kind: Kind::Paths },
    Picture {
        file: "other-node-round-trip.svg",
        title: "Round trip of one byte to a pod of another node",
        measures: &["TCP_RR p50", "UDP_RR p50"],
        kind: Kind::OtherNode,
    },
    Picture {
        file: "other-node-stream.svg",
        title: "One TCP stream to a pod of another node",
        measures: &["TCP_STREAM"],
        kind: Kind::OtherNode,
    },
];

impl Picture {
    /// The picture as SVG, if the report has figures for it.
    pub(super) fn draw(&self, report: &Report) -> Option<String> {
        let is_of_case = |figure: &&Figure| match self.kind {
            Kind::Paths => figure.case == ONE_NODE,
            Kind::OtherNode => figure.case == OTHER_NODE,
            _ => true,
        };
        let is_of_measure = |figure: &&Figure| self.measures.contains(&figure.measure.as_str());
        let all: Vec<&Figure> = report.figures.iter().filter(is_of_measure).filter(is_of_case).collect();
        let first = all.first()?;
        let near = all.iter().map(|figure| figure.load).min_by_key(|load| load.abs_diff(100))?;
        let has_part = |figure: &&&Figure| match self.kind {
            Kind::Cases => figure.load == near,
            Kind::Loads | Kind::Growth => figure.case == first.case,
            Kind::Steps | Kind::OtherNode => true,
            Kind::Paths => figure.load == first.load,
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
            Kind::Steps => (figure.case.clone(), figure.measure.clone()),
            Kind::Paths | Kind::OtherNode => (figure.implementation.clone(), figure.measure.clone()),
        };
        let mark = (self.kind == Kind::Cases).then_some(figure.summary.p99);
        Point { group, series, value: figure.summary.p50, mark }
    }
}
