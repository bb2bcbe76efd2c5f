//! Answers questions on the sockets of a network: from the table where the name is ours, from upstream where it is not.

use std::{sync::Arc, time::Duration};

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record,
        rdata::{SOA, opt::EdnsOption},
    },
};
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use model::{NetworkId, TaskId};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, watch},
};

use crate::{
    table::{ANSWER_TTL, Client, Table, Verdict},
    upstream::{Transport, Upstream},
};

/// The longest UDP answer in bytes (dnsflagday.net/2020): fits every tunnel in one packet.
const MAX_UDP: u16 = 1232;
/// How long a TCP connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait for a slow TCP reader.
const TCP_ANSWERS: usize = 32;
/// How many forwarded questions of one network may be on their way: a network cannot use up the host's share.
const MAX_FORWARDED: usize = 256;
/// Our negatives are not to be kept (RFC 2308 section 5): the name may come into being the next moment.
const NEGATIVE_TTL: u32 = 0;
/// EDNS option of extended errors (RFC 8914) and its codes.
const EXTENDED_ERROR: u16 = 15;
const NOT_READY: u16 = 14;
const PROHIBITED: u16 = 18;
const NO_REACHABLE_AUTHORITY: u16 = 22;

/// Whose questions come to a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// Those of all endpoints of a network.
    Network(NetworkId),
    /// Those of one task.
    Task(TaskId),
}

/// The sockets of one resolver, made inside the namespace that it serves.
#[derive(Debug)]
pub struct Listener {
    /// Who asks there.
    pub audience: Audience,
    /// One per address.
    pub udp: Vec<UdpSocket>,
    /// One per address.
    pub tcp: Vec<TcpListener>,
}

/// A running resolver. Dropping it closes its sockets and gives up what it was about to answer.
pub struct ServerHandle(Server<Resolver>);

impl ServerHandle {
    /// Returns when no socket of the resolver can be read any more. Cancel-safe.
    pub async fn stopped(&mut self) {
        if let Err(error) = self.0.block_until_done().await {
            tracing::warn!(%error, "a resolver has stopped");
        }
    }
}

/// Answers on these sockets until the handle is dropped; every question sees the table's latest value.
pub fn serve(listener: Listener, table: watch::Receiver<Arc<Table>>, upstream: Arc<Upstream>) -> ServerHandle {
    let forwarded = Semaphore::new(MAX_FORWARDED);
    let mut server = Server::new(Resolver { audience: listener.audience, table, upstream, forwarded });
    listener.udp.into_iter().for_each(|socket| server.register_socket(socket));
    listener.tcp.into_iter().for_each(|socket| server.register_listener(socket, TCP_IDLE, TCP_ANSWERS));
    ServerHandle(server)
}

struct Resolver {
    audience: Audience,
    table: watch::Receiver<Arc<Table>>,
    upstream: Arc<Upstream>,
    forwarded: Semaphore,
}

#[async_trait::async_trait]
impl RequestHandler for Resolver {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, handle: R) -> ResponseInfo {
        let reply = match question(request) {
            Ok(question) => self.reply(request, question).await,
            Err(code) => empty(request, code),
        };
        send(request, reply, handle).await
    }
}

/// The one question of a request, or why it is not answered.
fn question(request: &Request) -> Result<&Query, ResponseCode> {
    if request.version() > 0 {
        return Err(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [question] = request.queries.queries() else { return Err(ResponseCode::FormErr) };
    match question.query_class() {
        DNSClass::IN | DNSClass::ANY => Ok(question.original()),
        _ => Err(ResponseCode::Refused),
    }
}

impl Resolver {
    async fn reply(&self, request: &Request, question: &Query) -> Message {
        let table = self.table.borrow().clone();
        let client = match self.audience {
            Audience::Network(network) => Client::Of { network, address: request.src().ip().to_canonical() },
            Audience::Task(task) => Client::Task(task),
        };
        match table.answer(client, &question.name().into(), question.query_type(), rand::random::<u32>() as usize) {
            Verdict::Records(found) => positive(request, question, found),
            Verdict::NoData => negative(request, question, ResponseCode::NoError, table.generation()),
            Verdict::NoSuchName => negative(request, question, ResponseCode::NXDomain, table.generation()),
            Verdict::Internal => {
                let reply = negative(request, question, ResponseCode::NXDomain, table.generation());
                explained(reply, PROHIBITED, "the network is internal: only its own names are answered")
            }
            Verdict::UnknownNetwork => {
                let reply = empty(request, ResponseCode::ServFail);
                explained(reply, NOT_READY, "this host does not know the network yet: ask again")
            }
            Verdict::Forward => self.forward(request, question, &table).await,
        }
    }

    async fn forward(&self, request: &Request, question: &Query, table: &Table) -> Message {
        let failed = |cause: &str| explained(empty(request, ResponseCode::ServFail), NO_REACHABLE_AUTHORITY, cause);
        let Ok(_permit) = self.forwarded.try_acquire() else {
            return failed("too many questions of this network are on their way already: ask again");
        };
        let transport = if request.protocol() == Protocol::Udp { Transport::Udp } else { Transport::Tcp };
        match self.upstream.ask(request.as_slice(), question, transport, table.gateways()).await {
            Ok(answer) => relayed(request, answer),
            Err(error) => failed(&error.to_string()),
        }
    }
}

fn positive(request: &Request, question: &Query, found: Vec<RData>) -> Message {
    let mut reply = empty(request, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    // The name as it was asked: case is the client's guard against forged answers (0x20).
    reply.answers =
        found.into_iter().map(|data| Record::from_rdata(question.name().clone(), ANSWER_TTL, data)).collect();
    reply
}

/// With the SOA of the parent of the name, as RFC 2308 section 3 wants it; its serial is the table's generation.
fn negative(request: &Request, question: &Query, code: ResponseCode, generation: u64) -> Message {
    let mut reply = empty(request, code);
    reply.metadata.authoritative = true;
    let nobody = Name::root();
    let soa = SOA::new(nobody.clone(), nobody, generation as u32, 1, 1, 1, NEGATIVE_TTL);
    reply.authorities = vec![Record::from_rdata(question.name().base_name(), NEGATIVE_TTL, RData::SOA(soa))];
    reply
}

fn empty(request: &Request, code: ResponseCode) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply
}

fn relayed(request: &Request, mut answer: Message) -> Message {
    answer.metadata.id = request.metadata.id;
    if answer.metadata.response_code == ResponseCode::NXDomain {
        // A service may get this name the next moment, so nobody is to remember that it does not exist.
        answer.authorities.iter_mut().for_each(|record| record.ttl = NEGATIVE_TTL);
    }
    answer
}

fn explained(mut reply: Message, code: u16, text: &str) -> Message {
    let data = [&code.to_be_bytes(), text.as_bytes()].concat();
    let edns = reply.edns.get_or_insert_default();
    edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    reply
}

async fn send<R: ResponseHandler>(request: &Request, mut reply: Message, mut handle: R) -> ResponseInfo {
    let edns = request.edns.as_ref().map(|asked| agreed(asked, reply.edns.take()));
    let response = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
        reply.metadata,
        &reply.answers,
        &reply.authorities,
        [],
        &reply.additionals,
    );
    handle.send_response(response).await.unwrap_or_else(|error| {
        tracing::debug!(%error, client = %request.src(), "an answer could not be sent");
        ResponseInfo::from(Header { metadata: reply.metadata, counts: HeaderCounts::default() })
    })
}

/// The EDNS of an answer; its size is what the server cuts UDP answers to.
fn agreed(asked: &Edns, reply: Option<Edns>) -> Edns {
    let mut edns = reply.unwrap_or_default();
    edns.set_version(0);
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP));
    edns
}
