//! Attaches a program of your own to what comes in by a link, by a filter and by a TCX link, and detaches it again.
//!
//! The program is one of type `BPF_PROG_TYPE_SCHED_CLS` that you have pinned, `SEC("tc")` in C:
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
    datapath::{Direction, TcxLink},
    netlink::{BpfFilter, FilterTarget, SharedBlocks, Socket},
};

/// Keeps the TCX link beyond this process.
const PIN: &str = "/sys/fs/bpf/attach-example/link";

fn main() -> Result<(), Box<dyn Error>> {
    let (Some(name), Some(pin)) = (env::args().nth(1), env::args().nth(2)) else {
        return Err("usage: attach <link> <pinned program>".into());
    };
    // All that is asked of a program is its descriptor: one of a libbpf-rs skeleton will do as well.
    let program = libbpf_rs::Program::fd_from_pinned_path(pin)?;
    let host = Socket::open()?;
    let link = host.link_by_name(&name.parse()?)?.ok_or("there is no such link")?.index;

    // A filter: the clsact qdisc is shared with other tools, priority and handle name what is ours.
    let ingress = FilterTarget::Ingress(link);
    host.ensure_clsact(link, SharedBlocks::default())?;
    host.replace_filter(&ingress, &BpfFilter::new(&program, "mine").priority(1).handle(1))?;
    for filter in host.filters(&ingress)? {
        println!("filter: program {}, priority {}", filter.program_id.unwrap_or_default(), filter.priority);
    }
    host.delete_filter(&ingress, 1, 1)?;

    // A TCX link: no qdisc, but it takes Linux 6.6 and 10 ms. Once pinned it outlives this process.
    TcxLink::ensure(&program, link, Direction::Ingress, PIN)?;
    for attached in TcxLink::attached(link, Direction::Ingress)? {
        println!("TCX: program {}", attached.program_id);
    }
    TcxLink::remove(PIN)?;
    Ok(())
}
