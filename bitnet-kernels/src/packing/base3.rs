//! Base 3: five trits in a byte, 1.6 bits a weight. Canonical words are packed into it, and come out of it again.
//!
//! A row of canonical words, padded with zero trits to whole lines of 64 bytes, has four trits in each byte, t₀ in the low bits.
//! Five lines become four. Byte j of line i < 4 is `t₀ + 3·t₁ + 9·t₂ + 27·t₃ + 81·f`: the codes of its own trits, and f that of
//! trit i of byte j of the fifth line. Lines behind the last five become as many lines, with f = 1 (trit 0). So activations
//! meet base 3 in the order in which they meet words, and a table of 81 canonical bytes reads four trits at once.

use super::words::{self, CODES_PER_WORD, ZERO_WORD, words_per_row};
use crate::KernelError;

/// Bytes of a line: one cache line, one vector of AVX-512.
pub const LINE: usize = 64;
/// Lines of canonical words that become [`KEPT`] lines.
pub(crate) const GROUP: usize = 5;
/// Lines of a group that keep their place.
pub(crate) const KEPT: usize = 4;
/// Canonical words in a line.
pub(crate) const WORDS: usize = LINE / size_of::<u32>();

/// The layout in messages.
const NAME: &str = "base-3 bytes";
/// The weight of a fifth trit.
const FIFTH: u8 = 81;

/// Four trits of a canonical byte as a number below 81; codes 3 do not occur.
const NUMBERS: [u8; 256] = {
    let mut numbers = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let codes = [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6 & 3];
        numbers[byte] = (codes[0] + 3 * codes[1] + 9 * codes[2] + 27 * codes[3]) as u8;
        byte += 1;
    }
    numbers
};

/// Bytes that one row of `d_in` columns takes.
pub const fn bytes_per_row(d_in: usize) -> usize {
    byte_len(words_per_row(d_in))
}

/// Bytes that the first `words` canonical words of a row take; whole groups, or all words of the row.
pub(crate) const fn byte_len(words: usize) -> usize {
    let lines = words.div_ceil(WORDS);
    (lines / GROUP * KEPT + lines % GROUP) * LINE
}

/// Packs canonical words that [`words::check`] has accepted.
///
/// # Panics
///
/// Panics if the words are not those of `[d_out, d_in]`.
pub fn pack(words: &[u32], d_out: usize, d_in: usize) -> Vec<u8> {
    let (width, len) = (words_per_row(d_in), bytes_per_row(d_in));
    assert_eq!(
        words.len(),
        d_out * width,
        "canonical words of {d_out} x {d_in}"
    );
    let mut bytes = vec![0; d_out * len];
    for (words, bytes) in words.chunks_exact(width).zip(bytes.chunks_exact_mut(len)) {
        pack_row(words, bytes);
    }
    bytes
}

fn pack_row(words: &[u32], bytes: &mut [u8]) {
    let lines: Vec<[u8; LINE]> = words.chunks(WORDS).map(line).collect();
    let (bytes, _) = bytes.as_chunks_mut::<LINE>();
    for (group, bytes) in lines.chunks(GROUP).zip(bytes.chunks_mut(KEPT)) {
        let zeros = [ZERO_WORD as u8; LINE];
        let fifth = group.get(KEPT).unwrap_or(&zeros);
        for (i, (line, bytes)) in group.iter().zip(bytes).enumerate() {
            for ((own, fifth), byte) in line.iter().zip(fifth).zip(bytes) {
                *byte = NUMBERS[usize::from(*own)] + FIFTH * (fifth >> (2 * i) & 3);
            }
        }
    }
}

/// Up to a line of words as bytes, padded with zero trits.
fn line(words: &[u32]) -> [u8; LINE] {
    let mut line = [ZERO_WORD as u8; LINE];
    for (bytes, word) in line.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    line
}

/// Unpacks bytes that [`check`] has accepted into canonical words.
///
/// # Panics
///
/// Panics if the bytes are not those of `[d_out, d_in]`.
pub fn unpack(bytes: &[u8], d_out: usize, d_in: usize) -> Vec<u32> {
    let mut words = vec![0; d_out * words_per_row(d_in)];
    unpack_rows(bytes, d_in, &mut words);
    words
}

/// Unpacks some rows. Inlined, to be compiled for the caller's instruction set: there are no branches inside a line.
#[inline(always)]
pub(crate) fn unpack_rows(bytes: &[u8], d_in: usize, words: &mut [u32]) {
    let (width, len) = (words_per_row(d_in), bytes_per_row(d_in));
    assert_eq!(
        words.len() / width * len,
        bytes.len(),
        "base-3 bytes of rows of {d_in}"
    );
    for (words, bytes) in words.chunks_exact_mut(width).zip(bytes.chunks_exact(len)) {
        unpack_row(bytes, words);
    }
}

#[inline(always)]
fn unpack_row(bytes: &[u8], words: &mut [u32]) {
    let lines = bytes.as_chunks::<LINE>().0;
    for (lines, words) in lines.chunks(KEPT).zip(words.chunks_mut(GROUP * WORDS)) {
        let mut fifth = [0; LINE];
        for (i, (line, words)) in lines.iter().zip(words.chunks_mut(WORDS)).enumerate() {
            let mut own = [0; LINE];
            for ((byte, own), fifth) in line.iter().zip(&mut own).zip(&mut fifth) {
                let mut rest = *byte;
                *fifth |= digit(&mut rest, 81) << (2 * i);
                let upper = (digit(&mut rest, 27) << 6) | (digit(&mut rest, 9) << 4);
                *own = upper | (digit(&mut rest, 3) << 2) | rest;
            }
            put(&own, words);
        }
        if let Some(words) = words.chunks_mut(WORDS).nth(KEPT) {
            put(&fifth, words);
        }
    }
}

/// Takes the digit of a power of three from `rest`, which is below three times that. Two comparisons, and the least of three
/// differences, since those below zero wrap to large numbers.
#[inline(always)]
fn digit(rest: &mut u8, power: u8) -> u8 {
    let digit = u8::from(*rest >= power) + u8::from(*rest >= 2 * power);
    let [once, twice] = [rest.wrapping_sub(power), rest.wrapping_sub(2 * power)];
    *rest = (*rest).min(once).min(twice);
    digit
}

#[inline(always)]
fn put(line: &[u8; LINE], words: &mut [u32]) {
    for (word, bytes) in words.iter_mut().zip(line.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
}

/// Proves that `bytes` is a `[d_out, d_in]` matrix: right length, no byte above 242, padding of zero trits.
///
/// # Errors
///
/// [`KernelError::Length`], or [`KernelError::Code`] with the first bad position: of a byte above 242 the byte and its first
/// column, of padding the code and its column.
pub fn check(bytes: &[u8], d_out: usize, d_in: usize) -> Result<(), KernelError> {
    super::check_dimensions(d_out, d_in)?;
    let len = bytes_per_row(d_in);
    if bytes.len() != d_out * len {
        return Err(KernelError::Length {
            what: NAME,
            unit: "bytes",
            found: bytes.len(),
            expected: d_out * len,
            d_out,
            d_in,
        });
    }
    for (row, bytes) in bytes.chunks_exact(len).enumerate() {
        let refuse = |column, code| KernelError::Code {
            layout: NAME,
            row,
            column,
            code,
        };
        // The maximum is a loop without branches, of vectors; only damaged data is walked twice.
        if bytes.iter().fold(0, |most: u8, &byte| most.max(byte)) >= 3 * FIFTH {
            let bad = bytes.iter().position(|&byte| byte >= 3 * FIFTH);
            let at = bad.expect("the maximum is one");
            return Err(refuse(first_column(at), bytes[at]));
        }
        check_padding(bytes, d_in).map_err(|(column, code)| refuse(column, code))?;
    }
    Ok(())
}

/// The column of the first trit of byte `at` of a row.
const fn first_column(at: usize) -> usize {
    let (line, byte) = (at / LINE, at % LINE);
    let word = (line / KEPT * GROUP + line % KEPT) * WORDS + byte / 4;
    word * CODES_PER_WORD + byte % 4
}

/// Column and code of the first trit behind the last column that is not zero.
fn check_padding(bytes: &[u8], d_in: usize) -> Result<(), (usize, u8)> {
    const COLUMNS: usize = GROUP * WORDS * CODES_PER_WORD;
    if d_in.is_multiple_of(COLUMNS) {
        return Ok(());
    }
    // The last group, with room for the fifth line that it may lack.
    let start = d_in / COLUMNS;
    let mut words = [ZERO_WORD; GROUP * WORDS];
    unpack_row(&bytes[start * KEPT * LINE..], &mut words);
    let columns = d_in % COLUMNS..COLUMNS;
    let code = |column: usize| {
        let word = words[column / CODES_PER_WORD];
        (word >> words::shift(column % CODES_PER_WORD) & 3) as u8
    };
    // Where lines are missing, the fifth line has the trits of those that are there.
    let lines = bytes[start * KEPT * LINE..].len() / LINE;
    let is_there = |column: usize| {
        let (line, plane) = (
            column / (WORDS * CODES_PER_WORD),
            column % CODES_PER_WORD / 4,
        );
        line < lines || (line == KEPT && plane < lines)
    };
    let mut bad = columns.filter(|&column| is_there(column) && code(column) != 1);
    match bad.next() {
        None => Ok(()),
        Some(column) => Err((start * COLUMNS + column, code(column))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around the sizes of words, lines and groups.
    const SIZES: &[usize] = &[
        1, 16, 64, 65, 255, 256, 257, 512, 1024, 1025, 1279, 1280, 1281, 2560, 3200, 6912,
    ];

    fn trits(count: usize) -> Vec<i8> {
        (0..count)
            .map(|i| ((i * 7 + i / 5) % 3) as i8 - 1)
            .collect()
    }

    #[test]
    fn packing_then_unpacking_returns_every_word() {
        for &d_in in SIZES {
            let words = words::pack(&trits(3 * d_in), 3, d_in).unwrap();
            let bytes = pack(&words, 3, d_in);
            assert_eq!(check(&bytes, 3, d_in), Ok(()), "{d_in}");
            assert_eq!(unpack(&bytes, 3, d_in), words, "{d_in}");
        }
    }

    #[test]
    fn five_lines_become_four_and_the_lines_behind_them_stay() {
        for (d_in, lines) in [
            (1, 1),
            (256, 1),
            (1024, 4),
            (1280, 4),
            (1281, 5),
            (6912, 22),
        ] {
            assert_eq!(bytes_per_row(d_in), lines * LINE, "{d_in}");
        }
        assert_eq!(8.0 * bytes_per_row(2560) as f64 / 2560.0, 1.6);
    }

    #[test]
    fn a_byte_holds_four_neighbours_and_a_trit_of_the_fifth_line() {
        let byte = |column: usize| {
            let mut trits = vec![0; 1280];
            trits[column] = 1;
            let bytes = pack(&words::pack(&trits, 1, 1280).unwrap(), 1, 1280);
            let found = bytes.iter().position(|&byte| byte != 121).unwrap();
            (found, bytes[found] - 121)
        };
        // Trit p of a canonical byte is four columns behind trit p - 1.
        for (p, power) in [1, 3, 9, 27].into_iter().enumerate() {
            assert_eq!(byte(4 * p + 2), (2, power));
            assert_eq!(byte(256 + 16 + 4 * p), (64 + 4, power));
            assert_eq!(byte(1024 + 16 + 4 * p), (64 * p + 4, 81));
        }
    }

    #[test]
    fn damaged_bytes_and_dirty_padding_are_refused_with_their_position() {
        let found = |d_in: usize, damage: &dyn Fn(&mut [u8])| {
            let mut bytes = pack(&words::pack(&vec![0; 2 * d_in], 2, d_in).unwrap(), 2, d_in);
            assert_eq!(check(&bytes, 2, d_in), Ok(()));
            damage(&mut bytes[bytes_per_row(d_in)..]);
            match check(&bytes, 2, d_in).unwrap_err() {
                KernelError::Code {
                    row, column, code, ..
                } => (row, column, code),
                other => panic!("{other}"),
            }
        };
        assert_eq!(found(2560, &|row| row[5] = 243), (1, 17, 243));
        let column = 1280 + 256 + 16;
        assert_eq!(
            found(2560, &|row| row[256 + 64 + 4] = 255),
            (1, column, 255)
        );
        // Behind column 70 of 256: its own trits.
        assert_eq!(found(70, &|row| row[17] -= 27), (1, 64 + 13, 0));
        // The fifth trit of a line that stands alone.
        assert_eq!(found(70, &|row| row[0] += 81), (1, 1024, 2));
        assert_eq!(
            found(1300, &|row| row[256 + 5] -= 81),
            (1, 1280 + 1024 + 17, 0)
        );
        // Three columns short of a group: its last line.
        assert_eq!(found(1277, &|row| row[3 * 64 + 63] += 81), (1, 1279, 2));
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let error = check(&[121; 100], 1, 256).unwrap_err();
        assert!(matches!(
            error,
            KernelError::Length {
                found: 100,
                expected: 64,
                ..
            }
        ));
    }
}
