//! `ScreenTensor`: the screen of a table on a device.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::TableTensor;
use crate::ops::tensor::is_cpu;
use crate::table::check_length;
use crate::{KernelError, PackedScreen, TableFormat};

/// An int8 copy of a float table on a device, with the error of each row: see [`PackedScreen`].
#[derive(Debug, Clone)]
pub struct ScreenTensor {
    table: TableTensor,
    error: Tensor<1>,
}

impl ScreenTensor {
    /// Whether a device reads screens: CPUs do. For others a screen is a waste of memory.
    pub fn is_read_on(device: &Device) -> bool {
        is_cpu(device)
    }

    /// Moves a screen to a device. Backends of the host take it over without a copy.
    pub fn from_packed(packed: PackedScreen, device: &Device) -> Self {
        let (table, error) = packed.into_parts();
        let error = TensorData::new(error, [table.rows()]);
        Self {
            table: TableTensor::from_packed(table, device),
            error: Tensor::from_data(error, (device, DType::F32)),
        }
    }

    /// Joins a copy and errors that are already on a device, such as the parameters of a module.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] if there are not as many errors as rows.
    ///
    /// # Panics
    ///
    /// Panics if the copy is not int8, or the errors are not `f32`.
    pub fn from_parts(table: TableTensor, error: Tensor<1>) -> Result<Self, KernelError> {
        assert_eq!(table.format(), TableFormat::Int8, "a screen is int8");
        assert_eq!(error.dtype(), DType::F32, "errors of a screen are f32");
        let shape = [table.rows(), table.columns()];
        check_length("errors of the screen", error.dims()[0], shape[0], shape)?;
        Ok(Self { table, error })
    }

    /// The copy and the errors.
    pub fn into_parts(self) -> (TableTensor, Tensor<1>) {
        (self.table, self.error)
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + 4 * self.error.dims()[0]
    }

    /// Panics unless this can be the screen of `table`.
    pub(super) fn assert_fits(&self, table: &TableTensor) {
        let shape = |table: &TableTensor| [table.rows(), table.columns()];
        let (found, expected) = (shape(&self.table), shape(table));
        assert_eq!(
            found, expected,
            "rows and columns of the screen are not the table's"
        );
    }
}
