//! Limits per client: a token bucket per address, and shares of forwarded queries and connections.
//! Pure: time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Limits for one client of a resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries per second, and burst after a second without queries; further queries are not
    /// answered.
    pub queries: u32,
    /// Forwarded queries in flight.
    pub forwarded: u32,
    /// TCP connections.
    pub connections: u32,
}

impl Default for Limits {
    /// Far more than a C library sends, and a fraction of what one processor answers.
    fn default() -> Self {
        Self {
            queries: 50_000,
            forwarded: 64,
            connections: 32,
        }
    }
}

/// Number of clients with a bucket of their own; further clients share one. Sources are checked
/// where packets enter a network, so only as many endpoints on this host can exhaust the buckets.
const CLIENTS: usize = 4_096;
/// Key of the bucket that further clients share: an address that nobody has.
const EVERYBODY_ELSE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
/// A bucket is full again after this long without queries.
const FULL: Duration = Duration::from_secs(1);

/// The clients of one resolver.
pub(crate) struct Clients {
    limits: Limits,
    known: HashMap<IpAddr, Account>,
}

struct Account {
    tokens: f64,
    at: Instant,
    forwarded: u32,
    connections: u32,
}

/// Limited resources of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Forwarded,
    Connection,
}

impl Clients {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            known: HashMap::new(),
        }
    }

    /// Takes one token of a client's bucket; whether there was one.
    pub(crate) fn may_ask(&mut self, client: IpAddr, now: Instant) -> bool {
        let rate = f64::from(self.limits.queries);
        let (_, account) = self.account(client, now);
        let gained = now.saturating_duration_since(account.at).as_secs_f64() * rate;
        account.tokens = (account.tokens + gained).min(rate);
        account.at = now;
        let may = account.tokens >= 1.0;
        account.tokens -= f64::from(u8::from(may));
        may
    }

    /// Takes a share. The caller gives it back under the returned address.
    pub(crate) fn take(&mut self, client: IpAddr, share: Share, now: Instant) -> Option<IpAddr> {
        let limits = self.limits;
        let (key, account) = self.account(client, now);
        let (taken, most) = account.of(share, &limits);
        (*taken < most).then(|| {
            *taken += 1;
            key
        })
    }

    pub(crate) fn give_back(&mut self, key: IpAddr, share: Share) {
        let limits = self.limits;
        if let Some(account) = self.known.get_mut(&key) {
            let (taken, _) = account.of(share, &limits);
            *taken = taken.saturating_sub(1);
        }
    }

    fn account(&mut self, client: IpAddr, now: Instant) -> (IpAddr, &mut Account) {
        if self.known.len() >= CLIENTS && !self.known.contains_key(&client) {
            self.known.retain(|_, account| account.is_in_use(now));
        }
        let is_full = self.known.len() >= CLIENTS && !self.known.contains_key(&client);
        let key = if is_full { EVERYBODY_ELSE } else { client };
        let tokens = f64::from(self.limits.queries);
        (
            key,
            self.known.entry(key).or_insert(Account {
                tokens,
                at: now,
                forwarded: 0,
                connections: 0,
            }),
        )
    }
}

impl Account {
    fn of(&mut self, share: Share, limits: &Limits) -> (&mut u32, u32) {
        match share {
            Share::Forwarded => (&mut self.forwarded, limits.forwarded),
            Share::Connection => (&mut self.connections, limits.connections),
        }
    }

    fn is_in_use(&self, now: Instant) -> bool {
        self.forwarded + self.connections > 0 || now.saturating_duration_since(self.at) < FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_client_gets_its_rate_and_takes_nothing_from_others() {
        let (start, limits) = (
            Instant::now(),
            Limits {
                queries: 100,
                ..Limits::default()
            },
        );
        let mut clients = Clients::new(limits);
        let mut allowed = |client, at: u64| {
            let now = start + Duration::from_millis(at);
            (0..1_000).filter(|_| clients.may_ask(client, now)).count()
        };
        assert_eq!(allowed(client(1), 0), 100, "what it has at once");
        assert_eq!(allowed(client(2), 0), 100);
        assert_eq!(allowed(client(1), 500), 50);
        assert_eq!(allowed(client(1), 60_000), 100, "never more than that");
    }

    #[test]
    fn the_table_of_clients_is_bounded() {
        let now = Instant::now();
        let mut clients = Clients::new(Limits {
            queries: 1,
            ..Limits::default()
        });
        let allowed = (1..=100_000)
            .filter(|number| clients.may_ask(client(*number), now))
            .count();
        assert_eq!(
            (allowed, clients.known.len()),
            (CLIENTS + 1, CLIENTS + 1),
            "those beyond share one"
        );
        assert!(
            clients.may_ask(client(200_000), now + FULL),
            "those who rest make room"
        );
    }

    #[test]
    fn shares_come_back() {
        let (now, limits) = (
            Instant::now(),
            Limits {
                connections: 2,
                ..Limits::default()
            },
        );
        let mut clients = Clients::new(limits);
        let first = clients.take(client(1), Share::Connection, now).unwrap();
        assert!(clients.take(client(1), Share::Connection, now).is_some());
        assert_eq!(clients.take(client(1), Share::Connection, now), None);
        assert!(clients.take(client(1), Share::Forwarded, now).is_some());
        clients.give_back(first, Share::Connection);
        assert!(clients.take(client(1), Share::Connection, now).is_some());
    }
}
