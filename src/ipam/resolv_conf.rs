use std::fs;
use std::path::Path;

use super::error::{Error, Result};
use crate::spec::Dns;

pub(super) fn read(path: &Path) -> Result<Dns> {
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(parse(&text))
}

/// Parses a file in the format of
/// [resolv.conf(5)](https://man7.org/linux/man-pages/man5/resolv.conf.5.html). Like the resolver,
/// it ignores unknown lines and uses the last `domain` and `search`.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next(),
            Some("search") => dns.search = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_parsed_like_the_resolver() {
        let dns = parse(
            "# by hand\n; too\nnameserver 10.0.0.53\nnameserver\tfd00::53\nsearch a.example\nsearch b.example c.example\n\
             domain d.example\noptions ndots:5\noptions timeout:2 attempts:1\nsortlist 10.0.0.0\n\n  \n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.53", "fd00::53"]);
        assert_eq!(dns.domain.as_deref(), Some("d.example"));
        assert_eq!(dns.search, ["b.example", "c.example"]);
        assert_eq!(dns.options, ["ndots:5", "timeout:2", "attempts:1"]);
    }
}
