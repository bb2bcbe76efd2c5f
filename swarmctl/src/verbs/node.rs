//! `node …`.

use anyhow::Result;
use model::{
    Availability, BalancerKind, Command, Kind, Level, NodeCommand, NodeId, NodeInfo, NodeStatus,
    Question, Refusal, Role,
};

use super::{collect, each, task};
use crate::{
    arguments::{Listing, NodeVerb},
    daemon::Daemon,
    output::{self, Format, List},
};

/// `node …`.
pub(crate) async fn node(daemon: &Daemon, verb: NodeVerb) -> Result<u8> {
    match verb {
        NodeVerb::Ls(listing) => ls(daemon, &listing).await,
        NodeVerb::Inspect { names, output } => {
            let (nodes, code) = collect(&names, |name| daemon.ask(Question::node(name))).await?;
            print(daemon, &nodes, output).await?;
            Ok(code)
        }
        NodeVerb::Ps { node, listing } => ps(daemon, node, &listing).await,
        NodeVerb::Update {
            availability,
            balancer,
            version,
            node,
        } => update(daemon, node, availability, balancer, version).await,
        NodeVerb::Rm { force: true, nodes } => each(&nodes, |node| rm(daemon, node)).await,
        NodeVerb::Rm {
            force: false,
            nodes,
        } => each(&nodes, |node| rm_unless_alive(daemon, node)).await,
    }
}

async fn ls(daemon: &Daemon, listing: &Listing) -> Result<u8> {
    let nodes = daemon.ask(Question::nodes()).await?;
    if listing.quiet {
        nodes
            .iter()
            .try_for_each(|node| output::print(&node.id.to_string()))?;
    } else {
        print(daemon, &nodes, listing.output).await?;
    }
    Ok(0)
}

async fn print(daemon: &Daemon, nodes: &[NodeInfo], format: Format) -> Result<()> {
    let this = match format {
        Format::Table => daemon.status().await?.member.map(|(node, _)| node),
        Format::Json => None,
    };
    List::of(nodes)
        .column("ID", |node| mark(node.id, this))
        .column("HOSTNAME", |node| node.hostname.clone())
        .column("STATUS", status)
        .column("AVAILABILITY", |node| node.availability.to_string())
        .column("ROLE", |node| {
            if node.leader {
                format!("{} (leader)", node.role)
            } else {
                node.role.to_string()
            }
        })
        .column("ADDRESS", |node| node.address.to_string())
        .column("LEVEL", |node| {
            node.level.map_or("-".to_owned(), |level| level.to_string())
        })
        .print(format)
}

fn mark(node: NodeId, this: Option<NodeId>) -> String {
    if this == Some(node) {
        format!("{node} *")
    } else {
        node.to_string()
    }
}

async fn ps(daemon: &Daemon, node: String, listing: &Listing) -> Result<u8> {
    let node = daemon.ask(Question::node(node)).await?.id;
    let mut tasks = daemon.ask(Question::tasks()).await?;
    tasks.retain(|task| task.node_id == Some(node));
    task::print(&tasks, listing)?;
    Ok(0)
}

/// The daemon resolves `self` in questions only, so names become ids here.
async fn update(
    daemon: &Daemon,
    node: String,
    availability: Option<Availability>,
    balancer: Option<BalancerKind>,
    mut version: Option<u64>,
) -> Result<u8> {
    let NodeInfo { id, hostname, .. } = daemon.ask(Question::node(node)).await?;
    if let Some(balancer) = balancer {
        daemon
            .propose(
                format!("node {hostname}"),
                Command::Node(NodeCommand::SetBalancer {
                    node: id.to_string(),
                    balancer,
                    version: version.take(),
                }),
            )
            .await?;
    }
    if let Some(availability) = availability {
        daemon
            .propose(
                format!("node {hostname}"),
                Command::Node(NodeCommand::SetAvailability {
                    node: id.to_string(),
                    availability,
                    version,
                }),
            )
            .await?;
    }
    output::print(&hostname)?;
    Ok(0)
}

/// A manager that is there and does not vote is not ready for what it is for.
fn status(node: &NodeInfo) -> String {
    match (node.status, node.votes) {
        (NodeStatus::Ready, Some(false)) => "no vote".to_owned(),
        (status, _) => status.to_string(),
    }
}

async fn rm_unless_alive(daemon: &Daemon, name: String) -> Result<()> {
    let node = daemon.ask(Question::node(name.clone())).await?;
    if node.status == NodeStatus::Ready {
        let cause = format!(
            "node {} is alive: removing it would cut it off with its tasks running",
            node.hostname
        );
        let next = "run `swarmctl leave` on it first, or give --force";
        let refusal = Refusal::new(Kind::Precondition, cause, next);
        return Err(refusal.about(format!("node {name}")).into());
    }
    rm(daemon, name).await
}

async fn rm(daemon: &Daemon, name: String) -> Result<()> {
    let node = daemon.ask(Question::node(name.clone())).await?;
    daemon
        .propose(
            format!("node {name}"),
            Command::Node(NodeCommand::Remove { node: node.id }),
        )
        .await?;
    let replaces = daemon.status().await?.level >= Level::KEYS;
    if node.role == Role::Manager && replaces {
        eprintln!(
            "{name} was a manager: new join tokens are in force (`swarmctl token`), and the keys \
             of encrypted networks change now. It also knew the private key of this cluster's \
             certificate authority: wipe its disk, or keep the host off TCP port 2377 of the others"
        );
    }
    output::print(&name)
}
