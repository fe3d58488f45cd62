use std::fs;

use super::*;
use crate::{
    telemetry::{Registry, TlsMetrics},
    tls::test_certificates::{Authority, Files},
};

fn load(files: &Files) -> Result<Credentials, TlsError> {
    Credentials::load(files.internal(), TlsMetrics::register(&Registry::new()).of("internal"))
}

#[test]
fn broken_files_are_named_with_key_and_reason() {
    let ca = Authority::new("cluster");
    let (identity, other) = (ca.signs(&["localhost"]), ca.signs(&["localhost"]));
    type Breaks = fn(&Files, &crate::tls::test_certificates::Identity);
    let cases: [(Breaks, &str, &str); 7] = [
        (|f, _| fs::remove_file(f.chain()).unwrap(), "internal.cert.file", "cannot be read"),
        (|f, _| fs::write(f.chain(), "").unwrap(), "internal.cert.file", "holds no certificate"),
        (|f, _| fs::write(f.key(), "noise").unwrap(), "internal.key.file", "no private key"),
        (|f, o| fs::write(f.key(), &o.key).unwrap(), "internal.key.file", "not the key of the"),
        (|f, _| fs::write(f.ca(), "").unwrap(), "internal.ca.file", "holds no certificate"),
        (
            |f, _| fs::write(f.ca(), vec![b'x'; 2 << 20]).unwrap(),
            "internal.ca.file",
            "is larger than",
        ),
        (
            |f, _| fs::write(f.chain(), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap(),
            "internal.cert.file",
            "is no PEM",
        ),
    ];
    for (breaks, key, reason) in cases {
        let files = Files::of(&identity, &ca);
        breaks(&files, &other);
        let text = load(&files).unwrap_err().to_string();
        assert!(text.contains(key) && text.contains(reason), "{text}");
        assert!(text.contains(&files.path().display().to_string()), "{text}");
    }
}

#[test]
fn whole_files_take_the_place_of_old_ones_and_broken_ones_do_not() {
    let ca = Authority::new("cluster");
    let files = Files::of(&ca.signs(&["localhost"]), &ca);
    let registry = Registry::new();
    let metrics = TlsMetrics::register(&registry).of("internal");
    let credentials = Credentials::load(files.internal(), metrics).unwrap();
    let value = |name: &str| {
        let text = registry.encode();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
    };
    let broken = "riverrun_tls_files_broken{port=\"internal\"}";
    let kept = "riverrun_tls_reloads_total{port=\"internal\",outcome=\"kept_old\"}";
    let renewed = "riverrun_tls_reloads_total{port=\"internal\",outcome=\"renewed\"}";

    let first = credentials.server();
    assert_eq!(credentials.look(), Look::Same);
    // The certificate has been written, its key not yet.
    let next = ca.signs(&["localhost"]);
    fs::write(files.chain(), &next.chain).unwrap();
    for _ in 0..3 {
        let Look::Broken(error) = credentials.look() else { panic!("they do not fit") };
        assert_eq!(error.key, "tls.internal.key.file");
    }
    assert!(Arc::ptr_eq(&first, &credentials.server()), "the old one stays in use");
    assert_eq!((value(broken), value(kept)), ("1".into(), "1".into()), "counted once");

    fs::write(files.key(), &next.key).unwrap();
    let dialling = credentials.to_dial(BULK_PROTOCOL).unwrap();
    assert_eq!(credentials.look(), Look::Renewed);
    assert!(!Arc::ptr_eq(&first, &credentials.server()));
    assert!(
        !Arc::ptr_eq(&dialling, &credentials.to_dial(BULK_PROTOCOL).unwrap()),
        "both sides are"
    );
    assert_eq!((value(broken), value(renewed)), ("0".into(), "1".into()));
    assert_eq!(credentials.look(), Look::Same);

    // Gone for a while, and back as they were.
    fs::rename(files.key(), files.path().join("elsewhere")).unwrap();
    assert!(matches!(credentials.look(), Look::Broken(_)));
    assert_eq!((value(broken), value(kept)), ("1".into(), "2".into()));
    fs::rename(files.path().join("elsewhere"), files.key()).unwrap();
    assert_eq!(credentials.look(), Look::Same);
    assert_eq!((value(broken), value(renewed)), ("0".into(), "1".into()));
}

#[tokio::test(start_paused = true)]
async fn changes_are_found_by_the_clock() {
    let ca = Authority::new("cluster");
    let files = Files::of(&ca.signs(&["localhost"]), &ca);
    let credentials = Arc::new(load(&files).unwrap());
    let first = credentials.server();
    let looking = tokio::spawn(Arc::clone(&credentials).keep_current(Duration::from_secs(10)));
    files.write(&ca.signs(&["localhost"]));
    while Arc::ptr_eq(&first, &credentials.server()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    looking.abort();
}

#[test]
fn names_and_addresses_are_looked_for_in_certificates() {
    for host in ["node-1", "node-1.example.org", "10.0.0.1", "::1"] {
        assert!(server_name(host).is_some(), "{host}");
    }
    assert!(server_name("no name at all").is_none());
}
