//! Certificates of tests, made for the occasion.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::{Peers, Source, Sources};

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// A directory with what a port needs.
pub(crate) struct Files {
    dir: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// One for `names`, good for both sides.
    pub(crate) fn signs(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Files {
    pub(crate) fn of(identity: &Identity, ca: &Authority) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write(identity);
        files.write_ca(ca);
        files
    }

    pub(crate) fn write(&self, identity: &Identity) {
        fs::write(self.chain(), &identity.chain).unwrap();
        fs::write(self.key(), &identity.key).unwrap();
    }

    pub(crate) fn write_ca(&self, ca: &Authority) {
        fs::write(self.ca(), ca.pem()).unwrap();
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.path().join("key.pem")
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Of a port between nodes.
    pub(crate) fn internal(&self) -> Sources {
        Sources {
            port: "internal",
            chain: Source { key: "tls.internal.cert.file", path: self.chain() },
            key: Source { key: "tls.internal.key.file", path: self.key() },
            peers: Peers::Required(Source { key: "tls.internal.ca.file", path: self.ca() }),
            between_nodes: true,
        }
    }

    /// Of a gRPC port.
    pub(crate) fn grpc(&self, peers: fn(Source) -> Peers) -> Sources {
        Sources {
            port: "grpc",
            peers: peers(Source { key: "tls.grpc.client.ca.file", path: self.ca() }),
            between_nodes: false,
            ..self.internal()
        }
    }
}
