//! Malformed and hostile queries: the corpus of the fuzzer, every way to cut it or to change a byte
//! of it, and noise.

#![allow(clippy::unwrap_used)]

#[path = "hostile/rules.rs"]
mod rules;

use std::{fs, path::Path};

use proptest::prelude::*;

/// The queries that fuzzing starts from.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/query");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| fs::read(file.unwrap().path()).unwrap());
    let corpus: Vec<_> = files.collect();
    assert!(corpus.len() > 20, "the corpus has been lost");
    corpus
}

#[test]
fn every_query_of_the_corpus_gets_what_is_due() {
    corpus().iter().for_each(|query| rules::holds(query));
}

#[test]
fn so_does_every_beginning_of_one() {
    for query in corpus() {
        (0..query.len()).for_each(|end| rules::holds(&query[..end]));
    }
}

#[test]
fn so_does_every_change_of_one_byte() {
    for mut query in corpus() {
        for index in 0..query.len() {
            let kept = query[index];
            for value in [
                0,
                1,
                12,
                0x3f,
                0x40,
                0x80,
                0xc0,
                0xff,
                kept ^ 1,
                kept ^ 0x20,
            ] {
                query[index] = value;
                rules::holds(&query);
            }
            query[index] = kept;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn so_does_noise(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        rules::holds(&bytes);
    }

    #[test]
    fn so_do_pieces_of_queries_put_together(
        parts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0usize..80, 0usize..80),
            1..5,
        ),
    ) {
        let all = corpus();
        let piece = |(index, from, length): &(prop::sample::Index, usize, usize)| {
            let whole = index.get(&all);
            let from = (*from).min(whole.len());
            whole[from..whole.len().min(from + length)].to_vec()
        };
        rules::holds(&parts.iter().flat_map(piece).collect::<Vec<u8>>());
    }
}
