//! What the overlay costs: TCP round trip, connect with one request, and a transfer of 1 MB,
//! between tasks on two hosts, against the bare link, a tunnel made by hand, a bare macvlan and
//! Docker's own overlay: in turn in one run, everything pinned to one processor. Prints medians and
//! their ratios. This program is also the server and the client that it runs.

mod docker;
mod encrypted;
mod virtual_ips;

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{Lab, run};

const PORT: u16 = 7777;
/// Rounds of each path, in turn, so that a slow minute of the machine hits all alike.
const ROUNDS: usize = 15;
/// In each round. Not too many connections: all of a minute's are remembered by the client's kernel
/// (TIME_WAIT).
const EXCHANGES: usize = 2000;
const CONNECTIONS: usize = 200;
const TRANSFERS: usize = 20;
const MEGABYTE: usize = 1 << 20;
/// Asks for a megabyte; any other byte comes back.
const TRANSFER: u8 = b'm';

/// Where a client runs and whom it calls.
struct Path {
    what: &'static str,
    host: &'static str,
    /// The words that take it into a namespace of the host.
    inside: Vec<String>,
    address: String,
}

fn main() -> Result<()> {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        ["client", address] => client(address),
        ["encrypted"] => encrypted::compare(),
        ["virtual-ips"] => virtual_ips::compare(),
        _ => compare(),
    }
}

/// Answers bytes, on every connection.
fn serve() -> Result<()> {
    for stream in TcpListener::bind(("::", PORT))?.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> Result<()> {
            let (mut byte, megabyte) = ([0], vec![0; MEGABYTE]);
            stream.set_nodelay(true)?;
            loop {
                stream.read_exact(&mut byte)?;
                let answer = if byte[0] == TRANSFER {
                    &megabyte[..]
                } else {
                    &byte
                };
                stream.write_all(answer)?;
            }
        });
    }
    Ok(())
}

/// Prints the medians of the three, in nanoseconds.
fn client(address: &str) -> Result<()> {
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect((address, PORT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let ask = |stream: &mut TcpStream, byte: u8, answer: &mut [u8]| -> Result<()> {
        stream.write_all(&[byte])?;
        Ok(stream.read_exact(answer)?)
    };
    let mut stream = connect()?;
    let mut megabyte = vec![0; MEGABYTE];
    let trip = median(EXCHANGES, || ask(&mut stream, b'x', &mut [0]))?;
    let transfer = median(TRANSFERS, || ask(&mut stream, TRANSFER, &mut megabyte))?;
    let fresh = median(CONNECTIONS, || ask(&mut connect()?, b'x', &mut [0]))?;
    println!(
        "{} {} {}",
        trip.as_nanos(),
        fresh.as_nanos(),
        transfer.as_nanos()
    );
    Ok(())
}

fn median(count: usize, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[count / 2])
}

/// The hosts of the lab: two with tasks, two with nothing, two with Docker.
const OURS: [&str; 2] = ["h1", "h2"];
const PLAIN: [&str; 2] = ["h3", "h4"];
const DOCKER: [&str; 2] = ["h5", "h6"];

fn compare() -> Result<()> {
    let lab = Lab::up(6);
    let mut servers = Servers {
        lab: &lab,
        running: Vec::new(),
    };
    let mut paths = Vec::new();
    paths.extend(made_by_hand(&mut servers)?);
    paths.extend(ours(&mut servers)?);
    paths.extend(on_lan(&mut servers)?);
    let docker = docker::Overlay::start(&lab, DOCKER);
    if let Some(docker) = &docker {
        servers.start(DOCKER[1], &docker.inside(1))?;
        paths.push(path(
            "Docker's own overlay",
            DOCKER[0],
            &docker.inside(0),
            &docker.address,
        ));
    } else {
        println!("Docker's overlay is left out: there is no dockerd (Debian package docker.io)\n");
    }
    in_turn(&lab, &paths, ROUNDS)
}

/// Measures all paths in rounds, and prints what came of it.
fn in_turn(lab: &Lab, paths: &[Path], rounds: usize) -> Result<()> {
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..rounds {
        for (path, samples) in paths.iter().zip(&mut samples) {
            samples.push(measure(lab, path)?);
        }
    }
    print(paths, &samples);
    Ok(())
}

/// What measures, pinned to one processor.
fn pinned(inside: &[String], words: &[&str]) -> Result<Vec<String>> {
    let program = env::current_exe()?.to_string_lossy().into_owned();
    let last = std::thread::available_parallelism()?.get().min(2) - 1;
    let pinned = ["taskset", "-c", &last.to_string(), &program].map(str::to_owned);
    Ok(inside
        .iter()
        .cloned()
        .chain(pinned)
        .chain(words.iter().map(ToString::to_string))
        .collect())
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn path(what: &'static str, host: &'static str, inside: &[String], address: &str) -> Path {
    Path {
        what,
        host,
        inside: inside.to_vec(),
        address: address.to_owned(),
    }
}

fn namespace(name: &str) -> Vec<String> {
    ["ip", "netns", "exec", name].map(str::to_owned).to_vec()
}

/// Servers outside tasks; they end with this value.
struct Servers<'a> {
    lab: &'a Lab,
    running: Vec<Child>,
}

impl Servers<'_> {
    fn start(&mut self, host: &str, inside: &[String]) -> Result<()> {
        self.running.push(
            self.lab
                .command(host, &words(&pinned(inside, &["serve"])?))
                .spawn()?,
        );
        Ok(())
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        for server in &mut self.running {
            let _ = server.kill();
        }
    }
}

fn shell(lab: &Lab, host: &str, script: &str) -> String {
    lab.exec(host, &["sh", "-ec", script])
        .ok()
        .trim()
        .to_owned()
}

/// The bare link, tunnels and macvlan as `ip` makes them. The tunnel has its address on the device
/// itself: nothing but eBPF costs less.
fn made_by_hand(servers: &mut Servers<'_>) -> Result<Vec<Path>> {
    let lab = servers.lab;
    let mut links = Vec::new();
    for hosts in [OURS, PLAIN] {
        let address = |host: &str| {
            shell(
                lab,
                host,
                "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1",
            )
        };
        let addresses = hosts.map(address);
        for (index, host) in hosts.iter().enumerate() {
            let (local, remote, number) = (&addresses[index], &addresses[1 - index], index + 1);
            let tunnel = format!(
                "ip link add hand type vxlan id 99 local {local} remote {remote} dstport 4789 \
                 nolearning; ip addr add 10.99.0.{number}/24 dev hand; \
                 ip addr add fd99::{number}/64 dev hand nodad; ip link set hand up; \
                 ip netns add mv; ip link add link eth0 name mv0 netns mv type macvlan mode \
                 bridge; ip -n mv addr add 10.97.0.{number}/24 dev mv0; ip -n mv link set mv0 up"
            );
            shell(lab, host, &tunnel);
        }
        servers.start(hosts[1], &[])?;
        servers.start(hosts[1], &namespace("mv"))?;
        links.push(addresses[1].clone());
    }
    Ok(vec![
        path("bare link", OURS[0], &[], &links[0]),
        path("VXLAN made by hand, IPv4", OURS[0], &[], "10.99.0.2"),
        path("VXLAN made by hand, IPv6", OURS[0], &[], "fd99::2"),
        path(
            "macvlan made by hand",
            OURS[0],
            &namespace("mv"),
            "10.97.0.2",
        ),
        path(
            "bare link, hosts without any rule",
            PLAIN[0],
            &[],
            &links[1],
        ),
        path(
            "VXLAN made by hand, hosts without any rule",
            PLAIN[0],
            &[],
            "10.99.0.2",
        ),
    ])
}

/// Between tasks' sandboxes on a network of ours. Like everywhere else, client and server are in no
/// cgroup of a task's or a container's: ways are compared, not shares of a processor.
fn ours(servers: &mut Servers<'_>) -> Result<Vec<Path>> {
    let lab = servers.lab;
    for host in PLAIN.iter().chain(&DOCKER) {
        lab.ctl("h1", &format!("node update --availability drain {host}"))
            .ok();
    }
    lab.ctl(
        "h1",
        "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net",
    )
    .ok();
    lab.ctl(
        "h1",
        "service create --name peer --replicas 2 --network my-net -- sleep infinity",
    )
    .ok();
    let [near, far] = tasks(lab, "peer")?;
    servers.start(OURS[1], &sandbox(&far))?;
    Ok(vec![
        path(
            "ours, task to task, IPv4",
            OURS[0],
            &sandbox(&near),
            address(&far, 0),
        ),
        path(
            "ours, task to task, IPv6",
            OURS[0],
            &sandbox(&near),
            address(&far, 1),
        ),
    ])
}

/// Between tasks' sandboxes on the hosts' LAN.
fn on_lan(servers: &mut Servers<'_>) -> Result<Vec<Path>> {
    let lab = servers.lab;
    let kinds = [
        (
            "dnsrr",
            "ours, macvlan, services `dnsrr` only",
            "10.96.1.0/24",
        ),
        ("vip", "ours, macvlan, with virtual IPs", "10.96.2.0/24"),
    ];
    let mut paths = Vec::new();
    for (mode, what, subnet) in kinds {
        let name = format!("lan-{mode}");
        lab.ctl(
            "h1",
            &format!("network create --driver macvlan --opt parent=eth0 --subnet {subnet} {name}"),
        )
        .ok();
        let create = format!(
            "service create --name {name} --replicas 2 --endpoint-mode {mode} --network {name}"
        );
        lab.ctl("h1", &format!("{create} -- sleep infinity")).ok();
        let [near, far] = tasks(lab, &name)?;
        servers.start(OURS[1], &sandbox(&far))?;
        paths.push(path(what, OURS[0], &sandbox(&near), address(&far, 0)));
    }
    Ok(paths)
}

/// The tasks of a service on the two hosts.
fn tasks(lab: &Lab, service: &str) -> Result<[Value; 2]> {
    let tasks = lab.running("h1", service);
    let on = |host: &str| {
        tasks
            .iter()
            .find(|task| task["node"] == host)
            .context("a task on each host")
            .cloned()
    };
    Ok([on(OURS[0])?, on(OURS[1])?])
}

fn sandbox(task: &Value) -> Vec<String> {
    namespace(&format!(
        "netd-t-{}",
        task["id"].as_str().unwrap_or_default()
    ))
}

fn address(task: &Value, index: usize) -> &str {
    task["addresses"][index].as_str().unwrap_or_default()
}

fn measure(lab: &Lab, path: &Path) -> Result<[f64; 3]> {
    let command = pinned(&path.inside, &["client", &path.address])?;
    let said = run(&mut lab.command(path.host, &words(&command)));
    let text = said.ok();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers
        .try_into()
        .ok()
        .with_context(|| format!("{}: the client said {text:?}", path.what))
}

fn print(paths: &[Path], samples: &[Vec<[f64; 3]>]) {
    let middle = |index: usize, which: usize| {
        let mut values: Vec<f64> = samples[index].iter().map(|sample| sample[which]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] / 1000.0
    };
    println!(
        "| path | TCP round trip | ratio | connect+request | ratio | 1 MB | ratio \
         |\n|---|---|---|---|---|---|---|"
    );
    for (index, path) in paths.iter().enumerate() {
        let cells = (0..3).map(|which| {
            let value = middle(index, which);
            format!("{value:.1} µs | {:.2}", value / middle(0, which))
        });
        println!(
            "| {} | {} |",
            path.what,
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
}
