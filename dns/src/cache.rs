//! Cache of forwarded answers: kept for their TTL, in bounded memory. Pure: time is an argument.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use model::SandboxId;

use crate::wire::{Flags, Foreign, Query};

/// Limits of the cache: bytes of all answers, and number of answers.
const MOST_BYTES: usize = 8 << 20;
const MOST: usize = 20_000;
/// Longest time that an answer is cached, whatever its TTL.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Longest time that a negative answer is cached: people often create a name right after a failed
/// lookup.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(30);

/// Resolvers that a query is forwarded to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// The host's own resolvers.
    #[default]
    Host,
    /// These resolvers, asked from inside a sandbox.
    Sandbox(SandboxId, Vec<IpAddr>),
    /// The resolver that Docker Engine has inside a container.
    Engine(SandboxId),
}

impl Way {
    /// Whether answers may be kept: what an engine says of its own names changes with its
    /// containers, whatever their TTL.
    pub(crate) fn may_be_kept(&self) -> bool {
        !matches!(self, Self::Engine(_))
    }

    /// Whose namespace is asked from; `None`: the host's.
    pub(crate) fn sandbox(&self) -> Option<SandboxId> {
        match self {
            Self::Host => None,
            Self::Sandbox(sandbox, _) | Self::Engine(sandbox) => Some(*sandbox),
        }
    }
}

/// Cache key: queries with equal keys have the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub way: Way,
    /// Name, type and class in lower case.
    question: Vec<u8>,
    pub flags: Flags,
}

impl Key {
    pub(crate) fn of(way: Way, query: &Query<'_>) -> Self {
        let mut question = query.question.to_ascii_lowercase();
        // The last four bytes are type and class, not letters.
        let name = question.len() - 4;
        question[name..].copy_from_slice(&query.question[name..]);
        Self {
            way,
            question,
            flags: query.flags(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<Arc<Key>, Entry>,
    /// Oldest first, replaced ones included.
    order: VecDeque<(Arc<Key>, Instant)>,
    bytes: usize,
}

struct Entry {
    answer: Arc<Foreign>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// An answer and its age in seconds.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<Foreign>, u32)> {
        let entry = self.entries.get(key).filter(|entry| now < entry.until)?;
        Some((
            entry.answer.clone(),
            now.saturating_duration_since(entry.since).as_secs() as u32,
        ))
    }

    pub(crate) fn put(&mut self, key: Key, answer: Arc<Foreign>, now: Instant) {
        let Some(ttl) = answer.ttl.filter(|ttl| *ttl > 0) else {
            return;
        };
        let longest = if answer.is_negative() {
            LONGEST_NEGATIVE
        } else {
            LONGEST
        };
        let until = now + Duration::from_secs(ttl.into()).min(longest);
        let (key, size) = (Arc::new(key), answer.size());
        self.bytes += size;
        if let Some(old) = self.entries.insert(
            key.clone(),
            Entry {
                answer,
                since: now,
                until,
            },
        ) {
            self.bytes -= old.answer.size();
        }
        self.order.push_back((key, now));
        while self.entries.len() > MOST || self.bytes > MOST_BYTES || self.order.len() > 2 * MOST {
            let Some((key, since)) = self.order.pop_front() else {
                break;
            };
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.since == since)
                && let Some(old) = self.entries.remove(&key)
            {
                self.bytes -= old.answer.size();
            }
        }
    }

    /// Drops answers of the host's resolvers, after resolv.conf has changed.
    pub(crate) fn forget_host(&mut self) {
        let bytes = &mut self.bytes;
        self.entries.retain(|key, entry| {
            let stays = key.way != Way::Host;
            *bytes -= if stays { 0 } else { entry.answer.size() };
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn query(name: &str) -> Vec<u8> {
        let labels = wire::labels(name).unwrap();
        wire::question(7, &[&labels[..], &[0, 0, 1, 0, 1]].concat())
    }

    fn key(name: &str) -> Key {
        let bytes = query(name);
        Key::of(Way::Host, &Query::parse(&bytes).ok().unwrap())
    }

    /// An address with this time to live, and `more` bytes of text.
    fn answer(name: &str, ttl: u32, more: usize) -> Arc<Foreign> {
        let mut bytes = query(name);
        let question = bytes[wire::HEADER..].to_vec();
        bytes[2] |= 0x80;
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, 16, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((more as u16).to_be_bytes());
        bytes.extend(vec![0; more]);
        Arc::new(Foreign::parse(&bytes, &question).unwrap())
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says_and_an_hour_at_most() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        cache.put(key("short.example"), answer("short.example", 10, 4), start);
        cache.put(
            key("long.example"),
            answer("long.example", 1_000_000, 4),
            start,
        );
        cache.put(key("zero.example"), answer("zero.example", 0, 4), start);
        assert_eq!(cache.get(&key("SHORT.example"), after(9)).unwrap().1, 9);
        assert!(cache.get(&key("short.example"), after(10)).is_none());
        assert!(cache.get(&key("long.example"), after(3_599)).is_some());
        assert!(cache.get(&key("long.example"), after(3_600)).is_none());
        assert!(cache.get(&key("zero.example"), start).is_none());
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..2_000 {
            let name = format!("n{number}.example");
            cache.put(key(&name), answer(&name, 60, 10_000), now);
        }
        assert!(cache.bytes <= MOST_BYTES && cache.entries.len() < 1_000);
        assert!(
            cache.get(&key("n0.example"), now).is_none()
                && cache.get(&key("n1999.example"), now).is_some()
        );
        for _ in 0..3 * MOST {
            cache.put(key("same.example"), answer("same.example", 60, 4), now);
        }
        assert!(cache.order.len() <= 2 * MOST);
        cache.forget_host();
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
    }
}
