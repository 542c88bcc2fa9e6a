//! The ids of a split, as one row over all its shards.
//!
//! Mapped files: what is read often stays in memory, the rest on disk. A shard is proven when it is opened, so reading
//! it gives values, not results. Files that another process cuts short while they are mapped end the process.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::format::{HEADER, Header, damaged};
use crate::TrainError;

/// One checked file.
#[derive(Debug)]
pub(super) struct Shard {
    map: Mmap,
    header: Header,
}

impl Shard {
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        let file = File::open(path).map_err(TrainError::io("open", path))?;
        // SAFETY: the mapping is only read, and only as bytes, of which every value is valid. That nobody writes to the
        // file meanwhile is the caller's world; we replace files by renaming, which leaves a mapping on the old
        // contents.
        #[allow(unsafe_code, reason = "mapping a file")]
        let map = unsafe { Mmap::map(&file) }.map_err(TrainError::io("map", path))?;
        let header = Header::read(&map, path)?;
        let shard = Self { map, header };
        if xxh3_64(&shard.map[HEADER..]) != header.checksum {
            return Err(damaged(
                path,
                "content",
                "a wrong checksum",
                "the one in its header",
            ));
        }
        let greatest = (0..header.tokens).map(|at| shard.id(at)).max();
        if let Some(id) = greatest.filter(|&id| id >= header.vocab_size) {
            let expected = format!("ids below {}", header.vocab_size);
            return Err(damaged(path, "content", &format!("id {id}"), &expected));
        }
        let mut before = 0;
        for document in 0..header.documents {
            let end = shard.end(document);
            if end < before || end > header.tokens {
                let found = format!("document {document} ending at {end}");
                return Err(damaged(
                    path,
                    "content",
                    &found,
                    "ends that rise to the number of ids",
                ));
            }
            before = end;
        }
        if before != header.tokens {
            let found = format!("documents ending at {before}");
            return Err(damaged(
                path,
                "content",
                &found,
                &format!("an end at {}", header.tokens),
            ));
        }
        Ok(shard)
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    fn id(&self, at: u64) -> u32 {
        let begin = HEADER + at as usize * self.header.width;
        let bytes = &self.map[begin..begin + self.header.width];
        match *bytes {
            [low, high] => u32::from(u16::from_le_bytes([low, high])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("the header admits two and four bytes"),
        }
    }

    fn ends_at(&self) -> usize {
        HEADER + self.header.tokens as usize * self.header.width
    }

    /// Where a document ends, in ids of this shard.
    fn end(&self, document: u64) -> u64 {
        let begin = self.ends_at() + document as usize * 8;
        u64::from_le_bytes(
            *self.map[begin..]
                .first_chunk()
                .expect("proven by the header"),
        )
    }

    fn learned(&self, at: u64) -> bool {
        let begin = self.ends_at() + self.header.documents as usize * 8;
        !self.header.masked || self.map[begin + at as usize / 8] >> (at % 8) & 1 == 1
    }
}

/// The ids of a split.
#[derive(Debug)]
pub struct Tokens {
    shards: Vec<Shard>,
    /// Ids before each shard, and all at the end.
    ids_before: Vec<u64>,
    /// Documents before each shard, and all at the end.
    documents_before: Vec<u64>,
}

impl Tokens {
    pub(super) fn new(shards: Vec<Shard>) -> Self {
        let sums = |count: fn(&Header) -> u64| {
            let mut before = vec![0];
            for shard in &shards {
                before.push(before.last().expect("never empty") + count(&shard.header));
            }
            before
        };
        Self {
            ids_before: sums(|header| header.tokens),
            documents_before: sums(|header| header.documents),
            shards,
        }
    }

    /// The number of ids.
    pub fn len(&self) -> u64 {
        *self.ids_before.last().expect("never empty")
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of documents.
    pub fn documents(&self) -> u64 {
        *self.documents_before.last().expect("never empty")
    }

    /// Whether some ids are not learned.
    pub fn is_masked(&self) -> bool {
        self.shards.iter().any(|shard| shard.header.masked)
    }

    /// Where a document stands.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn document(&self, number: u64) -> Range<u64> {
        let (shard, inside) = find(&self.documents_before, number);
        let begin = if inside == 0 {
            0
        } else {
            self.shards[shard].end(inside - 1)
        };
        let end = self.shards[shard].end(inside);
        self.ids_before[shard] + begin..self.ids_before[shard] + end
    }

    /// Reads ids, and whether each is learned.
    ///
    /// # Panics
    /// If the range ends behind the last id.
    pub fn read(&self, range: Range<u64>, ids: &mut Vec<i32>, learned: &mut Vec<bool>) {
        assert!(range.end <= self.len(), "{range:?} of {} ids", self.len());
        if range.is_empty() {
            return;
        }
        let (mut shard, mut inside) = find(&self.ids_before, range.start);
        for _ in range {
            while inside == self.shards[shard].header.tokens {
                (shard, inside) = (shard + 1, 0);
            }
            // Vocabularies have far fewer than 2³¹ tokens.
            ids.push(self.shards[shard].id(inside) as i32);
            learned.push(self.shards[shard].learned(inside));
            inside += 1;
        }
    }
}

/// The shard that holds an item, and its place there.
fn find(before: &[u64], item: u64) -> (usize, u64) {
    let shard = before.partition_point(|&before| before <= item) - 1;
    assert!(
        shard + 1 < before.len(),
        "item {item} of {:?}",
        before.last()
    );
    (shard, item - before[shard])
}
