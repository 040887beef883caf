//! Interleaved medians for a busy machine. A disturbance affects all stores, so the ratios stay
//! valid.

use std::time::{Duration, Instant};

use crate::floor::Floor;
use crate::{Files, HELD, Keeper, owner, range};

const ROUNDS: usize = 4_000;

/// Selects the medians instead of the benchmarks.
pub(crate) fn are_wanted() -> bool {
    std::env::var_os("CNIKIT_BENCH_RATIOS").is_some_and(|wanted| wanted == "1")
}

/// Prints a line for each number of leases.
pub(crate) fn print() {
    eprintln!("{:>8} {:>22} {:>22}", "held", "allocate", "release");
    let mut all: Vec<Sample> = HELD.iter().map(|held| Sample::beside(*held)).collect();
    for _ in 0..ROUNDS {
        for sample in &mut all {
            let (allocate, release) = turn(&mut sample.files);
            let (floor_allocate, floor_release) = turn(&mut sample.floor);
            sample.times[0].push(allocate);
            sample.times[1].push(floor_allocate);
            sample.times[2].push(release);
            sample.times[3].push(floor_release);
        }
    }
    for sample in &mut all {
        let [allocate, floor_allocate, release, floor_release] = sample.times.each_mut().map(|times| median(times));
        let ratio = |ours: Duration, floor: Duration| {
            format!("{ours:.1?} = {:.2} x floor", ours.as_secs_f64() / floor.as_secs_f64())
        };
        let (allocate, release) = (ratio(allocate, floor_allocate), ratio(release, floor_release));
        eprintln!("{:>8} {allocate:>22} {release:>22}", sample.held);
    }
}

struct Sample {
    held: usize,
    files: Files,
    floor: Floor,
    times: [Vec<Duration>; 4],
}

impl Sample {
    fn beside(held: usize) -> Self {
        let files = Files::holding(held, range("10.0.0.0/8"));
        let floor = Floor::in_store(&files.store);
        Self { held, files, floor, times: Default::default() }
    }
}

fn turn(keeper: &mut impl Keeper) -> (Duration, Duration) {
    let newcomer = owner(usize::MAX);
    let start = Instant::now();
    keeper.allocate(&newcomer);
    let middle = Instant::now();
    keeper.release(&newcomer);
    (middle - start, middle.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
