//! How fast names are answered: `dnsperf` (Debian) on one processor asks servers on the other, each
//! with the same names: our resolver, hickory-server, unbound, dnsmasq, aardvark-dns, and Docker's
//! own inside a container. All in turn in one run; prints medians. What is not installed is left
//! out. This program is also the first two of these servers. `hickory` compares these alone.

mod change;
mod hickory;
mod others;

use std::{
    env, fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use dns::{Audience, Limits, Listener, Table, Upstream};
use model::{
    DriverConfig, NameConfig, NetworkConfig, NetworkId, NodeConfig, NodeId, SubnetLease, Vni,
};
use tests::{Lab, docker::Docker, eventually, run};
use tokio::{net::UdpSocket, sync::watch};

/// Where all of them but Docker's listen.
const PORT: u16 = 5453;
const ROUNDS: usize = 5;
/// How long each is asked in a round.
const SECONDS: &str = "2";
/// Questions a second at which the slowest of a hundred is looked at.
const LOAD: &str = "5000";
/// The network of ours whose resolver answers, and the last label of every name.
const NETWORK: &str = "bench";

/// A server that answers the names.
struct Server {
    what: &'static str,
    /// The words that take a client into its namespace.
    inside: Vec<String>,
    address: &'static str,
    port: u16,
    keeps: Keeps,
}

/// What ends with a server.
enum Keeps {
    Process(Child),
    /// It went into the background.
    PidFile(PathBuf),
    Docker {
        _daemon: Docker,
        _lab: Lab,
    },
}

impl Drop for Keeps {
    fn drop(&mut self) {
        match self {
            Keeps::Process(running) => {
                let _ = running.kill();
                let _ = running.wait();
            }
            Keeps::PidFile(file) => {
                run(Command::new("pkill").args(["-F".as_ref(), file.as_os_str()]));
            }
            Keeps::Docker { .. } => {}
        }
    }
}

#[derive(Default)]
struct Samples {
    /// Answers a second.
    rates: Vec<f64>,
    /// The slowest of a hundred, in microseconds.
    slow: Vec<f64>,
    /// Microseconds of processor time for an answer.
    costs: Vec<f64>,
}

fn main() -> Result<()> {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", count] => serve(count.parse()?),
        ["serve-hickory", count] => hickory::serve(count.parse()?),
        ["hickory"] => compare(1_000, &OURS_AND_HICKORY),
        ["change"] => change::measure(),
        ["answers"] => compare_all(),
        _ => compare_all().and_then(|()| change::measure()),
    }
}

/// The names, with their addresses.
fn names(count: u32) -> impl Iterator<Item = (String, IpAddr)> {
    (1..=count).map(|number| {
        (
            format!("s{number}"),
            IpAddr::from((0x0a00_0000 + 256 + number).to_be_bytes()),
        )
    })
}

/// What is called how, and how it is started.
type Starts = [(&'static str, others::Start)];

const OURS_AND_HICKORY: [(&str, others::Start); 2] =
    [("ours", ours), ("hickory-server", hickory::start)];

fn compare_all() -> Result<()> {
    let all: [(&str, others::Start); 6] = [
        ("ours", ours),
        ("hickory-server", hickory::start),
        ("unbound", others::unbound),
        ("dnsmasq", others::dnsmasq),
        ("aardvark-dns", others::aardvark),
        ("Docker's own, in a container", others::docker),
    ];
    compare(1_000, &all)?;
    compare(10_000, &all)
}

fn compare(count: u32, starts: &Starts) -> Result<()> {
    let directory = env::temp_dir().join(format!("netd-names-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let result = compare_in(&directory, count, starts);
    fs::remove_dir_all(&directory)?;
    result
}

fn compare_in(directory: &Path, count: u32, starts: &Starts) -> Result<()> {
    let questions = directory.join("questions");
    let mut file = fs::File::create(&questions)?;
    // A stride that meets every name, but not in order.
    let order = (0..count).map(|index| u64::from(index) * 7919 % u64::from(count) + 1);
    order
        .into_iter()
        .try_for_each(|number| writeln!(file, "s{number}.{NETWORK} A"))?;

    let mut samples: Vec<Samples> = starts.iter().map(|_| Samples::default()).collect();
    for _ in 0..ROUNDS {
        for ((what, start), samples) in starts.iter().zip(&mut samples) {
            let Some(server) = start(directory, count)? else {
                continue;
            };
            answers(&server, count);
            let before = server.processor_time();
            let (rate, answers) = rate(&server, &questions)?;
            samples.rates.push(rate);
            if let (Some(before), Some(after)) = (before, server.processor_time()) {
                samples.costs.push((after - before) / answers * 1e6);
            }
            samples.slow.push(
                slow(&server, &questions).with_context(|| format!("the slow answers of {what}"))?,
            );
        }
    }
    let names: Vec<&str> = starts.iter().map(|(what, _)| *what).collect();
    print(count, &names, &mut samples);
    Ok(())
}

fn print(count: u32, what: &[&str], samples: &mut [Samples]) {
    println!("\n{count} names, one processor; p99 at {LOAD} questions a second\n");
    println!("| server | answers/s | ours over it | p99 | ours over it | processor time |");
    println!("|---|---|---|---|---|---|");
    let costs: Vec<String> = samples
        .iter_mut()
        .map(|found| median(&mut found.costs).map_or(String::new(), |cost| format!("{cost:.1} µs")))
        .collect();
    let medians: Vec<_> = samples
        .iter_mut()
        .map(|found| (median(&mut found.rates), median(&mut found.slow)))
        .collect();
    let Some((Some(rate), Some(slow))) = medians.first() else {
        return;
    };
    for ((what, found), cost) in what.iter().zip(&medians).zip(&costs) {
        match found {
            (Some(its_rate), Some(its_slow)) => println!(
                "| {what} | {its_rate:.0} | {:.2} | {its_slow:.0} µs | {:.2} | {cost} |",
                rate / its_rate,
                slow / its_slow
            ),
            _ => println!("| {what} | not here | | | | |"),
        }
    }
}

fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// Waits until it gives the right answer.
fn answers(server: &Server, count: u32) {
    let (name, address) = names(count).last().expect("there are names");
    eventually(server.what, || {
        let mut dig = server.command(&["dig", "+short", "+tries=1", "+time=1"]);
        dig.args([
            &format!("@{}", server.address),
            "-p",
            &server.port.to_string(),
            &format!("{name}.{NETWORK}"),
        ]);
        let said = run(&mut dig);
        if said.out.trim() == address.to_string() {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    });
}

impl Server {
    /// One that leaves its first process, and names the last in a file.
    fn in_background(mut self, file: PathBuf) -> Result<Self> {
        if let Keeps::Process(first) = &mut self.keeps {
            first.wait()?;
        }
        self.keeps = Keeps::PidFile(file);
        Ok(self)
    }

    /// A command where its clients are.
    fn command(&self, words: &[&str]) -> Command {
        let words: Vec<&str> = self
            .inside
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
            .collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    /// Seconds that it has used up, if it is a process of ours.
    fn processor_time(&self) -> Option<f64> {
        let Keeps::Process(running) = &self.keeps else {
            return None;
        };
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.id())).ok()?;
        let (_name, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // User and system time in hundredths of a second (proc_pid_stat(5)).
        let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    }

    fn dnsperf(&self, questions: &Path, options: &[&str]) -> Result<String> {
        let port = self.port.to_string();
        let mut perf = self.command(&[
            "taskset",
            "-c",
            "1",
            "dnsperf",
            "-s",
            self.address,
            "-p",
            &port,
        ]);
        perf.args(["-d".as_ref(), questions.as_os_str()])
            .args(options);
        let said = run(&mut perf);
        if said.code != 0 {
            bail!("dnsperf (Debian package dnsperf) failed: {said:?}");
        }
        Ok(said.out)
    }
}

/// Answers a second, and all.
fn rate(server: &Server, questions: &Path) -> Result<(f64, f64)> {
    let said = server.dnsperf(questions, &["-l", SECONDS, "-q", "50"])?;
    let number = |label| {
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|line| line.split_whitespace().next());
        let number = word.and_then(|word| word.parse::<f64>().ok());
        number.with_context(|| format!("no {label} in {said}"))
    };
    Ok((
        number("Queries per second:")?,
        number("Queries completed:")?,
    ))
}

fn slow(server: &Server, questions: &Path) -> Result<f64> {
    let said = server.dnsperf(questions, &["-l", SECONDS, "-Q", LOAD, "-v"])?;
    let seconds = said
        .lines()
        .filter(|line| line.starts_with("> NOERROR"))
        .filter_map(|line| line.split(' ').next_back());
    let mut times = seconds
        .map(|text| Ok(text.parse::<f64>()? * 1e6))
        .collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    times
        .get(times.len() * 99 / 100)
        .copied()
        .with_context(|| format!("no answers in {said}"))
}

/// A program on the processor of servers.
fn start(what: &'static str, words: &[&str]) -> Result<Server> {
    let mut command = Command::new("taskset");
    command
        .args(["-c", "0"])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = command
        .spawn()
        .with_context(|| format!("{what} does not start"))?;
    Ok(Server {
        what,
        inside: Vec::new(),
        address: "127.0.0.1",
        port: PORT,
        keeps: Keeps::Process(running),
    })
}

fn ours(_: &Path, count: u32) -> Result<Option<Server>> {
    let program = env::current_exe()?;
    let words = [&program.to_string_lossy(), "serve", &count.to_string()];
    start("ours", &words.each_ref().map(|word| word.as_ref())).map(Some)
}

/// The resolver of one network as netd runs it, outside of any namespace.
#[tokio::main(flavor = "current_thread")]
async fn serve(count: u32) -> Result<()> {
    let (_table, table) = watch::channel(Table::of(&config(count)?));
    let udp = vec![UdpSocket::bind(("127.0.0.1", PORT)).await?];
    let listener = Listener {
        audience: Audience::Network(NetworkId(1)),
        udp,
        tcp: Vec::new(),
    };
    // The others have no limit either.
    let limits = Limits {
        queries: u32::MAX,
        ..Limits::default()
    };
    dns::serve(
        listener,
        table,
        Arc::new(Upstream::fixed(Vec::new())),
        limits,
    )
    .stopped()
    .await;
    Ok(())
}

fn config(count: u32) -> Result<NodeConfig> {
    let network = NetworkConfig {
        name: NETWORK.to_owned(),
        vni: Vni::FIRST,
        driver: DriverConfig::Overlay {
            port: 4789,
            encrypted: false,
        },
        subnets: vec![SubnetLease {
            subnet: "10.0.0.0/16".parse()?,
            gateway: "10.0.0.1".parse()?,
        }],
        internal: true,
        mtu: None,
        reach: Default::default(),
    };
    let named = |(name, address)| ((NetworkId(1), name), NameConfig::canonical(vec![address]));
    Ok(NodeConfig {
        generation: 1,
        networks: [(NetworkId(1), network)].into(),
        names: names(count).map(named).collect(),
        ..NodeConfig::empty(NodeId(1))
    })
}
