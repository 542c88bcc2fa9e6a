//! `TableTensor`: a packed table on a device.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{TableSpec, defaults};
use crate::packing::check_dimensions;
use crate::table::check_length;
use crate::{KernelError, PackedTable, TableFormat};

/// A matrix `[rows, columns]` in few bits on a device, with scales in f32.
///
/// Shapes and dtypes are proven on construction. Values are proven where they enter, in [`PackedTable`].
#[derive(Debug, Clone)]
pub struct TableTensor {
    codes: Tensor<2, Int>,
    scale: Tensor<1>,
    format: TableFormat,
    columns: usize,
}

impl TableTensor {
    /// Moves a packed table to a device. Backends of the host take its words over without a copy.
    pub fn from_packed(packed: PackedTable, device: &Device) -> Self {
        let (format, rows, columns) = (packed.format(), packed.rows(), packed.columns());
        let (words, scale) = packed.into_parts();
        let (width, count) = (format.words_per_row(columns), scale.len());
        Self {
            codes: Tensor::from_data(TensorData::new(words, [rows, width]), (device, DType::U32)),
            scale: Tensor::from_data(TensorData::new(scale, [count]), (device, DType::F32)),
            format,
            columns,
        }
    }

    /// Joins words and scales that are already on a device, such as the parameters of a module.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] if a shape does not fit, [`KernelError::Dimensions`].
    ///
    /// # Panics
    ///
    /// Panics if `codes` is not `u32` or `scale` not `f32`.
    pub fn from_parts(
        codes: Tensor<2, Int>,
        scale: Tensor<1>,
        format: TableFormat,
        columns: usize,
    ) -> Result<Self, KernelError> {
        let [rows, width] = codes.dims();
        check_dimensions(rows, columns)?;
        assert_eq!(codes.dtype(), DType::U32, "codes of a table are u32 words");
        assert_eq!(scale.dtype(), DType::F32, "scales of a table are f32");
        let length = |unit, found, expected| check_length(unit, found, expected, [rows, columns]);
        length("words per row", width, format.words_per_row(columns))?;
        length("scales", scale.dims()[0], format.scales(rows, columns))?;
        Ok(Self {
            codes,
            scale,
            format,
            columns,
        })
    }

    /// How the numbers are stored.
    pub const fn format(&self) -> TableFormat {
        self.format
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.codes.dims()[0]
    }

    /// Columns.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The words `[rows, words]` and the flat scales.
    pub fn into_parts(self) -> (Tensor<2, Int>, Tensor<1>) {
        (self.codes, self.scale)
    }

    /// Copies the table to the host and proves its values.
    ///
    /// # Errors
    ///
    /// What [`PackedTable::new`] refuses: damaged records.
    pub fn to_packed(&self) -> Result<PackedTable, KernelError> {
        let words = self.codes.clone().into_data().try_into_vec();
        let scale = self.scale.clone().into_data().try_into_vec();
        PackedTable::new(
            self.format,
            words.expect("codes are u32"),
            scale.expect("scales are f32"),
            self.rows(),
            self.columns,
        )
    }

    /// The float matrix `scale · code`, `[rows, columns]` in f32: a slow truth, up to eight times the memory.
    pub fn dequantize(&self) -> Tensor<2> {
        let spec = self.spec();
        let (codes, scale) = self.clone().into_parts();
        Tensor::from_dispatch(defaults::dequantize::<Dispatch>(
            codes.into_dispatch(),
            scale.into_dispatch(),
            spec,
        ))
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.shape().num_elements() + self.scale.dims()[0])
    }

    /// Bits per number, padding and scales included.
    pub fn bits_per_number(&self) -> f64 {
        8.0 * self.bytes() as f64 / (self.rows() * self.columns) as f64
    }

    pub(super) const fn spec(&self) -> TableSpec {
        TableSpec {
            format: self.format,
            columns: self.columns,
        }
    }
}
