//! The architecture invariants and the layout rules, as tests: each fails with its reason and the
//! places that break it.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Who may import whom of our crates: only downward, never sideways. A new arrow is a design
/// change.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("ipam", &["model"]),
    ("dns", &["model"]),
    ("nftables", &[]),
    ("ipvs", &["model", "nftables"]),
    ("rules", &["model", "nftables", "ipvs"]),
    ("dataplane", &["model", "nftables", "ipvs", "rules"]),
    ("agent", &["model", "dns"]),
    ("api", &["model"]),
    ("cluster", &["model", "api"]),
    ("orchestrator", &["model", "ipam"]),
    (
        "netd",
        &[
            "model",
            "api",
            "ipam",
            "dns",
            "nftables",
            "ipvs",
            "rules",
            "dataplane",
            "agent",
            "cluster",
            "orchestrator",
        ],
    ),
    ("cni-plugin", &["model", "api"]),
    ("swarmctl", &["model", "api"]),
    (
        "tests",
        &[
            "model",
            "api",
            "ipam",
            "dns",
            "nftables",
            "ipvs",
            "rules",
            "dataplane",
            "agent",
            "cluster",
            "orchestrator",
            "netd",
            "cni-plugin",
            "swarmctl",
        ],
    ),
];

/// Crates without I/O, clock and chance, and all that they may depend on.
const PURE: &[&str] = &["model", "ipam", "orchestrator"];
const PURE_DEPENDENCIES: &[&str] = &[
    "model",
    "ipam",
    "hkdf",
    "ipnetwork",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
];

/// What a pure crate does not mention: files, sockets, clocks, processes, threads, and maps whose
/// order is chance.
const IMPURE: &str = "
    fs:: env:: process:: thread:: io::stdin TcpStream TcpListener UdpSocket UnixStream UnixListener
    UnixDatagram ToSocketAddrs Instant SystemTime HashMap HashSet RandomState println! eprintln!
";

/// What `cluster` does not mention: it knows Raft, bytes and commands, never networks or services.
const ORCHESTRATION: &str = "
    NetworkSpec NetworkId NetworkConfig NetworkInfo SubnetSpec SubnetLease Subnet Vni ServiceSpec
    ServiceId ServiceInfo VirtualServiceConfig EndpointMode TaskSpec TaskId TaskInfo TaskConfig
    Attachment EndpointId
    EndpointConfig NameConfig
";

/// Crates of others (by prefix) that belong to one part of the system.
const RESERVED: &[(&str, &[&str])] = &[
    ("openraft", &["cluster"]),
    ("redb", &["cluster"]),
    ("crc32fast", &["cluster"]),
    ("hickory-", &["dns", "tests"]),
    ("netlink-", &["dataplane", "nftables", "ipvs"]),
    ("rtnetlink", &["swarmctl"]),
];

/// Crates whose modules import each other in one direction only.
const LAYERED: &[&str] = &["orchestrator"];

/// Where a netlink socket may be opened: in one file below each of these.
const NETLINK: &[&str] = &[
    "dataplane/src/channel",
    "dataplane/src/xfrm",
    "dataplane/src/namespace",
    "nftables/src",
    "swarmctl/src/lab",
];

/// Files that lift the ban on `unsafe`, each audited, with the reason at its top.
const UNSAFE: &[&str] = &[];

/// Where lines of more than [`COLUMNS`] columns are left. The list only shrinks.
const WIDE: &[&str] = &["cluster/src/error.rs", "cluster/src/link.rs", "dataplane/"];

/// The longest line of a source, in characters; rustfmt leaves strings and comments alone.
const COLUMNS: usize = 100;
/// The longest line of prose in Markdown, in characters.
const PROSE_COLUMNS: usize = 120;
/// The longest name of a test, in characters.
const TEST_NAME: usize = 60;

/// File names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager",
];

#[test]
fn crates_import_only_what_lies_below_them() {
    let levels: BTreeMap<_, _> = IMPORTS.iter().copied().collect();
    let ours: BTreeSet<&str> = IMPORTS.iter().map(|(name, _)| *name).collect();
    let mut broken = Vec::new();
    for manifest in manifests() {
        let Some(allowed) = levels.get(manifest.package.as_str()) else {
            broken.push(format!(
                "{}: no level is known for this crate",
                manifest.path
            ));
            continue;
        };
        let arrows = manifest
            .shipped()
            .filter(|dependency| ours.contains(dependency.name.as_str()));
        let upward = arrows.filter(|dependency| !allowed.contains(&dependency.name.as_str()));
        broken.extend(upward.map(|dependency| format!("{}: {}", manifest.path, dependency.line)));
    }
    assert_none(
        "a crate imports only crates of lower levels (ARCHITECTURE.md)",
        broken,
    );
}

#[test]
fn pure_crates_depend_on_nothing_that_does_io() {
    let mut broken = Vec::new();
    for manifest in manifests()
        .iter()
        .filter(|manifest| PURE.contains(&manifest.package.as_str()))
    {
        let foreign = manifest
            .shipped()
            .filter(|dependency| !PURE_DEPENDENCIES.contains(&dependency.name.as_str()));
        broken.extend(foreign.map(|dependency| format!("{}: {}", manifest.path, dependency.line)));
    }
    assert_none(
        "model, ipam and orchestrator give the same result everywhere: no runtime, sockets, chance",
        broken,
    );
}

#[test]
fn pure_crates_touch_no_file_socket_clock_or_chance() {
    let pure = |source: &Source| PURE.contains(&source.package());
    assert_none(
        "a pure crate takes time and chance as arguments and leaves I/O to others",
        mentions(pure, IMPURE),
    );
}

#[test]
fn the_cluster_knows_commands_and_bytes_only() {
    let cluster = |source: &Source| source.package() == "cluster";
    assert_none(
        "cluster knows Raft, bytes and commands, never networks or services",
        mentions(cluster, ORCHESTRATION),
    );
}

#[test]
fn modules_of_layered_crates_form_no_circle() {
    let circles = LAYERED.iter().flat_map(|package| circle(package));
    assert_none(
        "what modules of a layered crate import imports nothing of theirs",
        circles.collect(),
    );
}

#[test]
fn only_its_watcher_asks_an_engine() {
    let others = |source: &Source| {
        source.path.starts_with("netd/src/docker/")
            && !["watch.rs", "engine.rs", "mod.rs"]
                .iter()
                .any(|file| source.path.ends_with(file))
    };
    let rule =
        "an engine holds locks while it calls its plugin: a method that asks it waits for itself";
    assert_none(rule, mentions(others, "inventory inspect Inventory Events"));
}

#[test]
fn each_protocol_stack_belongs_to_one_part() {
    let mut broken = Vec::new();
    for manifest in manifests()
        .iter()
        .filter(|manifest| manifest.package != "tests")
    {
        let elsewhere = manifest.dependencies.iter().filter(|dependency| {
            let reserved = RESERVED
                .iter()
                .filter(|(prefix, _)| dependency.name.starts_with(prefix));
            reserved
                .into_iter()
                .any(|(_, owners)| !owners.contains(&manifest.package.as_str()))
        });
        broken
            .extend(elsewhere.map(|dependency| format!("{}: {}", manifest.path, dependency.line)));
    }
    assert_none(
        "Raft is cluster's, DNS dns's, netlink nftables', ipvs' and dataplane's (and the lab's)",
        broken,
    );
}

#[test]
fn netlink_sockets_are_opened_in_one_module_of_each_owner() {
    let opening: Vec<Source> = sources()
        .into_iter()
        .filter(|source| source.is_shipped() && opens_netlink(source))
        .collect();
    let place = |source: &Source| NETLINK.iter().find(|place| source.path.starts_with(*place));
    let mut broken: Vec<String> = opening
        .iter()
        .filter(|source| place(source).is_none())
        .map(|source| source.path.clone())
        .collect();
    for owner in NETLINK {
        let files: Vec<&str> = opening
            .iter()
            .filter(|s| place(s) == Some(owner))
            .map(|s| s.path.as_str())
            .collect();
        if files.len() > 1 {
            broken.push(format!(
                "more than one file below {owner}: {}",
                files.join(", ")
            ));
        }
    }
    assert_none(
        "the kernel is reached through one module of each owner, so that plans stay values",
        broken,
    );
}

#[test]
fn every_source_says_at_its_top_what_lives_there() {
    let silent = sources().into_iter().filter(|source| {
        let head = source
            .text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//! "));
        head.is_none_or(|head| head.trim() == "placeholder")
    });
    assert_none(
        "the first line of a file is `//! ` and what lives in it",
        silent.map(|source| source.path).collect(),
    );
}

#[test]
fn versions_and_lints_live_in_the_workspace_manifest_only() {
    let mut broken = Vec::new();
    for manifest in manifests() {
        let own = manifest
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_inherited());
        broken.extend(own.map(|dependency| format!("{}: {}", manifest.path, dependency.line)));
        for inherited in [
            "version.workspace = true",
            "edition.workspace = true",
            "[lints]\nworkspace = true",
        ] {
            if !manifest.text.contains(inherited) {
                broken.push(format!("{}: lacks {inherited:?}", manifest.path));
            }
        }
    }
    assert_none(
        "`NAME.workspace = true`: one version of each crate, one set of lints",
        broken,
    );
}

#[test]
fn unsafe_code_is_in_audited_files_only() {
    let with_unsafe: BTreeSet<String> = sources()
        .into_iter()
        .filter(|source| {
            source
                .code()
                .any(|(_, line)| word(&line, "unsafe") || word(&line, "unsafe_code"))
        })
        .map(|source| source.path)
        .collect();
    let audited: BTreeSet<String> = UNSAFE.iter().map(|&path| path.to_owned()).collect();
    let broken = with_unsafe
        .symmetric_difference(&audited)
        .cloned()
        .collect();
    assert_none(
        "unsafe code is denied; UNSAFE in this file lists the audited exceptions, and no more than \
         those",
        broken,
    );
}

#[test]
fn file_names_say_what_is_inside() {
    let empty = |path: &str| {
        let parts = Path::new(path).with_extension("");
        parts.iter().any(|part| {
            part.to_str()
                .is_some_and(|part| EMPTY_NAMES.contains(&part))
        })
    };
    let named: Vec<String> = sources()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| empty(path))
        .collect();
    assert_none("a file is called after what it holds", named);
}

#[test]
fn lines_of_sources_fit_a_hundred_columns() {
    let checked = sources()
        .into_iter()
        .filter(|source| !WIDE.iter().any(|place| source.path.starts_with(place)));
    let long = checked.flat_map(|source| too_long(&source, COLUMNS, |_| true));
    assert_none(
        "a line has at most 100 columns, strings and comments too",
        long.collect(),
    );
}

#[test]
fn lines_of_prose_fit_a_hundred_and_twenty_columns() {
    let is_prose = |line: &str| !line.starts_with(['|', '#', ' ']) && !line.starts_with("```");
    let pages = texts()
        .into_iter()
        .filter(|file| file.path.ends_with(".md"));
    let long = pages.flat_map(|page| too_long(&page, PROSE_COLUMNS, is_prose));
    assert_none(
        "a line of prose has at most 120 columns; tables and drawings may be wider",
        long.collect(),
    );
}

#[test]
fn names_of_tests_are_short_and_begin_with_their_subject() {
    let mut broken = Vec::new();
    for source in sources() {
        for name in test_names(&source.text) {
            let has_no_subject = name.starts_with("who_") || name.starts_with("what_");
            if has_no_subject || name.len() > TEST_NAME {
                broken.push(format!("{}: {name}", source.path));
            }
        }
    }
    assert_none(
        "a test's name says its subject first, in at most 60 characters",
        broken,
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not hold them.
    let macros = ["todo", "unimplemented"].map(|word| format!("{word}!"));
    let notes = [["TO", "DO"], ["FIX", "ME"]].map(|halves| halves.concat());
    let mut broken = Vec::new();
    for file in texts() {
        let is_code = !file.path.ends_with(".md");
        for (number, line) in (1..).zip(file.text.lines()) {
            let lower = line.to_lowercase();
            let left = macros.iter().any(|word| lower.contains(word))
                || is_code && notes.iter().any(|note| word(line, note));
            if left {
                broken.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("what is there works; what is missing is an issue", broken);
}

#[test]
fn only_printers_put_a_next_step_into_text() {
    let marks = ["\"", "; ", "\\n  "].map(|before| format!("{before}next: "));
    let printers = ["model/src/failure.rs", "swarmctl/src/verbs/verify.rs"];
    let mut broken = Vec::new();
    for source in sources() {
        if !source.is_shipped() || printers.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in (1..).zip(source.untested().lines()) {
            let is_comment = line.trim_start().starts_with("//");
            if !is_comment && marks.iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(
        "what to do next is a field of a failure: nobody glues it to a cause, nobody cuts it out",
        broken,
    );
}

#[test]
fn log_lines_keep_the_name_of_the_module_that_writes_them() {
    let macros = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
    let named = |line: &str| {
        let mut logging = macros.iter().filter_map(|name| line.split_once(name));
        logging.any(|(_, rest)| rest.trim_start().starts_with("target:"))
    };
    let shipped = sources().into_iter().filter(Source::is_shipped);
    assert_none(
        "the filter in NETD_LOG finds a line by its module; other targets are of a debugging hour",
        shipped.flat_map(|source| source.lines(named)).collect(),
    );
}

#[test]
fn no_test_is_switched_off() {
    let lines = sources()
        .into_iter()
        .flat_map(|source| source.lines(|line| line.contains("#[ignore")));
    assert_none(
        "a test that does not run proves nothing: mend or delete it",
        lines.collect(),
    );
}

#[test]
fn every_crate_warns_of_what_nobody_outside_can_use() {
    let is_root = |source: &Source| source.is_shipped() && source.path.ends_with("/src/lib.rs");
    let roots = sources().into_iter().filter(is_root);
    let silent = roots.filter(|root| !root.text.contains("#![warn(unreachable_pub)]"));
    assert_none(
        "what is `pub` is what other crates use: the root says `#![warn(unreachable_pub)]`",
        silent.map(|root| root.path).collect(),
    );
}

#[test]
fn errors_of_shipped_code_have_types() {
    let is_text = |line: &str| {
        let found = line.split_once("Result<").map(|(_, rest)| rest);
        found.is_some_and(|rest| rest.contains(", String>") && !rest.contains("Map<"))
    };
    let shipped = sources().into_iter().filter(Source::is_shipped);
    assert_none(
        "a text is no error: its reader cannot tell the causes apart",
        shipped.flat_map(|source| source.lines(is_text)).collect(),
    );
}

#[test]
fn comments_and_strings_are_no_code() {
    let lines = [
        "a(\"fs::\\\"x\") // fs::",
        "/// fs::",
        "let url = \"http://x\"; fs::read()",
    ];
    assert_eq!(lines.map(code), ["a() ", "", "let url = ; fs::read()"]);
    assert!(
        word("std::fs::read", "fs::")
            && !word("nfs::read", "fs::")
            && !word("InstantRun", "Instant")
    );
}

fn assert_none(rule: &str, broken: Vec<String>) {
    assert!(
        broken.is_empty(),
        "\n{rule}; broken by\n  {}\n",
        broken.join("\n  ")
    );
}

/// The shipped code of some crates where it mentions one of these words, which white space
/// separates.
fn mentions(of: impl Fn(&Source) -> bool, words: &str) -> Vec<String> {
    let shipped = sources()
        .into_iter()
        .filter(|source| source.is_shipped() && of(source));
    let places = shipped.flat_map(|source| {
        source.lines(|line| words.split_whitespace().any(|token| word(line, token)))
    });
    places.collect()
}

/// The lines of a file with more characters than that, of those that count.
fn too_long(file: &Source, columns: usize, counts: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = (1..).zip(file.text.lines());
    let long = lines.filter(|(_, line)| counts(line) && line.chars().count() > columns);
    long.map(|(number, _)| format!("{}:{number}", file.path))
        .collect()
}

/// The functions that stand below `#[test]` and the like.
fn test_names(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        let declared = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ");
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = declared.filter(|_| is_test) {
            found.extend(name.split(['(', '<']).next());
            is_test = false;
        }
    }
    found
}

/// The modules of a crate that import each other, with what each imports of the others.
fn circle(package: &str) -> Vec<String> {
    let folder = format!("{package}/src/");
    let files = sources().into_iter().filter_map(|source| {
        let file = source.path.strip_prefix(&folder)?;
        let module = file.strip_suffix(".rs")?.replace('/', "::");
        let code: Vec<String> = source.code().map(|(_, line)| line).collect();
        Some((module, code.join(" ").replace(char::is_whitespace, "")))
    });
    let files: BTreeMap<String, String> = files.filter(|(module, _)| module != "lib").collect();
    let modules: BTreeSet<String> = files.keys().cloned().collect();
    let mut arrows: BTreeMap<String, BTreeSet<String>> = files
        .iter()
        .map(|(module, code)| (module.clone(), imports(module, code, &modules)))
        .collect();
    loop {
        let known: BTreeSet<String> = arrows.keys().cloned().collect();
        let imported: BTreeSet<String> = arrows.values().flatten().cloned().collect();
        for of_module in arrows.values_mut() {
            of_module.retain(|other| known.contains(other));
        }
        arrows.retain(|module, of_module| !of_module.is_empty() && imported.contains(module));
        if arrows.len() == known.len() {
            break;
        }
    }
    let shown = |(module, of_module): (&String, &BTreeSet<String>)| {
        let of_module: Vec<&str> = of_module.iter().map(String::as_str).collect();
        format!("{package}: {module} imports {}", of_module.join(", "))
    };
    arrows.iter().map(shown).collect()
}

/// The modules of its crate that a module's code, without spaces, names.
fn imports(module: &str, code: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    for (root, base) in [("crate::", ""), ("super::", parent)] {
        for tree in code.split(root).skip(1) {
            for path in paths(tree) {
                let words = [base.split("::"), path.split("::")].into_iter().flatten();
                let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
                let prefixes = (1..=words.len()).rev().map(|end| words[..end].join("::"));
                found.extend(prefixes.into_iter().find(|path| modules.contains(path)));
            }
        }
    }
    // A module names what is in its own folder without a root.
    let folder = module.strip_suffix("::mod").unwrap_or(module);
    let below = modules.iter().filter_map(|other| {
        let name = other.strip_prefix(folder)?.strip_prefix("::")?;
        names(code, name).then(|| other.clone())
    });
    found.extend(below);
    found.remove(module);
    found
}

/// Whether code, without spaces, has a path that begins with this name.
fn names(code: &str, name: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let path = format!("{name}::");
    let mut found = code.match_indices(&path);
    found.any(|(at, _)| !code[..at].ends_with(is_part))
}

/// The paths of a use tree that code begins with: `a::{b,c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let end = tree.find(|letter| !is_path(letter)).unwrap_or(tree.len());
    let (head, rest) = tree.split_at(end);
    let is_tree = head.is_empty() || head.ends_with("::");
    if !is_tree || !rest.starts_with('{') {
        return vec![head.to_owned()];
    }
    let (mut depth, mut start) = (0, 1);
    let mut found = Vec::new();
    for (index, letter) in rest.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || depth == 1 && letter == ',' {
            let inner = paths(&rest[start..index]);
            found.extend(inner.into_iter().map(|path| format!("{head}{path}")));
            start = index + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn opens_netlink(source: &Source) -> bool {
    let knows_sockets =
        source.text.contains("netlink_sys") || source.text.contains("nix::sys::socket");
    source.code().any(|(_, line)| {
        let opens_raw = line.contains("Socket::new(") || line.contains("AddressFamily::Netlink");
        line.contains("new_connection")
            || line.contains("new_multicast_connection")
            || knows_sockets && opens_raw
    })
}

/// Whether `token` stands in `line` and is not part of a longer identifier.
fn word(line: &str, token: &str) -> bool {
    let part = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(token).any(|(start, _)| {
        let (before, after) = (
            line[..start].chars().next_back(),
            line[start + token.len()..].chars().next(),
        );
        !(part(before) || part(token.chars().next_back()) && part(after))
    })
}

/// A text file of the repository, its path relative to the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The folder of the crate that it belongs to, which is the crate's name.
    fn package(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether it is part of a library or binary that users get, not of a test.
    fn is_shipped(&self) -> bool {
        let mut parts = self.path.split('/').skip(1);
        let is_source = parts.next() == Some("src") && self.package() != "tests";
        is_source && !parts.any(|part| part == "tests" || part == "tests.rs")
    }

    /// All up to the tests at the end of the file.
    fn untested(&self) -> &str {
        let tests = self.text.find("#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    /// Numbered lines without comments and the insides of strings, up to the tests at the end of
    /// the file.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        (1..).zip(self.untested().lines().map(code))
    }

    /// Where its code matches, for people.
    fn lines(&self, matches: impl Fn(&str) -> bool) -> Vec<String> {
        let found = self.code().filter(|(_, line)| matches(line));
        found
            .map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

/// The line up to a `//`, without what its strings hold.
fn code(line: &str) -> String {
    let mut outside = String::new();
    for (index, part) in line.replace("\\\"", "").split('"').enumerate() {
        if index % 2 == 1 {
            continue;
        }
        match part.split_once("//") {
            Some((code, _comment)) => return outside + code,
            None => outside.push_str(part),
        }
    }
    outside
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn sources() -> Vec<Source> {
    texts()
        .into_iter()
        .filter(|source| source.path.ends_with(".rs"))
        .collect()
}

/// Every text file of the repository, by path.
fn texts() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        Some(Source {
            path: path.strip_prefix(&root).ok()?.to_str()?.to_owned(),
            text,
        })
    };
    paths.into_iter().filter_map(read).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if !entry.file_type().unwrap().is_dir() {
            found.push(path);
        } else if name != "target" && name != ".git" {
            walk(&path, found);
        }
    }
}

/// The manifest of one of our crates.
struct Manifest {
    path: String,
    package: String,
    text: String,
    dependencies: Vec<Dependency>,
}

impl Manifest {
    /// Dependencies of what is shipped: tests and benchmarks may need more.
    fn shipped(&self) -> impl Iterator<Item = &Dependency> {
        let dependencies = self.dependencies.iter();
        dependencies.filter(|dependency| dependency.section != "dev-dependencies")
    }
}

struct Dependency {
    section: String,
    name: String,
    line: String,
}

impl Dependency {
    fn is_inherited(&self) -> bool {
        let own = ["version", "path", "git"]
            .iter()
            .any(|key| word(&self.line, key));
        self.line.contains("workspace = true") && !own
    }
}

fn manifests() -> Vec<Manifest> {
    // A fuzz target takes another compiler and is no part of the workspace.
    let is_member = |file: &Source| {
        file.path.ends_with("/Cargo.toml") && !file.path.ends_with("/fuzz/Cargo.toml")
    };
    let files = texts().into_iter().filter(is_member);
    files
        .map(|Source { path, text }| {
            let package = path.split('/').next().unwrap_or_default().to_owned();
            Manifest {
                dependencies: dependencies(&text),
                path,
                package,
                text,
            }
        })
        .collect()
}

/// One per line, as this workspace writes them; `[dependencies.NAME]` counts as a line of its own.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = header.to_owned();
            if let Some((parent, name)) = header.rsplit_once("dependencies.") {
                let section = format!("{parent}dependencies");
                found.push(Dependency {
                    section,
                    name: name.to_owned(),
                    line: line.to_owned(),
                });
            }
        } else if section.ends_with("dependencies") && !line.starts_with('#') && line.contains('=')
        {
            let name = line
                .split(['.', '=', ' '])
                .next()
                .unwrap_or_default()
                .to_owned();
            found.push(Dependency {
                section: section.clone(),
                name,
                line: line.to_owned(),
            });
        }
    }
    found
}
