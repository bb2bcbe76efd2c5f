//! The IPVS balancer. nftables marks packets to virtual IPs, a policy rule delivers marked packets
//! locally, and IPVS has one service per mark, for all ports and protocols.

mod kernel;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nftables::{
    Chain, Comparison, Expression, Failure, Family, Hook, Ip, Key as Element, Kind, Meta, Nat,
    Rule, Ruleset, Set, SetRef, Socket, Type, Verdict, address, difference, octets,
};
use nix::{
    errno::Errno,
    libc::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
};

use crate::{
    Balancer, BalancerError, Observed, Op, Passed, Table, Traffic, VirtualService,
    balancer::diff,
    connections::Connections,
    crowd::Crowd,
    moment::Moment,
    nft_balancer::{
        TABLE, elements, hairpins, middle_of_tcp, number, of_version, sources, unreachable, value,
        with_hairpins,
    },
    sysctl::{Setting, Sysctls, TRACKING},
};
use kernel::{Kernel, MARKED, Timeouts, Way};
use services::{Key, Request, Service, Services, Target};

/// NF_IP_PRI_NAT_DST.
const FIRST: i32 = -100;
/// Behind NF_IP_PRI_NAT_DST: packets that nftables has translated already are left alone.
const MARK: i32 = -90;
/// Before NF_IP_PRI_NAT_DST.
const BALANCED: i32 = -150;
/// The mark of what IPVS has sent on.
const SENT: u32 = 1;
/// How IPVS treats its connections.
const BALANCING: &[Setting] = &[
    // Lets nftables translate sources of packets that IPVS balances.
    ("net/ipv4/vs/conntrack", "1"),
    // A reused client port is a new connection.
    ("net/ipv4/vs/conn_reuse_mode", "1"),
    // A packet to a removed server ends its connection.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // Affinity to a server of weight 0 ends.
    ("net/ipv4/vs/expire_quiescent_template", "1"),
    // Mid-stream packets of unknown connections are reset.
    ("net/ipv4/vs/sloppy_tcp", "0"),
];
/// Idle timeouts: days for TCP, hours for half-closed TCP, as in connection tracking; IPVS's
/// default of five minutes for UDP.
const TIMEOUTS: Timeouts = Timeouts {
    tcp: 432_000,
    fin: 10_800,
    udp: 300,
};
/// IPVS sends no notifications. It is read again after this pause, later if reading would take more
/// than 1 % of the time, but after [`READ_LAST`] in any case.
const READ_AGAIN: Duration = Duration::from_secs(1);
const READ_SHARE: u32 = 100;
const READ_LAST: Duration = Duration::from_secs(10);

/// The balancer of one network's namespace.
pub struct IpVs {
    crowd: Crowd,
    socket: Socket,
    kernel: Kernel,
    sysctls: Sysctls,
    connections: Connections,
    marks: Marks,
    seen: Seen,
}

/// What was found in the kernel.
enum Seen {
    Nothing,
    /// All that a table takes.
    Whole(Whole),
    /// Something else.
    Damaged(Option<Ruleset>, Services),
}

struct Whole {
    table: Arc<Table>,
    at: Moment,
    read: Instant,
    /// How long it took.
    cost: Duration,
}

impl Whole {
    fn is_fresh(&self) -> bool {
        self.read.elapsed() < (self.cost * READ_SHARE).max(READ_AGAIN).min(READ_LAST)
    }
}

/// Whether this kernel has IPVS; loads it where it is a module.
pub fn probe() -> Result<(), BalancerError> {
    Kernel::open()
        .map(drop)
        .map_err(|failure| refused("find IPVS", failure))
}

/// Removes everything of this balancer from the calling thread's network namespace, so that another
/// balancer can take over.
pub fn withdraw() -> Result<(), BalancerError> {
    // If IPVS was never loaded there is nothing to remove.
    if !Path::new("/proc/net/ip_vs").exists() {
        return Ok(());
    }
    let mut kernel = Kernel::open().map_err(|failure| refused("find IPVS", failure))?;
    kernel
        .flush()
        .map_err(|failure| refused("remove the services of IPVS", failure))?;
    for way in Way::ALL {
        kernel
            .remove_way(way)
            .map_err(|failure| refused("remove the way to IPVS", failure))?;
    }
    Ok(())
}

impl IpVs {
    /// In the calling thread's network namespace; afterwards it can be used from any thread.
    pub fn open() -> Result<Self, BalancerError> {
        let mut socket = Socket::open()?;
        nftables::load(&mut socket);
        let crowd = Crowd::of_kernel(&mut socket);
        let kernel = Kernel::open().map_err(|failure| refused("find IPVS", failure))?;
        let settings = TRACKING.iter().chain(BALANCING).copied();
        let sysctls = Sysctls::open(settings).map_err(BalancerError::Sysctl)?;
        let (connections, marks) = (Connections::any(), Marks::default());
        Ok(Self {
            crowd,
            socket,
            kernel,
            sysctls,
            connections,
            marks,
            seen: Seen::Nothing,
        })
    }

    fn read(&mut self) -> Result<Observed, BalancerError> {
        let at = Moment::now(&mut self.socket)?;
        if let Seen::Whole(whole) = &self.seen
            && whole.at == at
            && whole.is_fresh()
        {
            return Ok(Observed {
                table: whole.table.clone(),
                damage: Vec::new(),
            });
        }
        let start = Instant::now();
        let found = nftables::observe(&mut self.socket, Family::Inet, TABLE)?;
        let services = self
            .kernel
            .services()
            .map_err(|failure| refused("list its services", failure))?;
        self.marks = found.as_ref().map(Marks::of).unwrap_or_default();
        let table = Arc::new(self.table(found.as_ref(), &services));
        let change = difference(Some(&self.ruleset(&table)), found.as_ref());
        let steps = change.map(|change| change.steps).unwrap_or_default();
        let requests = services::difference(&self.wanted(&table), &services);
        let lines = steps
            .iter()
            .map(ToString::to_string)
            .chain(requests.iter().map(ToString::to_string));
        let damage: Vec<String> = lines.chain(self.unsettled()?).collect();
        self.seen = if damage.is_empty() {
            Seen::Whole(Whole {
                table: table.clone(),
                at,
                read: Instant::now(),
                cost: start.elapsed(),
            })
        } else {
            Seen::Damaged(found, services)
        };
        Ok(Observed { table, damage })
    }

    /// Settings of the namespace that are missing, for people.
    fn unsettled(&mut self) -> Result<Vec<String>, BalancerError> {
        let ways = self
            .kernel
            .missing_ways()
            .map_err(|failure| refused("read the way to it", failure))?;
        let timeouts = self
            .kernel
            .timeouts()
            .map_err(|failure| refused("read its timeouts", failure))?;
        let mut missing: Vec<String> = ways.into_iter().map(Way::describe).collect();
        missing.extend((timeouts != TIMEOUTS).then(|| "set the timeouts of IPVS".to_owned()));
        Ok(missing)
    }

    fn settle_settings(&mut self) -> Result<(), BalancerError> {
        for way in self
            .kernel
            .missing_ways()
            .map_err(|failure| refused("read the way to it", failure))?
        {
            self.kernel
                .add_way(way)
                .map_err(|failure| refused(&way.describe(), failure))?;
        }
        let timeouts = self
            .kernel
            .timeouts()
            .map_err(|failure| refused("read its timeouts", failure))?;
        if timeouts != TIMEOUTS {
            self.kernel
                .set_timeouts(TIMEOUTS)
                .map_err(|failure| refused("set its timeouts", failure))?;
        }
        Ok(())
    }

    /// Reads the virtual services from the marks of nftables and the IPVS services for them.
    fn table(&self, found: Option<&Ruleset>, services: &Services) -> Table {
        let balanced = self
            .marks
            .0
            .iter()
            .filter_map(|(&vip, &mark)| Some((vip, services.get(&key(vip, mark))?)));
        let services = balanced
            .map(|(vip, service)| (vip, service.balances()))
            .collect();
        Table {
            services,
            hairpins: found.map(hairpins).unwrap_or_default(),
        }
    }

    fn ruleset(&self, table: &Table) -> Ruleset {
        ruleset(table, &self.marks, self.crowd)
    }

    fn wanted(&self, table: &Table) -> Services {
        let service = |(vip, service)| {
            let vip: &IpAddr = vip;
            Some((
                key(*vip, *self.marks.0.get(vip)?),
                Service::of(service, model::Family::of(*vip)),
            ))
        };
        table.services.iter().filter_map(service).collect()
    }

    /// Adds and changes IPVS services before packets are marked for them, and removes them after.
    fn change(
        &mut self,
        requests: Vec<Request>,
        rules: Option<&nftables::Change>,
    ) -> Result<(), BalancerError> {
        let is_last = |request: &Request| matches!(request, Request::DelService(_));
        let (last, first): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_last);
        self.request(&first)?;
        if let Some(rules) = rules {
            nftables::apply(&mut self.socket, rules)?;
        }
        self.request(&last)
    }

    fn request(&mut self, requests: &[Request]) -> Result<(), BalancerError> {
        let outcome = self
            .kernel
            .apply(requests)
            .map_err(|error| refused("change its services", error.into()))?;
        match outcome.first() {
            None => Ok(()),
            Some((request, errno)) => Err(refused(&request.to_string(), Failure::Refused(*errno))),
        }
    }

    /// The same on the known state, so that only changed services are touched.
    fn amend(&mut self, mut whole: Whole, ops: &[Op]) -> Result<Arc<Table>, BalancerError> {
        let before = whole.table.part(ops);
        let (old_rules, old_services) = (self.ruleset(&before), self.wanted(&before));
        ops.iter()
            .for_each(|op| Arc::make_mut(&mut whole.table).apply(op));
        let after = whole.table.part(ops);
        self.marks.allot(&after);
        let rules = difference(Some(&self.ruleset(&after)), Some(&old_rules));
        let requests = services::difference(&self.wanted(&after), &old_services);
        self.marks.forget(&before, &after);
        self.change(requests, rules.as_ref())?;
        let table = whole.table.clone();
        whole.at = whole.at.after(rules.as_ref());
        if whole.at.is_now(&mut self.socket) {
            self.seen = Seen::Whole(whole);
        }
        Ok(table)
    }

    fn repair(
        &mut self,
        found: Option<&Ruleset>,
        services: &Services,
        ops: &[Op],
    ) -> Result<Arc<Table>, BalancerError> {
        self.settle_settings()?;
        let mut table = self.table(found, services);
        ops.iter().for_each(|op| table.apply(op));
        self.marks
            .0
            .retain(|vip, _| table.services.contains_key(vip));
        self.marks.allot(&table);
        let rules = difference(Some(&self.ruleset(&table)), found);
        let requests = services::difference(&self.wanted(&table), services);
        self.change(requests, rules.as_ref())?;
        Ok(Arc::new(table))
    }
}

impl Balancer for IpVs {
    fn observe(&mut self) -> Result<Observed, BalancerError> {
        let mut observed = self.read()?;
        observed.damage.extend(self.sysctls.damage());
        observed.damage.extend(self.connections.damage(
            &mut self.socket,
            &observed.table,
            Instant::now(),
        )?);
        Ok(observed)
    }

    /// A change is planned on the last known state, so that it need not wait until thousands of
    /// services have been read; they are read again afterwards.
    fn plan(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        let now = Moment::now(&mut self.socket)?;
        let ops = match &self.seen {
            Seen::Whole(whole) if whole.at == now => whole.table.ops(desired),
            _ => Vec::new(),
        };
        if ops.is_empty() {
            Ok(diff(desired, &self.observe()?))
        } else {
            Ok(ops)
        }
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError> {
        self.sysctls.apply().map_err(BalancerError::Sysctl)?;
        if matches!(self.seen, Seen::Nothing) {
            self.read()?;
        }
        let table = match mem::replace(&mut self.seen, Seen::Nothing) {
            Seen::Whole(whole) => self.amend(whole, ops)?,
            Seen::Damaged(found, services) => self.repair(found.as_ref(), &services, ops)?,
            Seen::Nothing => return Ok(()),
        };
        self.connections
            .forget(&mut self.socket, ops, &table, Instant::now())
    }

    fn overlook(&mut self, before: u32) {
        if let Seen::Whole(whole) = &mut self.seen {
            whole.at.overlook(before);
        }
    }

    fn generation(&self) -> Option<u32> {
        match &self.seen {
            Seen::Whole(whole) => Some(whole.at.number()),
            Seen::Nothing | Seen::Damaged(..) => None,
        }
    }

    fn is_due(&self) -> bool {
        self.connections.is_due(Instant::now())
    }

    fn doubt(&mut self) {
        self.seen = Seen::Nothing;
    }

    fn traffic(&mut self, vip: IpAddr) -> Result<Traffic, BalancerError> {
        let Some(mark) = self.marks.0.get(&vip) else {
            return Ok(Traffic::default());
        };
        let counted = self
            .kernel
            .counted(&key(vip, *mark))
            .map_err(|failure| refused("read its counters", failure))?;
        let mut traffic = Traffic::default();
        for (server, counted) in counted {
            let [packets_in, bytes_in, packets_out, bytes_out] = counted.traffic;
            match server {
                Some(server) => drop(traffic.connections.insert(server, counted.connections)),
                None => {
                    traffic.passed = Some(Passed {
                        packets_in,
                        bytes_in,
                        packets_out,
                        bytes_out,
                    })
                }
            }
        }
        Ok(traffic)
    }
}

fn refused(step: &str, failure: Failure) -> BalancerError {
    let reason = match failure {
        Failure::Socket(error) => error,
        Failure::Refused(errno) => errno.into(),
        Failure::Interrupted => Errno::EAGAIN.into(),
    };
    BalancerError::IpVs {
        step: step.to_owned(),
        reason,
    }
}

fn key(vip: IpAddr, mark: u32) -> Key {
    Key {
        family: model::Family::of(vip),
        target: Target::Mark(mark),
    }
}

/// The marks of virtual IPs; no two of a version have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Marks(BTreeMap<IpAddr, u32>);

impl Marks {
    fn of(ruleset: &Ruleset) -> Self {
        let marks = Ip::BOTH
            .into_iter()
            .flat_map(|version| elements(ruleset, names(version).marks));
        Self(
            marks
                .filter_map(|(key, data)| Some((address(&key.first)?, value(data)?)))
                .collect(),
        )
    }

    /// Gives new virtual IPs a mark: the last bits of the address, or the next free one.
    fn allot(&mut self, table: &Table) {
        let new: Vec<IpAddr> = table
            .services
            .keys()
            .filter(|vip| !self.0.contains_key(vip))
            .copied()
            .collect();
        if new.is_empty() {
            return;
        }
        let mut taken: BTreeSet<(bool, u32)> = self
            .0
            .iter()
            .map(|(vip, mark)| (vip.is_ipv6(), *mark))
            .collect();
        for vip in new {
            let mut mark = last_bits(vip) | MARKED;
            while !taken.insert((vip.is_ipv6(), mark)) {
                mark = mark.wrapping_add(1) | MARKED;
            }
            self.0.insert(vip, mark);
        }
    }

    fn forget(&mut self, before: &Table, after: &Table) {
        let gone = before
            .services
            .keys()
            .filter(|vip| !after.services.contains_key(vip));
        for vip in gone {
            self.0.remove(vip);
        }
    }
}

fn last_bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6.to_bits() as u32,
    }
}

/// The names of one IP version's sets.
struct Names {
    /// Virtual IPs to their marks.
    marks: &'static str,
    /// Virtual IPs with no real server that takes new connections.
    closed: &'static str,
    /// Virtual IPs to the real server that gets protocols unknown to IPVS, such as ICMP echo.
    others: &'static str,
}

fn names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names {
            marks: "marks4",
            closed: "closed4",
            others: "others4",
        },
        Ip::V6 => Names {
            marks: "marks6",
            closed: "closed6",
            others: "others6",
        },
    }
}

/// Rule set that marks packets to virtual IPs, and translates their sources after IPVS. Pure.
fn ruleset(table: &Table, marks: &Marks, crowd: Crowd) -> Ruleset {
    let sent = |rule: Rule| {
        rule.with(Expression::Meta {
            key: Meta::Mark,
            into: 0,
        })
        .compare(Comparison::Equal, &number(SENT))
    };
    let first = [
        Ip::BOTH.map(stray).to_vec(),
        Ip::BOTH.map(refuse).to_vec(),
        Ip::BOTH.map(other).to_vec(),
        crowd.rules(|flow, version| flow.map(names(version).marks)),
    ]
    .concat();
    let ruleset = crowd
        .objects(Ruleset::new(Family::Inet, TABLE))
        .chain("unreachable", Chain::regular(unreachable()))
        .chain(
            "first",
            Chain::base(Kind::Nat, Hook::Prerouting, FIRST, first),
        )
        .chain(
            "balance",
            Chain::base(
                Kind::Filter,
                Hook::Prerouting,
                MARK,
                Ip::BOTH.map(mark).to_vec(),
            ),
        )
        .chain(
            "balanced",
            Chain::base(Kind::Filter, Hook::Output, BALANCED, vec![balanced()]),
        )
        .chain("hairpin", sources(sent));
    Ip::BOTH.into_iter().fold(ruleset, |ruleset, version| {
        let elements = of_version(table, version)
            .filter_map(|(vip, _)| Some((Element::address(*vip), number(*marks.0.get(vip)?))));
        let (names, key) = (names(version), Type::from(version));
        let closed = of_version(table, version).filter(|(_, service)| !service.is_open());
        let first =
            |service: &VirtualService| service.shares().next().map(|(server, _)| octets(server));
        let others = of_version(table, version)
            .filter_map(|(vip, service)| Some((Element::address(*vip), first(service)?)));
        let ruleset = ruleset
            .set(names.marks, Set::map(&[key], Type::Mark, elements))
            .set(
                names.closed,
                Set::values(&[key], closed.map(|(vip, _)| Element::address(*vip))),
            )
            .set(names.others, Set::map(&[key], key, others));
        with_hairpins(ruleset, table, version)
    })
}

/// Resets mid-stream TCP packets of unknown connections. The namespace itself would not, because
/// virtual IPs are not its addresses.
fn stray(version: Ip) -> Rule {
    let stray = middle_of_tcp(version)
        .destination(version, 0)
        .map(names(version).marks);
    stray.verdict(Verdict::Goto("unreachable".to_owned()))
}

fn refuse(version: Ip) -> Rule {
    let closed = Rule::new()
        .version(version)
        .destination(version, 0)
        .in_set(names(version).closed);
    closed.verdict(Verdict::Goto("unreachable".to_owned()))
}

fn other(version: Ip) -> Rule {
    let known = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP].map(|code| Element::of(&[&[code as u8]]));
    let known = SetRef::Anonymous(Set::values(&[Type::Protocol], known));
    let other = Rule::new().version(version).with(Expression::Meta {
        key: Meta::L4proto,
        into: 0,
    });
    let other = other.with(Expression::Match {
        set: known,
        from: 0,
        invert: true,
    });
    other
        .destination(version, 0)
        .map(names(version).others)
        .nat(Nat::Destination, version)
}

/// Replaces the mark of packets that IPVS has sent on: nftables looks up their route again after it
/// has changed them, and with the old mark they would be delivered locally again.
fn balanced() -> Rule {
    Rule::new()
        .with(Expression::Meta {
            key: Meta::Mark,
            into: 0,
        })
        .with(Expression::Bitwise {
            from: 0,
            into: 0,
            mask: number(MARKED),
            xor: vec![0; 4],
        })
        .compare(Comparison::NotEqual, &[0; 4])
        .with(Expression::Immediate {
            into: 0,
            value: number(SENT),
        })
        .with(Expression::SetMeta {
            key: Meta::Mark,
            from: 0,
        })
}

fn mark(version: Ip) -> Rule {
    let addressed = Rule::new().version(version).destination(version, 0);
    addressed
        .with(Expression::Map {
            set: SetRef::Named(names(version).marks.to_owned()),
            from: 0,
            into: 0,
        })
        .with(Expression::SetMeta {
            key: Meta::Mark,
            from: 0,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::tables;

    proptest! {
        #[test]
        fn rules_and_services_tell_the_table_that_they_were_made_for(
            before in tables(),
            after in tables(),
        ) {
            let mut marks = Marks::default();
            marks.allot(&before);
            marks.forget(&before, &after);
            marks.allot(&after);
            let ruleset = ruleset(&after, &marks, Crowd::Brief);
            prop_assert_eq!(&Marks::of(&ruleset), &marks);
            let services: BTreeMap<Key, Service> = after.services.iter()
                .map(|(vip, service)| {
                    (key(*vip, marks.0[vip]), Service::of(service, model::Family::of(*vip)))
                })
                .collect();
            let read = marks.0.iter();
            let read = read.map(|(vip, mark)| (*vip, services[&key(*vip, *mark)].balances()));
            prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), after.services);
        }
    }

    #[test]
    fn addresses_with_the_same_end_have_marks_of_their_own() {
        let vips =
            ["fd00::1", "fd00:0:0:1::1", "10.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let table = Table {
            services: vips.map(|vip| (vip, Default::default())).into(),
            ..Table::default()
        };
        let mut marks = Marks::default();
        marks.allot(&table);
        assert_eq!(marks.0[&vips[0]], MARKED | 1);
        assert_eq!(marks.0[&vips[1]], MARKED | 2);
        assert_eq!(marks.0[&vips[2]], MARKED | 0x0a00_0001);
    }
}
