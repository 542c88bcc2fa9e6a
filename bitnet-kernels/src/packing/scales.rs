//! Scales inside foreign layouts: one per tensor, or one per block of a row.
//!
//! Nothing is rounded: a scale that a layout cannot hold exactly is refused with its index, counted in the layout's
//! own scales. A block with scale 0 means zero weights whatever its codes say, so its trits are read as 0, and a block
//! of zero trits is written with scale 0.

use half::f16;

use crate::{Granularity, KernelError, Scale};

/// The f32 at byte `at`, as the scale of the whole tensor.
pub(super) fn read_tensor(
    layout: &'static str,
    bytes: &[u8],
    at: usize,
) -> Result<Scale, KernelError> {
    let scale = Scale::Tensor(read_f32(&bytes[at..]));
    scale.check(layout, 1, 1)?;
    Ok(scale)
}

/// The one value that all scales have.
pub(super) fn tensor_value(
    layout: &'static str,
    scale: &Scale,
    d_out: usize,
    d_in: usize,
) -> Result<f32, KernelError> {
    scale.check(layout, d_out, d_in)?;
    let value = scale.values()[0];
    if scale.values().iter().all(|&other| other == value) {
        return Ok(value);
    }
    let found = format!("{} that differ", scale.granularity());
    Err(KernelError::Granularity {
        layout,
        holds: "one scale per tensor",
        found,
    })
}

/// Block scales that were read, one per equal share of `trits`, as the scales of the matrix.
///
/// Zeroes the trits of blocks with scale 0. If all other blocks agree the result is one scale for the tensor, 0 if
/// there are none.
pub(super) fn read_blocks(
    layout: &'static str,
    trits: &mut [i8],
    granularity: Granularity,
    values: Vec<f32>,
    d_out: usize,
    d_in: usize,
) -> Result<Scale, KernelError> {
    let scale = Scale::from_values(granularity, values);
    scale.check(layout, d_out, d_in)?;
    let width = trits.len() / scale.values().len();
    for (block, &value) in trits.chunks_exact_mut(width).zip(scale.values()) {
        if value == 0.0 {
            block.fill(0);
        }
    }
    let mut used = scale.values().iter().filter(|&&value| value != 0.0);
    let first = used.next().copied().unwrap_or(0.0);
    Ok(if used.all(|&value| value == first) {
        Scale::Tensor(first)
    } else {
        scale
    })
}

/// The scale of each block, for writing: the one that all its non-zero trits have, 0 if it has none.
pub(super) fn write_blocks(
    layout: &'static str,
    trits: &[i8],
    scale: &Scale,
    granularity: Granularity,
    holds: &'static str,
    (d_out, d_in): (usize, usize),
) -> Result<Vec<f32>, KernelError> {
    scale.check(layout, d_out, d_in)?;
    let width = trits.len() / granularity.count(d_out, d_in);
    let block_value = |(index, block): (usize, &[i8])| {
        let (row, first) = (index * width / d_in, index * width % d_in);
        let used = block.iter().enumerate().filter(|&(_, &trit)| trit != 0);
        let mut used = used.map(|(column, _)| scale.at(row, first + column, d_in));
        let Some(value) = used.next() else {
            return Ok(0.0);
        };
        if value == 0.0 {
            let rule = "a block with trits other than 0 needs a scale other than 0";
            return Err(KernelError::Scale {
                what: layout,
                index,
                value,
                rule,
            });
        }
        if used.any(|other| other != value) {
            let found = scale.granularity().to_string();
            return Err(KernelError::Granularity {
                layout,
                holds,
                found,
            });
        }
        Ok(value)
    };
    trits
        .chunks_exact(width)
        .enumerate()
        .map(block_value)
        .collect()
}

/// The little-endian f32 at the start of `bytes`.
pub(super) fn read_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The little-endian f16 at the start of `bytes`.
pub(super) fn read_f16(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Encodes scale `index` as f16 if that is exact.
pub(super) fn f16_bytes(
    layout: &'static str,
    index: usize,
    value: f32,
) -> Result<[u8; 2], KernelError> {
    let half = f16::from_f32(value);
    if half.to_f32() == value {
        return Ok(half.to_le_bytes());
    }
    let rule = "the layout stores f16, which cannot hold it exactly";
    Err(KernelError::Scale {
        what: layout,
        index,
        value,
        rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_agree_become_one_scale_and_zero_blocks_have_no_say() {
        let mut trits = [1, -1, 1, 1, 0, 1];
        let scale = read_blocks(
            "x",
            &mut trits,
            Granularity::Group(2),
            vec![0.5, 0.0, 0.5],
            1,
            6,
        );
        assert_eq!(scale, Ok(Scale::Tensor(0.5)));
        assert_eq!(trits, [1, -1, 0, 0, 0, 1]);
    }

    #[test]
    fn blocks_that_differ_keep_their_scales() {
        let values = vec![0.5, 0.25, 0.0];
        let scale = read_blocks(
            "x",
            &mut [1; 6],
            Granularity::Group(2),
            values.clone(),
            1,
            6,
        );
        assert_eq!(scale, Ok(Scale::Group { size: 2, values }));
    }

    #[test]
    fn a_block_takes_the_scale_of_its_non_zero_trits() {
        let write = |trits: &[i8], scale| {
            write_blocks("x", trits, &scale, Granularity::Group(4), "4", (2, 4))
        };
        let pairs = Scale::Group {
            size: 2,
            values: vec![0.5, 3.0, 2.0, 2.0],
        };
        assert_eq!(
            write(&[1, 0, 0, 0, -1, 0, 0, 1], pairs.clone()),
            Ok(vec![0.5, 2.0])
        );
        assert_eq!(write(&[0; 8], pairs.clone()), Ok(vec![0.0, 0.0]));
        let refused = write(&[1, 0, 1, 0, -1, 0, 0, 1], pairs);
        assert!(matches!(refused, Err(KernelError::Granularity { .. })));
        let refused = write(&[0, 0, 0, 0, 0, 0, 0, 1], Scale::Tensor(0.0));
        assert!(matches!(
            refused,
            Err(KernelError::Scale {
                index: 1,
                value: 0.0,
                ..
            })
        ));
    }

    #[test]
    fn a_scale_that_f16_would_round_is_refused() {
        assert_eq!(f16_bytes("x", 0, 1.5), Ok([0x00, 0x3e]));
        for value in [0.1, 1e6, 1e-9] {
            let error = f16_bytes("x", 7, value).unwrap_err();
            assert!(matches!(error, KernelError::Scale { index: 7, .. }));
        }
    }

    #[test]
    fn a_tensor_scale_may_be_written_as_equal_rows() {
        assert_eq!(
            tensor_value("x", &Scale::Row(vec![2.0, 2.0]), 2, 3),
            Ok(2.0)
        );
        let error = tensor_value("x", &Scale::Row(vec![2.0, 1.0]), 2, 3).unwrap_err();
        assert!(matches!(error, KernelError::Granularity { .. }));
        let error = read_tensor("x", &f32::NAN.to_le_bytes(), 0).unwrap_err();
        assert!(matches!(error, KernelError::Scale { index: 0, .. }));
    }
}
