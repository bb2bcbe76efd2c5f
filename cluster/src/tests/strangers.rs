//! What a peer without a certificate can take of a member: nothing that others miss.

use std::time::Instant;

use api::proto::{Json, control_client::ControlClient, membership_client::MembershipClient};
use model::{Kind, Secret};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, transport::Channel};

use super::*;
use crate::{
    JoinCall, Token,
    bounds::JOIN_BYTES,
    link::{self, Target},
    pki, tls,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

struct Stranger {
    manager: SocketAddr,
    token: Token,
}

impl Stranger {
    async fn at(lab: &Lab) -> Self {
        let token = token(lab.at(0), Role::Worker).await;
        Self {
            manager: address(lab.at(0)),
            token: token.parse().unwrap(),
        }
    }

    async fn channel(&self) -> Channel {
        let tls = Arc::new(tls::pinned(self.token.digest.clone()).unwrap());
        let target = Target {
            address: self.manager,
            node: None,
        };
        link::connect(tls, target).await.unwrap().0
    }

    /// A connection that has said nothing yet.
    async fn tls(&self) -> TlsStream<TcpStream> {
        let tls = Arc::new(tls::pinned(self.token.digest.clone()).unwrap());
        let name = ServerName::try_from(pki::ANY_MEMBER).unwrap();
        let tcp = TcpStream::connect(self.manager).await.unwrap();
        TlsConnector::from(tls).connect(name, tcp).await.unwrap()
    }

    /// A connection that speaks HTTP/2, and the settings that it was told.
    async fn http2(&self) -> (TlsStream<TcpStream>, Vec<(u16, u32)>) {
        let mut stream = self.tls().await;
        stream
            .write_all(&[PREFACE, SETTINGS].concat())
            .await
            .unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "the first frame is SETTINGS");
        let mut settings = vec![0; usize::from(head[2])];
        stream.read_exact(&mut settings).await.unwrap();
        let told = settings.chunks(6).map(|one| {
            let name = u16::from_be_bytes([one[0], one[1]]);
            (name, u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
        });
        (stream, told.collect())
    }

    async fn join(&self, secret: Secret, hostname: &str) -> Result<(), model::Refusal> {
        self.join_by(
            &mut MembershipClient::new(self.channel().await),
            secret,
            hostname,
        )
        .await
    }

    async fn join_by(
        &self,
        client: &mut MembershipClient<Channel>,
        secret: Secret,
        hostname: &str,
    ) -> Result<(), model::Refusal> {
        let call = JoinCall {
            secret,
            request: pki::new_request().unwrap().request,
            hostname: hostname.to_owned(),
            address: self.manager,
            vtep: self.manager.ip(),
            level: Level::NEWEST,
        };
        let answer = client.join(api::encode(&call)).await.unwrap();
        let answer: Result<serde_json::Value, _> = api::decode(answer.get_ref()).unwrap();
        answer.map(|_| ())
    }
}

/// Whether the other end closes the connection within this time.
async fn is_closed(stream: &mut TlsStream<TcpStream>, within: Duration) -> bool {
    let mut sink = [0; 4096];
    let reading = async { while !matches!(stream.read(&mut sink).await, Ok(0) | Err(_)) {} };
    timeout(within, reading).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_small_limits() {
    let lab = Lab::new(1).await;
    let (_stream, settings) = Stranger::at(&lab).await.http2().await;
    let told = |name: u16| settings.iter().find(|(own, _)| *own == name).unwrap().1;
    let (streams, window, headers) = (told(3), told(4), told(6));
    assert_eq!((streams, window, headers), (1, JOIN_BYTES as u32, 4096));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_can_join_and_call_nothing_else() {
    let lab = Lab::new(1).await;
    let stranger = Stranger::at(&lab).await;
    let channel = stranger.channel().await;
    let status = ControlClient::new(channel.clone())
        .query(api::encode(&Query::Nodes))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let mut client = MembershipClient::new(channel);
    let status = client.leader(Json::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let huge = Json {
        json: vec![b' '; JOIN_BYTES + 1],
    };
    let status = client.join(huge).await.unwrap_err();
    assert!(status.message().contains("too large"), "{status}");
    let secret = stranger.token.secret.clone();
    assert_eq!(stranger.join(secret, "h9").await, Ok(()));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_or_nonsense_is_closed() {
    let lab = Lab::new(1).await;
    let stranger = Stranger::at(&lab).await;
    let mut silent = stranger.tls().await;
    let mut half = stranger.tls().await;
    half.write_all(&PREFACE[..20]).await.unwrap();
    let mut other = stranger.tls().await;
    other
        .write_all(b"GET / HTTP/1.1\r\nHost: netd\r\n\r\n")
        .await
        .unwrap();
    let soon = link::HANDSHAKE_TIMEOUT + Duration::from_secs(2);
    assert!(is_closed(&mut other, Duration::from_secs(1)).await);
    assert!(is_closed(&mut silent, soon).await && is_closed(&mut half, soon).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_few_connections_and_members_lose_none() {
    let mut lab = Lab::new(3).await;
    let stranger = Stranger::at(&lab).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(stranger.http2().await.0);
    }
    let closed = futures::future::join_all(
        held.iter_mut()
            .map(|stream| is_closed(stream, Duration::from_secs(1))),
    );
    let open = closed.await.into_iter().filter(|closed| !closed).count();
    assert_eq!(open, 8);
    is_done(lab.at(1).propose(add("n", 1)).await);
    lab.join(Role::Worker).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_strangers_fills_the_log() {
    let warnings = Warnings::collect();
    let lab = Lab::new(1).await;
    let stranger = Stranger::at(&lab).await;
    for _ in 0..300 {
        let mut tcp = TcpStream::connect(stranger.manager).await.unwrap();
        tcp.write_all(b"garbage, and not the beginning of TLS\r\n")
            .await
            .unwrap();
        let _ended = tcp.read(&mut [0; 64]).await;
    }
    let mut client = MembershipClient::new(stranger.channel().await);
    let hostname = "h".repeat(10_000);
    for _ in 0..300 {
        let refused = stranger
            .join_by(&mut client, Secret::new(7), &hostname)
            .await;
        assert_eq!(refused.unwrap_err().kind, Kind::Invalid);
    }
    let counted = "warnings about connections and requests were left out";
    eventually("the rest is counted", || warnings.text().contains(counted)).await;
    let text = warnings.text();
    assert!(text.lines().count() < 40, "{} lines", text.lines().count());
    assert!(text.lines().all(|line| line.len() < 500), "{text}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_ask_no_other_manager_and_become_few() {
    let lab = Lab::new(2).await;
    let stranger = Stranger {
        manager: address(lab.at(lab.leader().unwrap())),
        ..Stranger::at(&lab).await
    };
    let other = 1 - lab.leader().unwrap();
    let mut client = MembershipClient::new(stranger.channel().await);
    lab.stop(other).await;
    let start = Instant::now();
    let refused = stranger.join_by(&mut client, Secret::new(7), "h9").await;
    assert_eq!(refused.unwrap_err().kind, Kind::Denied);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let mut kinds = Vec::new();
    for _ in 0..100 {
        let refused = stranger.join_by(&mut client, Secret::new(7), "h9").await;
        kinds.push(refused.unwrap_err().kind);
    }
    assert!(kinds.iter().filter(|kind| **kind == Kind::Denied).count() < 30);
    assert_eq!(kinds.last(), Some(&Kind::Exhausted));
    lab.end().await;
}
