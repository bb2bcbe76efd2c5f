//! What the overlay costs: TCP round trip and connect+request between two tasks on two hosts, against the bare link
//! between the same hosts, in turn in one run, everything pinned to one processor. Prints medians and their ratios.
//! This program is also the server and the client that it runs in the lab.

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tests::{Lab, run};

const PORT: u16 = 7777;
/// Rounds of each path, in turn, so that a slow minute of the machine hits all alike.
const ROUNDS: usize = 10;
const EXCHANGES: usize = 2000;
const CONNECTIONS: usize = 400;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve(),
        ["client", address] => client(address),
        _ => compare(),
    }
}

/// Answers each byte with a byte, on every connection.
fn serve() -> Result<()> {
    for stream in TcpListener::bind(("::", PORT))?.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let mut byte = [0];
            stream.set_nodelay(true).ok();
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    }
    Ok(())
}

/// Prints the medians of both exchanges, in nanoseconds.
fn client(address: &str) -> Result<()> {
    let connect = || -> Result<TcpStream> {
        let stream = TcpStream::connect((address, PORT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let exchange = |stream: &mut TcpStream| -> Result<()> {
        stream.write_all(b"x")?;
        Ok(stream.read_exact(&mut [0])?)
    };
    let mut stream = connect()?;
    let trip = median(EXCHANGES, || exchange(&mut stream))?;
    let fresh = median(CONNECTIONS, || exchange(&mut connect()?))?;
    println!("{} {}", trip.as_nanos(), fresh.as_nanos());
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

fn compare() -> Result<()> {
    let program = env::current_exe()?.to_string_lossy().into_owned();
    let pinned = |words: &[&str]| -> Vec<String> {
        ["taskset", "-c", "1", &program].iter().chain(words).map(ToString::to_string).collect()
    };
    let serve = pinned(&["serve"]);
    let lab = Lab::up(2);
    lab.ctl("h1", "network create --subnet 10.0.9.0/24 --subnet fd00:9::/64 my-net").ok();
    let create = "service create --name peer --replicas 2 --network my-net --";
    lab.ctl("h1", &format!("{create} {}", serve.join(" "))).ok();
    let words: Vec<&str> = serve.iter().map(String::as_str).collect();
    let mut bare = lab.command("h2", &words).spawn()?;

    let tasks = lab.running("h1", "peer");
    let on = |host: &str| tasks.iter().find(|task| task["node"] == host).context("a task on each host");
    let (here, there) = (on("h1")?, on("h2")?);
    let underlay = lab.exec("h2", &["sh", "-c", "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1"]).ok();
    let name = here["name"].as_str().context("a name")?;
    let services = lab.json("h1", "service ls");
    let overlay = |index: usize| there["addresses"][index].as_str().unwrap_or_default().to_owned();
    let vip = services[0]["virtual_ips"][0].as_str().unwrap_or_default().to_owned();
    let paths = [
        ("bare link between the hosts", None, underlay.trim().to_owned()),
        ("task to task, IPv4", Some(name), overlay(0)),
        ("task to task, IPv6", Some(name), overlay(1)),
        ("task to virtual IP (half of them on the same host)", Some(name), vip),
    ];
    let mut samples = vec![Vec::new(); paths.len()];
    for _ in 0..ROUNDS {
        for (index, (_, task, address)) in paths.iter().enumerate() {
            let words = pinned(&["client", address]);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let said = match task {
                Some(task) => lab.inside("h1", task, &words),
                None => run(&mut lab.command("h1", &words)),
            };
            samples[index].push(numbers(&said.ok())?);
        }
    }
    bare.kill()?;
    print(&paths.map(|(what, ..)| what), &samples);
    Ok(())
}

fn numbers(text: &str) -> Result<[f64; 2]> {
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let (Some(Ok(trip)), Some(Ok(fresh))) = (numbers.next(), numbers.next()) else { bail!("the client said {text:?}") };
    Ok([trip, fresh])
}

fn print(names: &[&str], samples: &[Vec<[f64; 2]>]) {
    let middle = |index: usize, which: usize| {
        let mut values: Vec<f64> = samples[index].iter().map(|sample| sample[which]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2] / 1000.0
    };
    println!("| path | TCP round trip p50 | ratio | connect+request p50 | ratio |\n|---|---|---|---|---|");
    for (index, name) in names.iter().enumerate() {
        let (trip, fresh) = (middle(index, 0), middle(index, 1));
        let (trips, freshes) = (trip / middle(0, 0), fresh / middle(0, 1));
        println!("| {name} | {trip:.1} µs | {trips:.2} | {fresh:.1} µs | {freshes:.2} |");
    }
}
