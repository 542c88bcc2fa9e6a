//! Base 3 × int8 sums with AVX-512, its dot products (VNNI) and its byte permutations (VBMI).
//!
//! Method: of n, n - 81 and n - 162 in wrapping bytes the least is v = n mod 81, a lookup in two registers (`vpermi2b`) turns v into
//! a byte of canonical words, and n - v is 81 times the fifth code: six instructions for 64 bytes, no mask among them. One token
//! needs no shifts either. Its codes stay where they are in their bytes and have an accumulator for each place: sums of 4, 16,
//! 64 and 81 times the codes are divided in the end, exactly, since 26215 lines of 4 · 128 · 128 stay below 2³¹, and 81 is a unit
//! modulo 2³².

use std::arch::x86_64::*;

use super::avx512::{BYTES, Block, LANES, PLANES, PREFETCH, TOKENS, add, blocks, load_bytes};
use crate::cpu::{Base3Kernel, ROWS};
use crate::packing::base3::{GROUP, KEPT};
use crate::packing::words::CODE_MASK;

type Line = [u8; BYTES];

/// The canonical byte of each number below 81. Behind them is what no proven byte asks for.
const CODES: [u8; 2 * BYTES] = {
    let mut codes = [0; 2 * BYTES];
    let mut n = 0;
    while n < 81 {
        let digits = [n % 3, n / 3 % 3, n / 9 % 3, n / 27];
        codes[n as usize] = digits[0] | (digits[1] << 2) | (digits[2] << 4) | (digits[3] << 6);
        n += 1;
    }
    codes
};

/// `FIFTH_INVERSE · 81 = 1` modulo 2³².
const FIFTH_INVERSE: u32 = {
    let (mut inverse, mut correct) = (1_u32, 4); // 81 = 1 modulo 2⁴
    while correct < 32 {
        inverse = inverse.wrapping_mul(2_u32.wrapping_sub(81_u32.wrapping_mul(inverse)));
        correct *= 2;
    }
    inverse
};

const _: () = assert!(FIFTH_INVERSE.wrapping_mul(81) == 1);

/// Proof that the CPU has AVX-512 F, BW, VL, VNNI and VBMI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512Vbmi(());

impl Avx512Vbmi {
    pub(super) fn new() -> Option<&'static Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vbmi");
        has.then_some(&Self(()))
    }
}

impl Base3Kernel for Avx512Vbmi {
    fn base3_tokens(&self) -> usize {
        TOKENS
    }

    fn unpack_base3(&self, bytes: &[u8], words: &mut [u32]) {
        // SAFETY: the CPU has the features of this function, because `self` exists.
        unsafe { unpack(bytes, words) }
    }

    fn add_base3(&self, bytes: [&[u8]; ROWS], tokens: &[&[i8]], sums: &mut [[i32; ROWS]]) {
        assert_eq!(tokens.len(), sums.len(), "one row of sums for each token");
        // SAFETY: the CPU has the features of these functions, because `self` exists.
        unsafe {
            match tokens.len() {
                1 => add_token(bytes, tokens[0], &mut sums[0]),
                2 => add_sums::<2, 4>(bytes, tokens, sums),
                3 => add_sums::<3, 4>(bytes, tokens, sums),
                4 => add_sums::<4, 4>(bytes, tokens, sums),
                5 => add_sums::<5, 2>(bytes, tokens, sums),
                6 => add_sums::<6, 2>(bytes, tokens, sums),
                7 => add_sums::<7, 2>(bytes, tokens, sums),
                8 => add_sums::<8, 2>(bytes, tokens, sums),
                count => panic!("{count} tokens, expected 1 to {TOKENS}"),
            }
        }
    }
}

/// Where a line of weights meets its activations: its own block, and the place of its fifth trits, if it has them.
fn place(line: usize, groups: usize) -> (usize, Option<(usize, usize)>) {
    let (group, i) = (line / KEPT, line % KEPT);
    let fifth = (group * GROUP + KEPT, i);
    (line + group, (group < groups).then_some(fifth))
}

/// The lines of a row, which has so many lines of activations.
fn lines(bytes: &[u8], activations: usize) -> &[Line] {
    let lines = bytes.as_chunks().0;
    let expected = activations / GROUP * KEPT + activations % GROUP;
    assert_eq!(lines.len(), expected, "lines of base 3");
    lines
}

/// One row. The fifth line gathers its codes while the four before it are written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn unpack(bytes: &[u8], words: &mut [u32]) {
    let mask = _mm512_set1_epi32(CODE_MASK.cast_signed());
    let mut words = words.chunks_mut(LANES);
    for lines in bytes.as_chunks().0.chunks(KEPT) {
        let mut fifth = _mm512_setzero_si512();
        for (i, line) in lines.iter().enumerate() {
            let (codes, high) = decode(line);
            let last = _mm512_and_si512(_mm512_srli_epi32::<6>(high), mask);
            fifth = _mm512_or_si512(
                fifth,
                _mm512_sllv_epi32(last, _mm512_set1_epi32(2 * i as i32)),
            );
            words
                .next()
                .into_iter()
                .for_each(|words| store_some(words, codes));
        }
        if lines.len() == KEPT {
            words
                .next()
                .into_iter()
                .for_each(|words| store_some(words, fifth));
        }
    }
}

/// One token: a row after the other, so that weights are read from memory in their order.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn add_token(bytes: [&[u8]; ROWS], token: &[i8], sums: &mut [i32; ROWS]) {
    let q = blocks(token);
    let mut places = [_mm512_setzero_si512(); PLANES];
    for plane in 0..PLANES {
        places[plane] = _mm512_set1_epi8((3_u8 << (2 * plane)).cast_signed());
    }
    let mut acc = places;
    for r in 0..ROWS {
        let mut planes = [_mm512_setzero_si512(); PLANES];
        let mut fifths = _mm512_setzero_si512();
        for (at, line) in lines(bytes[r], q.len()).iter().enumerate() {
            let (codes, high) = decode(line);
            let (own, fifth) = place(at, q.len() / GROUP);
            for plane in 0..PLANES {
                let codes = _mm512_and_si512(codes, places[plane]);
                let q = load_bytes(&within(q, own)[plane]);
                planes[plane] = _mm512_dpbusd_epi32(planes[plane], codes, q);
            }
            if let Some((block, plane)) = fifth {
                fifths = _mm512_dpbusd_epi32(fifths, high, load_bytes(&within(q, block)[plane]));
            }
        }
        let [a, b, c, d] = planes;
        let ab = _mm512_add_epi32(a, _mm512_srai_epi32::<2>(b));
        let cd = _mm512_add_epi32(_mm512_srai_epi32::<4>(c), _mm512_srai_epi32::<6>(d));
        let inverse = _mm512_set1_epi32(FIFTH_INVERSE.cast_signed());
        let fifths = _mm512_mullo_epi32(fifths, inverse);
        acc[r] = _mm512_add_epi32(_mm512_add_epi32(ab, cd), fifths);
    }
    add(sums, acc);
}

/// T tokens and R rows at a time: R · T sums, R lines and R codes are at most 24 registers, beside five constants.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn add_sums<const T: usize, const R: usize>(
    bytes: [&[u8]; ROWS],
    tokens: &[&[i8]],
    sums: &mut [[i32; ROWS]],
) {
    let count = blocks(tokens[0]).len();
    let tokens: [&[Block]; T] = std::array::from_fn(
        #[inline(always)]
        |t| &blocks(tokens[t])[..count],
    );
    let mask = _mm512_set1_epi32(CODE_MASK.cast_signed());
    let mut total = [[_mm512_setzero_si512(); ROWS]; T];
    for first in (0..ROWS).step_by(R) {
        let rows: [&[Line]; R] = std::array::from_fn(
            #[inline(always)]
            |r| lines(bytes[first + r], count),
        );
        let mut acc = [[_mm512_setzero_si512(); R]; T];
        for at in 0..rows[0].len() {
            let (own, fifth) = place(at, count / GROUP);
            let (mut packed, mut codes) = ([mask; R], [mask; R]);
            for r in 0..R {
                let (own, high) = decode(within(rows[r], at));
                packed[r] = own;
                // 0, 81 and 162 have 0, 1 and 2 in their upper bits.
                codes[r] = _mm512_and_si512(_mm512_srli_epi32::<6>(high), mask);
            }
            if let Some((block, plane)) = fifth {
                for t in 0..T {
                    let q = load_bytes(&within(tokens[t], block)[plane]);
                    for r in 0..R {
                        acc[t][r] = _mm512_dpbusd_epi32(acc[t][r], codes[r], q);
                    }
                }
            }
            for plane in 0..PLANES {
                for r in 0..R {
                    codes[r] = _mm512_and_si512(packed[r], mask);
                    packed[r] = _mm512_srli_epi32::<2>(packed[r]);
                }
                for t in 0..T {
                    let q = load_bytes(&within(tokens[t], own)[plane]);
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

/// An item that is known to be there: with a check for each, the sums do not stay in registers.
#[inline(always)]
fn within<I>(items: &[I], at: usize) -> &I {
    debug_assert!(at < items.len());
    // SAFETY: a line is below the number that `lines` asserts; its blocks, by `place`, below that of the activations.
    unsafe { items.get_unchecked(at) }
}

/// Canonical bytes of the first four trits of each byte, and 81 times the code of the fifth. Asks for the line that comes after
/// these; an address beyond them is no fault.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
#[inline]
fn decode(line: &Line) -> (__m512i, __m512i) {
    _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(PREFETCH).cast());
    let (table, _) = CODES.as_chunks();
    let [low, high] = [load(&table[0]), load(&table[1])];
    let n = load(line);
    let once = _mm512_sub_epi8(n, _mm512_set1_epi8(81));
    let twice = _mm512_sub_epi8(n, _mm512_set1_epi8(162_u8.cast_signed()));
    let v = _mm512_min_epu8(n, _mm512_min_epu8(once, twice));
    (
        _mm512_permutex2var_epi8(low, v, high),
        _mm512_sub_epi8(n, v),
    )
}

#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; the instruction takes any alignment.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Up to 16 words.
#[target_feature(enable = "avx512f")]
fn store_some(words: &mut [u32], value: __m512i) {
    let mask = ((1_u32 << words.len().min(LANES)) - 1) as __mmask16;
    // SAFETY: only lanes of the mask are written, and the slice has them.
    unsafe { _mm512_mask_storeu_epi32(words.as_mut_ptr().cast(), mask, value) }
}
