//! What stands in `deploy/` for those who run it: variables that the broker knows, alerts on metrics it
//! has, commands that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use riverrun_tests::{http, raw::Raw, wait};
use serde_json::Value;

use crate::nodes::Nodes;

/// A file of `deploy/`, YAML.
fn file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The services of `compose.yaml` that are brokers, and their environment.
fn brokers() -> BTreeMap<String, BTreeMap<String, String>> {
    let compose = file("compose.yaml");
    let services = compose["services"].as_object().expect("it has services").clone();
    let environment = |service: &Value| -> BTreeMap<String, String> {
        let variables = service["environment"].as_object().into_iter().flatten();
        let text =
            |value: &Value| value.as_str().expect("texts, whatever YAML makes of them").to_owned();
        variables.map(|(name, value)| (name.clone(), text(value))).collect()
    };
    services
        .iter()
        .map(|(name, service)| (name.clone(), environment(service)))
        .filter(|(_, environment)| !environment.is_empty())
        .collect()
}

/// What `riverrun serve --check` says in this environment: its exit code and what it printed.
fn checked(environment: &BTreeMap<String, String>) -> (Option<i32>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
        .args(["serve", "--check"])
        .env_clear()
        .envs(environment)
        .output()
        .expect("the binary under test exists");
    (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn the_brokers_of_compose_are_configured_with_what_a_broker_knows() {
    let brokers = brokers();
    assert_eq!(brokers.len(), 3, "{brokers:?}");
    let mut ids = BTreeSet::new();
    let mut published = BTreeSet::new();
    for (name, environment) in &brokers {
        let (code, said) = checked(environment);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert_eq!(environment["RIVERRUN_NETWORK_INTERNAL_ADVERTISED_HOST"], *name);
        ids.insert(&environment["RIVERRUN_BROKER_NODE_ID"]);
        published.insert(&environment["RIVERRUN_NETWORK_ADVERTISED_PORT"]);
        // All of them, by the names under which they reach one another.
        let seeds = environment["RIVERRUN_CONTROLLER_QUORUM_BOOTSTRAP_SERVERS"].split(',');
        let seeds: Vec<_> = seeds.filter_map(|seed| seed.split(':').next()).collect();
        assert_eq!(seeds, brokers.keys().collect::<Vec<_>>());
    }
    assert_eq!((ids.len(), published.len()), (3, 3), "no two are the same broker");

    let mut wrong = brokers["broker-1"].clone();
    wrong.insert("RIVERRUN_NETWORK_INSECUR".to_owned(), "true".to_owned());
    let (code, said) = checked(&wrong);
    assert!(code == Some(2) && said.contains("no key is called that"), "it is looked at: {said}");
}

#[test]
fn what_compose_publishes_is_what_clients_are_told_to_dial() {
    let compose = file("compose.yaml");
    for (name, environment) in brokers() {
        let ports = &compose["services"][&name]["ports"];
        let port = &environment["RIVERRUN_NETWORK_ADVERTISED_PORT"];
        let expected = Value::from(format!("127.0.0.1:{port}:9190"));
        assert!(ports.as_array().is_some_and(|ports| ports.contains(&expected)), "{name}: {ports}");
    }
    let scraped =
        file("prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"].clone();
    let targets: Vec<_> =
        brokers().keys().map(|name| Value::from(format!("{name}:9191"))).collect();
    assert_eq!(scraped, Value::from(targets));
}

/// Words of a text that begin with this.
fn words<'a>(text: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(move |word| word.starts_with(beginning))
}

/// An alert on a metric that nobody exports never fires.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_on_metrics_that_brokers_have() {
    let nodes = Nodes::voting(3);
    nodes.until_all_take_part().await;
    let topic = nodes.admin(1).await.create_topic("watched").replication_factor(3).send().await;
    let leader = topic.expect("three are there").partitions[0].leader.expect("all are there").0;
    let raw = Raw::connect(&nodes.addresses()[leader as usize - 1]).await;
    raw.produce("watched", 0, &["a record"]).await.expect("it leads");
    let http = nodes.node(leader as usize).http();
    // What a leader knows of its followers is there once they have been heard.
    wait::until("its followers are known", async || {
        http::metrics(http).await.text().contains("riverrun_replication_lag_seconds{")
    })
    .await;
    let metrics = http::metrics(http).await;
    let series: BTreeSet<&str> = metrics
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let alerts = file("alerts.yaml");
    let rules = alerts["groups"][0]["rules"].as_array().expect("a list of rules");
    assert_eq!(rules.len(), 6);
    for rule in rules {
        let (name, expr) = (&rule["alert"], rule["expr"].as_str().expect("an expression"));
        let mut named = words(expr, "riverrun_").peekable();
        assert!(named.peek().is_some(), "{name} asks for nothing of ours: {expr}");
        for metric in named {
            assert!(series.contains(metric), "{name} asks for {metric}, which no broker has");
        }
        let annotations = &rule["annotations"];
        assert!(
            annotations["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{rule}"
        );
        let runbook = annotations["runbook"].as_str().expect("it says what to do");
        // A label that an expression does not keep is empty in what people read.
        let summary = annotations["summary"].as_str().unwrap_or_default();
        for label in summary.split("$labels.").skip(1) {
            let label = words(label, "").next().unwrap_or_default();
            assert!(label == "instance" || expr.contains(label), "{name} has no label {label}");
        }
        for metric in words(runbook, "riverrun_") {
            let known = |series: &&str| series.starts_with(metric);
            assert!(series.iter().any(known), "{name} sends people to {metric}");
        }
    }
}

/// Commands in backticks, without their arguments in capitals.
#[test]
fn runbooks_name_commands_that_exist() {
    let alerts = file("alerts.yaml");
    let mut commands = BTreeSet::new();
    for rule in alerts["groups"][0]["rules"].as_array().expect("a list of rules") {
        let runbook = rule["annotations"]["runbook"].as_str().expect("it says what to do");
        let quoted = runbook.split('`').skip(1).step_by(2);
        commands.extend(quoted.filter_map(|quoted| quoted.strip_prefix("riverrun ")));
    }
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let words: Vec<_> =
            command.split(' ').filter(|word| word.chars().any(char::is_lowercase)).collect();
        let ran = Command::new(env!("CARGO_BIN_EXE_riverrun-under-test"))
            .args(&words)
            .arg("--help")
            .output()
            .expect("the binary under test exists");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "`riverrun {command}` is no command: {said}");
        let usage = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(usage.contains("Usage:") && usage.contains(&words.join(" ")), "{command}: {usage}");
    }
}
