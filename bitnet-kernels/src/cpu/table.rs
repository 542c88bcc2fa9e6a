//! Products with a table: y = x · Wᵀ for the output head, and rows of W for the embedding.
//!
//! Each output is one sum in one order, whatever stands beside it: a kernel keeps the same accumulators for each row of x
//! however many rows it takes at a time, so batch, place and threads do not change a bit. The order of loops is that of
//! `tiles`: table rows in blocks that stay in the second-level cache, in each block a few rows of x. One row of x streams
//! the table once; several share each number that is unpacked.

use std::fmt::Debug;
use std::ops::Range;

use super::{Kernel, digits, threads};
use crate::{Granularity, TableFormat, TableView};

/// Columns in a block: what kernels take at a time.
pub const TABLE_BLOCK: usize = 64;
/// Most rows of x that any kernel takes at a time.
const MAX_TOKENS: usize = 8;
/// Table rows in one call.
pub(super) const TABLE_ROWS: usize = 3;
/// Words of a table that a block of rows takes: a part of the second-level cache.
const BLOCK_WORDS: usize = 32 << 10;
/// Multiply-adds with floats cost several times what those of codes and int8 do.
const WORK_PER_NUMBER: usize = 4;

/// Whole blocks of 64 columns of one table row.
#[derive(Debug, Clone, Copy)]
pub struct TableBlocks<'a> {
    /// How the numbers are stored.
    pub format: TableFormat,
    /// Their words.
    pub words: &'a [u32],
    /// Two scales for each block in [`TableFormat::Int4`]; else unread.
    pub scale: &'a [f32],
}

/// The inner loop of table products in one instruction set.
pub trait TableKernel: Sync + Debug {
    /// Most rows of x in one call, at most 8.
    fn table_tokens(&self) -> usize;

    /// `sums[t] = Σₖ w[k] · x[t][k]`, with `w` the codes; in [`TableFormat::Int4`] the codes times their scales. The order
    /// of summation of `sums[t]` depends on the number of blocks alone.
    ///
    /// # Panics
    ///
    /// Panics unless words, scales and each row of x have the same whole number of blocks.
    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]);

    /// [`table_sums`](Self::table_sums) of up to three table rows: `sums[r · x.len() + t]`. A kernel may share the loads of x.
    ///
    /// # Panics
    ///
    /// As [`table_sums`](Self::table_sums).
    fn table_tile(&self, rows: &[TableBlocks<'_>], x: &[&[f32]], sums: &mut [f32]) {
        for (row, sums) in rows.iter().zip(sums.chunks_exact_mut(x.len())) {
            self.table_sums(*row, x, sums);
        }
    }
}

impl TableBlocks<'_> {
    /// Words of a block.
    const fn words_per_block(format: TableFormat) -> usize {
        format.words_per_row(TABLE_BLOCK)
    }

    /// What [`TableKernel::table_sums`] demands.
    pub(super) fn check(&self, x: &[&[f32]], sums: &[f32]) {
        let blocks = self.words.len() / Self::words_per_block(self.format);
        assert_eq!(
            self.words.len(),
            blocks * Self::words_per_block(self.format),
            "a whole number of blocks"
        );
        assert!(
            self.format != TableFormat::Int4 || self.scale.len() == 2 * blocks,
            "two scales for each block"
        );
        assert!(
            x.iter().all(|x| x.len() == blocks * TABLE_BLOCK),
            "as many columns in x"
        );
        assert_eq!(x.len(), sums.len(), "one sum for each row of x");
    }
}

/// y = x · Wᵀ, with f32 sums, or exact ones where `digits` are faster.
///
/// # Shapes
///
/// - x: `[count, columns]`
/// - out: `[count, rows]`
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn table_linear(kernel: &dyn Kernel, x: &[f32], table: &TableView<'_>, out: &mut [f32]) {
    let (rows, columns) = (table.rows(), table.columns());
    let count = x.len() / columns;
    assert_eq!(x.len(), count * columns, "the input is [count, {columns}]");
    assert_eq!(out.len(), count * rows, "the output is [count, {rows}]");
    if count == 0 {
        return;
    }
    let work = work(count, table);
    if let Some(bytes) = kernel.digits()
        && table.format() == TableFormat::Int8
        && columns <= digits::MOST_COLUMNS
    {
        return digits::table_linear::<{ digits::DIGITS }>(kernel, bytes, x, table, work, out);
    }
    let x = Split::new(x, columns);
    threads::split(out, rows, 1, work, |range, mut out| {
        let block = (BLOCK_WORDS / table.format().words_per_row(columns)).max(1);
        let mut sums = [0.0; TABLE_ROWS * MAX_TOKENS];
        // Equal parts: eight rows of x are two times four, not five and three.
        let tokens = count.div_ceil(count.div_ceil(kernel.table_tokens()));
        for first in range.clone().step_by(block) {
            let end = (first + block).min(range.end);
            for start in (0..count).step_by(tokens) {
                let tokens = start..(start + tokens).min(count);
                let (whole, tail) = x.rows(&tokens);
                for n in (first..end).step_by(TABLE_ROWS) {
                    let rows = n..(n + TABLE_ROWS).min(end);
                    let sums = &mut sums[..rows.len() * tokens.len()];
                    tile_sums(kernel, table, rows.clone(), &whole, &tail, sums);
                    for (n, sums) in rows.zip(sums.chunks_exact(tokens.len())) {
                        for (out, &sum) in out[tokens.clone()].iter_mut().zip(sums) {
                            out[n - range.start] = sum;
                        }
                    }
                }
            }
        }
    });
}

/// What a product costs, in multiply-adds of codes.
pub(super) const fn work(count: usize, table: &TableView<'_>) -> usize {
    WORK_PER_NUMBER * count * table.rows() * table.columns()
}

/// Σₖ W[n, k] · x[t, k] for some table rows and rows of x: `[table rows, rows of x]`.
pub(super) fn tile_sums(
    kernel: &dyn Kernel,
    table: &TableView<'_>,
    rows: Range<usize>,
    whole: &[&[f32]],
    tail: &[&[f32]],
    sums: &mut [f32],
) {
    let format = table.format();
    let blocks = table.columns() / TABLE_BLOCK;
    let cut = blocks * TableBlocks::words_per_block(format);
    let grouped = matches!(format.granularity(), Granularity::Group(_));
    let scales_cut = if grouped { 2 * blocks } else { 0 };
    let tile: [TableBlocks<'_>; TABLE_ROWS] = std::array::from_fn(|r| {
        let n = (rows.start + r).min(rows.end - 1);
        TableBlocks {
            format,
            words: &table.row_words(n)[..cut],
            scale: &table.row_scales(n)[..scales_cut],
        }
    });
    kernel.table_tile(&tile[..rows.len()], whole, sums);
    for (n, sums) in rows.zip(sums.chunks_exact_mut(whole.len())) {
        let (words, scale) = (
            &table.row_words(n)[cut..],
            &table.row_scales(n)[scales_cut..],
        );
        if !tail.is_empty() {
            add_tail(kernel, format, words, scale, tail, sums);
        }
        if !grouped {
            sums.iter_mut().for_each(|sum| *sum *= scale[0]);
        }
    }
}

/// Adds the products of the columns behind the last whole block, padded with zeros.
fn add_tail(
    kernel: &dyn Kernel,
    format: TableFormat,
    last_words: &[u32],
    last_scale: &[f32],
    tail: &[&[f32]],
    sums: &mut [f32],
) {
    let (mut words, mut scale) = ([0; TABLE_BLOCK], [0.0; 2]);
    words[..last_words.len()].copy_from_slice(last_words);
    if matches!(format.granularity(), Granularity::Group(_)) {
        scale[..last_scale.len()].copy_from_slice(last_scale);
    }
    let row = TableBlocks {
        format,
        words: &words[..TableBlocks::words_per_block(format)],
        scale: &scale,
    };
    let mut rest = [0.0; MAX_TOKENS];
    let rest = &mut rest[..sums.len()];
    kernel.table_sums(row, tail, rest);
    sums.iter_mut()
        .zip(rest)
        .for_each(|(sum, rest)| *sum += *rest);
}

/// Rows of x, cut into whole blocks and a tail that is padded with zeros.
pub(super) struct Split<'a> {
    x: &'a [f32],
    columns: usize,
    tails: Vec<[f32; TABLE_BLOCK]>,
}

impl<'a> Split<'a> {
    pub(super) fn new(x: &'a [f32], columns: usize) -> Self {
        let whole = columns - columns % TABLE_BLOCK;
        let tail = |x: &[f32]| {
            let mut tail = [0.0; TABLE_BLOCK];
            tail[..columns - whole].copy_from_slice(&x[whole..]);
            tail
        };
        let tails = if whole == columns {
            Vec::new()
        } else {
            x.chunks_exact(columns).map(tail).collect()
        };
        Self { x, columns, tails }
    }

    /// Whole blocks and tails of some rows. No tails if there are none.
    pub(super) fn rows(&self, rows: &Range<usize>) -> (Vec<&[f32]>, Vec<&[f32]>) {
        let whole = self.columns - self.columns % TABLE_BLOCK;
        let tails = self.tails.get(rows.clone()).unwrap_or_default();
        (
            rows.clone()
                .map(|row| &self.x[row * self.columns..][..whole])
                .collect(),
            tails.iter().map(|tail| &tail[..]).collect(),
        )
    }
}

/// The rows of a table that `ids` name; NaN for an id that is no row.
///
/// # Shapes
///
/// - out: `[ids, columns]`
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn table_rows(ids: &[i32], table: &TableView<'_>, out: &mut [f32]) {
    let columns = table.columns();
    assert_eq!(
        out.len(),
        ids.len() * columns,
        "the output is [ids, {columns}]"
    );
    let tasks = threads::tasks(WORK_PER_NUMBER * out.len());
    let share = ids.len().div_ceil(tasks).max(1);
    let jobs = ids.chunks(share).zip(out.chunks_mut(share * columns));
    threads::run(jobs.collect(), |(ids, out): (&[i32], &mut [f32])| {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(columns)) {
            match usize::try_from(id) {
                Ok(row) if row < table.rows() => table.dequantize_row(row, out),
                _ => out.fill(f32::NAN),
            }
        }
    });
}
