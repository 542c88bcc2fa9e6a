//! Ternary × int8 sums and table products without any instruction set in particular: what runs where nothing better does.
//!
//! Reads canonical words like every kernel. Four words at a time are unpacked to 64 bytes and multiplied byte by byte,
//! in fixed sizes and without branches, so that the compiler may use whatever vectors the target has.

use super::{
    Kernel, ROWS, TABLE_BLOCK, TableBlocks, TableKernel, Vectors, check_pair_sums, check_sums,
};
use crate::TableFormat;
use crate::packing::words::{CODE_MASK, CODES_PER_WORD};
use crate::table::GROUP;

/// Words in one step: the alignment of rows, so there is never a tail.
const LANES: usize = 4;
const COLUMNS: usize = LANES * CODES_PER_WORD;
const PLANES: usize = 4;
const TOKENS: usize = 8;

/// The portable kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn vectors(&self) -> Vectors {
        Vectors::Baseline
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn tokens(&self) -> usize {
        TOKENS
    }

    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        let vectors = check_sums(LANES, words, tokens, sums);
        let words = words.map(|row| row.as_chunks::<LANES>().0);
        for v in 0..vectors {
            let codes = words.map(|row| unpack(&row[v]));
            for (token, sums) in tokens.iter().zip(&mut *sums) {
                let q = &token.as_chunks::<COLUMNS>().0[v];
                for (sum, codes) in sums.iter_mut().zip(&codes) {
                    *sum += dot(codes, q);
                }
            }
        }
    }

    fn pair_sums(
        &self,
        words: [&[u32]; ROWS],
        tokens: &[&[i8]],
        sums: &mut [[i32; ROWS]],
        stride: usize,
    ) {
        let vectors = check_pair_sums(LANES, words, tokens, sums, stride);
        let words = words.map(|row| row.as_chunks::<LANES>().0);
        for v in 0..vectors {
            let codes = words.map(|row| unpack(&row[v]));
            for (t, token) in tokens.iter().enumerate() {
                let q = &token.as_chunks::<COLUMNS>().0[v];
                for pair in 0..LANES / 2 {
                    sums[t * stride + v * LANES / 2 + pair] =
                        std::array::from_fn(|r| dot_pair(&codes[r], q, pair));
                }
            }
        }
    }
}

impl TableKernel for Scalar {
    fn table_tokens(&self) -> usize {
        TOKENS
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        row.check(x, sums);
        let mut acc = [[0.0; TABLE_BLOCK]; TOKENS];
        let mut w = [0.0; TABLE_BLOCK];
        let words = row
            .words
            .chunks_exact(row.format.words_per_row(TABLE_BLOCK));
        for (block, words) in words.enumerate() {
            row.format.decode(words, &mut w);
            if row.format == TableFormat::Int4 {
                let (groups, scales) = (w.as_chunks_mut::<GROUP>().0, &row.scale[2 * block..]);
                for (group, scale) in groups.iter_mut().zip(scales) {
                    group.iter_mut().for_each(|w| *w *= scale);
                }
            }
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = &x.as_chunks::<TABLE_BLOCK>().0[block];
                for k in 0..TABLE_BLOCK {
                    acc[k] += w[k] * x[k];
                }
            }
        }
        for (sum, acc) in sums.iter_mut().zip(&acc) {
            *sum = acc.iter().sum();
        }
    }
}

/// The codes of four words as `[plane][lane][4]`.
fn unpack(words: &[u32; LANES]) -> [u8; COLUMNS] {
    let mut codes = [0; COLUMNS];
    for (plane, codes) in codes
        .as_chunks_mut::<{ COLUMNS / PLANES }>()
        .0
        .iter_mut()
        .enumerate()
    {
        for (quad, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *quad = ((word >> (2 * plane)) & CODE_MASK).to_le_bytes();
        }
    }
    codes
}

/// The part of the words 2·pair and 2·pair + 1: eight bytes of each plane.
fn dot_pair(codes: &[u8; COLUMNS], q: &[i8; COLUMNS], pair: usize) -> i32 {
    let (codes, q) = (codes.as_chunks::<8>().0, q.as_chunks::<8>().0);
    let mut sum = 0;
    for plane in 0..PLANES {
        let at = 2 * plane + pair;
        sum += codes[at]
            .iter()
            .zip(&q[at])
            .map(|(&code, &q)| i32::from(code) * i32::from(q))
            .sum::<i32>();
    }
    sum
}

fn dot(codes: &[u8; COLUMNS], q: &[i8; COLUMNS]) -> i32 {
    (0..LANES / 2).map(|pair| dot_pair(codes, q, pair)).sum()
}
