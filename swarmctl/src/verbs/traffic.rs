//! `service inspect --traffic`: the traffic of services' virtual IPs, as counted by each host's
//! balancer.

use anyhow::Result;
use api::{Look, VipTraffic};
use model::Question;
use serde::Serialize;

use super::{collect, everywhere};
use crate::{
    arguments::Inspection,
    daemon::Daemon,
    output::{Format, List},
};

/// A virtual IP on one host.
#[derive(Debug, Serialize)]
struct Row {
    service: String,
    node: String,
    #[serde(flatten)]
    traffic: VipTraffic,
}

/// Prints the traffic of services, asked of every node.
pub(crate) async fn traffic(daemon: &Daemon, inspection: &Inspection) -> Result<u8> {
    let (services, mut code) = collect(&inspection.names, |name| {
        daemon.ask(Question::service(name))
    })
    .await?;
    let nodes = daemon.ask(Question::nodes()).await?;
    let mut rows = Vec::new();
    for service in &services {
        let asked = everywhere::look(daemon, &nodes, Look::traffic(service.id), |node, found| {
            let row = |traffic| Row {
                service: service.spec.name.clone(),
                node: node.hostname.clone(),
                traffic,
            };
            rows.extend(found.into_iter().map(row));
        });
        code = code.max(asked.await);
    }
    print(&rows, inspection.output)?;
    Ok(code)
}

fn print(rows: &[Row], format: Format) -> Result<()> {
    let connections = |row: &Row| {
        let each = row
            .traffic
            .connections
            .iter()
            .map(|(server, count)| format!("{server}={count}"));
        each.collect::<Vec<_>>().join(" ")
    };
    let bytes = |row: &Row, of: fn(&api::Passed) -> u64| {
        row.traffic
            .passed
            .as_ref()
            .map_or_else(|| "-".to_owned(), |passed| of(passed).to_string())
    };
    List::of(rows)
        .column("SERVICE", |row| row.service.clone())
        .column("NODE", |row| row.node.clone())
        .column("VIRTUAL IP", |row| row.traffic.vip.to_string())
        .column("BALANCER", |row| row.traffic.balancer.to_string())
        .column("CONNECTIONS", connections)
        .column("BYTES IN", |row| bytes(row, |passed| passed.bytes_in))
        .column("BYTES OUT", |row| bytes(row, |passed| passed.bytes_out))
        .print(format)
}
