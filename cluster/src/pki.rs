//! The cluster's certificate authority: root, node certificates and their content. No I/O.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Authority, KeyDigest, NodeId, Role, Secret};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::ClusterError;

/// The TLS name that every member answers to.
pub(crate) const ANY_MEMBER: &str = "member.netd";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Lifetime of the root's and the nodes' certificates. Nothing renews them, so a shorter life would
/// end the cluster. A removed node is refused by its missing record, not by an expired certificate.
const LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// How far the clocks of joining hosts may be behind.
const SKEW: Duration = DAY;

/// Node at the other end of a connection, by its certificate. Stored in the extensions of every
/// authenticated request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Its public key.
    pub key: KeyDigest,
}

/// A key of one's own and the request to sign it, both PEM.
pub(crate) struct KeyAndRequest {
    pub key: String,
    pub request: String,
}

/// The TLS name of one member.
pub(crate) fn name_of(node: NodeId) -> String {
    format!("{node}.node.netd")
}

/// A new authority with fresh keys and secrets.
pub(crate) fn new_authority() -> Result<Authority, ClusterError> {
    let key = KeyPair::generate().map_err(|error| failed("make the root key", error))?;
    let mut params = valid_from_now();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
        .distinguished_name
        .push(DnType::CommonName, "netd root");
    let certificate = params
        .self_signed(&key)
        .map_err(|error| failed("sign the root certificate", error))?;
    Ok(Authority {
        root_certificate: certificate.pem(),
        root_key: key.serialize_pem(),
        worker_secret: Secret::new(rand::random()),
        manager_secret: Secret::new(rand::random()),
    })
}

/// A new key and the request to sign it.
pub(crate) fn new_request() -> Result<KeyAndRequest, ClusterError> {
    let key = KeyPair::generate().map_err(|error| failed("make a key", error))?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|error| failed("make a certificate request", error))?;
    Ok(KeyAndRequest {
        key: key.serialize_pem(),
        request,
    })
}

/// The certificate (PEM) for a request. The node's id follows from its key: the same request gives
/// the same node.
pub(crate) fn sign(
    authority: &Authority,
    request: &str,
    role: Role,
) -> Result<(KeyDigest, String), ClusterError> {
    let fail = |error| failed("sign a certificate request", error);
    let mut request = CertificateSigningRequestParams::from_pem(request).map_err(fail)?;
    let key_digest = digest(request.public_key.der_bytes());
    let root = root(&authority.root_certificate)?;
    request.params = node_params(key_digest.node(), role, &cluster_of(&root));
    let key = KeyPair::from_pem(&authority.root_key).map_err(fail)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.root_certificate, key).map_err(fail)?;
    Ok((key_digest, request.signed_by(&issuer).map_err(fail)?.pem()))
}

/// Who a certificate of this cluster was made for. `None` for one that was not made by [`sign`]:
/// also for one with another node's id, of which a former manager may know how to sign it.
pub(crate) fn identity_of(certificate: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let node = subject
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .parse()
        .ok()?;
    let role = match subject.iter_organizational_unit().next()?.as_str().ok()? {
        "swarm-manager" => Role::Manager,
        "swarm-worker" => Role::Worker,
        _ => return None,
    };
    let key = digest(&certificate.public_key().subject_public_key.data);
    (key.node() == node).then_some(PeerIdentity { node, role, key })
}

/// The certificate in a PEM text.
pub(crate) fn root(pem: &str) -> Result<CertificateDer<'static>, ClusterError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| failed("read a certificate", error))
}

/// The key in a PEM text.
pub(crate) fn key(pem: &str) -> Result<PrivateKeyDer<'static>, ClusterError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| failed("read a key", error))
}

fn node_params(node: NodeId, role: Role, cluster: &str) -> CertificateParams {
    let mut params = valid_from_now();
    let unit = match role {
        Role::Manager => "swarm-manager",
        Role::Worker => "swarm-worker",
    };
    params
        .distinguished_name
        .push(DnType::CommonName, node.to_string());
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, unit);
    params
        .distinguished_name
        .push(DnType::OrganizationName, cluster);
    let names = [name_of(node), ANY_MEMBER.to_owned()];
    params.subject_alt_names = names
        .into_iter()
        .filter_map(|name| name.try_into().ok().map(rcgen::SanType::DnsName))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

fn valid_from_now() -> CertificateParams {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + (now + LIFE);
    params.distinguished_name = DistinguishedName::new();
    params
}

fn digest(key: &[u8]) -> KeyDigest {
    KeyDigest(Sha256::digest(key).into())
}

/// The cluster's name: the beginning of its root certificate's digest.
fn cluster_of(root: &CertificateDer<'_>) -> String {
    digest(root).node().to_string()
}

fn failed(operation: &'static str, error: impl std::fmt::Display) -> ClusterError {
    ClusterError::Certificate {
        operation,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_who_its_node_is() {
        let authority = new_authority().unwrap();
        let request = new_request().unwrap();
        for role in [Role::Worker, Role::Manager] {
            let (key, pem) = sign(&authority, &request.request, role).unwrap();
            let node = key.node();
            assert_eq!(
                identity_of(&root(&pem).unwrap()),
                Some(PeerIdentity { node, role, key })
            );
        }
        assert_eq!(
            identity_of(&root(&authority.root_certificate).unwrap()),
            None
        );
    }

    #[test]
    fn a_certificate_of_a_key_that_is_not_its_nodes_says_nothing() {
        let authority = new_authority().unwrap();
        let (own, others) = (new_request().unwrap(), new_request().unwrap());
        let (other, _) = sign(&authority, &others.request, Role::Manager).unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&own.request).unwrap();
        request.params = node_params(other.node(), Role::Manager, "forged");
        let key = KeyPair::from_pem(&authority.root_key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&authority.root_certificate, key).unwrap();
        let forged = request.signed_by(&issuer).unwrap().pem();
        assert_eq!(identity_of(&root(&forged).unwrap()), None);
    }

    #[test]
    fn the_same_request_gives_the_same_node() {
        let authority = new_authority().unwrap();
        let request = new_request().unwrap();
        let sign = || sign(&authority, &request.request, Role::Worker).unwrap().0;
        assert_eq!(sign(), sign());
    }
}
