//! Assigns numbered turns to real servers. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use model::Scheduler;

use crate::VirtualService;

/// Turns that the real servers of one virtual service have at most; higher weights are scaled down.
const MAX_SLOTS: u32 = 4096;
/// Turns by the client's address for [`Scheduler::Mh`]: a prime, some hundred for each of a handful
/// of servers.
const MAGLEV_SLOTS: usize = 1021;

/// The real servers that take new connections, in the order of their turns.
pub fn slots(service: &VirtualService) -> Vec<IpAddr> {
    let turns = turns(service);
    if service.balance.scheduler == Scheduler::Mh {
        maglev(&turns)
    } else {
        rounds(&turns)
    }
}

/// In each round every server whose weight is not yet used up has one turn.
fn rounds(turns: &[(IpAddr, u32)]) -> Vec<IpAddr> {
    let rounds = turns.iter().map(|(_, turns)| *turns).max().unwrap_or(0);
    let round = |round| {
        turns
            .iter()
            .filter(move |(_, turns)| *turns > round)
            .map(|(address, _)| *address)
    };
    (0..rounds).flat_map(round).collect()
}

/// Turns of each real server: its weight by the common divisor, scaled down where the sum is beyond
/// the limit.
fn turns(service: &VirtualService) -> Vec<(IpAddr, u32)> {
    let weights: Vec<(IpAddr, u32)> = service.shares().collect();
    let divisor = weights
        .iter()
        .fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight))
        .max(1);
    let sum = weights
        .iter()
        .map(|(_, weight)| weight / divisor)
        .sum::<u32>();
    let scaled = |turns: u32| {
        if sum <= MAX_SLOTS {
            turns
        } else {
            (turns * MAX_SLOTS / sum).max(1)
        }
    };
    weights
        .into_iter()
        .map(|(address, weight)| (address, scaled(weight / divisor)))
        .collect()
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Maglev's table (Eisenbud et al., NSDI 2016, 3.4): each server goes through all slots in an order
/// of its own and takes the first that is free, as often in a round as its weight says. Few slots
/// change hands when a server comes or goes.
fn maglev(turns: &[(IpAddr, u32)]) -> Vec<IpAddr> {
    if turns.len() < 2 {
        return rounds(turns);
    }
    let mut free: BTreeSet<usize> = (0..MAGLEV_SLOTS).collect();
    let mut table = vec![turns[0].0; MAGLEV_SLOTS];
    let mut places: Vec<usize> = turns
        .iter()
        .map(|(address, _)| hash(*address, 0) % MAGLEV_SLOTS)
        .collect();
    loop {
        for ((address, count), place) in turns.iter().zip(&mut places) {
            let skip = hash(*address, 1) % (MAGLEV_SLOTS - 1) + 1;
            for _ in 0..*count {
                if free.is_empty() {
                    return table;
                }
                while !free.remove(place) {
                    *place = (*place + skip) % MAGLEV_SLOTS;
                }
                table[*place] = *address;
            }
        }
    }
}

/// FNV-1a, and a round of mixing: addresses of a subnet differ in few bits.
fn hash(address: IpAddr, salt: u8) -> usize {
    let octets = nftables::octets(address);
    let sum = octets
        .iter()
        .chain([&salt])
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    ((sum ^ sum >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 33) as usize
}

#[cfg(test)]
mod tests {
    use model::Balance;

    use super::*;

    fn service(scheduler: Scheduler, weights: &[u16]) -> VirtualService {
        let servers = (1..)
            .zip(weights)
            .map(|(low, weight)| (IpAddr::from([10, 0, 0, low]), *weight));
        VirtualService {
            balance: Balance {
                scheduler,
                affinity: None,
            },
            real_servers: servers.collect(),
        }
    }

    fn last_bytes(scheduler: Scheduler, weights: &[u16]) -> Vec<u8> {
        slots(&service(scheduler, weights))
            .iter()
            .map(|address| nftables::octets(*address)[3])
            .collect()
    }

    #[test]
    fn turns_are_spread_and_bounded() {
        assert_eq!(last_bytes(Scheduler::Wrr, &[1, 1, 1]), [1, 2, 3]);
        assert_eq!(
            last_bytes(Scheduler::Wrr, &[30, 10, 0, 20]),
            [1, 2, 4, 1, 4, 1]
        );
        assert_eq!(last_bytes(Scheduler::Rr, &[30, 10, 0, 20]), [1, 2, 4]);
        let unequal = last_bytes(Scheduler::Wrr, &[u16::MAX, u16::MAX - 1, 1]);
        assert!(unequal.len() <= MAX_SLOTS as usize + 3 && unequal.contains(&3));
    }

    #[test]
    fn maglev_is_even_and_keeps_most_slots_when_a_server_goes() {
        let all = last_bytes(Scheduler::Mh, &[1; 5]);
        for server in 1..=5 {
            let share = all.iter().filter(|slot| **slot == server).count();
            assert!((200..=210).contains(&share), "{server}: {share}");
        }
        let left = last_bytes(Scheduler::Mh, &[1, 1, 0, 1, 1]);
        let moved = all
            .iter()
            .zip(&left)
            .filter(|(old, new)| **old != 3 && old != new)
            .count();
        assert!(moved < MAGLEV_SLOTS / 10, "{moved}");
        assert_eq!(last_bytes(Scheduler::Mh, &[0, 7]), [2]);
    }
}
