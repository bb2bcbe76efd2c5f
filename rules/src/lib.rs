//! The nftables rule sets of the overlay: source checks, masquerading and isolation ([`guard`]),
//! published ports ([`published`]), and the short way past both ([`shortcut`]). Values only: crate
//! `nftables` reads and writes them.

pub mod guard;
pub mod published;
pub mod shortcut;
