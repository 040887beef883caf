//! The command `top`: rates, and the restored terminal at its end.

use cnikit_testbed::{Command, Namespace as _};

use crate::cli::{BINARY, cells, conflist, json_of, refused, shown};
use crate::support::{GATEWAY, on_host};

#[test]
fn rates_are_per_interval_and_sorted() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        let dir = conflist(network);
        let line = format!("top --interval 1 --conf-dir {}", dir.parent().expect("a directory").display());
        // 20 packets a second, for longer than the interval of one second.
        let pings = two.pod.command("ping").words("-q -i 0.05 -c 60").arg(GATEWAY).spawn();
        let all = json_of(&format!("{line} --json"));
        let rates = &all["pods"];
        assert_eq!((&rates[0]["pod"]["containerId"], &rates[1]["pod"]["containerId"]), (&"two".into(), &"one".into()));
        let packets = rates[0]["perSecond"]["tx"]["packets"].as_u64().expect("a rate");
        assert!((10..=25).contains(&packets), "{all:#}");
        assert!(rates[1]["perSecond"]["tx"]["packets"].as_u64() < Some(5), "{all:#}");
        drop(pings);

        // Without a terminal it prints one interval.
        let text = shown(&line);
        assert_eq!(cells(&text)[0][..6], ["NAMESPACE/POD", "NETWORK", "CONTAINER", "IFNAME", "ADDRESSES", "TX/s"]);
        assert!(text.ends_with("2 pods\n"), "{text}");
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn a_key_or_a_signal_ends_it_and_restores_the_terminal() {
    on_host(|network| {
        let pod = network.attach("one");
        // timeout(1) ends with its own status after a timeout.
        let timeout = |signal| format!("timeout --foreground -s {signal} 2");
        for (by, key, status) in [
            (String::new(), "q", 0),
            (String::new(), "\\003", 0),
            (timeout("TERM"), "", 124),
            (timeout("HUP"), "", 124),
            (timeout("INT"), "", 124),
        ] {
            // `script` creates a terminal. stty prints its mode before and after.
            let line = format!("stty -g; {by} '{BINARY}' top --interval 0.1; echo status \\$?; stty -g");
            let keys = format!("(sleep 2; printf '{key}'; sleep 1) | script -qec \"{line}\" /dev/null");
            let text = Command::new("bash").args(["-c", &keys]).run();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            assert!(lines.iter().any(|line| line.ends_with(&format!("status {status}"))), "{by} {text:?}");
            assert_eq!(lines.first(), lines.last(), "{text:?}");
            assert!(text.matches("\x1b[2J").count() >= 3 && text.contains(pod.address()), "{text:?}");
        }
        network.detach(&pod);
    });
}

/// On a small terminal, lines are cut and the hidden pods are counted. No line wraps.
#[test]
fn rows_fit_the_terminal() {
    on_host(|network| {
        let pods = ["one", "two", "three"].map(|name| network.attach(name));
        let line = format!("stty rows 6 cols 50; '{BINARY}' top --interval 0.1");
        let keys = format!("(sleep 1; printf q) | script -qec \"{line}\" /dev/null");
        let text = Command::new("bash").args(["-c", &keys]).run();
        let last = text.rsplit("\x1b[2J").next().expect("a screen");
        assert!(last.contains("3 pods, 2 shown"), "{text:?}");
        assert_eq!(last.lines().filter(|row| row.contains("eth0")).count(), 2, "{text:?}");
        for row in last.lines().filter(|row| row.contains("eth0")) {
            assert!(row.trim().chars().count() <= 50, "{row:?}");
        }
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn invalid_intervals_are_refused() {
    for interval in ["0", "-1", "NaN", "1e9", "soon"] {
        assert!(refused(2, &format!("top --interval={interval}")).contains("interval"));
    }
}
