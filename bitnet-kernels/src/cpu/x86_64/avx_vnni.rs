//! Ternary × int8 sums with AVX-VNNI, the 256-bit dot products of CPUs without AVX-512.
//!
//! Method: `vpdpbusd` multiplies the codes 0, 1, 2 with the activations and adds four products to each 32-bit lane, exactly:
//! one instruction where AVX2 takes two and a widening now and then. Vectors, loads and panels are those of AVX2.

use std::arch::x86_64::*;

use super::avx2::{
    Avx2, Block, Column, LANES, PANEL, PLANES, TILES, add, blocks, load_bytes, load_sums,
    load_words, parts, prefetch, store, store_pairs,
};
use crate::cpu::panels::QUAD;
use crate::cpu::{
    DigitKernel, Kernel, PanelKernel, ROWS, TableBlocks, TableKernel, Vectors, check_pair_sums,
    check_sums,
};
use crate::packing::words::CODE_MASK;

const TOKENS: usize = 5;

/// Proof that the CPU has AVX-VNNI, and all of [`Avx2`].
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct AvxVnni(Avx2);

impl AvxVnni {
    pub(in crate::cpu) fn new() -> Option<Self> {
        let avx2 = Avx2::new()?;
        is_x86_feature_detected!("avxvnni").then_some(Self(avx2))
    }
}

impl Kernel for AvxVnni {
    fn name(&self) -> &'static str {
        "x86_64-avxvnni"
    }

    fn vectors(&self) -> Vectors {
        self.0.vectors()
    }

    fn panels(&self) -> Option<&dyn PanelKernel> {
        Some(self)
    }

    fn digits(&self) -> Option<&dyn DigitKernel> {
        Some(self)
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn tokens(&self) -> usize {
        TOKENS
    }

    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        let vectors = check_sums(LANES, words, tokens, sums);
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => add_token(words, tokens[0], &mut sums[0]),
                2 => add_sums::<2, 4>(vectors, words, tokens, sums),
                3 => add_sums::<3, 2>(vectors, words, tokens, sums),
                4 => add_sums::<4, 2>(vectors, words, tokens, sums),
                5 => add_sums::<5, 2>(vectors, words, tokens, sums),
                count => panic!("{count} tokens, expected 1 to {TOKENS}"),
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
        // SAFETY: the CPU has the features of this function, because `self` exists.
        unsafe { pair_sums(vectors, words, tokens, sums, stride) }
    }
}

impl TableKernel for AvxVnni {
    fn table_tokens(&self) -> usize {
        self.0.table_tokens()
    }

    fn table_sums(&self, row: TableBlocks<'_>, x: &[&[f32]], sums: &mut [f32]) {
        self.0.table_sums(row, x, sums);
    }
}

/// Two vectors of rows by six tokens are twelve sums, and leave room for the weights.
const PANEL_TOKENS: usize = 6;

impl PanelKernel for AvxVnni {
    fn panel_rows(&self) -> usize {
        PANEL * LANES * TILES
    }

    fn panel_tokens(&self) -> usize {
        PANEL_TOKENS
    }

    fn panel_from(&self) -> usize {
        16
    }

    fn unpack(&self, words: &[&[u32]], panel: &mut [u32]) {
        self.0.unpack(words, panel);
    }

    fn prefetch(&self, words: &[u32]) {
        super::prefetch(words);
    }

    fn panel_sums(&self, panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => panel_sums::<1>(panel, tokens, sums),
                2 => panel_sums::<2>(panel, tokens, sums),
                3 => panel_sums::<3>(panel, tokens, sums),
                4 => panel_sums::<4>(panel, tokens, sums),
                5 => panel_sums::<5>(panel, tokens, sums),
                6 => panel_sums::<6>(panel, tokens, sums),
                count => panic!("{count} tokens, expected 1 to {PANEL_TOKENS}"),
            }
        }
    }
}

/// Codes of 64 rows, 16 at a time, beside four activations of each token, in every lane the same.
#[target_feature(enable = "avx2,avxvnni")]
fn panel_sums<const T: usize>(panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
    let panel: &[Column<u32>] = bytemuck::cast_slice(panel);
    let tokens: [&[[i8; QUAD]]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &tokens[t].as_chunks().0[..panel.len()],
    );
    let sums: &mut [Column<i32>] = bytemuck::cast_slice_mut(sums);
    for tile in 0..TILES {
        let mut acc = [[_mm256_setzero_si256(); PANEL]; T];
        for (k, codes) in panel.iter().enumerate() {
            let mut w = [_mm256_setzero_si256(); PANEL];
            for v in 0..PANEL {
                w[v] = load_words(&codes[tile][v]);
            }
            for t in 0..T {
                let q = _mm256_set1_epi32(bytemuck::cast(tokens[t][k]));
                for v in 0..PANEL {
                    acc[t][v] = _mm256_dpbusd_avx_epi32(acc[t][v], w[v], q);
                }
            }
        }
        for t in 0..T {
            for v in 0..PANEL {
                let sum = load_sums(&sums[t][tile][v]);
                store(&mut sums[t][tile][v], _mm256_add_epi32(sum, acc[t][v]));
            }
        }
    }
}

/// One token: a row after the other, so that weights are read from memory in their order; [`parts`] of their codes.
///
/// A lane of the sums of fourfold codes is at most 4·2·128·d_in/4 = 256·d_in, the bound of the whole sum.
#[target_feature(enable = "avx2,avxvnni")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let mut acc = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        // An accumulator for each plane: products of one plane need not wait for those of another.
        let mut planes = [_mm256_setzero_si256(); PLANES];
        for (words, q) in words[r].as_chunks::<LANES>().0.iter().zip(blocks(token)) {
            prefetch(words);
            let codes = parts(load_words(words));
            for plane in 0..PLANES {
                let q = load_bytes(&q[plane]);
                planes[plane] = _mm256_dpbusd_avx_epi32(planes[plane], codes[plane], q);
            }
        }
        let [a, b, c, d] = planes;
        let [b, d] = [_mm256_srai_epi32::<2>(b), _mm256_srai_epi32::<2>(d)];
        acc[r] = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    }
    add(sums, acc);
}

/// T tokens and R rows at a time: R · T sums, R words, R codes, the mask and a row of activations are at most 16 registers.
#[target_feature(enable = "avx2,avxvnni")]
fn add_sums<const T: usize, const R: usize>(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let tokens: [&[Block]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &blocks(tokens[t])[..vectors],
    );
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    let mut total = [[_mm256_setzero_si256(); ROWS]; T];
    for first in (0..ROWS).step_by(R) {
        let words: [&[[u32; LANES]]; R] = std::array::from_fn(
            #[inline(always)]
            |r| &words[first + r].as_chunks().0[..vectors],
        );
        let mut acc = [[_mm256_setzero_si256(); R]; T];
        for v in 0..vectors {
            let mut packed = [mask; R];
            for r in 0..R {
                prefetch(&words[r][v]);
                packed[r] = load_words(&words[r][v]);
            }
            for plane in 0..PLANES {
                let mut codes = packed;
                for r in 0..R {
                    codes[r] = _mm256_and_si256(packed[r], mask);
                    packed[r] = _mm256_srli_epi32::<2>(packed[r]);
                }
                for t in 0..T {
                    let q = load_bytes(&tokens[t][v][plane]);
                    for r in 0..R {
                        acc[t][r] = _mm256_dpbusd_avx_epi32(acc[t][r], codes[r], q);
                    }
                }
            }
        }
        for t in 0..T {
            total[t][first..first + R].copy_from_slice(&acc[t]);
        }
    }
    for (sums, total) in sums.iter_mut().zip(total) {
        add(sums, total);
    }
}

#[target_feature(enable = "avx2,avxvnni")]
fn pair_sums(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
    stride: usize,
) {
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    for v in 0..vectors {
        let mut codes = [[mask; PLANES]; ROWS];
        for r in 0..ROWS {
            prefetch(&words[r][v]);
            let mut packed = load_words(&words[r][v]);
            for plane in 0..PLANES {
                codes[r][plane] = _mm256_and_si256(packed, mask);
                packed = _mm256_srli_epi32::<2>(packed);
            }
        }
        for (t, token) in tokens.iter().enumerate() {
            let q = &blocks(token)[v];
            let mut acc = [_mm256_setzero_si256(); ROWS];
            for plane in 0..PLANES {
                let q = load_bytes(&q[plane]);
                for r in 0..ROWS {
                    acc[r] = _mm256_dpbusd_avx_epi32(acc[r], codes[r][plane], q);
                }
            }
            store_pairs(acc, &mut sums[t * stride + v * LANES / 2..]);
        }
    }
}
