//! Rows: where each begins in the ids, and what of it is learned.
//!
//! A row of `seq_len` inputs takes one id more, for the last target. Rows of a stream and windows are arithmetic; whole
//! documents need a table of 24 bytes a row. Where documents share a row, the first id of one is not learned from the
//! one before it.

use std::ops::Range;
use std::sync::Arc;

use super::batch::Batch;
use crate::data::shards::Tokens;

/// What fills a row up; it is never learned.
const FILL: i32 = 0;

/// The rows of a split.
#[derive(Debug)]
pub(super) struct Rows {
    tokens: Arc<Tokens>,
    seq_len: usize,
    cut: Cut,
}

#[derive(Debug)]
enum Cut {
    /// Row `n` begins at `n · stride`; so many rows.
    Every { stride: u64, rows: u64 },
    /// Ranges of ids, of one more id than a row at most, each with the document it begins in.
    Table(Vec<(Range<u64>, u64)>),
}

impl Rows {
    /// Rows one after the other. The last target of one is the first input of the next.
    pub(super) fn stream(tokens: Arc<Tokens>, seq_len: usize) -> Self {
        let stride = seq_len as u64;
        let rows = tokens.len().saturating_sub(1) / stride;
        let cut = Cut::Every { stride, rows };
        Self {
            tokens,
            seq_len,
            cut,
        }
    }

    /// A row at every id that has enough behind it.
    pub(super) fn windows(tokens: Arc<Tokens>, seq_len: usize) -> Self {
        let rows = tokens.len().saturating_sub(seq_len as u64);
        let cut = Cut::Every { stride: 1, rows };
        Self {
            tokens,
            seq_len,
            cut,
        }
    }

    /// Documents in order, as many in a row as fit; longer ones are cut.
    pub(super) fn whole(tokens: Arc<Tokens>, seq_len: usize) -> Self {
        let room = seq_len as u64 + 1;
        let mut table: Vec<(Range<u64>, u64)> = Vec::new();
        let mut open: Option<(Range<u64>, u64)> = None;
        for number in 0..tokens.documents() {
            let document = tokens.document(number);
            let fits = |row: &(Range<u64>, u64)| document.end - row.0.start <= room;
            let mut row = match open.take_if(|row| fits(row)) {
                Some(row) => row,
                None => {
                    table.extend(open.take());
                    (document.start..document.start, number)
                }
            };
            // The next piece begins with the last target of the one before.
            while document.end - row.0.start > room {
                let end = row.0.start + room;
                table.push((row.0.start..end, number));
                row = (end - 1..end - 1, number);
            }
            row.0.end = document.end;
            open = Some(row);
        }
        table.extend(open);
        // One id has no target.
        table.retain(|(ids, _)| ids.end - ids.start > 1);
        let cut = Cut::Table(table);
        Self {
            tokens,
            seq_len,
            cut,
        }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn len(&self) -> u64 {
        match &self.cut {
            Cut::Every { rows, .. } => *rows,
            Cut::Table(table) => table.len() as u64,
        }
    }

    /// Whether rows have targets that are not learned.
    pub(super) fn is_masked(&self) -> bool {
        self.tokens.is_masked() || matches!(self.cut, Cut::Table(_))
    }

    /// Appends a row to a batch; `None` is a row of nothing.
    pub(super) fn read(&self, row: Option<u64>, batch: &mut Batch) {
        let room = self.seq_len + 1;
        let (mut ids, mut learned) = (Vec::with_capacity(room), Vec::with_capacity(room));
        match (row, &self.cut) {
            (None, _) => {}
            (Some(row), Cut::Every { stride, .. }) => {
                let begin = row * stride;
                self.tokens
                    .read(begin..begin + room as u64, &mut ids, &mut learned);
            }
            (Some(row), Cut::Table(table)) => {
                let (range, first) = &table[row as usize];
                self.tokens.read(range.clone(), &mut ids, &mut learned);
                let starts =
                    (first + 1..self.tokens.documents()).map(|at| self.tokens.document(at).start);
                for start in starts.take_while(|start| *start < range.end) {
                    learned[(start - range.start) as usize] = false;
                }
            }
        }
        ids.resize(room, FILL);
        learned.resize(room, false);
        batch.inputs.extend(&ids[..self.seq_len]);
        batch.targets.extend(&ids[1..]);
        if let Some(mask) = &mut batch.mask {
            mask.extend(&learned[1..]);
        }
    }
}
