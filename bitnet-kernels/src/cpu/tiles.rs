//! Tiles, tails and the epilogue of ternary products, once for all kernels; many tokens go to `panels`, base 3 comes from
//! `base3`.
//!
//! The order of loops: weight rows in blocks that stay in the second-level cache, in each block a few tokens that stay in
//! the first-level one, for these the rows of the block, four at a time. With one token this streams the weights once
//! (decode, bound by memory); with many it reuses each unpacked vector of weights for all tokens of a tile (prefill).
//! |Σ code·q| ≤ 2·128·d_in < 2³¹, since matrices are refused from d_in = 2²³ on: all sums are exact.

use std::ops::Range;

use super::simd::compiled;
use super::{Activations, Codes, Kernel, MAX_LANES, ROWS, threads};
use crate::Granularity;
use crate::packing::words::{CODES_PER_WORD, ZERO_WORD, words_per_row};

/// Packed weights that a block of rows takes: a part of the second-level cache.
pub(super) const BLOCK_BYTES: usize = 128 << 10;
/// Columns of two words: the unit of group sizes.
const PAIR: usize = 2 * CODES_PER_WORD;
/// Activations that a tile takes: most of a first-level cache of 32 KiB, next to four weight rows.
const TILE_BYTES: usize = 24 << 10;

/// Σₖ q\[t, k\] · T\[n, k\], exact.
///
/// # Shapes
///
/// - codes: canonical words or base-3 bytes of `[d_out, d_in]`
/// - out: `[rows, d_out]`
///
/// # Panics
///
/// Panics if a length does not fit, or if `activations` were made for another kernel.
pub fn ternary_sums<'a>(
    kernel: &dyn Kernel,
    activations: &Activations,
    codes: impl Into<Codes<'a>>,
    d_out: usize,
    out: &mut [i32],
) {
    let product = Product::new(kernel, activations, codes.into(), d_out);
    product.split(out, |rows, mut out| {
        product.plain_sums(rows.clone(), &mut |n, t, sums| {
            let sum = activations.sum()[t];
            for (out, codes) in out[t][n - rows.start..].iter_mut().zip(sums) {
                *out = codes - sum;
            }
        });
    });
}

/// y = acc / s · w, or y = (Σ over groups acc_g · w_g) / s, with acc the exact sums of [`ternary_sums`].
///
/// # Shapes
///
/// - codes: canonical words or base-3 bytes of `[d_out, d_in]`
/// - scale: as `granularity` says
/// - out: `[rows, d_out]`
///
/// # Panics
///
/// Panics if a length does not fit, or if `activations` were made for another kernel.
pub fn ternary_linear<'a>(
    kernel: &dyn Kernel,
    activations: &Activations,
    codes: impl Into<Codes<'a>>,
    d_out: usize,
    granularity: Granularity,
    scale: &[f32],
    out: &mut [f32],
) {
    let product = Product::new(kernel, activations, codes.into(), d_out);
    let d_in = activations.d_in();
    assert_eq!(scale.len(), granularity.count(d_out, d_in), "{granularity}");
    let s = activations.scale();
    match granularity {
        Granularity::Tensor | Granularity::Row => product.split(out, |rows, mut out| {
            product.plain_sums(rows.clone(), &mut |n, t, sums| {
                let (sum, s) = (activations.sum()[t], s[t]);
                let out = &mut out[t][n - rows.start..];
                compiled(
                    kernel,
                    #[inline(always)]
                    || match granularity {
                        Granularity::Row => finish_rows(out, sums, sum, s, &scale[n..]),
                        _ => finish(out, sums, sum, s, scale[0]),
                    },
                );
            });
        }),
        Granularity::Group(size) => {
            let groups = Groups {
                pairs: size / PAIR,
                count: d_in.div_ceil(size),
                scale,
            };
            assert_eq!(
                groups.pairs * PAIR,
                size,
                "a group is a whole number of pairs of words"
            );
            product.split(out, |rows, mut out| {
                product.grouped_sums(rows.clone(), &groups, &mut |n, t, totals| {
                    let (out, s) = (&mut out[t][n - rows.start..], s[t]);
                    compiled(
                        kernel,
                        #[inline(always)]
                        || finish_groups(out, totals, s),
                    );
                });
            });
        }
    }
}

// The ends of a product are functions of plain numbers: what a closure borrows might change with each output for all that the
// compiler knows, and it divides one number at a time. That took 8 % of the time of a prompt.

/// Some outputs of a token: sums of codes less the sum of its activations, over their scale, times that of the weight.
#[inline(always)]
fn finish(out: &mut [f32], sums: &[i32], sum: i32, s: f32, scale: f32) {
    for (out, codes) in out.iter_mut().zip(sums) {
        *out = (codes - sum) as f32 / s * scale;
    }
}

/// The same with a scale for each row of the weight.
#[inline(always)]
fn finish_rows(out: &mut [f32], sums: &[i32], sum: i32, s: f32, scale: &[f32]) {
    for ((out, codes), scale) in out.iter_mut().zip(sums).zip(scale) {
        *out = (codes - sum) as f32 / s * scale;
    }
}

/// The same of sums over groups, which have their scales.
#[inline(always)]
fn finish_groups(out: &mut [f32], totals: &[f32], s: f32) {
    for (out, total) in out.iter_mut().zip(totals) {
        *out = total / s;
    }
}

/// The group scales of a weight.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    pub(super) pairs: usize, // pairs of words in a group
    pub(super) count: usize, // groups in a row
    pub(super) scale: &'a [f32],
}

impl Groups<'_> {
    /// The scales of four rows side by side: `[groups, 4]`.
    fn scales(&self, rows: [usize; ROWS], scales: &mut [[f32; ROWS]]) {
        let rows = rows.map(|row| &self.scale[row * self.count..][..self.count]);
        let [a, b, c, d] = rows.map(|row| row.iter());
        for (scales, (((a, b), c), d)) in scales.iter_mut().zip(a.zip(b).zip(c).zip(d)) {
            *scales = [*a, *b, *c, *d];
        }
    }

    /// Σ codes·q of each group of four rows, from those of pairs of words.
    fn sums(&self, pairs: &[[i32; ROWS]]) -> impl Iterator<Item = [i32; ROWS]> {
        pairs.chunks(self.pairs).take(self.count).map(|pairs| {
            let mut sums = [0; ROWS];
            for pair in pairs {
                for r in 0..ROWS {
                    sums[r] += pair[r];
                }
            }
            sums
        })
    }

    /// Σ over groups, ascending, of (Σ codes·q − Σ q) · w, in f32.
    fn totals(
        &self,
        pairs: &[[i32; ROWS]],
        corrections: &[i32],
        scales: &[[f32; ROWS]],
    ) -> [f32; ROWS] {
        let mut totals = [0.0; ROWS];
        for ((sums, correction), scales) in self.sums(pairs).zip(corrections).zip(scales) {
            for r in 0..ROWS {
                totals[r] += (sums[r] - correction) as f32 * scales[r];
            }
        }
        totals
    }
}

/// The operands of one product, with the lengths proven.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) activations: &'a Activations,
    pub(super) codes: Codes<'a>,
    pub(super) width: usize, // canonical words of a row, also where its codes are base 3
    pub(super) d_out: usize,
}

impl<'a> Product<'a> {
    fn new(
        kernel: &'a dyn Kernel,
        activations: &'a Activations,
        codes: Codes<'a>,
        d_out: usize,
    ) -> Self {
        activations.check(kernel);
        let d_in = activations.d_in();
        codes.check(d_out, d_in);
        Self {
            kernel,
            activations,
            codes,
            width: words_per_row(d_in),
            d_out,
        }
    }

    /// Shares the weight rows out among tasks; each gets its columns of every row of `out`.
    fn split<T: Send>(&self, out: &mut [T], body: impl Fn(Range<usize>, Vec<&mut [T]>) + Sync) {
        assert_eq!(
            out.len(),
            self.activations.rows() * self.d_out,
            "the output is [rows, d_out]"
        );
        if out.is_empty() {
            return;
        }
        let work = out.len() * self.activations.d_in();
        threads::split(out, self.d_out, self.unit(), work, body);
    }

    /// Rows that are multiplied at a time.
    pub(super) fn unit(&self) -> usize {
        if self.activations.is_natural() {
            self.panel_kernel().panel_rows()
        } else {
            ROWS
        }
    }

    /// The codes as words, of which base 3 was made on the way here.
    pub(super) fn words(&self) -> &'a [u32] {
        match self.codes {
            Codes::Words(words) => words,
            Codes::Base3(_) => unreachable!("base 3 is unpacked, or has loops of its own"),
        }
    }

    /// Walks over blocks of weight rows and, in each, over tiles of tokens.
    fn tiles(
        &self,
        rows: Range<usize>,
        tokens: usize,
        mut body: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let count = self.activations.rows();
        // Equal parts: twelve tokens are two times six, not eight and four.
        let tokens = count.div_ceil(count.div_ceil(tokens));
        let block = (BLOCK_BYTES / (4 * self.width))
            .max(1)
            .next_multiple_of(ROWS);
        for n in rows.clone().step_by(block) {
            for t in (0..count).step_by(tokens) {
                body(n..(n + block).min(rows.end), t..(t + tokens).min(count));
            }
        }
    }

    /// Calls `emit` with the sums of codes of some weight rows from n on and token t, the last perhaps repeated.
    pub(super) fn plain_sums(
        &self,
        rows: Range<usize>,
        emit: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        match self.codes {
            Codes::Base3(bytes) => self.plain_base3(bytes, rows, emit),
            Codes::Words(_) if self.activations.is_natural() => self.plain_panels(rows, emit),
            Codes::Words(_) => self.plain(
                rows,
                self.kernel.lanes(),
                |rows, tokens, columns, sums| self.add_block(rows, tokens, columns, sums),
                emit,
            ),
        }
    }

    /// Calls `emit` with Σ acc_g · w_g of some weight rows from n on and token t, the last perhaps repeated.
    pub(super) fn grouped_sums(
        &self,
        rows: Range<usize>,
        groups: &Groups<'_>,
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        match self.codes {
            Codes::Base3(bytes) => self.grouped_base3(bytes, rows, groups, emit),
            Codes::Words(_) if self.activations.is_natural() => {
                self.grouped_panels(rows, groups, emit);
            }
            Codes::Words(_) => self.grouped(rows, groups, emit),
        }
    }

    /// In fours of rows; `add` adds the products of some columns, in multiples of `unit` words, to the sums of a block,
    /// `[rows / 4, tokens]`. `emit` gets the rows of a block together: calling it for each four took as long as the products
    /// of eight tokens.
    pub(super) fn plain(
        &self,
        rows: Range<usize>,
        unit: usize,
        add: impl Fn(Range<usize>, Range<usize>, Range<usize>, &mut [[i32; ROWS]]),
        emit: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        let (mut sums, mut line) = (Vec::new(), Vec::new());
        self.tiles(rows, self.kernel.tokens(), |rows, tokens| {
            sums.clear();
            sums.resize(rows.len().div_ceil(ROWS) * tokens.len(), [0; ROWS]);
            for columns in self.chunks(tokens.len(), unit) {
                add(rows.clone(), tokens.clone(), columns, &mut sums);
            }
            for (at, t) in tokens.clone().enumerate() {
                line.clear();
                line.extend(sums[at..].iter().step_by(tokens.len()).flatten());
                emit(rows.start, t, &line[..rows.len()]);
            }
        });
    }

    /// Equal ranges of words such that the activations of a tile stay in the first-level cache.
    fn chunks(&self, tokens: usize, unit: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let width = self.width;
        let pieces = (width * CODES_PER_WORD * tokens).div_ceil(TILE_BYTES);
        let step = width.div_ceil(pieces).next_multiple_of(unit);
        (0..width)
            .step_by(step)
            .map(move |start| start..(start + step).min(width))
    }

    /// Adds the products of some columns to `sums`, `[rows / 4, tokens]`.
    fn add_block(
        &self,
        rows: Range<usize>,
        tokens: Range<usize>,
        columns: Range<usize>,
        sums: &mut [[i32; ROWS]],
    ) {
        let (whole, tail) = self.cut(columns);
        let (q_whole, q_tail) = (self.q(&tokens, &whole), self.q(&tokens, &tail));
        for (n, sums) in rows
            .clone()
            .step_by(ROWS)
            .zip(sums.chunks_exact_mut(tokens.len()))
        {
            let panel = panel(n, &rows);
            self.kernel
                .add_sums(self.rows(panel, &whole), &q_whole, sums);
            if !tail.is_empty() {
                let padded = self.padded_rows(panel, &tail);
                self.kernel.add_sums(
                    padded.each_ref().map(|row| &row[..self.kernel.lanes()]),
                    &q_tail,
                    sums,
                );
            }
        }
    }

    /// Cuts a range of words into whole vectors and a tail.
    fn cut(&self, columns: Range<usize>) -> (Range<usize>, Range<usize>) {
        let at = columns.end - columns.len() % self.kernel.lanes();
        (columns.start..at, at..columns.end)
    }

    /// The activations that stand beside some words, padded to whole vectors.
    pub(super) fn q(&self, tokens: &Range<usize>, columns: &Range<usize>) -> Vec<&'a [i8]> {
        let len = columns.len().next_multiple_of(self.kernel.lanes()) * CODES_PER_WORD;
        tokens
            .clone()
            .map(|t| &self.activations.row(t)[columns.start * CODES_PER_WORD..][..len])
            .collect()
    }

    /// Some words of four rows.
    fn rows(&self, panel: [usize; ROWS], columns: &Range<usize>) -> [&'a [u32]; ROWS] {
        panel.map(|row| &self.words()[row * self.width..][columns.clone()])
    }

    /// The same for a tail, in room for a whole vector.
    fn padded_rows(
        &self,
        panel: [usize; ROWS],
        columns: &Range<usize>,
    ) -> [[u32; MAX_LANES]; ROWS] {
        self.rows(panel, columns).map(|row| {
            let mut padded = [0; MAX_LANES];
            padded[..row.len()].copy_from_slice(row);
            padded
        })
    }

    /// In fours of rows.
    fn grouped(
        &self,
        rows: Range<usize>,
        groups: &Groups<'_>,
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let (kernel, count) = (self.kernel, groups.count);
        let stride = self.width.next_multiple_of(kernel.lanes()) / 2;
        let ones = vec![ZERO_WORD; 2 * stride];
        let mut pairs = vec![[0; ROWS]; kernel.tokens() * stride];
        let mut corrections = vec![0; kernel.tokens() * count];
        let mut scales = vec![[0.0; ROWS]; count];
        let mut totals = Vec::new();

        self.tiles(rows, kernel.tokens(), |rows, tokens| {
            // Rows of codes 1 give the sums of the activations.
            kernel.pair_sums(
                [&ones; ROWS],
                &self.q(&tokens, &(0..self.width)),
                &mut pairs,
                stride,
            );
            for (pairs, corrections) in pairs
                .chunks_exact(stride)
                .zip(corrections.chunks_exact_mut(count))
            {
                groups
                    .sums(pairs)
                    .zip(corrections)
                    .for_each(|(sums, correction)| *correction = sums[0]);
            }
            let (whole, tail) = self.cut(0..self.width);
            let (q_whole, q_tail) = (self.q(&tokens, &whole), self.q(&tokens, &tail));
            let height = rows.len().next_multiple_of(ROWS);
            totals.clear();
            totals.resize(tokens.len() * height, 0.0);
            for n in rows.clone().step_by(ROWS) {
                let panel = panel(n, &rows);
                kernel.pair_sums(self.rows(panel, &whole), &q_whole, &mut pairs, stride);
                if !tail.is_empty() {
                    let padded = self.padded_rows(panel, &tail);
                    let words = padded.each_ref().map(|row| &row[..kernel.lanes()]);
                    kernel.pair_sums(words, &q_tail, &mut pairs[whole.len() / 2..], stride);
                }
                groups.scales(panel, &mut scales);
                let operands = pairs
                    .chunks_exact(stride)
                    .zip(corrections.chunks_exact(count));
                let lines = totals.chunks_exact_mut(height);
                for ((pairs, corrections), line) in operands.zip(lines) {
                    let place = &mut line[n - rows.start..][..ROWS];
                    place.copy_from_slice(&groups.totals(pairs, corrections, &scales));
                }
            }
            for (t, line) in tokens.clone().zip(totals.chunks_exact(height)) {
                emit(rows.start, t, &line[..rows.len()]);
            }
        });
    }
}

/// Four rows from `n` on; beyond the last of `rows`, that one again.
pub(super) fn panel(n: usize, rows: &Range<usize>) -> [usize; ROWS] {
    std::array::from_fn(|r| (n + r).min(rows.end - 1))
}
