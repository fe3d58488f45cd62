//! The bytes of a simulated file: what the page cache shows, what the disk has, and what lies
//! between the two, in the order it was done.
//!
//! After a power loss a file's size and extents are as at *some* moment since the last sync (a
//! journal keeps the changes of one inode in order), while each written page is there, or not, or
//! torn at sectors, whatever the order. Pages never written read as zeros.

use std::{collections::BTreeMap, io::IoSlice, sync::Arc};

use super::{PowerCut, rng::Rng};

pub(super) const PAGE: usize = 4096;
const SECTOR: usize = 512;

type Page = Arc<[u8; PAGE]>;

/// A file as it looks to one reader. Pages that are absent are zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Image {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

/// Something done to a file and not yet synced.
#[derive(Debug, Clone)]
enum Change {
    /// Pages as they were after a write, and the file's size after it.
    Write { pages: Vec<(u64, Page)>, len: u64 },
    /// A new size, and whether it is smaller than the one before.
    SetLen { len: u64, shrinks: bool },
}

/// A simulated file's content.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    cached: Image,
    durable: Image,
    pending: Vec<Change>,
    /// Blocks below this page are reserved.
    reserved: u64,
}

// === impl Content ===

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.cached.len
    }

    pub(super) fn read(&self, buf: &mut [u8], position: u64) -> usize {
        self.cached.read(buf, position)
    }

    pub(super) fn write(&mut self, parts: &[IoSlice<'_>], position: u64) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if bytes.is_empty() {
            return;
        }
        let mut pages = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let at = position + done as u64;
            let (index, within) = split(at);
            let len = (PAGE - within).min(bytes.len() - done);
            let page = self.cached.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + len].copy_from_slice(&bytes[done..done + len]);
            pages.push((index, page.clone()));
            done += len;
        }
        self.cached.len = self.cached.len.max(position + bytes.len() as u64);
        self.pending.push(Change::Write { pages, len: self.cached.len });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len == self.cached.len {
            return;
        }
        self.pending.push(Change::SetLen { len, shrinks: len < self.cached.len });
        self.cached.set_len(len);
        self.reserved = self.reserved.min(pages_of(len));
    }

    /// Reserves the blocks below `len` and grows the file to it.
    pub(super) fn allocate(&mut self, len: u64) {
        if len > self.cached.len {
            self.set_len(len);
        }
        self.reserved = self.reserved.max(pages_of(len));
    }

    /// How many blocks this takes on the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.reserved + self.cached.pages.range(self.reserved..).count() as u64
    }

    /// How many more blocks a write of `[from, to)` takes.
    pub(super) fn blocks_for_write(&self, from: u64, to: u64) -> u64 {
        let first = (from / PAGE as u64).max(self.reserved);
        let end = pages_of(to).max(first);
        end - first - self.cached.pages.range(first..end).count() as u64
    }

    /// How many more blocks an allocation up to `len` takes.
    pub(super) fn blocks_for_allocation(&self, len: u64) -> u64 {
        let end = pages_of(len).max(self.reserved);
        end - self.reserved - self.cached.pages.range(self.reserved..end).count() as u64
    }

    pub(super) fn sync(&mut self) {
        self.durable = self.written_back();
        self.pending.clear();
    }

    /// The kernel gave up: some of it is on the disk, and all of it counts as clean.
    pub(super) fn sync_failing(&mut self, rng: &mut Rng) {
        self.durable = self.scrambled(rng);
        self.pending.clear();
    }

    /// Forgets clean pages, so that reads see the disk.
    pub(super) fn drop_clean_pages(&mut self) {
        let dirty: BTreeMap<u64, Page> = self
            .pending
            .iter()
            .filter_map(|change| match change {
                Change::Write { pages, .. } => Some(pages),
                Change::SetLen { .. } => None,
            })
            .flatten()
            .filter_map(|(index, _)| Some((*index, self.cached.pages.get(index)?.clone())))
            .collect();
        let len = self.cached.len;
        self.cached.pages = self.durable.pages.clone();
        self.cached.pages.extend(dirty);
        self.cached.set_len(len);
    }

    /// The content as it is found when the power is back.
    pub(super) fn after(&self, cut: PowerCut, rng: &mut Rng) -> Self {
        let image = match cut {
            PowerCut::LoseUnsynced | PowerCut::LoseContent => self.durable.clone(),
            PowerCut::KeepUnsynced | PowerCut::LoseNames => self.written_back(),
            PowerCut::Random(_) => self.scrambled(rng),
        };
        let reserved = self.reserved.min(pages_of(image.len));
        Self { cached: image.clone(), durable: image, pending: Vec::new(), reserved }
    }

    pub(super) fn flip_bit(&mut self, position: u64, bit: u8) {
        let (index, within) = split(position);
        for image in [&mut self.cached, &mut self.durable] {
            let page = image.pages.entry(index).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within] ^= 1 << (bit % 8);
        }
    }

    /// The disk once all that is dirty has reached it. Not the same as what the cache shows: pages
    /// that a failed sync lost are clean.
    fn written_back(&self) -> Image {
        let mut image = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::SetLen { len, .. } => image.set_len(*len),
                Change::Write { pages, len } => {
                    image.pages.extend(pages.iter().cloned());
                    image.len = image.len.max(*len);
                }
            }
        }
        image
    }

    /// Any state the disk may legally be in without a sync.
    fn scrambled(&self, rng: &mut Rng) -> Image {
        let mut image = self.durable.clone();
        // Sizes up to this change are on the disk.
        let sized = match rng.below(4) {
            0 => 0,
            1 => self.pending.len(),
            _ => rng.below(self.pending.len() + 1),
        };
        let keep_percent = [5, 50, 95][rng.below(3)];
        // A cut that did not happen keeps its blocks; what was written later went to others.
        let mut gone_from = u64::MAX;
        for (index, change) in self.pending.iter().enumerate() {
            match change {
                Change::SetLen { len, .. } if index < sized => image.set_len(*len),
                Change::SetLen { len, shrinks: true } => gone_from = gone_from.min(*len),
                Change::SetLen { shrinks: false, .. } => {}
                Change::Write { pages, len } => {
                    for (page_index, page) in pages {
                        if (page_index + 1).saturating_mul(PAGE as u64) <= gone_from {
                            image.put_some_of(*page_index, page, keep_percent, rng);
                        }
                    }
                    if index < sized {
                        image.len = image.len.max(*len);
                    }
                }
            }
        }
        let len = image.len;
        image.set_len(len);
        image
    }
}

// === impl Image ===

impl Image {
    fn read(&self, buf: &mut [u8], position: u64) -> usize {
        let left = self.len.saturating_sub(position);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < len {
            let (index, within) = split(position + done as u64);
            let part = (PAGE - within).min(len - done);
            let to = &mut buf[done..done + part];
            match self.pages.get(&index) {
                Some(page) => to.copy_from_slice(&page[within..within + part]),
                None => to.fill(0),
            }
            done += part;
        }
        len
    }

    /// Sets the size; nothing is left past it, not even in the last page.
    fn set_len(&mut self, len: u64) {
        self.len = len;
        drop(self.pages.split_off(&pages_of(len)));
        let (index, within) = split(len);
        if within > 0
            && let Some(page) = self.pages.get_mut(&index)
            && page[within..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[within..].fill(0);
        }
    }

    /// Puts a page here whole, torn at sectors, or not at all.
    fn put_some_of(&mut self, index: u64, page: &Page, keep_percent: u64, rng: &mut Rng) {
        if rng.percent(10) {
            let mut torn = self.pages.get(&index).map_or([0; PAGE], |old| **old);
            for sector in 0..PAGE / SECTOR {
                if rng.percent(50) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    torn[range.clone()].copy_from_slice(&page[range]);
                }
            }
            self.pages.insert(index, Arc::new(torn));
        } else if rng.percent(keep_percent) {
            self.pages.insert(index, page.clone());
        }
    }
}

fn split(position: u64) -> (u64, usize) {
    let within = position % PAGE as u64;
    (position / PAGE as u64, usize::try_from(within).expect("less than a page"))
}

fn pages_of(len: u64) -> u64 {
    len.div_ceil(PAGE as u64)
}
