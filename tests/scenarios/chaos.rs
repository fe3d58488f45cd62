//! A little of everything at once, by one seed: the short version of `riverrun-chaos`.

use std::time::Duration;

use riverrun_tests::chaos::{self, Plan, deck::Kind};

use crate::{data_dir, passed_over, rounds};

/// Times that make leaders be missed and followers leave within the faults of a short run.
const QUICK: [(&str, &str); 2] =
    [("broker.session.timeout.ms", "1500ms"), ("replica.lag.time.max.ms", "3s")];

#[tokio::test(flavor = "multi_thread")]
async fn a_little_chaos_loses_nothing() {
    let dir = data_dir();
    let quick = QUICK.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let plan = Plan {
        binary: env!("CARGO_BIN_EXE_riverrun-under-test").into(),
        dir: dir.path().join("run"),
        nodes: 3,
        seed: 20,
        lasts: Duration::ZERO,
        strikes: Kind::ALL.len() * rounds(),
        hold_max: Duration::from_secs(2),
        pace: Duration::from_millis(2),
        settings: chaos::settings(&quick),
    };
    match chaos::run(&plan).await {
        Ok(report) => {
            assert!(report.missing().is_empty(), "never happened: {:?}", report.missing());
            assert!(report.counts.elections > 0 && report.counts.isr_changes > 0, "{report}");
            assert!(report.quorum_elections > 0 && report.acked > 0 && report.read > 0, "{report}");
        }
        Err(why) => passed_over(&why),
    }
}
