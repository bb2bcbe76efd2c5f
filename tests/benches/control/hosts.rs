//! The three hosts, with a manager and a member of etcd on each.

use std::{
    env, fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, eventually, holds, run};

use crate::load::Kind;

pub const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
/// On the disk that netd keeps its own state on.
const DATA: &str = "/var/lib/netd/etcd";
const ETCD: &str = "/usr/bin/etcd";

/// A lab where both run.
pub struct Cluster {
    pub lab: Lab,
    program: String,
    addresses: Vec<String>,
    etcd: Vec<Option<Child>>,
}

impl Cluster {
    pub fn up() -> Result<Self> {
        let lab = Lab::up(HOSTS.len() as u32);
        let program = env::current_exe()?.to_string_lossy().into_owned();
        let nodes = lab.json("h1", "node ls");
        let address = |host: &str| {
            let node = nodes.iter().find(|node| node["hostname"] == host)?;
            let address = node["address"].as_str()?.rsplit_once(':')?.0;
            Some(address.to_owned())
        };
        let addresses = HOSTS.map(address).into_iter().collect::<Option<Vec<_>>>();
        let mut cluster = Self {
            lab,
            program,
            addresses: addresses.context("the hosts' addresses")?,
            etcd: Vec::new(),
        };
        if fs::exists(ETCD)? {
            cluster.etcd = HOSTS.map(|_| None).into();
            for host in HOSTS {
                cluster.start_etcd(host)?;
            }
        } else {
            println!("{ETCD} is not installed (`make setup-bench`): ours alone");
        }
        cluster.settle();
        Ok(cluster)
    }

    /// What is compared.
    pub fn kinds(&self) -> Vec<Kind> {
        match self.etcd.is_empty() {
            true => vec![Kind::Ours],
            false => vec![Kind::Ours, Kind::Etcd],
        }
    }

    /// Starts etcd on a host, after a power cut with what is on its disk.
    pub fn start_etcd(&mut self, host: &str) -> Result<()> {
        let members: Vec<String> = HOSTS
            .iter()
            .zip(&self.addresses)
            .map(|(host, address)| format!("{host}=http://{address}:2380"))
            .collect();
        let position = HOSTS.iter().position(|one| *one == host).unwrap_or(0);
        let Some(place) = self.etcd.get_mut(position) else {
            return Ok(());
        };
        let address = &self.addresses[position];
        let line = format!(
            "echo $$ >/run/etcd.pid; exec {ETCD} --name {host} --data-dir {DATA} \
             --listen-peer-urls http://{address}:2380 \
             --initial-advertise-peer-urls http://{address}:2380 \
             --listen-client-urls http://127.0.0.1:2379 \
             --advertise-client-urls http://127.0.0.1:2379 \
             --initial-cluster {} --initial-cluster-state new --log-level error",
            members.join(",")
        );
        if let Some(mut ended) = place.take() {
            let _ = ended.kill();
            let _ = ended.wait();
        }
        let mut command = self.lab.command(host, &["sh", "-c", &line]);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        *place = Some(quiet.spawn()?);
        Ok(())
    }

    /// Waits until all hosts are ready and both have a leader.
    pub fn settle(&self) {
        eventually("all managers are ready and one leads", || {
            let nodes = self.lab.json("h1", "node ls");
            let ready = nodes.iter().filter(|node| node["status"] == "ready");
            let leads = nodes.iter().any(|node| node["leader"] == true);
            holds(ready.count() == HOSTS.len() && leads, &nodes)
        });
        if !self.etcd.is_empty() {
            eventually("all of etcd answer and one leads", || {
                let said = HOSTS.map(|host| self.ask(host, &["leads"]));
                let leaders = said.iter().filter(|said| *said == "true").count();
                holds(
                    leaders == 1 && said.iter().all(|said| !said.is_empty()),
                    &said,
                )
            });
        }
    }

    /// The host whose member leads.
    pub fn leader(&self, kind: Kind) -> &'static str {
        eventually("one leads", || {
            let found = match kind {
                Kind::Etcd => HOSTS
                    .into_iter()
                    .find(|host| self.ask(host, &["leads"]) == "true"),
                _ => {
                    let nodes = self.lab.json("h1", "node ls");
                    let leader = nodes.into_iter().find(|node| node["leader"] == true);
                    let name = leader.map(|node| node["hostname"].clone());
                    HOSTS
                        .into_iter()
                        .find(|host| name.as_ref().is_some_and(|name| name == host))
                }
            };
            found.ok_or_else(|| "none".to_owned())
        })
    }

    /// This program on a host, to be started.
    pub fn program(&self, host: &str, words: &[&str]) -> Command {
        let words: Vec<&str> = [self.program.as_str()]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        self.lab.command(host, &words)
    }

    fn ask(&self, host: &str, words: &[&str]) -> String {
        run(&mut self.program(host, words)).out.trim().to_owned()
    }

    /// The JSON that this program prints on a host.
    pub fn told(&self, host: &str, words: &[&str]) -> Result<Value> {
        let said = run(&mut self.program(host, words));
        serde_json::from_str(&said.out).with_context(|| format!("{words:?}: {said:?}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.etcd.iter_mut().flatten() {
            let _ = running.kill();
            let _ = running.wait();
        }
    }
}
