//! Clients on a host: as many as asked for, each with one command on its way.

use std::{
    fmt, fs,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Error, Result, anyhow, bail};
use api::{
    Proposal, SOCKET, Standing, decode, encode,
    proto::{control_client::ControlClient, local_client::LocalClient},
};
use model::{
    AddressWish, Availability, Command, ContainerCommand, ContainerKey, ContainerRuntime,
    ContainerSpec, NodeCommand, NodeId, RequestId, Response,
};
use serde_json::json;
use tonic::transport::Channel;

use crate::{
    proto::{
        PutRequest, StatusRequest, kv_client::KvClient, maintenance_client::MaintenanceClient,
    },
    quantile,
};

const ETCD: &str = "http://127.0.0.1:2379";
/// Of etcd's entries.
const KEY: usize = 32;
const VALUE: usize = 200;
/// Clients that share a connection.
const SHARED: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);

/// What is written, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command that changes one field of a node's record.
    Ours,
    /// A container's address, given out and taken back in turn.
    Address,
    /// A key of etcd.
    Etcd,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Ours => "ours",
            Self::Address => "address",
            Self::Etcd => "etcd",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "ours" => Self::Ours,
            "address" => Self::Address,
            "etcd" => Self::Etcd,
            _ => bail!("{text} is nothing to be written"),
        })
    }
}

/// A connection to the member on this host.
#[derive(Clone)]
pub struct Connection {
    kind: Kind,
    channel: Channel,
    node: NodeId,
}

impl Connection {
    pub async fn open(kind: Kind) -> Result<Self> {
        let channel = match kind {
            Kind::Etcd => Channel::from_static(ETCD).connect().await?,
            Kind::Ours | Kind::Address => api::connect(Path::new(SOCKET)).await?,
        };
        let node = match kind {
            Kind::Address => node(&channel).await?,
            Kind::Ours | Kind::Etcd => NodeId(0),
        };
        Ok(Self {
            kind,
            channel,
            node,
        })
    }

    /// The `turn`th write of a client, until it is confirmed or refused.
    pub async fn write(&self, client: usize, turn: u64) -> Result<()> {
        let command = match self.kind {
            Kind::Etcd => return put(&self.channel, client).await,
            Kind::Ours => Command::Node(NodeCommand::SetAvailability {
                node: "h1".to_owned(),
                version: None,
                availability: match turn % 2 {
                    0 => Availability::Pause,
                    _ => Availability::Active,
                },
            }),
            Kind::Address => Command::Container(container(self.node, client, turn)),
        };
        let proposal = Proposal {
            request: RequestId(unique()),
            command,
        };
        let mut control = ControlClient::new(self.channel.clone());
        let answer = control.propose(encode(&proposal)).await?;
        let response: Response = decode(answer.get_ref())?;
        response.map_err(|refusal| anyhow!("{refusal}"))?;
        Ok(())
    }
}

async fn node(channel: &Channel) -> Result<NodeId> {
    let mut local = LocalClient::new(channel.clone());
    let answer = local.status(encode(&())).await?;
    let standing: Standing = decode(answer.get_ref())?;
    let member = standing.member.context("this host is a member")?;
    Ok(member.0)
}

async fn put(channel: &Channel, client: usize) -> Result<()> {
    let request = PutRequest {
        key: format!("{client:0>KEY$}").into_bytes(),
        value: vec![b'v'; VALUE],
    };
    KvClient::new(channel.clone()).put(request).await?;
    Ok(())
}

/// Each client gives out an address and takes it back.
fn container(node: NodeId, client: usize, turn: u64) -> ContainerCommand {
    let key = ContainerKey {
        node,
        runtime: ContainerRuntime::Cni,
        id: format!("bench-{client}"),
    };
    if turn % 2 == 1 {
        return ContainerCommand::Detach { keys: vec![key] };
    }
    ContainerCommand::Attach {
        spec: Box::new(ContainerSpec {
            key,
            network: "bench".to_owned(),
            ipv4: AddressWish {
                wanted: true,
                ..AddressWish::default()
            },
            ipv6: AddressWish::default(),
            mac: None,
            sandbox: None,
            left: false,
            traits: None,
        }),
    }
}

/// A number that no other request has.
fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |age| age.as_nanos() as u64);
    nanoseconds.rotate_left(24) ^ COUNT.fetch_add(1, Ordering::Relaxed)
}

pub fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

/// Prints whether etcd's member on this host leads.
pub fn says_whether_etcd_leads() -> Result<()> {
    let status = runtime()?.block_on(async {
        let mut client = MaintenanceClient::connect(ETCD).await?;
        Ok::<_, Error>(client.status(StatusRequest {}).await?.into_inner())
    })?;
    let member = status.header.unwrap_or_default().member_id;
    if status.leader != 0 {
        println!("{}", status.leader == member);
    }
    Ok(())
}

/// What a process has used: bytes written, and processor time in microseconds.
fn used(pid: &str) -> Result<(f64, f64)> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("the command's name")?.1;
    let ticks = |at: usize| -> Result<f64> {
        let field = fields.split_whitespace().nth(at).context("a field")?;
        Ok(field.parse()?)
    };
    // Of 10 ms each.
    let time = (ticks(11)? + ticks(12)?) * 10_000.0;
    Ok((line.context("write_bytes")?.parse()?, time))
}

/// Writes for some seconds, and prints what came of it as JSON.
pub fn run(kind: Kind, clients: usize, seconds: f64, pid: &str) -> Result<()> {
    runtime()?.block_on(async {
        let begin = Instant::now() + WARM_UP;
        let end = begin + Duration::from_secs_f64(seconds);
        let mut running = Vec::new();
        let mut connection = Connection::open(kind).await?;
        for client in 0..clients {
            if client % SHARED == 0 {
                connection = Connection::open(kind).await?;
            }
            running.push(tokio::spawn(client_of(
                connection.clone(),
                client,
                begin,
                end,
            )));
        }
        tokio::time::sleep_until(begin.into()).await;
        let before = used(pid)?;
        tokio::time::sleep_until(end.into()).await;
        let after = used(pid)?;
        let mut times = Vec::new();
        for client in running {
            times.extend(client.await??);
        }
        let writes = times.len() as f64;
        let told = json!({
            "rate": writes / seconds,
            "p50": quantile(&mut times, 0.5),
            "p99": quantile(&mut times, 0.99),
            "bytes": (after.0 - before.0) / writes,
            "cpu": (after.1 - before.1) / writes,
        });
        println!("{told}");
        Ok(())
    })
}

/// Milliseconds of each write that began and ended within the time.
async fn client_of(
    connection: Connection,
    client: usize,
    begin: Instant,
    end: Instant,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let mut turn = 0;
    // What was given out is taken back.
    while Instant::now() < end || turn % 2 == 1 {
        let start = Instant::now();
        connection.write(client, turn).await?;
        turn += 1;
        if start >= begin && Instant::now() < end {
            times.push(start.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    Ok(times)
}
