//! The nftables rule sets of the overlay: who may send what ([`guard`]), what leads published ports
//! into networks ([`published`]), and the way past both for what needs neither ([`shortcut`]). Values
//! only: `nftables` writes and reads them.

pub mod guard;
pub mod published;
pub mod shortcut;
