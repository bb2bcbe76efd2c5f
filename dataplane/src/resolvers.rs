//! Resolvers to which Docker's 127.0.0.11 forwards queries, from inside the container's namespace:
//! the host's.

use std::{collections::BTreeSet, fs, net::IpAddr};

use dns::ResolvConf;

/// The host's, and those that systemd-resolved asks for it, which engines take where the first
/// lists itself only.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Where both list none but the host itself, Docker asks these (`defaultIPv4Dns`, `defaultIPv6Dns`
/// of its resolvconf).
const DEFAULTS: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// Their addresses, as far as a container can reach them: not the host's loopback.
pub fn asked_by_engines() -> BTreeSet<IpAddr> {
    let files = FILES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    of(files.collect::<Vec<_>>().iter().map(String::as_str))
}

fn of<'a>(files: impl Iterator<Item = &'a str>) -> BTreeSet<IpAddr> {
    let servers = files.flat_map(|text| ResolvConf::parse(text).servers);
    let found: BTreeSet<IpAddr> = servers
        .map(|server| server.ip())
        .filter(|server| !server.is_loopback())
        .collect();
    match found.is_empty() {
        true => DEFAULTS
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect(),
        false => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_ask_the_hosts_resolvers_or_those_that_docker_knows() {
        let addresses = |texts: &[&str]| {
            of(texts.iter().copied())
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            addresses(&["nameserver 10.0.0.1\nnameserver fd00::1\n"]),
            ["10.0.0.1", "fd00::1"]
        );
        assert_eq!(
            addresses(&["nameserver 127.0.0.53\n", "nameserver 10.0.0.1\n"]),
            ["10.0.0.1"]
        );
        assert_eq!(addresses(&["nameserver 127.0.0.53\n"]).len(), 4);
        assert_eq!(addresses(&[]).len(), 4);
    }
}
