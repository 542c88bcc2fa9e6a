//! Q2_0 (GGUF type 42): blocks of 64 weights of a row, an f16 scale and then four codes per byte, low bits first.
//!
//! The Bonsai models use the same with blocks of 128 weights. Weight = `d · (code - 1)` with codes 0..3 in general;
//! a ternary matrix has no code 3 (it would be +2), so it is refused with its position.

use super::blocks::Blocks;
use super::codes;

/// Blocks of 64, as in llama.cpp: 2.25 bits per weight.
pub static Q2_0: Blocks = blocks(
    "q2_0",
    64,
    "d_in must be a multiple of 64",
    "one scale per 64 columns",
);

/// Blocks of 128, the Bonsai variant: 2.125 bits per weight.
pub static Q2_0_GROUP128: Blocks = blocks(
    "q2_0-group128",
    128,
    "d_in must be a multiple of 128",
    "one scale per 128 columns",
);

const fn blocks(
    name: &'static str,
    size: usize,
    rule: &'static str,
    holds: &'static str,
) -> Blocks {
    Blocks {
        name,
        size,
        rule,
        holds,
        code_len: size / 4,
        codes_at: 2,
        scale_at: 0,
        read: |bytes, trits| codes::read_bits(bytes, trits, 1, 1, place),
        write: |trits, bytes| codes::write_bits(trits, bytes, 1, 1, place),
    }
}

/// Byte of weight `i`, and its bit.
const fn place(i: usize) -> (usize, usize) {
    (i / 4, i % 4 * 2)
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::{KernelError, Scale};

    #[test]
    fn four_neighbours_share_a_byte_after_the_scale() {
        for (layout, size) in [(&Q2_0, 64), (&Q2_0_GROUP128, 128)] {
            let mut trits = vec![0; size];
            (trits[4], trits[5], trits[7]) = (1, -1, 1);
            let bytes = layout.pack(&trits, &Scale::Tensor(-2.0), 1, size).unwrap();
            assert_eq!(bytes.len(), 2 + size / 4);
            assert_eq!(bytes[..4], [0x00, 0xc0, 0b01_01_01_01, 0b10_01_00_10]);
        }
    }

    #[test]
    fn code_three_is_refused_with_its_row_and_column() {
        let mut bytes = Q2_0.pack(&[1; 256], &Scale::Tensor(1.0), 2, 128).unwrap();
        bytes[3 * 18 + 2 + 1] |= 0b11_00_00;
        let error = Q2_0.unpack(&bytes, 2, 128).unwrap_err();
        assert_eq!(
            error,
            KernelError::Code {
                layout: "q2_0",
                row: 1,
                column: 64 + 6,
                code: 3
            }
        );
    }

    #[test]
    fn each_group_size_keeps_its_own_scales() {
        let values = vec![0.5, 0.25];
        let scale = Scale::Group { size: 64, values };
        let bytes = Q2_0.pack(&[1; 128], &scale, 1, 128).unwrap();
        assert_eq!(
            Q2_0.unpack(&bytes, 1, 128).unwrap().scale,
            Some(scale.clone())
        );
        let refused = Q2_0_GROUP128.pack(&[1; 128], &scale, 1, 128);
        assert!(matches!(refused, Err(KernelError::Granularity { .. })));
        assert!(matches!(
            Q2_0_GROUP128.byte_len(1, 64),
            Err(KernelError::Shape { .. })
        ));
    }
}
