//! `network inspect --peers`: the encrypted traffic between the hosts of a network, as counted by
//! each host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api::{Encryption, Look, Peer};
use model::{Question, Spi};
use serde::Serialize;

use super::{collect, everywhere};
use crate::{
    arguments::Inspection,
    daemon::Daemon,
    output::{self, Format, List},
};

/// One host as another one sees it.
#[derive(Debug, Serialize)]
struct Row {
    network: String,
    node: String,
    #[serde(flatten)]
    peer: Peer,
}

/// Prints the peers of networks, asked of every node that can answer.
pub(crate) async fn peers(daemon: &Daemon, inspection: &Inspection) -> Result<u8> {
    let (networks, mut code) = collect(&inspection.names, |name| {
        daemon.ask(Question::network(name))
    })
    .await?;
    let nodes = daemon.ask(Question::nodes()).await?;
    let mut rows = Vec::new();
    for network in &networks {
        let asked = everywhere::look(daemon, &nodes, Look::peers(network.id), |node, peers| {
            let row = |peer| Row {
                network: network.spec.name.clone(),
                node: node.hostname.clone(),
                peer,
            };
            rows.extend(peers.into_iter().map(row));
        });
        code = code.max(asked.await);
    }
    print(&rows, inspection.output)?;
    Ok(code)
}

fn print(rows: &[Row], format: Format) -> Result<()> {
    let list = List::of(rows)
        .column("NODE", |row| row.node.clone())
        .column("PEER", |row| row.peer.hostname.clone())
        .column("VTEP", |row| row.peer.vtep.to_string());
    if !rows.iter().any(|row| row.peer.encryption.is_some()) {
        return list
            .column("ENDPOINTS", |row| row.peer.endpoints.to_string())
            .print(format);
    }
    let of = |row: &Row, show: fn(&Encryption) -> String| {
        row.peer.encryption.as_ref().map(show).unwrap_or_default()
    };
    list.column("EPOCH", |row| {
        of(row, |with| {
            with.epoch
                .map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
        })
    })
    .column("OUT", |row| {
        of(row, |with| numbers(with.sends_with.as_slice()))
    })
    .column("IN", |row| of(row, |with| numbers(&with.accepts)))
    .column("SENT", |row| of(row, |with| with.sent_packets.to_string()))
    .column("RECEIVED", |row| {
        of(row, |with| with.received_packets.to_string())
    })
    .column("DROPPED", |row| {
        of(row, |with| {
            (with.replayed + with.late + with.forged).to_string()
        })
    })
    .column("SEEN", |row| {
        of(row, |with| {
            with.last_seen.map_or_else(|| "never".to_owned(), ago)
        })
    })
    .print(format)
}

fn numbers(associations: &[Spi]) -> String {
    output::join(
        &associations
            .iter()
            .map(|spi| format!("{:#x}", spi.0))
            .collect::<Vec<_>>(),
    )
}

/// How long ago a time was, in whole seconds.
fn ago(time: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{} s ago",
        now.saturating_sub(Duration::from_millis(time)).as_secs()
    )
}
