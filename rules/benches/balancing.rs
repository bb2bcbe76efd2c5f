//! What virtual services cost: to program thousands of them, against the programs of the kernel's
//! own people, and to use one. Both engines where the kernel has IPVS (docs/benchmarks.md).

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use ipvs::{Table, VirtualService, ip_vs};
use support::{
    Lab, Namespace, addresses, connect, in_fresh_namespace, line, serve,
    suite::{Engine, reconcile, table, vip},
};

const SERVICES: u32 = 10_000;
const CHANGES: u16 = 21;
/// Longer than IPVS, which tells nobody of changes, is taken to be as it was.
const PAUSE: Duration = Duration::from_secs(11);
const ROUNDS: usize = 9;
const EXCHANGES: usize = 400;
const CONNECTIONS: usize = 100;

fn main() {
    // `cargo test` runs benchmarks, too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let engines = match ip_vs::probe() {
        Ok(()) => vec![Engine::Nftables, Engine::IpVs],
        Err(_) => vec![Engine::Nftables],
    };
    for engine in &engines {
        in_fresh_namespace(|| load(*engine));
    }
    println!(
        "\n{SERVICES} services of 2 real servers: from nothing, one weight changed (median of \
         {CHANGES}), and once after a pause\n"
    );
    println!("| what | from nothing | one change | after a pause |\n|---|---|---|---|");
    for engine in &engines {
        in_fresh_namespace(|| program(*engine));
    }
    in_fresh_namespace(nft);
    if engines.contains(&Engine::IpVs) {
        in_fresh_namespace(ipvsadm);
    }
    println!("\nBy a router with connection tracking: medians of {ROUNDS} rounds\n");
    println!("| path | TCP round trip | ratio | connect+request | ratio |\n|---|---|---|---|---|");
    for engine in engines {
        use_one(engine);
    }
}

fn address(number: u32, network: u8) -> IpAddr {
    let [_, high, middle, low] = number.to_be_bytes();
    IpAddr::from([network, high, middle, low])
}

fn many(services: u32) -> Table {
    let service = |number: u32| {
        let servers = [2 * number, 2 * number + 1].map(|number| (address(number, 11), 1));
        (
            address(number, 10),
            VirtualService {
                real_servers: servers.into(),
                ..VirtualService::default()
            },
        )
    };
    Table {
        services: (1..=services).map(service).collect(),
        hairpins: BTreeMap::new(),
    }
}

/// The first service of all has the kernel load its modules, if it has any.
fn load(engine: Engine) {
    let start = Instant::now();
    engine.open().reconcile(&many(1)).unwrap();
    println!(
        "The first service by {engine:?}, with what the kernel loads for it: {}",
        milliseconds(start.elapsed())
    );
}

fn program(engine: Engine) {
    let mut balancer = engine.open();
    let mut desired = many(SERVICES);
    let start = Instant::now();
    balancer.reconcile(&desired).unwrap();
    let whole = start.elapsed();
    reconcile(&mut *balancer, &desired);
    let mut change = |weight| {
        let changed = desired
            .services
            .get_mut(&address(SERVICES / 2, 10))
            .unwrap();
        changed.real_servers.insert(address(SERVICES, 11), weight);
        let start = Instant::now();
        balancer.reconcile(&desired).unwrap();
        start.elapsed()
    };
    let mut changes: Vec<Duration> = (2..2 + CHANGES).map(&mut change).collect();
    thread::sleep(PAUSE);
    let late = change(1);
    reconcile(&mut *balancer, &desired);
    let [whole, one, late] = [whole, median(&mut changes), late].map(milliseconds);
    println!("| {engine:?}, ours | {whole} | {one} | {late} |");
    if engine == Engine::Nftables {
        fs::write(script(), support::run("nft -s list table inet netd-lb")).unwrap();
    }
}

fn script() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("netd-lb-{}.nft", std::process::id()))
}

/// The same table, as `nft` lists it.
fn nft() {
    let start = Instant::now();
    support::run(&format!("nft -f {}", script().display()));
    let whole = start.elapsed();
    let change = |_| {
        let start = Instant::now();
        support::nft(
            "delete element inet netd-lb weights4 { 10.0.0.1 . 11.0.0.2 }; add element inet \
             netd-lb weights4 { 10.0.0.1 . 11.0.0.2 : 1 }",
        );
        start.elapsed()
    };
    let mut changes: Vec<Duration> = (0..CHANGES).map(change).collect();
    fs::remove_file(script()).unwrap();
    println!(
        "| `nft -f`, `nft` | {} | {} | |",
        milliseconds(whole),
        milliseconds(median(&mut changes))
    );
}

/// Services and real servers alike, without what marks packets for them.
fn ipvsadm() {
    if !Path::new("/usr/sbin/ipvsadm").exists() {
        return;
    }
    let rules = (1..=SERVICES).fold(String::new(), |mut rules, number| {
        let _ = writeln!(rules, "-A -f {number} -s rr");
        for server in [2 * number, 2 * number + 1] {
            let _ = writeln!(rules, "-a -f {number} -r {}:0 -m -w 1", address(server, 11));
        }
        rules
    });
    let start = Instant::now();
    let mut child = Command::new("ipvsadm")
        .arg("-R")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(rules.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    let whole = start.elapsed();
    let change = |weight| {
        let start = Instant::now();
        support::run(&format!("ipvsadm -e -f 1 -r 11.0.0.2:0 -m -w {weight}"));
        start.elapsed()
    };
    let mut changes: Vec<Duration> = (0..CHANGES).map(change).collect();
    println!(
        "| `ipvsadm -R`, `ipvsadm` | {} | {} | |",
        milliseconds(whole),
        milliseconds(median(&mut changes))
    );
}

fn use_one(engine: Engine) {
    let lab = Lab::new(2);
    serve(&lab.endpoints[1], "s1");
    let mut balancer = lab.router.within(|| engine.open());
    reconcile(&mut *balancer, &table(&[(1, 1)]));
    let client = &lab.endpoints[0];
    let (direct, balanced) = (addresses(1)[0], vip(0));
    let mut figures = [(); 4].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (index, to) in [direct, balanced].into_iter().enumerate() {
            figures[index].push(round_trip(client, to));
            figures[2 + index].push(connection(client, to));
        }
    }
    let [direct_trip, trip, direct_connection, connection] =
        figures.map(|mut figures| median(&mut figures));
    let ratio = |of: Duration, to: Duration| of.as_secs_f64() / to.as_secs_f64();
    for (name, trip, connection) in [
        ("direct".to_owned(), direct_trip, direct_connection),
        (format!("virtual IP, {engine:?}"), trip, connection),
    ] {
        let (trip_ratio, connection_ratio) = (
            ratio(trip, direct_trip),
            ratio(connection, direct_connection),
        );
        let (trip, connection) = (microseconds(trip), microseconds(connection));
        println!("| {name} | {trip} | {trip_ratio:.2} | {connection} | {connection_ratio:.2} |");
    }
}

fn round_trip(client: &Namespace, to: IpAddr) -> Duration {
    let mut connection = connect(client, to).unwrap();
    connection.set_nodelay(true).unwrap();
    line(&connection);
    let mut trips: Vec<Duration> = (0..EXCHANGES).map(|_| exchange(&mut connection)).collect();
    median(&mut trips)
}

fn exchange(connection: &mut TcpStream) -> Duration {
    let start = Instant::now();
    connection.write_all(b"?").unwrap();
    connection.read_exact(&mut [0]).unwrap();
    start.elapsed()
}

fn connection(client: &Namespace, to: IpAddr) -> Duration {
    let mut times: Vec<Duration> = client.within(|| {
        let once = |_| {
            let start = Instant::now();
            let mut connection = TcpStream::connect((to, 81)).unwrap();
            connection.read_to_string(&mut String::new()).unwrap();
            start.elapsed()
        };
        (0..CONNECTIONS).map(once).collect()
    });
    median(&mut times)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn microseconds(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}
