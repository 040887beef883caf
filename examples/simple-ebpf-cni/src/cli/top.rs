//! `top`: lists the pods with the most traffic, and refreshes the list.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::styling::Style;
use clap::{Args, ValueEnum};
use cnikit::spec::AttachmentKey;
use serde::Serialize;

use super::error::Error;
use super::format::{UNKNOWN, bytes, count};
use super::inventory::Selector;
use super::inventory::pods::{Counters, DirectionCounters, Pod};
use super::options::EXIT_STATUS;
use super::output::{DIM, Output};
use super::pods::{self, names};
use super::raw_mode::RawTerminal;
use super::table::Table;

/// List the pods with the most traffic, and refresh the list until you press q.
///
/// TX and RX are rates over the interval. Without a terminal, --once is the default.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    selector: Selector,

    /// Interval in seconds, minimum 0.1
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,

    /// Sort key, highest value first
    #[arg(long, value_name = "KEY", value_enum, default_value_t = Sort::Bytes)]
    sort: Sort,

    /// Print the rates of one interval and exit
    #[arg(long)]
    once: bool,

    /// Output JSON for one interval and exit
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Bytes in both directions
    Bytes,
    /// Packets in both directions
    Packets,
    /// Bytes sent
    Tx,
    /// Bytes received
    Rx,
    /// Dropped packets
    Drops,
}

/// The rows of the terminal without a pod: the header, the number of pods, the last line and the
/// line of the cursor.
const OTHER_ROWS: usize = 4;

/// The counters at one moment.
struct Sample {
    taken: Instant,
    pods: Vec<Pod>,
}

#[derive(Debug, Serialize)]
struct Report {
    pods: Vec<Rate>,
}

/// The traffic of a pod in a second.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    pod: Pod,
    per_second: Counters,
    drops_per_second: u64,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    if !options.once && !options.json && io::stdout().is_terminal() && io::stdin().is_terminal() {
        return watch(options, output);
    }
    let before = Sample::take(&options.selector)?;
    thread::sleep(options.interval);
    let report = Report { pods: Sample::take(&options.selector)?.rates(&before, options.sort) };
    if options.json { output.json(&report) } else { report.write(usize::MAX, usize::MAX, output) }
}

fn watch(options: &Options, output: &mut Output) -> Result<(), Error> {
    let mut before = Sample::take(&options.selector)?;
    let terminal = RawTerminal::open().map_err(Error::Terminal)?;
    output.clear()?;
    output.styled(DIM, "waiting for the first interval; press q to quit")?;
    output.flush()?;
    while !terminal.end_within(options.interval).map_err(Error::Terminal)? {
        let now = Sample::take(&options.selector)?;
        let report = Report { pods: now.rates(&before, options.sort) };
        output.clear()?;
        let (rows, columns) = terminal.size();
        report.write(rows.saturating_sub(OTHER_ROWS), columns, output)?;
        output.styled(DIM, format_args!("every {} s; press q to quit", options.interval.as_secs_f32()))?;
        output.flush()?;
        before = now;
    }
    Ok(())
}

impl Sample {
    fn take(selector: &Selector) -> Result<Self, Error> {
        Ok(Self { pods: pods::all(selector)?, taken: Instant::now() })
    }

    /// The rates since `before`, the pod with the most traffic first.
    fn rates(&self, before: &Self, sort: Sort) -> Vec<Rate> {
        let earlier: HashMap<_, &Pod> = before.pods.iter().map(|pod| (key(pod), pod)).collect();
        let elapsed = self.taken - before.taken;
        let rate = |pod: &Pod| Rate::of(pod, earlier.get(&key(pod)).copied(), elapsed);
        let mut rates: Vec<Rate> = self.pods.iter().map(rate).collect();
        // A stable sort: pods with equal rates keep their order between refreshes.
        rates.sort_by_key(|rate| Reverse(rate.rank(sort)));
        rates
    }
}

/// The identity of a pod. A later pod with the same address is another pod.
fn key(pod: &Pod) -> (&str, Option<&AttachmentKey>, Option<IpAddr>) {
    (pod.network.as_str(), pod.owner.as_ref(), pod.addresses.first().copied())
}

impl Rate {
    fn of(pod: &Pod, earlier: Option<&Pod>, elapsed: Duration) -> Self {
        let zero = Counters::default();
        let counted = pod.counters.unwrap_or(zero);
        // All packets of a new pod belong to this interval.
        let before = earlier.and_then(|earlier| earlier.counters).unwrap_or(zero);
        let per_second = |now: u64, before: u64| {
            // The counters start at zero when an address is attached again.
            let difference = u128::from(now.checked_sub(before).unwrap_or(now));
            u64::try_from(difference * 1000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
        };
        let direction = |now: DirectionCounters, before: DirectionCounters| DirectionCounters {
            packets: per_second(now.packets, before.packets),
            bytes: per_second(now.bytes, before.bytes),
            direct: per_second(now.direct, before.direct),
        };
        let dropped = earlier.map_or(0, |earlier| earlier.drops.total());
        Self {
            pod: pod.clone(),
            per_second: Counters { tx: direction(counted.tx, before.tx), rx: direction(counted.rx, before.rx) },
            drops_per_second: per_second(pod.drops.total(), dropped),
        }
    }

    fn rank(&self, sort: Sort) -> u64 {
        let Counters { tx, rx } = self.per_second;
        match sort {
            Sort::Bytes => tx.bytes.saturating_add(rx.bytes),
            Sort::Packets => tx.packets.saturating_add(rx.packets),
            Sort::Tx => tx.bytes,
            Sort::Rx => rx.bytes,
            Sort::Drops => self.drops_per_second,
        }
    }
}

impl Report {
    fn write(&self, at_most: usize, width: usize, output: &mut Output) -> Result<(), Error> {
        let mut table = Table::new([
            "NAMESPACE/POD",
            "NETWORK",
            "CONTAINER",
            "IFNAME",
            "ADDRESSES",
            "TX/s",
            "TX PKTS/s",
            "RX/s",
            "RX PKTS/s",
            "DIRECT",
            "DROPS/s",
        ])
        .within(width);
        for Rate { pod, per_second, drops_per_second } in self.pods.iter().take(at_most) {
            let [name, network, container, ifname, addresses] = names(pod, false);
            let Counters { tx, rx } = per_second;
            let known = |text: String| if pod.counters.is_some() { text } else { UNKNOWN.to_owned() };
            let direct =
                per_second.direct_percent().map_or_else(|| UNKNOWN.to_owned(), |percent| format!("{percent} %"));
            table.row(
                Style::new(),
                [
                    name,
                    network,
                    container,
                    ifname,
                    addresses,
                    known(bytes(tx.bytes)),
                    known(tx.packets.to_string()),
                    known(bytes(rx.bytes)),
                    known(rx.packets.to_string()),
                    direct,
                    drops_per_second.to_string(),
                ],
            );
        }
        table.write(output)?;
        let pods = count(self.pods.len(), "pod");
        if at_most < self.pods.len() { output.line(format_args!("{pods}, {at_most} shown")) } else { output.line(pods) }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(3600);
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds, such as 0.5".to_owned())?;
    let interval = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if (MIN..=MAX).contains(&interval) {
        Ok(interval)
    } else {
        Err("the interval must be between 0.1 and 3600 seconds".to_owned())
    }
}
