//! Ternary × int8 sums with AVX2.
//!
//! Method: `maddubs` multiplies the codes 0, 1, 2 with the activations and adds pairs of products in 16 bits.
//! A pair lies in -512..=508, so 64 of them, four planes of 16 vectors, stay in -32768..=32512 and never saturate; then
//! they are widened to 32 bits. From two tokens on, the codes of such a span are unpacked once into a buffer of 8 KiB.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::cpu::{Kernel, ROWS, check_pair_sums, check_sums};
use crate::packing::words::{CODE_MASK, CODES_PER_WORD};

const LANES: usize = 8;
const TOKENS: usize = 8;
const BYTES: usize = 32;
const PLANES: usize = 4;
/// Activations beside one vector of words.
type Block = [[i8; BYTES]; PLANES];
/// Vectors of words between two widenings.
const SPAN: usize = 16;

const _: () = assert!(LANES * CODES_PER_WORD == BYTES * PLANES);
const _: () = assert!((SPAN * PLANES) as i32 * 2 * 2 * i8::MIN as i32 >= i16::MIN as i32);

/// Proof that the CPU has AVX2.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Avx2(());

impl Avx2 {
    pub(in crate::cpu) fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "x86_64-avx2"
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
            match tokens {
                [token] => add_token(words, token, &mut sums[0]),
                _ => add_tokens(words, tokens, sums),
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

/// The activations of a token, a block for each vector of words.
fn blocks(token: &[i8]) -> &[Block] {
    token.as_chunks::<BYTES>().0.as_chunks::<PLANES>().0
}

/// One token: the codes go from the words straight into the products.
#[target_feature(enable = "avx2")]
fn add_token(words: [&[u32]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let words = words.map(|row| row.as_chunks::<LANES>().0);
    let token = blocks(token);
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    let mut acc = [_mm256_setzero_si256(); ROWS];
    for start in (0..words[0].len()).step_by(SPAN) {
        let len = SPAN.min(words[0].len() - start);
        let words = words.map(|row| &row[start..][..len]);
        let token = &token[start..][..len];
        let mut pairs = [_mm256_setzero_si256(); ROWS];
        for v in 0..len {
            for r in 0..ROWS {
                let mut packed = load_words(&words[r][v]);
                for plane in 0..PLANES {
                    let codes = _mm256_and_si256(packed, mask);
                    pairs[r] = _mm256_add_epi16(
                        pairs[r],
                        _mm256_maddubs_epi16(codes, load_bytes(&token[v][plane])),
                    );
                    packed = _mm256_srli_epi32::<2>(packed);
                }
            }
        }
        for r in 0..ROWS {
            acc[r] = _mm256_add_epi32(acc[r], widen(pairs[r]));
        }
    }
    let total = reduce(acc);
    for r in 0..ROWS {
        sums[r] += total[r];
    }
}

/// More tokens, two at a time: eight accumulators, the codes of four rows and an activation fit sixteen registers.
#[target_feature(enable = "avx2")]
fn add_tokens(words: [&[u32]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
    let words = words.map(|row| row.as_chunks::<LANES>().0);
    let mask = _mm256_set1_epi32(CODE_MASK as i32);
    let mut codes = [[[_mm256_setzero_si256(); ROWS]; PLANES]; SPAN];
    for start in (0..words[0].len()).step_by(SPAN) {
        let len = SPAN.min(words[0].len() - start);
        for (v, codes) in codes[..len].iter_mut().enumerate() {
            for r in 0..ROWS {
                let packed = load_words(&words[r][start + v]);
                codes[0][r] = _mm256_and_si256(packed, mask);
                codes[1][r] = _mm256_and_si256(_mm256_srli_epi32::<2>(packed), mask);
                codes[2][r] = _mm256_and_si256(_mm256_srli_epi32::<4>(packed), mask);
                codes[3][r] = _mm256_and_si256(_mm256_srli_epi32::<6>(packed), mask);
            }
        }
        let codes = &codes[..len];
        let span = |t: usize| &blocks(tokens[t])[start..][..len];
        let mut t = 0;
        while t + 2 <= tokens.len() {
            add_span([span(t), span(t + 1)], codes, &mut sums[t..]);
            t += 2;
        }
        if t < tokens.len() {
            add_span([span(t)], codes, &mut sums[t..]);
        }
    }
}

/// Products of unpacked codes with T tokens.
#[target_feature(enable = "avx2")]
fn add_span<const T: usize>(
    tokens: [&[Block]; T],
    codes: &[[[__m256i; ROWS]; PLANES]],
    sums: &mut [[i32; ROWS]],
) {
    let tokens = tokens.map(|token| &token[..codes.len()]);
    let mut pairs = [[_mm256_setzero_si256(); ROWS]; T];
    for (v, codes) in codes.iter().enumerate() {
        for plane in 0..PLANES {
            for t in 0..T {
                let q = load_bytes(&tokens[t][v][plane]);
                for r in 0..ROWS {
                    pairs[t][r] =
                        _mm256_add_epi16(pairs[t][r], _mm256_maddubs_epi16(codes[plane][r], q));
                }
            }
        }
    }
    for (sums, pairs) in sums.iter_mut().zip(pairs) {
        let [a, b, c, d] = pairs;
        let total = reduce([widen(a), widen(b), widen(c), widen(d)]);
        for r in 0..ROWS {
            sums[r] += total[r];
        }
    }
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
            let mut packed = load_words(&words[r][v]);
            for plane in 0..PLANES {
                codes[r][plane] = _mm256_and_si256(packed, mask);
                packed = _mm256_srli_epi32::<2>(packed);
            }
        }
        for (token, sums) in tokens.iter().zip(sums.chunks_exact_mut(stride)) {
            let q = &blocks(token)[v];
            let mut acc = [_mm256_setzero_si256(); ROWS];
            for plane in 0..PLANES {
                let q = load_bytes(&q[plane]);
                for r in 0..ROWS {
                    acc[r] = _mm256_add_epi16(acc[r], _mm256_maddubs_epi16(codes[r][plane], q));
                }
            }
            let [a, b, c, d] = acc;
            // In each half: pairs 0 and 1 of a and b, of c and d; then pair 0 of all four, pair 1 of all four.
            let ab = _mm256_castsi256_ps(_mm256_hadd_epi32(widen(a), widen(b)));
            let cd = _mm256_castsi256_ps(_mm256_hadd_epi32(widen(c), widen(d)));
            let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd));
            let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(ab, cd));
            let (sums, _) = sums[v * LANES / 2..]
                .as_flattened_mut()
                .as_chunks_mut::<LANES>();
            store(&mut sums[0], _mm256_permute2x128_si256::<0x20>(even, odd));
            store(&mut sums[1], _mm256_permute2x128_si256::<0x31>(even, odd));
        }
    }
}

/// Sums of neighbouring 16-bit lanes, in 32 bits.
#[target_feature(enable = "avx2")]
fn widen(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// The sum over the lanes of each of four vectors.
#[target_feature(enable = "avx2")]
fn reduce([a, b, c, d]: [__m256i; ROWS]) -> [i32; ROWS] {
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

#[target_feature(enable = "avx2")]
fn load_words(words: &[u32; LANES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_bytes(bytes: &[i8; BYTES]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; the instruction takes any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store(lanes: &mut [i32; LANES], value: __m256i) {
    // SAFETY: the array has the 32 bytes that are written; the instruction takes any alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), value) }
}
