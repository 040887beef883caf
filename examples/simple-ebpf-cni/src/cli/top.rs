//! `top`: the pods with the most traffic, again and again.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use clap::builder::styling::Style;
use clap::{Args, ValueEnum};
use cnikit::ipam::Owner;
use serde::Serialize;

use super::attached::{Counters, Pod, Way};
use super::node::Scope;
use super::output::{Output, VOID};
use super::pods::{self, names};
use super::table::Table;
use super::terminal::Keys;
use super::text::{UNKNOWN, bytes, count};
use super::{EXIT_STATUS, Error};

/// Show the pods with the most traffic, again and again; q ends it.
///
/// TX and RX are rates over the interval. Without a terminal it is as with --once.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    scope: Scope,

    /// Seconds from one look to the next, 0.1 at the least
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    interval: Duration,

    /// What the first pod has most of
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Sort::Bytes)]
    sort: Sort,

    /// Look once, over one interval
    #[arg(long)]
    once: bool,

    /// Look once, and print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Bytes both ways
    Bytes,
    /// Packets both ways
    Packets,
    /// Bytes sent
    Tx,
    /// Bytes received
    Rx,
    /// Packets refused
    Drops,
}

/// The rows of the terminal that are no pod's: the header, the number of pods, the last line and the cursor's.
const OTHER_ROWS: usize = 4;

/// What was counted at a moment.
struct Sample {
    taken: Instant,
    pods: Vec<Pod>,
}

#[derive(Debug, Serialize)]
struct Report {
    pods: Vec<Rate>,
}

/// What a pod does in a second.
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
    let before = Sample::take(&options.scope)?;
    thread::sleep(options.interval);
    let report = Report { pods: Sample::take(&options.scope)?.rates(&before, options.sort) };
    if options.json { output.json(&report) } else { report.write(usize::MAX, usize::MAX, output) }
}

fn watch(options: &Options, output: &mut Output) -> Result<(), Error> {
    let mut before = Sample::take(&options.scope)?;
    let keys = Keys::open().map_err(Error::Terminal)?;
    output.clear()?;
    output.styled(VOID, "the first rates come after one interval; q ends")?;
    output.flush()?;
    while !keys.end_within(options.interval).map_err(Error::Terminal)? {
        let now = Sample::take(&options.scope)?;
        let report = Report { pods: now.rates(&before, options.sort) };
        output.clear()?;
        let (rows, columns) = keys.size();
        report.write(rows.saturating_sub(OTHER_ROWS), columns, output)?;
        output.styled(VOID, format_args!("every {} s; q ends", options.interval.as_secs_f32()))?;
        output.flush()?;
        before = now;
    }
    Ok(())
}

impl Sample {
    fn take(scope: &Scope) -> Result<Self, Error> {
        Ok(Self { pods: pods::all(scope)?, taken: Instant::now() })
    }

    /// What happened since `before`, the busiest pod first.
    fn rates(&self, before: &Self, sort: Sort) -> Vec<Rate> {
        let earlier: HashMap<_, &Pod> = before.pods.iter().map(|pod| (key(pod), pod)).collect();
        let elapsed = self.taken - before.taken;
        let rate = |pod: &Pod| Rate::of(pod, earlier.get(&key(pod)).copied(), elapsed);
        let mut rates: Vec<Rate> = self.pods.iter().map(rate).collect();
        // What is equally busy stays in its place from look to look.
        rates.sort_by_key(|rate| Reverse(rate.rank(sort)));
        rates
    }
}

/// What tells pods apart; the pod that follows on an address is another one.
fn key(pod: &Pod) -> (&str, Option<&Owner>, Option<IpAddr>) {
    (pod.network.as_str(), pod.owner.as_ref(), pod.addresses.first().copied())
}

impl Rate {
    fn of(pod: &Pod, earlier: Option<&Pod>, elapsed: Duration) -> Self {
        let zero = Counters::default();
        let counted = pod.counters.unwrap_or(zero);
        // Of a pod that is new, all there is happened since.
        let before = earlier.and_then(|earlier| earlier.counters).unwrap_or(zero);
        let per_second = |now: u64, before: u64| {
            // An address that was detached and attached again counts from zero.
            let happened = u128::from(now.checked_sub(before).unwrap_or(now));
            u64::try_from(happened * 1000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
        };
        let way = |now: Way, before: Way| Way {
            packets: per_second(now.packets, before.packets),
            bytes: per_second(now.bytes, before.bytes),
            direct: per_second(now.direct, before.direct),
        };
        let refused = earlier.map_or(0, |earlier| earlier.drops.refused());
        Self {
            pod: pod.clone(),
            per_second: Counters { tx: way(counted.tx, before.tx), rx: way(counted.rx, before.rx) },
            drops_per_second: per_second(pod.drops.refused(), refused),
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
        if at_most < self.pods.len() {
            output.line(format_args!("{pods}, of which {at_most} fit here"))
        } else {
            output.line(pods)
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(3600);
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 0.5".to_owned())?;
    let interval = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if (LEAST..=MOST).contains(&interval) { Ok(interval) } else { Err("choose from 0.1 to 3600 seconds".to_owned()) }
}
