//! `names …`: how the host's own programs find names of networks that hosts call. netd answers
//! them at an address of the loopback; systemd-resolved is told to ask there for their domain, and
//! for nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use model::{
    Failure, Kind,
    names::{HOST_DOMAIN, HOST_RESOLVER},
};

use crate::{arguments::NamesVerb, output};

/// Where systemd-resolved reads what others add (resolved.conf(5)).
const DROP_INS: &str = "/etc/systemd/resolved.conf.d";
const DROP_IN: &str = "netd.conf";
/// Where it reads the rest of its configuration.
const CONFIGURATION: &str = "/etc/systemd/resolved.conf";
const FURTHER_DROP_INS: [&str; 3] = [
    "/run/systemd/resolved.conf.d",
    "/usr/local/lib/systemd/resolved.conf.d",
    "/usr/lib/systemd/resolved.conf.d",
];
/// There while systemd-resolved runs.
const RUNS: &str = "/run/systemd/resolve";
const SERVICE: &str = "systemd-resolved.service";

/// `names …`.
pub(crate) fn names(verb: NamesVerb) -> Result<u8> {
    let place = Path::new(DROP_INS).join(DROP_IN);
    match verb {
        NamesVerb::Enable => {
            if !Path::new(RUNS).exists() {
                return Err(no_resolved().into());
            }
            if let Some(other) = files().into_iter().find(|file| names_servers(file)) {
                return Err(mixed_up(&other).into());
            }
            write(&place).map_err(|error| refused("write", &place, &error))?;
            take_over()?;
            output::print(&format!("NAME.NETWORK.{HOST_DOMAIN}"))?;
        }
        NamesVerb::Disable => {
            let was_there = remove(&place).map_err(|error| refused("remove", &place, &error))?;
            if was_there && Path::new(RUNS).exists() {
                take_over()?;
            }
        }
    }
    Ok(0)
}

fn content() -> String {
    format!(
        "# Written by `swarmctl names enable`; `swarmctl names disable` removes it.\n\
         [Resolve]\n\
         DNS={HOST_RESOLVER}\n\
         Domains=~{HOST_DOMAIN}\n"
    )
}

/// The files of its configuration that others write.
fn files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from(CONFIGURATION)];
    for directory in [&[DROP_INS][..], &FURTHER_DROP_INS].concat() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()));
    }
    files.retain(|file| *file != Path::new(DROP_INS).join(DROP_IN));
    files
}

/// Whether a file of its configuration names DNS servers for all links: systemd-resolved asks any
/// of those for any name, whichever domain stands beside them.
fn names_servers(file: &Path) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("DNS="));
    values.any(|value| !value.trim().is_empty())
}

fn mixed_up(file: &Path) -> Failure {
    let file = file.display();
    let cause = format!(
        "{file} names DNS servers for all links: systemd-resolved would ask them for names of \
         networks, and netd for all others"
    );
    let next = "give those servers to a link instead (`DNS=` of a .network file of \
                systemd-networkd, `ipv4.dns` of a connection of NetworkManager), then repeat this";
    Failure::new(Kind::Precondition, cause, next).about("names of networks")
}

/// As a whole: systemd-resolved never reads a part.
fn write(place: &Path) -> io::Result<()> {
    let directory = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let part: PathBuf = directory.join(".netd.conf.part");
    fs::write(&part, content())?;
    fs::rename(&part, place)
}

/// Whether it was there.
fn remove(place: &Path) -> io::Result<bool> {
    match fs::remove_file(place) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Versions before 253 of systemd-resolved know no reload: they are restarted.
fn take_over() -> Result<()> {
    let next = format!("restart it by hand: `systemctl restart {SERVICE}`");
    let failed = |cause: String| {
        Failure::new(Kind::Unavailable, cause, next.clone()).about("systemd-resolved")
    };
    let ended = Command::new("systemctl")
        .args(["try-reload-or-restart", SERVICE])
        .output()
        .map_err(|error| failed(format!("cannot run systemctl: {error}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(failed(format!("systemctl cannot restart it: {said}")).into())
}

fn no_resolved() -> Failure {
    let cause = "this host does not use systemd-resolved, or it does not run";
    let next = format!(
        "start it, or tell the resolver that the host uses to ask {HOST_RESOLVER} for names below \
         {HOST_DOMAIN}; docs/hosts.md shows how for dnsmasq, NetworkManager and unbound"
    );
    Failure::new(Kind::Precondition, cause, next).about("names of networks")
}

fn refused(verb: &str, place: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => Kind::Denied,
        _ => Kind::Unavailable,
    };
    let cause = format!("cannot {verb} it: {error}");
    Failure::new(kind, cause, "run it as root, and look at the directory")
        .about(format!("file {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_for_all_links_are_noticed() {
        let file = std::env::temp_dir().join(format!("netd-resolved-{}", std::process::id()));
        for (text, expected) in [
            (
                "[Resolve]\n#DNS=192.0.2.1\nDNS=\nFallbackDNS=192.0.2.1\n",
                false,
            ),
            ("[Resolve]\n DNS=192.0.2.1 192.0.2.2\n", true),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(names_servers(&file), expected, "{text}");
        }
        fs::remove_file(&file).unwrap();
        assert!(!names_servers(&file));
    }

    #[test]
    fn disable_removes_all_that_enable_writes() {
        let directory = std::env::temp_dir().join(format!("netd-names-{}", std::process::id()));
        let place = directory.join("resolved.conf.d").join(DROP_IN);
        write(&place).unwrap();
        write(&place).unwrap();
        let written = fs::read_to_string(&place).unwrap();
        let lines: Vec<&str> = written.lines().skip(1).collect();
        assert_eq!(
            lines,
            ["[Resolve]", "DNS=127.0.0.110", "Domains=~netd.internal"]
        );
        assert!(remove(&place).unwrap());
        assert!(!remove(&place).unwrap(), "it is gone already");
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }
}
