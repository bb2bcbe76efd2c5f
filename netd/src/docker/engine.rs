//! A client of Docker Engine's API on its local socket: inventory and events.

use std::{collections::BTreeMap, io, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

const SOCKET: &str = "/var/run/docker.sock";
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of an answer: ten thousand containers.
const BODY: usize = 64 << 20;
/// Events that may change a container's names, namespace or health:
/// `{"type":["container","network"],"event":[…]}`.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C\
                      %22event%22%3A%5B%22create%22%2C%22start%22%2C%22die%22%2C%22destroy%22%2C\
                      %22rename%22%2C%22pause%22%2C%22unpause%22%2C%22connect%22%2C\
                      %22disconnect%22%2C%22remove%22%2C%22health_status%22%5D%7D";

/// A network of the engine.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Network {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who makes it.
    pub driver: String,
    /// No way out.
    pub internal: bool,
}

impl Network {
    /// Whether it has a way out, if nobody knows better than the engine.
    pub(crate) fn leads_out(&self) -> bool {
        // That of `none`.
        !self.internal && self.driver != "null"
    }
}

/// A container, as lists show it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Listed {
    /// Its identity.
    pub id: String,
    /// Its name, behind `/`.
    #[serde(default)]
    pub names: Option<Vec<String>>,
    /// The user's notes.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// `running`, `paused`, …
    #[serde(default)]
    pub state: String,
    /// `Up 3 minutes (healthy)`.
    #[serde(default)]
    pub status: String,
    /// Where it is attached.
    #[serde(default)]
    pub network_settings: Settings,
}

/// A container, looked at closely.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspected {
    /// Where it is attached.
    pub network_settings: Settings,
}

/// Where a container is attached.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    /// By the network's name.
    pub networks: Option<BTreeMap<String, Option<Endpoint>>>,
}

/// An endpoint of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Endpoint {
    /// Its identity; empty while the container does not run.
    #[serde(rename = "EndpointID")]
    pub id: String,
    /// Its network's identity.
    #[serde(rename = "NetworkID")]
    pub network: String,
    /// Ethernet.
    pub mac_address: String,
    /// Further names; lists do not have them.
    pub aliases: Option<Vec<String>>,
}

impl Settings {
    /// The endpoints that there are now.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let all = self.networks.iter().flat_map(BTreeMap::values).flatten();
        all.filter(|endpoint| !endpoint.id.is_empty())
    }
}

/// What there is.
pub(crate) struct Inventory {
    /// Of all drivers.
    pub networks: Vec<Network>,
    /// Ended ones included.
    pub containers: Vec<Listed>,
}

/// Reads containers and networks.
///
/// # Errors
///
/// The engine does not answer, or not as expected.
pub(crate) async fn inventory() -> io::Result<Inventory> {
    // Containers are read last: a container that is attached meanwhile may be on a network that was
    // not listed yet.
    let networks = get("/networks").await?;
    Ok(Inventory {
        networks,
        containers: get("/containers/json?all=1").await?,
    })
}

/// Looks at one container. Errors as for [`inventory`].
pub(crate) async fn inspect(container: &str) -> io::Result<Inspected> {
    get(&format!("/containers/{container}/json")).await
}

/// Tells of changes while it is read.
pub(crate) struct Events(Incoming);

impl Events {
    /// Begins to listen. Errors as for [`inventory`].
    pub(crate) async fn open() -> io::Result<Self> {
        Ok(Self(request(EVENTS).await?))
    }

    /// The next change, or the end of the engine.
    ///
    /// # Errors
    /// The engine is gone.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        match self.0.frame().await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Whether this says that there is no engine, or that the one that was asked has ended over it.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, NotFound};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | NotFound
    )
}

async fn get<T: DeserializeOwned>(path: &str) -> io::Result<T> {
    let read = async {
        let body = Limited::new(request(path).await?, BODY)
            .collect()
            .await
            .map_err(io::Error::other)?;
        serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
    };
    timeout(LIMIT, read).await?
}

async fn request(path: &str) -> io::Result<Incoming> {
    let stream = UnixStream::connect(SOCKET).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends with the body that is read of it.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("Host", "docker")
        .body(Empty::<Bytes>::new());
    let unanswered = |error| io::Error::new(io::ErrorKind::ConnectionAborted, error);
    let response = sender
        .send_request(request.map_err(io::Error::other)?)
        .await
        .map_err(unanswered)?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(io::Error::other(format!("{path}: {status}"))),
    }
}
