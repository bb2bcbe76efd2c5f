//! Rule sets in network namespaces of their own, one per test, gone afterwards.

#![allow(dead_code)]

use std::{process::Command, thread};

use nftables::{Ruleset, Socket, apply, difference, observe};
use nix::sched::{CloneFlags, unshare};

/// Makes the kernel hold a rule set.
pub fn put(socket: &mut Socket, desired: &Ruleset) {
    let observed = observe(socket, desired.family, &desired.name).unwrap();
    if let Some(change) = difference(Some(desired), observed.as_ref()) {
        apply(socket, &change).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What is read back is what was written.
pub fn assert_settled(socket: &mut Socket, desired: &Ruleset) {
    let observed = observe(socket, desired.family, &desired.name).unwrap();
    assert_eq!(observed.as_ref(), Some(desired));
    assert_eq!(difference(Some(desired), observed.as_ref()), None);
}

/// Runs a test in a fresh network namespace of its own.
pub fn in_fresh_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            test()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a program; it must succeed.
pub fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Gives the `nft` program one script; it must succeed.
pub fn nft(script: &str) -> String {
    let output = Command::new("nft").arg(script).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
