//! Tables of reproducible numbers, and what the tests of tables compare.

use bitnet_kernels::{PackedTable, TableFormat};

use super::random::Random;

/// A table of numbers in -1..1, some of them tiny: below the smallest normal half float.
pub(crate) fn table(
    random: &mut Random,
    format: TableFormat,
    rows: usize,
    columns: usize,
) -> PackedTable {
    let read = |_, row: &mut [f32]| {
        for number in row {
            let tiny = random.next().is_multiple_of(8);
            *number = random.float() * if tiny { 3e-5 } else { 1.0 };
        }
    };
    PackedTable::from_rows(format, rows, columns, read).expect("finite numbers")
}

/// f32 sums in another order: `tolerance` relative to the largest output.
pub(crate) fn close(tolerance: f32, what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let magnitude = expected.iter().fold(1e-6f32, |m, e| m.max(e.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance * magnitude,
            "{what}: element {i} is {f}, expected {e}"
        );
    }
}
