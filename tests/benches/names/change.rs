//! How long after a task has ended or begun every host's names say so: from the process's own end
//! or beginning, as the clock of this machine has it, to the first answer that differs, asked on
//! each host every few milliseconds.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, eventually, holds};

use super::median;

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];
const ROUNDS: usize = 20;
const WATCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/names/watch.py");

/// What one host's resolver has said, each time that it differed: milliseconds since 1970, and the
/// addresses.
struct Watch {
    running: Child,
    said: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Watch {
    fn start(lab: &Lab, shell: &Value) -> Result<Self> {
        let text = |key: &str| shell[key].as_str().unwrap_or_default().to_owned();
        let sandbox = format!("netd-t-{}", text("id"));
        let words = [
            "ip",
            "netns",
            "exec",
            &sandbox,
            "/usr/bin/python3",
            WATCH,
            "tasks.web",
            "10.0.9.1",
        ];
        let mut running = lab
            .command(&text("node"), &words)
            .stdout(Stdio::piped())
            .spawn()?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (running.stdout.take().context("its output")?, said.clone());
        thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                if let Some((at, found)) = line.split_once(' ')
                    && let (Ok(at), Ok(mut heard)) = (at.parse(), heard.lock())
                {
                    heard.push((at, found.to_owned()));
                }
            }
        });
        Ok(Self { running, said })
    }

    /// When its answer first had this address, or had it no more, after a moment.
    fn changed(&self, has: bool, address: &str, after: u64) -> u64 {
        eventually("a host's names follow", || {
            let said = self.said.lock().map_err(|_| "no watch".to_owned())?.clone();
            let is_it =
                |found: &str| found.split(' ').any(|one| one == address) == has && found != "?";
            let found = said
                .iter()
                .find(|(at, found)| *at >= after && is_it(found))
                .map(|(at, _)| *at);
            found.ok_or_else(|| format!("{address} {has} {after}: {said:?}"))
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

/// Kills a task again and again, and prints how long names took to follow.
pub fn measure() -> Result<()> {
    let lab = Lab::up(3);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 my-net")
        .ok();
    lab.ctl(
        "h1",
        "service create --name shell --replicas 3 --network my-net -- sleep infinity",
    )
    .ok();
    let script = "date +%s%3N; exec sleep infinity";
    let create = [
        "swarmctl",
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        "3",
        "--network",
        "my-net",
    ];
    let more = ["--restart-delay", "500ms", "--", "sh", "-c", script];
    lab.exec("h1", &[&create[..], &more].concat()).ok();
    let shells = lab.running("h1", "shell");
    let watches: Vec<Watch> = shells
        .iter()
        .map(|shell| Watch::start(&lab, shell))
        .collect::<Result<_>>()?;
    eventually("every host is watched", || {
        holds(
            watches
                .iter()
                .all(|watch| watch.said.lock().is_ok_and(|said| !said.is_empty())),
            "",
        )
    });
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let tasks = eventually("all run", || {
            let tasks = lab.running("h1", "web");
            if tasks.len() == HOSTS.len() {
                Ok(tasks)
            } else {
                Err(format!("{tasks:?}"))
            }
        });
        let victim = &tasks[round % tasks.len()];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (node, name, address) = (
            text(&victim["node"]),
            text(&victim["name"]),
            text(&victim["addresses"][0]),
        );
        let sandbox = format!("netd-t-{}", text(&victim["id"]));
        let kill = format!("pids=$(ip netns pids {sandbox}); date +%s%3N; kill -9 $pids");
        let ended: u64 = lab.exec(&node, &["sh", "-c", &kill]).ok().trim().parse()?;
        gone.extend(
            watches
                .iter()
                .map(|watch| (watch.changed(false, &address, ended) - ended) as f64),
        );
        let begun: u64 = eventually("it runs again and says when it began", || {
            let log = lab.ctl("h1", &format!("service logs {name}")).out;
            let last = log
                .lines()
                .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
                .max();
            last.filter(|at| *at > ended).ok_or(log)
        });
        there.extend(
            watches
                .iter()
                .map(|watch| watch.changed(true, &address, begun).saturating_sub(begun) as f64),
        );
        thread::sleep(Duration::from_millis(37));
    }
    println!(
        "\na change of a task on every one of three hosts' names, {ROUNDS} times, milliseconds\n"
    );
    println!("| | median | slowest of ten |\n|---|---|---|");
    for (what, found) in [
        ("its process has ended: its address is gone", gone),
        ("its process has begun: its address is there", there),
    ] {
        let mut found = found;
        let half = median(&mut found).context("no samples")?;
        println!(
            "| {what} | {half:.0} | {:.0} |",
            found[found.len() * 9 / 10]
        );
    }
    Ok(())
}
