//! In which order the resolvers of a list are asked, and whose answer counts.
//!
//! resolv.conf(5) has them asked one after the other: the first one knows best, as a VPN's or a
//! company's own does. Here the next one is asked when the one before has failed, or has not
//! answered within a short time. That a name or a type does not exist counts only once no earlier
//! resolver is waited for.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use model::SandboxId;

use crate::name_server::NameServer;

/// How long the next resolver waits for the answer of the one before.
pub(crate) const HEAD_START: Duration = Duration::from_millis(300);
/// How long a resolver is waited for after a later one has said that there is nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is known that a resolver was late.
const KNOWN_LATE: Duration = Duration::from_secs(30);
/// The most resolvers of which that is known.
const MOST_LATE: usize = 1_024;

/// A resolver, as it is asked from the host or from inside a sandbox.
pub(crate) type Server = (Option<SandboxId>, NameServer);

/// How late a resolver was when it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lateness {
    /// Not at all, as far as is known.
    #[default]
    None,
    /// It gets no head start.
    Slow,
    /// Nor is it waited for.
    Silent,
}

/// Which resolvers were late.
#[derive(Default)]
pub(crate) struct Late(HashMap<Server, (Lateness, Instant)>);

impl Late {
    pub(crate) fn of(&self, server: &Server, now: Instant) -> Lateness {
        let known = self.0.get(server);
        let known = known.filter(|(_, since)| now.duration_since(*since) < KNOWN_LATE);
        known.map_or(Lateness::None, |(lateness, _)| *lateness)
    }

    pub(crate) fn note(&mut self, server: Server, lateness: Lateness, now: Instant) {
        if lateness == Lateness::None {
            self.0.remove(&server);
            return;
        }
        if self.0.len() >= MOST_LATE {
            self.0.clear();
        }
        self.0.insert(server, (lateness, now));
    }
}

/// What becomes of one question.
pub(crate) struct Order<T> {
    resolvers: Vec<(Lateness, Turn)>,
    /// What a resolver said does not exist.
    nothing: Option<(usize, T)>,
    refusal: Option<T>,
}

#[derive(Clone, Copy)]
enum Turn {
    Waits,
    Asked(Instant),
    Over,
}

/// What a resolver said.
pub(crate) enum Said<T> {
    /// What was asked for.
    Found(T),
    /// That it does not exist.
    Nothing(T),
    /// That it will not or cannot say.
    Refused(T),
    /// No answer.
    Failed,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this one, too.
    Ask(usize),
    /// Wait for an answer, until this moment at most.
    Wait(Option<Instant>),
    /// Nobody is left to wait for.
    End,
}

impl<T> Order<T> {
    pub(crate) fn new(resolvers: impl IntoIterator<Item = Lateness>) -> Self {
        let resolvers = resolvers.into_iter().map(|late| (late, Turn::Waits));
        Self {
            resolvers: resolvers.collect(),
            nothing: None,
            refusal: None,
        }
    }

    pub(crate) fn step(&self, now: Instant) -> Step {
        if let Some((at, _)) = &self.nothing {
            let earlier = &self.resolvers[..*at];
            let patience = earlier.iter().filter_map(|&(late, turn)| match turn {
                Turn::Asked(since) if late != Lateness::Silent => Some(since + PATIENCE),
                _ => None,
            });
            return match patience.max().filter(|until| *until > now) {
                Some(until) => Step::Wait(Some(until)),
                None => Step::End,
            };
        }
        let is_waiting = |(_, turn): &(Lateness, Turn)| matches!(turn, Turn::Waits);
        if let Some(next) = self.resolvers.iter().position(is_waiting) {
            let head_starts =
                self.resolvers[..next]
                    .iter()
                    .filter_map(|&(late, turn)| match turn {
                        Turn::Asked(since) if late == Lateness::None => Some(since + HEAD_START),
                        _ => None,
                    });
            return match head_starts.max().filter(|due| *due > now) {
                Some(due) => Step::Wait(Some(due)),
                None => Step::Ask(next),
            };
        }
        let is_over = |(_, turn): &(Lateness, Turn)| matches!(turn, Turn::Over);
        if self.resolvers.iter().all(is_over) {
            return Step::End;
        }
        Step::Wait(None)
    }

    pub(crate) fn asked(&mut self, at: usize, now: Instant) {
        self.resolvers[at].1 = Turn::Asked(now);
    }

    /// Takes what a resolver said; the answer, where that is it.
    pub(crate) fn said(&mut self, at: usize, said: Said<T>) -> Option<T> {
        self.resolvers[at].1 = Turn::Over;
        match said {
            Said::Found(answer) => return Some(answer),
            Said::Nothing(answer) => {
                if self.nothing.as_ref().is_none_or(|(known, _)| at < *known) {
                    self.nothing = Some((at, answer));
                }
            }
            Said::Refused(answer) => self.refusal = Some(answer),
            Said::Failed => {}
        }
        None
    }

    /// How late each is that has not answered.
    pub(crate) fn late(&self, now: Instant) -> impl Iterator<Item = (usize, Lateness)> {
        self.resolvers
            .iter()
            .enumerate()
            .filter_map(move |(at, (_, turn))| {
                let Turn::Asked(since) = turn else {
                    return None;
                };
                match now.duration_since(*since) {
                    age if age >= PATIENCE => Some((at, Lateness::Silent)),
                    age if age >= HEAD_START => Some((at, Lateness::Slow)),
                    _ => None,
                }
            })
    }

    /// The answer where nobody had what was asked for: that it does not exist, or a refusal.
    pub(crate) fn end(self) -> Option<T> {
        self.nothing.map(|(_, answer)| answer).or(self.refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(lateness: [Lateness; 3]) -> (Order<&'static str>, Instant) {
        (Order::new(lateness), Instant::now())
    }

    #[test]
    fn the_next_resolver_is_asked_late_or_after_a_failure() {
        let (mut order, now) = order([Lateness::None; 3]);
        assert_eq!(order.step(now), Step::Ask(0));
        order.asked(0, now);
        assert_eq!(order.step(now), Step::Wait(Some(now + HEAD_START)));
        let later = now + HEAD_START;
        assert_eq!(order.step(later), Step::Ask(1));
        order.asked(1, later);
        assert!(order.said(1, Said::Refused("no")).is_none());
        assert_eq!(order.step(later), Step::Ask(2));
        order.asked(2, later);
        assert_eq!(order.step(later), Step::Wait(None));
        assert_eq!(order.said(2, Said::Found("it")), Some("it"));
    }

    #[test]
    fn nothing_counts_once_no_earlier_one_is_waited_for() {
        let (mut order, now) = order([Lateness::Slow, Lateness::None, Lateness::None]);
        order.asked(0, now);
        assert_eq!(order.step(now), Step::Ask(1));
        order.asked(1, now);
        assert!(order.said(1, Said::Nothing("none")).is_none());
        assert_eq!(order.step(now), Step::Wait(Some(now + PATIENCE)));
        assert_eq!(order.said(0, Said::Found("it")), Some("it"));

        let (mut order, now) = self::order([Lateness::None; 3]);
        order.asked(0, now);
        order.asked(1, now);
        order.said(1, Said::Nothing("none"));
        assert_eq!(order.step(now + PATIENCE), Step::End);
        let late: Vec<_> = order.late(now + PATIENCE).collect();
        assert_eq!(late, [(0, Lateness::Silent)]);
        assert_eq!(order.end(), Some("none"));
    }

    #[test]
    fn a_silent_resolver_is_not_waited_for_again() {
        let (mut order, now) = order([Lateness::Silent, Lateness::None, Lateness::None]);
        order.asked(0, now);
        assert_eq!(order.step(now), Step::Ask(1));
        order.asked(1, now);
        order.said(1, Said::Nothing("none"));
        assert_eq!(order.step(now), Step::End);
        let mut late = Late::default();
        let server = (None, "192.0.2.1:53".parse().unwrap());
        late.note(server.clone(), Lateness::Silent, now);
        assert_eq!(late.of(&server, now), Lateness::Silent);
        assert_eq!(late.of(&server, now + KNOWN_LATE), Lateness::None);
        late.note(server.clone(), Lateness::None, now);
        assert_eq!(late.of(&server, now), Lateness::None);
    }

    #[test]
    fn a_refusal_is_the_answer_where_nobody_has_another() {
        let (mut order, now) = order([Lateness::None; 3]);
        for at in 0..3 {
            assert_eq!(order.step(now), Step::Ask(at));
            order.asked(at, now);
            order.said(
                at,
                if at == 1 {
                    Said::Refused("no")
                } else {
                    Said::Failed
                },
            );
        }
        assert_eq!(order.step(now), Step::End);
        assert_eq!(order.end(), Some("no"));
    }
}
