//! `init`, `join`, `leave`, `token`, `status`, `debug`.

use std::net::SocketAddr;

use anyhow::Result;
use api::{InitRequest, JoinRequest, LeaveRequest, Standing};
use model::{ClusterCommand, Command, Role, Secret, TokenInfo};

use super::address;
use crate::{
    arguments::{Found, Init, Inside, Join},
    daemon::Daemon,
    output::{self, Format, List},
};

/// Makes a cluster of this host and prints how others join.
pub(crate) async fn init(daemon: &Daemon, init: Found) -> Result<u8> {
    let Found {
        host: init,
        data_path_port,
    } = init;
    let advertise = init
        .advertise_addr
        .as_deref()
        .map_or_else(address::guess, address::parse)?;
    let request = InitRequest {
        advertise,
        listen: listen(&init, advertise)?,
        data_path: data_path(&init)?,
        data_path_port,
    };
    let standing = daemon.init(&request).await?;
    let token = daemon.token(Role::Worker).await?;
    output::print(&format!(
        "Cluster initialized: this node ({}) is now a manager.\n\n{}\n\n\
         To add a manager, run 'swarmctl token manager' and follow the instructions.",
        name(&standing),
        instruction(&token),
    ))?;
    Ok(0)
}

/// Joins this host to a cluster.
pub(crate) async fn join(daemon: &Daemon, join: Join) -> Result<u8> {
    let manager = address::parse_manager(&join.manager)?;
    let advertise = join
        .host
        .advertise_addr
        .as_deref()
        .map(address::parse)
        .transpose()?;
    let request = JoinRequest {
        token: join.token,
        manager,
        advertise,
        listen: listen(
            &join.host,
            advertise.unwrap_or_else(|| SocketAddr::new(manager.ip(), address::PORT)),
        )?,
        data_path: data_path(&join.host)?,
    };
    let standing = daemon.join(&request).await?;
    let role = standing
        .member
        .map_or(String::new(), |(_, role)| format!(" as a {role}"));
    output::print(&format!(
        "This node ({}) has joined the cluster{role}.",
        name(&standing)
    ))?;
    Ok(0)
}

/// Takes this host out of its cluster.
pub(crate) async fn leave(daemon: &Daemon, request: LeaveRequest) -> Result<u8> {
    daemon.leave(&request).await?;
    output::print("This node has left the cluster.")?;
    Ok(0)
}

/// What `token` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Printed {
    /// The whole command to join with.
    Command,
    /// The token alone.
    Token,
}

/// Makes a new token of a role; who has the old one cannot join any more.
pub(crate) async fn rotate_token(daemon: &Daemon, role: Role) -> Result<()> {
    let secret = Secret::new(rand::random());
    let command = Command::Cluster(ClusterCommand::RotateToken { role, secret });
    let object = format!("join token of {role}s");
    daemon.propose(object, command).await?;
    Ok(())
}

/// Prints a role's join token.
pub(crate) async fn token(daemon: &Daemon, role: Role, printed: Printed) -> Result<u8> {
    let token = daemon.token(role).await?;
    output::print(&match printed {
        Printed::Token => token.token,
        Printed::Command => instruction(&token),
    })?;
    Ok(0)
}

/// Prints this host's membership and the state of its kernel.
pub(crate) async fn status(daemon: &Daemon, format: Format) -> Result<u8> {
    let standing = daemon.status().await?;
    List::of(&[standing])
        .column("NODE", name)
        .column("HOSTNAME", |standing| standing.hostname.clone())
        .column("ROLE", |standing| {
            standing
                .member
                .map_or("-".to_owned(), |(_, role)| role.to_string())
        })
        .column("VIEW", |standing| standing.generation.to_string())
        .column("APPLIED", |standing| standing.applied.to_string())
        .column("VERSION", |standing| standing.version.clone())
        .column("LEVEL", |standing| standing.level.to_string())
        .column("FAILURES", |standing| standing.failures.join("; "))
        .print(format)?;
    Ok(0)
}

/// Prints internal state of this host's netd.
pub(crate) async fn debug(daemon: &Daemon, what: Inside) -> Result<u8> {
    output::print(daemon.debug(what.wire()).await?.trim_end())?;
    Ok(0)
}

fn listen(init: &Init, advertise: SocketAddr) -> Result<SocketAddr> {
    match &init.listen_addr {
        Some(text) => Ok(address::parse(text)?),
        None => Ok(address::unspecified(advertise, advertise.port())),
    }
}

fn data_path(init: &Init) -> Result<Option<std::net::IpAddr>> {
    Ok(init
        .data_path_addr
        .as_deref()
        .map(address::parse)
        .transpose()?
        .map(|address| address.ip()))
}

fn name(standing: &Standing) -> String {
    standing
        .member
        .map_or("-".to_owned(), |(node, _)| node.to_string())
}

fn instruction(token: &TokenInfo) -> String {
    let TokenInfo {
        role,
        token,
        address,
    } = token;
    format!(
        "To add a {role} to this cluster, run this on the host:\n\n    swarmctl join --token \
         {token} {address}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_join_command_can_be_pasted() {
        let token = TokenInfo {
            role: Role::Worker,
            token: "SWMTKN-1-a-b".into(),
            address: "192.0.2.1:2377".parse().unwrap(),
        };
        assert!(
            instruction(&token).ends_with("    swarmctl join --token SWMTKN-1-a-b 192.0.2.1:2377")
        );
    }
}
