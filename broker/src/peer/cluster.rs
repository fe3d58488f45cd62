//! How a node finds the cluster it belongs to, and joins it.
//!
//! A node with an empty data directory asks the addresses it was given
//! (`controller.quorum.bootstrap.servers`) who they are. If one of them has a cluster, that is its
//! cluster. If none has, the first of the list founds one, but only once *every* other has said that
//! it has none: a founder whose disk was wiped must not found a second cluster beside the first. A
//! node that was given no address founds one at once: it is alone.
//!
//! A node that is in no quorum yet, or hears from no leader, asks to be taken in as a listener, until
//! it is. That is idempotent, tells everybody where it is, and brings back one that was taken out of
//! the vote while it was away.

use std::{sync::Arc, time::Duration};

use riverrun_proto::{
    ids::{BrokerId, ClusterId, IncarnationId},
    rpc::internal::v1::{self as wire, quorum_service_client::QuorumServiceClient},
};
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::{
    connect::{Backoff, Dialler},
    hello::{Card, VERSION},
};
use crate::controller::{MetaQuorum, raft::RaftQuorum};

/// How long one node may take to say who it is, or to take another in.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node waits for a leader to be heard before it asks to be taken in again.
const LEADER_GRACE: Duration = Duration::from_secs(3);
/// Leaders that point to one another are followed so far in one round.
const HINTS_MAX: usize = 4;

/// Somebody has to do something before this node can take part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Where a node with an empty directory belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It founds a cluster.
    Found,
    /// It joins this one.
    Join(ClusterId),
}

/// What somebody at an address said of himself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Nothing, and why.
    Silence(String),
    Myself,
    Newer(u32),
    /// A node without a cluster.
    Blank(BrokerId),
    Member(BrokerId, ClusterId),
}

/// Asks `servers` until it is clear where this node belongs.
///
/// # Errors
/// If another node has this one's id, or the addresses are of different clusters.
pub async fn find(
    dialler: &Dialler,
    servers: &[String],
    node: BrokerId,
    incarnation: IncarnationId,
) -> Result<Place, Refused> {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        let asked = servers.iter().map(|server| identify(dialler, server, incarnation));
        let answers = futures::future::join_all(asked).await;
        let waits_for = match decide(servers, &answers, node)? {
            Ok(place) => return Ok(place),
            Err(waits_for) => waits_for,
        };
        if said != waits_for {
            tracing::info!("{waits_for}");
            said = waits_for;
        }
        sleep(backoff.pause()).await;
    }
}

/// Where `node` belongs, or what it waits for.
fn decide(
    servers: &[String],
    answers: &[Answer],
    node: BrokerId,
) -> Result<Result<Place, String>, Refused> {
    if servers.is_empty() {
        return Ok(Ok(Place::Found));
    }
    let mut cluster: Option<(ClusterId, &str)> = None;
    for (server, answer) in servers.iter().zip(answers) {
        match answer {
            Answer::Blank(id) | Answer::Member(id, _) if *id == node => {
                return Err(Refused(format!(
                    "the node at {server} has id {node} as well: give this one another \
                     broker.node.id. If its disk was lost, give it an id that was never used, and \
                     take the old one out: riverrun cluster remove-voter {node}"
                )));
            }
            Answer::Newer(version) => {
                return Err(Refused(format!(
                    "the node at {server} speaks version {version} of the internal protocol, this \
                     one only up to {VERSION}: upgrade this one first"
                )));
            }
            Answer::Member(_, found) => match cluster {
                Some((known, other)) if known != *found => {
                    return Err(Refused(format!(
                        "the nodes at {other} and {server} are of different clusters, {known} and \
                         {found}: correct controller.quorum.bootstrap.servers"
                    )));
                }
                _ => cluster = Some((*found, server)),
            },
            Answer::Blank(_) | Answer::Silence(_) | Answer::Myself => {}
        }
    }
    if let Some((cluster, _)) = cluster {
        return Ok(Ok(Place::Join(cluster)));
    }
    if answers.first() != Some(&Answer::Myself) {
        let first = &servers[0];
        return Ok(Err(format!(
            "waiting for a cluster to join; the first of the list, {first}, founds it{}",
            answers.first().map_or_else(String::new, why)
        )));
    }
    let silent = servers.iter().zip(answers).find(|(_, a)| matches!(a, Answer::Silence(_)));
    Ok(match silent {
        None => Ok(Place::Found),
        Some((server, answer)) => Err(format!(
            "waiting for {server} to say that it has no cluster yet, before this node founds one{}",
            why(answer)
        )),
    })
}

fn why(answer: &Answer) -> String {
    match answer {
        Answer::Silence(why) => format!(" ({why})"),
        _ => String::new(),
    }
}

/// Looks whether the nodes at `servers` are of this node's cluster, as far as they answer at once.
///
/// # Errors
/// If one is of another cluster, or has this node's id.
pub async fn check(
    dialler: &Dialler,
    servers: &[String],
    node: BrokerId,
    cluster: ClusterId,
    incarnation: IncarnationId,
) -> Result<(), Refused> {
    let asked = servers.iter().map(|server| identify(dialler, server, incarnation));
    let answers = futures::future::join_all(asked).await;
    // An empty list founds; whoever has a cluster does not.
    match decide(servers, &answers, node)? {
        Ok(Place::Join(found)) if found != cluster => Err(Refused(format!(
            "this node belongs to cluster {cluster}, the nodes of \
             controller.quorum.bootstrap.servers to cluster {found}: correct the list, or give this \
             node an empty data directory to join that cluster"
        ))),
        _ => Ok(()),
    }
}

async fn identify(dialler: &Dialler, server: &str, incarnation: IncarnationId) -> Answer {
    let asked = async {
        let mut client = QuorumServiceClient::new(dialler.dial(server).await?);
        Ok::<_, Status>(client.identify(wire::IdentifyRequest {}).await?.into_inner())
    };
    let who = match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(who)) => who,
        Ok(Err(status)) => return Answer::Silence(status.message().to_owned()),
        Err(_) => return Answer::Silence("no answer in time".to_owned()),
    };
    if who.incarnation_id[..] == incarnation.as_bytes()[..] {
        return Answer::Myself;
    }
    if who.version > VERSION {
        return Answer::Newer(who.version);
    }
    let node = BrokerId(who.node_id);
    match ClusterId::from_bytes(&who.cluster_id) {
        Ok(cluster) => Answer::Member(node, cluster),
        Err(_) => Answer::Blank(node),
    }
}

/// Dials this node where others are told to, until it answers itself. A broker at a wrong address would
/// be taken in, lead partitions, and be followed by nobody.
///
/// # Errors
/// If another node answers there.
pub async fn prove_address(dialler: &Dialler, card: &Card) -> Result<(), Refused> {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        let address = &card.address;
        let answer = identify(dialler, address, card.incarnation).await;
        let wrong = |there: &str| {
            format!(
                "others are told to dial this node at {address}, where {there}: correct \
                 network.internal.advertised.host and network.internal.advertised.port"
            )
        };
        let silence = match answer {
            Answer::Myself => return Ok(()),
            Answer::Blank(node) | Answer::Member(node, _) => {
                return Err(Refused(wrong(&format!("node {node} answers"))));
            }
            Answer::Newer(_) => return Err(Refused(wrong("another node answers"))),
            Answer::Silence(why) => wrong(&format!("it does not answer ({why})")),
        };
        if said != silence {
            said = silence;
            tracing::warn!("{said}");
        }
        sleep(backoff.pause()).await;
    }
}

/// Asks to be taken in until this node hears from a leader that has it in its quorum and has caught
/// up. `others` says where to ask.
///
/// # Errors
/// If the cluster does not want it as it is.
pub async fn join(
    dialler: &Dialler,
    card: &Card,
    quorum: &RaftQuorum,
    others: impl Fn() -> Vec<String>,
) -> Result<(), Refused> {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        match ask_to_join(dialler, card, &others()).await {
            Ok(()) => {
                let caught_up = timeout(LEADER_GRACE, async {
                    let mut leader = quorum.leader();
                    leader.wait_for(Option::is_some).await.is_ok()
                        && quorum.read_barrier().await.is_ok()
                        && is_member(card, quorum)
                });
                if caught_up.await.unwrap_or(false) {
                    return Ok(());
                }
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                return Err(Refused(status.message().to_owned()));
            }
            Err(status) => {
                if said != status.message() {
                    status.message().clone_into(&mut said);
                    tracing::warn!(why = said, "waiting to be taken into the cluster");
                }
            }
        }
        sleep(backoff.pause()).await;
    }
}

/// Whether this node, on this disk, is in the quorum as far as it knows itself.
pub fn is_member(card: &Card, quorum: &RaftQuorum) -> bool {
    let voters = quorum.voters();
    voters.voting.iter().chain(&voters.listening).any(|voter| *voter == card.voter)
}

/// Keeps this node in the quorum: where no leader is heard for a while, it asks to be taken in
/// again. Ends with the quorum.
pub async fn stay(
    dialler: Dialler,
    card: Card,
    quorum: Arc<RaftQuorum>,
    others: impl Fn() -> Vec<String>,
) {
    let mut leader = quorum.leader();
    loop {
        // Until nobody leads, …
        if leader.wait_for(Option::is_none).await.is_err() {
            return;
        }
        // … and for a while.
        match timeout(LEADER_GRACE, leader.wait_for(Option::is_some)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let servers = others();
        if servers.is_empty() {
            continue;
        }
        if let Err(status) = ask_to_join(&dialler, &card, &servers).await {
            tracing::debug!(why = status.message(), "no leader of the quorum is heard");
        }
    }
}

/// One round: asks each, and follows whoever is pointed to.
async fn ask_to_join(dialler: &Dialler, card: &Card, servers: &[String]) -> Result<(), Status> {
    let mut failure = Status::unavailable("no other node is known");
    for server in servers {
        let mut next = server.clone();
        for _ in 0..HINTS_MAX {
            let asked = async {
                let mut client = QuorumServiceClient::new(dialler.dial(&next).await?);
                let request = wire::JoinRequest { hello: Some(card.hello(None)) };
                Ok::<_, Status>(client.join(request).await?.into_inner())
            };
            let late = |_| Status::unavailable(format!("{next}: no answer in time"));
            match timeout(ANSWER_TIMEOUT, asked).await.map_err(late).flatten() {
                Ok(wire::JoinResponse { leader_address }) if leader_address.is_empty() => {
                    return Ok(());
                }
                Ok(wire::JoinResponse { leader_address }) => next = leader_address,
                Err(status) if status.code() == Code::FailedPrecondition => return Err(status),
                Err(status) => {
                    failure = status;
                    break;
                }
            }
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(n: u8) -> ClusterId {
        ClusterId::from_bytes(&[n; 16]).unwrap()
    }

    fn decided(answers: &[Answer]) -> Result<Option<Place>, String> {
        let servers: Vec<_> = (0..answers.len()).map(|n| format!("host-{n}:9192")).collect();
        match decide(&servers, answers, BrokerId(1)) {
            Ok(place) => Ok(place.ok()),
            Err(Refused(why)) => Err(why),
        }
    }

    #[test]
    fn where_a_node_with_an_empty_disk_belongs() {
        use Answer::{Blank, Member, Myself};
        let silence = || Answer::Silence("down".into());
        let (two, three) = (BrokerId(2), BrokerId(3));
        let joins = Some(Place::Join(cluster(7)));
        let cases: [(&[Answer], Option<Place>); 9] = [
            (&[], Some(Place::Found)),
            (&[Myself], Some(Place::Found)),
            (&[Myself, Blank(two), Blank(three)], Some(Place::Found)),
            // The founder's disk was wiped, and the one that knows is away.
            (&[Myself, Blank(two), silence()], None),
            (&[silence(), Myself, Blank(three)], None),
            (&[Blank(two), Myself, Blank(three)], None),
            (&[Myself, Member(two, cluster(7)), silence()], joins),
            (&[Member(two, cluster(7)), Myself, Member(three, cluster(7))], joins),
            (&[silence()], None),
        ];
        for (answers, expected) in cases {
            assert_eq!(decided(answers), Ok(expected), "{answers:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_advice() {
        use Answer::{Blank, Member, Myself, Newer};
        let (me, two, three) = (BrokerId(1), BrokerId(2), BrokerId(3));
        let cases: [(&[Answer], &str); 4] = [
            (&[Myself, Blank(me)], "another broker.node.id"),
            (&[Member(me, cluster(7))], "remove-voter 1"),
            (&[Member(two, cluster(7)), Member(three, cluster(8))], "different clusters"),
            (&[Myself, Newer(VERSION + 1)], "upgrade this one"),
        ];
        for (answers, advice) in cases {
            let why = decided(answers).unwrap_err();
            assert!(why.contains(advice), "{why}");
        }
    }
}
