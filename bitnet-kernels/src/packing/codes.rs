//! The two codings that all layouts but TL1 and TL2 share: two bits per trit, and five base-3 digits per byte.
//!
//! Reading turns any byte into values near the trits and never fails; [`check`] then refuses what is no trit, once per
//! matrix. Writing adds into zeroed bytes. A layout only says *where* a value lies, as a function.

use crate::KernelError;

/// `3^p`, the weight of a digit in its byte.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Reads two-bit codes, `trit = code - zero`.
///
/// Run `i` of `run` consecutive values lies in consecutive bytes; `place(i)` is the first byte and the bit in each.
pub(super) fn read_bits(
    bytes: &[u8],
    trits: &mut [i8],
    run: usize,
    zero: i8,
    place: impl Fn(usize) -> (usize, usize),
) {
    for (i, trits) in trits.chunks_exact_mut(run).enumerate() {
        let (start, shift) = place(i);
        for (trit, byte) in trits.iter_mut().zip(&bytes[start..start + run]) {
            *trit = (byte >> shift & 3) as i8 - zero;
        }
    }
}

/// Writes what [`read_bits`] reads. `bytes` are zero before.
pub(super) fn write_bits(
    trits: &[i8],
    bytes: &mut [u8],
    run: usize,
    zero: i8,
    place: impl Fn(usize) -> (usize, usize),
) {
    for (i, trits) in trits.chunks_exact(run).enumerate() {
        let (start, shift) = place(i);
        for (trit, byte) in trits.iter().zip(&mut bytes[start..start + run]) {
            *byte |= ((trit + zero) as u8) << shift;
        }
    }
}

/// Reads base-3 digits. `place(i)` is the byte of value `i` and the power of three of its digit.
///
/// A byte stands for the fraction `byte / 256`, so a digit falls out of a multiplication:
/// `digit_p = 3·(byte·3^(4-p) mod 256) div 256`. Every byte decodes to digits 0, 1, 2, also the 13 that no writer makes.
pub(super) fn read_digits(bytes: &[u8], trits: &mut [i8], place: impl Fn(usize) -> (usize, usize)) {
    for (i, trit) in trits.iter_mut().enumerate() {
        let (at, power) = place(i);
        let fraction = bytes[at].wrapping_mul(POWERS[4 - power]);
        *trit = ((u16::from(fraction) * 3) >> 8) as i8 - 1;
    }
}

/// Writes what [`read_digits`] reads, `byte = ceil(n·256 / 243)`. `bytes` are zero before and hold nothing but digits.
pub(super) fn write_digits(
    trits: &[i8],
    bytes: &mut [u8],
    place: impl Fn(usize) -> (usize, usize),
) {
    for (i, trit) in trits.iter().enumerate() {
        let (at, power) = place(i);
        bytes[at] += (trit + 1) as u8 * POWERS[power];
    }
    for byte in bytes {
        *byte = (u32::from(*byte) * 256).div_ceil(243) as u8;
    }
}

/// Refuses the first value that is no trit, as the code `value + zero` that it was.
pub(super) fn check(
    layout: &'static str,
    trits: &[i8],
    zero: i8,
    d_in: usize,
) -> Result<(), KernelError> {
    // The maximum is a loop without branches; only damaged data is walked twice.
    if trits.iter().map(|trit| trit.unsigned_abs()).max() <= Some(1) {
        return Ok(());
    }
    let at = trits
        .iter()
        .position(|trit| trit.unsigned_abs() > 1)
        .expect("the maximum is one");
    let code = (trits[at] + zero) as u8;
    Err(KernelError::Code {
        layout,
        row: at / d_in,
        column: at % d_in,
        code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_digits_survive_their_byte() {
        for n in 0..243_u8 {
            let trits = [0, 1, 2, 3, 4].map(|p| (n / POWERS[p] % 3) as i8 - 1);
            let (mut bytes, mut read) = ([0], [0; 5]);
            write_digits(&trits, &mut bytes, |p| (0, p));
            read_digits(&bytes, &mut read, |p| (0, p));
            assert_eq!(
                (read, bytes[0]),
                (trits, (f64::from(n) * 256.0 / 243.0).ceil() as u8)
            );
        }
    }

    #[test]
    fn every_byte_decodes_to_digits() {
        for byte in 0..=255 {
            let mut trits = [7; 5];
            read_digits(&[byte], &mut trits, |p| (0, p));
            assert_eq!(check("digits", &trits, 1, 5), Ok(()));
        }
    }

    #[test]
    fn a_code_that_is_no_trit_is_named_as_it_was_stored() {
        let mut trits = [0; 4];
        read_bits(&[0b01_00_11_10], &mut trits, 1, 2, |i| (0, 2 * i));
        assert_eq!(trits, [0, 1, -2, -1]);
        let expected = KernelError::Code {
            layout: "bits",
            row: 1,
            column: 0,
            code: 0,
        };
        assert_eq!(check("bits", &trits, 2, 2), Err(expected));
    }
}
