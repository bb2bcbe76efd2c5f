//! `lab up`: switch, hosts, and a cluster of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow, bail};
use api::{InitRequest, JoinRequest};
use model::{Kind, NodeInfo, NodeStatus, Question, Refusal, Role};

use super::{
    HostName,
    binary::{self, Binary},
    down, host,
    place::Place,
    power,
    processes::{self, Part},
    roster,
};
use crate::{arguments::HostBinary, daemon::Daemon, failure, output};

/// How long the nodes may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Managers unless told otherwise: one may die.
const MANAGERS: u8 = 3;

/// What lab is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    hosts: u8,
    managers: u8,
    netd: BTreeMap<HostName, Binary>,
}

impl Plan {
    /// So many hosts, the first so many of them managers, and which of them run another netd.
    pub(crate) fn new(hosts: u8, managers: Option<u8>, netd: &[HostBinary]) -> Result<Self> {
        let managers = managers.unwrap_or(hosts.min(MANAGERS));
        if managers > hosts {
            let cause = format!("{managers} managers do not fit on {hosts} hosts");
            return Err(Refusal::new(
                Kind::Invalid,
                cause,
                "give more --hosts or fewer --managers",
            )
            .into());
        }
        Ok(Self {
            hosts,
            managers,
            netd: by_host(hosts, netd)?,
        })
    }
}

fn by_host(hosts: u8, netd: &[HostBinary]) -> Result<BTreeMap<HostName, Binary>> {
    let mut binaries = BTreeMap::new();
    for HostBinary { host, path } in netd {
        if !HostName::first(hosts).any(|there| there == *host) {
            let cause = format!("--netd names {host}, and the lab has {hosts} hosts");
            return Err(Refusal::new(Kind::Invalid, cause, "give more --hosts").into());
        }
        if binaries.insert(*host, Binary::at(path)?).is_some() {
            let cause = format!("--netd names {host} twice");
            return Err(Refusal::new(Kind::Invalid, cause, "give one netd for each host").into());
        }
    }
    Ok(binaries)
}

/// What becomes of a lab of which a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incomplete {
    /// It is taken down again.
    Removed,
    /// It is left as it is, to be looked at.
    Kept,
}

/// Makes a lab.
pub(crate) fn up(place: &Place, plan: &Plan, incomplete: Incomplete) -> Result<()> {
    let _lock = place.lock()?;
    if place.exists() || !processes::of(&place.lab)?.is_empty() {
        let next = format!(
            "`swarmctl lab down --name {}` removes it, `--name` names another one",
            place.lab
        );
        return Err(Refusal::new(
            Kind::Conflict,
            format!("there is a lab {} already", place.lab),
            next,
        )
        .into());
    }
    let result = build(place, plan);
    let name = &place.lab;
    match &result {
        Ok(()) => output::print(&format!(
            "lab {name} is up: `swarmctl lab exec --name {name} h1 -- swarmctl node ls`"
        )),
        Err(_) if incomplete == Incomplete::Kept => {
            eprintln!("lab {name} is left as it is: `swarmctl lab down --name {name}` removes it");
            result
        }
        Err(_) => {
            eprintln!("lab {name} is not complete: taking it down again");
            if let Err(error) = down::clear(place) {
                eprintln!("Error: {error:#}");
            }
            result
        }
    }
}

fn build(place: &Place, plan: &Plan) -> Result<()> {
    install(place)?;
    for (host, netd) in &plan.netd {
        binary::give(place, *host, netd)?;
    }
    connect(place)?;
    for host in HostName::first(plan.hosts) {
        power::boot(place, host)?;
        output::print(&format!("{host}: on, {}", host.v4()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            result = unite(place, plan) => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// Puts the binaries where all hosts see them.
fn install(place: &Place) -> Result<()> {
    let (runtime, binaries) = (place.runtime(), place.binaries());
    for directory in [&runtime, &binaries] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let this = std::env::current_exe().context("looking for this program")?;
    let netd = find("netd", &this).ok_or_else(|| {
        let cause = format!("there is no netd beside {} nor in $PATH", this.display());
        Refusal::new(Kind::NotFound, cause, "build or install netd, too")
    })?;
    Binary::at(&this)?.copy(&binaries.join("swarmctl"))?;
    Binary::at(&netd)?.copy(&binaries.join("netd"))?;
    for plugin in ["netd-cni", "netd-netavark"] {
        if let Some(found) = find(plugin, &this) {
            Binary::at(&found)?.copy(&binaries.join(plugin))?;
        }
    }
    Ok(())
}

fn find(program: &str, beside: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = beside
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&path));
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Starts the switch and waits until it is there.
fn connect(place: &Place) -> Result<()> {
    let path = place.switch_log();
    let log = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    host::spawn_ready(&place.lab, Part::Switch, &log).map_err(|error| {
        anyhow!(
            "{error:#}: {}",
            fs::read_to_string(&path).unwrap_or_default().trim()
        )
    })
}

async fn unite(place: &Place, plan: &Plan) -> Result<()> {
    let first = power::daemon(place, HostName::FIRST).await?;
    let listen = std::net::SocketAddr::from(([0, 0, 0, 0], HostName::FIRST.control().port()));
    let init = InitRequest {
        advertise: HostName::FIRST.control(),
        listen,
        data_path: None,
        data_path_port: api::DATA_PATH_PORT,
    };
    blame(place, HostName::FIRST, first.init(&init).await)?;
    output::print(&format!("{}: has made a cluster", HostName::FIRST))?;
    for (number, host) in (1..).zip(HostName::first(plan.hosts)).skip(1) {
        let role = if number <= plan.managers {
            Role::Manager
        } else {
            Role::Worker
        };
        let token = blame(place, HostName::FIRST, first.token(role).await)?;
        let (advertise, manager) = (Some(host.control()), HostName::FIRST.control());
        let join = JoinRequest {
            token: token.token,
            manager,
            advertise,
            listen,
            data_path: None,
        };
        let daemon = power::daemon(place, host).await?;
        blame(place, host, daemon.join(&join).await)?;
        output::print(&format!("{host}: has joined as a {role}"))?;
    }
    blame(
        place,
        HostName::FIRST,
        ready(&first, usize::from(plan.hosts)).await,
    )
}

async fn ready(daemon: &Daemon, hosts: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let nodes = daemon.ask(Question::nodes()).await?;
        let waiting = |node: &&NodeInfo| node.status != NodeStatus::Ready;
        let waiting: Vec<_> = nodes
            .iter()
            .filter(waiting)
            .map(|node| node.hostname.clone())
            .collect();
        if waiting.is_empty() && nodes.len() == hosts {
            return Ok(());
        }
        if start.elapsed() > READY_LIMIT {
            bail!(
                "{} of {hosts} nodes are there, not ready: {}",
                nodes.len(),
                waiting.join(", ")
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Adds the end of the host's log to an error.
fn blame<T>(place: &Place, host: HostName, result: Result<T, impl Into<Error>>) -> Result<T> {
    result.map_err(|error| {
        let said = failure::in_full(&error.into());
        anyhow!("{host}: {said}\n{}", roster::tail(place, host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn managers(hosts: u8, managers: Option<u8>) -> Result<u8> {
        Plan::new(hosts, managers, &[]).map(|plan| plan.managers)
    }

    #[test]
    fn managers_default_to_three_and_never_exceed_hosts() {
        assert_eq!(managers(2, None).unwrap(), 2);
        assert_eq!(managers(5, None).unwrap(), 3);
        assert_eq!(managers(5, Some(1)).unwrap(), 1);
        assert!(managers(1, Some(2)).is_err());
    }

    #[test]
    fn netd_of_a_host_is_given_once_and_to_a_host_of_the_lab() {
        let netd = |host: &str| HostBinary {
            host: host.parse().unwrap(),
            path: "/proc/self/exe".into(),
        };
        let plan = |given: &[HostBinary]| Plan::new(2, None, given);
        assert_eq!(plan(&[netd("h1"), netd("h2")]).unwrap().netd.len(), 2);
        let refusal = plan(&[netd("h3")]).unwrap_err().to_string();
        assert!(refusal.contains("names h3"), "{refusal}");
        let refusal = plan(&[netd("h1"), netd("h1")]).unwrap_err().to_string();
        assert!(refusal.contains("h1 twice"), "{refusal}");
    }
}
