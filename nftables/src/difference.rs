//! The smallest change that leads from one rule set to another. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Base, Chain, Data, Family, Key, Lifetime, Object, Rule, Ruleset, Set, SetType};

/// Steps on one table, made all at once or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: String,
    /// In an order in which nothing is named before it is there, or taken away while it is used.
    pub steps: Vec<Step>,
}

impl Change {
    /// The same on a kernel whose tables stay until they are deleted.
    pub fn of_kernel(&self) -> Self {
        let mut change = self.clone();
        for step in &mut change.steps {
            if let Step::AddTable(lifetime) = step {
                *lifetime = Lifetime::Kernel;
            }
        }
        change
    }
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Step {
    /// The table, with all that is in it, goes.
    DeleteTable,
    /// An empty table.
    AddTable(Lifetime),
    /// Elements go.
    DeleteElements {
        set: String,
        of: SetType,
        elements: Vec<Key>,
    },
    /// All rules of a chain go.
    FlushChain(String),
    /// A chain goes.
    DeleteChain(String),
    /// A set goes, with its elements.
    DeleteSet(String),
    /// An object goes.
    DeleteObject { name: String, object: Object },
    /// An object.
    AddObject { name: String, object: Object },
    /// An empty set or map.
    AddSet { set: String, of: SetType },
    /// An empty chain.
    AddChain { chain: String, base: Option<Base> },
    /// New elements.
    AddElements {
        set: String,
        of: SetType,
        elements: BTreeMap<Key, Data>,
    },
    /// A rule behind the others of its chain.
    AddRule { chain: String, rule: Rule },
    /// A rule of a foreign chain goes.
    DeleteRule { chain: String, handle: u64 },
    /// A rule with our mark before the others of a foreign chain.
    InsertRule { chain: String, rule: Rule },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::DeleteTable => out.write_str("delete the table"),
            Step::AddTable(_) => out.write_str("add the table"),
            Step::DeleteElements { set, elements, .. } => {
                write!(out, "delete {} elements of set {set}", elements.len())
            }
            Step::FlushChain(chain) => write!(out, "flush chain {chain}"),
            Step::DeleteChain(chain) => write!(out, "delete chain {chain}"),
            Step::DeleteSet(set) => write!(out, "delete set {set}"),
            Step::DeleteObject { name, .. } => write!(out, "delete object {name}"),
            Step::AddObject { name, .. } => write!(out, "add object {name}"),
            Step::AddSet { set, .. } => write!(out, "add set {set}"),
            Step::AddChain { chain, .. } => write!(out, "add chain {chain}"),
            Step::AddElements { set, elements, .. } => {
                write!(out, "add {} elements to set {set}", elements.len())
            }
            Step::AddRule { chain, .. } => write!(out, "add a rule to chain {chain}"),
            Step::DeleteRule { chain, .. } => {
                write!(out, "delete a rule of ours from chain {chain}")
            }
            Step::InsertRule { chain, .. } => {
                write!(out, "insert a rule of ours into chain {chain}")
            }
        }
    }
}

/// What to change so that the table is as desired (`None`: is not there). `None`: it is. Only
/// changed elements and the rules of changed chains are touched; the table is made anew only if it
/// is missing, switched off, of another lifetime, or has a chain or set of one of our names that is
/// another kind of thing, which cannot be changed in place.
pub fn difference(desired: Option<&Ruleset>, observed: Option<&Ruleset>) -> Option<Change> {
    let table = desired.or(observed)?;
    let steps = match (desired, observed) {
        (Some(desired), None) => [vec![Step::AddTable(desired.lifetime)], fill(desired)].concat(),
        (None, Some(_)) => vec![Step::DeleteTable],
        (Some(desired), Some(observed)) if !alike(desired, observed) => {
            let anew = vec![Step::DeleteTable, Step::AddTable(desired.lifetime)];
            [anew, fill(desired)].concat()
        }
        (Some(desired), Some(observed)) => amend(desired, observed),
        (None, None) => vec![],
    };
    (!steps.is_empty()).then(|| Change {
        family: table.family,
        table: table.name.clone(),
        steps,
    })
}

fn fill(desired: &Ruleset) -> Vec<Step> {
    amend(desired, &Ruleset::new(desired.family, &desired.name))
}

/// Whether what both have under the same name differs in nothing but rules and elements.
fn alike(desired: &Ruleset, observed: &Ruleset) -> bool {
    let mut chains = common(&desired.chains, &observed.chains);
    let mut sets = common(&desired.sets, &observed.sets);
    let mut objects = common(&desired.objects, &observed.objects);
    desired.dormant == observed.dormant
        && desired.lifetime == observed.lifetime
        && objects.all(|(_, desired, observed)| desired == observed)
        && chains.all(|(_, desired, observed)| {
            Arc::ptr_eq(desired, observed) || desired.base == observed.base
        })
        && sets.all(|(_, desired, observed)| desired.of == observed.of)
}

fn amend(desired: &Ruleset, observed: &Ruleset) -> Vec<Step> {
    let mut steps = Vec::new();
    let obsolete_chains = || only(&observed.chains, &desired.chains);
    for (name, set, old) in common(&desired.sets, &observed.sets) {
        steps.extend(delete_elements(name, set, old));
    }
    let changed = common(&desired.chains, &observed.chains)
        .filter(|(_, new, old)| !Arc::ptr_eq(new, old) && new.rules != old.rules);
    let flushed = changed
        .filter(|(_, _, old)| !old.rules.is_empty())
        .map(|(name, ..)| name);
    steps.extend(
        flushed
            .chain(obsolete_chains().map(|(name, _)| name))
            .map(|name| Step::FlushChain(name.clone())),
    );
    steps
        .extend(only(&observed.sets, &desired.sets).map(|(name, _)| Step::DeleteSet(name.clone())));
    steps.extend(obsolete_chains().map(|(name, _)| Step::DeleteChain(name.clone())));

    let gone = only(&observed.objects, &desired.objects);
    steps.extend(gone.map(|(name, object)| Step::DeleteObject {
        name: name.clone(),
        object: *object,
    }));
    let new = only(&desired.objects, &observed.objects);
    steps.extend(new.map(|(name, object)| Step::AddObject {
        name: name.clone(),
        object: *object,
    }));
    for (name, set) in only(&desired.sets, &observed.sets) {
        steps.push(Step::AddSet {
            set: name.clone(),
            of: set.of.clone(),
        });
    }
    for (name, chain) in only(&desired.chains, &observed.chains) {
        steps.push(Step::AddChain {
            chain: name.clone(),
            base: chain.base.clone(),
        });
    }
    // For each module that a rule needs and the kernel has yet to load it starts the whole batch
    // again: so that there is little to be done again, rules come before elements.
    for (name, chain) in &desired.chains {
        steps.extend(add_rules(name, chain, observed.chains.get(name)));
    }
    for (name, set) in &desired.sets {
        steps.extend(add_elements(name, set, observed.sets.get(name)));
    }
    steps
}

fn delete_elements(name: &str, set: &Set, old: &Set) -> Option<Step> {
    let gone = lacking(&old.elements, &set.elements);
    let elements: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
    let (set, of) = (name.to_owned(), set.of.clone());
    (!elements.is_empty()).then_some(Step::DeleteElements { set, of, elements })
}

fn add_elements(name: &str, set: &Set, old: Option<&Set>) -> Option<Step> {
    let nothing = BTreeMap::new();
    let new = lacking(&set.elements, old.map_or(&nothing, |old| &old.elements));
    let elements: BTreeMap<Key, Data> =
        new.map(|(key, data)| (key.clone(), data.clone())).collect();
    let (set, of) = (name.to_owned(), set.of.clone());
    (!elements.is_empty()).then_some(Step::AddElements { set, of, elements })
}

/// The entries that another map has not, or with other values.
fn lacking<'a>(
    these: &'a BTreeMap<Key, Data>,
    those: &'a BTreeMap<Key, Data>,
) -> impl Iterator<Item = (&'a Key, &'a Data)> {
    // Both are sorted: they are walked side by side.
    let mut those = those.iter().peekable();
    these.iter().filter(move |(key, data)| {
        while those.next_if(|(other, _)| other < key).is_some() {}
        those.peek() != Some(&(*key, *data))
    })
}

fn add_rules(name: &str, chain: &Arc<Chain>, old: Option<&Arc<Chain>>) -> Vec<Step> {
    if old.is_some_and(|old| Arc::ptr_eq(old, chain) || old.rules == chain.rules) {
        return vec![];
    }
    chain
        .rules
        .iter()
        .map(|rule| Step::AddRule {
            chain: name.to_owned(),
            rule: rule.clone(),
        })
        .collect()
}

fn common<'a, V>(
    desired: &'a BTreeMap<String, V>,
    observed: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, &'a V, &'a V)> {
    desired
        .iter()
        .filter_map(|(name, value)| Some((name, value, observed.get(name)?)))
}

fn only<'a, V>(
    these: &'a BTreeMap<String, V>,
    not_those: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, &'a V)> {
    these
        .iter()
        .filter(|(name, _)| !not_those.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hook, Kind, Type, Verdict};

    fn chain(verdict: Verdict) -> Chain {
        Chain::regular(vec![Rule::new().verdict(verdict)])
    }

    fn ruleset(addresses: &[&str]) -> Ruleset {
        let keys = addresses
            .iter()
            .map(|address| Key::address(address.parse().unwrap()));
        Ruleset::new(Family::Inet, "t")
            .chain("in", Chain::base(Kind::Filter, Hook::Input, 0, vec![]))
            .chain("one", chain(Verdict::Accept))
            .set("set", Set::values(&[Type::Ipv4], keys))
    }

    fn steps(desired: &Ruleset, observed: &Ruleset) -> Vec<String> {
        let change = difference(Some(desired), Some(observed));
        change
            .map(|change| change.steps.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_table_as_desired_is_left_alone() {
        let ruleset = ruleset(&["10.0.0.1"]);
        assert_eq!(difference(Some(&ruleset), Some(&ruleset)), None);
        assert_eq!(difference(None, None), None);
    }

    #[test]
    fn a_changed_element_touches_elements_only() {
        let (desired, observed) = (
            ruleset(&["10.0.0.1", "10.0.0.2"]),
            ruleset(&["10.0.0.1", "10.0.0.3"]),
        );
        assert_eq!(
            steps(&desired, &observed),
            ["delete 1 elements of set set", "add 1 elements to set set"]
        );
    }

    #[test]
    fn a_changed_rule_touches_its_chain_only() {
        let desired = ruleset(&[]).chain("two", chain(Verdict::Drop));
        let observed = ruleset(&[]).chain("two", chain(Verdict::Accept));
        assert_eq!(
            steps(&desired, &observed),
            ["flush chain two", "add a rule to chain two"]
        );
    }

    #[test]
    fn chains_come_before_their_jumps_and_go_after_them() {
        let jump = chain(Verdict::Jump("two".to_owned()));
        let with = ruleset(&[])
            .chain("one", jump)
            .chain("two", chain(Verdict::Drop));
        let without = ruleset(&[]);
        let coming = [
            "flush chain one",
            "add chain two",
            "add a rule to chain one",
            "add a rule to chain two",
        ];
        assert_eq!(steps(&with, &without), coming);
        let going = [
            "flush chain one",
            "flush chain two",
            "delete chain two",
            "add a rule to chain one",
        ];
        assert_eq!(steps(&without, &with), going);
    }

    #[test]
    fn another_kind_of_thing_makes_the_table_anew() {
        let desired = ruleset(&[]);
        let mut moved = ruleset(&[]);
        moved.chains.insert(
            "in".to_owned(),
            Arc::new(Chain::base(Kind::Filter, Hook::Input, 7, vec![])),
        );
        let retyped = ruleset(&[]).set("set", Set::values(&[Type::Ipv6], []));
        let dormant = Ruleset {
            dormant: true,
            ..ruleset(&[])
        };
        let lasting = ruleset(&[]).of_socket();
        for observed in [moved, retyped, dormant, lasting] {
            assert_eq!(
                steps(&desired, &observed)[..2],
                ["delete the table", "add the table"]
            );
        }
    }
}
