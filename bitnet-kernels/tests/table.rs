//! The table over operation x format x device x shape, against the oracle; and what its formats promise.
//!
//! Rows are compared with `==`: a number is one product. Sums of floats have a tolerance relative to the largest output.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;
#[path = "support/tables.rs"]
mod tables;

use bitnet_kernels::{
    PackedTable, TableFormat, TableSpec, TableTensor, reference, table_defaults, table_linear,
    table_rows,
};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData};
use devices::devices;
use proptest::prelude::*;
use random::Random;
use tables::{close, table};

/// (count, rows, columns): one row and many, odd columns, whole groups and short ones, a real width.
const SHAPES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (2, 3, 7),
    (3, 17, 31),
    (4, 16, 32),
    (5, 33, 33),
    (1, 65, 64),
    (8, 9, 130),
    (9, 31, 256),
    (17, 40, 100),
    (1, 300, 2560),
    (2, 30, 2052),
];

fn floats<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (device, DType::F32))
}

fn ints(values: &[i32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (device, DType::I32))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.cast(FloatDType::F32).into_data();
    data.try_to_vec().expect("cast to f32")
}

/// On CUDA Burn's own products run in TF32, with ten bits of mantissa.
fn tolerance(device: &str) -> f32 {
    if device == "cuda" { 2e-3 } else { 1e-5 }
}

#[test]
fn products_agree_with_the_oracle_on_every_device() {
    let mut random = Random(1);
    for format in TableFormat::ALL {
        for &(count, rows, columns) in SHAPES {
            let packed = table(&mut random, format, rows, columns);
            let x = random.floats(count * columns);
            let expected = reference::table_linear(&x, &packed);
            for (name, device) in devices() {
                let table = TableTensor::from_packed(packed.clone(), &device);
                let y = table_linear(floats(&x, [count, columns], &device), &table);
                assert_eq!(y.dims(), [count, rows]);
                let what = format!("{name}: {format}, {count}, {rows} x {columns}");
                close(1e-5, &what, &values(y), &expected);
            }
        }
    }
}

#[test]
fn rows_equal_the_oracle_on_every_device() {
    let mut random = Random(2);
    for format in TableFormat::ALL {
        for &(count, rows, columns) in SHAPES {
            let packed = table(&mut random, format, rows, columns);
            let ids: Vec<usize> = (0..3 * count)
                .map(|_| (random.next() % rows as u64) as usize)
                .collect();
            let expected = reference::table_rows(&ids, &packed);
            let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
            for (name, device) in devices() {
                let table = TableTensor::from_packed(packed.clone(), &device);
                let found = table_rows(ints(&ids, [3, count], &device), &table);
                assert_eq!(
                    (found.dims(), found.dtype()),
                    ([3, count, columns], DType::F32)
                );
                assert!(
                    values(found) == expected,
                    "{name}: {format}, {rows} x {columns}"
                );
            }
        }
    }
}

#[test]
fn an_id_that_is_no_row_yields_nan_and_its_neighbours_do_not() {
    for format in TableFormat::ALL {
        let packed = table(&mut Random(3), format, 5, 40);
        let ids = [4, -1, 0, 5, 3, i32::MAX];
        for (name, device) in devices() {
            let table = TableTensor::from_packed(packed.clone(), &device);
            let ids = ints(&ids, [1, 6], &device);
            let (codes, scale) = table.clone().into_parts();
            let body = table_defaults::table_rows::<Dispatch>(
                ids.clone().into_dispatch(),
                codes.into_dispatch(),
                scale.into_dispatch(),
                TableSpec {
                    format,
                    columns: 40,
                },
            );
            for found in [table_rows(ids, &table), Tensor::from_dispatch(body)] {
                for (i, value) in values(found).into_iter().enumerate() {
                    assert_eq!(
                        value.is_nan(),
                        i / 40 % 2 == 1,
                        "{name}: {format}, {value} at {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn ids_of_any_integer_type_and_strided_ones_are_read() {
    let packed = table(&mut Random(4), TableFormat::Int8, 9, 20);
    for (name, device) in devices() {
        let table = TableTensor::from_packed(packed.clone(), &device);
        let ids = ints(&[1, 8, 3, 0, 5, 7], [2, 3], &device);
        let expected = values(table_rows(ids.clone(), &table));
        for dtype in [IntDType::I64, IntDType::U32, IntDType::U8] {
            if device.supports_dtype(dtype) {
                let found = table_rows(ids.clone().cast(dtype), &table);
                assert_eq!(values(found), expected, "{name}: {dtype:?}");
            }
        }
        let turned = ints(&[1, 0, 8, 5, 3, 7], [3, 2], &device).transpose();
        assert_eq!(values(table_rows(turned, &table)), expected, "{name}");
    }
}

#[test]
fn batches_of_any_rank_strided_inputs_and_half_precision_are_rows() {
    let mut random = Random(5);
    let (rows, columns) = (20, 70);
    for format in [TableFormat::BF16, TableFormat::Int4] {
        let packed = table(&mut random, format, rows, columns);
        let x = random.floats(30 * columns);
        for (name, device) in devices() {
            let table = TableTensor::from_packed(packed.clone(), &device);
            let flat = floats(&x, [30, columns], &device);
            let expected = values(table_linear(flat.clone(), &table));
            let deep = table_linear(floats(&x, [2, 3, 5, columns], &device), &table);
            assert_eq!(deep.dims(), [2, 3, 5, rows]);
            assert_eq!(values(deep), expected, "{name}");
            let part = table_linear(flat.clone().slice([7..12, 0..columns]), &table);
            close(1e-6, name, &values(part), &expected[7 * rows..12 * rows]);
            let turned = flat.clone().transpose().reshape([columns, 30]).transpose();
            assert_eq!(values(table_linear(turned, &table)), expected, "{name}");
            for dtype in [DType::F16, DType::BF16] {
                if device.supports_dtype(dtype) {
                    let y = table_linear(flat.clone().cast(FloatDType::from(dtype)), &table);
                    assert_eq!(y.dtype(), dtype);
                    close(0.02, name, &values(y), &expected);
                }
            }
        }
    }
}

#[test]
fn gradients_of_the_input_agree_with_the_oracle() {
    let mut random = Random(6);
    for format in TableFormat::ALL {
        for &(count, rows, columns) in SHAPES {
            let packed = table(&mut random, format, rows, columns);
            let (x, dy) = (random.floats(count * columns), random.floats(count * rows));
            let expected = reference::table_linear_dx(&dy, &packed);
            for (name, device) in devices() {
                let device = device.autodiff();
                let table = TableTensor::from_packed(packed.clone(), &device);
                let x = floats(&x, [count, columns], &device).require_grad();
                let dy = floats(&dy, [count, rows], &device);
                let loss = (table_linear(x.clone(), &table) * dy).sum();
                let dx = x.grad(&loss.backward()).expect("x is tracked");
                let what = format!("{name}: {format}, {count}, {rows} x {columns}");
                close(tolerance(name), &what, &values(dx), &expected);
            }
        }
    }
}

#[test]
fn rows_have_no_gradient_and_do_not_stand_in_its_way() {
    let packed = table(&mut Random(7), TableFormat::Int4, 6, 40);
    for (name, device) in devices() {
        let device = device.autodiff();
        let table = TableTensor::from_packed(packed.clone(), &device);
        let rows = table_rows(ints(&[5, 2], [1, 2], &device), &table);
        let gain = floats(&[2.0], [1, 1, 1], &device).require_grad();
        let grads = (rows.clone() * gain.clone()).sum().backward();
        let found = values(gain.grad(&grads).expect("tracked"))[0];
        let expected = values(rows.sum())[0];
        assert!(
            (found - expected).abs() <= 1e-4,
            "{name}: {found}, {expected}"
        );
    }
}

/// The bodies that a backend without kernels inherits, run on each device's own Burn primitives. The last shape takes
/// several blocks.
#[test]
fn default_bodies_agree_with_the_oracle() {
    let mut random = Random(8);
    for format in TableFormat::ALL {
        for &(count, rows, columns) in SHAPES.iter().chain(&[(2, 530, 2050)]) {
            let packed = table(&mut random, format, rows, columns);
            let (x, dy) = (random.floats(count * columns), random.floats(count * rows));
            let spec = TableSpec { format, columns };
            let ids: Vec<usize> = (0..count).map(|id| id * 7 % rows).collect();
            let expected = (
                reference::table_linear(&x, &packed),
                reference::table_linear_dx(&dy, &packed),
                reference::table_rows(&ids, &packed),
            );
            let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
            for (name, device) in devices() {
                let what = format!("{name}: {format}, {count}, {rows} x {columns}");
                let table = TableTensor::from_packed(packed.clone(), &device);
                let (codes, scale) = table.into_parts();
                let (codes, scale) = (codes.into_dispatch(), scale.into_dispatch());
                let x = floats(&x, [count, columns], &device).into_dispatch();
                let y =
                    table_defaults::table_linear::<Dispatch>(x, codes.clone(), scale.clone(), spec);
                let y = values(Tensor::<2>::from_dispatch(y));
                close(tolerance(name), &what, &y, &expected.0);
                let dy = floats(&dy, [count, rows], &device).into_dispatch();
                let dx = table_defaults::table_linear_dx::<Dispatch>(
                    dy,
                    codes.clone(),
                    scale.clone(),
                    spec,
                );
                let dx = values(Tensor::<2>::from_dispatch(dx));
                close(tolerance(name), &what, &dx, &expected.1);
                let ids = ints(&ids, [1, count], &device).into_dispatch();
                let found = table_defaults::table_rows::<Dispatch>(ids, codes, scale, spec);
                assert!(
                    values(Tensor::<3>::from_dispatch(found)) == expected.2,
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn a_table_comes_back_from_a_device_as_it_was() {
    let mut random = Random(9);
    for format in TableFormat::ALL {
        let packed = table(&mut random, format, 7, 45);
        for (name, device) in devices() {
            let tensor = TableTensor::from_packed(packed.clone(), &device);
            assert_eq!(tensor.bytes(), packed.bytes());
            assert_eq!(tensor.to_packed().as_ref(), Ok(&packed), "{name}: {format}");
            let dense = values(tensor.dequantize());
            for (row, dense) in dense.chunks_exact(45).enumerate() {
                let mut expected = [0.0; 45];
                packed.dequantize_row(row, &mut expected);
                assert!(dense == expected, "{name}: {format}, row {row}");
            }
            let (codes, scale) = tensor.into_parts();
            assert!(TableTensor::from_parts(codes.clone(), scale.clone(), format, 45).is_ok());
            assert!(TableTensor::from_parts(codes, scale, format, 450).is_err());
        }
    }
}

/// Nearest of the format's numbers, and for int4 no worse than the plain scale.
fn round_trip(format: TableFormat, columns: usize, numbers: &[f32]) {
    let rows = numbers.len() / columns;
    let packed = PackedTable::from_rows(format, rows, columns, |row, out| {
        out.copy_from_slice(&numbers[row * columns..][..columns]);
    })
    .expect("in range");
    let words = rows * format.words_per_row(columns) + format.scales(rows, columns);
    assert_eq!(packed.bytes(), 4 * words);
    let mut found = vec![0.0; columns];
    for (row, numbers) in numbers.chunks_exact(columns).enumerate() {
        packed.dequantize_row(row, &mut found);
        let errors: Vec<f64> = numbers
            .iter()
            .zip(&found)
            .map(|(&w, &f)| (f64::from(w) - f64::from(f)).abs())
            .collect();
        match format {
            TableFormat::F32 => assert_eq!(found, numbers),
            TableFormat::F16 | TableFormat::BF16 => {
                let (relative, least) = if format == TableFormat::F16 {
                    (2f64.powi(-11), 2f64.powi(-25))
                } else {
                    (2f64.powi(-8), 2f64.powi(-134))
                };
                for (error, &w) in errors.iter().zip(numbers) {
                    assert!(*error <= (relative * f64::from(w.abs())).max(least), "{w}");
                }
            }
            TableFormat::Int8 => {
                let largest = numbers.iter().fold(0f32, |m, w| m.max(w.abs()));
                // Half a step, and what f32 rounds of the quotient and of the product.
                let bound = f64::from(largest) / 254.0 * (1.0 + 1e-4);
                assert!(errors.iter().all(|&error| error <= bound), "{errors:?}");
            }
            TableFormat::Int4 => {
                for (group, errors) in numbers.chunks(32).zip(errors.chunks(32)) {
                    let extreme = group
                        .iter()
                        .fold(0f32, |m, &w| if w.abs() > m.abs() { w } else { m });
                    let s = f64::from(extreme) / -8.0;
                    let plain = |w: f32| {
                        (f64::from(w) - s * (f64::from(w) / s).round().clamp(-8.0, 7.0)).powi(2)
                    };
                    let plain: f64 = group
                        .iter()
                        .map(|&w| if s == 0.0 { 0.0 } else { plain(w) })
                        .sum();
                    let ours: f64 = errors.iter().map(|error| error * error).sum();
                    // Ours is computed in f32: numbers that are nearly multiples of the scale have little else for an error.
                    let rounding = 1e-6 * f64::from(extreme.abs());
                    let bound = plain.sqrt() * (1.0 + 1e-4) + rounding;
                    assert!(ours.sqrt() <= bound, "{ours} above {plain}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_number_comes_back_as_the_nearest_of_its_format(
        (columns, numbers) in (1usize..80, 1usize..4, -10i32..4).prop_flat_map(|(columns, rows, power)| {
            let scale = 10f32.powi(power);
            let numbers = prop::collection::vec((-1f32..1.0).prop_map(move |w| w * scale), rows * columns);
            (Just(columns), numbers)
        }),
    ) {
        for format in TableFormat::ALL {
            round_trip(format, columns, &numbers);
        }
    }
}

#[test]
fn bits_per_number_are_those_of_codes_and_scales() {
    let bits =
        TableFormat::ALL.map(|format| table(&mut Random(10), format, 64, 2560).bits_per_number());
    for (bits, expected) in bits.into_iter().zip([32.0, 16.0, 16.0, 8.0, 5.0]) {
        assert!(
            (bits - expected).abs() < 0.02,
            "{bits}, expected about {expected}"
        );
    }
}
