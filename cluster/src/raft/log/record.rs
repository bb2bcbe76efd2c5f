//! The format of the log's files: records one after the other, each with a header. No I/O.
//!
//! | bytes | of the header, little-endian |
//! |---|---|
//! | 0-3 | length of the body |
//! | 4 | kind |
//! | 5-7 | zero |
//! | 8-15 | index of the entry that the record is about |
//! | 16-19 | how much of the file was on the disk when this record was written |
//! | 20-23 | CRC-32 of the body |
//! | 24-27 | CRC-32 of the header before it |
//!
//! Bytes 16-19 tell a write that a power cut ended from damage. Where a later record says that the
//! bytes of an unreadable one were on the disk, those had been acknowledged and are lost.

use std::fmt;

/// Bytes of a header.
pub(super) const HEADER: usize = 28;
const KINDS: [Kind; 7] = [
    Kind::Head,
    Kind::Entry,
    Kind::Vote,
    Kind::Committed,
    Kind::Purged,
    Kind::Truncated,
    Kind::Closed,
];

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first record of a segment: where the log stood when the segment was begun.
    Head = 1,
    /// An entry of the log.
    Entry,
    /// Whom this manager votes for.
    Vote,
    /// The last entry known to be committed.
    Committed,
    /// Entries up to this one are in a snapshot, and no longer in the log.
    Purged,
    /// Entries from this index on are no longer in the log, and it comes next.
    Truncated,
    /// The last record of a segment: the next segment is on the disk.
    Closed,
}

/// A record as it stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub kind: Kind,
    /// The index of the entry that it is about; 0 where it is about none.
    pub index: u64,
    /// How much of the file was on the disk when this was written.
    pub flushed: u32,
    pub body: &'a [u8],
}

/// Why there is no record at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The file ends before the record does.
    Short,
    /// These bytes are not the header of a record.
    Header,
    /// The body is not the one that was written.
    Body,
}

impl fmt::Display for Flaw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Short => "the file ends within a record",
            Self::Header => "the header of a record has another checksum",
            Self::Body => "the body of a record has another checksum",
        })
    }
}

/// A body that does not fit into a record.
#[derive(Debug, thiserror::Error)]
#[error("a record of the log has {0} bytes, and may have 4 GiB")]
pub(super) struct TooLarge(usize);

impl Record<'_> {
    /// Bytes of the record in a file.
    pub(super) fn bytes(&self) -> usize {
        HEADER + self.body.len()
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) -> Result<(), TooLarge> {
        let length = u32::try_from(self.body.len()).map_err(|_| TooLarge(self.body.len()))?;
        let start = to.len();
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        to.extend_from_slice(&self.index.to_le_bytes());
        to.extend_from_slice(&self.flushed.to_le_bytes());
        to.extend_from_slice(&crc32fast::hash(self.body).to_le_bytes());
        let checksum = crc32fast::hash(&to[start..]);
        to.extend_from_slice(&checksum.to_le_bytes());
        to.extend_from_slice(self.body);
        Ok(())
    }
}

struct Header {
    kind: Kind,
    length: usize,
    index: u64,
    flushed: u32,
    checksum: u32,
}

fn header(bytes: &[u8; HEADER]) -> Option<Header> {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    if bytes[5..8] != [0; 3] {
        return None;
    }
    let kind = KINDS.into_iter().find(|kind| *kind as u8 == bytes[4])?;
    if crc32fast::hash(&bytes[..24]) != word(24) {
        return None;
    }
    Some(Header {
        kind,
        length: word(0) as usize,
        index: u64::from(word(8)) | u64::from(word(12)) << 32,
        flushed: word(16),
        checksum: word(20),
    })
}

/// The record that these bytes begin with.
pub(super) fn read(bytes: &[u8]) -> Result<Record<'_>, Flaw> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Flaw::Short)?;
    let header = header(head).ok_or(Flaw::Header)?;
    let body = rest.get(..header.length).ok_or(Flaw::Short)?;
    if crc32fast::hash(body) != header.checksum {
        return Err(Flaw::Body);
    }
    Ok(Record {
        kind: header.kind,
        index: header.index,
        flushed: header.flushed,
        body,
    })
}

/// Where a later record stands that says that byte `at` was on the disk when it was written.
pub(super) fn acknowledgement(bytes: &[u8], at: usize) -> Option<usize> {
    let is_one = |place: &usize| {
        bytes[*place..]
            .first_chunk()
            .and_then(header)
            .is_some_and(|header| header.flushed as usize > at)
    };
    (at..used(bytes)).find(is_one)
}

/// The length of a file without the zeros at its end.
pub(super) fn used(bytes: &[u8]) -> usize {
    const BLOCK: usize = 4096;
    let mut blocks = bytes.chunks(BLOCK);
    let last = blocks
        .rposition(|block| block != &[0; BLOCK][..block.len()])
        .unwrap_or(0);
    let start = last * BLOCK;
    let is_used = |&byte: &u8| byte != 0;
    let mut rest = bytes[start..].iter().take(BLOCK);
    rest.rposition(is_used).map_or(start, |at| start + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record<'static> = Record {
        kind: Kind::Entry,
        index: 1 << 40 | 7,
        flushed: 300,
        body: b"{\"a\":1}",
    };

    fn written(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let mut bytes = written(&RECORD);
        assert_eq!(bytes.len(), RECORD.bytes());
        bytes.extend_from_slice(b"more");
        assert_eq!(read(&bytes), Ok(RECORD));
    }

    #[test]
    fn a_record_that_is_cut_or_changed_anywhere_has_a_flaw() {
        let bytes = written(&RECORD);
        for at in 0..bytes.len() {
            assert_eq!(read(&bytes[..at]), Err(Flaw::Short));
            for bit in 0..8 {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1 << bit;
                let flaw = if at < HEADER {
                    Flaw::Header
                } else {
                    Flaw::Body
                };
                assert_eq!(read(&spoilt), Err(flaw), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn the_format_does_not_change() {
        let expected = [
            7, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 1, 0, 0, 44, 1, 0, 0, 175, 172, 27, 86, 207, 66,
            154, 130,
        ];
        let bytes = written(&RECORD);
        assert_eq!(bytes[..HEADER], expected);
        assert_eq!(bytes[HEADER..], *RECORD.body);
    }

    #[test]
    fn an_acknowledgement_is_found_behind_damage() {
        let mut bytes = vec![1; 50];
        bytes.extend(written(&Record {
            flushed: 10,
            ..RECORD
        }));
        let after = bytes.len();
        bytes.extend(written(&Record {
            flushed: 11,
            ..RECORD
        }));
        bytes.extend([0; 10_000]);
        assert_eq!(acknowledgement(&bytes, 9), Some(50));
        assert_eq!(acknowledgement(&bytes, 10), Some(after));
        assert_eq!(acknowledgement(&bytes, 11), None);
    }

    #[test]
    fn zeros_at_the_end_of_a_file_are_not_used() {
        assert_eq!(used(&[]), 0);
        assert_eq!(used(&[0; 9_000]), 0);
        for at in [0, 1, 4_095, 4_096, 8_999] {
            let mut bytes = vec![0; 9_000];
            bytes[at] = 1;
            assert_eq!(used(&bytes), at + 1);
        }
    }
}
