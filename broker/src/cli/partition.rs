//! `riverrun partition`: who has it, who leads it, where its copies stand; elections and moves by
//! hand.

use clap::{Args, Subcommand};
use riverrun_client::{
    Arrival, BrokerId, Client, Election, FollowerState, PartitionDescription, PartitionFilter,
    PartitionReport, ReplicaState,
};
use serde_json::{Value, json};

use super::{
    confirm::confirm,
    error::Result,
    output::{self, Align, OutputArgs, Stdout, count},
    session::Session,
    throttle::Rate,
};

/// Look at partitions; choose who leads, and which brokers have a copy
#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    Describe(DescribeArgs),
    Elect(ElectArgs),
    Reassign(ReassignArgs),
}

/// Show who has a partition, who leads, who is in sync, and where each copy ends
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun partition describe orders
  riverrun partition describe orders 3
  riverrun partition describe orders 3 -o json

With a partition each replica's broker is asked where its log stands. LAST EPOCH is the leader epoch
of its last record: of two copies, the one with the higher last epoch is the better one, then the
one that ends later.")]
pub(crate) struct DescribeArgs {
    /// The topic
    topic: String,

    /// One partition of it; all if left out
    partition: Option<u32>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Let another replica lead
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun partition elect orders 3                       the preferred leader, the first replica
  riverrun partition elect orders 3 --broker 2            this member of the ISR
  riverrun partition elect orders 3 --unclean --broker 2  where nobody leads, and nobody safe is left

An unclean election makes one copy the truth, whatever it lacks: records that were acknowledged and
are only on other replicas are lost. Start the brokers of the other replicas first if that is
possible at all, see riverrun partition describe, and choose the best copy.")]
pub(crate) struct ElectArgs {
    /// The topic
    topic: String,

    /// The partition
    partition: u32,

    /// The preferred leader; the default
    #[arg(long, conflicts_with_all = ["broker", "unclean"])]
    preferred: bool,

    /// Who is to lead
    #[arg(long, value_name = "ID")]
    broker: Option<u32>,

    /// Although it may lack committed records, which are lost then
    #[arg(long, requires = "broker")]
    unclean: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Choose which brokers have a copy
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun partition reassign orders 3 --to 1,2,4
  riverrun partition reassign orders 3 --to 1,2,4 --throttle 50MiB
  riverrun partition reassign orders 3 --cancel

New replicas copy the log first; the old ones go once all new ones are in sync. The first of the
list is the preferred leader. Progress: riverrun partition describe TOPIC PARTITION")]
pub(crate) struct ReassignArgs {
    /// The topic
    topic: String,

    /// The partition
    partition: u32,

    /// The brokers that are to have a copy, the preferred leader first
    #[arg(long, value_name = "ID,...", value_delimiter = ',', required_unless_present = "cancel")]
    to: Vec<u32>,

    /// Go back to the replicas from before
    #[arg(long, conflicts_with_all = ["to", "dry_run"])]
    cancel: bool,

    /// First limit what moves take, as riverrun cluster throttle does
    #[arg(long, value_name = "RATE", conflicts_with_all = ["cancel", "dry_run"])]
    throttle: Option<Rate>,

    /// Check only
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(command: PartitionCommand, session: &Session) -> Result<()> {
    let client = session.client().await?;
    match command {
        PartitionCommand::Describe(DescribeArgs { topic, partition: None, output }) => {
            describe_all(&topic, output, &client, session).await
        }
        PartitionCommand::Describe(DescribeArgs { topic, partition: Some(partition), output }) => {
            let report = report(&topic, partition, &client, session).await?;
            print_report(&report, output)
        }
        PartitionCommand::Elect(args) => elect(args, &client, session).await,
        PartitionCommand::Reassign(args) => reassign(args, &client, session).await,
    }
}

/// All that can be found out about a partition.
pub(super) async fn report(
    topic: &str,
    partition: u32,
    client: &Client,
    session: &Session,
) -> Result<PartitionReport> {
    match session.admin(client).describe_partition((topic, partition)).await {
        Ok(report) => Ok(report),
        Err(error) => Err(session.explain(client, topic, error).await),
    }
}

async fn describe_all(
    topic: &str,
    args: OutputArgs,
    client: &Client,
    session: &Session,
) -> Result<()> {
    let listed = session.admin(client).list_partitions(Some(topic), PartitionFilter::All).await;
    let partitions = match listed {
        Ok(partitions) => partitions,
        Err(error) => return Err(session.explain(client, topic, error).await),
    };
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&partitions.iter().map(description_json).collect::<Vec<_>>())?;
        return out.flush();
    }
    print_partitions(&partitions, &mut out)?;
    out.flush()
}

/// Partitions, a line each.
pub(super) fn print_partitions(
    partitions: &[PartitionDescription],
    out: &mut Stdout,
) -> Result<()> {
    let columns = [
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("LEADER", Align::Right),
        ("EPOCH", Align::Right),
        ("VERSION", Align::Right),
        ("REPLICAS", Align::Left),
        ("IN SYNC", Align::Left),
        ("MIN", Align::Right),
        ("ELIGIBLE", Align::Left),
        ("MOVING", Align::Left),
    ];
    let row = |p: &PartitionDescription| {
        vec![
            p.topic.clone(),
            p.partition.to_string(),
            p.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            p.leader_epoch.to_string(),
            p.partition_epoch.to_string(),
            ids(&p.replicas),
            ids(&p.in_sync_replicas),
            p.min_in_sync_replicas.to_string(),
            ids(&p.eligible_leaders),
            p.reassignment
                .as_ref()
                .map_or_else(String::new, |(from, to)| format!("{} to {}", ids(from), ids(to))),
        ]
    };
    out.table(&columns, partitions.iter().map(row))
}

fn print_report(report: &PartitionReport, args: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&report_json(report))?;
        return out.flush();
    }
    let p = &report.partition;
    let leader =
        p.leader.map_or_else(|| "nobody leads".to_owned(), |leader| format!("led by {leader}"));
    out.line(format_args!(
        "{}/{}  {leader}, leader epoch {}, version {}, min.insync.replicas {}",
        p.topic, p.partition, p.leader_epoch, p.partition_epoch, p.min_in_sync_replicas
    ))?;
    if let Some((from, to)) = &p.reassignment {
        let (from, to) = (ids(from), ids(to));
        out.line(format_args!("replicas go from {from} to {to}"))?;
    }
    if let Some(epoch) = p.unclean_leader_epoch {
        out.line(format_args!(
            "! leader epoch {epoch} began with an unclean election: records from before may be lost"
        ))?;
    }
    out.line("")?;
    let columns = [
        ("REPLICA", Align::Right),
        ("STATE", Align::Left),
        ("START", Align::Right),
        ("COMMITTED", Align::Right),
        ("END", Align::Right),
        ("FLUSHED", Align::Right),
        ("LAST EPOCH", Align::Right),
        ("BEHIND", Align::Right),
        ("SIZE", Align::Right),
    ];
    out.table(&columns, report.copies.iter().map(|(id, copy)| copy_row(report, *id, copy)))?;
    for (id, copy) in &report.copies {
        if let Err(error) = copy {
            out.line(format_args!("broker {id}: {error}"))?;
        }
    }
    for arrival in report.arrivals() {
        out.line(arrival)?;
    }
    if p.leader.is_none() {
        out.line("")?;
        for hindrance in report.explain().hindrances {
            out.line(hindrance)?;
        }
        if let Some(best) = report.best_copy() {
            out.line(format_args!("the best copy of those that answer is on broker {best}"))?;
        }
    }
    out.flush()
}

type Copy = Result<ReplicaState, riverrun_client::Error>;

fn copy_row(report: &PartitionReport, id: BrokerId, copy: &Copy) -> Vec<String> {
    let behind = follower(report, id).map_or_else(String::new, |follower| {
        match (follower.log_end_offset, follower.bytes_behind) {
            (None, _) => "not heard from".to_owned(),
            (Some(_), 0) => "0".to_owned(),
            (Some(_), bytes) => output::bytes(bytes),
        }
    });
    let mut row = vec![id.to_string(), state(report, id)];
    match copy {
        Ok(copy) => row.extend([
            copy.log_start_offset.to_string(),
            copy.high_watermark.to_string(),
            copy.log_end_offset.to_string(),
            copy.flushed_end_offset.to_string(),
            copy.last_leader_epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string()),
            behind,
            output::bytes(copy.size_bytes),
        ]),
        Err(_) => {
            row.extend(["?"; 5].map(str::to_owned));
            row.extend([behind, "?".to_owned()]);
        }
    }
    row
}

fn follower(report: &PartitionReport, id: BrokerId) -> Option<&FollowerState> {
    report.partition.leading.as_ref()?.followers.iter().find(|follower| follower.id == id)
}

/// What a replica is to its partition.
fn state(report: &PartitionReport, id: BrokerId) -> String {
    let p = &report.partition;
    let mut state = if p.leader == Some(id) {
        "leader"
    } else if p.in_sync_replicas.contains(&id) {
        "in sync"
    } else if p.eligible_leaders.contains(&id) {
        "eligible"
    } else if p.last_known_eligible.contains(&id) {
        "was eligible"
    } else {
        "not in sync"
    }
    .to_owned();
    if let Some((from, to)) = &p.reassignment {
        match (from.contains(&id), to.contains(&id)) {
            (false, true) => state.push_str(", coming"),
            (true, false) => state.push_str(", going"),
            _ => {}
        }
    }
    if report.arrivals().iter().any(|arrival| arrival.id == id && arrival.throttle.is_some()) {
        state.push_str(", throttled");
    }
    state
}

async fn elect(args: ElectArgs, client: &Client, session: &Session) -> Result<()> {
    let of = (args.topic.as_str(), args.partition);
    let admin = session.admin(client);
    let (election, seen) = match (args.broker, args.unclean) {
        (None, _) => (Election::Preferred, None),
        (Some(id), false) => (Election::Member(BrokerId(id)), None),
        (Some(id), true) => {
            let report = report(&args.topic, args.partition, client, session).await?;
            let seen = report.partition.partition_epoch;
            for line in losses(&report, BrokerId(id)) {
                session.say(line);
            }
            if !args.yes {
                let what = format!("Let broker {id} lead {}/{} all the same?", of.0, of.1);
                confirm(&what, "an unclean election", "not elected")?;
            }
            (Election::Unclean(BrokerId(id)), Some(seen))
        }
    };
    let elected = match admin.elect_leader(of, election, seen).await {
        Ok(elected) => elected,
        Err(error) => return Err(session.explain(client, &args.topic, error).await),
    };
    print_changed(&elected, "leads", args.output)
}

/// What an unclean election may throw away, as far as the copies that answer tell.
fn losses(report: &PartitionReport, chosen: BrokerId) -> Vec<String> {
    let p = &report.partition;
    let copy = |id: BrokerId| report.copies.iter().find(|(other, _)| *other == id);
    let Some((_, Ok(own))) = copy(chosen) else {
        return vec![format!(
            "broker {chosen} does not say where its copy ends: what is lost cannot be told"
        )];
    };
    let end = own.log_end_offset;
    let mut lines = vec![format!(
        "broker {chosen} has {}/{} from offset {} to {end}; what lies past that is lost",
        p.topic, p.partition, own.log_start_offset
    )];
    for (id, other) in report.copies.iter().filter(|(id, _)| *id != chosen) {
        match other {
            Ok(other) if other.log_end_offset > end => {
                let lost = other.log_end_offset.abs_diff(end);
                lines.push(format!(
                    "broker {id} ends at {}: {} offsets that it has are lost, {} of them known to \
                     be committed",
                    other.log_end_offset,
                    count(lost),
                    count(u64::try_from(other.high_watermark - end).unwrap_or(0)),
                ));
            }
            Ok(other) if other.last_leader_epoch > own.last_leader_epoch => lines.push(format!(
                "broker {id} ends at {}, with records of a later leader: those are lost",
                other.log_end_offset
            )),
            Ok(_) => lines.push(format!("broker {id} has nothing more")),
            Err(_) => {
                lines.push(format!("broker {id} does not answer: what only it has is lost, too"))
            }
        }
    }
    if let Some(best) = report.best_copy().filter(|best| *best != chosen) {
        lines.push(format!("! broker {best} has a better copy"));
    }
    for &safe in p.in_sync_replicas.iter().chain(&p.eligible_leaders).filter(|id| **id != chosen) {
        lines.push(format!(
            "! broker {safe} has all that is committed: start it, and nothing is lost"
        ));
    }
    lines
}

async fn reassign(args: ReassignArgs, client: &Client, session: &Session) -> Result<()> {
    let of = (args.topic.as_str(), args.partition);
    let admin = session.admin(client);
    let to: Vec<_> = args.to.iter().copied().map(BrokerId).collect();
    if let Some(rate) = args.throttle {
        // What is refused must not have changed even that.
        if let Err(error) = admin.check_reassign_partition(of, &to).await {
            return Err(session.explain(client, &args.topic, error).await);
        }
        rate.set(&admin, session).await?;
    }
    let changed = match (args.cancel, args.dry_run) {
        (true, _) => admin.cancel_reassignment(of).await,
        (false, true) => admin.check_reassign_partition(of, &to).await,
        (false, false) => admin.reassign_partition(of, &to, None).await,
    };
    let changed = match changed {
        Ok(changed) => changed,
        Err(error) => return Err(session.explain(client, &args.topic, error).await),
    };
    let done = if args.dry_run { "would be at" } else { "is at" };
    print_changed(&changed, done, args.output)
}

fn print_changed(p: &PartitionDescription, done: &str, args: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&description_json(p))?;
        return out.flush();
    }
    let id = format!("{}/{}", p.topic, p.partition);
    match (&p.reassignment, p.leader) {
        (_, Some(leader)) if done == "leads" => {
            out.line(format_args!("broker {leader} leads {id} in epoch {}", p.leader_epoch))?;
        }
        (Some((from, to)), _) => out.line(format_args!(
            "{id} {done} brokers {}, on its way from {} to {}",
            ids(&p.replicas),
            ids(from),
            ids(to)
        ))?,
        (None, _) => out.line(format_args!("{id} {done} brokers {}", ids(&p.replicas)))?,
    }
    out.flush()
}

pub(super) fn ids(brokers: &[BrokerId]) -> String {
    brokers.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

pub(super) fn ids_json(brokers: &[BrokerId]) -> Vec<u32> {
    brokers.iter().map(|id| id.0).collect()
}

pub(super) fn description_json(p: &PartitionDescription) -> Value {
    json!({
        "topic": p.topic,
        "partition": p.partition,
        "leader": p.leader.map(|leader| leader.0),
        "leader_epoch": p.leader_epoch,
        "partition_epoch": p.partition_epoch,
        "replicas": ids_json(&p.replicas),
        "in_sync_replicas": ids_json(&p.in_sync_replicas),
        "eligible_leaders": ids_json(&p.eligible_leaders),
        "last_known_eligible": ids_json(&p.last_known_eligible),
        "min_in_sync_replicas": p.min_in_sync_replicas,
        "moving": p.reassignment.as_ref().map(|(from, to)| {
            json!({ "from": ids_json(from), "to": ids_json(to) })
        }),
        "unclean_leader_epoch": p.unclean_leader_epoch,
    })
}

fn report_json(report: &PartitionReport) -> Value {
    let copy = |(id, copy): &(BrokerId, Copy)| {
        let mut json = json!({ "broker": id.0, "state": state(report, *id) });
        match copy {
            Ok(copy) => {
                json["log_start_offset"] = copy.log_start_offset.into();
                json["high_watermark"] = copy.high_watermark.into();
                json["log_end_offset"] = copy.log_end_offset.into();
                json["flushed_end_offset"] = copy.flushed_end_offset.into();
                json["last_leader_epoch"] = copy.last_leader_epoch.into();
                json["size_bytes"] = copy.size_bytes.into();
            }
            Err(error) => json["error"] = error.to_string().into(),
        }
        if let Some(follower) = follower(report, *id) {
            json["connected"] = follower.connected.into();
            json["bytes_behind"] = follower.bytes_behind.into();
        }
        json
    };
    let mut json = description_json(&report.partition);
    json["copies"] = report.copies.iter().map(copy).collect();
    json["adding"] = report.arrivals().iter().map(arrival_json).collect();
    json["best_copy"] = report.best_copy().map(|id| id.0).into();
    json
}

/// A replica that is being added.
pub(super) fn arrival_json(arrival: &Arrival) -> Value {
    json!({
        "broker": arrival.id.0,
        "connected": arrival.connected,
        "records_missing": arrival.records,
        "bytes_missing": arrival.bytes,
        "throttle_bytes_per_second": arrival.throttle,
        "growth_bytes_per_second": arrival.growth,
        "gains_nothing": arrival.gains_nothing(),
        "text": arrival.to_string(),
    })
}
