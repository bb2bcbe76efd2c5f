//! What crosses the crate's files: the storage under openraft's own suite, and members in one
//! process on loopback.

mod hostile;
mod levels;
mod lost_log;
mod membership;
mod storage;
mod strangers;
pub(crate) mod toy;
mod views;
mod watching;

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::Proposal;
use model::{Answer, Command, Level, Outcome, Query, RequestId, Response, Role, ServiceCommand};
use tempfile::TempDir;
use tonic::service::Routes;

use crate::{Config, Host, JoinOptions, Limits, Member};
use toy::Toy;

type Node = Member<Toy>;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const PATIENCE: Duration = Duration::from_secs(40);

fn routes(_: &Node) -> Routes {
    Routes::default()
}

fn config(directory: &TempDir) -> Config {
    Config {
        directory: directory.path().to_owned(),
        listen: LOOPBACK,
        known: Level::NEWEST,
        history: Limits::default(),
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The members of a cluster that lives on loopback, with their directories.
struct Lab {
    members: Vec<(Node, TempDir)>,
}

impl Lab {
    async fn new(managers: usize) -> Self {
        let home = directory();
        let host = Host {
            hostname: "h1".to_owned(),
            advertise: LOOPBACK,
            vtep: LOOPBACK.ip(),
        };
        let first = Node::init(config(&home), host, 4789, routes).await.unwrap();
        let mut lab = Self {
            members: vec![(first, home)],
        };
        for _ in 1..managers {
            lab.join(Role::Manager).await;
        }
        lab
    }

    async fn join(&mut self, role: Role) -> Node {
        let home = directory();
        let options = self.options(role).await;
        let member = Node::join(config(&home), options, routes).await.unwrap();
        assert_eq!(member.role(), role);
        self.members.push((member.clone(), home));
        member
    }

    async fn options(&self, role: Role) -> JoinOptions {
        JoinOptions {
            token: token(self.at(0), role).await,
            manager: address(self.at(0)),
            hostname: format!("h{}", self.members.len() + 1),
            advertise: None,
            vtep: None,
        }
    }

    fn at(&self, position: usize) -> &Node {
        &self.members[position].0
    }

    fn path(&self, position: usize) -> PathBuf {
        self.members[position].1.path().to_owned()
    }

    fn leader(&self) -> Option<usize> {
        self.members.iter().position(|(member, _)| {
            member
                .consensus()
                .is_some_and(|consensus| consensus.standing.leads())
        })
    }

    /// Stops a member and starts it again from its disk, at the same address.
    async fn restart(&mut self, position: usize) {
        let config = self.stop(position).await;
        self.start(position, config).await;
    }

    async fn stop(&self, position: usize) -> Config {
        let listen = address(self.at(position));
        self.at(position).shutdown().await;
        Config {
            directory: self.path(position),
            listen,
            known: Level::NEWEST,
            history: Limits::default(),
        }
    }

    async fn start(&mut self, position: usize, config: Config) {
        self.members[position].0 = Node::resume(config, routes).await.unwrap().unwrap();
    }

    async fn end(self) {
        for (member, _) in &self.members {
            member.shutdown().await;
        }
    }
}

fn address(member: &Node) -> SocketAddr {
    member.view().borrow().peers[&member.node()].address
}

async fn token(member: &Node, role: Role) -> String {
    match member.query(Query::Token(role)).await.unwrap() {
        Answer::Token(token) => token.token,
        other => panic!("not a token: {other:?}"),
    }
}

/// Adds to a number of the toy state machine.
fn add(name: &str, number: u32) -> Proposal {
    let command = Command::Service(ServiceCommand::Scale {
        service: name.to_owned(),
        replicas: number,
    });
    Proposal {
        request: RequestId(rand::random()),
        command,
    }
}

fn is_done(response: Response) {
    assert_eq!(response, Ok(Outcome::Done));
}

/// What operators were warned of, by all members of this process.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    fn collect() -> Self {
        let warnings = Self::default();
        let writer = warnings.clone();
        let lines = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false);
        lines.with_writer(move || writer.clone()).init();
        warnings
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the condition holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, wait).await.is_ok(),
        "never happened: {what}"
    );
}

/// What the member's copy of the state says of a number.
fn total(member: &Node, name: &str) -> u32 {
    member
        .consensus()
        .unwrap()
        .machine
        .read(|toy| toy.total(name))
}
