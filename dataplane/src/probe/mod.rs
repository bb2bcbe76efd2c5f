//! Duplicate address detection on a LAN: before an endpoint gets its addresses they are probed,
//! afterwards they are announced. Each probe runs on a thread of its own, so that none waits for
//! another.

mod frame;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use model::{EndpointId, Kind, Mac};
use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
        socket,
    },
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tracing::{debug, info};

use super::{
    AGAIN, Failure, Plane,
    desired::{Desired, Question},
    namespace,
    plan::{Observed, Op},
    state::{AddressKey, ObservedLink, Place, Space},
};

/// Number of probes, and timeout of each (RFC 5227 takes seconds, too long for a container).
const QUESTIONS: u32 = 3;
const ANSWER: Duration = Duration::from_millis(120);
/// How often an address is announced, and the time between (RFC 5227 section 2.3).
const ANNOUNCEMENTS: u32 = 3;
const REPEAT: Duration = Duration::from_secs(1);
/// When a question is asked again whose answer was bad.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of the addresses of this host's endpoints on LANs.
pub(crate) struct Probes {
    answers: BTreeMap<EndpointId, Answer>,
    sender: UnboundedSender<(EndpointId, Answer)>,
    receiver: UnboundedReceiver<(EndpointId, Answer)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// On its way.
    Asked,
    /// Nobody has them; they are to be announced.
    Free,
    /// Ours, and everybody has been told.
    Ours,
    /// Somebody has this one.
    Taken(IpAddr, Mac, Instant),
    /// The question could not be asked.
    Unasked(String, Instant),
}

impl Default for Probes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            answers: BTreeMap::new(),
            sender,
            receiver,
        }
    }
}

impl Probes {
    /// The endpoints that may have their addresses.
    pub(crate) fn free(&self) -> BTreeSet<EndpointId> {
        let is_free = |answer: &Answer| matches!(answer, Answer::Free | Answer::Ours);
        self.answers
            .iter()
            .filter(|(_, answer)| is_free(answer))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Endpoints that have their addresses from an earlier run of the daemon keep them without a
    /// probe; returns whether there are any.
    pub(crate) fn adopt(&mut self, desired: &Desired, observed: &Observed) -> bool {
        let in_use = |question: &Question| {
            let (place, link) = &question.port;
            let has = |space: &Space<ObservedLink>| {
                let key = |address: &IpAddr| AddressKey {
                    link: link.clone(),
                    address: *address,
                };
                question
                    .addresses
                    .iter()
                    .any(|address| space.addresses.contains_key(&key(address)))
            };
            observed.spaces.get(place).is_some_and(|space| has(space))
        };
        let adopted: Vec<EndpointId> = desired
            .questions
            .iter()
            .filter(|(_, question)| question.open && in_use(question))
            .map(|(id, _)| *id)
            .collect();
        self.answers
            .extend(adopted.iter().map(|id| (*id, Answer::Ours)));
        !adopted.is_empty()
    }

    /// Asks what is to be asked where the links for it are there, announces what has come into use,
    /// and forgets endpoints that are not known any more.
    pub(crate) fn reconcile(&mut self, desired: &Desired, observed: &Observed, plan: &[Op]) {
        self.answers.retain(|id, _| {
            desired
                .sandboxes
                .values()
                .flatten()
                .any(|(_, endpoint)| endpoint == id)
        });
        for (id, question) in &desired.questions {
            if !question.open {
                let is_unfinished = |op: &Op| op.place == question.port.0;
                if !plan.iter().any(is_unfinished) {
                    self.announce(*id, question);
                }
                continue;
            }
            let is_due = match self.answers.get(id) {
                Some(Answer::Taken(_, _, at) | Answer::Unasked(_, at)) => at.elapsed() >= ASK_AGAIN,
                answer => answer.is_none(),
            };
            let (place, link) = &question.port;
            let is_there = observed
                .spaces
                .get(place)
                .and_then(|space| space.links.get(link))
                .is_some_and(|link| link.up);
            if is_due && is_there {
                self.ask(*id, question);
            }
        }
    }

    /// Tells the LAN of the endpoints that have just got their addresses.
    fn announce(&mut self, id: EndpointId, question: &Question) {
        if self.answers.get(&id) != Some(&Answer::Free) {
            return;
        }
        self.answers.insert(id, Answer::Ours);
        let question = question.clone();
        let told = Wire::open(&question)
            .map(|wire| spawn("announce", move || wire.announce(&question.addresses)));
        if let Err(error) = told.and_then(|spawned| spawned) {
            debug!(%error, "an address could not be announced");
        }
    }

    /// Completes when an answer has come. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        match self.receiver.recv().await {
            Some((id, answer)) => self.hear(id, answer),
            None => std::future::pending().await,
        }
        while let Ok((id, answer)) = self.receiver.try_recv() {
            self.hear(id, answer);
        }
    }

    /// Why endpoints do not have their addresses.
    pub(crate) fn failures<'a>(
        &'a self,
        desired: &'a Desired,
    ) -> impl Iterator<Item = Failure> + 'a {
        desired.questions.iter().filter_map(|(id, question)| {
            let (kind, cause, next) = match self.answers.get(id)? {
                Answer::Taken(address, mac, _) => (
                    Kind::Conflict,
                    format!("its address {address} is in use on the LAN by {mac}"),
                    "free it there, or make the network with an --ip-range that nobody else uses",
                ),
                Answer::Unasked(cause, _) => (
                    Kind::Unavailable,
                    format!("whether its addresses are free could not be asked: {cause}"),
                    AGAIN,
                ),
                _ => return None,
            };
            let why = model::Failure::new(kind, cause, next);
            Some(Failure {
                plane: Plane::Other,
                sandbox: Some(question.sandbox),
                network: None,
                why: why.about(format!("task {}", question.sandbox)),
            })
        })
    }

    fn hear(&mut self, id: EndpointId, answer: Answer) {
        // What came to an end meanwhile is not begun anew.
        if let Some(known) = self.answers.get_mut(&id) {
            info!(endpoint = %id, ?answer, "the LAN was asked for its addresses");
            *known = answer;
        }
    }

    fn ask(&mut self, id: EndpointId, question: &Question) {
        let (sender, addresses) = (self.sender.clone(), question.addresses.clone());
        let asked = Wire::open(question).and_then(|wire| {
            spawn("probe", move || {
                let answer = match wire.ask(&addresses) {
                    Ok(None) => Answer::Free,
                    Ok(Some((address, mac))) => Answer::Taken(address, mac, Instant::now()),
                    Err(error) => Answer::Unasked(error.to_string(), Instant::now()),
                };
                // Nobody listens any more when the data plane ends.
                let _ = sender.send((id, answer));
            })
        });
        match (asked, self.answers.get_mut(&id)) {
            (Err(error), _) => {
                self.answers
                    .insert(id, Answer::Unasked(error.to_string(), Instant::now()));
            }
            // The bad answer stands until there is another.
            (Ok(()), Some(Answer::Taken(_, _, at) | Answer::Unasked(_, at))) => {
                *at = Instant::now()
            }
            (Ok(()), _) => drop(self.answers.insert(id, Answer::Asked)),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}

/// A link, frame by frame.
struct Wire {
    socket: OwnedFd,
    mac: Mac,
}

impl Wire {
    fn open(question: &Question) -> io::Result<Self> {
        let file: File = match question.place {
            Place::Host => namespace::current()?,
            Place::Inside(inside) => namespace::open(inside)?.0,
        };
        namespace::within_file(&file, || {
            // Its address names all protocols (0): those of the socket are taken.
            let link = link_address(question.link.as_str())?;
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            bind(socket.as_raw_fd(), &link)?;
            let mac = link
                .addr()
                .map(Mac)
                .ok_or_else(|| io::Error::other("the link has no Ethernet address"))?;
            Ok(Self { socket, mac })
        })?
    }

    /// Who else has one of these addresses.
    fn ask(&self, addresses: &[IpAddr]) -> io::Result<Option<(IpAddr, Mac)>> {
        for _ in 0..QUESTIONS {
            for &address in addresses {
                self.send(&frame::question(self.mac, address))?;
            }
            let end = Instant::now() + ANSWER;
            while let Some(frame) = self.receive(end)? {
                let claims = addresses
                    .iter()
                    .filter_map(|address| Some((*address, frame::claim(&frame, *address)?)));
                // The kernel shows us our own frames, too.
                if let Some(claim) = { claims }.find(|(_, mac)| *mac != self.mac) {
                    return Ok(Some(claim));
                }
            }
        }
        Ok(None)
    }

    fn announce(&self, addresses: &[IpAddr]) {
        for _ in 0..ANNOUNCEMENTS {
            for &address in addresses {
                // The link may be gone by now, and the address with it.
                let _ = self.send(&frame::announcement(self.mac, address));
            }
            thread::sleep(REPEAT);
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame, if one comes before `end`.
    fn receive(&self, end: Instant) -> io::Result<Option<Vec<u8>>> {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if poll(
            &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        )? == 0
        {
            return Ok(None);
        }
        let mut frame = vec![0; 2048];
        let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())?;
        frame.truncate(length);
        Ok(Some(frame))
    }
}

/// Of the calling thread's namespace.
fn link_address(name: &str) -> io::Result<LinkAddr> {
    let mut found = getifaddrs()?.filter(|found| found.interface_name == name);
    let address = found.find_map(|found| found.address.as_ref()?.as_link_addr().copied());
    address
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no link {name}")))
}
