//! Attaches your own program to the ingress of a link, first as a filter and then as a TCX link,
//! and detaches it again.
//!
//! The program must have the type `BPF_PROG_TYPE_SCHED_CLS` (`SEC("tc")` in C) and must be pinned:
//!
//! ```text
//! $ bpftool prog load mine.bpf.o /sys/fs/bpf/mine
//! $ sudo -E cargo run --example attach veth0 /sys/fs/bpf/mine
//! filter: program 42, priority 1
//! TCX: program 42
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::{env, error::Error};

use cnikit::{
    bpf::{Direction, Program, TcxLink},
    netlink::{BpfFilter, FilterTarget, SharedBlocks, Socket},
};

/// The pin that keeps the TCX link after the exit of this process.
const PIN: &str = "/sys/fs/bpf/attach-example/link";

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(name), Some(pin)) = (env::args().nth(1), env::args().nth(2)) else {
        return Err("usage: attach <link> <pinned program>".into());
    };
    // Only the program's descriptor is needed; the descriptor of a libbpf-rs skeleton works as
    // well.
    let program = Program::open(pin)?;
    let host = Socket::open()?;
    let link = host.link_by_name(&name.parse()?)?.ok_or("the link does not exist")?.index;

    // A filter. Other tools may share the clsact qdisc, so priority and handle identify the
    // own filter. The handle is computed from the name.
    let ingress = FilterTarget::Ingress(link);
    let own = BpfFilter::new(&program, "attach-example");
    host.ensure_clsact(link, SharedBlocks::default())?;
    host.replace_filter(&ingress, &own)?;
    for filter in host.filters(&ingress)? {
        println!("filter: program {}, priority {}", filter.program_id.unwrap_or_default(), filter.priority);
    }
    host.delete_filter(&ingress, own.priority, own.handle)?;

    // A TCX link. It needs no qdisc, but Linux 6.6 and 10 ms. The pin keeps it after the exit of
    // this process.
    TcxLink::ensure(&program, link, Direction::Ingress, PIN)?;
    for attached in TcxLink::attached(link, Direction::Ingress)? {
        println!("TCX: program {}", attached.program_id);
    }
    TcxLink::remove(PIN)?;
    Ok(())
}
