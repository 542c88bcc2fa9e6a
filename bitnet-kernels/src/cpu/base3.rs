//! Products with base-3 bytes: loops of their own for a few tokens, words unpacked in the second-level cache for all else.
//!
//! For up to as many tokens as one pass takes, a kernel that has loops for base 3 reads each byte once. More tokens, scales for
//! groups of columns and other kernels get a block of rows unpacked into canonical words, which [`packing::base3`](base3) does
//! at some 10 weights a cycle, and go on as with words. Sums are the same integers either way.

use std::borrow::Cow;
use std::ops::Range;

use super::simd::compiled;
use super::tiles::{BLOCK_BYTES, Groups, Product, panel};
use super::{Kernel, ROWS, kernel};
use crate::packing::base3::{self, bytes_per_row};
use crate::packing::words::words_per_row;

/// The codes of a ternary matrix, as they lie in memory.
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// Canonical words, see [`packing::words`](crate::packing::words).
    Words(&'a [u32]),
    /// Base-3 bytes, see [`packing::base3`](crate::packing::base3).
    Base3(&'a [u8]),
}

impl<'a> From<&'a [u32]> for Codes<'a> {
    fn from(words: &'a [u32]) -> Self {
        Self::Words(words)
    }
}

impl<'a> From<&'a [u8]> for Codes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Base3(bytes)
    }
}

impl<'a> Codes<'a> {
    /// Panics unless these are the codes of `[d_out, d_in]`.
    pub(super) fn check(self, d_out: usize, d_in: usize) {
        let (what, len, width) = match self {
            Self::Words(words) => ("canonical words", words.len(), words_per_row(d_in)),
            Self::Base3(bytes) => ("base-3 bytes", bytes.len(), bytes_per_row(d_in)),
        };
        assert_eq!(len, d_out * width, "{what} of {d_out} x {d_in}");
    }

    /// All of them as words.
    pub(super) fn into_words(self, d_out: usize, d_in: usize) -> Cow<'a, [u32]> {
        self.check(d_out, d_in);
        match self {
            Self::Words(words) => Cow::Borrowed(words),
            Self::Base3(bytes) => {
                let mut words = vec![0; d_out * words_per_row(d_in)];
                unpack(kernel(), bytes, d_in, &mut words);
                Cow::Owned(words)
            }
        }
    }
}

/// Unpacks rows with the loop of `kernel`, or the portable one compiled for it.
fn unpack(kernel: &dyn Kernel, bytes: &[u8], d_in: usize, words: &mut [u32]) {
    let Some(kernel) = kernel.base3() else {
        return compiled(
            kernel,
            #[inline(always)]
            || base3::unpack_rows(bytes, d_in, words),
        );
    };
    let rows = words.chunks_exact_mut(words_per_row(d_in));
    for (words, bytes) in rows.zip(bytes.chunks_exact(bytes_per_row(d_in))) {
        kernel.unpack_base3(bytes, words);
    }
}

/// The inner loops over base-3 bytes, of a [`Kernel`] of 16 lanes.
pub trait Base3Kernel: Sync {
    /// Most rows of activations in one call.
    fn base3_tokens(&self) -> usize;

    /// Unpacks one row into canonical words.
    fn unpack_base3(&self, bytes: &[u8], words: &mut [u32]);

    /// `sums[t][r] += Σ code(bytes[r]) · tokens[t]`, over whole lines of canonical words, in [`Kernel::add_sums`]'s order. Fifth
    /// trits of lines behind the last five are left out.
    ///
    /// # Panics
    ///
    /// Panics unless all tokens have the same whole number of lines, 256 activations each, and all rows their bytes.
    fn add_base3(&self, bytes: [&[u8]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]);
}

impl Product<'_> {
    /// [`plain_sums`](Self::plain_sums) of base-3 bytes.
    pub(super) fn plain_base3(
        &self,
        bytes: &[u8],
        rows: Range<usize>,
        emit: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        let tokens = self.activations.rows();
        match self.kernel.base3() {
            // One pass alone: more would decode each byte as often.
            Some(kernel) if !self.activations.is_natural() && tokens <= kernel.base3_tokens() => {
                self.plain(
                    rows,
                    base3::GROUP * base3::WORDS,
                    |rows, tokens, columns, sums| {
                        let q = self.q(&tokens, &columns);
                        let stride = bytes_per_row(self.activations.d_in());
                        let part = base3::byte_len(columns.start)..base3::byte_len(columns.end);
                        let fours = rows.clone().step_by(ROWS);
                        for (n, sums) in fours.zip(sums.chunks_exact_mut(tokens.len())) {
                            let row = |row| &bytes[row * stride..][part.clone()];
                            kernel.add_base3(panel(n, &rows).map(row), &q, sums);
                        }
                    },
                    emit,
                );
            }
            _ => self.unpacked(bytes, rows, |product, first| {
                let emit = &mut |n, t, sums: &[i32]| emit(first + n, t, sums);
                product.plain_sums(0..product.d_out, emit);
            }),
        }
    }

    /// [`grouped_sums`](Self::grouped_sums) of base-3 bytes.
    pub(super) fn grouped_base3(
        &self,
        bytes: &[u8],
        rows: Range<usize>,
        groups: &Groups<'_>,
        emit: &mut dyn FnMut(usize, usize, &[f32]),
    ) {
        self.unpacked(bytes, rows, |product, first| {
            let scale = &groups.scale[first * groups.count..];
            let emit = &mut |n, t, totals: &[f32]| emit(first + n, t, totals);
            product.grouped_sums(0..product.d_out, &Groups { scale, ..*groups }, emit);
        });
    }

    /// Calls `body` with a product of words for each block of rows, and the first of them.
    fn unpacked(
        &self,
        bytes: &[u8],
        rows: Range<usize>,
        mut body: impl FnMut(&Product<'_>, usize),
    ) {
        let d_in = self.activations.d_in();
        let block = (BLOCK_BYTES / (4 * self.width)).max(1);
        let block = block.next_multiple_of(self.unit()).min(rows.len());
        let (width, stride) = (self.width, bytes_per_row(d_in));
        let mut words = vec![0; block * width];
        for n in rows.clone().step_by(block) {
            let len = block.min(rows.end - n);
            let words = &mut words[..len * width];
            unpack(
                self.kernel,
                &bytes[n * stride..][..len * stride],
                d_in,
                words,
            );
            let product = Product {
                codes: Codes::Words(words),
                d_out: len,
                ..*self
            };
            body(&product, n);
        }
    }
}
