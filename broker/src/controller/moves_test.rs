use proptest::{collection::vec, prelude::*};

use super::*;
use crate::metadata::{
    Command, Presence,
    test_support::{apply, create, drain, first_of, level_1, level_2, level_3, reassign, stand},
};
use crate::metadata::{command::JoinBroker, test_support};

const ONE: BrokerId = BrokerId(1);
const FOUR: BrokerId = BrokerId(4);

/// Brokers 1, 2, …, all there; with these racks, where there are any.
fn brokers(count: u32, racks: &[&str]) -> MetadataImage {
    let mut image = MetadataImage::default();
    for command in [level_1(), level_2(), level_3()] {
        image = is(&image, &command);
    }
    for id in 1..=count {
        let mut registration = test_support::registration(id, 1);
        let at = (id as usize - 1).checked_rem(racks.len());
        registration.rack = at.map(|at| racks[at].to_owned());
        let join = Command::JoinBroker(JoinBroker { registration, whole_since: None });
        image = is(&image, &join);
        let epoch = image.broker(BrokerId(id)).unwrap().epoch.get();
        image = is(&image, &stand(id, epoch, Presence::Active));
    }
    image
}

fn is(image: &MetadataImage, command: &Command) -> MetadataImage {
    let applied = apply(image, command);
    assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
    applied.image
}

fn fence(image: &MetadataImage, id: u32) -> MetadataImage {
    let epoch = image.broker(BrokerId(id)).unwrap().epoch.get();
    is(image, &stand(id, epoch, Presence::Fenced))
}

/// Partitions as they are to be, by index of the plan's partitions and of all others.
fn result(image: &MetadataImage, plan: &Plan) -> Vec<Vec<BrokerId>> {
    let mut after = Vec::new();
    for topic in image.topics() {
        for (index, partition) in topic.partitions() {
            let id = TopicPartition::new(topic.id, index);
            let moved = plan.moves.iter().find(|m| m.partition == id);
            if let Some(moved) = moved {
                assert_eq!((&moved.from[..], moved.epoch), {
                    (partition.assigned(), partition.partition_epoch)
                });
            }
            after.push(moved.map_or(partition.assigned().to_vec(), |m| m.to.clone()));
        }
    }
    after
}

fn loads(placed: &[Vec<BrokerId>]) -> BTreeMap<BrokerId, usize> {
    let mut loads = BTreeMap::new();
    placed.iter().flatten().for_each(|id| *loads.entry(*id).or_default() += 1);
    loads
}

fn copies(plan: &Plan) -> usize {
    plan.moves.iter().map(Move::copies).sum()
}

#[test]
fn a_broker_that_came_gets_its_share_and_nothing_else_moves() {
    let three: &[&[u32]] = &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 3, 2]];
    let image = is(&brokers(4, &[]), &create(1, "a", three));
    let plan = plan(&image, Goal::Spread);
    assert_eq!((copies(&plan), plan.stuck), (3, 0), "{plan:?}");
    assert!(loads(&result(&image, &plan)).values().all(|load| *load == 3));
    let leads: BTreeSet<_> = result(&image, &plan).iter().map(|to| to[0]).collect();
    assert_eq!(leads.len(), 4, "each is preferred once");
}

#[test]
fn what_leaves_a_broker_goes_to_those_that_have_least_and_the_rest_stays() {
    let image = is(&brokers(4, &[]), &create(1, "a", &[&[1, 2], &[1, 3], &[2, 3]]));
    let off = plan(&image, Goal::Off(ONE));
    assert_eq!(
        result(&image, &off),
        [[4, 2], [4, 3], [2, 3]].map(|ids| ids.map(BrokerId).to_vec())
    );
    let drained = is(&image, &drain(1, true));
    let spread = plan(&drained, Goal::Spread);
    assert!(!loads(&result(&drained, &spread)).contains_key(&ONE));
    assert_eq!(copies(&spread), 2, "{spread:?}");
}

#[test]
fn where_nobody_can_take_a_replica_it_stays_and_is_counted() {
    let image = is(&brokers(3, &[]), &create(1, "a", &[&[1, 2, 3], &[1, 2, 3]]));
    let image = is(&image, &drain(1, true));
    assert_eq!(plan(&image, Goal::Spread), Plan { moves: vec![], stuck: 2 });
    assert_eq!(plan(&image, Goal::Off(ONE)).stuck, 2);
}

#[test]
fn a_rack_is_not_given_up_and_two_replicas_do_not_stay_in_one() {
    // 1 and 3 in a, 2 and 4 in b.
    let image =
        is(&brokers(4, &["a", "b"]), &create(1, "x", &[&[1, 2], &[1, 3], &[3, 1], &[1, 2]]));
    let plan = plan(&image, Goal::Spread);
    let placed = result(&image, &plan);
    for replicas in &placed {
        let racks: BTreeSet<_> = replicas.iter().map(|id| id.0 % 2).collect();
        assert_eq!(racks.len(), 2, "{placed:?}");
    }
    assert!(loads(&placed).values().all(|load| *load == 2), "{placed:?}");
}

#[test]
fn who_is_fenced_keeps_what_it_has_and_gets_nothing() {
    let image = is(&brokers(4, &[]), &create(1, "a", &[&[1, 2], &[1, 3], &[1, 2]]));
    let image = fence(&fence(&image, 4), 1);
    let placed = result(&image, &plan(&image, Goal::Spread));
    assert_eq!(loads(&placed)[&ONE], 3);
    assert!(!loads(&placed).contains_key(&FOUR));
}

#[test]
fn what_is_under_way_counts_as_it_will_be_and_is_left_alone() {
    let image = is(&brokers(4, &[]), &create(1, "a", &[&[1, 2]]));
    let image = is(&image, &create(2, "b", &[&[1, 2]]));
    let image = is(&image, &reassign(1, 0, &[3, 4]));
    let plan = plan(&image, Goal::Spread);
    assert!(plan.moves.iter().all(|m| m.partition != first_of(1)));
    assert_eq!(plan.moves, vec![], "3 and 4 have theirs as good as already");
}

proptest! {
    #[test]
    fn plans_are_even_complete_and_no_larger_than_need_be(
        n in 1..8_u32,
        drained in vec(any::<bool>(), 8),
        lists in vec((0..8_u32, 1..4_u32), 1..30),
    ) {
        let mut image = brokers(n, &[]);
        for (topic, (first, rf)) in (0_u8..).zip(&lists) {
            // Crooked on purpose: all begin low.
            let rf = (*rf).min(n);
            let first = first % 3;
            let replicas: Vec<u32> = (0..rf).map(|k| (first + k) % n + 1).collect();
            image = is(&image, &create(topic, &format!("t{topic}"), &[&replicas]));
        }
        let off: BTreeSet<BrokerId> =
            (1..n).filter(|id| drained[*id as usize]).map(BrokerId).collect();
        for id in &off {
            image = is(&image, &drain(id.0, true));
        }
        let before: Vec<_> =
            image.topics().flat_map(|t| t.partitions().map(|(_, p)| p.replicas.clone())).collect();
        let plan = plan(&image, Goal::Spread);
        let after = result(&image, &plan);

        for (was, is) in before.iter().zip(&after) {
            prop_assert_eq!(was.len(), is.len());
            let distinct: BTreeSet<_> = is.iter().collect();
            prop_assert_eq!(distinct.len(), is.len(), "{:?}", is);
        }
        let left = after.iter().flatten().filter(|id| off.contains(id)).count();
        prop_assert_eq!(left, plan.stuck);
        let taking: Vec<_> = (1..=n).map(BrokerId).filter(|id| !off.contains(id)).collect();
        let load = |placed: &[Vec<BrokerId>]| -> Vec<usize> {
            let loads = loads(placed);
            taking.iter().map(|id| loads.get(id).copied().unwrap_or(0)).collect()
        };
        let loads_after = load(&after);
        let (most, least) = (loads_after.iter().max().unwrap(), loads_after.iter().min().unwrap());
        prop_assert!(most - least <= 1, "{loads_after:?}");

        // No plan copies less: what is off has to go, and who has too few has to get.
        let loads_before = load(&before);
        let had_off = before.iter().flatten().filter(|id| off.contains(id)).count();
        let total: usize = loads_after.iter().sum();
        let (floor, ceil) = (total / taking.len(), total.div_ceil(taking.len()));
        let too_few: usize = loads_before.iter().map(|load| floor.saturating_sub(*load)).sum();
        let too_many: usize = loads_before.iter().map(|load| load.saturating_sub(ceil)).sum();
        let leaving = had_off - plan.stuck;
        // Those that leave fill gaps first; whoever has too many has to give all the same.
        let least_copies = too_few.max(leaving + too_many);
        prop_assert!(copies(&plan) >= least_copies);
        if off.is_empty() {
            prop_assert_eq!(copies(&plan), least_copies);
        }

        // Done is done.
        let mut done = image.clone();
        for m in &plan.moves {
            let n = (0..30).find(|n| first_of(*n) == m.partition).unwrap();
            let mut command = reassign(n, m.epoch.get(), &[]);
            if let Command::Reassign(reassign) = &mut command {
                reassign.to.clone_from(&m.to);
            }
            done = is(&done, &command);
        }
        prop_assert_eq!(super::plan(&done, Goal::Spread).moves, vec![]);
    }
}
