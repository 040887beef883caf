//! Results as Markdown tables, for the terminal and for the documentation.

use std::fmt::Write as _;

use crate::report::{DIRECT, FLOOR, Figure, ONE_NODE, OTHER_NODE, Report, VXLAN};

/// A table, and the name of its place in the documentation.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// How figures become a table: measures, heading of the load column, format of a cell.
struct Form {
    name: &'static str,
    /// The measures of the rows, and the heading of the load column.
    measures: &'static [&'static str],
    load: &'static str,
    cell: Cell,
}

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Percentiles,
    Median,
    /// A median; more is better.
    Rate,
}

/// All tables. A report has only the tables with figures.
const FORMS: &[Form] = &[
    Form { name: "add", measures: &["ADD"], load: "pods", cell: Cell::Percentiles },
    Form { name: "del", measures: &["DEL"], load: "pods", cell: Cell::Percentiles },
    Form { name: "check", measures: &["CHECK"], load: "pods", cell: Cell::Percentiles },
    Form { name: "first-add", measures: &["first ADD"], load: "", cell: Cell::Median },
    Form { name: "rates", measures: &["ADD rate", "DEL rate"], load: "parallel calls", cell: Cell::Rate },
    Form {
        name: "memory",
        measures: &["memory, first ADD", "memory, ADD", "memory, DEL"],
        load: "",
        cell: Cell::Median,
    },
    Form { name: "cpu", measures: &["CPU, first ADD", "CPU, ADD", "CPU, DEL"], load: "", cell: Cell::Median },
    Form { name: "floor", measures: &["floor"], load: "pods", cell: Cell::Percentiles },
    Form { name: "steps", measures: &["steps"], load: "", cell: Cell::Percentiles },
];

/// Writes all tables of a report to standard output.
#[expect(clippy::print_stdout, reason = "the tables are the output of the program")]
pub(crate) fn print(report: &Report) {
    println!("{}", conditions(report));
    for table in of(report) {
        println!("### {}\n\n{}", table.name, table.text);
    }
}

/// All tables of a report.
pub(crate) fn of(report: &Report) -> Vec<Table> {
    let forms = FORMS.iter().filter_map(|form| form.table(report));
    let nets = [paths(report, "net", ONE_NODE), paths(report, "other-node", OTHER_NODE), other_node_goals(report)];
    forms.chain(nets.into_iter().flatten()).chain(library(report)).collect()
}

/// The conditions of the measurement.
pub(crate) fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "`{}` on {}:\n{}, {} CPUs, Linux {}; load {} at the start.\n\n",
        report.command, machine.date, machine.cpu, machine.cpus, machine.kernel, machine.load
    );
    for (name, version) in &machine.versions {
        writeln!(text, "* {name}: {version}").expect("writing to a string cannot fail");
    }
    text
}

/// A row for each path of a case, a column for each measure. The number in parentheses is the ratio
/// to a bare veth pair.
fn paths(report: &Report, name: &'static str, case: &str) -> Option<Table> {
    let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.case == case).collect();
    // Only the reports of packets have that floor.
    let floor = figures.iter().find(|figure| figure.implementation == FLOOR)?.load;
    let measures = distinct(figures.iter().map(|figure| (figure.measure.as_str(), figure.unit.as_str())));
    let rows = distinct(figures.iter().map(|figure| (figure.load, figure.implementation.as_str())));
    let heads: Vec<String> = measures.iter().map(|(measure, unit)| format!("{measure}, {unit}")).collect();
    // Another node is measured with one pod.
    let has_pods = case == ONE_NODE;
    let pods = if has_pods { " pods |" } else { "" };
    let mut text = format!("|{pods} path | {} |\n", heads.join(" | "));
    text += &"|---".repeat(usize::from(has_pods) + 1 + heads.len());
    text += "|\n|";
    for (load, path) in rows {
        let pods = if has_pods { format!(" {load} |") } else { String::new() };
        write!(text, "{pods} {path} |").expect("writing to a string cannot fail");
        for (measure, _) in &measures {
            let p50 = |load, path| report.figure(measure, case, load, path).map(|figure| figure.summary.p50);
            let cell = p50(load, path).map_or_else(String::new, number);
            let floor_times = p50(load, FLOOR)
                .or_else(|| p50(floor, FLOOR))
                .filter(|floor_times| *floor_times > 0.0 && path != FLOOR);
            // A loss percentage has no ratio.
            let floor_times = floor_times.filter(|_| !measure.ends_with("lost"));
            let ratio =
                floor_times.zip(p50(load, path)).map(|(floor_times, value)| format!(" ({:.2})", value / floor_times));
            write!(text, " {cell}{} |", ratio.unwrap_or_default()).expect("writing to a string cannot fail");
        }
        text += "\n|";
    }
    text.pop();
    Some(Table { name, text })
}

/// The goals for packets to another node, with the results.
fn other_node_goals(report: &Report) -> Option<Table> {
    let of = |measure: &str, path: &str| Some(report.figure(measure, OTHER_NODE, 1, path)?.summary);
    let mut text = "| goal | result | verdict |\n|---|---|---|\n".to_owned();
    let mut row = |goal: &str, result: &str, is_met: bool| {
        let verdict = if is_met { "met" } else { "missed" };
        writeln!(text, "| {goal} | {result} | {verdict} |").expect("writing to a string cannot fail");
    };
    for (path, limit) in [(DIRECT, 1.22), (VXLAN, 1.75)] {
        for (measure, name) in [("TCP_RR p50", "TCP_RR"), ("TCP_RR p50, one thread", "TCP_RR in one thread")] {
            let ratio = of(measure, path)?.p50 / of(measure, FLOOR)?.p50;
            // The verdict is about the printed number.
            let ratio = (ratio * 100.0).round() / 100.0;
            row(&format!("`{path}`: {name} at most {limit} x the floor"), &format!("{ratio:.2} x"), ratio <= limit);
        }
    }
    let (floor, direct) = (of("TCP_STREAM", FLOOR)?, of("TCP_STREAM", DIRECT)?.p50);
    let noise = floor.p90 - floor.p50;
    row(
        &format!("`{DIRECT}`: TCP_STREAM not below the floor by more than the noise (the floor's p90 - p50)"),
        &format!("{} of {} Gbit/s, noise {}", number(direct), number(floor.p50), number(noise)),
        direct >= floor.p50 - noise,
    );
    Some(Table { name: "other-node-goals", text })
}

/// A row for each case of the library's benchmarks: cnikit, and the others with the ratio of
/// cnikit's time to theirs.
fn library(report: &Report) -> Option<Table> {
    let figures: Vec<_> = report.figures.iter().filter(|figure| figure.unit == "ns").collect();
    figures.first()?;
    let mut text = "| case | cnikit | others (ratio of cnikit) |\n|---|---|---|\n".to_owned();
    for (area, case) in distinct(figures.iter().map(|figure| (figure.measure.as_str(), figure.case.as_str()))) {
        let group: Vec<_> =
            figures.iter().filter(|figure| (figure.measure.as_str(), figure.case.as_str()) == (area, case)).collect();
        let ours = group.iter().find(|figure| figure.implementation == "cnikit").map(|figure| figure.summary.p50);
        let others = group.iter().filter(|figure| figure.implementation != "cnikit").map(|figure| {
            let ratio = ours.map_or_else(String::new, |ours| format!(" ({})", ratio(ours, figure.summary.p50)));
            format!("`{}` {}{ratio}", figure.implementation, duration(figure.summary.p50))
        });
        let (ours, others) = (ours.map_or_else(String::new, duration), others.collect::<Vec<_>>().join(", "));
        writeln!(text, "| `{area}/{case}` | {ours} | {others} |").expect("writing to a string cannot fail");
    }
    Some(Table { name: "library", text })
}

/// The ratio to a peer, for a measure with lower as better: `1/4.2`, or `1.20 x`.
fn ratio(ours: f64, peer: f64) -> String {
    let times = ours / peer;
    if times < 0.67 { format!("1/{:.1}", times.recip()) } else { format!("{times:.2} x") }
}

/// Nanoseconds in a readable unit.
fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        1e6.. => format!("{} ms", number(nanoseconds / 1e6)),
        1e3..1e6 => format!("{} us", number(nanoseconds / 1e3)),
        _ => format!("{} ns", number(nanoseconds)),
    }
}

impl Form {
    fn table(&self, report: &Report) -> Option<Table> {
        let figures: Vec<_> =
            report.figures.iter().filter(|figure| self.measures.contains(&figure.measure.as_str())).collect();
        let contestants = distinct(figures.iter().map(|figure| figure.implementation.as_str()));
        let rows = distinct(figures.iter().map(|figure| (figure.measure.as_str(), figure.case.as_str(), figure.load)));
        let unit = figures.first()?.unit.as_str();
        let is_compared = contestants.contains(&"bridge");
        let what = match self.cell {
            Cell::Percentiles => "p50 / p90 / p99",
            Cell::Median | Cell::Rate => "p50",
        };
        let mut text = format!("| {unit}, {what} | {} | {} |", self.load, contestants.join(" | "));
        text += if is_compared { " vs bridge |\n" } else { "\n" };
        text += &"|---".repeat(2 + contestants.len() + usize::from(is_compared));
        text += "|\n";
        for (measure, case, load) in rows {
            let row = if self.measures.len() > 1 { format!("{measure}, {case}") } else { case.to_owned() };
            let shown = if self.load.is_empty() { String::new() } else { load.to_string() };
            write!(text, "| {row} | {shown} |").expect("writing to a string cannot fail");
            let p50 = |name| report.figure(measure, case, load, name).map(|figure| figure.summary.p50);
            for name in &contestants {
                let cell = report.figure(measure, case, load, name).map(|figure| self.cell(figure));
                write!(text, " {} |", cell.unwrap_or_default()).expect("writing to a string cannot fail");
            }
            if is_compared {
                let ratio = p50("cnikit").zip(p50("bridge")).map(|(ours, peer)| self.ratio(ours, peer));
                write!(text, " {} |", ratio.unwrap_or_default()).expect("writing to a string cannot fail");
            }
            text.push('\n');
        }
        Some(Table { name: self.name, text })
    }

    /// The ratio to a peer.
    fn ratio(&self, ours: f64, peer: f64) -> String {
        match self.cell {
            Cell::Rate => format!("{:.2} x", ours / peer),
            Cell::Percentiles | Cell::Median => ratio(ours, peer),
        }
    }

    fn cell(&self, figure: &Figure) -> String {
        let summary = &figure.summary;
        match self.cell {
            Cell::Percentiles => [summary.p50, summary.p90, summary.p99].map(number).join(" / "),
            Cell::Median | Cell::Rate => number(summary.p50),
        }
    }
}

/// A number with three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A sort key with zero-padded numbers, so that names sort by number.
pub(crate) fn natural(text: &str) -> String {
    let is_number = |word: &str| word.starts_with(|digit: char| digit.is_ascii_digit());
    let padded = |word: &str| if is_number(word) { format!("{word:0>9}") } else { word.to_owned() };
    text.split('-').map(padded).collect::<Vec<_>>().join("-")
}

/// The distinct elements, in the order of their first occurrence.
pub(crate) fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Cell, Form, duration, natural, number, of};
    use crate::machine::Machine;
    use crate::report::{DIRECT, FLOOR, Figure, OTHER_NODE, Report, VXLAN};

    #[test]
    fn numbers_have_three_significant_digits() {
        assert_eq!([1234.5, 23.45, 2.345, 0.2345].map(number), ["1234", "23.4", "2.35", "0.234"].map(str::to_owned));
        assert_eq!([2.5e6, 2.5e3, 250.0].map(duration), ["2.50 ms", "2.50 us", "250 ns"].map(str::to_owned));
    }

    #[test]
    fn ratio_shows_which_is_better() {
        let form = |cell| Form { name: "", measures: &[], load: "", cell };
        assert_eq!(form(Cell::Median).ratio(2.5, 10.0), "1/4.0");
        assert_eq!(form(Cell::Median).ratio(10.0, 2.5), "4.00 x");
        assert_eq!(form(Cell::Rate).ratio(300.0, 100.0), "3.00 x");
    }

    #[test]
    fn numbers_in_names_sort_as_numbers() {
        let mut names = ["add-beside-1000", "add-beside-250", "add-beside-1"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["add-beside-1", "add-beside-250", "add-beside-1000"]);
    }

    #[test]
    fn goals_are_ratios_to_the_floor() {
        let figure = |measure, name, values: &[f64]| Figure::of(measure, OTHER_NODE, 1, name, "", values);
        let figures = vec![
            figure("TCP_RR p50", FLOOR, &[10.0]),
            figure("TCP_STREAM", FLOOR, &[9.0, 10.0, 11.0]),
            figure("TCP_RR p50", DIRECT, &[12.0]),
            figure("TCP_STREAM", DIRECT, &[9.5]),
            figure("TCP_RR p50", VXLAN, &[18.0]),
            figure("TCP_RR p50, one thread", FLOOR, &[5.0]),
            figure("TCP_RR p50, one thread", DIRECT, &[6.5]),
            figure("TCP_RR p50, one thread", VXLAN, &[8.74]),
        ];
        let machine = Machine::read_host();
        let text = |figures| {
            let report = Report { machine: machine.clone(), command: String::new(), figures };
            let table = of(&report).into_iter().find(|table| table.name == "other-node-goals");
            table.map(|table| table.text)
        };
        let goals = text(figures.clone()).expect("all figures are there");
        let cells: Vec<Vec<&str>> = goals.lines().skip(2).map(|line| line.split(" | ").skip(1).collect()).collect();
        let expected = [
            ["1.20 x", "met |"],
            ["1.30 x", "missed |"],
            ["1.80 x", "missed |"],
            ["1.75 x", "met |"],
            ["9.50 of 10.0 Gbit/s, noise 1.00", "met |"],
        ];
        assert_eq!(cells, expected);
        assert_eq!(text(figures[..7].to_vec()), None, "a goal without a figure");
    }
}
