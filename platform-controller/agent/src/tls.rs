//! TLS 1.3 with both certificates pinned: no authority, no names, no expiry; the one certificate or none.

use crate::{AgentError, Fingerprint, Identity};
use std::{io, sync::Arc};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::danger::{ClientCertVerified, ClientCertVerifier},
        version::TLS13,
    },
};

/// Lets in the one that has this certificate and its private key.
#[derive(Debug)]
struct Pinned {
    peer: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if Fingerprint::of(certificate) == self.peer {
            return Ok(());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn pinned(peer: Fingerprint) -> (Arc<CryptoProvider>, Arc<Pinned>) {
    let provider = Arc::new(ring::default_provider());
    (provider.clone(), Arc::new(Pinned { peer, provider }))
}

fn wrong(e: rustls::Error) -> AgentError {
    AgentError::Key(e.to_string())
}

/// What became of a handshake, in words that help.
pub(crate) fn told(error: io::Error) -> AgentError {
    match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            AgentError::Key("the agent has another certificate than `key` of this host in the Platform says".into())
        }
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)) => AgentError::Key(
            "the agent expects another controller: its `--controller-key` must be what `edgeplexd --show-key` prints".into(),
        ),
        _ => AgentError::Io { what: "TLS".into(), error },
    }
}

/// The agent's end.
pub(crate) fn acceptor(own: &Identity, peer: Fingerprint) -> Result<TlsAcceptor, AgentError> {
    let (provider, verifier) = pinned(peer);
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(wrong)?;
    let mut config =
        config.with_client_cert_verifier(verifier).with_single_cert(vec![own.certificate.clone()], own.key.clone_key()).map_err(wrong)?;
    // Each connection proves anew who it is.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The controller's end.
pub(crate) fn connector(own: &Identity, peer: Fingerprint) -> Result<TlsConnector, AgentError> {
    let (provider, verifier) = pinned(peer);
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).map_err(wrong)?;
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key())
        .map_err(wrong)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}
