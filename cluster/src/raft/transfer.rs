//! A snapshot on its way from a leader, part by part. openraft would end where one that is whole
//! cannot be read.

use std::io::Cursor;

use model::{NodeId, StateMachine};
use openraft::{
    Snapshot, SnapshotSegmentId,
    error::{Fatal, InstallSnapshotError, RaftError, SnapshotMismatch},
    raft::{InstallSnapshotRequest, InstallSnapshotResponse},
};

use super::{Consensus, Types, plausible::Implausible};

/// The largest snapshot that is taken, in bytes. It is held in memory, as the state is.
const SNAPSHOT_BYTES: u64 = 1 << 30;

/// What has come so far.
#[derive(Default)]
pub(super) struct Incoming {
    /// Who sends which snapshot.
    source: Option<(NodeId, String)>,
    bytes: Vec<u8>,
}

type Answer = Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>;

impl Incoming {
    /// Adds a part. `false`: it does not follow the parts that have come.
    fn take(&mut self, from: NodeId, call: &InstallSnapshotRequest<Types>) -> bool {
        let source = (from, call.meta.snapshot_id.clone());
        if self.source.as_ref() != Some(&source) {
            *self = Self {
                source: Some(source),
                bytes: Vec::new(),
            };
        }
        match usize::try_from(call.offset) {
            // A part that comes again replaces what it was.
            Ok(offset) if offset <= self.bytes.len() => self.bytes.truncate(offset),
            _ => return false,
        }
        self.bytes.extend_from_slice(&call.data);
        true
    }
}

impl<S: StateMachine> Consensus<S> {
    /// A leader, by its certificate, sends a part of a snapshot; the last one installs it.
    pub(crate) async fn take_snapshot(
        &self,
        from: NodeId,
        call: InstallSnapshotRequest<Types>,
    ) -> Result<Answer, Implausible> {
        let mut incoming = self.incoming.lock().await;
        let own = match self
            .standing
            .judge_snapshot(from, &call.vote, &call.meta)
            .await?
        {
            Ok(own) => own,
            Err(error) => return Ok(Err(fatal(error))),
        };
        if call.vote < own {
            return Ok(Ok(InstallSnapshotResponse { vote: own }));
        }
        let end = call.offset.saturating_add(call.data.len() as u64);
        if end > SNAPSHOT_BYTES {
            return Err(Implausible::of(from, "its snapshot has more than 1 GiB"));
        }
        if !incoming.take(from, &call) {
            return Ok(Err(RaftError::APIError(out_of_order(
                &call,
                incoming.bytes.len(),
            ))));
        }
        if !call.done {
            return Ok(Ok(InstallSnapshotResponse { vote: own }));
        }
        let bytes = std::mem::take(&mut *incoming).bytes;
        let (machine, meta) = (self.machine.clone(), call.meta.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let checked = machine.can_restore(&meta, &bytes);
            (checked, bytes)
        });
        let Ok((checked, bytes)) = checked.await else {
            return Err(Implausible::of(from, "its snapshot ends whoever reads it"));
        };
        if let Err(error) = checked {
            tracing::warn!(leader = %from, %error, "a snapshot cannot be read");
            return Err(Implausible::of(from, "its snapshot cannot be read"));
        }
        let snapshot = Snapshot {
            meta: call.meta.clone(),
            snapshot: Box::new(Cursor::new(bytes)),
        };
        let installed = self.standing.install(from, call.vote, snapshot).await?;
        Ok(installed.map(Into::into).map_err(fatal))
    }
}

fn fatal(error: Fatal<u64>) -> RaftError<u64, InstallSnapshotError> {
    RaftError::Fatal(error)
}

fn out_of_order(call: &InstallSnapshotRequest<Types>, have: usize) -> InstallSnapshotError {
    let segment = |offset| SnapshotSegmentId {
        id: call.meta.snapshot_id.clone(),
        offset,
    };
    InstallSnapshotError::SnapshotMismatch(SnapshotMismatch {
        expect: segment(have as u64),
        got: segment(call.offset),
    })
}
