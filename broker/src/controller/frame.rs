//! The bytes of the metadata log and its snapshots: a header, then one frame for each sync.
//!
//! ```text
//! header  magic "RRMETA\0\0" │ version u32 │ crc32 u32 │ file uuid 16 │ cluster id 16 │ zeros to 64
//! frame   length u32 │ crc32 u32 │ body: items          length counts the body; crc32 covers
//!                                                        position, length and body, seeded by uuid
//! item    kind u8 │ index u64 │ term u64 │ length u32 │ payload                  all little-endian
//! ```
//!
//! | kind | item | index | term | payload |
//! |---|---|---|---|---|
//! | 1 | [`Item::Entry`] | its index | its term | a metadata record; none where a leader began its term |
//! | 2 | [`Item::HardState`] | commit | term | vote: voter id u64 |
//! | 3 | [`Item::ConfState`] | from which on | its term | voters (protobuf encoding) |
//! | 4 | [`Item::SnapshotMark`] | of the snapshot | its term | none |
//! | 5 | [`Item::Image`] | its offset | its term | the metadata image; in snapshot files only |
//! | 6 | [`Item::Entry`] | its index | its term | a change of voters: etcd's `ConfChangeV2` (protobuf) |
//!
//! A snapshot file has the same header and one frame: voters and image.
//!
//! **One frame is one sync.** All that is synced at once stands in one frame, and the next frame is
//! written only when that sync has returned. A power loss keeps any subset of unsynced pages, so it
//! can tear no frame but the last: an invalid frame with a valid one anywhere behind it is never a
//! torn write, always damage. (One frame per entry would not have that: of a torn group of entries
//! the last may be whole and the first not.) Position and uuid in the checksum keep frames of
//! earlier files, or of other places, from passing as this file's.

use bytes::Bytes;
use prost::Message;
use riverrun_proto::ids::{BrokerId, ClusterId, DirectoryId};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes before a frame's body.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// Bytes before an item's payload.
pub(super) const ITEM_HEAD_BYTES: usize = 21;

const MAGIC: [u8; 8] = *b"RRMETA\0\0";
const VERSION: u32 = 1;

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const CONF_STATE: u8 = 3;
const SNAPSHOT_MARK: u8 = 4;
const IMAGE: u8 = 5;
const CHANGE: u8 = 6;

/// Something the log keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// An entry; it supersedes all of its index and above that stand before it.
    Entry(Entry),
    /// What a voter must not forget; the last one holds.
    HardState(HardState),
    /// Who votes, from an index on; the last one holds.
    ConfState(Membership),
    /// All up to here is in the snapshot of that index.
    SnapshotMark(Mark),
    /// The content of a snapshot.
    Image(Mark, Bytes),
}

/// An entry of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) kind: EntryKind,
    pub(super) record: Bytes,
}

/// What an entry's record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A metadata record; or nothing, where a leader began its term.
    Command,
    /// A change of who votes; nothing, where it leaves the step between two sets of voters.
    Change,
}

/// Raft's hard state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HardState {
    pub(super) term: u64,
    pub(super) vote: VoterId,
    /// At least all up to here is committed.
    pub(super) commit: u64,
}

/// The place of a snapshot in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    pub(super) index: u64,
    pub(super) term: u64,
}

/// Who votes, and who only listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Membership {
    /// The entry that made it so, or one after it.
    pub(super) at: Mark,
    pub(super) voters: Vec<Voter>,
    /// Have the log, and do not vote.
    pub(super) learners: Vec<Voter>,
    /// Those who vote as well while one set of voters replaces another; else nobody.
    pub(super) outgoing: Vec<Voter>,
    /// Of the outgoing, those who stay as learners.
    pub(super) learners_next: Vec<Voter>,
    /// Whether the leader ends that by itself.
    pub(super) auto_leave: bool,
}

impl Membership {
    pub(super) fn of_voters(at: Mark, voters: Vec<Voter>) -> Self {
        Self { at, voters, ..Self::default() }
    }

    /// Everybody in it; some twice.
    pub(super) fn all(&self) -> impl Iterator<Item = &Voter> {
        [&self.voters, &self.learners, &self.outgoing, &self.learners_next].into_iter().flatten()
    }
}

/// A voter: a node on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voter {
    /// Its name in the quorum.
    pub id: VoterId,
    /// The node.
    pub node: BrokerId,
    /// The data directory, and so the disk.
    pub directory: DirectoryId,
}

impl Voter {
    /// The voter that a node is with this data directory.
    pub fn new(node: BrokerId, directory: DirectoryId) -> Self {
        Self { id: VoterId::of(directory), node, directory }
    }
}

/// A voter's identity in the quorum. Bound to its disk: one that lost its disk is another voter, or
/// it would forget votes and acknowledgements it gave (KIP-853 adds the directory id for the same
/// reason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VoterId(pub(super) u64);

impl VoterId {
    /// From its number, as it stands on the wire.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(super) fn of(directory: DirectoryId) -> Self {
        let [bytes @ .., _, _, _, _, _, _, _, _] = *directory.as_bytes();
        Self(u64::from_le_bytes(bytes).max(1))
    }
}

/// What a file of the log says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) uuid: [u8; 16],
    pub(super) cluster: ClusterId,
}

/// Why bytes are no header, or a frame's items no items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Zeros, or nothing: never written.
    Blank,
    /// By a newer binary.
    Newer(String),
    /// Damage.
    Damaged(&'static str),
}

#[derive(Clone, PartialEq, prost::Message)]
struct VotersV1 {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VoterV1>,
    #[prost(message, repeated, tag = "2")]
    learners: Vec<VoterV1>,
    #[prost(message, repeated, tag = "3")]
    outgoing: Vec<VoterV1>,
    #[prost(message, repeated, tag = "4")]
    learners_next: Vec<VoterV1>,
    #[prost(bool, tag = "5")]
    auto_leave: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoterV1 {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint32, tag = "2")]
    node: u32,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
}

// === impl Header ===

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.uuid);
        bytes[32..48].copy_from_slice(self.cluster.as_bytes());
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, Unreadable> {
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(if all_zero(file) {
                Unreadable::Blank
            } else {
                Unreadable::Damaged("it is shorter than its header")
            });
        };
        if all_zero(bytes) {
            return Err(Unreadable::Blank);
        }
        if bytes[..8] != MAGIC {
            return Err(Unreadable::Damaged("it does not begin like a metadata log"));
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            version => return Err(Unreadable::Newer(format!("format version {version}"))),
        }
        if u32_at(bytes, 12) != crc32fast::hash(&bytes[16..]) {
            return Err(Unreadable::Damaged("the checksum of its header does not match"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        let cluster = ClusterId::from_bytes(&bytes[32..48])
            .map_err(|_| Unreadable::Damaged("its header has no cluster id"))?;
        Ok(Self { uuid, cluster })
    }

    /// The frame of `items` for `position`.
    pub(super) fn frame(&self, position: u64, items: &[Item]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        for item in items {
            item.encode(&mut frame);
        }
        let len = u32::try_from(frame.len() - FRAME_HEAD_BYTES)
            .expect("a group is bounded far below 4 GiB");
        let crc = self.crc(position, len, &frame[FRAME_HEAD_BYTES..]);
        frame[..4].copy_from_slice(&len.to_le_bytes());
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
        frame
    }

    /// The body of the frame at `position`, if there is a whole and valid one.
    pub(super) fn body<'a>(&self, file: &'a [u8], position: usize) -> Option<&'a [u8]> {
        let head = file.get(position..position + FRAME_HEAD_BYTES)?;
        let len = u32_at(head, 0);
        let start = position + FRAME_HEAD_BYTES;
        let body = file.get(start..start.checked_add(len as usize)?)?;
        // The cheap question first: recovery asks this of every byte behind an invalid frame.
        let plausible = body.len() >= ITEM_HEAD_BYTES && body[0] != 0;
        (plausible && self.crc(position as u64, len, body) == u32_at(head, 4)).then_some(body)
    }

    fn crc(&self, position: u64, len: u32, body: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(crc32fast::hash(&self.uuid));
        crc.update(&position.to_le_bytes());
        crc.update(&len.to_le_bytes());
        crc.update(body);
        crc.finalize()
    }
}

// === impl Item ===

impl Item {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(entry) => {
                let kind = match entry.kind {
                    EntryKind::Command => ENTRY,
                    EntryKind::Change => CHANGE,
                };
                put(out, kind, entry.index, entry.term, &entry.record);
            }
            Self::HardState(state) => {
                put(out, HARD_STATE, state.commit, state.term, &state.vote.0.to_le_bytes());
            }
            Self::ConfState(membership) => {
                let Mark { index, term } = membership.at;
                put(out, CONF_STATE, index, term, &VotersV1::from(membership).encode_to_vec());
            }
            Self::SnapshotMark(mark) => put(out, SNAPSHOT_MARK, mark.index, mark.term, &[]),
            Self::Image(mark, image) => put(out, IMAGE, mark.index, mark.term, image),
        }
    }

    /// The items of a valid frame's body.
    pub(super) fn decode_all(mut body: &[u8]) -> Result<Vec<Self>, Unreadable> {
        const CUT: Unreadable = Unreadable::Damaged("an item in it is cut short");
        let mut items = Vec::new();
        while !body.is_empty() {
            let (head, rest) = body.split_first_chunk::<ITEM_HEAD_BYTES>().ok_or(CUT)?;
            let len = u32_at(head, 17) as usize;
            let (payload, rest) = rest.split_at_checked(len).ok_or(CUT)?;
            items.push(Self::decode(head[0], u64_at(head, 1), u64_at(head, 9), payload)?);
            body = rest;
        }
        Ok(items)
    }

    fn decode(kind: u8, index: u64, term: u64, payload: &[u8]) -> Result<Self, Unreadable> {
        match kind {
            ENTRY | CHANGE => {
                let kind = if kind == ENTRY { EntryKind::Command } else { EntryKind::Change };
                let record = Bytes::copy_from_slice(payload);
                Ok(Self::Entry(Entry { index, term, kind, record }))
            }
            HARD_STATE => {
                let vote = payload
                    .try_into()
                    .map(u64::from_le_bytes)
                    .map_err(|_| Unreadable::Damaged("a vote in it is not 8 bytes"))?;
                Ok(Self::HardState(HardState { term, vote: VoterId(vote), commit: index }))
            }
            CONF_STATE => Ok(Self::ConfState(Membership::decode(Mark { index, term }, payload)?)),
            SNAPSHOT_MARK if payload.is_empty() => Ok(Self::SnapshotMark(Mark { index, term })),
            SNAPSHOT_MARK => Err(Unreadable::Newer("a snapshot mark with unknown fields".into())),
            IMAGE => Ok(Self::Image(Mark { index, term }, Bytes::copy_from_slice(payload))),
            kind => Err(Unreadable::Newer(format!("an item of unknown kind {kind}"))),
        }
    }
}

// === forms ===

impl Membership {
    /// The voters and learners, as they are stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        VotersV1::from(self).encode_to_vec()
    }

    pub(super) fn decode(at: Mark, payload: &[u8]) -> Result<Self, Unreadable> {
        let form = VotersV1::decode(payload)
            .map_err(|_| Unreadable::Damaged("a list of voters in it is malformed"))?;
        if form.encode_to_vec() != payload {
            return Err(Unreadable::Newer("a list of voters with unknown fields".into()));
        }
        let voters = |forms: Vec<VoterV1>| -> Result<Vec<_>, _> {
            forms.into_iter().map(Voter::try_from).collect()
        };
        Ok(Self {
            at,
            voters: voters(form.voters)?,
            learners: voters(form.learners)?,
            outgoing: voters(form.outgoing)?,
            learners_next: voters(form.learners_next)?,
            auto_leave: form.auto_leave,
        })
    }
}

impl From<&Membership> for VotersV1 {
    fn from(membership: &Membership) -> Self {
        let forms = |voters: &[Voter]| voters.iter().map(Into::into).collect();
        Self {
            voters: forms(&membership.voters),
            learners: forms(&membership.learners),
            outgoing: forms(&membership.outgoing),
            learners_next: forms(&membership.learners_next),
            auto_leave: membership.auto_leave,
        }
    }
}

impl From<&Voter> for VoterV1 {
    fn from(voter: &Voter) -> Self {
        Self { id: voter.id.0, node: voter.node.0, directory: voter.directory.as_bytes().to_vec() }
    }
}

impl TryFrom<VoterV1> for Voter {
    type Error = Unreadable;

    fn try_from(form: VoterV1) -> Result<Self, Unreadable> {
        Ok(Self {
            id: VoterId(form.id),
            node: BrokerId(form.node),
            directory: DirectoryId::from_bytes(&form.directory)
                .map_err(|_| Unreadable::Damaged("a voter in it has no directory id"))?,
        })
    }
}

fn put(out: &mut Vec<u8>, kind: u8, index: u64, term: u64, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("records and images are far below 4 GiB");
    out.push(kind);
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Whether nothing was ever written here.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut le = [0; 4];
    le.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(le)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(le)
}
