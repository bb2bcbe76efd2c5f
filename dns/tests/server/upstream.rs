//! What is asked of resolvers outside, and what of their answers is handed on: over UDP, TCP, and
//! TLS of hickory-server.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dns::{NameServer, NoTrust, Trust, Upstream};
use hickory_net::runtime::Time;
use hickory_proto::{
    op::{Message, Metadata, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, NULL, SOA},
    },
};
use hickory_server::{
    Server,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    fixture::{Host, MY_NET},
    resolver::{FakeUpstream, Resolver, known},
};

const NAME: &str = "dns.example.net";

async fn forwarding(to: SocketAddr) -> Resolver {
    Resolver::start(MY_NET, &Host::new(), Upstream::fixed(vec![to])).await
}

/// A fake that answers each datagram with some.
async fn datagrams(answers: fn(Message) -> Vec<Vec<u8>>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            for answer in answers(Message::from_vec(&buffer[..length]).unwrap()) {
                socket.send_to(&answer, client).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let forger = datagrams(|query| {
        let mut right = query.into_response();
        known(&mut right);
        let mut other_id = right.clone();
        other_id.metadata.id ^= 1;
        let mut other_name = right.clone();
        let name = Name::from_ascii("example.org.").unwrap();
        other_name.queries[0].set_name(name);
        for forged in [&mut other_id, &mut other_name] {
            forged.answers[0].data = RData::A(A(Ipv4Addr::new(192, 0, 2, 66)));
        }
        let all = [other_id, other_name, right];
        let noise = std::iter::once(vec![0]);
        noise
            .chain(all.map(|message| message.to_vec().unwrap()))
            .collect()
    })
    .await;
    assert_eq!(
        forwarding(forger).await.short("example.com A").await,
        ["192.0.2.1"]
    );
}

#[tokio::test]
async fn a_datagram_that_cannot_be_read_is_asked_for_over_tcp() {
    let udp = datagrams(|query| {
        let mut answer = query.into_response();
        known(&mut answer);
        let mut bytes = answer.to_vec().unwrap();
        bytes.truncate(bytes.len() - 3);
        vec![bytes]
    })
    .await;
    let tcp = TcpListener::bind(udp).await.unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = tcp.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let mut answer = Message::from_vec(&query).unwrap().into_response();
            known(&mut answer);
            let answer = answer.to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    assert_eq!(
        forwarding(udp).await.short("example.com A").await,
        ["192.0.2.1"]
    );
}

/// What the question was told with: the size of answers, the DO and CD bits.
#[tokio::test]
async fn resolvers_are_told_our_size_and_the_clients_flags() {
    let echo = datagrams(|query| {
        let (edns, flags) = (query.edns.clone().unwrap(), query.metadata);
        let mut answer = query.into_response();
        let text = [
            edns.max_payload() == 1232,
            edns.flags().dnssec_ok,
            flags.checking_disabled,
            flags.recursion_desired,
        ];
        let octets = text.map(u8::from);
        known(&mut answer);
        answer.answers[0].data = RData::A(A(octets.into()));
        vec![answer.to_vec().unwrap()]
    })
    .await;
    let resolver = forwarding(echo).await;
    for (flags, expected) in [
        ("+noedns +norecurse", "1.0.0.0"),
        ("+bufsize=4096", "1.0.0.1"),
        ("+dnssec", "1.1.0.1"),
        ("+dnssec +cdflag", "1.1.1.1"),
    ] {
        assert_eq!(
            resolver.short(&format!("{flags} example.com A")).await,
            [expected],
            "{flags}"
        );
    }
}

#[tokio::test]
async fn codes_and_what_comes_with_them_are_handed_on() {
    for (code, shown) in [
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::NXDomain, "NXDOMAIN"),
        (ResponseCode::NotAuth, "NOTAUTH"),
        (ResponseCode::YXDomain, "YXDOMAIN"),
    ] {
        let answers: fn(Message) -> Vec<Vec<u8>> = |query| {
            let name = query.queries[0].name().to_string();
            let mut answer = query.into_response();
            answer.metadata.authentic_data = true;
            answer.metadata.response_code = ResponseCode::from(0, name[1..2].parse().unwrap());
            let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 7);
            answer.add_authority(Record::from_rdata(Name::root(), 9, RData::SOA(soa)));
            vec![answer.to_vec().unwrap()]
        };
        let resolver = forwarding(datagrams(answers).await).await;
        let answer = resolver.dig(&format!("c{}.example A", code.low())).await;
        assert!(
            answer.contains(&format!("status: {shown}"))
                && answer.contains("flags: qr rd ra ad")
                && answer.contains("AUTHORITY: 1"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn records_of_unknown_types_are_handed_on_as_they_are() {
    let answers: fn(Message) -> Vec<Vec<u8>> = |query| {
        let mut answer = query.into_response();
        let (name, kind) = (
            answer.queries[0].name().clone(),
            RecordType::Unknown(65_280),
        );
        let data = RData::Unknown {
            code: kind,
            rdata: NULL::with(vec![0xde, 0xad, 0xc0, 0x0c]),
        };
        answer.add_answer(Record::from_rdata(name, 300, data));
        vec![answer.to_vec().unwrap()]
    };
    let resolver = forwarding(datagrams(answers).await).await;
    let answer = resolver.short("example.com TYPE65280").await;
    assert_eq!(answer, ["\\# 4 DEADC00C"]);
}

#[tokio::test]
async fn the_next_resolver_is_asked_at_once_where_nobody_listens() {
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.local_addr().unwrap()
    };
    let live = FakeUpstream::start(known).await;
    let upstream = Upstream::fixed(vec![closed, live.address]);
    let resolver = Resolver::start(MY_NET, &Host::new(), upstream).await;
    assert_eq!(resolver.short("example.com A").await, ["192.0.2.1"]);

    let start = Instant::now();
    let answer = forwarding(closed).await.dig("example.com A").await;
    assert!(answer.contains("status: SERVFAIL"), "{answer}");
    let spent = start.elapsed();
    assert!(
        spent < Duration::from_secs(2),
        "nobody was waited for: {spent:?}"
    );
}

/// Answers every question with 192.0.2.1.
struct Known(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl RequestHandler for Known {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        self.0.fetch_add(1, Ordering::Relaxed);
        let name = request
            .request_info()
            .unwrap()
            .query
            .original()
            .name()
            .clone();
        let record = Record::from_rdata(name, 300, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))));
        let response = MessageResponseBuilder::from_message_request(request).build(
            Metadata::response_from_request(&request.metadata),
            [&record],
            [],
            [],
            [],
        );
        handle.send_response(response).await.unwrap()
    }
}

/// A DNS server over TLS, whom to trust for it, and how many questions it had.
struct Encrypted {
    address: SocketAddr,
    root: CertificateDer<'static>,
    questions: Arc<AtomicUsize>,
    _server: Server<Known>,
}

impl Encrypted {
    async fn start(idle: Duration) -> Self {
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let address = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
        params.subject_alt_names.push(address);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let questions = Arc::new(AtomicUsize::new(0));
        let mut server = Server::new(Known(questions.clone()));
        server
            .register_tls_listener_with_tls_config(listener, idle, Arc::new(config))
            .unwrap();
        Self {
            address,
            root: root.der().clone(),
            questions,
            _server: server,
        }
    }

    /// A resolver that forwards to it, where its certificate is for `name`.
    async fn behind(&self, name: &str, trust: Trust) -> Resolver {
        let server: NameServer = format!("tls://{}{name}", self.address).parse().unwrap();
        let upstream = Upstream::servers(vec![server], Some(trust));
        Resolver::start(MY_NET, &Host::new(), upstream).await
    }

    fn trusted(&self) -> Trust {
        Trust::roots([self.root.clone()]).unwrap()
    }
}

#[tokio::test]
async fn resolvers_over_tls_are_asked_by_name_or_address() {
    let server = Encrypted::start(Duration::from_secs(30)).await;
    for name in ["", "#dns.example.net"] {
        let resolver = server.behind(name, server.trusted()).await;
        for question in ["one.example A", "+tcp two.example A"] {
            assert_eq!(
                resolver.short(question).await,
                ["192.0.2.1"],
                "{name} {question}"
            );
        }
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn nobody_but_the_named_and_trusted_one_is_asked() {
    let server = Encrypted::start(Duration::from_secs(30)).await;
    let other = Encrypted::start(Duration::from_secs(30)).await;
    for (name, trust) in [
        ("#dns.example.org", server.trusted()),
        ("#dns.example.net", other.trusted()),
        ("", other.trusted()),
    ] {
        let answer = server.behind(name, trust).await.dig("example.com A").await;
        assert!(
            answer.contains("status: SERVFAIL")
                && answer.contains(&format!("tls://{}", server.address)),
            "{answer}"
        );
    }
    assert_eq!(server.questions.load(Ordering::Relaxed), 0);
    assert!(matches!(Trust::roots([]), Err(NoTrust::NoRoots(_))));
}

#[tokio::test]
async fn a_tls_connection_that_has_ended_is_made_anew() {
    let server = Encrypted::start(Duration::from_millis(300)).await;
    let resolver = server.behind("", server.trusted()).await;
    for round in 0..3 {
        let question = format!("r{round}.example A");
        assert_eq!(resolver.short(&question).await, ["192.0.2.1"]);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}
