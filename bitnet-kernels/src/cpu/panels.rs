//! Products of many tokens: weights are unpacked once, in panels, and meet all tokens.
//!
//! A panel is the codes of some rows, a byte each, with the rows in the lanes: four columns of every row, then the next
//! four. Four activations of a token are broadcast against it, so sums of different rows stay in different lanes from the
//! first product to the output: nothing is added across lanes, and one division and one multiplication finish a vector of
//! outputs. `tiles`, which adds across lanes for each four rows and token, took 1.4 times as long with 512 tokens.

use std::ops::Range;

use super::simd::compiled;
use super::tiles::{Groups, Product};
use crate::packing::words::CODES_PER_WORD;

/// Columns that are multiplied together.
pub(super) const QUAD: usize = 4;
/// Fours of columns in a word.
const PLANES: usize = CODES_PER_WORD / QUAD;
/// Words of a row that are unpacked at a time: 160 KiB for 64 rows, a part of the second-level cache.
const SPAN: usize = 160;

/// The inner loops over panels in one instruction set.
pub trait PanelKernel: Sync {
    /// Rows of a panel.
    fn panel_rows(&self) -> usize;

    /// Most tokens in one call.
    fn panel_tokens(&self) -> usize;

    /// The number of tokens from which panels are faster than reading packed weights again and again.
    fn panel_from(&self) -> usize;

    /// Unpacks rows of words to `panel [fours of columns, rows]`, four codes in each number.
    ///
    /// # Panics
    ///
    /// Panics unless there are [`panel_rows`](Self::panel_rows) rows of one length, and a panel for them.
    fn unpack(&self, words: &[&[u32]], panel: &mut [u32]);

    /// Asks for words that are needed soon. A panel reads many rows at once, which no prefetcher of a CPU foresees. Asking
    /// gained some percent.
    fn prefetch(&self, words: &[u32]);

    /// `sums[t][r] += Σ code(row r) · tokens[t]`, over the columns of the panel. Tokens are rows of one matrix.
    ///
    /// # Panics
    ///
    /// Panics unless tokens and sums are as long as the panel asks.
    fn panel_sums(&self, panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]);
}

impl Product<'_> {
    pub(super) fn panel_kernel(&self) -> &dyn PanelKernel {
        let panels = self.kernel.panels();
        panels.expect("activations are in their natural order for panels alone")
    }

    /// Calls `emit` with the sums of codes of some weight rows from n on and token t. Rows beyond the last repeat it.
    pub(super) fn plain_panels(
        &self,
        rows: Range<usize>,
        emit: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        let height = self.panel_kernel().panel_rows();
        let mut totals = vec![0; self.activations.rows() * height];
        self.panels(rows, 1, |n, columns, tokens, panel| {
            let tile = &mut totals[tokens.start * height..tokens.end * height];
            if columns.start == 0 {
                tile.fill(0);
            }
            self.panel_kernel()
                .panel_sums(panel, &self.quads(&tokens, &columns), tile);
            if columns.end == self.width {
                for (t, sums) in tokens.zip(tile.chunks_exact(height)) {
                    emit(n, t, sums);
                }
            }
        });
    }

    /// Calls `emit` with Σ acc_g · w_g of some weight rows from n on and token t. Rows beyond the last repeat it.
    pub(super) fn grouped_panels(
        &self,
        rows: Range<usize>,
        groups: &Groups<'_>,
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        let (height, words) = (self.panel_kernel().panel_rows(), 2 * groups.pairs);
        let count = self.activations.rows();
        // Σ q of each group and token. Behind the last group there may be padding, of zeros.
        let corrections: Vec<i32> = (0..count)
            .flat_map(|t| {
                self.activations
                    .row(t)
                    .chunks(words * CODES_PER_WORD)
                    .take(groups.count)
            })
            .map(|q| q.iter().map(|&q| i32::from(q)).sum())
            .collect();
        let mut totals = vec![0.0; count * height];
        let mut sums = vec![0; self.panel_kernel().panel_tokens() * height];
        self.panels(rows, words, |n, columns, tokens, panel| {
            let tile = &mut totals[tokens.start * height..tokens.end * height];
            if columns.start == 0 {
                tile.fill(0.0);
            }
            let sums = &mut sums[..tokens.len() * height];
            let mut scales = vec![0.0; height];
            let first = columns.start / words;
            for (g, panel) in (first..groups.count).zip(panel.chunks(words * PLANES * height)) {
                let part = g * words..(g * words + panel.len() / (PLANES * height));
                for (r, scale) in scales.iter_mut().enumerate() {
                    *scale = groups.scale[(n + r).min(self.d_out - 1) * groups.count + g];
                }
                sums.fill(0);
                self.panel_kernel()
                    .panel_sums(panel, &self.quads(&tokens, &part), sums);
                compiled(
                    self.kernel,
                    #[inline(always)]
                    || {
                        let rows = tile.chunks_exact_mut(height).zip(sums.chunks_exact(height));
                        for (t, (totals, sums)) in tokens.clone().zip(rows) {
                            let correction = corrections[t * groups.count + g];
                            for ((total, sum), scale) in totals.iter_mut().zip(sums).zip(&scales) {
                                *total += (sum - correction) as f32 * scale;
                            }
                        }
                    },
                );
            }
            if columns.end == self.width {
                for (t, totals) in tokens.zip(tile.chunks_exact(height)) {
                    emit(n, t, totals);
                }
            }
        });
    }

    /// Walks over panels: their first row, their columns in words, in multiples of `unit`, some tokens, and the codes.
    fn panels(
        &self,
        rows: Range<usize>,
        unit: usize,
        mut body: impl FnMut(usize, Range<usize>, Range<usize>, &[u32]),
    ) {
        let (height, count) = (self.panel_kernel().panel_rows(), self.activations.rows());
        // Equal parts: eight tokens are two times four, not six and two.
        let tile = count.div_ceil(count.div_ceil(self.panel_kernel().panel_tokens()));
        let span = self
            .width
            .div_ceil(self.width.div_ceil(SPAN))
            .next_multiple_of(unit);
        let mut panel = vec![0; span * PLANES * height];
        let mut words = Vec::with_capacity(height);
        let end = rows.end;
        for n in rows.step_by(height) {
            for start in (0..self.width).step_by(span) {
                let columns = start..(start + span).min(self.width);
                let panel = &mut panel[..columns.len() * PLANES * height];
                words.clear();
                words.extend((n..n + height).map(|row| self.row(row, &columns)));
                self.panel_kernel().unpack(&words, panel);
                let (n_next, next) = match columns.end == self.width {
                    true => (n + height, 0..span.min(self.width)),
                    false => (n, columns.end..(columns.end + span).min(self.width)),
                };
                (n_next..(n_next + height).min(end))
                    .for_each(|row| self.panel_kernel().prefetch(self.row(row, &next)));
                for t in (0..count).step_by(tile) {
                    body(n, columns.clone(), t..(t + tile).min(count), panel);
                }
            }
        }
    }

    /// Some words of a row; beyond the last row, of that one.
    fn row(&self, row: usize, columns: &Range<usize>) -> &[u32] {
        &self.words()[row.min(self.d_out - 1) * self.width..][columns.clone()]
    }

    /// Some columns of some tokens.
    fn quads(&self, tokens: &Range<usize>, columns: &Range<usize>) -> Vec<&[i8]> {
        let columns = columns.start * CODES_PER_WORD..columns.end * CODES_PER_WORD;
        tokens
            .clone()
            .map(|t| &self.activations.row(t)[columns.clone()])
            .collect()
    }
}
