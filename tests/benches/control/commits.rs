//! Commands a second, and what each costs the leader.

use anyhow::Result;
use serde_json::Value;
use tests::run;

use crate::{hosts::Cluster, load::Kind, median};

const CLIENTS: [usize; 4] = [1, 8, 64, 256];
const ROUNDS: usize = 3;
const SECONDS: &str = "4";

/// What was told in each round.
type Rounds = Vec<Value>;

pub fn compare() -> Result<()> {
    let cluster = Cluster::up()?;
    let mut table = Vec::new();
    for clients in CLIENTS {
        let mut rounds: Vec<(Kind, Rounds)> = cluster
            .kinds()
            .into_iter()
            .map(|kind| (kind, Vec::new()))
            .collect();
        for _ in 0..ROUNDS {
            for (kind, told) in &mut rounds {
                told.push(measure(&cluster, *kind, clients)?);
            }
        }
        table.push((clients, rounds));
    }
    println!(
        "\n| clients | | commands/s | of etcd's | p50 | p99 | leader: bytes written | leader: CPU |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (clients, rounds) in &table {
        for (kind, told) in rounds {
            let ratio = match (kind, &rounds[..]) {
                (Kind::Ours, [_, (_, others)]) => of_each(told, others),
                _ => String::new(),
            };
            println!(
                "| {clients} | {kind} | {:.0} | {ratio} | {:.1} ms | {:.1} ms | {:.1} kB | \
                 {:.0} µs |",
                middle(told, "rate"),
                middle(told, "p50"),
                middle(told, "p99"),
                middle(told, "bytes") / 1_000.0,
                middle(told, "cpu"),
            );
        }
    }
    Ok(())
}

fn measure(cluster: &Cluster, kind: Kind, clients: usize) -> Result<Value> {
    let of = match kind {
        Kind::Etcd => Kind::Etcd,
        Kind::Ours | Kind::Address => Kind::Ours,
    };
    let host = cluster.leader(of);
    let file = match of {
        Kind::Etcd => "/run/etcd.pid",
        _ => "/run/netd.pid",
    };
    let pid = run(&mut cluster.lab.command(host, &["cat", file])).ok();
    let (kind, clients) = (kind.to_string(), clients.to_string());
    cluster.told(host, &["load", &kind, &clients, SECONDS, pid.trim()])
}

fn middle(told: &Rounds, what: &str) -> f64 {
    let numbers = told.iter().filter_map(|told| told[what].as_f64());
    median(numbers.collect())
}

/// The median of the rounds' own ratios, and each of them.
fn of_each(ours: &Rounds, others: &Rounds) -> String {
    let rate = |told: &Value| told["rate"].as_f64().unwrap_or(f64::NAN);
    let ratios: Vec<f64> = ours
        .iter()
        .zip(others)
        .map(|(ours, other)| rate(ours) / rate(other))
        .collect();
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    format!("**{:.2}** ({})", median(ratios), each.join(" "))
}

pub fn addresses() -> Result<()> {
    let cluster = Cluster::up()?;
    let create = "network create --attachable --subnet 10.64.0.0/16 bench";
    cluster.lab.ctl("h1", create).ok();
    println!("\n| clients | addresses/s | commands/s | p50 | p99 | leader: CPU per command |");
    println!("|---|---|---|---|---|---|");
    for clients in [64, 256] {
        let told: Result<Rounds> = (0..ROUNDS)
            .map(|_| measure(&cluster, Kind::Address, clients))
            .collect();
        let told = told?;
        println!(
            "| {clients} | {:.0} | {:.0} | {:.1} ms | {:.1} ms | {:.0} µs |",
            middle(&told, "rate") / 2.0,
            middle(&told, "rate"),
            middle(&told, "p50"),
            middle(&told, "p99"),
            middle(&told, "cpu"),
        );
    }
    Ok(())
}
