//! This host's identity on disk: key, certificate, root certificate of its cluster, addresses of
//! managers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use model::{KeyDigest, NodeId, Role};
use serde::de::DeserializeOwned;

use crate::{ClusterError, JoinAnswer, PeerIdentity, files, pki};

/// Who this host is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub node: NodeId,
    pub role: Role,
    pub digest: KeyDigest,
    /// PEM, as are the next two.
    pub certificate: String,
    pub key: String,
    pub root: String,
    /// Managers at the time of joining; the view has newer ones.
    pub managers: Vec<SocketAddr>,
    /// Who voted at the time of joining. Empty where that was not told.
    pub voters: Vec<NodeId>,
}

impl Identity {
    /// Refuses a certificate that says nothing of its node.
    pub(crate) fn new(
        certificate: String,
        key: String,
        root: String,
        managers: Vec<SocketAddr>,
        voters: Vec<NodeId>,
    ) -> Result<Self, ClusterError> {
        let identity =
            pki::identity_of(&pki::root(&certificate)?).ok_or(ClusterError::Certificate {
                operation: "read this node's certificate",
                reason: "it names no node and role".to_owned(),
            })?;
        let PeerIdentity {
            node,
            role,
            key: digest,
        } = identity;
        Ok(Self {
            node,
            role,
            digest,
            certificate,
            key,
            root,
            managers,
            voters,
        })
    }

    /// Of a host with this key that a cluster has let in.
    pub(crate) fn joined(answer: JoinAnswer, key: String) -> Result<Self, ClusterError> {
        let JoinAnswer {
            certificate,
            root,
            managers,
            voters,
            ..
        } = answer;
        Self::new(certificate, key, root, managers, voters)
    }

    /// Whether the directory holds one.
    pub(crate) fn exists(directory: &Path) -> bool {
        place(directory).join("certificate.pem").exists()
    }

    /// Writes it; the certificate last, because its presence makes the identity.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), ClusterError> {
        let place = place(directory);
        files::make_directory(directory)?;
        files::make_directory(&place)?;
        let managers = serde_json::to_vec(&self.managers).unwrap_or_default();
        files::write(&place.join("managers.json"), &managers)?;
        let voters = serde_json::to_vec(&self.voters).unwrap_or_default();
        files::write(&place.join("voters.json"), &voters)?;
        files::write(&place.join("root.pem"), self.root.as_bytes())?;
        files::write(&place.join("key.pem"), self.key.as_bytes())?;
        files::write(&place.join("certificate.pem"), self.certificate.as_bytes())
    }

    /// Reads it; `None` if this host never joined.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, ClusterError> {
        if !Self::exists(directory) {
            return Ok(None);
        }
        let place = place(directory);
        let managers = list(&place.join("managers.json"))?;
        // A version from before did not write it.
        let path = place.join("voters.json");
        let voters = if path.exists() {
            list(&path)?
        } else {
            Vec::new()
        };
        let read = |name: &str| text(&place.join(name));
        Self::new(
            read("certificate.pem")?,
            read("key.pem")?,
            read("root.pem")?,
            managers,
            voters,
        )
        .map(Some)
    }

    /// Forgets it.
    pub(crate) fn remove(directory: &Path) -> Result<(), ClusterError> {
        files::remove(&place(directory).join("certificate.pem"))?;
        files::remove(&place(directory))
    }
}

fn place(directory: &Path) -> PathBuf {
    directory.join("identity")
}

fn list<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ClusterError> {
    serde_json::from_str(&text(path)?).map_err(|error| ClusterError::Corrupt {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn text(path: &Path) -> Result<String, ClusterError> {
    let corrupt = |reason: String| ClusterError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    let bytes = files::read(path)?.ok_or_else(|| corrupt("the file is missing".to_owned()))?;
    String::from_utf8(bytes).map_err(|error| corrupt(error.to_string()))
}
