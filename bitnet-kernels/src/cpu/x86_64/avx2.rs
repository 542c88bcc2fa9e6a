//! Ternary × int8 sums with AVX2.
//!
//! Method: `maddubs` multiplies the codes 0, 1, 2 with the activations and adds pairs of products in 16 bits.
//! A pair lies in -512..=508, so 64 of them, four planes of 16 vectors, stay in -32768..=32512 and never saturate; then
//! they are widened to 32 bits. Two rows by four tokens keep sixteen registers busy. Tried: codes unpacked once into a
//! buffer for eight tokens, in tiles of four rows by two: no faster with many tokens, slower by 40% with two.

use std::arch::x86_64::*;

use crate::cpu::panels::QUAD;
use crate::cpu::{Kernel, PanelKernel, ROWS, Vectors, check_pair_sums, check_sums};
use crate::packing::words::{CODE_MASK, CODES_PER_WORD};

pub(super) const LANES: usize = 8;
const TOKENS: usize = 4;
pub(super) const BYTES: usize = 32;
pub(super) const PLANES: usize = 4;
/// Activations beside one vector of words.
pub(super) type Block = [[i8; BYTES]; PLANES];
/// Bytes ahead of the weights in use, as measured for AVX-512.
const PREFETCH: usize = 4096;
/// Vectors of words between two widenings.
const SPAN: usize = 16;

const _: () = assert!(LANES * CODES_PER_WORD == BYTES * PLANES);
const _: () = assert!((SPAN * PLANES) as i32 * 2 * 2 * i8::MIN as i32 >= i16::MIN as i32);

/// Proof that the CPU has AVX2, FMA and F16C, as all but the first few with AVX2 do.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    pub(in crate::cpu) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "x86_64-avx2"
    }

    fn vectors(&self) -> Vectors {
        Vectors::Avx2
    }

    fn panels(&self) -> Option<&dyn PanelKernel> {
        Some(self)
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn tokens(&self) -> usize {
        TOKENS
    }

    fn add_sums(&self, words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        check_sums(LANES, words, tokens, sums);
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => add_token(words, tokens[0], &mut sums[0]),
                2 => add_tokens::<2>(words, tokens, sums),
                3 => add_tokens::<3>(words, tokens, sums),
                4 => add_tokens::<4>(words, tokens, sums),
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
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe { pair_sums(vectors, words, tokens, sums, stride) }
    }
}

/// Vectors of rows in a tile of a panel: two by five tokens are ten sums of the sixteen registers.
pub(super) const PANEL: usize = 2;
/// Tiles in a panel. With one, 512 tokens took 3 to 10 % more time, with groups of 128 a third more: what is done once for
/// each panel and token.
pub(super) const TILES: usize = 4;
/// A number for each row of a panel.
pub(super) type Column<T> = [[[T; LANES]; PANEL]; TILES];
const PANEL_TOKENS: usize = 5;
/// Fours of columns between two widenings.
const PANEL_SPAN: usize = SPAN * PLANES;

impl PanelKernel for Avx2 {
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
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe { unpack(words, panel) }
    }

    fn prefetch(&self, words: &[u32]) {
        super::prefetch(words);
    }

    fn panel_sums(&self, panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
        // SAFETY: the CPU has AVX2, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => panel_sums::<1>(panel, tokens, sums),
                2 => panel_sums::<2>(panel, tokens, sums),
                3 => panel_sums::<3>(panel, tokens, sums),
                4 => panel_sums::<4>(panel, tokens, sums),
                5 => panel_sums::<5>(panel, tokens, sums),
                count => panic!("{count} tokens, expected 1 to {PANEL_TOKENS}"),
            }
        }
    }
}

/// Eight rows by eight words are transposed in registers, so that rows become lanes.
#[target_feature(enable = "avx2")]
pub(super) fn unpack(words: &[&[u32]], panel: &mut [u32]) {
    const GROUPS: usize = PANEL * TILES;
    let len = words[0].len();
    let groups = words.as_chunks::<LANES>().0;
    assert!(groups.len() == GROUPS && words.iter().all(|row| row.len() == len));
    let panel: &mut [[[[i32; LANES]; GROUPS]; PLANES]] = bytemuck::cast_slice_mut(panel);
    let panel = &mut panel[..len];
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    for (start, panel) in (0..len).step_by(LANES).zip(panel.chunks_mut(LANES)) {
        for (group, rows) in groups.iter().enumerate() {
            let mut square = [mask; LANES];
            for (vector, row) in square.iter_mut().zip(rows) {
                *vector = load_some(&row[start..start + panel.len()]);
            }
            for (mut packed, planes) in transpose(square).into_iter().zip(&mut *panel) {
                for codes in planes {
                    store(&mut codes[group], _mm256_and_si256(packed, mask));
                    packed = _mm256_srli_epi32::<2>(packed);
                }
            }
        }
    }
}

/// Lane j of vector i becomes lane i of vector j.
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; LANES]) -> [__m256i; LANES] {
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Half h of vector 4k + j holds column 4h + j of the rows 4k .. 4k + 4.
    let mut fours = pairs;
    for k in (0..LANES).step_by(4) {
        fours[k] = _mm256_unpacklo_epi64(pairs[k], pairs[k + 2]);
        fours[k + 1] = _mm256_unpackhi_epi64(pairs[k], pairs[k + 2]);
        fours[k + 2] = _mm256_unpacklo_epi64(pairs[k + 1], pairs[k + 3]);
        fours[k + 3] = _mm256_unpackhi_epi64(pairs[k + 1], pairs[k + 3]);
    }
    let mut columns = fours;
    for j in 0..4 {
        columns[j] = _mm256_permute2x128_si256::<0x20>(fours[j], fours[4 + j]);
        columns[4 + j] = _mm256_permute2x128_si256::<0x31>(fours[j], fours[4 + j]);
    }
    columns
}

/// Codes of 64 rows, 16 at a time, beside four activations of each token, in every lane the same.
#[target_feature(enable = "avx2")]
fn panel_sums<const T: usize>(panel: &[u32], tokens: &[&[i8]], sums: &mut [i32]) {
    let panel: &[Column<u32>] = bytemuck::cast_slice(panel);
    let tokens: [&[[i8; QUAD]]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &tokens[t].as_chunks().0[..panel.len()],
    );
    let sums: &mut [Column<i32>] = bytemuck::cast_slice_mut(sums);
    for tile in 0..TILES {
        let mut acc = [[_mm256_setzero_si256(); PANEL]; T];
        for start in (0..panel.len()).step_by(PANEL_SPAN) {
            let mut pairs = [[_mm256_setzero_si256(); PANEL]; T];
            for k in start..panel.len().min(start + PANEL_SPAN) {
                let mut w = [_mm256_setzero_si256(); PANEL];
                for v in 0..PANEL {
                    w[v] = load_words(&panel[k][tile][v]);
                }
                for t in 0..T {
                    let q = _mm256_set1_epi32(bytemuck::cast(tokens[t][k]));
                    for v in 0..PANEL {
                        pairs[t][v] = _mm256_add_epi16(pairs[t][v], _mm256_maddubs_epi16(w[v], q));
                    }
                }
            }
            for t in 0..T {
                for v in 0..PANEL {
                    acc[t][v] = _mm256_add_epi32(acc[t][v], widen(pairs[t][v]));
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

/// The activations of a token, a block for each vector of words.
pub(super) fn blocks(token: &[i8]) -> &[Block] {
    token.as_chunks::<BYTES>().0.as_chunks::<PLANES>().0
}

/// One token: a row after the other, so that weights are read from memory in their order; [`parts`] of their codes.
///
/// A plane's 16 products of fourfold codes stay in -32768..=32512, like 64 products of codes.
#[target_feature(enable = "avx2")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let mut acc = [_mm256_setzero_si256(); ROWS];
    for r in 0..ROWS {
        let words = words[r].as_chunks::<LANES>().0;
        for (words, q) in words.chunks(SPAN).zip(blocks(token).chunks(SPAN)) {
            // An accumulator for each plane: products of one plane need not wait for those of another.
            let mut pairs = [_mm256_setzero_si256(); PLANES];
            for (words, q) in words.iter().zip(q) {
                prefetch(words);
                let codes = parts(load_words(words));
                for plane in 0..PLANES {
                    let products = _mm256_maddubs_epi16(codes[plane], load_bytes(&q[plane]));
                    pairs[plane] = _mm256_add_epi16(pairs[plane], products);
                }
            }
            let [a, b, c, d] = pairs;
            let [b, d] = [_mm256_srai_epi16::<2>(b), _mm256_srai_epi16::<2>(d)];
            let pairs = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
            acc[r] = _mm256_add_epi32(acc[r], widen(pairs));
        }
    }
    add(sums, acc);
}

/// The codes of each plane, those of planes 1 and 3 fourfold: one shift instead of three. Sums of multiples of four are
/// divided at the end, and lose nothing.
#[target_feature(enable = "avx2")]
pub(super) fn parts(packed: __m256i) -> [__m256i; PLANES] {
    let ones = _mm256_set1_epi32(CODE_MASK as i32);
    let fours = _mm256_slli_epi32::<2>(ones);
    let high = _mm256_srli_epi32::<4>(packed);
    [
        _mm256_and_si256(packed, ones),
        _mm256_and_si256(packed, fours),
        _mm256_and_si256(high, ones),
        _mm256_and_si256(high, fours),
    ]
}

/// More tokens with two rows at a time.
#[target_feature(enable = "avx2")]
fn add_tokens<const T: usize>(
    [a, b, c, d]: [&[u32]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let ab = products::<T>([a, b], tokens);
    let cd = products::<T>([c, d], tokens);
    for t in 0..T {
        add(&mut sums[t], [ab[t][0], ab[t][1], cd[t][0], cd[t][1]]);
    }
}

/// Products of two rows and T tokens, summed up to eight lanes each.
#[target_feature(enable = "avx2")]
fn products<const T: usize>(words: [&[u32]; 2], tokens: &[&[i8]]) -> [[__m256i; 2]; T] {
    let vectors = words[0].len() / LANES;
    let words = words.map(|row| &row.as_chunks::<LANES>().0[..vectors]);
    let tokens: [&[Block]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &blocks(tokens[t])[..vectors],
    );
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    let mut acc = [[_mm256_setzero_si256(); 2]; T];
    for start in (0..vectors).step_by(SPAN) {
        let mut pairs = [[_mm256_setzero_si256(); 2]; T];
        for v in start..vectors.min(start + SPAN) {
            let mut packed = [mask; 2];
            for r in 0..2 {
                prefetch(&words[r][v]);
                packed[r] = load_words(&words[r][v]);
            }
            for plane in 0..PLANES {
                let mut codes = packed;
                for r in 0..2 {
                    codes[r] = _mm256_and_si256(packed[r], mask);
                    packed[r] = _mm256_srli_epi32::<2>(packed[r]);
                }
                for t in 0..T {
                    let q = load_bytes(&tokens[t][v][plane]);
                    for r in 0..2 {
                        pairs[t][r] =
                            _mm256_add_epi16(pairs[t][r], _mm256_maddubs_epi16(codes[r], q));
                    }
                }
            }
        }
        for t in 0..T {
            for r in 0..2 {
                acc[t][r] = _mm256_add_epi32(acc[t][r], widen(pairs[t][r]));
            }
        }
    }
    acc
}

#[target_feature(enable = "avx2")]
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
                    acc[r] = _mm256_add_epi16(acc[r], _mm256_maddubs_epi16(codes[r][plane], q));
                }
            }
            let mut pairs = acc;
            for r in 0..ROWS {
                pairs[r] = widen(acc[r]);
            }
            store_pairs(pairs, &mut sums[t * stride + v * LANES / 2..]);
        }
    }
}

/// Writes the sums of each two lanes, `[pairs of lanes, rows]`.
#[target_feature(enable = "avx2")]
pub(super) fn store_pairs([a, b, c, d]: [__m256i; ROWS], sums: &mut [[i32; ROWS]]) {
    // In each half: pairs 0 and 1 of a and b, of c and d; then pair 0 of all four, pair 1 of all four.
    let ab = _mm256_castsi256_ps(_mm256_hadd_epi32(a, b));
    let cd = _mm256_castsi256_ps(_mm256_hadd_epi32(c, d));
    let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd));
    let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(ab, cd));
    let (sums, _) = sums[..LANES / 2]
        .as_flattened_mut()
        .as_chunks_mut::<LANES>();
    store(&mut sums[0], _mm256_permute2x128_si256::<0x20>(even, odd));
    store(&mut sums[1], _mm256_permute2x128_si256::<0x31>(even, odd));
}

/// Sums of neighbouring 16-bit lanes, in 32 bits.
#[target_feature(enable = "avx2")]
fn widen(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[target_feature(enable = "avx2")]
pub(super) fn add(sums: &mut [i32; ROWS], acc: [__m256i; ROWS]) {
    let total = reduce(acc);
    for r in 0..ROWS {
        sums[r] += total[r];
    }
}

/// The sum over the lanes of each of four vectors.
#[target_feature(enable = "avx2")]
pub(super) fn reduce([a, b, c, d]: [__m256i; ROWS]) -> [i32; ROWS] {
    let abcd = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
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
#[target_feature(enable = "avx2")]
pub(super) fn prefetch(words: &[u32; LANES]) {
    _mm_prefetch::<_MM_HINT_T0>(words.as_ptr().wrapping_byte_add(PREFETCH).cast());
}

#[target_feature(enable = "avx2")]
pub(super) fn load_words(words: &[u32; LANES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(bytes: &[i8; BYTES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn load_sums(lanes: &[i32; LANES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
pub(super) fn store(lanes: &mut [i32; LANES], value: __m256i) {
    // SAFETY: the array has the 32 bytes that are written; the instruction takes any alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), value) }
}

/// Up to eight words; zeros behind them.
#[target_feature(enable = "avx2")]
fn load_some(words: &[u32]) -> __m256i {
    match <&[u32; LANES]>::try_from(words) {
        Ok(words) => load_words(words),
        Err(_) => {
            let mut some = [0; LANES];
            some[..words.len()].copy_from_slice(words);
            load_words(&some)
        }
    }
}
