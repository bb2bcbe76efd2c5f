//! A cluster of a previous level is upgraded host by host, goes half-way back, and is upgraded to
//! the end, under traffic and commands. `PREVIOUS_NETD` names the netd of that level and
//! `PREVIOUS_LEVEL` the level: `make test-upgrade` builds those of `tests/previous` and runs this.
#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use model::Level;
use serde_json::Value;
use tests::{Lab, binaries, eventually, holds};

const HOSTS: [&str; 5] = ["h1", "h2", "h3", "h4", "h5"];
const MANAGERS: [&str; 3] = ["h1", "h2", "h3"];
/// Requests per second of each client.
const RATE: u32 = 40;
/// A request that takes longer hangs, in milliseconds. A resolver whose netd restarts does not
/// answer, and clients ask it again after five seconds.
const HANGS: u64 = 9_000;

fn previous() -> PathBuf {
    let path = std::env::var_os("PREVIOUS_NETD").expect("`make test-upgrade` sets PREVIOUS_NETD");
    PathBuf::from(path)
}

/// The newest level that the previous netd knows.
fn previous_level() -> u64 {
    let level = std::env::var("PREVIOUS_LEVEL").expect("`make test-upgrade` sets PREVIOUS_LEVEL");
    level.parse().expect("a level is a number")
}

/// Creates one service after the other until told to stop; returns the names of all that a manager
/// confirmed. Every command has to succeed.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Writer {
    /// Writes through a host that is not touched meanwhile.
    fn begin(lab: &Arc<Lab>, host: &'static str, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (lab, stopped, name) = (lab.clone(), stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let service = format!("{name}-{}", written.len());
                let create = format!("service create --detach --name {service} --replicas 0");
                lab.ctl(host, &format!("{create} -- true")).ok();
                written.push(service);
            }
            written
        });
        Self { stop, thread }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every command succeeded")
    }
}

fn begin_traffic(lab: &Lab) {
    lab.ctl("h1", "network create --driver overlay net").ok();
    let web = "service create --name web --network net --replicas 5 --drain 500ms";
    lab.ctl("h1", &format!("{web} -- netd whoami --port 80"))
        .ok();
    for host in HOSTS {
        lab.show(host, &binaries());
    }
    let load = "service create --name load --network net --replicas 3";
    lab.ctl("h1", &format!("{load} -- /mnt/load web {RATE} 4"))
        .ok();
}

/// What each client saw.
fn end_traffic(lab: &Lab) -> Vec<Value> {
    let clients = ["load.1", "load.2", "load.3"];
    for client in clients {
        lab.inside("h1", client, &["touch", "/tmp/stop"]).ok();
    }
    let seen = |client: &str| {
        eventually("the client has told what it saw", || {
            let said = lab.ctl("h1", &format!("service logs {client}"));
            let text = said.out.find('{').map(|start| said.out[start..].to_owned());
            text.and_then(|text| serde_json::from_str(text.trim()).ok())
                .ok_or_else(|| format!("{said:?}"))
        })
    };
    clients.map(seen).to_vec()
}

fn all_ready(lab: &Lab, ask: &str) {
    eventually("all nodes are ready and have their view", || {
        let nodes = lab.json(ask, "node ls");
        let ready = |node: &Value| node["status"] == "ready";
        holds(nodes.len() == HOSTS.len() && nodes.iter().all(ready), nodes)
    });
}

fn level(lab: &Lab, host: &str) -> u64 {
    lab.json(host, "status")[0]["level"].as_u64().unwrap_or(0)
}

/// Log index and digest of a manager's state.
fn digest(lab: &Lab, host: &str) -> (u64, String) {
    let text = lab.ctl(host, "debug digest").ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    let sha = value["sha256"].as_str().unwrap().to_owned();
    (value["index"].as_u64().unwrap(), sha)
}

fn states_are_the_same(lab: &Lab, managers: &[&str]) {
    eventually("all managers have the same state at the same index", || {
        let digests: Vec<_> = managers.iter().map(|host| digest(lab, host)).collect();
        let same_index = digests.iter().all(|(index, _)| *index == digests[0].0);
        if same_index {
            let is_same = digests.iter().all(|other| *other == digests[0]);
            assert!(is_same, "the states differ: {digests:?}");
        }
        holds(same_index, digests)
    });
}

#[test]
fn rolling_upgrade_with_a_way_back_loses_nothing() {
    let (old, new) = (previous(), binaries().join("netd"));
    let everywhere: Vec<_> = HOSTS.map(|host| (host, old.as_path())).to_vec();
    let lab = Arc::new(Lab::up_with(5, &everywhere));
    let before = previous_level();
    eventually(
        "the cluster goes up to what the previous netd knows",
        || {
            let level = level(&lab, "h1");
            holds(level == before, level)
        },
    );
    begin_traffic(&lab);
    let mut written = Vec::new();
    let mut change = |host: &str, netd: &PathBuf| {
        // Commands go through a manager that stays up.
        let through = if host == "h1" { "h2" } else { "h1" };
        let name = format!("w{}", written.len());
        let writer = Writer::begin(&lab, through, &name);
        lab.upgrade(host, netd).ok();
        all_ready(&lab, through);
        written.extend(writer.end());
    };
    for host in ["h5", "h3", "h2"] {
        change(host, &new);
        assert_eq!(
            level(&lab, host),
            before,
            "some members know no later level"
        );
    }
    states_are_the_same(&lab, &["h2", "h3"]);
    for host in ["h3", "h5"] {
        change(host, &old);
    }
    for host in ["h3", "h4", "h5", "h1"] {
        change(host, &new);
    }
    for host in HOSTS {
        eventually("the cluster goes up to the newest level", || {
            let level = level(&lab, host);
            holds(level == u64::from(Level::NEWEST.0), (host, level))
        });
    }
    states_are_the_same(&lab, &MANAGERS);

    let listed = lab.json("h1", "service ls");
    let names: Vec<&str> = listed
        .iter()
        .filter_map(|one| one["spec"]["name"].as_str())
        .collect();
    let lost: Vec<_> = written
        .iter()
        .filter(|name| !names.contains(&name.as_str()))
        .collect();
    assert!(
        written.len() > HOSTS.len() && lost.is_empty(),
        "lost of {}: {lost:?}",
        written.len()
    );
    for client in end_traffic(&lab) {
        assert_eq!(client["failed"], 0, "{:?}", client["failures"]);
        assert!(client["requests"].as_u64() > Some(0));
        assert!(client["slowest"].as_u64() < Some(HANGS), "{client}");
    }
    lab.ctl("h1", "ipam check").ok();
    the_way_down_is_refused(&lab, before);
}

/// What is on the disk of a manager and of a worker is refused by a netd that does not know its
/// level, and stays as it is.
fn the_way_down_is_refused(lab: &Lab, before: u64) {
    for host in ["h2", "h5"] {
        let copy = format!(
            "rm -rf /tmp/copy && cp -r /var/lib/netd /tmp/copy && exec unshare --net netd \
             --max-level {before} --directory /tmp/copy --socket /tmp/copy/netd.sock"
        );
        let said = lab.exec(host, &["sh", "-c", &copy]);
        assert_ne!(said.code, 0);
        for word in [
            &format!("is of level {}", Level::NEWEST),
            &format!("knows levels up to {before}"),
            "install",
            "leave it where it is",
        ] {
            assert!(said.err.contains(word), "{word}: {}", said.err);
        }
    }
}
