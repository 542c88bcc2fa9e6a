//! Ternary × int8 sums with AVX-512 and its dot products (VNNI).
//!
//! Method: `vpdpbusd` multiplies the codes 0, 1, 2 with the activations and adds four products to each 32-bit lane.
//! Codes are unpacked in registers, a shift and an AND for 64 of them; with five tokens that hides behind the products.
//! Sums are exact: nothing saturates, since `vpdpbusd` accumulates in 32 bits.

use std::arch::x86_64::*;

use super::avx512_base3::Avx512Vbmi;
use crate::cpu::panels::QUAD;
use crate::cpu::{
    Base3Kernel, DigitKernel, Kernel, PanelKernel, ROWS, Vectors, check_pair_sums, check_sums,
};
use crate::packing::words::{CODE_MASK, CODES_PER_WORD};

pub(super) const LANES: usize = 16;
pub(super) const TOKENS: usize = 8;
pub(super) const BYTES: usize = 64;
pub(super) const PLANES: usize = 4;
/// Bytes ahead of the weights in use: 28 instead of 13 GB/s on one Zen 5 core, against a plain read of 33; 1024 gives 24.
pub(super) const PREFETCH: usize = 4096;
/// Activations beside one vector of words.
pub(super) type Block = [[i8; BYTES]; PLANES];

const _: () = assert!(LANES * CODES_PER_WORD == BYTES * PLANES);

/// Proof that the CPU has AVX-512 F, BW, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Avx512Vnni(());

impl Avx512Vnni {
    pub(in crate::cpu) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

impl Kernel for Avx512Vnni {
    fn name(&self) -> &'static str {
        "x86_64-avx512vnni"
    }

    fn vectors(&self) -> Vectors {
        Vectors::Avx512
    }

    fn panels(&self) -> Option<&dyn PanelKernel> {
        Some(self)
    }

    fn base3(&self) -> Option<&dyn Base3Kernel> {
        Avx512Vbmi::new().map(|kernel| kernel as &dyn Base3Kernel)
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
                3 => add_sums::<3, 4>(vectors, words, tokens, sums),
                4 => add_sums::<4, 4>(vectors, words, tokens, sums),
                5 => add_sums::<5, 4>(vectors, words, tokens, sums),
                6 => add_sums::<6, 2>(vectors, words, tokens, sums),
                7 => add_sums::<7, 2>(vectors, words, tokens, sums),
                8 => add_sums::<8, 2>(vectors, words, tokens, sums),
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

/// Vectors of rows in a panel: four by six tokens are 24 sums, and leave room for the weights.
const PANEL: usize = 4;
const PANEL_TOKENS: usize = 6;

impl PanelKernel for Avx512Vnni {
    fn panel_rows(&self) -> usize {
        PANEL * LANES
    }

    fn panel_tokens(&self) -> usize {
        PANEL_TOKENS
    }

    fn panel_from(&self) -> usize {
        33
    }

    fn unpack(&self, words: &[&[u32]], panel: &mut [u32]) {
        // SAFETY: the CPU has the features of this function, because `self` exists.
        unsafe { unpack(words, panel) }
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

/// Sixteen rows by sixteen words are transposed in registers, so that rows become lanes: one shuffle, one shift and one AND
/// for 64 codes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack(words: &[&[u32]], panel: &mut [u32]) {
    let len = words[0].len();
    let groups = words.as_chunks::<LANES>().0;
    assert!(groups.len() == PANEL && words.iter().all(|row| row.len() == len));
    let panel = panel.as_chunks_mut::<LANES>().0.as_chunks_mut::<PANEL>().0;
    let panel = &mut panel.as_chunks_mut::<PLANES>().0[..len]; // [words, planes, groups of rows, lanes]
    let mask = _mm512_set1_epi32(CODE_MASK as i32);
    for (start, panel) in (0..len).step_by(LANES).zip(panel.chunks_mut(LANES)) {
        for (group, rows) in groups.iter().enumerate() {
            let mut square = [_mm512_setzero_si512(); LANES];
            for (vector, row) in square.iter_mut().zip(rows) {
                *vector = load_some(&row[start..start + panel.len()]);
            }
            for (mut packed, planes) in transpose(square).into_iter().zip(&mut *panel) {
                for codes in planes {
                    store_words(&mut codes[group], _mm512_and_si512(packed, mask));
                    packed = _mm512_srli_epi32::<2>(packed);
                }
            }
        }
    }
}

/// Lane j of vector i becomes lane i of vector j.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Quarter q of vector 4k + j holds column 4q + j of the rows 4k .. 4k + 4.
    let mut fours = pairs;
    for k in (0..LANES).step_by(4) {
        fours[k] = _mm512_unpacklo_epi64(pairs[k], pairs[k + 2]);
        fours[k + 1] = _mm512_unpackhi_epi64(pairs[k], pairs[k + 2]);
        fours[k + 2] = _mm512_unpacklo_epi64(pairs[k + 1], pairs[k + 3]);
        fours[k + 3] = _mm512_unpackhi_epi64(pairs[k + 1], pairs[k + 3]);
    }
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let even = [
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0x88>(c, d),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<0xdd>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(c, d),
        ];
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    columns
}

/// Codes of 64 rows beside four activations of each token, in every lane the same.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn panel_sums<const T: usize>(panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
    let panel = panel.as_chunks::<LANES>().0.as_chunks::<PANEL>().0;
    let tokens: [&[[i8; QUAD]]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &tokens[t].as_chunks().0[..panel.len()],
    );
    let sums = sums.as_chunks_mut::<LANES>().0.as_chunks_mut::<PANEL>().0;
    let mut acc = [[_mm512_setzero_si512(); PANEL]; T];
    for (k, codes) in panel.iter().enumerate() {
        let mut w = [_mm512_setzero_si512(); PANEL];
        for v in 0..PANEL {
            w[v] = load_words(&codes[v]);
        }
        for t in 0..T {
            let q = _mm512_set1_epi32(bytemuck::cast(tokens[t][k]));
            for v in 0..PANEL {
                acc[t][v] = _mm512_dpbusd_epi32(acc[t][v], w[v], q);
            }
        }
    }
    for t in 0..T {
        for v in 0..PANEL {
            let sum = load_sums(&sums[t][v]);
            store(&mut sums[t][v], _mm512_add_epi32(sum, acc[t][v]));
        }
    }
}

/// One token: a row after the other, so that weights are read from memory in their order.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let mask = _mm512_set1_epi32(CODE_MASK as i32);
    let mut acc = [mask; ROWS];
    for r in 0..ROWS {
        // An accumulator for each plane: products of one plane need not wait for those of another.
        let mut planes = [_mm512_setzero_si512(); PLANES];
        for (words, q) in words[r].as_chunks::<LANES>().0.iter().zip(blocks(token)) {
            prefetch(words);
            let mut packed = load_words(words);
            for plane in 0..PLANES {
                let codes = _mm512_and_si512(packed, mask);
                planes[plane] = _mm512_dpbusd_epi32(planes[plane], codes, load_bytes(&q[plane]));
                packed = _mm512_srli_epi32::<2>(packed);
            }
        }
        let [a, b, c, d] = planes;
        acc[r] = _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d));
    }
    add(sums, acc);
}

/// The activations of a token, a block for each vector of words.
pub(super) fn blocks(token: &[i8]) -> &[Block] {
    token.as_chunks::<BYTES>().0.as_chunks::<PLANES>().0
}

/// T tokens and R rows at a time: R · T sums, R words and R codes are at most 32 registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
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
    let mask = _mm512_set1_epi32(CODE_MASK as i32);
    let mut total = [[_mm512_setzero_si512(); ROWS]; T];
    for first in (0..ROWS).step_by(R) {
        let words: [&[[u32; LANES]]; R] = std::array::from_fn(
            #[inline(always)]
            |r| &words[first + r].as_chunks().0[..vectors],
        );
        let mut acc = [[_mm512_setzero_si512(); R]; T];
        for v in 0..vectors {
            let mut packed = [_mm512_setzero_si512(); R];
            for r in 0..R {
                prefetch(&words[r][v]);
                packed[r] = load_words(&words[r][v]);
            }
            for plane in 0..PLANES {
                let mut codes = packed;
                for r in 0..R {
                    codes[r] = _mm512_and_si512(packed[r], mask);
                    packed[r] = _mm512_srli_epi32::<2>(packed[r]);
                }
                for t in 0..T {
                    let q = load_bytes(&tokens[t][v][plane]);
                    for r in 0..R {
                        acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], codes[r], q);
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn pair_sums(
    vectors: usize,
    words: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
    stride: usize,
) {
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    let mask = _mm512_set1_epi32(CODE_MASK as i32);
    for v in 0..vectors {
        let mut codes = [[mask; PLANES]; ROWS];
        for r in 0..ROWS {
            prefetch(&words[r][v]);
            let mut packed = load_words(&words[r][v]);
            for plane in 0..PLANES {
                codes[r][plane] = _mm512_and_si512(packed, mask);
                packed = _mm512_srli_epi32::<2>(packed);
            }
        }
        for (t, token) in tokens.iter().enumerate() {
            let q = &blocks(token)[v];
            let mut acc = [_mm512_setzero_si512(); ROWS];
            for plane in 0..PLANES {
                let q = load_bytes(&q[plane]);
                for r in 0..ROWS {
                    acc[r] = _mm512_dpbusd_epi32(acc[r], codes[r][plane], q);
                }
            }
            let (even, odd) = pairs(acc);
            // Quarters of `even` and `odd` in turn.
            let first =
                _mm512_permutex2var_epi64(even, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd);
            let second =
                _mm512_permutex2var_epi64(even, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), odd);
            let sums = &mut sums[t * stride + v * LANES / 2..][..LANES / 2];
            let (sums, _) = sums.as_flattened_mut().as_chunks_mut::<LANES>();
            store(&mut sums[0], first);
            store(&mut sums[1], second);
        }
    }
}

/// In each quarter the sums of lanes 0 and 1 of the four vectors, and those of lanes 2 and 3.
#[target_feature(enable = "avx512f")]
fn pairs([a, b, c, d]: [__m512i; ROWS]) -> (__m512i, __m512i) {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let even = _mm512_add_epi32(
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
    );
    let odd = _mm512_add_epi32(
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    );
    (even, odd)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn add(sums: &mut [i32; ROWS], acc: [__m512i; ROWS]) {
    let total = reduce(acc);
    for r in 0..ROWS {
        sums[r] += total[r];
    }
}

/// The sum over the lanes of each of four vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn reduce(acc: [__m512i; ROWS]) -> [i32; ROWS] {
    let mut halves = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        halves[r] = _mm256_add_epi32(
            _mm512_castsi512_si256(acc[r]),
            _mm512_extracti64x4_epi64::<1>(acc[r]),
        );
    }
    let [a, b, c, d] = halves;
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let abcd = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    let total = _mm_add_epi32(
        _mm256_castsi256_si128(abcd),
        _mm256_extracti128_si256::<1>(abcd),
    );
    let mut sums = [0; ROWS];
    // SAFETY: four i32 take the 16 bytes that are written; the instruction takes any alignment.
    unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), total) };
    sums
}

/// Asks for the weights that come after these. An address beyond them is no fault.
#[target_feature(enable = "avx512f")]
fn prefetch(words: &[u32; LANES]) {
    _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_byte_add(PREFETCH).cast());
}

#[target_feature(enable = "avx512f")]
pub(super) fn load_words(words: &[u32; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn load_bytes(bytes: &[i8; BYTES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Up to 16 words; zeros behind them.
#[target_feature(enable = "avx512f")]
pub(super) fn load_some(words: &[u32]) -> __m512i {
    let mask = ((1u32 << words.len().min(LANES)) - 1) as __mmask16;
    // SAFETY: only lanes of the mask are read, and the slice has them.
    unsafe { _mm512_maskz_loadu_epi32(mask, words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store_words(words: &mut [u32; LANES], value: __m512i) {
    // SAFETY: the array has the 64 bytes that are written; the instruction takes any alignment.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx512f")]
fn load_sums(lanes: &[i32; LANES]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(lanes: &mut [i32; LANES], value: __m512i) {
    // SAFETY: the array has the 64 bytes that are written; the instruction takes any alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), value) }
}
