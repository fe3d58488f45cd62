//! PEM files, read and understood. Blocks.

use std::{fs::File, io::Read as _};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Source, Sources, TlsError};

/// Largest file: some hundred certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What is in the files of a port.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Contents {
    pub(super) fn read(sources: &Sources) -> Result<Self, TlsError> {
        Ok(Self {
            chain: read(&sources.chain)?,
            key: read(&sources.key)?,
            ca: sources.peers.ca().map(read).transpose()?.unwrap_or_default(),
        })
    }

    /// The port's certificate and those that lead to its CA.
    pub(super) fn chain(&self, from: &Source) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.chain, from)
    }

    pub(super) fn key(&self, from: &Source) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            from.wrong(format!(
                "holds no private key that is not encrypted, as PEM (-----BEGIN PRIVATE KEY-----): \
                 {error}"
            ))
        })
    }

    /// Whose certificates are believed.
    pub(super) fn roots(&self, from: &Source) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, from)? {
            roots.add(certificate).map_err(|error| {
                from.wrong(format!("holds a certificate that is none of a CA: {error}"))
            })?;
        }
        Ok(roots)
    }
}

fn certificates(pem: &[u8], from: &Source) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| from.wrong(format!("is no PEM: {error}")))?;
    if all.is_empty() {
        return Err(from.wrong("holds no certificate as PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(all)
}

fn read(source: &Source) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(&source.path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| source.wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(source.wrong(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
