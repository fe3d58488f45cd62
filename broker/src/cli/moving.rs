//! Carries out a plan of moves: a few at a time, planned anew after each few, so that it may be broken
//! off and begun again at any moment, and brokers may come and go meanwhile.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use riverrun_client::{Admin, BrokerId, MovePlan, PartitionFilter, PlannedMove};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    error::{Exit, Failure, Result},
    output::{Align, OutputArgs, Stdout, counted},
    partition::{ids, ids_json},
    session::{self, Session},
    throttle::Rate,
};

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often one partition may refuse to be moved before it is given up.
const REFUSALS_MAX: u32 = 20;

/// Flags of commands that move replicas.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MovingArgs {
    /// Partitions whose replicas are moved at once, those that others move included
    #[arg(long, value_name = "N", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    at_once: u32,

    /// First limit what moves take, as riverrun cluster throttle does
    #[arg(long, value_name = "RATE")]
    pub(crate) throttle: Option<Rate>,
}

/// What is moved: everything that stands askew, or what has to leave one broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving<'a> {
    pub(crate) admin: &'a Admin,
    pub(crate) session: &'a Session,
    pub(crate) off: Option<BrokerId>,
}

impl Moving<'_> {
    /// Moves until there is nothing left to move; says how many partitions were.
    pub(crate) async fn carry_out(self, args: MovingArgs) -> Result<usize> {
        let mut interrupt = session::interrupt()?;
        if let Some(rate) = args.throttle {
            rate.set(self.admin, self.session).await?;
        }
        tokio::select! {
            done = self.work(args.at_once as usize) => done,
            () = interrupt.next() => Err(Failure::failed("broken off")
                .advise("moves that were begun go on; see riverrun cluster health")
                .advise("the same command goes on with the rest")),
        }
    }

    async fn work(self, at_once: usize) -> Result<usize> {
        let mut begun = 0;
        let mut refusals: HashMap<(String, u32), u32> = HashMap::new();
        let mut said = None;
        loop {
            let under_way = self.admin.list_partitions(None, PartitionFilter::Reassigning).await?;
            let is_ours = |from: &[BrokerId]| self.off.is_none_or(|off| from.contains(&off));
            let of_ours = under_way.iter().filter_map(|p| p.reassignment.as_ref());
            let ours = of_ours.filter(|(from, _)| is_ours(from)).count();
            let room = at_once.saturating_sub(under_way.len());
            // One at least, to learn how many are left.
            let asked = u32::try_from(room.max(1)).unwrap_or(u32::MAX);
            let plan = self.admin.plan_moves(self.off, asked).await?;
            if plan.total == 0 && ours == 0 {
                return self.end(&plan, begun);
            }
            let left = (plan.total, ours);
            if said != Some(left) {
                said = Some(left);
                self.session.say(format_args!(
                    "{} left, {ours} under way",
                    counted(u64::from(plan.total), "move")
                ));
            }
            for planned in plan.moves.iter().take(room) {
                begun += usize::from(self.begin(planned, &mut refusals).await?);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it was begun. Refused, it is planned anew: the partition may have changed meanwhile.
    async fn begin(
        self,
        planned: &PlannedMove,
        refusals: &mut HashMap<(String, u32), u32>,
    ) -> Result<bool> {
        let of = (planned.topic.as_str(), planned.partition);
        let seen = Some(planned.partition_epoch);
        let Err(error) = self.admin.reassign_partition(of, &planned.to, seen).await else {
            return Ok(true);
        };
        let refused = refusals.entry((planned.topic.clone(), planned.partition)).or_default();
        *refused += 1;
        if *refused < REFUSALS_MAX && error.is_definite() {
            return Ok(false);
        }
        Err(Failure::from(error).context(format_args!("moving {}/{}", of.0, of.1)))
    }

    fn end(self, plan: &MovePlan, begun: usize) -> Result<usize> {
        if plan.stuck == 0 {
            return Ok(begun);
        }
        let stuck = counted(u64::from(plan.stuck), "replica");
        Err(Failure::new(
            Exit::Unavailable,
            format!("{stuck} cannot be moved: every broker that takes replicas has one already"),
        )
        .advise("start brokers, or add one; then run the same command again"))
    }
}

/// A plan, for people or machines.
pub(crate) fn print_plan(plan: &MovePlan, args: OutputArgs) -> Result<()> {
    let mut out = Stdout::lock();
    if args.is_json() {
        out.json(&json!({
            "total": plan.total,
            "stuck": plan.stuck,
            "moves": plan.moves.iter().map(move_json).collect::<Vec<_>>(),
        }))?;
        return out.flush();
    }
    if plan.total == 0 {
        out.line("nothing to move")?;
    } else {
        let columns = [
            ("TOPIC", Align::Left),
            ("PARTITION", Align::Right),
            ("FROM", Align::Left),
            ("TO", Align::Left),
            ("COPIES", Align::Right),
        ];
        let row = |planned: &PlannedMove| {
            vec![
                planned.topic.clone(),
                planned.partition.to_string(),
                ids(&planned.from),
                ids(&planned.to),
                copies(planned).to_string(),
            ]
        };
        out.table(&columns, plan.moves.iter().map(row))?;
        let more = plan.total as usize - plan.moves.len();
        if more > 0 {
            out.line(format_args!("and {}", counted(more as u64, "further move")))?;
        }
    }
    if plan.stuck > 0 {
        let stuck = counted(u64::from(plan.stuck), "replica");
        out.line(format_args!("! {stuck} cannot leave: there is no broker to go to"))?;
    }
    out.flush()
}

/// Replicas that have to be copied.
fn copies(planned: &PlannedMove) -> usize {
    planned.to.iter().filter(|id| !planned.from.contains(id)).count()
}

fn move_json(planned: &PlannedMove) -> Value {
    json!({
        "topic": planned.topic,
        "partition": planned.partition,
        "from": ids_json(&planned.from),
        "to": ids_json(&planned.to),
        "copies": copies(planned),
    })
}
