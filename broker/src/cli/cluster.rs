//! `riverrun cluster`: the nodes, the brokers and the metadata quorum.

use clap::{Args, Subcommand};
use riverrun_client::{
    BrokerId, BrokerPresence, BrokerState, Client, ClusterDescription, QuorumNode, QuorumRole,
};
use serde_json::{Value, json};

use super::{
    error::Result,
    health::{self, HealthArgs},
    moving::{Moving, MovingArgs, print_plan},
    output::{self, Align, OutputArgs, Stdout},
    session::Session,
    throttle::{self, ThrottleArgs},
};

/// Look at the nodes of the cluster; let them vote on its metadata
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    Status(ShowArgs),
    Health(HealthArgs),
    Brokers(BrokersArgs),
    Quorum(QuorumArgs),
    AddVoter(AddVoterArgs),
    RemoveVoter(RemoveVoterArgs),
    Rebalance(RebalanceArgs),
    Throttle(ThrottleArgs),
}

/// Show whether the cluster is well, and what is not
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster status
  riverrun cluster status -b node-2:9190 -o json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// List brokers: where they are, whether they take part, what they hold
#[derive(Args, Debug)]
pub(crate) struct BrokersArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// List the nodes of the metadata quorum: who leads, votes, listens
#[derive(Args, Debug)]
pub(crate) struct QuorumArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Let a node vote on the cluster's metadata
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster add-voter 2

The node must run and have joined the cluster (controller.quorum.bootstrap.servers). Three voters
survive the loss of one, five of two; a second voter alone survives nothing more than one does.")]
pub(crate) struct AddVoterArgs {
    /// The node's broker.node.id
    #[arg(value_name = "NODE")]
    node: u32,

    #[command(flatten)]
    output: OutputArgs,
}

/// Take a node out of the vote, for good if it is gone
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster remove-voter 2
  riverrun cluster remove-voter 2 --directory 0f4a8be09dad11d180b400c04fd430c8

A node that runs goes on as a listener.")]
pub(crate) struct RemoveVoterArgs {
    /// The node's broker.node.id
    #[arg(value_name = "NODE")]
    node: u32,

    /// Which, where the node is there with several data directories
    #[arg(long, value_name = "DIRECTORY_ID")]
    directory: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Spread replicas over brokers and racks, with as few moves as that takes
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster rebalance --dry-run
  riverrun cluster rebalance
  riverrun cluster rebalance --throttle 50MiB

After a broker was added it gets its share, and nothing else moves. Nothing stays on brokers that are
drained. It may be broken off; the same command goes on.")]
pub(crate) struct RebalanceArgs {
    /// Show the plan, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    moving: MovingArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(command: ClusterCommand, session: &Session) -> Result<()> {
    session.knock().await?;
    let client = session.client().await?;
    match command {
        ClusterCommand::Status(args) => status(&args, &client, session).await,
        ClusterCommand::Health(args) => health::run(&args, &session.admin(&client), session).await,
        ClusterCommand::Rebalance(args) => rebalance(&args, &client, session).await,
        ClusterCommand::Throttle(args) => throttle::run(&args, &session.admin(&client)).await,
        ClusterCommand::Brokers(args) => {
            let cluster = session.admin(&client).describe_cluster().await?;
            print_brokers(&cluster.brokers, args.output)
        }
        ClusterCommand::Quorum(args) => {
            let cluster = session.admin(&client).describe_cluster().await?;
            print_nodes(&cluster.nodes, cluster.leader, args.output)
        }
        ClusterCommand::AddVoter(args) => {
            let nodes = session.admin(&client).add_voter(BrokerId(args.node)).await?;
            session.say(format_args!("node {} votes", args.node));
            print_nodes(&nodes, None, args.output)
        }
        ClusterCommand::RemoveVoter(args) => {
            let directory = args.directory.as_deref();
            let nodes = session.admin(&client).remove_voter(BrokerId(args.node), directory).await?;
            session.say(format_args!("node {} does not vote", args.node));
            print_nodes(&nodes, None, args.output)
        }
    }
}

async fn rebalance(args: &RebalanceArgs, client: &Client, session: &Session) -> Result<()> {
    let admin = session.admin(client);
    if args.dry_run {
        return print_plan(&admin.plan_moves(None, 0).await?, args.output);
    }
    let moved = Moving { admin: &admin, session, off: None }.carry_out(args.moving).await?;
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&json!({ "moved": moved }))?;
    } else {
        out.line(format_args!("{} moved", output::counted(moved as u64, "partition")))?;
    }
    out.flush()
}

async fn status(args: &ShowArgs, client: &Client, session: &Session) -> Result<()> {
    let cluster = session.admin(client).describe_cluster().await?;
    let findings = findings(&cluster);
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&json!({
            "cluster_id": cluster.id,
            "answered_by": cluster.answered_by.0,
            "leader": cluster.leader.map(|leader| leader.0),
            "leader_term": cluster.leader_term,
            "metadata_offset": cluster.metadata_offset,
            "feature_level": cluster.feature_level,
            "move_bytes_per_second": cluster.move_throttle,
            "nodes": nodes_json(&cluster.nodes, cluster.leader),
            "brokers": cluster.brokers.iter().map(broker_json).collect::<Vec<_>>(),
            "findings": findings,
        }))?;
        return out.flush();
    }
    let voters = votes(&cluster.nodes);
    let active = cluster.brokers.iter().filter(|b| b.presence == BrokerPresence::Active).count();
    out.line(format_args!("cluster   {}", cluster.id))?;
    out.line(format_args!("brokers   {active} of {} take part", cluster.brokers.len()))?;
    let leader = cluster.leader.map_or_else(
        || "nobody leads".to_owned(),
        |leader| format!("node {leader} leads in term {}", cluster.leader_term),
    );
    out.line(format_args!("quorum    {}, {leader}", output::counted(voters as u64, "voter")))?;
    out.line(format_args!(
        "metadata  offset {} on broker {}, feature level {}",
        cluster.metadata_offset, cluster.answered_by, cluster.feature_level
    ))?;
    let reassigning = u64::from(cluster.partitions.reassigning);
    if reassigning > 0 || cluster.move_throttle.is_some() {
        let (under_way, limit) =
            (output::counted(reassigning, "partition"), throttle::shown(cluster.move_throttle));
        out.line(format_args!("moves     {under_way} under way; {limit}"))?;
    }
    for finding in &findings {
        out.line(format_args!("! {finding}"))?;
    }
    out.flush()
}

fn votes(nodes: &[QuorumNode]) -> usize {
    nodes.iter().filter(|node| node.role == QuorumRole::Voter).count()
}

/// What is not as it should be, and what to do.
fn findings(cluster: &ClusterDescription) -> Vec<String> {
    let mut findings = Vec::new();
    if cluster.leader.is_none() {
        findings.push(
            "nobody leads the metadata quorum: topics cannot be changed and failed brokers not \
             replaced until a majority of the voters is up"
                .to_owned(),
        );
    }
    let voters = votes(&cluster.nodes);
    if voters > 0 && voters.is_multiple_of(2) {
        findings.push(format!(
            "{voters} voters survive no more losses than {} would: add or remove one",
            voters - 1
        ));
    }
    for broker in &cluster.brokers {
        match broker.presence {
            BrokerPresence::Fenced => findings.push(format!(
                "broker {} is fenced: it is not heard from, or has not caught up yet",
                broker.id
            )),
            BrokerPresence::Leaving => {
                findings.push(format!("broker {} is about to stop", broker.id));
            }
            _ => {}
        }
    }
    findings
}

pub(super) fn print_brokers(brokers: &[BrokerState], args: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&brokers.iter().map(broker_json).collect::<Vec<_>>())?;
        return out.flush();
    }
    let columns = [
        ("BROKER", Align::Right),
        ("STATE", Align::Left),
        ("CLIENTS", Align::Left),
        ("NODES", Align::Left),
        ("RACK", Align::Left),
        ("REPLICAS", Align::Right),
        ("LEADS", Align::Right),
        ("EPOCH", Align::Right),
    ];
    let row = |broker: &BrokerState| {
        vec![
            broker.id.to_string(),
            state(broker),
            broker.address.clone(),
            broker.internal_address.clone(),
            broker.rack.clone().unwrap_or_default(),
            broker.replicas.to_string(),
            broker.leads.to_string(),
            broker.epoch.to_string(),
        ]
    };
    out.table(&columns, brokers.iter().map(row))?;
    out.flush()
}

fn print_nodes(nodes: &[QuorumNode], leader: Option<BrokerId>, args: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&nodes_json(nodes, leader))?;
        return out.flush();
    }
    let columns = [("NODE", Align::Right), ("ROLE", Align::Left), ("DIRECTORY", Align::Left)];
    let row = |node: &QuorumNode| {
        vec![node.id.to_string(), role(node, leader).to_owned(), node.directory_id.clone()]
    };
    out.table(&columns, nodes.iter().map(row))?;
    out.flush()
}

fn state(broker: &BrokerState) -> String {
    let drained = if broker.draining { ", drained" } else { "" };
    format!("{}{drained}", presence(broker.presence))
}

fn broker_json(broker: &BrokerState) -> Value {
    json!({
        "broker": broker.id.0,
        "state": presence(broker.presence),
        "draining": broker.draining,
        "address": broker.address,
        "internal_address": broker.internal_address,
        "rack": broker.rack,
        "replicas": broker.replicas,
        "leads": broker.leads,
        "epoch": broker.epoch,
    })
}

fn nodes_json(nodes: &[QuorumNode], leader: Option<BrokerId>) -> Vec<Value> {
    let node = |node: &QuorumNode| {
        json!({
            "node": node.id.0,
            "role": role(node, leader),
            "directory_id": node.directory_id,
        })
    };
    nodes.iter().map(node).collect()
}

fn role(node: &QuorumNode, leader: Option<BrokerId>) -> &'static str {
    match node.role {
        QuorumRole::Voter if leader == Some(node.id) => "leader",
        QuorumRole::Voter => "voter",
        QuorumRole::Listener => "listener",
        QuorumRole::Leaving => "leaving",
        _ => "unknown",
    }
}

fn presence(presence: BrokerPresence) -> &'static str {
    match presence {
        BrokerPresence::Active => "active",
        BrokerPresence::Leaving => "leaving",
        BrokerPresence::Fenced => "fenced",
        _ => "unknown",
    }
}
