//! TQ1_0 and TQ2_0 of ggml (GGUF types 34 and 35): blocks of 256 weights of a row, with an f16 scale at the end.
//!
//! TQ2_0: 64 bytes of two-bit codes; four runs of 32 weights share 32 bytes, the first in the low bits.
//! TQ1_0: 52 bytes of base-3 digits, most significant first: 32 bytes with weights 32 apart, 16 bytes with weights 16
//! apart, 4 bytes with four weights 4 apart and a last digit 0. Decoding is total: any byte yields trits, so damage to
//! the digits goes unseen here. TQ2_0 refuses code 3.

use super::blocks::Blocks;
use super::codes;

const RULE: &str = "d_in must be a multiple of 256";
const HOLDS: &str = "one scale per 256 columns";

/// 1.6875 bits per weight, in base 3.
pub static TQ1_0: Blocks = Blocks {
    name: "tq1_0",
    size: 256,
    rule: RULE,
    holds: HOLDS,
    code_len: 52,
    codes_at: 0,
    scale_at: 52,
    read: |bytes, trits| codes::read_digits(bytes, trits, tq1_0_place),
    write: |trits, bytes| codes::write_digits(trits, bytes, tq1_0_place),
};

/// 2.0625 bits per weight.
pub static TQ2_0: Blocks = Blocks {
    name: "tq2_0",
    size: 256,
    rule: RULE,
    holds: HOLDS,
    code_len: 64,
    codes_at: 0,
    scale_at: 64,
    read: |bytes, trits| codes::read_bits(bytes, trits, 32, 1, tq2_0_place),
    write: |trits, bytes| codes::write_bits(trits, bytes, 32, 1, tq2_0_place),
};

/// Byte of weight `i`, and the power of three of its digit.
const fn tq1_0_place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i % 32, 4 - i / 32),
        160..240 => (32 + i % 16, 4 - (i - 160) / 16),
        _ => (48 + i % 4, 4 - (i - 240) / 4),
    }
}

/// First byte of run `i`, and its bit in each byte.
const fn tq2_0_place(i: usize) -> (usize, usize) {
    (i / 4 * 32, i % 4 * 2)
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, Unpacked};
    use super::*;
    use crate::{KernelError, Scale};

    #[test]
    fn tq2_0_puts_weights_32_apart_into_a_byte_low_bits_first() {
        let mut trits = [0; 256];
        (trits[1], trits[33], trits[128 + 96 + 5]) = (1, -1, 1);
        let bytes = TQ2_0.pack(&trits, &Scale::Tensor(1.5), 1, 256).unwrap();
        assert_eq!(bytes[1], 0b01_01_00_10);
        assert_eq!(bytes[32 + 5], 0b10_01_01_01);
        assert_eq!(bytes[64..], [0x00, 0x3e]);
    }

    #[test]
    fn tq1_0_stores_a_rounded_up_fraction_most_significant_digit_first() {
        let mut trits = [-1; 256];
        // n = 2·81 + 1·27 = 189 in byte 0, 1·9 in byte 33, 2·27 + 1·3 = 57 in byte 50.
        (trits[0], trits[32]) = (1, 0);
        trits[160 + 32 + 1] = 0;
        (trits[240 + 4 + 2], trits[240 + 12 + 2]) = (1, 0);
        let bytes = TQ1_0.pack(&trits, &Scale::Tensor(1.0), 1, 256).unwrap();
        let found: Vec<_> = bytes
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte != 0)
            .collect();
        // ceil(189·256/243) = 200, ceil(9·256/243) = 10, ceil(57·256/243) = 61, f16 1.0 = 0x3c00.
        assert_eq!(found, [(0, &200), (33, &10), (50, &61), (53, &0x3c)]);
        assert_eq!(TQ1_0.unpack(&bytes, 1, 256).unwrap().trits, trits);
    }

    #[test]
    fn a_zero_block_is_written_with_scale_zero_and_leaves_the_tensor_scale_alone() {
        let mut trits = [0; 512];
        trits[256] = 1;
        for layout in [&TQ1_0, &TQ2_0] {
            let mut bytes = layout.pack(&trits, &Scale::Tensor(0.5), 2, 256).unwrap();
            let unpacked = layout.unpack(&bytes, 2, 256).unwrap();
            let expected = Unpacked {
                trits: trits.to_vec(),
                scale: Some(Scale::Tensor(0.5)),
            };
            assert_eq!(unpacked, expected);
            // With d = 0 the codes do not matter.
            bytes[0] = 0;
            assert_eq!(layout.unpack(&bytes, 2, 256).unwrap(), expected);
        }
    }

    #[test]
    fn rows_with_scales_of_their_own_come_back_as_groups() {
        let bytes = TQ2_0
            .pack(&[1; 512], &Scale::Row(vec![0.5, 2.0]), 2, 256)
            .unwrap();
        let scale = TQ2_0.unpack(&bytes, 2, 256).unwrap().scale;
        assert_eq!(
            scale,
            Some(Scale::Group {
                size: 256,
                values: vec![0.5, 2.0]
            })
        );
    }

    #[test]
    fn scales_that_do_not_fit_are_refused_with_their_position() {
        let error = TQ1_0
            .pack(&[1; 512], &Scale::Row(vec![0.5, 0.1]), 2, 256)
            .unwrap_err();
        assert!(matches!(
            error,
            KernelError::Scale {
                what: "tq1_0",
                index: 1,
                ..
            }
        ));
        let values = vec![1.0, 2.0];
        let error = TQ2_0.pack(&[1; 256], &Scale::Group { size: 128, values }, 1, 256);
        assert!(matches!(
            error,
            Err(KernelError::Granularity {
                layout: "tq2_0",
                ..
            })
        ));
    }

    #[test]
    fn code_three_an_infinite_scale_and_a_partial_block_are_refused() {
        let mut bytes = TQ2_0.pack(&[1; 512], &Scale::Tensor(1.0), 2, 256).unwrap();
        bytes[66 + 32 + 1] = 0b01_11_01_01;
        let error = TQ2_0.unpack(&bytes, 2, 256).unwrap_err();
        let expected = KernelError::Code {
            layout: "tq2_0",
            row: 1,
            column: 128 + 64 + 1,
            code: 3,
        };
        assert_eq!(error, expected);
        bytes[66 + 32 + 1] = 0;
        bytes[66 + 65] = 0x7c;
        let error = TQ2_0.unpack(&bytes, 2, 256).unwrap_err();
        assert!(matches!(
            error,
            KernelError::Scale {
                index: 1,
                value: f32::INFINITY,
                ..
            }
        ));
        assert!(matches!(
            TQ1_0.byte_len(2, 255),
            Err(KernelError::Shape { .. })
        ));
    }
}
