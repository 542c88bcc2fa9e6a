//! `CacheTensor`: keys and values of all positions so far, allocated once, and the formats that it stores them in.
//!
//! A row, one head at one position, takes whole u32 words on every device: 1, 2 or 4 numbers a word, the first in the low
//! bits. int8 rows have a scale each, `scale = max(max|row|, 1e-5) / 127`, `q = round(x · (127 / max(max|row|, 1e-5)))`, ties
//! to even, as activations have.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::codec;
use crate::KernelError;

/// How a cache stores numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheFormat {
    /// As they are, 4 bytes each.
    F32,
    /// Half precision, 2 bytes each: relative error 2^-11. Magnitudes beyond 65504 become 65504, infinity too.
    #[default]
    F16,
    /// 1 byte each and 4 for each row: error of 1/254 of the row's largest magnitude.
    Int8,
}

impl CacheFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Int8];

    /// Numbers in a word.
    pub const fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words of a row of `head_dim` numbers. The rest of the last word is zero.
    pub const fn words(self, head_dim: usize) -> usize {
        head_dim.div_ceil(self.per_word())
    }

    /// Whether each row has a scale.
    pub const fn scaled(self) -> bool {
        matches!(self, Self::Int8)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CacheFormat {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| KernelError::CacheFormat {
                found: name.to_owned(),
            })
    }
}

/// Stored rows of all heads and positions.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) words: Tensor<4, Int>, // [batch, n_kv_heads, capacity, words], u32
    pub(super) scales: Tensor<3>, // [batch, n_kv_heads, capacity], f32; [1, 1, 1] for a format without scales
}

/// The key/value cache of one attention layer on a device.
///
/// Shapes and dtypes are right by construction. Positions that were never written hold zeros. A clone shares the memory,
/// and the next [`cached_attention`](super::cached_attention) on either copies it.
#[derive(Debug, Clone)]
pub struct CacheTensor {
    pub(super) keys: Rows,
    pub(super) values: Rows,
    pub(super) format: CacheFormat,
    pub(super) head_dim: usize,
}

impl CacheTensor {
    /// Allocates room for `capacity` positions, all zero.
    ///
    /// # Panics
    ///
    /// Panics if a dimension is zero.
    pub fn new(
        format: CacheFormat,
        batch: usize,
        n_kv_heads: usize,
        capacity: usize,
        head_dim: usize,
        device: &Device,
    ) -> Self {
        let shape = [batch, n_kv_heads, capacity, head_dim];
        assert!(!shape.contains(&0), "cache of shape {shape:?}");
        let rows = || Rows {
            words: Tensor::zeros(
                [batch, n_kv_heads, capacity, format.words(head_dim)],
                (device, DType::U32),
            ),
            scales: Tensor::zeros(
                if format.scaled() {
                    [batch, n_kv_heads, capacity]
                } else {
                    [1; 3]
                },
                (device, DType::F32),
            ),
        };
        Self {
            keys: rows(),
            values: rows(),
            format,
            head_dim,
        }
    }

    /// How numbers are stored.
    pub const fn format(&self) -> CacheFormat {
        self.format
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.keys.words.dims()[0]
    }

    /// Key/value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.keys.words.dims()[1]
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.keys.words.dims()[2]
    }

    /// Numbers of one head at one position.
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        [&self.keys, &self.values]
            .map(|rows| {
                4 * (rows.words.shape().num_elements() + rows.scales.shape().num_elements())
            })
            .iter()
            .sum()
    }

    /// A cache of the batch rows `rows`, in this order; a row may come several times, as in beam search. Copies.
    ///
    /// # Panics
    ///
    /// Panics if there are no rows, or one of them is not there.
    pub fn select_batch(self, rows: &[usize]) -> Self {
        let batch = self.batch();
        assert!(
            !rows.is_empty() && rows.iter().all(|&row| row < batch),
            "rows {rows:?} of a batch of {batch}"
        );
        let device = self.keys.words.device();
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let count = rows.len();
        let rows =
            Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), (&device, DType::I32));
        let select = |old: Rows| Rows {
            words: old.words.select(0, rows.clone()),
            scales: if self.format.scaled() {
                old.scales.select(0, rows.clone())
            } else {
                old.scales
            },
        };
        Self {
            keys: select(self.keys),
            values: select(self.values),
            ..self
        }
    }

    /// Keys and values of batch row `row` at `positions`, as stored, in f32.
    ///
    /// # Shapes
    ///
    /// - output: twice `[n_kv_heads, positions, head_dim]`
    ///
    /// # Panics
    ///
    /// Panics if there is no such row or position, or no position at all.
    pub fn read(&self, row: usize, positions: Range<usize>) -> (Tensor<3>, Tensor<3>) {
        self.check(row, &positions);
        let read = |rows: &Rows| {
            let words =
                rows.words
                    .clone()
                    .slice([row..row + 1, 0..self.n_kv_heads(), positions.clone()]);
            let scales = if self.format.scaled() {
                rows.scales
                    .clone()
                    .slice([row..row + 1, 0..self.n_kv_heads(), positions.clone()])
            } else {
                rows.scales.clone()
            };
            let numbers = codec::decode::<Dispatch>(
                words.into_dispatch(),
                scales.into_dispatch(),
                self.format,
                self.head_dim,
            );
            Tensor::<4>::from_dispatch(numbers).squeeze_dim(0)
        };
        (read(&self.keys), read(&self.values))
    }

    /// Stores keys and values in batch row `row` at the positions from `start` on.
    ///
    /// # Shapes
    ///
    /// - keys, values: `[n_kv_heads, positions, head_dim]`, f32
    ///
    /// # Panics
    ///
    /// Panics if the shapes do not fit, or there is no room for them at `start`.
    pub fn write(self, row: usize, start: usize, keys: Tensor<3>, values: Tensor<3>) -> Self {
        let [_, len, _] = keys.dims();
        let n_kv_heads = self.n_kv_heads();
        let shape = [n_kv_heads, len, self.head_dim];
        assert_eq!(
            (keys.dims(), values.dims()),
            (shape, shape),
            "keys and values [n_kv_heads, positions, head_dim] for a cache of this shape"
        );
        self.check(row, &(start..start + len));
        let place = [row..row + 1, 0..n_kv_heads, start..start + len];
        let store = |old: Rows, numbers: Tensor<3>| {
            let numbers = numbers.unsqueeze::<4>().into_dispatch();
            let (words, scales) = codec::encode::<Dispatch>(numbers, self.format);
            let words = Tensor::<4, Int>::from_dispatch(words);
            Rows {
                words: old.words.slice_assign(place.clone(), words),
                scales: match scales {
                    Some(scales) => old
                        .scales
                        .slice_assign(place.clone(), Tensor::<3>::from_dispatch(scales)),
                    None => old.scales,
                },
            }
        };
        Self {
            keys: store(self.keys, keys),
            values: store(self.values, values),
            ..self
        }
    }

    fn check(&self, row: usize, positions: &Range<usize>) {
        assert!(
            row < self.batch() && !positions.is_empty() && positions.end <= self.capacity(),
            "row {row}, positions {positions:?} of a cache of {} rows, {} positions",
            self.batch(),
            self.capacity()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_by_the_name_that_it_prints() {
        for format in CacheFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "f8".parse::<CacheFormat>().unwrap_err().to_string();
        assert!(error.contains("`f8`") && error.contains("f32, f16 or int8"));
    }

    #[test]
    fn a_row_takes_whole_words() {
        let words = |head_dim| CacheFormat::ALL.map(|format| format.words(head_dim));
        assert_eq!(words(128), [128, 64, 32]);
        assert_eq!(words(5), [5, 3, 2]);
    }
}
