//! `riverrun broker`: taking a broker out of service, for a while or for good.

use std::time::Duration;

use clap::{Args, Subcommand};
use riverrun_client::{BrokerId, Client, ClusterDescription};
use tokio::time::sleep;

use super::{
    cluster::print_brokers,
    error::{Exit, Failure, Result},
    moving::{Moving, MovingArgs},
    output::{OutputArgs, counted},
    session::{Session, monotonic},
};

/// Pause between two looks at what a drained broker still leads.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Take a broker out of service, for a while or for good
#[derive(Debug, Subcommand)]
pub(crate) enum BrokerCommand {
    Drain(DrainArgs),
    Remove(RemoveArgs),
}

/// Let others lead what a broker leads, and give it nothing new; with --replicas, move its replicas
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun broker drain 2                  before maintenance: it leads nothing any more
  riverrun broker drain 2 --cancel         back in service
  riverrun broker drain 2 --replicas       for good: its replicas go elsewhere; then stop it, and
  riverrun broker remove 2                 forget it

A plain restart needs none of this: a broker that is told to stop (SIGTERM) hands over what it leads
first. --replicas may be broken off; the same command goes on.")]
pub(crate) struct DrainArgs {
    /// The broker's broker.node.id
    #[arg(value_name = "ID")]
    broker: u32,

    /// Take it back: the broker is given leaders and replicas again
    #[arg(long, conflicts_with = "replicas")]
    cancel: bool,

    /// Move its replicas to other brokers as well
    #[arg(long)]
    replicas: bool,

    #[command(flatten)]
    moving: MovingArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Forget a broker that was drained with --replicas and stopped
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun broker remove 2

Refused while it has replicas, runs, or votes (riverrun cluster remove-voter). If it is ever started
again it comes as a new broker.")]
pub(crate) struct RemoveArgs {
    /// The broker's broker.node.id
    #[arg(value_name = "ID")]
    broker: u32,
}

pub(crate) async fn run(command: BrokerCommand, session: &Session) -> Result<()> {
    let client = session.client().await?;
    match command {
        BrokerCommand::Drain(args) => drain(&args, &client, session).await,
        BrokerCommand::Remove(args) => {
            session.admin(&client).remove_broker(BrokerId(args.broker)).await?;
            session.say(format_args!("broker {} is forgotten", args.broker));
            Ok(())
        }
    }
}

async fn drain(args: &DrainArgs, client: &Client, session: &Session) -> Result<()> {
    if args.moving.throttle.is_some() && !args.replicas {
        let what = "--throttle is about replicas that move, and without --replicas none does";
        return Err(Failure::usage(what));
    }
    let (admin, id) = (session.admin(client), BrokerId(args.broker));
    admin.drain_broker(id, !args.cancel).await?;
    if args.cancel {
        session.say(format_args!("broker {id} is in service again"));
        session.say("leaders come back to it by themselves; replicas: riverrun cluster rebalance");
    } else {
        if args.replicas {
            let moving = Moving { admin: &admin, session, off: Some(id) };
            let moved = moving.carry_out(args.moving).await?;
            session.say(format_args!("{} moved", counted(moved as u64, "partition")));
        }
        wait_until_nothing_is_led(id, client, session).await?;
        session.say(format_args!("broker {id} leads nothing and is given nothing new"));
    }
    let mut cluster = admin.describe_cluster().await?;
    cluster.brokers.retain(|broker| broker.id == id);
    print_brokers(&cluster.brokers, args.output)
}

/// Leadership is moved by whoever leads the quorum. What cannot be moved is said, once nothing has
/// moved for as long as an answer may take.
async fn wait_until_nothing_is_led(id: BrokerId, client: &Client, session: &Session) -> Result<()> {
    let leads = |cluster: &ClusterDescription| {
        cluster.brokers.iter().find(|broker| broker.id == id).map_or(0, |broker| broker.leads)
    };
    let (mut least, mut since) = (u32::MAX, monotonic());
    loop {
        let led = leads(&session.admin(client).describe_cluster().await?);
        if led == 0 {
            return Ok(());
        }
        if led < least {
            session.say(format_args!("it leads {}", counted(u64::from(led), "partition")));
            (least, since) = (led, monotonic());
        }
        if monotonic().duration_since(since) > session.timeout() {
            let led = counted(u64::from(led), "partition");
            return Err(Failure::new(
                Exit::Unavailable,
                format!("broker {id} still leads {led}: no other replica of theirs is in sync"),
            )
            .advise(
                "it stays drained, and hands over as soon as one is; see riverrun cluster health",
            )
            .advise(format!("take it back: riverrun broker drain {id} --cancel")));
        }
        sleep(LOOK_EVERY).await;
    }
}
