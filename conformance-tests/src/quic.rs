//! Decides how the suite speaks QUIC: one endpoint that dials and accepts, self-signed keys, no names checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The protocol's ALPN.
pub const ALPN: &[u8] = b"ahoy/1";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Below every legal idle time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A UDP port with a TLS key of its own.
#[derive(Debug, Clone)]
pub struct Net {
    /// The endpoint.
    pub endpoint: quinn::Endpoint,
    /// SHA-256 of the SPKI of its TLS key.
    pub spki: [u8; 32],
    with_certificate: quinn::ClientConfig,
    without_certificate: quinn::ClientConfig,
    other_protocol: quinn::ClientConfig,
}

/// As whom a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The TLS key, as a homeserver does.
    Certificate,
    /// Nothing, as devices and services do.
    Nothing,
    /// Nothing, and an ALPN that nobody speaks.
    OtherProtocol,
}

impl Net {
    /// Opens a port at `address` with a fresh key.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: IpAddr) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let certificate =
            rcgen::CertificateParams::new(vec!["conform.invalid".to_owned()])?.self_signed(&key)?;
        let certificate = certificate.der().clone();
        let spki = spki_of(&certificate)?;
        let private = || PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let server = server_config(certificate.clone(), private())?;
        let endpoint = quinn::Endpoint::server(server, SocketAddr::new(address, 0))
            .with_context(|| format!("cannot open a UDP port at {address}"))?;
        Ok(Self {
            endpoint,
            spki,
            with_certificate: client_config(Some((certificate, private())), ALPN)?,
            without_certificate: client_config(None, ALPN)?,
            other_protocol: client_config(None, b"ahoy/none")?,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// Connects; `host` goes into SNI.
    ///
    /// # Errors
    /// When nothing answers within 5 s, or TLS fails.
    pub async fn connect(&self, to: SocketAddr, host: &str, show: Show) -> anyhow::Result<quinn::Connection> {
        let config = match show {
            Show::Certificate => &self.with_certificate,
            Show::Nothing => &self.without_certificate,
            Show::OtherProtocol => &self.other_protocol,
        };
        let connecting = self.endpoint.connect_with(config.clone(), to, host)?;
        let connected = timeout(CONNECT, connecting).await;
        connected
            .with_context(|| format!("{to} does not answer QUIC within {CONNECT:?}"))?
            .map_err(Into::into)
    }
}

impl Net {
    /// A connection as a device makes it, on which nothing was awaited.
    ///
    /// # Errors
    /// When it cannot be dialled.
    pub fn connecting(&self, to: SocketAddr, host: &str) -> anyhow::Result<quinn::Connecting> {
        Ok(self.endpoint.connect_with(self.without_certificate.clone(), to, host)?)
    }
}

/// SHA-256 of the SPKI that the other side showed.
///
/// # Errors
/// When it showed none.
pub fn peer_spki(connection: &quinn::Connection) -> anyhow::Result<[u8; 32]> {
    let identity = connection.peer_identity().context("the other side shows no certificate")?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok().context("no X.509 certificate")?;
    spki_of(chain.first().context("an empty certificate chain")?)
}

fn spki_of(certificate: &CertificateDer<'_>) -> anyhow::Result<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).context("the certificate does not parse")?;
    Ok(Sha256::digest(parsed.tbs_certificate.subject_pki.raw).into())
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(transport)
}

fn server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<quinn::ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Possession(provider.signature_verification_algorithms));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(transport());
    Ok(server)
}

fn client_config(
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    alpn: &[u8],
) -> anyhow::Result<quinn::ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Possession(provider.signature_verification_algorithms));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut tls = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key)?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = true;
    let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    client.transport_config(transport());
    Ok(client)
}

/// Believes whoever holds the key that it shows, and nothing else about them [WIRE-HELLO-01].
#[derive(Debug)]
struct Possession(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Possession {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC speaks TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC speaks TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
