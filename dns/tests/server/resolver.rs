//! A resolver on real sockets, and one that it forwards to.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use dns::{Audience, Limits, Listener, ServerHandle, Table, Upstream};
use hickory_proto::{
    op::Message,
    rr::{RData, Record, rdata::A},
};
use model::NetworkId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    process::Command,
    sync::{mpsc, watch},
};

use crate::fixture::Host;

pub struct Resolver {
    pub port: u16,
    pub table: watch::Sender<Table>,
    _server: ServerHandle,
}

impl Resolver {
    /// On 127.0.0.1 and ::1.
    pub async fn start(network: NetworkId, host: &Host, upstream: Upstream) -> Self {
        Self::limited(network, host, upstream, Limits::default()).await
    }

    pub async fn limited(
        network: NetworkId,
        host: &Host,
        upstream: Upstream,
        limits: Limits,
    ) -> Self {
        let (port, listener) = loop {
            if let Ok(bound) = bind(network).await {
                break bound;
            }
        };
        let (table, tables) = watch::channel(Table::of(&host.0));
        let server = dns::serve(listener, tables, Arc::new(upstream), limits);
        Self {
            port,
            table,
            _server: server,
        }
    }

    /// At 127.0.0.1 unless told otherwise.
    pub async fn dig(&self, arguments: &str) -> String {
        let server = if arguments.contains('@') {
            ""
        } else {
            "@127.0.0.1 "
        };
        let port = self.port.to_string();
        let mut command = Command::new("dig");
        command
            .args(["-p", &port, "+tries=1", "+timeout=10"])
            .args(format!("{server}{arguments}").split_whitespace());
        let output = command
            .output()
            .await
            .expect("dig (package dnsutils) can be run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub async fn short(&self, arguments: &str) -> Vec<String> {
        let mut lines: Vec<String> = self
            .dig(&format!("+short {arguments}"))
            .await
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }
}

async fn bind(network: NetworkId) -> io::Result<(u16, Listener)> {
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = first.local_addr()?.port();
    let second = UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).await?;
    let tcp = [
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?,
        TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await?,
    ];
    Ok((
        port,
        Listener {
            audience: Audience::Network(network),
            udp: vec![first, second],
            tcp: tcp.into(),
        },
    ))
}

/// A resolver of the host, made of what it answers; it reports every question.
pub struct FakeUpstream {
    pub address: SocketAddr,
    asked: mpsc::UnboundedReceiver<String>,
}

impl FakeUpstream {
    pub async fn start(answer: fn(&mut Message)) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (report, asked) = mpsc::unbounded_channel();
        let over_tcp = report.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                let reply = respond(&buffer[..length], "udp", &report, answer);
                udp.send_to(&reply, client).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let mut reply =
                    Message::from_vec(&respond(&query, "tcp", &over_tcp, answer)).unwrap();
                reply.metadata.truncation = false;
                let reply = reply.to_vec().unwrap();
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        Self { address, asked }
    }

    pub fn questions(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }
}

fn respond(
    query: &[u8],
    over: &str,
    report: &mpsc::UnboundedSender<String>,
    answer: fn(&mut Message),
) -> Vec<u8> {
    let mut reply = Message::from_vec(query).unwrap().into_response();
    report.send(format!("{over} {}", reply.queries[0])).unwrap();
    answer(&mut reply);
    reply.to_vec().unwrap()
}

pub fn known(reply: &mut Message) {
    reply.metadata.recursion_available = true;
    let name = reply.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(
        name,
        300,
        RData::A(A(Ipv4Addr::new(192, 0, 2, 1))),
    ));
}
