//! The nftables rule sets of the overlay: source checks, masquerading and isolation ([`guard`]),
//! published ports ([`published`]), and the short way past both ([`shortcut`]). Values only: crate
//! `nftables` reads and writes them.

#![warn(unreachable_pub)]

pub mod guard;
pub mod published;
pub mod shortcut;

use model::Subnet;
use nftables::Key;

/// Every address of a subnet, as a key of a set.
fn addresses_of(subnet: Subnet) -> Key {
    Key::range(subnet.network(), subnet.last())
}

#[cfg(test)]
mod tests {
    #[test]
    fn rules_in_chains_of_others_bear_the_name_of_our_table() {
        assert_eq!(nftables::COMMENT, model::names::TABLE);
    }
}
