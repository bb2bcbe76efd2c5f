//! Rules of ours in forward chains of other software: Docker, UFW and firewalld drop packets that
//! they do not know, and an `accept` in a table of our own does not change that. So marked rules of
//! ours stand first in their chains. Pure.

use super::{Change, Family, Rule, Step};

/// The comment of the rules that are put into chains of other software.
pub const COMMENT: &str = "netd";

/// A forward chain of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// The family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Its rules, in order.
    pub rules: Vec<Placed>,
}

/// A rule where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What the kernel calls it.
    pub handle: u64,
    /// What it says, if it bears our mark.
    pub ours: Option<Rule>,
}

/// What to change so that these rules are the first of every chain, and no others of ours are in
/// it. Where all are there, but others have been put before them, they are moved only if
/// `overtake`: there may be others who insist.
pub fn passage(rules: &[Rule], chains: &[ForeignChain], overtake: Overtake) -> Vec<Change> {
    chains
        .iter()
        .filter_map(|chain| in_chain(rules, chain, overtake))
        .collect()
}

/// Whether rules of others that were put before ours are overtaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overtake {
    /// They are.
    Now,
    /// They are not, this time.
    Later,
}

fn in_chain(rules: &[Rule], found: &ForeignChain, overtake: Overtake) -> Option<Change> {
    let ours: Vec<&Rule> = found
        .rules
        .iter()
        .filter_map(|placed| placed.ours.as_ref())
        .collect();
    let complete = ours.iter().copied().eq(rules);
    let first = found
        .rules
        .iter()
        .take(rules.len())
        .all(|placed| placed.ours.is_some());
    if complete && (first || overtake == Overtake::Later) {
        return None;
    }
    let chain = &found.chain;
    let old = found.rules.iter().filter(|placed| placed.ours.is_some());
    let delete = old.map(|placed| Step::DeleteRule {
        chain: chain.clone(),
        handle: placed.handle,
    });
    // Each goes before the ones that are there.
    let insert = rules.iter().rev().map(|rule| Step::InsertRule {
        chain: chain.clone(),
        rule: rule.clone(),
    });
    Some(Change {
        family: found.family,
        table: found.table.clone(),
        steps: delete.chain(insert).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Verdict;

    fn rule(link: &str) -> Rule {
        Rule::new().link_in(link).verdict(Verdict::Accept)
    }

    fn chain(rules: &[Option<Rule>]) -> ForeignChain {
        let rules = (1..)
            .zip(rules)
            .map(|(handle, ours)| Placed {
                handle,
                ours: ours.clone(),
            })
            .collect();
        ForeignChain {
            family: Family::Ip,
            table: "filter".into(),
            chain: "FORWARD".into(),
            rules,
        }
    }

    fn steps(wanted: &[Rule], found: &[Option<Rule>], overtake: Overtake) -> Vec<String> {
        let changes = passage(wanted, &[chain(found)], overtake);
        changes
            .iter()
            .flat_map(|change| change.steps.iter().map(ToString::to_string))
            .collect()
    }

    #[test]
    fn our_rules_come_first_in_order_and_alone() {
        let (a, b, wanted) = (Some(rule("a")), Some(rule("b")), [rule("a"), rule("b")]);
        let insert = "insert a rule of ours into chain FORWARD";
        let none: [&str; 0] = [];
        assert_eq!(steps(&wanted, &[], Overtake::Later), [insert, insert]);
        assert_eq!(
            steps(&wanted, &[a.clone(), b.clone(), None], Overtake::Now),
            none
        );
        let twice = [a.clone(), b.clone(), None, a.clone()];
        assert_eq!(steps(&wanted, &twice, Overtake::Later).len(), 5);
        assert_eq!(
            steps(&wanted, &[b.clone(), a.clone()], Overtake::Later).len(),
            4
        );
        assert_eq!(steps(&[], &[None, a, b], Overtake::Later).len(), 2);
    }

    #[test]
    fn a_rival_for_the_first_place_is_overtaken_rarely() {
        let (wanted, found) = ([rule("a")], [None, Some(rule("a"))]);
        assert!(steps(&wanted, &found, Overtake::Later).is_empty());
        assert_eq!(steps(&wanted, &found, Overtake::Now).len(), 2);
    }
}
