//! What rows of the maps cost through the library and through bare bpf(2), and what a frame costs in the programs.
//!
//! ```sh
//! cargo bench --bench datapath
//! ```
//!
//! Names are `maps/<case>/<implementation>` and `datapath/<hook and case>/<implementation>`:
//!
//! * `cnikit`: the library, or its programs.
//! * `raw`, `raw-batch`: system calls without libbpf, one for each row, or one for 1,024 of them; the time is of one row.
//! * `empty-program`: one that returns, so that what is left is the kernel's part of a test run.
//!
//! It needs root, and runs on a private host: the machine's own BPF file system is not touched. An iteration is one call
//! for one row; the rows around it are put in and taken out outside the clock.

mod maps;
mod programs;
mod raw;

use cnikit::datapath::Datapath;
use criterion::{Criterion, criterion_group};

fn datapath(criterion: &mut Criterion) {
    let datapath = Datapath::new("/sys/fs/bpf/bench", &"bench".parse().expect("a name"));
    datapath.ensure().expect("the programs are loaded");
    maps::bench(criterion, &datapath);
    programs::bench(criterion, &datapath);
    datapath.remove().expect("the pins are removed");
}

criterion_group!(benches, datapath);

fn main() {
    // Without privileges this says so and ends.
    cnikit_testbed::host(|_| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    });
}
