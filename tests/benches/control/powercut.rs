//! How long writes stop when the leader's power is cut: its cable goes, then its processes.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::run;

use crate::{
    hosts::{Cluster, HOSTS},
    load::{Connection, Kind, runtime},
    quantile,
};

const ROUNDS: usize = 20;
/// How long a client watches, and how long before the cut.
const SECONDS: f64 = 5.0;
const BEFORE: Duration = Duration::from_millis(1_200);
/// Between two requests on connections of their own.
const PAUSE: Duration = Duration::from_millis(10);
/// After an answer that says to try again.
const RETRY: Duration = Duration::from_millis(5);

pub fn compare() -> Result<()> {
    let mut cluster = Cluster::up()?;
    let kinds = cluster.kinds();
    let mut gaps: Vec<(Kind, Vec<f64>, Vec<f64>)> = kinds
        .into_iter()
        .map(|kind| (kind, Vec::new(), Vec::new()))
        .collect();
    for _ in 0..ROUNDS {
        for (kind, in_flight, fresh) in &mut gaps {
            let told = cut(&mut cluster, *kind)?;
            let gap = |what: &str| told[what].as_f64().unwrap_or(f64::INFINITY);
            in_flight.push(gap("in_flight"));
            fresh.push(gap("fresh"));
        }
    }
    println!(
        "\n| leader's power cut, {ROUNDS} times | in flight: p50 | min-max | fresh: p50 | min-max |"
    );
    println!("|---|---|---|---|---|");
    for (kind, in_flight, fresh) in &mut gaps {
        println!("| {kind} | {} | {} |", spread(in_flight), spread(fresh));
    }
    Ok(())
}

fn spread(milliseconds: &mut [f64]) -> String {
    let at = |share| quantile(&mut milliseconds.to_vec(), share) / 1_000.0;
    format!("{:.2} s | {:.2}-{:.2} s", at(0.5), at(0.0), at(1.0))
}

/// Cuts the leader's power under a client at another member, and brings it back.
fn cut(cluster: &mut Cluster, kind: Kind) -> Result<Value> {
    let leader = cluster.leader(kind);
    let other = HOSTS.into_iter().find(|host| *host != leader);
    let other = other.context("another host")?;
    let words = ["cut", &kind.to_string(), &SECONDS.to_string()];
    let mut watching = cluster.program(other, &words);
    let watching = watching.stdout(Stdio::piped()).spawn()?;
    thread::sleep(BEFORE);
    run(cluster.lab.verb("kill").arg(leader)).ok();
    let output = watching.wait_with_output()?;
    let told = serde_json::from_slice(&output.stdout).context("what the client tells")?;
    run(cluster.lab.verb("start").arg(leader)).ok();
    cluster.start_etcd(leader)?;
    cluster.settle();
    Ok(told)
}

/// When a write began and when it was confirmed.
type Span = (Instant, Instant);

/// Writes without a pause over one connection, and every few milliseconds over a new one. Prints
/// how long there was no answer as JSON.
pub fn watch(kind: Kind, seconds: f64) -> Result<()> {
    runtime()?.block_on(async {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let steady = tokio::spawn(steady(kind, end));
        let mut fresh = Vec::new();
        while Instant::now() < end {
            fresh.push(tokio::spawn(once(kind, fresh.len() as u64, end)));
            tokio::time::sleep(PAUSE).await;
        }
        let steady = steady.await??;
        let mut spans = Vec::new();
        for one in fresh {
            spans.extend(one.await?);
        }
        println!("{}", gaps(&steady, &spans, end));
        Ok(())
    })
}

/// Milliseconds from the last confirmation before the longest time without any, which is when the
/// power was cut, to the first one of the steady client and of a request that began later.
fn gaps(steady: &[Span], fresh: &[Span], end: Instant) -> Value {
    let mut confirmed: Vec<Instant> = steady.iter().chain(fresh).map(|(_, end)| *end).collect();
    confirmed.sort_unstable();
    let longest = confirmed.windows(2).max_by_key(|pair| pair[1] - pair[0]);
    let Some(cut) = longest.map(|pair| pair[0]) else {
        return json!({});
    };
    let until = |found: Option<Instant>| (found.unwrap_or(end) - cut).as_secs_f64() * 1_000.0;
    let in_flight = steady.iter().map(|(_, end)| *end).find(|end| *end > cut);
    let later = fresh.iter().filter(|(start, _)| *start > cut);
    json!({ "in_flight": until(in_flight), "fresh": until(later.map(|(_, end)| *end).min()) })
}

async fn steady(kind: Kind, end: Instant) -> Result<Vec<Span>> {
    let connection = Connection::open(kind).await?;
    let mut spans = Vec::new();
    let mut turn = 0;
    let mut start = Instant::now();
    while Instant::now() < end {
        match connection.write(0, turn).await {
            Ok(()) => {
                spans.push((start, Instant::now()));
                start = Instant::now();
                turn += 1;
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    Ok(spans)
}

/// One write over a connection of its own.
async fn once(kind: Kind, turn: u64, end: Instant) -> Option<Span> {
    let start = Instant::now();
    while Instant::now() < end {
        if let Ok(connection) = Connection::open(kind).await
            && connection.write(1, turn).await.is_ok()
        {
            return Some((start, Instant::now()));
        }
        tokio::time::sleep(RETRY).await;
    }
    None
}
