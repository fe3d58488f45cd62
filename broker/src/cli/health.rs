//! `riverrun cluster health`: whether all is well, and what is not.

use std::time::Duration;

use clap::Args;
use riverrun_client::{
    Admin, BrokerPresence, ClusterDescription, PartitionDescription, PartitionFilter, QuorumRole,
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    error::{Exit, Failure, Result},
    output::{OutputArgs, Stdout, counted},
    partition::{description_json, print_partitions},
    session::{self, Session},
};

/// Partitions shown; the rest is counted.
const SHOWN: u32 = 20;

/// Say whether the cluster is well: partitions, brokers, quorum
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun cluster health && echo well
  riverrun cluster health -w
  riverrun cluster health --json

Exit codes: 0 all is well, 4 something is not (or no broker answers). Not well is: a partition that
nobody leads, that has fewer replicas in sync than min.insync.replicas, or a replica that is not in
sync; a broker that is fenced or about to stop, or whose wall clock is off; a quorum that nobody leads.")]
pub(crate) struct HealthArgs {
    /// Look again every two seconds until interrupted
    #[arg(short, long)]
    watch: bool,

    /// Pause between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = super::timeout)]
    interval: Duration,

    #[command(flatten)]
    output: OutputArgs,
}

/// What a look has found.
#[derive(Debug)]
struct Health {
    cluster: ClusterDescription,
    problems: Vec<String>,
    partitions: Vec<PartitionDescription>,
}

pub(super) async fn run(args: &HealthArgs, admin: &Admin, session: &Session) -> Result<()> {
    if !args.watch {
        let health = look(admin).await?;
        print(&health, args.output)?;
        return verdict(&health);
    }
    let mut interrupt = session::interrupt()?;
    let watch = async {
        loop {
            let looked = look(admin).await;
            if session.shows_progress() && !args.output.is_json() {
                // To the top, and nothing below: a redrawn screen, not a scrolled one.
                Stdout::lock().bytes(b"\x1b[H\x1b[2J")?;
            }
            match looked {
                Ok(health) => print(&health, args.output)?,
                Err(why) => session.say(why),
            }
            sleep(args.interval).await;
        }
    };
    tokio::select! {
        ended = watch => ended,
        () = interrupt.next() => Ok(()),
    }
}

async fn look(admin: &Admin) -> Result<Health> {
    let cluster = admin.describe_cluster().await?;
    let counts = cluster.partitions;
    let partitions = match counts.offline + counts.under_min_isr + counts.under_replicated {
        0 => Vec::new(),
        _ => {
            let page = admin.list_partitions_page(None, PartitionFilter::NotWell, SHOWN, "").await;
            page?.partitions
        }
    };
    Ok(Health { problems: problems(&cluster), cluster, partitions })
}

/// What is not well, worst first.
fn problems(cluster: &ClusterDescription) -> Vec<String> {
    let mut problems = Vec::new();
    if cluster.leader.is_none() {
        problems.push(format!(
            "nobody leads the metadata quorum, as far as broker {} knows: nothing can be changed, \
             and who fails now is not replaced",
            cluster.answered_by
        ));
    }
    let counts = cluster.partitions;
    let mut count = |n: u32, what: &str| {
        if n > 0 {
            problems.push(format!("{} {what}", counted(u64::from(n), "partition")));
        }
    };
    count(counts.offline, "without a leader: not written, not read");
    count(counts.under_min_isr, "below min.insync.replicas: acks=all is refused");
    count(counts.under_replicated, "with replicas that are not in sync");
    for broker in &cluster.brokers {
        match broker.presence {
            BrokerPresence::Active => {}
            BrokerPresence::Leaving => problems.push(format!("broker {} is stopping", broker.id)),
            _ => problems.push(format!(
                "broker {} is fenced, with {}",
                broker.id,
                counted(u64::from(broker.replicas), "replica")
            )),
        }
    }
    problems.extend(clocks(cluster));
    problems
}

/// Wall clocks that do not agree: which, how far, and what that keeps from being done.
fn clocks(cluster: &ClusterDescription) -> Vec<String> {
    let leader =
        cluster.leader.map_or_else(|| "the leader".to_owned(), |id| format!("broker {id}"));
    let mut problems = Vec::new();
    if cluster.clock_disputed {
        problems.push(format!(
            "no more than half of the brokers' clocks agree with that of {leader}, which leads the \
             quorum and may be the wrong one: nothing is deleted for its age until they do; use NTP"
        ));
    }
    for broker in &cluster.brokers {
        let Some(ahead) = broker.clock_ahead_ms else { continue };
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        let meaning = match broker.presence {
            BrokerPresence::Fenced => "it is not taken in like that",
            _ => "nothing is deleted for its age there",
        };
        problems.push(format!(
            "the clock of broker {} is {} s {side} that of {leader}, which leads the quorum: {meaning}; \
             set the one that is wrong, best by NTP",
            broker.id,
            ahead.unsigned_abs() / 1000
        ));
    }
    problems
}

fn verdict(health: &Health) -> Result<()> {
    match health.problems.len() {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::Unavailable,
            format!("the cluster is not well: {}", counted(n as u64, "problem")),
        )),
    }
}

fn print(health: &Health, args: OutputArgs) -> Result<()> {
    let Health { cluster, problems, partitions } = health;
    let counts = cluster.partitions;
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&json!({
            "healthy": problems.is_empty(),
            "problems": problems,
            "cluster_id": cluster.id,
            "answered_by": cluster.answered_by.0,
            "quorum_leader": cluster.leader.map(|leader| leader.0),
            "partitions": {
                "total": counts.total,
                "offline": counts.offline,
                "under_min_isr": counts.under_min_isr,
                "under_replicated": counts.under_replicated,
                "reassigning": counts.reassigning,
                "not_preferred": counts.not_preferred,
            },
            "not_well": partitions.iter().map(description_json).collect::<Vec<_>>(),
        }))?;
        return out.flush();
    }
    let active = cluster.brokers.iter().filter(|b| b.presence == BrokerPresence::Active).count();
    let drained = cluster.brokers.iter().filter(|broker| broker.draining).count();
    let drained = if drained == 0 { String::new() } else { format!(", {drained} drained") };
    out.line(format_args!("brokers     {active} of {} take part{drained}", cluster.brokers.len()))?;
    let voters = cluster.nodes.iter().filter(|node| node.role == QuorumRole::Voter).count();
    let leads =
        cluster.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("node {leader}"));
    out.line(format_args!("quorum      {}, {leads} leads", counted(voters as u64, "voter")))?;
    out.line(format_args!(
        "partitions  {}, {} moving, {} not led by their preferred leader",
        counts.total, counts.reassigning, counts.not_preferred
    ))?;
    if problems.is_empty() {
        out.line("all is well")?;
        return out.flush();
    }
    for problem in problems {
        out.line(format_args!("! {problem}"))?;
    }
    if !partitions.is_empty() {
        out.line("")?;
        print_partitions(partitions, &mut out)?;
        out.line("\nwhy: riverrun explain TOPIC PARTITION")?;
    }
    out.flush()
}
