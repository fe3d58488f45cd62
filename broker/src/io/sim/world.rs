//! The state of the simulated disk, all calls on it, and the faults planned for them.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSlice},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    Fault, Op, PowerCut,
    content::{Content, PAGE},
    names::{Inode, Name, Names},
    rng::Rng,
};
use crate::io::{DirEntry, Space, SyncPoint};

const ROOT: Inode = 1;

/// Size of a simulated disk without a capacity.
const UNLIMITED: u64 = 1 << 50;

/// What is on the disk and in the page cache. Cheap to clone: all that is large is shared.
#[derive(Debug, Clone)]
pub(super) struct State {
    nodes: BTreeMap<Inode, Node>,
    names: Names,
    next: Inode,
    rng: Rng,
}

#[derive(Debug, Clone)]
struct Node {
    /// `None` for a directory.
    file: Option<Arc<Content>>,
    /// Open handles: a removed file keeps its blocks while there are any.
    handles: u32,
    named: bool,
}

/// A disk and what tests want of it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) state: State,
    pub(super) trace: Vec<Op>,
    pub(super) history: Option<Vec<State>>,
    pub(super) capacity: Option<u64>,
    pub(super) ignored: Option<SyncPoint>,
    pub(super) cold: bool,
    pub(super) write_step: Option<usize>,
    pub(super) off: bool,
    pub(super) off_after: Option<u64>,
    pub(super) faults: VecDeque<Planned>,
}

/// A fault that strikes once, after so many calls it could have struck.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) after: u64,
    pub(super) fault: Fault,
    pub(super) point: Option<SyncPoint>,
}

// === impl State ===

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let root = Node { file: None, handles: 0, named: true };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            names: Names::default(),
            next: ROOT + 1,
            rng: Rng::new(seed),
        }
    }

    /// The state when the power is back: nobody has it open, some of it is lost.
    pub(super) fn after(&self, cut: PowerCut) -> Self {
        let mut rng = match cut {
            PowerCut::Random(seed) => Rng::new(seed ^ self.rng.clone().next()),
            _ => self.rng.clone(),
        };
        let mut names = self.names.after(cut, &mut rng);
        names.forget_unreachable(ROOT);
        let mut nodes = self.nodes.clone();
        for node in nodes.values_mut() {
            if let Some(content) = &mut node.file {
                *content = Arc::new(content.after(cut, &mut rng));
            }
        }
        let mut state = Self { nodes, names, next: self.next, rng }.without_handles();
        state.nodes.retain(|_, node| node.named);
        state
    }

    /// The state a killed process leaves: all of it, nobody has it open.
    pub(super) fn without_handles(mut self) -> Self {
        let named = self.names.named();
        for (inode, node) in &mut self.nodes {
            node.handles = 0;
            node.named = *inode == ROOT || named.contains(inode);
        }
        self
    }

    fn used(&self) -> u64 {
        let kept = self.nodes.values().filter(|node| node.named || node.handles > 0);
        kept.filter_map(|node| node.file.as_ref()).map(|file| file.blocks()).sum::<u64>()
            * PAGE as u64
    }

    fn find(&self, path: &Path) -> io::Result<Inode> {
        let mut at = ROOT;
        for name in components(path)? {
            self.dir(at)?;
            at = self.names.get(&(at, name)).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory a path lies in, and its name there.
    fn name(&self, path: &Path) -> io::Result<Name> {
        let mut names = components(path)?;
        let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for name in names {
            at = self.names.get(&(at, name)).ok_or(io::ErrorKind::NotFound)?;
        }
        self.dir(at)?;
        Ok((at, last))
    }

    fn dir(&self, inode: Inode) -> io::Result<()> {
        match self.nodes.get(&inode) {
            Some(Node { file: None, .. }) => Ok(()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn content(&self, inode: Inode) -> io::Result<&Content> {
        let file = self.nodes.get(&inode).and_then(|node| node.file.as_ref());
        file.map(Arc::as_ref).ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    fn content_mut(&mut self, inode: Inode) -> io::Result<&mut Content> {
        let file = self.nodes.get_mut(&inode).and_then(|node| node.file.as_mut());
        file.map(Arc::make_mut).ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    fn is_empty_dir(&self, inode: Inode) -> bool {
        self.names.list(inode).next().is_none()
    }

    fn set_named(&mut self, inode: Inode, named: bool) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.named = named;
        }
    }
}

// === impl World ===

impl World {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            trace: Vec::new(),
            history: None,
            capacity: None,
            ignored: None,
            cold: false,
            write_step: None,
            off: false,
            off_after: None,
            faults: VecDeque::new(),
        }
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        self.powered()?;
        let name = self.state.name(path)?;
        if let Some(there) = self.state.names.get(&name) {
            return match self.state.dir(there) {
                Ok(()) => Ok(()),
                Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
            };
        }
        self.begin(&[Fault::NoSpace, Fault::WriteError], None)?;
        self.add(name, None);
        self.done(Op::CreateDir(path.into()));
        Ok(())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Inode> {
        self.powered()?;
        let name = self.state.name(path)?;
        if self.state.names.get(&name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.begin(&[Fault::NoSpace, Fault::WriteError], None)?;
        let inode = self.add(name, Some(Arc::default()));
        self.open_handle(inode);
        self.done(Op::Create(path.into()));
        Ok(inode)
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<Inode> {
        self.powered()?;
        let inode = self.state.find(path)?;
        self.state.content(inode)?;
        self.open_handle(inode);
        Ok(inode)
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.powered()?;
        let dir = self.state.find(path)?;
        self.state.dir(dir)?;
        let entry = |(name, inode): (&str, Inode)| {
            let content = self.state.content(inode).ok();
            DirEntry {
                name: name.to_owned(),
                is_dir: content.is_none(),
                len: content.map_or(0, Content::len),
            }
        };
        Ok(self.state.names.list(dir).map(entry).collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.powered()?;
        let (from_name, to_name) = (self.state.name(from)?, self.state.name(to)?);
        let moved = self.state.names.get(&from_name).ok_or(io::ErrorKind::NotFound)?;
        let replaced = self.state.names.get(&to_name);
        if let Some(replaced) = replaced
            && replaced != moved
        {
            match (self.state.dir(moved), self.state.dir(replaced)) {
                (Ok(()), Err(error)) => return Err(error),
                (Err(_), Ok(())) => return Err(io::ErrorKind::IsADirectory.into()),
                (Ok(()), Ok(())) if !self.state.is_empty_dir(replaced) => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        self.begin(&[Fault::NoSpace, Fault::WriteError], None)?;
        if replaced != Some(moved) {
            self.state.names.change(vec![(from_name, None), (to_name, Some(moved))]);
            if let Some(replaced) = replaced {
                self.state.set_named(replaced, false);
            }
        }
        self.done(Op::Rename(from.into(), to.into()));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.powered()?;
        let name = self.state.name(path)?;
        let inode = self.state.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        self.state.content(inode)?;
        self.begin(&[Fault::WriteError], None)?;
        self.state.names.change(vec![(name, None)]);
        self.state.set_named(inode, false);
        self.done(Op::RemoveFile(path.into()));
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        self.powered()?;
        let name = self.state.name(path)?;
        let inode = self.state.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        self.state.dir(inode)?;
        if !self.state.is_empty_dir(inode) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.begin(&[Fault::WriteError], None)?;
        self.state.names.change(vec![(name, None)]);
        self.state.set_named(inode, false);
        self.done(Op::RemoveDir(path.into()));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path, point: SyncPoint) -> io::Result<()> {
        self.powered()?;
        let dir = self.state.find(path)?;
        self.state.dir(dir)?;
        self.begin(&[Fault::SyncError], Some(point))?;
        if self.ignored != Some(point) {
            self.state.names.sync(dir);
        }
        self.done(Op::SyncDir(path.into(), point));
        Ok(())
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        self.powered()?;
        let total = self.capacity.unwrap_or(UNLIMITED);
        Ok(Space { total, free: total.saturating_sub(self.state.used()) })
    }

    pub(super) fn len(&self, inode: Inode) -> io::Result<u64> {
        self.powered()?;
        Ok(self.state.content(inode)?.len())
    }

    pub(super) fn read(
        &mut self,
        inode: Inode,
        buf: &mut [u8],
        position: u64,
    ) -> io::Result<usize> {
        self.powered()?;
        self.strike(&[Fault::ReadError], None)?;
        Ok(self.state.content(inode)?.read(buf, position))
    }

    pub(super) fn write(
        &mut self,
        (inode, path): (Inode, &PathBuf),
        parts: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<()> {
        let Some(step) = self.write_step else {
            return self.write_once((inode, path), parts, position);
        };
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        for (index, piece) in bytes.chunks(step).enumerate() {
            let at = position + (index * step) as u64;
            self.write_once((inode, path), &[IoSlice::new(piece)], at)?;
        }
        Ok(())
    }

    fn write_once(
        &mut self,
        (inode, path): (Inode, &PathBuf),
        parts: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<()> {
        self.powered()?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let end = position + len as u64;
        let more = self.state.content(inode)?.blocks_for_write(position, end);
        self.begin_taking(more, &[Fault::NoSpace])?;
        if let Err(error) = self.strike(&[Fault::WriteError], None) {
            // A prefix may have made it.
            let prefix = self.state.rng.below(len + 1);
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let written = [IoSlice::new(&bytes[..prefix])];
            self.state.content_mut(inode)?.write(&written, position);
            return Err(error);
        }
        self.state.content_mut(inode)?.write(parts, position);
        self.done(Op::Write { path: path.clone(), position, len: len as u64 });
        Ok(())
    }

    pub(super) fn allocate(
        &mut self,
        (inode, path): (Inode, &PathBuf),
        len: u64,
    ) -> io::Result<()> {
        self.powered()?;
        let more = self.state.content(inode)?.blocks_for_allocation(len);
        self.begin_taking(more, &[Fault::NoSpace, Fault::WriteError])?;
        self.state.content_mut(inode)?.allocate(len);
        self.done(Op::Allocate { path: path.clone(), len });
        Ok(())
    }

    pub(super) fn set_len(&mut self, (inode, path): (Inode, &PathBuf), len: u64) -> io::Result<()> {
        self.powered()?;
        self.begin(&[Fault::WriteError], None)?;
        self.state.content_mut(inode)?.set_len(len);
        self.done(Op::SetLen { path: path.clone(), len });
        Ok(())
    }

    pub(super) fn sync(
        &mut self,
        (inode, path): (Inode, &PathBuf),
        point: SyncPoint,
    ) -> io::Result<()> {
        self.powered()?;
        if let Err(error) = self.begin(&[Fault::SyncError], Some(point)) {
            if !self.off {
                let mut rng = self.state.rng.clone();
                self.state.content_mut(inode)?.sync_failing(&mut rng);
                self.state.rng = rng;
            }
            return Err(error);
        }
        if self.ignored != Some(point) {
            self.state.content_mut(inode)?.sync();
        }
        self.done(Op::Sync(path.clone(), point));
        Ok(())
    }

    pub(super) fn close(&mut self, inode: Inode) {
        if let Some(node) = self.state.nodes.get_mut(&inode) {
            node.handles = node.handles.saturating_sub(1);
        }
    }

    pub(super) fn flip_bit(&mut self, path: &Path, position: u64, bit: u8) -> io::Result<()> {
        let inode = self.state.find(path)?;
        let content = self.state.content_mut(inode)?;
        if position >= content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.flip_bit(position, bit);
        Ok(())
    }

    pub(super) fn drop_caches(&mut self) {
        for node in self.state.nodes.values_mut() {
            if let Some(content) = &mut node.file {
                Arc::make_mut(content).drop_clean_pages();
            }
        }
    }

    fn add(&mut self, name: Name, file: Option<Arc<Content>>) -> Inode {
        let inode = self.state.next;
        self.state.next += 1;
        self.state.nodes.insert(inode, Node { file, handles: 0, named: true });
        self.state.names.change(vec![(name, Some(inode))]);
        inode
    }

    fn open_handle(&mut self, inode: Inode) {
        if let Some(node) = self.state.nodes.get_mut(&inode) {
            node.handles += 1;
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the simulated disk has no power"));
        }
        Ok(())
    }

    /// Goes before every change: the planned end and the planned faults.
    fn begin(&mut self, faults: &[Fault], point: Option<SyncPoint>) -> io::Result<()> {
        if let Some(left) = &mut self.off_after {
            if *left == 0 {
                self.off = true;
                return self.powered();
            }
            *left -= 1;
        }
        self.strike(faults, point)
    }

    /// As [`World::begin`], for a change that takes blocks.
    fn begin_taking(&mut self, blocks: u64, faults: &[Fault]) -> io::Result<()> {
        self.begin(faults, None)?;
        match self.capacity {
            Some(capacity) if blocks > 0 && self.state.used() + blocks * PAGE as u64 > capacity => {
                Err(Fault::NoSpace.error())
            }
            _ => Ok(()),
        }
    }

    fn strike(&mut self, faults: &[Fault], point: Option<SyncPoint>) -> io::Result<()> {
        let could = |planned: &Planned| {
            faults.contains(&planned.fault) && (planned.point.is_none() || planned.point == point)
        };
        let mut struck = None;
        for (index, planned) in self.faults.iter_mut().enumerate() {
            if could(planned) {
                match planned.after.checked_sub(1) {
                    Some(after) => planned.after = after,
                    None => struck = struck.or(Some(index)),
                }
            }
        }
        match struck.and_then(|index| self.faults.remove(index)) {
            Some(planned) => Err(planned.fault.error()),
            None => Ok(()),
        }
    }

    /// Goes after every change that was made.
    fn done(&mut self, op: Op) {
        self.trace.push(op);
        if let Some(history) = &mut self.history {
            history.push(self.state.clone());
        }
    }
}

fn components(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                names.push(name.to_owned());
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    Ok(names)
}
