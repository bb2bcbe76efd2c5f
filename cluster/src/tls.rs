//! TLS 1.3 configurations of servers and clients, with ring as provider.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use crate::{ClusterError, identity::Identity, pki, token};

const HTTP2: &[u8] = b"h2";

/// Shows this node's certificate and root; a client may show one of this cluster or none (to join).
pub(crate) fn server(identity: &Identity) -> Result<ServerConfig, ClusterError> {
    let roots = Arc::new(roots(&pki::root(&identity.root)?).map_err(failed)?);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(failed)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain(identity)?, pki::key(&identity.key)?)
        .map_err(failed)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

/// Trusts this cluster's root alone, and shows this node's certificate.
pub(crate) fn client(identity: &Identity) -> Result<ClientConfig, ClusterError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_root_certificates(roots(&pki::root(&identity.root)?).map_err(failed)?)
        .with_client_auth_cert(chain(identity)?, pki::key(&identity.key)?)
        .map_err(failed)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

/// Trusts the cluster whose root has this digest, and shows nothing: for a host that joins.
pub(crate) fn pinned(digest: String) -> Result<ClientConfig, ClusterError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            digest,
            provider: provider(),
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(config)
}

fn chain(identity: &Identity) -> Result<Vec<CertificateDer<'static>>, ClusterError> {
    Ok(vec![
        pki::root(&identity.certificate)?,
        pki::root(&identity.root)?,
    ])
}

fn roots(root: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn failed(error: impl std::fmt::Display) -> ClusterError {
    ClusterError::Certificate {
        operation: "set up TLS",
        reason: error.to_string(),
    }
}

/// Takes the root from the end of the chain shown, if it is the one that the token names.
#[derive(Debug)]
struct Pinned {
    digest: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = rest
            .last()
            .filter(|root| token::digest(root) == self.digest)
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots(root)?), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(leaf, rest, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
