//! The netlink sockets of this crate: read tables, apply changes, receive change events.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    libc::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR},
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use tokio::io::unix::AsyncFd;

use super::{
    Base, Chain, Change, Data, Family, ForeignChain, Hook, Key, Kind, Lifetime, Object, Rule,
    Ruleset, Set, Step,
    attribute::{chain, elements, object, rule, set, table},
    decode, encode,
    wire::Attributes,
};

/// A batch is one datagram; a rule set of 100 000 elements takes some 10 MB.
const SEND_BUFFER: usize = 64 << 20;
/// Every message of a batch may be refused with a message of its own.
const RECEIVE_BUFFER: usize = 8 << 20;
/// More than the kernel puts into one datagram of an answer.
const DATAGRAM: usize = 1 << 17;
/// The kernel answers while it is asked, so a silence is an error.
const ANSWER_SECONDS: i64 = 10;
/// Requests that are sent at once where each is made by itself.
const REQUESTS: usize = 256;
/// Attempts at reading a table that changes meanwhile.
const READ_ATTEMPTS: usize = 20;
/// `NFNLGRP_NFTABLES`.
const CHANGES_GROUP: u32 = 7;

/// What the kernel refused, or why it could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No socket.
    #[error("no netlink socket to nftables can be opened: {0}")]
    Open(#[source] io::Error),
    /// The socket failed.
    #[error("the netlink socket to nftables failed on table {table}: {reason}")]
    Socket {
        /// The table in question.
        table: String,
        /// Why.
        reason: io::Error,
    },
    /// The table could not be read.
    #[error("nftables does not let table {table} be read: {reason}")]
    Read {
        /// The table.
        table: String,
        /// Why.
        reason: Errno,
    },
    /// Connections could not be forgotten.
    #[error("connections to removed servers cannot be forgotten: {0}")]
    Connections(#[source] io::Error),
    /// The table never held still.
    #[error("nftables table {0} changed {READ_ATTEMPTS} times while it was read")]
    Restless(String),
    /// A step was refused, so nothing of the change was made.
    #[error("nftables refuses to {step} (table {table}): {reason}")]
    Refused {
        /// The table.
        table: String,
        /// What was refused, with the name of the object.
        step: String,
        /// Why.
        reason: Errno,
    },
}

impl NftError {
    /// Whether a change was refused because the kernel does not know what it asks for.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                reason: Errno::EINVAL | Errno::EOPNOTSUPP,
                ..
            }
        )
    }

    /// What to do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Open(_) => "run as root, on a kernel with CONFIG_NF_TABLES",
            Self::Socket { .. } => "it is tried again by itself",
            Self::Read { reason, .. } | Self::Refused { reason, .. } => next(*reason),
            Self::Connections(_) => "use a kernel with CONFIG_NF_CT_NETLINK",
            Self::Restless(_) => "find what rewrites nftables: `nft monitor`",
        }
    }

    /// What the kernel said.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(reason) | Self::Connections(reason) | Self::Socket { reason, .. } => {
                reason.raw_os_error()
            }
            Self::Read { reason, .. } | Self::Refused { reason, .. } => Some(*reason as i32),
            Self::Restless(_) => None,
        }
    }
}

fn next(reason: Errno) -> &'static str {
    match reason {
        Errno::EPERM | Errno::EACCES => "run netd as root",
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => {
            "use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
        }
        Errno::ENOENT | Errno::EEXIST | Errno::EBUSY => {
            "it is tried again by itself; if it stays, the kernel may lack an expression \
             (CONFIG_NFT_NAT, _MASQ, _NUMGEN, _FIB_INET, _REJECT_INET), or something else rewrites \
             the table: `nft monitor`"
        }
        _ => "it is tried again by itself; `nft list ruleset` shows what is there",
    }
}

/// Why a request failed.
pub enum Failure {
    /// The socket failed.
    Socket(io::Error),
    /// The kernel refused.
    Refused(Errno),
    /// What was being read changed meanwhile.
    Interrupted,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// The way to one network namespace's nftables.
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// To the calling thread's network namespace; afterwards it can be used from any thread.
    pub fn open() -> Result<Self, NftError> {
        Self::to(NETLINK_NETFILTER).map_err(NftError::Open)
    }

    /// To another part of the kernel.
    pub fn to(protocol: isize) -> io::Result<Self> {
        open(protocol).map(|socket| Self {
            socket,
            sequence: 1,
        })
    }

    /// Makes so many requests, each of which `write` writes by its place, sequence number and
    /// flags. Those that were refused, and why; the others are made.
    pub fn push(
        &mut self,
        count: usize,
        write: impl Fn(usize, u32, u16) -> Vec<u8>,
    ) -> io::Result<Vec<(usize, Errno)>> {
        let mut refused = Vec::new();
        for start in (0..count).step_by(REQUESTS) {
            let end = count.min(start + REQUESTS);
            let first = self.take((end - start) as u32);
            let mut datagram = Vec::new();
            for place in start..end {
                let ack = if place + 1 == end { NLM_F_ACK } else { 0 };
                let flags = (libc::NLM_F_REQUEST | ack) as u16;
                datagram.extend(write(
                    place,
                    first.wrapping_add((place - start) as u32),
                    flags,
                ));
            }
            self.socket.send(&datagram, 0)?;
            self.outcomes(first, end - start, |place, errno| {
                refused.push((start + place, errno))
            })?;
        }
        Ok(refused)
    }

    /// Waits for the last of some requests; each refusal is told.
    fn outcomes(
        &self,
        first: u32,
        count: usize,
        mut refused: impl FnMut(usize, Errno),
    ) -> io::Result<()> {
        loop {
            for message in self.receive()? {
                let place = message.sequence.wrapping_sub(first) as usize;
                let Some(errno) = message.outcome().filter(|_| place < count) else {
                    continue;
                };
                if errno as i32 != 0 {
                    refused(place, errno);
                }
                if place + 1 == count {
                    return Ok(());
                }
            }
        }
    }

    /// A question about one object, or all of a kind (`NLM_F_DUMP`): the answers, as whole
    /// messages.
    fn ask(
        &mut self,
        kind: libc::c_int,
        flags: libc::c_int,
        family: Family,
        names: &[(u16, &str)],
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let sequence = self.take(1);
        self.exchange(
            sequence,
            &encode::question(sequence, kind, flags, family, names),
        )
    }

    /// A request of this number: its answers, as whole messages.
    pub fn exchange(&mut self, sequence: u32, request: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        self.socket.send(request, 0)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= i32::from(message.flags) & NLM_F_DUMP_INTR != 0;
                match message.outcome() {
                    Some(Errno::EINTR) => return Err(Failure::Interrupted),
                    Some(errno) if errno as i32 != 0 => return Err(Failure::Refused(errno)),
                    Some(_) if interrupted => return Err(Failure::Interrupted),
                    Some(_) => return Ok(answers),
                    None => answers.push(message.bytes),
                }
            }
        }
    }

    /// Reserves sequence numbers.
    pub fn take(&mut self, count: u32) -> u32 {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    fn receive(&self) -> io::Result<Vec<Received>> {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(DATAGRAM)));
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            self.socket.recv(buffer, 0)?;
            Ok(messages(buffer))
        })
    }

    /// The number of the last change to nftables in this namespace.
    fn generation(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        let answers = self.ask(libc::NFT_MSG_GETGEN, NLM_F_ACK, Family::Inet, &[])?;
        // The rest of the answer names the process that made the change.
        const ID: u16 = 1;
        Ok(answers
            .iter()
            .filter_map(|answer| Attributes::of_message(answer).bytes(ID).map(<[u8]>::to_vec))
            .collect())
    }
}

fn open(protocol: isize) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    // Without the capability in the host's own user namespace the system's limits stay; they
    // suffice for small tables.
    let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::new(ANSWER_SECONDS, 0),
    )?;
    Ok(socket)
}

/// The messages of a datagram.
fn messages(mut rest: &[u8]) -> Vec<Received> {
    let mut messages = Vec::new();
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = header.length() as usize;
        messages.push(Received {
            kind: header.message_type(),
            flags: header.flags(),
            sequence: header.sequence_number(),
            bytes: rest[..length].to_vec(),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

struct Received {
    kind: u16,
    flags: u16,
    sequence: u32,
    bytes: Vec<u8>,
}

impl Received {
    /// How the request ended, if this message ends it: an error number, 0 for success.
    fn outcome(&self) -> Option<Errno> {
        let kind = i32::from(self.kind);
        if kind != NLMSG_ERROR && kind != NLMSG_DONE {
            return None;
        }
        const HEADER: usize = 16;
        let code = self
            .bytes
            .get(HEADER..HEADER + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, i32::from_ne_bytes);
        Some(Errno::from_raw(code.wrapping_neg()))
    }
}

/// How often each element of a counting set was found, and what it leads to.
pub fn counted(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<Vec<(Key, Data, u64)>, NftError> {
    let names = [(elements::TABLE, table), (elements::SET, set)];
    for _ in 0..READ_ATTEMPTS {
        match socket.ask(libc::NFT_MSG_GETSETELEM, NLM_F_DUMP, family, &names) {
            Ok(answers) => {
                let answers = answers.iter().map(|answer| Attributes::of_message(answer));
                return Ok(answers.flat_map(|answer| decode::counts(&answer)).collect());
            }
            Err(Failure::Interrupted) => {}
            Err(Failure::Refused(Errno::ENOENT)) => return Ok(Vec::new()),
            Err(Failure::Socket(reason)) => {
                return Err(NftError::Socket {
                    table: table.to_owned(),
                    reason,
                });
            }
            Err(Failure::Refused(reason)) => {
                return Err(NftError::Read {
                    table: table.to_owned(),
                    reason,
                });
            }
        }
    }
    Err(NftError::Restless(table.to_owned()))
}

/// The number of the last change to nftables in the socket's namespace: while it stays, so does
/// what was read.
pub fn generation(socket: &mut Socket) -> Result<u32, NftError> {
    let table = || "of any name".to_owned();
    let answers = socket.generation().map_err(|failure| match failure {
        Failure::Socket(reason) => NftError::Socket {
            table: table(),
            reason,
        },
        Failure::Refused(reason) => NftError::Read {
            table: table(),
            reason,
        },
        Failure::Interrupted => NftError::Restless(table()),
    })?;
    let number = answers
        .first()
        .and_then(|number| number.as_slice().try_into().ok())
        .map(u32::from_be_bytes);
    number.ok_or_else(|| NftError::Restless(table()))
}

/// The table as the kernel has it; `None` if there is none of this name and family.
pub fn observe(
    socket: &mut Socket,
    family: Family,
    name: &str,
) -> Result<Option<Ruleset>, NftError> {
    for _ in 0..READ_ATTEMPTS {
        match observe_once(socket, family, name) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) | Err(Failure::Interrupted) => {}
            Err(Failure::Socket(reason)) => {
                return Err(NftError::Socket {
                    table: name.to_owned(),
                    reason,
                });
            }
            Err(Failure::Refused(reason)) => {
                return Err(NftError::Read {
                    table: name.to_owned(),
                    reason,
                });
            }
        }
    }
    Err(NftError::Restless(name.to_owned()))
}

/// `None` if something changed between the first and the last question.
fn observe_once(
    socket: &mut Socket,
    family: Family,
    name: &str,
) -> Result<Option<Option<Ruleset>>, Failure> {
    let before = socket.generation()?;
    let found = read_table(socket, family, name);
    if socket.generation()? != before {
        return Ok(None);
    }
    found.map(Some)
}

fn read_table(socket: &mut Socket, family: Family, name: &str) -> Result<Option<Ruleset>, Failure> {
    let answers = match socket.ask(
        libc::NFT_MSG_GETTABLE,
        NLM_F_ACK,
        family,
        &[(table::NAME, name)],
    ) {
        Err(Failure::Refused(Errno::ENOENT)) => return Ok(None),
        answers => answers?,
    };
    let mut ruleset = Ruleset::new(family, name);
    let flags = |answer: &Vec<u8>| Attributes::of_message(answer).u32(table::FLAGS);
    let flags: Vec<Option<u32>> = answers.iter().map(flags).collect();
    ruleset.dormant = flags
        .iter()
        .any(|flags| flags.is_none_or(|flags| flags & !table::F_OWNER != 0));
    if flags
        .iter()
        .flatten()
        .any(|flags| flags & table::F_OWNER != 0)
    {
        ruleset.lifetime = Lifetime::Socket;
    }
    ruleset.objects = read_objects(socket, family, name)?;
    let mut own = BTreeMap::new();
    for (name, anonymous, set) in read_sets(socket, family, name)? {
        if anonymous {
            &mut own
        } else {
            &mut ruleset.sets
        }
        .insert(name, set);
    }
    let chains = read_chains(socket, family, name)?.into_iter();
    ruleset.chains = chains
        .map(|(name, chain)| (name, Arc::new(chain)))
        .collect();
    for (chain, rule) in read_rules(socket, family, name, &own)? {
        if let Some(chain) = ruleset.chains.get_mut(&chain) {
            Arc::make_mut(chain).rules.push(rule);
        }
    }
    Ok(Some(ruleset))
}

fn read_objects(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> Result<BTreeMap<String, Object>, Failure> {
    let answers = socket.ask(
        libc::NFT_MSG_GETOBJ,
        NLM_F_DUMP,
        family,
        &[(object::TABLE, table)],
    )?;
    let objects = answers
        .iter()
        .filter_map(|answer| decode::object(&Attributes::of_message(answer)));
    let ours = objects.filter(|(of, ..)| of == table);
    Ok(ours.map(|(_, name, object)| (name, object)).collect())
}

/// Name, whether it is a rule's own, and the set.
fn read_sets(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> Result<Vec<(String, bool, Set)>, Failure> {
    let answers = socket.ask(
        libc::NFT_MSG_GETSET,
        NLM_F_DUMP,
        family,
        &[(set::TABLE, table)],
    )?;
    let declared = answers
        .iter()
        .filter_map(|answer| decode::set(&Attributes::of_message(answer)));
    declared
        .map(|set| {
            // What rules keep there is theirs.
            if set.of.dynamic {
                return Ok((
                    set.name,
                    set.anonymous,
                    Set {
                        of: set.of,
                        elements: BTreeMap::new(),
                    },
                ));
            }
            let names = [(elements::TABLE, table), (elements::SET, set.name.as_str())];
            let answers = socket.ask(libc::NFT_MSG_GETSETELEM, NLM_F_DUMP, family, &names)?;
            let raw = answers
                .iter()
                .flat_map(|answer| decode::raw_elements(&Attributes::of_message(answer)))
                .collect();
            let elements = decode::elements(&set.of, raw);
            Ok((
                set.name,
                set.anonymous,
                Set {
                    of: set.of,
                    elements,
                },
            ))
        })
        .collect()
}

fn read_chains(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> Result<BTreeMap<String, Chain>, Failure> {
    let answers = socket.ask(
        libc::NFT_MSG_GETCHAIN,
        NLM_F_DUMP,
        family,
        &[(chain::TABLE, table)],
    )?;
    // The kernel may answer with the chains of all tables.
    let chains = answers
        .iter()
        .filter_map(|answer| decode::chain(&Attributes::of_message(answer)));
    let ours = chains.filter(|(of, ..)| of == table);
    Ok(ours
        .map(|(_, name, base)| {
            (
                name,
                Chain {
                    base,
                    rules: vec![],
                },
            )
        })
        .collect())
}

fn read_rules(
    socket: &mut Socket,
    family: Family,
    table: &str,
    own: &BTreeMap<String, Set>,
) -> Result<Vec<(String, Rule)>, Failure> {
    let answers = socket.ask(
        libc::NFT_MSG_GETRULE,
        NLM_F_DUMP,
        family,
        &[(rule::TABLE, table)],
    )?;
    let ours = answers.iter().map(|answer| Attributes::of_message(answer));
    let ours = ours.filter(|message| message.text(rule::TABLE).as_deref() == Some(table));
    Ok(ours
        .filter_map(|message| decode::rule(&message, own))
        .collect())
}

/// Where other software decides on packets that pass through this namespace; `is_ours` says which
/// tables are not its own.
pub fn foreign_forward_chains(
    socket: &mut Socket,
    is_ours: fn(&str) -> bool,
) -> Result<Vec<ForeignChain>, NftError> {
    let read = |socket: &mut Socket| -> Result<Vec<ForeignChain>, Failure> {
        let mut found = Vec::new();
        for family in [Family::Ip, Family::Ip6, Family::Inet] {
            found.extend(read_foreign_chains(socket, family, is_ours)?);
        }
        Ok(found)
    };
    for _ in 0..READ_ATTEMPTS {
        let table = || "of others".to_owned();
        match read(socket) {
            Ok(found) => return Ok(found),
            // A chain or table that was listed is gone.
            Err(Failure::Interrupted | Failure::Refused(Errno::ENOENT)) => {}
            Err(Failure::Socket(reason)) => {
                return Err(NftError::Socket {
                    table: table(),
                    reason,
                });
            }
            Err(Failure::Refused(reason)) => {
                return Err(NftError::Read {
                    table: table(),
                    reason,
                });
            }
        }
    }
    Err(NftError::Restless("of others".to_owned()))
}

fn read_foreign_chains(
    socket: &mut Socket,
    family: Family,
    is_ours: fn(&str) -> bool,
) -> Result<Vec<ForeignChain>, Failure> {
    let answers = socket.ask(libc::NFT_MSG_GETCHAIN, NLM_F_DUMP, family, &[])?;
    let chains = answers
        .iter()
        .filter_map(|answer| decode::chain(&Attributes::of_message(answer)));
    let forward = |base: &Base| base.kind == Kind::Filter && base.hook == Hook::Forward;
    let foreign =
        chains.filter(|(table, _, base)| !is_ours(table) && base.as_ref().is_some_and(forward));
    foreign
        .map(|(table, chain, _)| {
            let names = [(rule::TABLE, table.as_str()), (rule::CHAIN, chain.as_str())];
            let answers = socket.ask(libc::NFT_MSG_GETRULE, NLM_F_DUMP, family, &names)?;
            let messages = answers.iter().map(|answer| Attributes::of_message(answer));
            // Old kernels answer with the rules of every chain.
            let here = messages.filter(|message| {
                let named = |kind, name: &String| message.text(kind).as_ref() == Some(name);
                named(rule::TABLE, &table) && named(rule::CHAIN, &chain)
            });
            let rules = here
                .filter_map(|message| decode::placed(&message))
                .collect();
            Ok(ForeignChain {
                family,
                table,
                chain,
                rules,
            })
        })
        .collect()
}

/// Makes a change at once: all of it or, on an error, nothing. An error names the first step that
/// was refused.
pub fn apply(socket: &mut Socket, change: &Change) -> Result<(), NftError> {
    if change.steps.is_empty() {
        return Ok(());
    }
    let failed = |reason| NftError::Socket {
        table: change.table.clone(),
        reason,
    };
    let batch = encode::batch(change, socket.sequence);
    socket.take(batch.steps.len() as u32 + 2);
    socket.socket.send(&batch.bytes, 0).map_err(failed)?;
    let mut refused = None;
    loop {
        for message in socket.receive().map_err(failed)? {
            let Some(errno) = message
                .outcome()
                .filter(|_| message.sequence.wrapping_sub(batch.first) < 1 << 31)
            else {
                continue;
            };
            if errno as i32 != 0 && refused.is_none() {
                refused = Some(refusal(change, &batch, message.sequence, errno));
            }
            // The kernel refuses a batch as a whole in the name of its first message, and says no
            // more then.
            let ended = message.sequence == batch.first && errno as i32 != 0
                || message.sequence == batch.last;
            if ended {
                return refused.map_or(Ok(()), Err);
            }
        }
    }
}

/// Whether the kernel can be told timeouts of single connections (`CONFIG_NF_CONNTRACK_TIMEOUT`).
/// It is asked by a change that leaves nothing.
pub fn knows_timeouts(socket: &mut Socket) -> bool {
    let timeouts = Object::UdpTimeouts {
        unreplied: 1,
        replied: 1,
    };
    let asked = Change {
        family: Family::Inet,
        table: "netd-asks".to_owned(),
        steps: vec![
            Step::AddTable(Lifetime::default()),
            Step::AddObject {
                name: "timeouts".to_owned(),
                object: timeouts,
            },
            Step::DeleteTable,
        ],
    };
    apply(socket, &asked).is_ok()
}

fn refusal(change: &Change, batch: &encode::Batch, sequence: u32, reason: Errno) -> NftError {
    let message = sequence.wrapping_sub(batch.first).checked_sub(1);
    let step = message.and_then(|message| change.steps.get(*batch.steps.get(message as usize)?));
    let step = step.map_or_else(
        || "take the change as a whole".to_owned(),
        |step| step.to_string(),
    );
    NftError::Refused {
        table: change.table.clone(),
        step,
        reason,
    }
}

/// Hears of every change to nftables in one network namespace, one's own included.
pub struct Monitor(Listener);

enum Listener {
    /// Not yet known to a tokio runtime.
    Opened(netlink_sys::Socket),
    Registered(AsyncFd<netlink_sys::Socket>),
    /// The runtime would not have it.
    Failed,
}

impl Monitor {
    /// In the calling thread's network namespace; needs no tokio runtime yet.
    pub fn open() -> Result<Self, NftError> {
        let open = || {
            let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.add_membership(CHANGES_GROUP)?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open()
            .map(|socket| Self(Listener::Opened(socket)))
            .map_err(NftError::Open)
    }

    /// Ready once something has changed since it was ready last (or [`Monitor::forget`], or
    /// `open`). Must be called on a tokio runtime.
    pub fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<Result<(), NftError>> {
        let socket = self.registered().map_err(NftError::Open)?;
        loop {
            let mut ready = ready!(socket.poll_read_ready(context)).map_err(NftError::Open)?;
            let heard = drain(ready.get_inner());
            ready.clear_ready();
            match heard {
                // What made it ready has been forgotten.
                Ok(false) => {}
                heard => return Poll::Ready(heard.map(drop).map_err(NftError::Open)),
            }
        }
    }

    /// What has changed up to now is not reported: for one who reads everything next.
    pub fn forget(&mut self) {
        // A socket that fails says so when it is asked for changes.
        let _ = match &self.0 {
            Listener::Opened(socket) => drain(socket),
            Listener::Registered(socket) => drain(socket.get_ref()),
            Listener::Failed => Ok(false),
        };
    }

    // `AsyncFd::register` is unsafe for what it asks: that the descriptor stays the socket's own.
    // It does: nothing takes it out of here.
    #[allow(deprecated)]
    fn registered(&mut self) -> io::Result<&AsyncFd<netlink_sys::Socket>> {
        if let Listener::Opened(_) = self.0
            && let Listener::Opened(socket) = std::mem::replace(&mut self.0, Listener::Failed)
        {
            self.0 = Listener::Registered(AsyncFd::new(socket)?);
        }
        match &self.0 {
            Listener::Registered(socket) => Ok(socket),
            Listener::Opened(_) | Listener::Failed => {
                Err(io::Error::other("the runtime refused the socket"))
            }
        }
    }
}

/// Whether there was anything to hear. Which changes they were does not matter, so neither does it
/// if some were lost.
fn drain(socket: &netlink_sys::Socket) -> io::Result<bool> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    let mut heard = false;
    loop {
        datagram.clear();
        match socket.recv(&mut datagram, 0) {
            Ok(_) => heard = true,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
            Err(error) => return Err(error),
        }
    }
}
