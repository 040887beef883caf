//! The cost of map entries through the library and through plain bpf(2), and the cost of a frame in
//! the programs.
//!
//! ```sh
//! cargo bench --bench datapath
//! ```
//!
//! Names are `maps/<case>/<implementation>` and `datapath/<hook and case>/<implementation>`:
//!
//! * `cnikit`: the library, or its programs.
//! * `raw`, `raw-batch`: system calls without libbpf, one per entry or one per 1,024 entries; the
//!   time is per entry.
//! * `empty-program`: a program that only returns. It shows the kernel's share of a test run.
//!
//! The benchmark needs root, and runs on a private host: it does not touch the machine's own bpffs.
//! An iteration is one call for one entry. Inserting and removing the surrounding entries is not
//! measured.

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
    // Without privileges, the benchmark prints a skip line and ends.
    cnikit_testbed::host(|_| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    });
}
