//! Flows of UDP that clients begin by the hundred: one question, one socket. A client and a server
//! have few source ports between them (`BALANCED_PORTS`), and the kernel keeps a flow's for 30 s of
//! silence. While many flows begin, new ones are forgotten sooner.

use std::sync::OnceLock;

use nftables::{Expression, Ip, Object, Rule, Ruleset, Socket};
use nix::libc::IPPROTO_UDP;

/// The object that holds the timeouts.
const NAME: &str = "crowd";
/// Flows that may begin in a second, and at once, without being a crowd. With the kernel's 30 s of
/// silence they take 2000 source ports between one client and one server.
const RATE: u64 = 50;
const BURST: u32 = 500;
/// Seconds of silence before a flow of a crowd is forgotten: thousands begin in a second, and 16384
/// last at once.
const SILENCE: u32 = 2;
/// A flow that goes on for two seconds is no question any more, and lives as long as any other.
const STREAM: u32 = 120;

/// Whether flows of a crowd are forgotten sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// They are.
    Brief,
    /// They live as long as all others, because the kernel cannot be told.
    Usual,
}

impl Crowd {
    /// As this kernel can; it is asked once in the life of a process.
    pub(crate) fn of_kernel(socket: &mut Socket) -> Self {
        static KNOWS: OnceLock<bool> = OnceLock::new();
        if *KNOWS.get_or_init(|| nftables::knows_timeouts(socket)) {
            Self::Brief
        } else {
            Self::Usual
        }
    }

    /// Adds what its rules refer to.
    pub(crate) fn objects(self, ruleset: Ruleset) -> Ruleset {
        match self {
            Self::Usual => ruleset,
            Self::Brief => ruleset.object(
                NAME,
                Object::UdpTimeouts {
                    unreplied: SILENCE,
                    replied: STREAM,
                },
            ),
        }
    }

    /// For a chain that only first packets of connections pass: a rule per version, with the
    /// expressions that `to_virtual_ip` adds to find a virtual IP's.
    pub(crate) fn rules(self, to_virtual_ip: impl Fn(Rule, Ip) -> Rule) -> Vec<Rule> {
        let rule = |version| {
            let flow = Rule::new().protocol(IPPROTO_UDP as u8).version(version);
            to_virtual_ip(flow.destination(version, 0), version)
                .with(Expression::Over {
                    rate: RATE,
                    burst: BURST,
                })
                .with(Expression::Timeouts(NAME.to_owned()))
        };
        match self {
            Self::Usual => Vec::new(),
            Self::Brief => Ip::BOTH.map(rule).into(),
        }
    }
}
