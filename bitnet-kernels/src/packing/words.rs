//! The canonical layout: 16 codes per `u32` along `d_in`, the same on every machine, in memory and on disk.
//!
//! `code = trit + 1`. Column `l` of a word sits at bit `8·(l mod 4) + 2·(l div 4)`, so that `(word >> 2i) & 0x03030303`
//! yields the codes of four consecutive columns, one per byte, ready for a packed 8-bit dot product.
//! A row is padded with code 1 (trit 0) to a multiple of four words, so each row starts on a 16-byte boundary and
//! every kernel may load 128 bits at a time, for any `d_in`.

use crate::KernelError;

/// Codes in one word.
pub const CODES_PER_WORD: usize = 16;
/// Words to which each row is padded: one 128-bit load.
pub const ROW_ALIGN: usize = 4;
/// A word of sixteen zero trits.
pub const ZERO_WORD: u32 = 0x5555_5555;
/// Selects four codes, one per byte, after a shift by `2i`.
pub const CODE_MASK: u32 = 0x0303_0303;

const _: () = assert!(CODES_PER_WORD * 2 == u32::BITS as usize);

/// Words that one row of `d_in` columns takes.
pub const fn words_per_row(d_in: usize) -> usize {
    d_in.div_ceil(CODES_PER_WORD * ROW_ALIGN) * ROW_ALIGN
}

/// Bit position of column `l` (0..16) in its word.
pub const fn shift(l: usize) -> usize {
    8 * (l % 4) + 2 * (l / 4)
}

/// Packs one row of trits. `words` has [`words_per_row`] entries.
pub(crate) fn pack_row(trits: &[i8], words: &mut [u32]) {
    debug_assert_eq!(words.len(), words_per_row(trits.len()));
    words.fill(ZERO_WORD);
    for (chunk, word) in trits.chunks(CODES_PER_WORD).zip(words) {
        for (l, &trit) in chunk.iter().enumerate() {
            *word ^= ((trit + 1) as u32 ^ 1) << shift(l);
        }
    }
}

/// Unpacks one row. A code 3 yields 2, which [`check`] has ruled out.
pub(crate) fn unpack_row(words: &[u32], trits: &mut [i8]) {
    debug_assert_eq!(words.len(), words_per_row(trits.len()));
    for (chunk, word) in trits.chunks_mut(CODES_PER_WORD).zip(words) {
        for (l, trit) in chunk.iter_mut().enumerate() {
            *trit = ((word >> shift(l)) & 3) as i8 - 1;
        }
    }
}

/// Packs a row-major `[d_out, d_in]` matrix of trits.
///
/// # Errors
///
/// [`KernelError::Length`] if `trits` is not `d_out · d_in` long, [`KernelError::NotTernary`] with the first bad position.
pub fn pack(trits: &[i8], d_out: usize, d_in: usize) -> Result<Vec<u32>, KernelError> {
    super::check_trits("canonical words", trits, d_out, d_in)?;
    Ok(pack_rows(trits, d_in))
}

/// Packs rows of values that are known to be trits.
pub(crate) fn pack_rows(trits: &[i8], d_in: usize) -> Vec<u32> {
    let width = words_per_row(d_in);
    let mut words = vec![0; trits.len() / d_in * width];
    for (row, packed) in trits.chunks_exact(d_in).zip(words.chunks_exact_mut(width)) {
        pack_row(row, packed);
    }
    words
}

/// Unpacks words that [`check`] has accepted into a row-major `[d_out, d_in]` matrix of trits.
pub fn unpack(words: &[u32], d_out: usize, d_in: usize) -> Vec<i8> {
    let mut trits = vec![0; d_out * d_in];
    for (row, packed) in trits
        .chunks_exact_mut(d_in)
        .zip(words.chunks_exact(words_per_row(d_in)))
    {
        unpack_row(packed, row);
    }
    trits
}

/// Proves that `words` is a canonical `[d_out, d_in]` matrix: right length, no code 3, padding of zero trits.
///
/// # Errors
///
/// [`KernelError::Length`], or [`KernelError::Code`] with the first bad position.
pub fn check(words: &[u32], d_out: usize, d_in: usize) -> Result<(), KernelError> {
    super::check_dimensions(d_out, d_in)?;
    let width = words_per_row(d_in);
    if words.len() != d_out * width {
        return Err(KernelError::Length {
            what: "canonical words",
            unit: "words",
            found: words.len(),
            expected: d_out * width,
            d_out,
            d_in,
        });
    }
    let full = d_in / CODES_PER_WORD;
    for (row, packed) in words.chunks_exact(width).enumerate() {
        for (index, &word) in packed.iter().enumerate() {
            let tail_is_zero =
                index < full || has_zero_tail(word, d_in.saturating_sub(index * CODES_PER_WORD));
            if word & (word >> 1) & ZERO_WORD == 0 && tail_is_zero {
                continue;
            }
            let (l, code) = (0..CODES_PER_WORD)
                .map(|l| (l, ((word >> shift(l)) & 3) as u8))
                .find(|&(l, code)| code == 3 || (index * CODES_PER_WORD + l >= d_in && code != 1))
                .expect("the tests above found one");
            return Err(KernelError::Code {
                layout: "canonical words",
                row,
                column: index * CODES_PER_WORD + l,
                code,
            });
        }
    }
    Ok(())
}

/// Whether the columns from `used` on are zero trits.
fn has_zero_tail(word: u32, used: usize) -> bool {
    (used..CODES_PER_WORD).all(|l| (word >> shift(l)) & 3 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_masked_word_yields_four_consecutive_columns() {
        let trits: Vec<i8> = (0..16).map(|l| (l % 3) as i8 - 1).collect();
        let words = pack(&trits, 1, 16).unwrap();
        for i in 0..4 {
            let codes = ((words[0] >> (2 * i)) & CODE_MASK).to_le_bytes();
            for (j, code) in codes.into_iter().enumerate() {
                assert_eq!(code as i8 - 1, trits[4 * i + j]);
            }
        }
    }

    #[test]
    fn rows_start_on_sixteen_bytes_and_are_padded_with_zero_trits() {
        let words = pack(&[1, -1, 0, 1, 1], 5, 1).unwrap();
        assert_eq!(words.len(), 5 * 4);
        assert_eq!(words[0], ZERO_WORD ^ 0b11);
        assert_eq!(&words[1..4], &[ZERO_WORD; 3]);
    }

    #[test]
    fn code_three_and_dirty_padding_are_refused_with_their_position() {
        let mut words = pack(&[0; 2 * 20], 2, 20).unwrap();
        assert_eq!(check(&words, 2, 20), Ok(()));
        words[5] |= 3 << shift(2);
        let Err(KernelError::Code {
            row, column, code, ..
        }) = check(&words, 2, 20)
        else {
            panic!("accepted")
        };
        assert_eq!((row, column, code), (1, 18, 3));
        words[5] = ZERO_WORD;
        words[7] = 0;
        assert!(matches!(
            check(&words, 2, 20),
            Err(KernelError::Code {
                row: 1,
                column: 48,
                code: 0,
                ..
            })
        ));
    }

    #[test]
    fn a_value_outside_the_trits_is_refused_with_its_position() {
        let error = pack(&[0, 1, 0, -2], 2, 2).unwrap_err();
        assert_eq!(
            error,
            KernelError::NotTernary {
                row: 1,
                column: 1,
                value: -2
            }
        );
    }
}
