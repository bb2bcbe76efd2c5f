//! What labs there are, and what their daemons wrote.

use std::{fs, io, net::Ipv4Addr};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    HostName, LabName,
    place::Place,
    processes::{self, Part},
};
use crate::output::{Format, List};

/// Lines of a log that go with an error.
const TAIL: usize = 20;

#[derive(Serialize)]
struct HostInfo {
    lab: String,
    name: String,
    state: &'static str,
    address: Ipv4Addr,
    pid: Option<i32>,
}

/// Lists every lab's hosts.
pub(crate) fn ls(format: Format) -> Result<()> {
    let running = processes::all()?;
    let pid = |lab: &LabName, host| {
        running
            .iter()
            .find(|process| process.lab == *lab && process.part == Part::Host(host))
            .map(|process| process.pid)
    };
    let mut hosts = Vec::new();
    for place in Place::all()? {
        for host in place.hosts()? {
            let pid = pid(&place.lab, host);
            let state = if pid.is_some() { "on" } else { "off" };
            hosts.push(HostInfo {
                lab: place.lab.to_string(),
                name: host.to_string(),
                state,
                address: host.v4(),
                pid,
            });
        }
    }
    List::of(&hosts)
        .column("LAB", |host| host.lab.clone())
        .column("HOST", |host| host.name.clone())
        .column("STATE", |host| host.state.to_owned())
        .column("ADDRESS", |host| host.address.to_string())
        .column("PID", |host| {
            host.pid.map_or(String::new(), |pid| pid.to_string())
        })
        .print(format)
}

/// Prints the log of a host's netd.
pub(crate) fn logs(place: &Place, host: HostName) -> Result<()> {
    place.expect(host)?;
    let path = place.log(host);
    let mut log = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    match io::copy(&mut log, &mut io::stdout()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result
            .map(|_| ())
            .with_context(|| format!("printing {}", path.display())),
    }
}

/// The end of a host's log, for an error.
pub(crate) fn tail(place: &Place, host: HostName) -> String {
    let path = place.log(host);
    let text = fs::read(&path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    format!(
        "the end of {}:\n{}",
        path.display(),
        last.iter()
            .map(|line| format!("  | {line}"))
            .collect::<Vec<_>>()
            .join("\n")
    )
}
