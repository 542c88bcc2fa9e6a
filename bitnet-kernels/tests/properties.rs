//! What holds for every layout in `LAYOUTS`, on matrices, scales and bytes that proptest makes up.
//!
//! A new layout is covered by its line in the list: its shapes are those of a table that it accepts, at least one.

use std::cell::Cell;

use bitnet_kernels::packing::tl::{Tiles, Tl1, Tl2};
use bitnet_kernels::packing::{LAYOUTS, Layout, words};
use bitnet_kernels::{Histogram, KernelError, PackedTernary, Scale};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

const D_OUT: [usize; 8] = [1, 2, 3, 4, 5, 8, 16, 32];
const D_IN: [usize; 12] = [1, 2, 3, 4, 31, 32, 64, 96, 128, 192, 256, 512];

/// Runs `property` on samples of `strategy`; panics with the smallest counterexample.
fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    };
    if let Err(error) = TestRunner::new(config).run(&strategy, property) {
        panic!("{error}");
    }
}

/// The shapes of the table that a layout accepts.
fn shapes(layout: &dyn Layout) -> Vec<(usize, usize)> {
    let all = D_OUT
        .into_iter()
        .flat_map(|d_out| D_IN.map(|d_in| (d_out, d_in)));
    let shapes: Vec<_> = all
        .filter(|&(d_out, d_in)| layout.byte_len(d_out, d_in).is_ok())
        .collect();
    assert!(
        !shapes.is_empty(),
        "{}: give the table a shape that it accepts",
        layout.name()
    );
    shapes
}

/// The layouts that can be written.
fn writable() -> impl Iterator<Item = &'static dyn Layout> {
    let writable = |layout: &&dyn Layout| {
        let (d_out, d_in) = shapes(*layout)[0];
        let packed = layout.pack(&vec![0; d_out * d_in], &Scale::Tensor(1.0), d_out, d_in);
        !matches!(packed, Err(KernelError::ReadOnly { .. }))
    };
    LAYOUTS.iter().copied().filter(writable)
}

/// Shapes with a matrix of trits, whose first part is zero.
fn matrices(shapes: Vec<(usize, usize)>) -> impl Strategy<Value = (usize, usize, Vec<i8>)> {
    select(shapes).prop_flat_map(|(d_out, d_in)| {
        let len = d_out * d_in;
        let blank = prop_oneof![Just(0), 0..=len, Just(len)];
        (vec(-1_i8..=1, len), blank).prop_map(move |(mut trits, blank)| {
            trits[..blank].fill(0);
            (d_out, d_in, trits)
        })
    })
}

/// Scales of each granularity, all exact in f16 and not 0.
fn scales(d_out: usize, d_in: usize) -> impl Strategy<Value = Scale> {
    let value = || {
        (1_i16..2048, any::<bool>())
            .prop_map(|(n, minus)| f32::from(if minus { -n } else { n }) / 256.0)
    };
    let groups = select(vec![32, 64, 128, 256]).prop_flat_map(move |size| {
        let values = vec(value(), d_out * d_in.div_ceil(size));
        values.prop_map(move |values| Scale::Group { size, values })
    });
    prop_oneof![
        value().prop_map(Scale::Tensor),
        vec(value(), d_out).prop_map(Scale::Row),
        value().prop_map(move |value| Scale::Row(vec![value; d_out])),
        groups,
    ]
}

/// Dimensions that a hostile file may claim.
fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![
        0_usize..600,
        (0_usize..64).prop_map(|n| 32 * n),
        any::<usize>()
    ]
}

/// Proves that what was read is a matrix that the rest of the crate accepts.
fn check_unpacked(
    layout: &dyn Layout,
    bytes: &[u8],
    d_out: usize,
    d_in: usize,
) -> Result<(), TestCaseError> {
    if let Ok(unpacked) = layout.unpack(bytes, d_out, d_in) {
        prop_assert_eq!(layout.byte_len(d_out, d_in), Ok(bytes.len()));
        let scale = unpacked.scale.unwrap_or(Scale::Tensor(1.0));
        let packed = PackedTernary::from_trits(&unpacked.trits, scale, d_out, d_in);
        prop_assert!(packed.is_ok(), "{:?}", packed);
    }
    Ok(())
}

#[test]
fn packing_then_unpacking_returns_every_trit_and_its_scale() {
    for layout in writable() {
        let written = Cell::new(0);
        let matrices = matrices(shapes(layout)).prop_flat_map(|(d_out, d_in, trits)| {
            (Just((d_out, d_in)), Just(trits), scales(d_out, d_in))
        });
        check(matrices, |((d_out, d_in), trits, scale)| {
            let bytes = match layout.pack(&trits, &scale, d_out, d_in) {
                // Only a scale per tensor has room everywhere.
                Err(KernelError::Granularity { .. }) if !matches!(scale, Scale::Tensor(_)) => {
                    return Ok(());
                }
                packed => packed.map_err(|error| TestCaseError::fail(error.to_string()))?,
            };
            prop_assert_eq!(layout.byte_len(d_out, d_in), Ok(bytes.len()));
            written.set(written.get() + 1);
            let unpacked = layout
                .unpack(&bytes, d_out, d_in)
                .expect("it was just packed");
            prop_assert_eq!(&unpacked.trits, &trits);
            // A zero weight has no scale; layouts with scale 0 for zero blocks need not return one.
            if let Some(read) = unpacked.scale {
                for at in (0..trits.len()).filter(|&at| trits[at] != 0) {
                    let (row, column) = (at / d_in, at % d_in);
                    prop_assert_eq!(read.at(row, column, d_in), scale.at(row, column, d_in));
                }
            }
            Ok(())
        });
        assert!(written.get() > 0, "{}: nothing was written", layout.name());
    }
}

#[test]
fn a_scale_comes_back_exactly_or_is_refused() {
    for layout in writable() {
        let (d_out, d_in) = shapes(layout)[0];
        let trits = vec![1; d_out * d_in];
        check(any::<u32>().prop_map(f32::from_bits), |value| {
            match layout.pack(&trits, &Scale::Tensor(value), d_out, d_in) {
                Err(KernelError::Scale { .. }) => {
                    let half = half::f16::from_f32(value).to_f32();
                    prop_assert!(half != value || half == 0.0 || half.is_infinite());
                }
                packed => {
                    let bytes = packed.expect("nothing but the scale can be wrong");
                    let unpacked = layout.unpack(&bytes, d_out, d_in).expect("just packed");
                    prop_assert!(
                        unpacked
                            .scale
                            .is_none_or(|read| read == Scale::Tensor(value))
                    );
                }
            }
            Ok(())
        });
    }
}

#[test]
fn truncated_and_extended_buffers_are_refused() {
    for layout in LAYOUTS {
        check(
            (select(shapes(*layout)), 1_usize..40),
            |((d_out, d_in), change)| {
                let len = layout
                    .byte_len(d_out, d_in)
                    .expect("the shape was chosen so");
                for found in [len.saturating_sub(change), len + change, 0] {
                    let refused = layout.unpack(&vec![0x55; found], d_out, d_in);
                    let is_length = matches!(refused, Err(KernelError::Length { expected, .. }) if expected == len);
                    prop_assert!(is_length, "{:?}", refused);
                }
                Ok(())
            },
        );
    }
}

#[test]
fn matrices_of_wrong_length_or_value_are_refused() {
    for layout in writable() {
        check(
            (matrices(shapes(layout)), any::<prop::sample::Index>()),
            |((d_out, d_in, mut trits), at)| {
                let scale = Scale::Tensor(1.0);
                let short = layout.pack(&trits[1..], &scale, d_out, d_in);
                prop_assert!(
                    matches!(short, Err(KernelError::Length { .. })),
                    "{:?}",
                    short
                );
                let at = at.index(trits.len());
                trits[at] = 2;
                let expected = KernelError::NotTernary {
                    row: at / d_in,
                    column: at % d_in,
                    value: 2,
                };
                prop_assert_eq!(layout.pack(&trits, &scale, d_out, d_in), Err(expected));
                Ok(())
            },
        );
    }
}

#[test]
fn random_bytes_never_panic() {
    for layout in LAYOUTS {
        let random = (select(shapes(*layout))).prop_flat_map(|(d_out, d_in)| {
            let len = layout
                .byte_len(d_out, d_in)
                .expect("the shape was chosen so");
            (Just((d_out, d_in)), vec(any::<u8>(), len))
        });
        check(random, |((d_out, d_in), bytes)| {
            check_unpacked(*layout, &bytes, d_out, d_in)
        });
        check(
            (dimension(), dimension(), vec(any::<u8>(), 0..300)),
            |(d_out, d_in, bytes)| check_unpacked(*layout, &bytes, d_out, d_in),
        );
    }
}

#[test]
fn random_tiles_never_panic() {
    let size = || {
        prop_oneof![
            0_usize..100,
            select(vec![16, 24, 32, 48, 64]),
            any::<usize>()
        ]
    };
    let tiles = (size(), size(), size()).prop_map(|(rows, columns, sub_rows)| {
        Some(Tiles {
            rows,
            columns,
            sub_rows,
        })
    });
    check((tiles, select(vec![64, 272, 288])), |(tiles, d_in)| {
        let layouts: [&dyn Layout; 2] = [&Tl1 { tiles }, &Tl2 { tiles }];
        for layout in layouts {
            let bytes = vec![0x44; layout.byte_len(64, d_in).unwrap_or(0)];
            check_unpacked(layout, &bytes, 64, d_in)?;
        }
        Ok(())
    });
}

#[test]
fn words_return_every_trit_and_know_their_histogram() {
    let shapes = D_OUT
        .into_iter()
        .flat_map(|d_out| D_IN.map(|d_in| (d_out, d_in)))
        .collect();
    check(matrices(shapes), |(d_out, d_in, trits)| {
        let packed = PackedTernary::from_trits(&trits, Scale::Tensor(1.0), d_out, d_in);
        let packed = packed.expect("the matrix is ternary");
        prop_assert_eq!(words::check(packed.words(), d_out, d_in), Ok(()));
        prop_assert_eq!(packed.words().len(), d_out * words::words_per_row(d_in));
        prop_assert_eq!(&packed.trits(), &trits);
        let count = |value| trits.iter().filter(|&&trit| trit == value).count();
        let expected = Histogram {
            minus: count(-1),
            zero: count(0),
            plus: count(1),
        };
        prop_assert_eq!(packed.histogram(), expected);
        Ok(())
    });
}

#[test]
fn every_layout_has_a_name_of_its_own() {
    let mut names: Vec<_> = LAYOUTS.iter().map(|layout| layout.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), LAYOUTS.len());
}
