//! How a failure is told: as text or as JSON on standard error, and by the exit code. What each
//! means is in docs/errors.md.

use std::sync::OnceLock;

use anyhow::Error;
use clap::ValueEnum;
use model::{Failure, Kind};
use serde_json::{Value, json};

/// The exit code of what is no [`Failure`], and of checks that found something.
pub(crate) const FAILED: u8 = 1;

/// How failures are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Telling {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How this process tells its failures: known once its command line has been read.
static TELLING: OnceLock<Telling> = OnceLock::new();

/// Failures are told like this from now on. Only the first choice counts.
pub(crate) fn tell_as(telling: Telling) {
    let _ = TELLING.set(telling);
}

/// Tells a failure on standard error; its exit code.
pub(crate) fn tell(error: &Error) -> u8 {
    let told = match TELLING.get() {
        Some(Telling::Json) => json(error).to_string(),
        Some(Telling::Text) | None => format!("Error: {}", in_full(error)),
    };
    eprintln!("{told}");
    exit_code(error)
}

/// Tells what is wrong with a command line, or what was asked of it instead, such as its help.
pub(crate) fn usage(error: &clap::Error) -> u8 {
    let is_wrong = error.use_stderr();
    if is_wrong && TELLING.get() == Some(&Telling::Json) {
        let said = error.render().to_string();
        let cause = said.lines().next().unwrap_or_default();
        let cause = cause.strip_prefix("error: ").unwrap_or(cause);
        let next = "`swarmctl --help` and `swarmctl VERB --help` show what there is";
        return tell(
            &Failure::new(Kind::Invalid, cause, next)
                .about("command line")
                .into(),
        );
    }
    // Nobody is left to tell where it cannot be printed.
    let _ = error.print();
    u8::try_from(error.exit_code()).unwrap_or(FAILED)
}

/// The same, of one of several nodes.
pub(crate) fn tell_of(node: &str, failure: Failure) -> u8 {
    let cause = format!("{node}: {}", failure.cause);
    tell(
        &Failure { cause, ..failure }
            .about(format!("node {node}"))
            .into(),
    )
}

/// The failure that an error is, in fields; none of a lab's, which are text.
pub(crate) fn failure(error: &Error) -> Option<&Failure> {
    error.downcast_ref()
}

/// A failure that says what it is about.
pub(crate) fn about(object: &str, error: Error) -> Error {
    match error.downcast::<Failure>() {
        Ok(failure) => failure.about(object).into(),
        Err(error) => error,
    }
}

fn exit_code(error: &Error) -> u8 {
    failure(error).map_or(FAILED, |failure| failure.kind.exit_code())
}

/// All that an error says, for people.
pub(crate) fn in_full(error: &Error) -> String {
    failure(error).map_or_else(|| format!("{error:#}"), Failure::in_full)
}

fn json(error: &Error) -> Value {
    let Some(failure) = failure(error) else {
        let cause = format!("{error:#}");
        let error = json!({"kind": "failed", "object": "swarmctl", "cause": cause, "next": ""});
        return json!({ "error": error });
    };
    let Failure {
        kind,
        object,
        cause,
        next,
        errno,
    } = failure.clone().about("swarmctl");
    let mut told = json!({"kind": kind, "object": object, "cause": cause, "next": next});
    if let Some(errno) = errno {
        told["errno"] = errno.into();
    }
    json!({ "error": told })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_failure_as_json_has_all_its_fields() {
        for kind in Kind::ALL {
            let failure = Failure::new(kind, "it is taken", "choose another").about("network web");
            let told = json(&failure.into());
            let expected = json!({"error": {"kind": kind, "object": "network web",
                "cause": "it is taken", "next": "choose another"}});
            assert_eq!(told, expected);
        }
        let refused = Failure::new(Kind::Denied, "no", "ask").with_errno(Some(13));
        for error in [refused.into(), anyhow::anyhow!("a lab fails")] {
            let told = json(&error);
            for field in ["kind", "object", "cause"] {
                assert_ne!(told["error"][field].as_str().unwrap(), "", "{field}");
            }
            assert!(told["error"]["next"].is_string());
        }
    }

    #[test]
    fn as_text_the_next_step_has_its_own_line() {
        let failure = Failure::new(Kind::Conflict, "it is taken", "choose another");
        let told = in_full(&failure.into());
        assert_eq!(told, "it is taken\n  next: choose another");
    }

    #[test]
    fn each_kind_has_an_exit_code_of_its_own_that_the_table_lists() {
        let table = include_str!("../../docs/errors.md");
        let codes: BTreeSet<u8> = Kind::ALL.into_iter().map(Kind::exit_code).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(!codes.contains(&0) && !codes.contains(&FAILED));
        for kind in Kind::ALL {
            let row = format!("| {} | `{kind}` |", kind.exit_code());
            assert!(table.contains(&row), "{row}");
        }
    }
}
