//! `riverrun topic`: create, list, describe, alter and delete topics.

use clap::{Args, Subcommand};
use riverrun_client::{Client, Topic, TopicDescription};
use serde_json::{Value, json};

use super::{
    confirm::confirm,
    error::{Failure, Result},
    output::{self, Align, OutputArgs, Stdout, count},
    session::Session,
};

/// Create, list, describe, alter and delete topics
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Alter(AlterArgs),
    Delete(DeleteArgs),
}

/// Create topics
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun topic create orders
  riverrun topic create orders -p 12 --config retention.ms=30d --config durability=disk
  riverrun topic create orders -p 12 --dry-run

Sizes and times may have units (64MiB, 1GB, 7d, 500ms). `riverrun topic describe TOPIC --all`
lists every key with its meaning.")]
pub(crate) struct CreateArgs {
    /// Names: 1 to 249 of a-z A-Z 0-9 . _ -
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,

    /// Number of partitions [default: the broker's num.partitions]
    #[arg(short, long, value_name = "N")]
    partitions: Option<u32>,

    /// Copies of each partition [default: the broker's default.replication.factor]
    #[arg(short, long, value_name = "N")]
    replication_factor: Option<u32>,

    /// A key of the topic's configuration; may be given several times
    #[arg(short, long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,

    /// Do nothing where a topic of that name exists
    #[arg(long)]
    if_not_exists: bool,

    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// List topics
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Show partitions, offsets, size and configuration of topics
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun topic describe orders
  riverrun topic describe orders --all
  riverrun topic describe orders -o json | jq '.[0].partitions[].high_watermark'")]
pub(crate) struct DescribeArgs {
    /// Names
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,

    /// Every configuration key with its meaning, not only those that the topic sets
    #[arg(short, long)]
    all: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Change a topic's configuration, or add partitions
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun topic alter orders --config retention.ms=7d --reset segment.ms
  riverrun topic alter orders --partitions 24

The number of partitions can only grow, and growing moves keys: records of one key written before
and after lie in different partitions.")]
pub(crate) struct AlterArgs {
    /// Name
    #[arg(value_name = "TOPIC")]
    topic: String,

    /// The new number of partitions
    #[arg(short, long, value_name = "N")]
    partitions: Option<u32>,

    /// A key to set; may be given several times
    #[arg(short, long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,

    /// A key to take back to the broker's default; may be given several times
    #[arg(long, value_name = "KEY")]
    reset: Vec<String>,

    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Delete topics with all their records
#[derive(Args, Debug)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  riverrun topic delete orders --dry-run      say what would be lost
  riverrun topic delete orders -y             do not ask"
)]
pub(crate) struct DeleteArgs {
    /// Names
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,

    /// Say what would be deleted, delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(command: TopicCommand, session: &Session) -> Result<()> {
    let client = session.client().await?;
    match command {
        TopicCommand::Create(args) => create(args, &client, session).await,
        TopicCommand::List(args) => list(&args, &client, session).await,
        TopicCommand::Describe(args) => describe(args, &client, session).await,
        TopicCommand::Alter(args) => alter(args, &client, session).await,
        TopicCommand::Delete(args) => delete(args, &client, session).await,
    }
}

async fn create(args: CreateArgs, client: &Client, session: &Session) -> Result<()> {
    let mut topics = Vec::new();
    for name in &args.topics {
        let mut call = session.admin(client).create_topic(name.as_str());
        if args.dry_run {
            call = call.validate_only();
        }
        if let Some(partitions) = args.partitions {
            call = call.partitions(partitions);
        }
        if let Some(replication_factor) = args.replication_factor {
            call = call.replication_factor(replication_factor);
        }
        for (key, value) in &args.configs {
            call = call.config(key.as_str(), value.as_str());
        }
        match call.send().await {
            Ok(topic) => topics.push(topic),
            Err(e) if e.kind() == riverrun_client::ErrorKind::TopicExists && args.if_not_exists => {
                session.say(format_args!("topic '{name}' exists already"));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let done = if args.dry_run { "would be created" } else { "created" };
    print_topics(&topics, done, args.output)
}

/// The topics that a command made or changed.
fn print_topics(topics: &[Topic], done: &str, output: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if output.is_json() {
        out.json(&topics.iter().map(topic_json).collect::<Vec<_>>())?;
        return out.flush();
    }
    for topic in topics {
        let partitions = output::counted(topic.partitions.len() as u64, "partition");
        out.line(format_args!("{} {done}: {partitions}", topic.name))?;
    }
    out.flush()
}

async fn list(args: &ListArgs, client: &Client, session: &Session) -> Result<()> {
    let mut topics = session.admin(client).list_topics().await?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&topics.iter().map(topic_json).collect::<Vec<_>>())?;
        return out.flush();
    }
    let columns =
        [("TOPIC", Align::Left), ("PARTITIONS", Align::Right), ("REPLICAS", Align::Right)];
    let row = |topic: &Topic| {
        vec![
            topic.name.to_string(),
            topic.partitions.len().to_string(),
            topic.replication_factor.to_string(),
        ]
    };
    out.table(&columns, topics.iter().map(row))?;
    out.flush()
}

async fn describe(args: DescribeArgs, client: &Client, session: &Session) -> Result<()> {
    let mut topics = Vec::new();
    for name in &args.topics {
        match session.admin(client).describe_topic(name.as_str()).await {
            Ok(topic) => topics.push(topic),
            Err(e) => return Err(session.explain(client, name, e).await),
        }
    }
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&topics.iter().map(description_json).collect::<Vec<_>>())?;
        return out.flush();
    }
    for (i, topic) in topics.iter().enumerate() {
        if i > 0 {
            out.line("")?;
        }
        print_description(topic, args.all, &mut out)?;
    }
    out.flush()
}

fn print_description(topic: &TopicDescription, all: bool, out: &mut Stdout) -> Result<()> {
    let TopicDescription { topic: about, .. } = topic;
    let replicas = output::counted(u64::from(about.replication_factor), "replica");
    let partitions = output::counted(about.partitions.len() as u64, "partition");
    out.line(format_args!("{}  {partitions}, {replicas}, id {}", about.name, about.id))?;
    out.line("")?;
    let columns = [
        ("PARTITION", Align::Right),
        ("LEADER", Align::Right),
        ("EPOCH", Align::Right),
        ("START", Align::Right),
        ("COMMITTED", Align::Right),
        ("END", Align::Right),
        ("FLUSHED", Align::Right),
        ("SIZE", Align::Right),
        ("SEGMENTS", Align::Right),
    ];
    out.table(&columns, topic.partitions.iter().map(|state| partition_row(about, state)))?;
    for (partition, state) in &topic.partitions {
        if let Err(error) = state {
            out.line(format_args!("partition {partition}: {error}"))?;
        }
    }
    let shown: Vec<_> = topic.configs.iter().filter(|entry| all || entry.overridden).collect();
    if shown.is_empty() {
        return out.line("\nNo configuration of its own (--all shows the defaults).");
    }
    out.line("")?;
    let columns = [("CONFIG", Align::Left), ("VALUE", Align::Left), ("SET BY", Align::Left)];
    let by = |overridden| if overridden { "topic" } else { "default" };
    if !all {
        let row = |entry: &&riverrun_client::ConfigEntry| {
            vec![entry.key.clone(), entry.value.clone(), by(entry.overridden).to_owned()]
        };
        return out.table(&columns, shown.iter().map(row));
    }
    for entry in shown {
        out.line(format_args!("{} = {}  ({})", entry.key, entry.value, by(entry.overridden)))?;
        out.line(format_args!("    {}", entry.documentation.replace('\n', "\n    ")))?;
    }
    Ok(())
}

type PartitionState = (u32, Result<riverrun_client::PartitionOffsets, riverrun_client::Error>);

fn partition_row(topic: &Topic, (index, state): &PartitionState) -> Vec<String> {
    let about = topic.partitions.iter().find(|partition| partition.index == *index);
    let leader = about.and_then(|partition| partition.leader);
    let mut row = vec![
        index.to_string(),
        leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
        about.map_or_else(String::new, |partition| partition.leader_epoch.to_string()),
    ];
    match state {
        Ok(offsets) => row.extend([
            offsets.log_start_offset.to_string(),
            offsets.high_watermark.to_string(),
            offsets.log_end_offset.to_string(),
            offsets.flushed_end_offset.to_string(),
            output::bytes(offsets.size_bytes),
            offsets.segments.to_string(),
        ]),
        Err(_) => row.extend(["?"; 6].map(str::to_owned)),
    }
    row
}

async fn alter(args: AlterArgs, client: &Client, session: &Session) -> Result<()> {
    if args.partitions.is_none() && args.configs.is_empty() && args.reset.is_empty() {
        return Err(Failure::usage("nothing to change")
            .advise("give --partitions N, --config KEY=VALUE or --reset KEY"));
    }
    let admin = session.admin(client);
    let name = args.topic.as_str();
    // Both are checked before either is done: what can be refused is refused as a whole.
    let dry_runs: &[bool] = if args.dry_run { &[true] } else { &[true, false] };
    let mut entries = None;
    for &dry_run in dry_runs {
        if !args.configs.is_empty() || !args.reset.is_empty() {
            let mut call = admin.alter_configs(name);
            for (key, value) in &args.configs {
                call = call.set(key.as_str(), value.as_str());
            }
            for key in &args.reset {
                call = call.reset(key.as_str());
            }
            if dry_run {
                call = call.validate_only();
            }
            match call.send().await {
                Ok(altered) => entries = Some(altered),
                Err(e) => return Err(session.explain(client, name, e).await),
            }
        }
        let grown = match args.partitions {
            None => Ok(()),
            Some(partitions) if dry_run => admin.check_create_partitions(name, partitions).await,
            Some(partitions) => admin.create_partitions(name, partitions).await.map(|_| ()),
        };
        if let Err(e) = grown {
            return Err(session.explain(client, name, e).await);
        }
    }
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&json!({
            "topic": name,
            "dry_run": args.dry_run,
            "partitions": args.partitions,
            "configs": entries.iter().flatten().map(config_json).collect::<Vec<_>>(),
        }))?;
        return out.flush();
    }
    let done = if args.dry_run { "would have" } else { "has" };
    if let Some(partitions) = args.partitions {
        let partitions = output::counted(u64::from(partitions), "partition");
        out.line(format_args!("{name} {done} {partitions}"))?;
    }
    let changed = |key: &str| {
        args.configs.iter().any(|(set, _)| set == key) || args.reset.iter().any(|r| r == key)
    };
    for entry in entries.iter().flatten().filter(|entry| changed(&entry.key)) {
        out.line(format_args!("{name} {done} {}={}", entry.key, entry.value))?;
    }
    out.flush()
}

async fn delete(args: DeleteArgs, client: &Client, session: &Session) -> Result<()> {
    let mut topics = Vec::new();
    for name in &args.topics {
        match session.admin(client).describe_topic(name.as_str()).await {
            Ok(topic) => topics.push(topic),
            Err(e) => return Err(session.explain(client, name, e).await),
        }
    }
    let mut out = Stdout::lock();
    for topic in &topics {
        let offsets = topic.partitions.iter().filter_map(|(_, state)| state.as_ref().ok());
        let (mut records, mut bytes) = (0, 0);
        for partition in offsets {
            records += partition.log_end_offset.abs_diff(partition.log_start_offset);
            bytes += partition.size_bytes;
        }
        let partitions = output::counted(topic.partitions.len() as u64, "partition");
        let lost = format!("{partitions}, {} offsets, {}", count(records), output::bytes(bytes));
        let name = &topic.topic.name;
        if args.dry_run {
            out.line(format_args!("{name} would be deleted: {lost}"))?;
            continue;
        }
        if !args.yes {
            out.flush()?;
            let question = format!("Delete topic {name} ({lost}) for good?");
            confirm(&question, "deleting", "not deleted")
                .map_err(|failure| failure.advise("see what would be deleted: --dry-run"))?;
        }
        // By its id: a topic that was made anew meanwhile is another one.
        let deleted = session.admin(client).delete_topic_by_id(&**name, topic.topic.id).await;
        if let Err(e) = deleted {
            return Err(session.explain(client, name, e).await);
        }
        out.line(format_args!("{name} deleted: {lost}"))?;
    }
    out.flush()
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write key=value, such as retention.ms=7d".to_owned()),
    }
}

fn topic_json(topic: &Topic) -> Value {
    json!({
        "topic": &*topic.name,
        "id": topic.id.to_string(),
        "partitions": topic.partitions.len(),
        "replication_factor": topic.replication_factor,
        "max_message_bytes": topic.max_message_bytes,
    })
}

fn config_json(entry: &riverrun_client::ConfigEntry) -> Value {
    json!({ "key": entry.key, "value": entry.value, "overridden": entry.overridden })
}

fn description_json(topic: &TopicDescription) -> Value {
    let about = &topic.topic;
    let partition = |(index, state): &PartitionState| {
        let of_topic = about.partitions.iter().find(|partition| partition.index == *index);
        let mut json = json!({
            "partition": index,
            "leader": of_topic.and_then(|p| p.leader).map(|leader| leader.to_string()),
            "leader_epoch": of_topic.map(|p| p.leader_epoch),
        });
        match state {
            Ok(offsets) => {
                json["log_start_offset"] = offsets.log_start_offset.into();
                json["high_watermark"] = offsets.high_watermark.into();
                json["log_end_offset"] = offsets.log_end_offset.into();
                json["flushed_end_offset"] = offsets.flushed_end_offset.into();
                json["size_bytes"] = offsets.size_bytes.into();
                json["segments"] = offsets.segments.into();
            }
            Err(error) => json["error"] = error.to_string().into(),
        }
        json
    };
    let mut json = topic_json(about);
    json["partitions"] = topic.partitions.iter().map(partition).collect();
    json["configs"] = topic.configs.iter().map(config_json).collect();
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_may_contain_more_equals_signs() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("a").is_err() && key_value("=b").is_err());
    }
}
