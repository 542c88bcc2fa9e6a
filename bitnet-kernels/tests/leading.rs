//! The largest outputs of a table behind its screen: none is missing, each has the bits of the whole product, and the rest is
//! left out.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::cpu::{kernels, table_leading, table_linear};
use bitnet_kernels::{
    PackedScreen, PackedTable, ScreenTensor, TableFormat, TableTensor, table_leading as leading_of,
    table_linear as product_of,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use devices::devices;
use proptest::prelude::*;
use random::Random;

const FLOATS: [TableFormat; 3] = [TableFormat::F32, TableFormat::F16, TableFormat::BF16];

/// Bell-shaped numbers, as in trained tables.
fn bell(random: &mut Random) -> f32 {
    (0..12).map(|_| random.float()).sum::<f32>() / 2.0
}

fn packed(format: TableFormat, [rows, columns]: [usize; 2], numbers: &[f32]) -> PackedTable {
    let read = |row: usize, out: &mut [f32]| {
        out.copy_from_slice(&numbers[row * columns..][..columns]);
    };
    PackedTable::from_rows(format, rows, columns, read).expect("finite numbers")
}

/// How many outputs were computed; panics if one that must be there is not, or one has other bits. NaN equals NaN here.
fn check(what: &str, found: &[f32], expected: &[f32], rows: usize, leading: usize) -> usize {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let mut computed = 0;
    for (found, expected) in found.chunks_exact(rows).zip(expected.chunks_exact(rows)) {
        let mut sorted = expected.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = sorted[leading.min(rows) - 1];
        for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
            let dropped = *found == f32::NEG_INFINITY;
            assert!(
                dropped || found.to_bits() == expected.to_bits(),
                "{what}: row {row} is {found}, expected {expected}"
            );
            // A comparison with NaN is false: where there is one, nothing may be dropped.
            assert!(
                !dropped || *expected < least,
                "{what}: row {row} is missing, {expected} of the largest {leading}"
            );
            computed += usize::from(!dropped);
        }
    }
    computed
}

/// Runs every kernel; returns how many outputs the first computed.
fn run(what: &str, table: &PackedTable, x: &[f32], leading: usize) -> usize {
    let screen = PackedScreen::of(table);
    let rows = table.rows();
    let counts = kernels().into_iter().map(|kernel| {
        let count = x.len() / table.columns() * rows;
        let (mut found, mut expected) = (vec![f32::NAN; count], vec![f32::NAN; count]);
        table_linear(kernel, x, &table.view(), &mut expected);
        table_leading(
            kernel,
            x,
            &table.view(),
            &screen.view(),
            leading,
            &mut found,
        );
        let what = format!("{what}, {}: {}, {leading}", kernel.name(), table.format());
        check(&what, &found, &expected, rows, leading)
    });
    counts.collect::<Vec<_>>()[0]
}

#[test]
fn the_largest_are_all_there_and_most_others_are_not() {
    let mut random = Random(1);
    let (rows, columns) = (4000, 2560);
    let numbers: Vec<f32> = (0..rows * columns).map(|_| bell(&mut random)).collect();
    let x: Vec<f32> = (0..3 * columns).map(|_| bell(&mut random)).collect();
    for format in FLOATS {
        let table = packed(format, [rows, columns], &numbers);
        let computed = run("bell", &table, &x, 1);
        assert!(
            computed < 3 * rows / 20,
            "{format}: {computed} of {rows} rows computed"
        );
        let more = run("bell", &table, &x, 20);
        assert!(
            computed < more && more < 3 * rows / 4,
            "{format}: {more} of {rows} rows computed"
        );
    }
}

#[test]
fn rows_that_int8_cannot_tell_apart_are_told_apart() {
    let mut random = Random(2);
    let (rows, columns) = (700, 130);
    // All rows nearly one, differing by less than a unit of int8; some equal, so that there are ties.
    let base: Vec<f32> = (0..columns).map(|_| bell(&mut random)).collect();
    let mut numbers = Vec::new();
    for row in 0..rows {
        let change = if row % 7 == 0 { 0.0 } else { 1e-3 };
        numbers.extend(base.iter().map(|w| w + change * random.float()));
    }
    let x: Vec<f32> = (0..2 * columns).map(|_| bell(&mut random)).collect();
    for format in FLOATS {
        let table = packed(format, [rows, columns], &numbers);
        for leading in [1, 2, 10] {
            run("alike", &table, &x, leading);
        }
    }
}

#[test]
fn inputs_and_tables_that_no_bound_fits_are_computed_whole() {
    let (rows, columns) = (300, 65);
    let mut random = Random(3);
    let numbers: Vec<f32> = (0..rows * columns).map(|_| bell(&mut random)).collect();
    let table = packed(TableFormat::F32, [rows, columns], &numbers);
    let mut x = vec![0.5; columns];
    x[40] = f32::NAN;
    assert_eq!(run("NaN", &table, &x, 1), rows);
    // Outputs of ±∞: nobody can tell those below from those left out.
    x[40] = f32::INFINITY;
    assert!(run("infinity", &table, &x, 1) > rows / 3);
    // All outputs are zero: ties of the largest.
    assert_eq!(run("zeros", &table, &vec![0.0; columns], 1), rows);
    // Fewer rows than are asked for.
    assert_eq!(run("all", &table, &numbers[..columns], rows + 1), rows);
    let empty = packed(
        TableFormat::BF16,
        [rows, columns],
        &vec![0.0; rows * columns],
    );
    assert_eq!(run("empty", &empty, &numbers[..columns], 3), rows);
}

#[test]
fn extremes_of_x_and_of_the_table_lose_nothing() {
    let mut random = Random(4);
    let (rows, columns) = (513, 320);
    for (size, spike) in [
        (1e-38, 1.0),
        (1e-30, 1e4),
        (1.0, 1e30),
        (1e30, 1e4),
        (1e-3, 1e-44),
    ] {
        let mut numbers: Vec<f32> = (0..rows * columns).map(|_| size * random.float()).collect();
        // Rows of very different scales, one of zeros.
        for (row, numbers) in numbers.chunks_exact_mut(columns).enumerate() {
            let scale = [1.0, 1e-3, 0.0, 1e-6][row % 4];
            numbers.iter_mut().for_each(|w| *w *= scale);
        }
        let mut x: Vec<f32> = (0..2 * columns).map(|_| random.float()).collect();
        x[17] = spike;
        x[columns + 3] = -spike;
        for format in [TableFormat::F32, TableFormat::BF16] {
            let table = packed(format, [rows, columns], &numbers);
            for leading in [1, 5] {
                run(&format!("{size} by {spike}"), &table, &x, leading);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_shape_seed_or_number_of_leaders_loses_one(
        seed: u64,
        rows in 1usize..400,
        columns in 1usize..200,
        count in 1usize..4,
        leading in 1usize..50,
        format in 0usize..3,
    ) {
        let mut random = Random(seed);
        let numbers = random.floats(rows * columns);
        let x = random.floats(count * columns);
        run("random", &packed(FLOATS[format], [rows, columns], &numbers), &x, leading);
    }
}

fn on(device: &Device, x: &[f32], columns: usize) -> Tensor<2> {
    let data = TensorData::new(x.to_vec(), [x.len() / columns, columns]);
    Tensor::from_data(data, (device, DType::F32))
}

#[test]
fn every_device_gives_the_bits_of_its_own_product_with_and_without_autodiff() {
    let mut random = Random(5);
    let (rows, columns, leading) = (900, 256, 4);
    let numbers: Vec<f32> = (0..rows * columns).map(|_| bell(&mut random)).collect();
    let x: Vec<f32> = (0..5 * columns).map(|_| bell(&mut random)).collect();
    let table = packed(TableFormat::F16, [rows, columns], &numbers);
    let screen = PackedScreen::of(&table);
    for (name, plain) in devices() {
        for device in [plain.clone(), plain.autodiff()] {
            let table = TableTensor::from_packed(table.clone(), &device);
            let screen = ScreenTensor::from_packed(screen.clone(), &device);
            let x = on(&device, &x, columns);
            let found = leading_of(x.clone(), &table, &screen, leading).into_data();
            let expected = product_of(x, &table).into_data();
            let found: Vec<f32> = found.try_into_vec().expect("f32");
            let expected: Vec<f32> = expected.try_into_vec().expect("f32");
            check(name, &found, &expected, rows, leading);
        }
    }
}
