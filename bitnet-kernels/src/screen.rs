//! `PackedScreen`: an int8 copy of a float table, and by how much it can be wrong. It tells which rows can have the largest
//! products, so that only those few need be read in full.
//!
//! For a row of floats w with the copy `s · q`, r = w − s · q, and any x: `|w·x − s·(q·x)| ≤ min(‖r‖₂ · ‖x‖₂, ½ s · ‖x‖₁)`. `error`
//! holds ‖r‖₂ of each row, rounded up. Over rows of Gaussian numbers that is about 1 % of ‖w‖₂.

use crate::table::check_length;
use crate::{KernelError, PackedTable, TableFormat, TableView};

/// An int8 copy of a table of floats, with the error of each row.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedScreen {
    table: PackedTable,
    error: Vec<f32>,
}

/// A borrowed screen: what the CPU kernels take.
#[derive(Debug, Clone, Copy)]
pub struct ScreenView<'a> {
    /// The int8 copy.
    pub table: TableView<'a>,
    /// What ‖w − s · q‖₂ of each row is at most.
    pub error: &'a [f32],
}

impl PackedScreen {
    /// The screen of a table.
    ///
    /// # Panics
    ///
    /// Panics if the table holds integers: there is nothing shorter to be read before it.
    pub fn of(table: &PackedTable) -> Self {
        assert!(table.format().is_float(), "a screen stands before floats");
        let (rows, columns) = (table.rows(), table.columns());
        let (view, mut copied) = (table.view(), vec![0.0; columns]);
        let copy = PackedTable::from_rows(TableFormat::Int8, rows, columns, |row, numbers| {
            view.dequantize_row(row, numbers);
        });
        let copy = copy.expect("numbers of a table are finite");
        let mut numbers = vec![0.0; columns];
        let error = (0..rows).map(|row| {
            view.dequantize_row(row, &mut numbers);
            copy.view().dequantize_row(row, &mut copied);
            let squares = numbers.iter().zip(&copied).map(|(w, c)| {
                let r = f64::from(*w) - f64::from(*c);
                r * r
            });
            // Up, by more than all roundings of this sum, of s · q and of the conversion.
            let error = squares.sum::<f64>().sqrt();
            let largest = numbers.iter().fold(0f32, |most, w| most.max(w.abs()));
            let rounding = f64::from(largest) * (columns as f64).sqrt() / f64::from(1 << 22);
            (error * (1.0 + 1e-6) + rounding) as f32
        });
        let error = error.collect();
        Self { table: copy, error }
    }

    /// Gives up the copy and the errors.
    pub fn into_parts(self) -> (PackedTable, Vec<f32>) {
        (self.table, self.error)
    }

    /// The same, borrowed.
    pub fn view(&self) -> ScreenView<'_> {
        ScreenView {
            table: self.table.view(),
            error: &self.error,
        }
    }
}

impl<'a> ScreenView<'a> {
    /// Whether this can be the screen of a table.
    ///
    /// # Errors
    ///
    /// [`KernelError::Length`] with what differs.
    pub fn check(&self, table: &TableView<'a>) -> Result<(), KernelError> {
        let shape = [table.rows(), table.columns()];
        let length = |unit, found, expected| check_length(unit, found, expected, shape);
        length("rows of the screen", self.table.rows(), table.rows())?;
        length(
            "columns of the screen",
            self.table.columns(),
            table.columns(),
        )?;
        length("errors of the screen", self.error.len(), table.rows())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_row_is_the_norm_of_what_the_copy_lacks() {
        let numbers = [[127.0, 0.25, -0.5, 1.0], [0.0; 4], [-254.0, 0.0, 1.0, 2.0]];
        let read = |row: usize, out: &mut [f32]| out.copy_from_slice(&numbers[row]);
        let table = PackedTable::from_rows(TableFormat::F32, 3, 4, read).unwrap();
        let (copy, error) = PackedScreen::of(&table).into_parts();
        assert_eq!(copy.scale(), [1.0, 0.0, 2.0]);
        // 0.25 and -0.5 become 0; 1.0 is half of a 2.0, which ties to 0.
        for (error, expected) in error.into_iter().zip([0.3125f32.sqrt(), 0.0, 1.0]) {
            assert!((expected..=expected + 2e-4).contains(&error), "{error}");
        }
    }
}
