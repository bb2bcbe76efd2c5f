//! Parses resolv.conf(5): servers, search domains, options. Pure but for looking up interface
//! names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Port of DNS servers.
pub(crate) const PORT: u16 = 53;

/// Content of a resolv.conf(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers in order; the local host if the file names none.
    pub servers: Vec<SocketAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Parses the text; unknown lines are skipped, as C libraries do.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let rest = |words: std::str::SplitAsciiWhitespace<'_>| {
                words.map(str::to_owned).collect::<Vec<_>>()
            };
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(server)),
                // The last `search` or `domain` line counts.
                Some("search" | "domain") => found.search = rest(words),
                Some("options") => found.options.extend(rest(words)),
                _ => {}
            }
        }
        if found.servers.is_empty() {
            found.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        found
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, PORT).into());
    }
    // `fe80::1%eth0`: the C library turns the interface's name into its index, without asking
    // anyone.
    let (address, _interface) = text.split_once('%')?;
    address.parse::<Ipv6Addr>().ok()?;
    (text, PORT).to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_come_in_order_and_default_to_this_host() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 10.0.0.1\nnameserver\t \
                    fd00::1 \nnameserver x\n";
        let expected: Vec<SocketAddr> = vec![
            "10.0.0.1:53".parse().unwrap(),
            "[fd00::1]:53".parse().unwrap(),
        ];
        assert_eq!(ResolvConf::parse(text).servers, expected);
        assert_eq!(
            ResolvConf::parse("").servers,
            vec!["127.0.0.1:53".parse().unwrap()]
        );
    }

    #[test]
    fn search_domains_and_options_are_kept() {
        let found = ResolvConf::parse(
            "domain a\nsearch example.org corp\noptions ndots:2 edns0\noptions rotate\n",
        );
        assert_eq!(
            (found.search.join(" "), found.options.join(" ")),
            ("example.org corp".into(), "ndots:2 edns0 rotate".into())
        );
    }

    #[test]
    fn a_link_local_server_keeps_its_interface() {
        assert_eq!(
            ResolvConf::parse("nameserver fe80::1%lo\n").servers,
            vec!["[fe80::1%1]:53".parse().unwrap()]
        );
    }
}
