//! TLS against the real broker: who believes whom, what an error says, and that it says it at once.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use riverrun_broker::Embedded;
use riverrun_client::{Client, ErrorKind, Record, Result, Tls};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

/// A CA, and a directory with its certificate and those it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Signs for `host`, and writes certificate and key.
    fn signs(&self, host: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (at, key_at) = (
            self.dir.path().join(format!("{host}.pem")),
            self.dir.path().join(format!("{host}.key")),
        );
        fs::write(&at, certificate.pem()).unwrap();
        fs::write(&key_at, key.serialize_pem()).unwrap();
        (at, key_at)
    }
}

/// A broker that shows a certificate of `ca` for `host`, and asks for one of `clients`.
async fn broker(ca: &Authority, host: &str, clients: Option<&Authority>) -> Embedded {
    let (certificate, key) = ca.signs(host);
    let clients = clients.map(Authority::ca);
    let builder = Embedded::builder().configure(|config| {
        config.tls.grpc_cert_file = Some(certificate);
        config.tls.grpc_key_file = Some(key);
        config.tls.grpc_client_ca_file = clients;
    });
    builder.start().await.expect("a broker starts")
}

async fn client(broker: &Embedded, tls: Tls) -> Client {
    let builder = Client::builder().bootstrap_servers([broker.address()]);
    builder.tls(tls).build().await.expect("the files are whole")
}

/// Asks for something; whatever comes, comes long before the client's patience ends.
async fn ask(client: &Client) -> Result<()> {
    let asked = client.admin().timeout(10 * MINUTE);
    tokio::time::timeout(MINUTE, asked.list_topics()).await.expect("it is said at once").map(drop)
}

/// Refused for good, with this advice; a producer says so as well, and keeps nothing.
async fn refused(client: &Client, advice: &str) {
    let error = ask(client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Security, "{error}");
    assert!(!error.is_retriable() && error.is_definite(), "{error:?}");
    assert!(error.to_string().contains(advice), "{error}");
    let producer = client.producer().build().await.unwrap();
    let delivery = producer.send(Record::to("t").value("v")).await.unwrap();
    let error = tokio::time::timeout(MINUTE, delivery).await.expect("it is said at once");
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Security, "{error}");
    assert!(error.is_definite(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_travel_through_tls() {
    let (ca, clients) = (Authority::new("brokers"), Authority::new("clients"));
    let broker = broker(&ca, "127.0.0.1", Some(&clients)).await;
    let (certificate, key) = clients.signs("app");
    let client = client(&broker, Tls::new(ca.ca()).identity(certificate, key)).await;
    let producer = client.producer().build().await.unwrap();
    // More than a TLS record, and more than its buffers.
    let value = "x".repeat(500_000);
    for n in 0..20 {
        producer
            .send(Record::to("t").key(n.to_string()).value(value.clone()))
            .await
            .unwrap()
            .detach();
    }
    producer.close(MINUTE).await.unwrap();
    let reader = client.reader("t").stop_at_end().build().await.unwrap();
    let read: Vec<_> = futures::TryStreamExt::try_collect(reader).await.unwrap();
    assert_eq!(read.len(), 20);
    assert!(read.iter().all(|record| record.value().unwrap() == value.as_bytes()));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_believed_learns_why_and_what_to_do_at_once() {
    let (ca, other) = (Authority::new("brokers"), Authority::new("others"));
    let asks = broker(&ca, "127.0.0.1", Some(&ca)).await;
    refused(&client(&asks, Tls::new(ca.ca())).await, "--tls-cert").await;
    let (certificate, key) = other.signs("app");
    let stranger = Tls::new(ca.ca()).identity(certificate, key);
    refused(&client(&asks, stranger).await, "tls.grpc.client.ca.file").await;
    refused(&client(&asks, Tls::new(other.ca())).await, "--tls-ca").await;
    let plain = Client::builder().bootstrap_servers([asks.address()]).build().await.unwrap();
    refused(&plain, "speaks TLS only").await;

    let elsewhere = broker(&ca, "broker.example.org", None).await;
    refused(&client(&elsewhere, Tls::new(ca.ca())).await, "as 127.0.0.1").await;
    let named = Tls::new(ca.ca()).server_name("broker.example.org");
    ask(&client(&elsewhere, named).await).await.unwrap();

    let without = Embedded::start().await.unwrap();
    refused(&client(&without, Tls::new(ca.ca())).await, "speaks no TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_for_each_connection_and_broken_ones_change_nothing() {
    let (ca, next) = (Authority::new("brokers"), Authority::new("next"));
    let old = broker(&ca, "127.0.0.1", None).await;
    let new = broker(&next, "127.0.0.1", None).await;
    let bundle = ca.ca();
    let builder = Client::builder().bootstrap_servers([old.address(), new.address()]);
    let client = builder.tls(Tls::new(&bundle)).build().await.unwrap();
    ask(&client).await.unwrap();

    fs::write(&bundle, "broken").unwrap();
    old.stop().await;
    let error = ask(&client).await.unwrap_err();
    assert!(error.to_string().contains("--tls-ca"), "the other one is not believed yet: {error}");
    fs::copy(next.ca(), &bundle).unwrap();
    ask(&client).await.expect("it is now");
}

#[tokio::test]
async fn files_that_are_no_use_are_named_when_the_client_is_built() {
    let (ca, other) = (Authority::new("brokers"), Authority::new("others"));
    let (certificate, key) = ca.signs("app");
    let (_, foreign) = other.signs("app");
    let cases = [
        (Tls::new("/nowhere/ca.pem"), "/nowhere/ca.pem cannot be read"),
        (Tls::new(&key), "holds no certificate"),
        (Tls::new(ca.ca()).identity(&certificate, &certificate), "no private key"),
        (Tls::new(ca.ca()).identity(&certificate, &foreign), "is not the key of the certificate"),
        (Tls::new(ca.ca()).server_name("no name"), "no certificate can name"),
    ];
    for (tls, what) in cases {
        let builder = Client::builder().bootstrap_servers(["localhost"]).tls(tls);
        let error = builder.build().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(what), "{error}");
    }
}
