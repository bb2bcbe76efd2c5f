//! What docs/compatibility.md says was tried is what the tests run on: Debian's packages, those of
//! this machine and those of the roots with other engines.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, process::Command};

use tests::{docker::Generation, run};

/// A package in a table, and its version: `docker.io` 20.10.24.
fn packages(cell: &str) -> Vec<(String, String)> {
    let mut words = cell.split([' ', ',']).filter(|word| !word.is_empty());
    let mut found = Vec::new();
    while let Some(name) = words.next() {
        let package = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'));
        let (Some(package), Some(version)) = (package, words.next()) else {
            panic!("{cell:?} is not `package` version, `package` version");
        };
        found.push((package.to_owned(), version.to_owned()));
    }
    found
}

/// Rows of the tables that have columns `Debian` and `packages`: release and packages.
fn rows(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut columns: Option<(usize, usize)> = None;
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let at = |title: &str| cells.iter().position(|cell| *cell == title);
        if !line.starts_with('|') {
            columns = None;
        } else if let (Some(release), Some(packages)) = (at("Debian"), at("packages")) {
            columns = Some((release, packages));
        } else if let Some((release, list)) = columns
            && !line.starts_with("|-")
        {
            rows.push((cells[release].to_owned(), packages(cells[list])));
        }
    }
    rows
}

/// Versions of what is installed, without epochs and revisions of Debian.
fn installed(generation: Generation) -> Option<BTreeMap<String, String>> {
    let mut query = Command::new("dpkg-query");
    if generation != Generation::Bookworm {
        let state = generation.made()?.join("var/lib/dpkg");
        query.arg(format!("--admindir={}", state.display()));
    }
    query.args(["--show", "--showformat", "${Package} ${Version}\n"]);
    let listed = run(&mut query).ok();
    let upstream = |version: &str| {
        let version = version.split_once(':').map_or(version, |(_, rest)| rest);
        let end = version.find(['+', '-', '~']).unwrap_or(version.len());
        version[..end].to_owned()
    };
    let pairs = listed.lines().filter_map(|line| line.split_once(' '));
    let versions = pairs.map(|(package, version)| (package.to_owned(), upstream(version)));
    Some(versions.collect())
}

fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split('.').map(|part| part.parse().ok());
    parts.map_while(|part| part).collect()
}

#[test]
fn versions_on_the_page_are_those_installed() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    let rows = rows(&fs::read_to_string(page).unwrap());
    let mut wrong = Vec::new();
    for generation in Generation::ALL {
        let suite = generation.suite();
        let of_it = rows.iter().filter(|(release, _)| release == suite);
        let told: Vec<_> = of_it.flat_map(|(_, packages)| packages).collect();
        assert!(!told.is_empty(), "{page} tells nothing of {suite}");
        let Some(installed) = installed(generation) else {
            println!("{suite}: there is no root of it here");
            continue;
        };
        for (package, version) in told {
            let found = installed.get(package).map_or("none", String::as_str);
            let (said, is) = (numbers(version), numbers(found));
            let is_true = match generation {
                Generation::Sid => is >= said,
                _ => !said.is_empty() && is.starts_with(&said),
            };
            if !is_true {
                wrong.push(format!(
                    "{package} of {suite}: {version} stands there, {found} is here"
                ));
            }
        }
    }
    let known = Generation::ALL.map(Generation::suite);
    let strange = rows
        .iter()
        .find(|(release, _)| !known.contains(&release.as_str()));
    assert!(strange.is_none(), "no release that tests know: {strange:?}");
    assert!(wrong.is_empty(), "correct {page}:\n{}", wrong.join("\n"));
}
