//! `PackedTernary`: a ternary matrix with its scales, the value that travels from files to devices.
//!
//! Checked once, on construction: a value that exists has matching lengths, no code 3 and finite scales, so no kernel
//! checks again. It lives on the host; [`TernaryTensor`](crate::TernaryTensor) is the same matrix on a device.

use serde::{Deserialize, Serialize};

use crate::KernelError;
use crate::packing::{check_dimensions, words};

/// The float factors of a ternary matrix: `W̃[n, k] = scale(n, k) · trit[n, k]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// One factor for the whole matrix.
    Tensor(f32),
    /// One factor for each of the `d_out` rows.
    Row(Vec<f32>),
    /// One factor for each `size` consecutive columns of each row, row after row; the last group of a row may be short.
    Group {
        /// Columns per group.
        size: usize,
        /// `d_out · ceil(d_in / size)` factors.
        values: Vec<f32>,
    },
}

/// How many scales a ternary matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Granularity {
    /// One for the whole matrix.
    #[default]
    Tensor,
    /// One per row.
    Row,
    /// One per this many consecutive columns of a row: 32, 64, 96, .., 256.
    Group(usize),
}

impl Granularity {
    /// Number of scales of a `d_out` x `d_in` matrix.
    pub const fn count(self, d_out: usize, d_in: usize) -> usize {
        match self {
            Self::Tensor => 1,
            Self::Row => d_out,
            Self::Group(size) => d_out * d_in.div_ceil(size),
        }
    }

    /// Refuses group sizes outside 32, 64, 96, .., 256, so that a group never starts inside a word.
    ///
    /// # Errors
    ///
    /// [`KernelError::GroupSize`].
    pub const fn checked(self) -> Result<Self, KernelError> {
        match self {
            Self::Group(size) if size < 32 || size > 256 || size % 32 != 0 => {
                Err(KernelError::GroupSize { found: size })
            }
            _ => Ok(self),
        }
    }
}

impl std::fmt::Display for Granularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tensor => write!(f, "one scale per tensor"),
            Self::Row => write!(f, "one scale per row"),
            Self::Group(size) => write!(f, "one scale per {size} columns"),
        }
    }
}

impl Scale {
    /// Builds the variant that `granularity` names from flat values.
    ///
    /// # Panics
    ///
    /// Panics if a per-tensor scale has not exactly one value.
    pub fn from_values(granularity: Granularity, values: Vec<f32>) -> Self {
        match granularity {
            Granularity::Tensor => {
                assert_eq!(values.len(), 1, "a per-tensor scale is one value");
                Self::Tensor(values[0])
            }
            Granularity::Row => Self::Row(values),
            Granularity::Group(size) => Self::Group { size, values },
        }
    }

    /// How many scales there are.
    pub const fn granularity(&self) -> Granularity {
        match self {
            Self::Tensor(_) => Granularity::Tensor,
            Self::Row(_) => Granularity::Row,
            Self::Group { size, .. } => Granularity::Group(*size),
        }
    }

    /// The factors, flat, in row order.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Tensor(value) => std::slice::from_ref(value),
            Self::Row(values) | Self::Group { values, .. } => values,
        }
    }

    /// Gives up the factors, flat, in row order.
    pub(crate) fn into_values(self) -> Vec<f32> {
        match self {
            Self::Tensor(value) => vec![value],
            Self::Row(values) | Self::Group { values, .. } => values,
        }
    }

    /// The factor of one element of a matrix with `d_in` columns.
    pub fn at(&self, row: usize, column: usize, d_in: usize) -> f32 {
        match self {
            Self::Tensor(value) => *value,
            Self::Row(values) => values[row],
            Self::Group { size, values } => values[row * d_in.div_ceil(*size) + column / size],
        }
    }

    /// Proves the number of scales, and that each is finite.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] or [`KernelError::Scale`].
    pub fn check(&self, what: &'static str, d_out: usize, d_in: usize) -> Result<(), KernelError> {
        if let Self::Group { size: 0, .. } = self {
            return Err(KernelError::GroupSize { found: 0 });
        }
        let (found, expected) = (self.values().len(), self.granularity().count(d_out, d_in));
        if found != expected {
            return Err(KernelError::Length {
                what,
                unit: "scales",
                found,
                expected,
                d_out,
                d_in,
            });
        }
        match self.values().iter().position(|scale| !scale.is_finite()) {
            None => Ok(()),
            Some(index) => Err(KernelError::Scale {
                what,
                index,
                value: self.values()[index],
                rule: "a scale must be finite",
            }),
        }
    }
}

/// How often each trit occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Weights of -1.
    pub minus: usize,
    /// Weights of 0.
    pub zero: usize,
    /// Weights of +1.
    pub plus: usize,
}

impl Histogram {
    /// Entropy in bits per weight: the least that any code for this matrix can take; at most log2 3 = 1.585.
    pub fn entropy(&self) -> f64 {
        let total = (self.minus + self.zero + self.plus) as f64;
        [self.minus, self.zero, self.plus]
            .into_iter()
            .filter(|&count| count > 0)
            .map(|count| count as f64 / total)
            .map(|p| -p * p.log2())
            .sum()
    }
}

/// A ternary matrix `[d_out, d_in]` in canonical words, with its scales.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedTernary {
    words: Vec<u32>,
    scale: Scale,
    d_out: usize,
    d_in: usize,
}

impl PackedTernary {
    /// Takes canonical words (see [`words`]) and their scales, and proves both.
    ///
    /// # Errors
    ///
    /// Names the first wrong length, code or scale with its position.
    pub fn new(
        words: Vec<u32>,
        scale: Scale,
        d_out: usize,
        d_in: usize,
    ) -> Result<Self, KernelError> {
        words::check(&words, d_out, d_in)?;
        scale.granularity().checked()?;
        scale.check("ternary matrix", d_out, d_in)?;
        Ok(Self {
            words,
            scale,
            d_out,
            d_in,
        })
    }

    /// Packs a row-major matrix of -1, 0 and 1.
    ///
    /// # Errors
    ///
    /// Names the first wrong length, value or scale with its position.
    pub fn from_trits(
        trits: &[i8],
        scale: Scale,
        d_out: usize,
        d_in: usize,
    ) -> Result<Self, KernelError> {
        check_dimensions(d_out, d_in)?;
        scale.granularity().checked()?;
        scale.check("ternary matrix", d_out, d_in)?;
        Ok(Self {
            words: words::pack(trits, d_out, d_in)?,
            scale,
            d_out,
            d_in,
        })
    }

    /// The canonical words, [`words::words_per_row`] for each row.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The scales.
    pub const fn scale(&self) -> &Scale {
        &self.scale
    }

    /// Rows.
    pub const fn d_out(&self) -> usize {
        self.d_out
    }

    /// Columns.
    pub const fn d_in(&self) -> usize {
        self.d_in
    }

    /// Gives up words and scales.
    pub fn into_parts(self) -> (Vec<u32>, Scale) {
        (self.words, self.scale)
    }

    /// The row-major matrix of -1, 0 and 1.
    pub fn trits(&self) -> Vec<i8> {
        words::unpack(&self.words, self.d_out, self.d_in)
    }

    /// The row-major float matrix `scale · trit`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut values: Vec<f32> = self.trits().into_iter().map(f32::from).collect();
        for (row, values) in values.chunks_exact_mut(self.d_in).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                *value *= self.scale.at(row, column, self.d_in);
            }
        }
        values
    }

    /// Bytes held: words, padding and scales.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.words[..]) + size_of_val(self.scale.values())
    }

    /// Measured bits per weight, padding and scales included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.d_out * self.d_in) as f64
    }

    /// How often each trit occurs, padding left out.
    pub fn histogram(&self) -> Histogram {
        // Bit pairs: 00 = -1, 01 = 0, 10 = +1. Padding is 01, so only the zeros need a correction.
        let even = words::ZERO_WORD;
        let count = |shift: u32| -> usize {
            self.words
                .iter()
                .map(|word| (word >> shift & even).count_ones() as usize)
                .sum()
        };
        let (plus, zero) = (count(1), count(0));
        let padding = self.words.len() * words::CODES_PER_WORD - self.d_out * self.d_in;
        let minus = self.d_out * self.d_in - plus - (zero - padding);
        Histogram {
            minus,
            zero: zero - padding,
            plus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_and_bits_leave_padding_out_and_count_it() {
        let packed =
            PackedTernary::from_trits(&[1, 0, -1, 0, 0, 1], Scale::Tensor(2.0), 2, 3).unwrap();
        assert_eq!(
            packed.histogram(),
            Histogram {
                minus: 1,
                zero: 3,
                plus: 2
            }
        );
        assert_eq!(packed.bits_per_weight(), (2.0 * 128.0 + 32.0) / 6.0);
        assert_eq!(packed.dequantize(), [2.0, 0.0, -2.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn scales_are_checked_for_number_size_and_value() {
        let build = |scale| PackedTernary::from_trits(&[0; 2 * 70], scale, 2, 70);
        assert!(build(Scale::Row(vec![1.0, 2.0])).is_ok());
        assert!(
            build(Scale::Group {
                size: 32,
                values: vec![1.0; 6]
            })
            .is_ok()
        );
        assert!(matches!(
            build(Scale::Row(vec![1.0])),
            Err(KernelError::Length {
                found: 1,
                expected: 2,
                ..
            })
        ));
        assert!(matches!(
            build(Scale::Group {
                size: 48,
                values: vec![1.0; 4]
            }),
            Err(KernelError::GroupSize { found: 48 })
        ));
        assert!(matches!(
            build(Scale::Tensor(f32::NAN)),
            Err(KernelError::Scale { index: 0, .. })
        ));
    }

    #[test]
    fn a_zero_dimension_is_refused() {
        assert!(matches!(
            PackedTernary::from_trits(&[], Scale::Tensor(1.0), 0, 4),
            Err(KernelError::Dimensions {
                d_out: 0,
                d_in: 4,
                ..
            })
        ));
    }
}
