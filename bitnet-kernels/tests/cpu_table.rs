//! Table products of every CPU kernel of this machine: against the oracle, and the same bits in any company.

#[path = "support/random.rs"]
mod random;
#[path = "support/tables.rs"]
mod tables;

use bitnet_kernels::cpu::{kernels, set_threads, table_linear, table_rows};
use bitnet_kernels::{TableFormat, reference};
use random::Random;
use tables::{close, table};

/// (count, rows, columns): every dimension meets 1, a block of 64 and its neighbours, and 1 to 17 rows of x.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (2, 3, 31),
    (3, 2, 33),
    (4, 5, 63),
    (5, 4, 64),
    (6, 7, 65),
    (7, 1, 127),
    (8, 9, 130),
    (9, 31, 192),
    (12, 6, 257),
    (16, 17, 320),
    (17, 33, 100),
    (1, 50, 2560),
    (2, 20, 4095),
];

#[test]
fn every_kernel_agrees_with_the_oracle_in_every_format() {
    let mut random = Random(1);
    for format in TableFormat::ALL {
        for &(count, rows, columns) in SHAPES {
            let table = table(&mut random, format, rows, columns);
            let x = random.floats(count * columns);
            let expected = reference::table_linear(&x, &table);
            for kernel in kernels() {
                let mut y = vec![f32::NAN; count * rows];
                table_linear(kernel, &x, &table.view(), &mut y);
                let what = format!("{}: {format}, {count}, {rows} x {columns}", kernel.name());
                close(1e-5, &what, &y, &expected);
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_in_any_batch_at_any_place_on_any_number_of_threads() {
    let mut random = Random(2);
    let (most, columns) = (17, 353);
    for format in TableFormat::ALL {
        // Enough work for several tasks, even with one row of x.
        let rows = 3000;
        let table = table(&mut random, format, rows, columns);
        let x = random.floats(most * columns);
        for kernel in kernels() {
            let product = |threads: usize, x: &[f32]| {
                set_threads(threads);
                let mut y = vec![f32::NAN; x.len() / columns * rows];
                table_linear(kernel, x, &table.view(), &mut y);
                set_threads(0);
                y
            };
            let alone: Vec<f32> = x
                .chunks_exact(columns)
                .flat_map(|x| product(1, x))
                .collect();
            for threads in [1, 3] {
                for count in [1, 2, 3, 4, 5, 6, 8, 9, 16, most] {
                    for start in [0, most - count] {
                        let y = product(threads, &x[start * columns..][..count * columns]);
                        assert!(
                            y == alone[start * rows..][..count * rows],
                            "{}: {format}, rows {start} to {}, {threads} threads",
                            kernel.name(),
                            start + count
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_those_of_the_oracle_on_any_number_of_threads() {
    let mut random = Random(3);
    for format in TableFormat::ALL {
        for columns in [1, 33, 64, 2560] {
            let table = table(&mut random, format, 37, columns);
            let ids: Vec<usize> = (0..900).map(|_| (random.next() % 37) as usize).collect();
            let expected = reference::table_rows(&ids, &table);
            let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
            for threads in [1, 3] {
                set_threads(threads);
                let mut found = vec![f32::NAN; ids.len() * columns];
                table_rows(&ids, &table.view(), &mut found);
                assert!(found == expected, "{format}, {columns} columns");
            }
        }
    }
    set_threads(0);
}

#[test]
fn nothing_is_no_work() {
    let table = table(&mut Random(4), TableFormat::Int8, 3, 70);
    for kernel in kernels() {
        table_linear(kernel, &[], &table.view(), &mut []);
    }
    table_rows(&[], &table.view(), &mut []);
}
