//! This node's part of the metadata quorum: whose directory it is, which cluster it belongs to, and
//! how it gets in.
//!
//! ```text
//!   meta.properties? ─ yes ──────────────────────────────┐
//!        │ no                                            ▼
//!        └─ find the cluster ─ none: found one ──► open the log ─► in the quorum? ─ yes ─► caught up
//!                           └ one: format to join                       └─ no: ask to be taken in
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use riverrun_proto::ids::{BrokerId, IncarnationId};
use tokio::{runtime::Handle, sync::Notify, time::sleep};

use super::{DataDirectory, StartError, blocking, leaders, parts::Parts, presence};
use crate::{
    clock::Clock,
    config::Config,
    controller::{
        Addresses, ClusterQuorum, Liveness, MetaProperties, MetaQuorum,
        addresses::address,
        raft::{RaftOptions, RaftQuorum, Transport, Voter},
    },
    peer::{
        Card, PeerCalls, PeerTransport,
        cluster::{self, Place},
        connect::Dialler,
        transport::{Locate, locate_by},
    },
    service::internal::{Door, Inside},
    tls::Security,
};

/// Pause before the quorum is asked again for a leader.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// This node in its cluster.
pub(super) struct Membership {
    pub(super) identity: MetaProperties,
    pub(super) card: Card,
    pub(super) quorum: Arc<ClusterQuorum>,
    pub(super) transport: Arc<PeerTransport>,
    pub(super) locate: Locate,
    pub(super) dialler: Dialler,
}

/// What a node is before it knows its cluster.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    pub(super) door: Door,
    /// Where other nodes reach it.
    pub(super) address: String,
    /// Where it reaches itself, whatever the others' names for it lead to.
    pub(super) own: String,
    /// How it reaches others, and itself.
    pub(super) dialler: Dialler,
    pub(super) control: Handle,
    pub(super) clock: Arc<dyn Clock>,
}

impl Newcomer {
    /// Opens the metadata log in `directory`, and returns once this node has all that the cluster
    /// had decided by then. As long as no majority of the voters can be reached, that waits.
    pub(super) async fn join(
        self,
        config: &Config,
        directory: &Arc<DataDirectory>,
        parts: &mut Parts,
    ) -> Result<Membership, StartError> {
        let identity = self.identify(config, directory).await?;
        let card = Card {
            cluster: identity.cluster,
            voter: Voter::new(identity.node, identity.directory),
            incarnation: self.door.incarnation,
            address: self.address.clone(),
        };
        let network = &config.network;
        // What was bound is right without asking.
        if network.internal_advertised_host.is_some() || network.internal_advertised_port != 0 {
            let (dialler, card) = (self.dialler.clone(), card.clone());
            let proving = async move { cluster::prove_address(&dialler, &card).await };
            let proving = self.control.spawn(proving);
            proving.await.unwrap_or_else(|panic| Err(cluster::Refused(panic.to_string())))?;
        }
        let addresses = Arc::new(Addresses::default());
        let log: Arc<OnceLock<Weak<RaftQuorum>>> = Arc::default();
        let elsewhere = locate_by(Arc::clone(&addresses), {
            let log = Arc::clone(&log);
            move || Some(log.get()?.upgrade()?.image())
        });
        let (me, own) = (identity.node, self.own.clone());
        let locate: Locate =
            Arc::new(move |node| if node == me { vec![own.clone()] } else { elsewhere(node) });
        let dialler = self.dialler.clone();
        let transport = Arc::new(PeerTransport::new(
            card.clone(),
            locate.clone(),
            dialler.clone(),
            self.control.clone(),
        ));
        let raft = blocking({
            let (directory, clock) = (Arc::clone(directory), Arc::clone(&self.clock));
            let transport: Arc<dyn Transport> = transport.clone();
            move || {
                let (disk, failure) = (Arc::clone(directory.disk()), directory.failure());
                let (root, seed) = (directory.root(), rand::random());
                let options = RaftOptions::default();
                Ok(RaftQuorum::open(
                    disk, root, &identity, failure, clock, transport, seed, options,
                )?)
            }
        })
        .await?;
        let raft = Arc::clone(parts.quorum.insert(Arc::new(raft)));
        // A node starts once.
        let _ = log.set(Arc::downgrade(&raft));
        let quorum = Arc::new(ClusterQuorum::new(
            Arc::clone(&raft),
            PeerCalls::new(card.clone(), locate.clone(), dialler.clone()),
        ));
        self.door.open(Inside {
            card: card.clone(),
            quorum: Arc::clone(&quorum),
            addresses: Arc::clone(&addresses),
            liveness: Mutex::new(
                Liveness::new(config.broker.session_timeout_ms)
                    .with_clocks_within(config.broker.clock_offset_max_ms),
            ),
            heard: Notify::new(),
            clock: Arc::clone(&self.clock),
        });
        self.control.spawn(until_stopping(&self.door, presence::look_after(self.door.clone())));
        let leaders = leaders::look_after(self.door.clone(), config.controller.clone());
        self.control.spawn(until_stopping(&self.door, leaders));

        let others = others(config, &raft, &addresses, &card);
        if !cluster::is_member(&card, &raft) {
            let joining = {
                let (card, raft, others) = (card.clone(), Arc::clone(&raft), others.clone());
                let dialler = dialler.clone();
                self.control
                    .spawn(async move { cluster::join(&dialler, &card, &raft, others).await })
            };
            joining.await.unwrap_or_else(|panic| Err(cluster::Refused(panic.to_string())))?;
        }
        self.control.spawn(until_stopping(
            &self.door,
            cluster::stay(dialler.clone(), card.clone(), Arc::clone(&raft), others),
        ));
        if config.controller.quorum_auto_join_enable {
            self.control.spawn(until_stopping(&self.door, vote_when_ready(Arc::clone(&quorum))));
        }
        catch_up(&raft).await;
        Ok(Membership { identity, card, quorum, transport, locate, dialler })
    }

    /// Whose directory it is; found out, and written down, where nobody used it yet.
    async fn identify(
        &self,
        config: &Config,
        directory: &Arc<DataDirectory>,
    ) -> Result<MetaProperties, StartError> {
        let servers = config.controller.quorum_bootstrap_servers.as_slice().to_vec();
        let (node, incarnation) = (self.door.node, self.door.incarnation);
        let known = blocking({
            let directory = Arc::clone(directory);
            move || Ok(MetaProperties::exist(&**directory.disk(), directory.root())?)
        });
        let place = match servers.is_empty() || known.await? {
            true => Place::Found,
            false => {
                let (servers, dialler) = (servers.clone(), self.dialler.clone());
                let finding =
                    async move { cluster::find(&dialler, &servers, node, incarnation).await };
                let found = self.control.spawn(finding).await;
                found.unwrap_or_else(|panic| Err(cluster::Refused(panic.to_string())))?
            }
        };
        let directory = Arc::clone(directory);
        let identity = blocking(move || {
            let (disk, failure) = (directory.disk(), directory.failure());
            let root: &Path = directory.root();
            Ok(match place {
                Place::Found => MetaProperties::open_or_format(disk, root, node, None, failure)?,
                Place::Join(cluster) => {
                    MetaProperties::open_or_join(disk, root, node, cluster, failure)?
                }
            })
        })
        .await?;
        if !servers.is_empty() {
            let (cluster, dialler) = (identity.cluster, self.dialler.clone());
            let checking =
                async move { cluster::check(&dialler, &servers, node, cluster, incarnation).await };
            let checked = self.control.spawn(checking).await;
            checked.unwrap_or_else(|panic| Err(cluster::Refused(panic.to_string())))?;
        }
        Ok(identity)
    }
}

/// Where other nodes may be found, newest knowledge first: those of the quorum, then the configured.
fn others(
    config: &Config,
    raft: &Arc<RaftQuorum>,
    addresses: &Arc<Addresses>,
    card: &Card,
) -> impl Fn() -> Vec<String> + Clone + Send + 'static {
    let servers = config.controller.quorum_bootstrap_servers.as_slice().to_vec();
    let (raft, addresses) = (Arc::downgrade(raft), Arc::clone(addresses));
    let (me, my_address) = (card.voter.node, card.address.clone());
    move || {
        let mut all = Vec::new();
        if let Some(raft) = raft.upgrade() {
            let (voters, image) = (raft.voters(), raft.image());
            let nodes = voters.voting.iter().map(|voter| voter.node).filter(|node| *node != me);
            all.extend(nodes.flat_map(|node| addresses.of(node, &image)));
        }
        all.extend(servers.iter().filter(|server| **server != my_address).cloned());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }
}

/// Waits until the image has all that was decided so far; says what it waits for.
async fn catch_up(raft: &RaftQuorum) {
    let mut said = false;
    while let Err(why) = raft.read_barrier().await {
        if !said && raft.leader().borrow().is_none() && raft.voters().voting.len() > 1 {
            said = true;
            let voters: Vec<_> = raft.voters().voting.iter().map(|voter| voter.node.0).collect();
            tracing::info!(%why, ?voters, "waiting for a majority of the metadata quorum's voters");
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Votes once it has caught up.
async fn vote_when_ready(quorum: Arc<ClusterQuorum>) {
    use crate::controller::raft::Step;
    let me = quorum.here().voter();
    loop {
        let voters = quorum.here().voters();
        if voters.voting.contains(&me) {
            return;
        }
        if voters.listening.contains(&me)
            && let Err(why) = quorum.change_voters(vec![Step::Vote(me.id)]).await
        {
            tracing::debug!(%why, "this node does not vote yet");
        }
        sleep(ASK_AGAIN).await;
    }
}

fn until_stopping(
    door: &Door,
    job: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = door.shutdown.clone();
    async move {
        tokio::select! {
            () = job => {}
            () = shutdown.stopping() => {}
        }
    }
}

/// Where other nodes are told to dial this one.
pub(super) fn advertised(config: &Config, bound: SocketAddr) -> (String, u16) {
    let network = &config.network;
    let host = network.internal_advertised_host.clone().unwrap_or_else(|| bound.ip().to_string());
    let port = match network.internal_advertised_port {
        0 => bound.port(),
        port => port,
    };
    (host, port)
}

/// A node that knows nothing yet but itself.
pub(super) fn newcomer(
    config: &Config,
    door: Door,
    bound: SocketAddr,
    security: Option<&Security>,
    control: Handle,
    clock: Arc<dyn Clock>,
) -> Newcomer {
    let (host, port) = advertised(config, bound);
    let own = match bound.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let own = SocketAddr::new(own, bound.port()).to_string();
    let dialler = security.map_or_else(Dialler::default, |security| {
        Dialler::secured(Arc::clone(&security.credentials), own.clone(), host.clone())
    });
    Newcomer { door, address: address(&host, port), own, dialler, control, clock }
}

/// The door of this run of the process.
pub(super) fn door(config: &Config, shutdown: crate::shutdown::Shutdown) -> Door {
    Door::new(BrokerId(config.broker.node_id), IncarnationId::random(), shutdown)
}
