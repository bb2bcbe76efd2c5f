//! IPVS by generic netlink (`linux/ip_vs.h`), and by rtnetlink the policy rules and routes that
//! deliver packets to it.

use std::{io, net::IpAddr};

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use nix::{
    errno::Errno,
    libc::{
        self, AF_INET, AF_INET6, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST,
    },
};

use model::Family;

use super::services::{Destination, Key, Request, Service, Services, Target};
use nftables::{
    Failure, Socket, address, octets,
    wire::{Attributes, Message, NETLINK_HEADER},
};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `IPVS_GENL_NAME`.
const FAMILY: &str = "IPVS";
const DUMPS: usize = 8;
const IN6_SIZE: usize = 16;
/// `IP_VS_SVC_F_HASHED`: the kernel's own.
const HASHED: u32 = 2;
/// `IP_VS_CONN_F_FWD_MASK`.
const METHODS: u32 = 7;

/// Mark bit of packets to virtual IPs; the other bits are the number of the virtual IP.
pub(crate) const MARKED: u32 = 1 << 31;
/// The routing table that takes them in.
const ROUTES: u8 = 100;
/// Of `lo`, in every namespace.
const LOOPBACK: u32 = 1;
/// `RTPROT_STATIC`, `RTN_LOCAL`, `RT_SCOPE_HOST` and `FR_ACT_TO_TBL`.
const STATIC: u8 = 4;
const LOCAL: u8 = 2;
const HOST: u8 = 254;
const TO_TABLE: u8 = 1;
/// `struct rtmsg` and `struct fib_rule_hdr`.
const ROUTE_HEADER: usize = 12;

/// `IPVS_CMD_*`.
mod command {
    pub(super) const NEW_SERVICE: u8 = 1;
    pub(super) const SET_SERVICE: u8 = 2;
    pub(super) const DEL_SERVICE: u8 = 3;
    pub(super) const GET_SERVICE: u8 = 4;
    pub(super) const NEW_DEST: u8 = 5;
    pub(super) const SET_DEST: u8 = 6;
    pub(super) const DEL_DEST: u8 = 7;
    pub(super) const GET_DEST: u8 = 8;
    pub(super) const SET_CONFIG: u8 = 12;
    pub(super) const GET_CONFIG: u8 = 13;
    pub(super) const FLUSH: u8 = 17;
}

/// `IPVS_CMD_ATTR_*`.
mod top {
    pub(super) const SERVICE: u16 = 1;
    pub(super) const DEST: u16 = 2;
    pub(super) const TIMEOUT_TCP: u16 = 4;
    pub(super) const TIMEOUT_TCP_FIN: u16 = 5;
    pub(super) const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const AF: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDR: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const FWMARK: u16 = 5;
    pub(super) const SCHED_NAME: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
    pub(super) const STATS64: u16 = 12;
}

/// `IPVS_DEST_ATTR_*`.
mod destination {
    pub(super) const ADDR: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FWD_METHOD: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const U_THRESH: u16 = 5;
    pub(super) const L_THRESH: u16 = 6;
    pub(super) const ADDR_FAMILY: u16 = 11;
    pub(super) const STATS64: u16 = 12;
}

/// `FRA_*` and `RTA_*`.
mod route {
    pub(super) const RULE_MARK: u16 = 10;
    pub(super) const RULE_MASK: u16 = 16;
    pub(super) const OIF: u16 = 4;
}

/// Idle timeouts of IPVS connections, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// TCP, established.
    pub tcp: u32,
    /// TCP, ended by the server.
    pub fin: u32,
    /// UDP.
    pub udp: u32,
}

/// Counters of IPVS since the service or real server was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Connections.
    pub connections: u64,
    /// Packets and bytes from clients, packets and bytes to clients.
    pub traffic: [u64; 4],
}

/// The sockets of one network namespace.
pub(crate) struct Kernel {
    generic: Socket,
    family: u16,
    routes: Socket,
}

impl Kernel {
    /// In the calling thread's network namespace. Loads IPVS where it is a module.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut generic = Socket::to(NETLINK_GENERIC)?;
        let sequence = generic.take(1);
        let flags = (NLM_F_REQUEST | NLM_F_ACK) as u16;
        let mut request = Message::headed(CONTROL, flags, sequence, &[GET_FAMILY, 1, 0, 0]);
        request.text(FAMILY_NAME, FAMILY);
        let answers = generic.exchange(sequence, &request.finish())?;
        let id = answers.first().and_then(|answer| {
            Attributes::of_message(answer)
                .bytes(FAMILY_ID)?
                .try_into()
                .ok()
        });
        let family = id
            .map(u16::from_ne_bytes)
            .ok_or(Failure::Refused(Errno::ENOENT))?;
        Ok(Self {
            generic,
            family,
            routes: Socket::to(NETLINK_ROUTE)?,
        })
    }

    /// Every service, with its destinations.
    pub(crate) fn services(&mut self) -> Result<Services, Failure> {
        let found = self.dump(command::GET_SERVICE, |_| {})?;
        let mut services = Services::new();
        for message in &found {
            let Some((key, service)) = Attributes::of_message(message)
                .nested(top::SERVICE)
                .and_then(read_service)
            else {
                continue;
            };
            let destinations = self.dump(command::GET_DEST, |message| write_key(message, &key))?;
            let destinations = destinations.iter().filter_map(|message| {
                read_destination(
                    &Attributes::of_message(message).nested(top::DEST)?,
                    key.family,
                )
            });
            services.insert(
                key,
                Service {
                    destinations: destinations.collect(),
                    ..service
                },
            );
        }
        Ok(services)
    }

    /// Counters of a service and of each destination.
    pub(crate) fn counted(&mut self, key: &Key) -> Result<Vec<(Option<IpAddr>, Counted)>, Failure> {
        let read = |found: &Attributes<'_>, kind| {
            found
                .nested(kind)
                .map(|stats| read_counted(&stats))
                .unwrap_or_default()
        };
        let services = self.dump(command::GET_SERVICE, |_| {})?;
        let services = services
            .iter()
            .filter_map(|message| Attributes::of_message(message).nested(top::SERVICE));
        let own = services.filter(|found| read_key(found).as_ref() == Some(key));
        let mut counted: Vec<_> = own
            .map(|found| (None, read(&found, service::STATS64)))
            .collect();
        if counted.is_empty() {
            return Ok(counted);
        }
        for message in self.dump(command::GET_DEST, |message| write_key(message, key))? {
            let Some(found) = Attributes::of_message(&message).nested(top::DEST) else {
                continue;
            };
            let Some(((address, _), _)) = read_destination(&found, key.family) else {
                continue;
            };
            counted.push((Some(address), read(&found, destination::STATS64)));
        }
        Ok(counted)
    }

    fn dump(&mut self, command: u8, fill: impl Fn(&mut Message)) -> Result<Vec<Vec<u8>>, Failure> {
        let mut result = Err(Failure::Interrupted);
        for _ in 0..DUMPS {
            let sequence = self.generic.take(1);
            let flags = (NLM_F_REQUEST | NLM_F_DUMP) as u16;
            let mut message = Message::headed(self.family, flags, sequence, &[command, 1, 0, 0]);
            fill(&mut message);
            result = self.generic.exchange(sequence, &message.finish());
            if !matches!(result, Err(Failure::Interrupted)) {
                break;
            }
        }
        result
    }

    /// Executes the requests. Returns those that were refused, and why; the others are done.
    pub(crate) fn apply<'a>(
        &mut self,
        requests: &'a [Request],
    ) -> io::Result<Vec<(&'a Request, Errno)>> {
        let family = self.family;
        let write = |place: usize, sequence, flags| {
            write_request(family, sequence, flags, &requests[place])
        };
        let refused = self.generic.push(requests.len(), write)?;
        // Gone is gone.
        let is_deletion = |request: &Request| {
            matches!(
                request,
                Request::DelService(_) | Request::DelDestination(..)
            )
        };
        let absent = |errno| matches!(errno, Errno::ENOENT | Errno::ESRCH);
        let refused = refused
            .into_iter()
            .map(|(place, errno)| (&requests[place], errno));
        Ok(refused
            .filter(|(request, errno)| !(is_deletion(request) && absent(*errno)))
            .collect())
    }

    /// Reads the idle timeouts.
    pub(crate) fn timeouts(&mut self) -> Result<Timeouts, Failure> {
        let answers = self.ask(command::GET_CONFIG, |_| {})?;
        let read = |kind| {
            answers
                .first()
                .and_then(|answer| number(&Attributes::of_message(answer), kind))
                .unwrap_or(0)
        };
        Ok(Timeouts {
            tcp: read(top::TIMEOUT_TCP),
            fin: read(top::TIMEOUT_TCP_FIN),
            udp: read(top::TIMEOUT_UDP),
        })
    }

    /// Sets the idle timeouts.
    pub(crate) fn set_timeouts(&mut self, to: Timeouts) -> Result<(), Failure> {
        let fill = |message: &mut Message| {
            put(message, top::TIMEOUT_TCP, to.tcp);
            put(message, top::TIMEOUT_TCP_FIN, to.fin);
            put(message, top::TIMEOUT_UDP, to.udp);
        };
        self.ask(command::SET_CONFIG, fill).map(drop)
    }

    /// Removes every service.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.ask(command::FLUSH, |_| {}).map(drop)
    }

    fn ask(&mut self, command: u8, fill: impl Fn(&mut Message)) -> Result<Vec<Vec<u8>>, Failure> {
        let sequence = self.generic.take(1);
        let flags = (NLM_F_REQUEST | NLM_F_ACK) as u16;
        let mut message = Message::headed(self.family, flags, sequence, &[command, 1, 0, 0]);
        fill(&mut message);
        self.generic.exchange(sequence, &message.finish())
    }

    /// Missing rules and routes that deliver marked packets to IPVS.
    pub(crate) fn missing_ways(&mut self) -> Result<Vec<Way>, Failure> {
        let mut missing = Vec::new();
        for way in Way::ALL {
            if !self.has(way)? {
                missing.push(way);
            }
        }
        Ok(missing)
    }

    fn has(&mut self, way: Way) -> Result<bool, Failure> {
        let sequence = self.routes.take(1);
        let flags = (NLM_F_REQUEST | NLM_F_DUMP) as u16;
        let kind = match way.kind {
            WayKind::Rule => libc::RTM_GETRULE,
            WayKind::Route => libc::RTM_GETROUTE,
        };
        let request = Message::headed(kind, flags, sequence, &way.question()).finish();
        let answers = match self.routes.exchange(sequence, &request) {
            // No route has ever been in that table.
            Err(Failure::Refused(Errno::ENOENT)) => return Ok(false),
            answers => answers?,
        };
        Ok(answers.iter().any(|answer| way.is_in(answer)))
    }

    /// Adds such a rule or route.
    pub(crate) fn add_way(&mut self, way: Way) -> Result<(), Failure> {
        self.change_way(
            way,
            match way.kind {
                WayKind::Rule => libc::RTM_NEWRULE,
                WayKind::Route => libc::RTM_NEWROUTE,
            },
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes such a rule or route.
    pub(crate) fn remove_way(&mut self, way: Way) -> Result<(), Failure> {
        self.change_way(
            way,
            match way.kind {
                WayKind::Rule => libc::RTM_DELRULE,
                WayKind::Route => libc::RTM_DELROUTE,
            },
            0,
        )
    }

    fn change_way(&mut self, way: Way, kind: u16, flags: libc::c_int) -> Result<(), Failure> {
        let sequence = self.routes.take(1);
        let flags = (NLM_F_REQUEST | NLM_F_ACK | flags) as u16;
        let mut message = Message::headed(kind, flags, sequence, &way.header());
        match way.kind {
            WayKind::Rule => {
                put(&mut message, route::RULE_MARK, MARKED);
                put(&mut message, route::RULE_MASK, MARKED);
            }
            WayKind::Route => put(&mut message, route::OIF, LOOPBACK),
        }
        match self.routes.exchange(sequence, &message.finish()) {
            Err(Failure::Refused(Errno::EEXIST | Errno::ENOENT | Errno::ESRCH)) => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// A policy rule that leads marked packets to a table, or the route in that table that delivers
/// them locally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    family: Family,
    kind: WayKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayKind {
    Route,
    Rule,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [
        Way {
            family: Family::V4,
            kind: WayKind::Route,
        },
        Way {
            family: Family::V6,
            kind: WayKind::Route,
        },
        Way {
            family: Family::V4,
            kind: WayKind::Rule,
        },
        Way {
            family: Family::V6,
            kind: WayKind::Rule,
        },
    ];

    fn family(self) -> u8 {
        af_of(self.family) as u8
    }

    /// Asks for all of its kind and family.
    fn question(self) -> [u8; ROUTE_HEADER] {
        [self.family(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    fn header(self) -> [u8; ROUTE_HEADER] {
        let (family, table) = (self.family(), ROUTES);
        match self.kind {
            WayKind::Rule => [family, 0, 0, 0, table, 0, 0, TO_TABLE, 0, 0, 0, 0],
            WayKind::Route => [family, 0, 0, 0, table, STATIC, HOST, LOCAL, 0, 0, 0, 0],
        }
    }

    fn is_in(self, message: &[u8]) -> bool {
        let Some((header, attributes)) = message
            .get(NETLINK_HEADER..)
            .and_then(|rest| rest.split_at_checked(ROUTE_HEADER))
        else {
            return false;
        };
        let attributes = Attributes::parse(attributes);
        let is_here = header[0] == self.family() && header[1] == 0 && header[4] == ROUTES;
        let is_alike = match self.kind {
            WayKind::Rule => {
                header[7] == TO_TABLE
                    && [route::RULE_MARK, route::RULE_MASK]
                        .iter()
                        .all(|kind| number(&attributes, *kind) == Some(MARKED))
            }
            WayKind::Route => {
                header[7] == LOCAL && number(&attributes, route::OIF) == Some(LOOPBACK)
            }
        };
        is_here && is_alike
    }

    /// For people.
    pub(crate) fn describe(self) -> String {
        let version = self.family;
        match self.kind {
            WayKind::Rule => {
                format!("add the {version} rule that leads marked packets to table {ROUTES}")
            }
            WayKind::Route => {
                format!("add the {version} route of table {ROUTES} that takes packets in")
            }
        }
    }
}

fn put(message: &mut Message, kind: u16, value: u32) {
    message.bytes(kind, &value.to_ne_bytes());
}

fn number(attributes: &Attributes<'_>, kind: u16) -> Option<u32> {
    attributes
        .bytes(kind)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn short(attributes: &Attributes<'_>, kind: u16) -> Option<u16> {
    attributes
        .bytes(kind)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

fn write_request(family: u16, sequence: u32, flags: u16, request: &Request) -> Vec<u8> {
    let command = match request {
        Request::NewService(..) => command::NEW_SERVICE,
        Request::SetService(..) => command::SET_SERVICE,
        Request::DelService(_) => command::DEL_SERVICE,
        Request::NewDestination(..) => command::NEW_DEST,
        Request::SetDestination(..) => command::SET_DEST,
        Request::DelDestination(..) => command::DEL_DEST,
    };
    let mut message = Message::headed(family, flags, sequence, &[command, 1, 0, 0]);
    match request {
        Request::NewService(key, service) | Request::SetService(key, service) => {
            message.nested(top::SERVICE, |message| {
                write_target(message, key);
                write_service(message, service);
            });
        }
        Request::DelService(key) => write_key(&mut message, key),
        Request::NewDestination(key, address, to) | Request::SetDestination(key, address, to) => {
            write_key(&mut message, key);
            message.nested(top::DEST, |message| {
                write_address(message, *address);
                put(message, destination::FWD_METHOD, to.method);
                put(message, destination::WEIGHT, to.weight);
                put(message, destination::U_THRESH, to.upper);
                put(message, destination::L_THRESH, to.lower);
            });
        }
        Request::DelDestination(key, address) => {
            write_key(&mut message, key);
            message.nested(top::DEST, |message| write_address(message, *address));
        }
    }
    message.finish()
}

fn write_key(message: &mut Message, key: &Key) {
    message.nested(top::SERVICE, |message| write_target(message, key));
}

fn write_target(message: &mut Message, key: &Key) {
    message.bytes(service::AF, &af_of(key.family).to_ne_bytes());
    match key.target {
        Target::Mark(mark) => put(message, service::FWMARK, mark),
        Target::Address(protocol, address, port) => {
            message.bytes(service::PROTOCOL, &protocol.to_ne_bytes());
            message.bytes(service::ADDR, &in6(address));
            message.bytes(service::PORT, &port.to_ne_bytes());
        }
    }
}

fn write_service(message: &mut Message, service: &Service) {
    message.text(service::SCHED_NAME, &service.scheduler);
    message.bytes(
        service::FLAGS,
        &[service.flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat(),
    );
    put(message, service::TIMEOUT, service.timeout);
    put(message, service::NETMASK, service.netmask);
}

fn write_address(message: &mut Message, (address, port): (IpAddr, u16)) {
    let family = af_of(Family::of(address));
    message.bytes(destination::ADDR_FAMILY, &family.to_ne_bytes());
    message.bytes(destination::ADDR, &in6(address));
    message.bytes(destination::PORT, &port.to_ne_bytes());
}

/// An address as `union nf_inet_addr`.
fn in6(address: IpAddr) -> Vec<u8> {
    let mut bytes = octets(address);
    bytes.resize(IN6_SIZE, 0);
    bytes
}

fn read_in6(bytes: &[u8], family: Family) -> Option<IpAddr> {
    let length = match family {
        Family::V4 => 4,
        Family::V6 => IN6_SIZE,
    };
    address(bytes.get(..length)?)
}

/// `AF_INET` or `AF_INET6`.
fn af_of(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET as u16,
        Family::V6 => AF_INET6 as u16,
    }
}

fn family_of(number: u16) -> Family {
    if number == AF_INET6 as u16 {
        Family::V6
    } else {
        Family::V4
    }
}

fn read_key(found: &Attributes<'_>) -> Option<Key> {
    let family = family_of(short(found, service::AF)?);
    let target = match number(found, service::FWMARK) {
        Some(mark) => Target::Mark(mark),
        None => {
            let address = read_in6(found.bytes(service::ADDR)?, family)?;
            Target::Address(
                short(found, service::PROTOCOL)?,
                address,
                short(found, service::PORT)?,
            )
        }
    };
    Some(Key { family, target })
}

fn read_service(found: Attributes<'_>) -> Option<(Key, Service)> {
    let flags =
        u32::from_ne_bytes(found.bytes(service::FLAGS)?.get(..4)?.try_into().ok()?) & !HASHED;
    let service = Service {
        scheduler: found.text(service::SCHED_NAME).unwrap_or_default(),
        flags,
        timeout: number(&found, service::TIMEOUT)?,
        netmask: number(&found, service::NETMASK)?,
        ..Service::default()
    };
    Some((read_key(&found)?, service))
}

/// Of a service of this family.
fn read_destination(
    found: &Attributes<'_>,
    family: Family,
) -> Option<((IpAddr, u16), Destination)> {
    let family = short(found, destination::ADDR_FAMILY).map_or(family, family_of);
    let address = read_in6(found.bytes(destination::ADDR)?, family)?;
    let to = Destination {
        weight: number(found, destination::WEIGHT)?,
        method: number(found, destination::FWD_METHOD)? & METHODS,
        upper: number(found, destination::U_THRESH)?,
        lower: number(found, destination::L_THRESH)?,
    };
    Some(((address, short(found, destination::PORT)?), to))
}

/// `IPVS_STATS_ATTR_*`: connections, packets in and out, bytes in and out.
fn read_counted(stats: &Attributes<'_>) -> Counted {
    let read = |kind| {
        stats
            .bytes(kind)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    };
    Counted {
        connections: read(1),
        traffic: [read(2), read(4), read(3), read(5)],
    }
}
