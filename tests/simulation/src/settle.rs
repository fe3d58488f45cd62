//! Liveness (L1, L2): when nothing goes wrong any more, everything comes right, soon, and stays so.

use std::time::Duration;

use riverrun_broker::replica::Rules;

use crate::{
    controller::{broker_number, partition_id},
    coverage::Fact,
    member,
    setup::{Metadata, SESSION_TIMEOUT},
    stage::{Event, Mend},
    world::World,
};

/// All is well within this time, …
const PATIENCE: Duration = Duration::from_secs(30);
/// … has been for as long as what was done to a broker can still make somebody fence it (it was paused
/// until a moment ago, nobody has heard it yet, its fencing is under way), …
const STANDS: Duration = SESSION_TIMEOUT;
/// … and stays well for this long.
const STAYS: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl<R: Rules> World<R> {
    /// Ends all faults and waits for everything to come right; then looks at all that was written.
    pub fn settle(&mut self) {
        self.stage.is_calm = true;
        self.stage.say(format_args!("calm"));
        self.mend(Mend::Network);
        for broker in 0..self.stage.setup.brokers {
            self.mend(Mend::Disk(broker));
            self.brokers[broker].machine.disk.forget_faults();
            self.stage.schedule.after(Duration::ZERO, Event::Start { broker });
        }
        let changes = |world: &Self| {
            let count = |fact| world.stage.coverage.of(fact);
            count(Fact::IsrGrew) + count(Fact::IsrShrunk) + count(Fact::Election)
        };
        let deadline = self.stage.now() + PATIENCE;
        let mut well_since = None;
        let before = loop {
            let next = self.stage.now() + LOOK_EVERY;
            if !self.go_on_until(next) {
                return;
            }
            let (now, before, unsettled) = (self.stage.now(), changes(self), self.unsettled());
            match (&unsettled, well_since) {
                (None, Some((since, same))) if same == before => {
                    if now.saturating_sub(since) >= STANDS {
                        break before;
                    }
                }
                (None, _) => well_since = Some((now, before)),
                (Some(_), _) => well_since = None,
            }
            if now > deadline {
                let what = unsettled.unwrap_or_else(|| "leaders or ISRs keep changing".to_owned());
                return self.stage.fail(format!("L1: {what}"));
            }
        };
        let until = self.stage.now() + STAYS;
        if !self.go_on_until(until) {
            return;
        }
        if changes(self) != before {
            return self.stage.fail("L2: leaders or ISRs change though nothing happens");
        }
        if let Some(what) = self.unsettled() {
            return self.stage.fail(format!("L2: {what}, though nothing happened"));
        }
        if let Err(law) = self.audit() {
            self.stage.fail(law);
        }
    }

    /// What is not as it will be.
    fn unsettled(&self) -> Option<String> {
        let now = self.stage.now();
        for process in self.brokers.iter().filter_map(|broker| broker.process.as_ref()) {
            if process.leaves || process.paused_until > now {
                return Some(format!("{:?} stops, or stands still", process.end));
            }
        }
        let image = self.stage.decided.image();
        for at in 0..self.stage.setup.partitions {
            let Some(partition) = image.partition(partition_id(at)) else {
                return Some(format!("p{at} is not there"));
            };
            let Some(leader) = partition.leader else {
                return Some(format!("p{at} has no leader"));
            };
            if let Some(under_way) = &partition.reassignment {
                return Some(format!("p{at} is being reassigned: {under_way:?}"));
            }
            if partition.isr.len() < partition.replicas.len() {
                return Some(format!("the ISR of p{at} is {:?}", partition.isr));
            }
            let shell = |broker: usize| {
                self.brokers[broker].process.as_ref().and_then(|p| p.shells.get(at))
            };
            let Some(leading) = shell(broker_number(leader)) else {
                return Some(format!("the leader of p{at} does not run"));
            };
            if leading.replica.leads() != Some(partition.leader_epoch) {
                return Some(format!("{leader:?} does not lead p{at}"));
            }
            let end = leading.log.log_end_offset();
            for broker in partition.replicas.iter().copied().map(broker_number) {
                let Some(shell) = shell(broker) else { return Some(format!("b{broker} is down")) };
                // A log start that nobody else had heard of when its leader died is that broker's.
                if shell.log.log_end_offset() != end {
                    let has = shell.log.log_end_offset();
                    return Some(format!("p{at} of b{broker} ends at {has}, not {end}"));
                }
                if shell.replica.high_watermark() != end {
                    let shown = shell.replica.high_watermark();
                    return Some(format!("p{at} of b{broker} shows {shown} of {end}"));
                }
            }
            if let Some(consumer) = self.consumers.iter().find(|c| c.partition == at)
                && consumer.position != end
            {
                return Some(format!("p{at} was read to {}, not {end}", consumer.position));
            }
        }
        if self.stage.setup.metadata == Metadata::Quorum
            && let Some(what) = member::disagree(self.members(), &image)
        {
            return Some(what);
        }
        let waits = self.producers.iter().find(|producer| !producer.is_done());
        waits.map(|producer| format!("c{} waits for answers", producer.number))
    }
}
