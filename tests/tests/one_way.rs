//! Managers that reach others and are not reached, or the other way round: a majority that is well
//! keeps its leader, its nodes and its tasks.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Lab, eventually, holds};

/// For how long a cut is watched: longer than anything that is done about a silent node.
const WATCHED: Duration = Duration::from_secs(8);

/// What a host's firewall drops: packets to TCP port 2377 that come in or go out, of all hosts or
/// of one.
#[derive(Clone, Copy, Debug)]
enum Cut<'a> {
    In(&'a str),
    Out(&'a str),
    From(&'a str, &'a str),
}

impl<'a> Cut<'a> {
    fn host(self) -> &'a str {
        match self {
            Self::In(host) | Self::Out(host) | Self::From(_, host) => host,
        }
    }

    fn make(self, lab: &Lab) {
        let (hook, packets) = match self {
            Self::In(_) => ("input", "iifname != lo".to_owned()),
            Self::Out(_) => ("output", "oifname != lo".to_owned()),
            Self::From(from, _) => ("input", format!("ip saddr {}", address(lab, from))),
        };
        let rules = format!(
            "add table inet cut; \
             add chain inet cut c {{ type filter hook {hook} priority 0; }}; \
             add rule inet cut c {packets} tcp dport 2377 drop"
        );
        lab.exec(self.host(), &["nft", &rules]).ok();
    }

    fn end(self, lab: &Lab) {
        lab.exec(self.host(), &["nft", "delete table inet cut"])
            .ok();
    }
}

fn address(lab: &Lab, host: &str) -> String {
    let nodes = lab.json(host, "node ls");
    let own = nodes.iter().find(|node| node["hostname"] == host);
    let address = own.and_then(|node| node["address"].as_str());
    let address = address.and_then(|address| address.rsplit_once(':'));
    let (address, _) = address.expect("each node has an address");
    address.to_owned()
}

fn leader(lab: &Lab, ask: &str) -> String {
    eventually("a manager leads", || {
        let said = lab.ctl(ask, "node ls -o json");
        let nodes: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said.err)?;
        let leads = nodes.iter().find(|node| node["leader"] == true);
        let name = leads.and_then(|node| node["hostname"].as_str());
        name.map(str::to_owned).ok_or_else(|| format!("{nodes:?}"))
    })
}

fn all_ready(lab: &Lab, ask: &str, hosts: usize) {
    eventually("all nodes are ready", || {
        let said = lab.ctl(ask, "node ls -o json");
        let nodes: Vec<Value> = serde_json::from_str(&said.out).map_err(|_| said.err)?;
        let ready = nodes.iter().filter(|node| node["status"] == "ready");
        let leads = nodes.iter().any(|node| node["leader"] == true);
        holds(leads && ready.count() == hosts, &nodes)
    });
}

/// While the cuts last, each command at a host that is well succeeds, all hosts that are well are
/// ready, and no task of theirs is replaced.
fn is_well_under(lab: &Lab, cuts: &[Cut<'_>], well: &[&str], hosts: usize) {
    all_ready(lab, well[0], hosts);
    let tasks = |ask: &str| {
        let mut ids: Vec<Value> = lab.running(ask, "web").into_iter().collect();
        ids.retain(|task| well.iter().any(|host| task["node"] == *host));
        let mut ids: Vec<String> = ids.iter().map(|task| task["id"].to_string()).collect();
        ids.sort();
        ids
    };
    let before = tasks(well[0]);
    for cut in cuts {
        cut.make(lab);
    }
    let start = Instant::now();
    let mut turn = 0;
    while start.elapsed() < WATCHED {
        let ask = well[turn % well.len()];
        turn += 1;
        let line = format!("node update --availability active {ask}");
        lab.ctl(ask, &line).ok();
        for node in lab.json(ask, "node ls") {
            let is_well = well.iter().any(|host| node["hostname"] == *host);
            assert!(!is_well || node["status"] == "ready", "{cuts:?}: {node}");
        }
    }
    let after = tasks(well[0]);
    assert!(
        before.iter().all(|task| after.contains(task)),
        "{cuts:?}: {before:?} {after:?}"
    );
    for cut in cuts {
        cut.end(lab);
    }
    all_ready(lab, well[0], hosts);
}

/// The hosts, the leader first.
fn by_role<'a>(lab: &Lab, hosts: &[&'a str]) -> Vec<&'a str> {
    let leads = leader(lab, hosts[0]);
    let mut hosts = hosts.to_vec();
    hosts.sort_by_key(|host| *host != leads);
    hosts
}

#[test]
fn a_one_way_cut_of_one_manager_of_three_harms_no_other() {
    let lab = Lab::tour(3);
    let all = ["h1", "h2", "h3"];
    for number in 0..7 {
        let hosts = by_role(&lab, &all);
        let (leads, follows, third) = (hosts[0], hosts[1], hosts[2]);
        let (cut, faulty) = match number {
            0 => (Cut::In(follows), follows),
            1 => (Cut::In(leads), leads),
            2 => (Cut::Out(follows), follows),
            3 => (Cut::Out(leads), leads),
            4 => (Cut::From(leads, follows), follows),
            5 => (Cut::From(follows, leads), follows),
            _ => (Cut::From(third, follows), third),
        };
        let well: Vec<&str> = hosts.into_iter().filter(|host| *host != faulty).collect();
        is_well_under(&lab, &[cut], &well, 3);
    }
}

#[test]
fn one_way_cuts_of_two_managers_of_five_harm_no_other() {
    let lab = Lab::tour_of_managers(5);
    let all = ["h1", "h2", "h3", "h4", "h5"];
    for number in 0..4 {
        let hosts = by_role(&lab, &all);
        let (leads, second, third) = (hosts[0], hosts[1], hosts[2]);
        let (cuts, faulty) = match number {
            0 => ([Cut::In(second), Cut::In(third)], [second, third]),
            1 => ([Cut::In(leads), Cut::In(second)], [leads, second]),
            2 => ([Cut::Out(leads), Cut::In(second)], [leads, second]),
            _ => ([Cut::In(leads), Cut::Out(third)], [leads, third]),
        };
        let well: Vec<&str> = hosts
            .into_iter()
            .filter(|host| !faulty.contains(host))
            .collect();
        is_well_under(&lab, &cuts, &well, 5);
    }
}
