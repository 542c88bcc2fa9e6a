//! Conformance of the CPU kernels: every kernel that this machine can run, against the oracle in `reference`.
//!
//! Integer sums are exact and the epilogue keeps the oracle's order of operations, so both are compared bit for bit. Only
//! products with float activations have a tolerance, stated once, at [`assert_close`].

use bitnet_kernels::cpu::{
    Activations, Codes, Kernel, kernels, set_threads, ternary_linear, ternary_linear_dx,
    ternary_linear_float, ternary_sums,
};
use bitnet_kernels::packing::{base3, words};
use bitnet_kernels::{Granularity, Scale, reference};

/// Around the sizes of words, rows of words, vectors and spans.
const SIZES: &[usize] = &[1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 320];
/// Around the sizes of lines of base 3, and of five of them.
const WIDTHS: &[usize] = &[
    511, 512, 1024, 1030, 1279, 1280, 1281, 1536, 2559, 2561, 3840,
];
const ROWS: &[usize] = &[1, 2, 7, 8, 33];
const GRANULARITIES: &[Granularity] = &[
    Granularity::Tensor,
    Granularity::Row,
    Granularity::Group(32),
    Granularity::Group(64),
    Granularity::Group(96),
    Granularity::Group(128),
    Granularity::Group(256),
];
/// `[d_out, d_in]` of BitNet 2B4T, of the 3B model and of Llama3-8B-1.58.
const LAYERS: &[[usize; 2]] = &[
    [2560, 2560],
    [640, 2560],
    [6912, 2560],
    [2560, 6912],
    [3200, 3200],
    [8640, 3200],
    [3200, 8640],
    [4096, 4096],
    [1024, 4096],
    [14336, 4096],
    [4096, 14336],
];

#[test]
fn the_kernels_of_this_machine_are_reported() {
    let names: Vec<_> = kernels().iter().map(|kernel| kernel.name()).collect();
    eprintln!("kernels tested here: {}", names.join(", "));
    assert_eq!(names.last(), Some(&"scalar"));
}

#[test]
fn sums_equal_the_reference_for_all_small_shapes() {
    let mut random = Random(1);
    for &d_in in SIZES {
        for &d_out in SIZES {
            let trits = random.trits(d_out * d_in);
            let words = words::pack(&trits, d_out, d_in).unwrap();
            for &rows in ROWS {
                let q = random.int8(rows * d_in);
                let expected = reference::ternary_sums(&q, &trits, d_in);
                for kernel in kernels() {
                    let sums = sums(kernel, &q, &words, d_out, d_in);
                    assert_eq!(
                        sums,
                        expected,
                        "{} [{d_out}, {d_in}] rows {rows}",
                        kernel.name()
                    );
                }
            }
        }
    }
}

#[test]
fn sums_equal_the_reference_for_every_width_and_few_tokens() {
    let mut random = Random(9);
    for &d_in in WIDTHS {
        for d_out in [1, 4, 13] {
            let trits = random.trits(d_out * d_in);
            let words = words::pack(&trits, d_out, d_in).unwrap();
            for rows in (1..=9).chain([16, 40]) {
                let q = random.int8(rows * d_in);
                let expected = reference::ternary_sums(&q, &trits, d_in);
                for kernel in kernels() {
                    let sums = sums(kernel, &q, &words, d_out, d_in);
                    let name = kernel.name();
                    assert!(sums == expected, "{name} [{d_out}, {d_in}] rows {rows}");
                }
            }
        }
    }
}

#[test]
fn many_rows_equal_the_reference() {
    let (rows, d_out, d_in) = (512, 67, 320);
    let mut random = Random(2);
    let (trits, q) = (random.trits(d_out * d_in), random.int8(rows * d_in));
    let words = words::pack(&trits, d_out, d_in).unwrap();
    let expected = reference::ternary_sums(&q, &trits, d_in);
    for kernel in kernels() {
        assert_eq!(
            sums(kernel, &q, &words, d_out, d_in),
            expected,
            "{}",
            kernel.name()
        );
    }
}

/// Panels take tokens in equal parts of at most what fits their registers or tiles, of which any number may be left.
#[test]
fn sums_and_outputs_equal_the_reference_for_every_number_of_tokens() {
    let (d_out, d_in) = (67, 200);
    let mut random = Random(10);
    let trits = random.trits(d_out * d_in);
    let words = words::pack(&trits, d_out, d_in).unwrap();
    let scale = random.scale(Granularity::Group(96), d_out, d_in);
    for rows in 10..=100 {
        let (q, s) = (random.int8(rows * d_in), vec![2.0; rows]);
        let expected = reference::ternary_sums(&q, &trits, d_in);
        let scaled = bits(&reference::ternary_linear(&q, &s, &trits, &scale, d_in));
        for kernel in kernels() {
            let name = kernel.name();
            let sums = sums(kernel, &q, &words, d_out, d_in);
            assert!(sums == expected, "{name}, {rows} rows");
            let activations = Activations::from_int8(kernel, &q, &s, d_in);
            let y = linear(kernel, &activations, &words, d_out, &scale);
            assert!(bits(&y) == scaled, "{name}, {rows} rows in groups");
        }
    }
}

#[test]
fn slices_need_no_alignment() {
    let (rows, d_out, d_in) = (9, 13, 6 * 64 + 5);
    let mut random = Random(3);
    let (trits, q) = (random.trits(d_out * d_in), random.int8(1 + rows * d_in));
    let packed = [vec![0], words::pack(&trits, d_out, d_in).unwrap()].concat();
    let bytes = [vec![0], base3::pack(&packed[1..], d_out, d_in)].concat();
    let expected = reference::ternary_sums(&q[1..], &trits, d_in);
    for kernel in kernels() {
        let activations = Activations::from_int8(kernel, &q[1..], &[1.0; 9], d_in);
        for codes in [Codes::Words(&packed[1..]), Codes::Base3(&bytes[1..])] {
            let mut out = vec![0; 1 + rows * d_out];
            ternary_sums(kernel, &activations, codes, d_out, &mut out[1..]);
            assert_eq!(out[1..], expected, "{}", kernel.name());
        }
    }
}

#[test]
fn extreme_inputs_do_not_overflow() {
    let longest = (1 << 23) - 1;
    for (d_in, rows, d_out) in [
        (6912, 1, 5),
        (6912, 9, 5),
        (14336, 1, 5),
        (14336, 9, 5),
        (longest, 2, 1),
    ] {
        for trit in [-1, 0, 1] {
            let words = words::pack(&vec![trit; d_out * d_in], d_out, d_in).unwrap();
            for q in [i8::MIN, i8::MAX] {
                let expected = i32::from(q) * i32::from(trit) * d_in as i32;
                for kernel in kernels() {
                    let sums = sums(kernel, &vec![q; rows * d_in], &words, d_out, d_in);
                    assert!(
                        sums.iter().all(|&sum| sum == expected),
                        "{} {q} · {trit}, {d_in}",
                        kernel.name()
                    );
                }
            }
        }
    }
}

/// Products are cut into tiles, so that no kernel gets a whole long row; but each says that it may.
#[test]
fn the_longest_row_with_extreme_inputs_fits_one_call() {
    let longest = 1 << 23;
    let words = vec![0xaaaa_aaaa; longest / words::CODES_PER_WORD];
    // Three lines behind the last five: their fifth trits count for nothing.
    let bytes = vec![242; base3::bytes_per_row(longest)];
    for q in [i8::MIN, i8::MAX] {
        let (token, expected) = (vec![q; longest], 2 * i32::from(q) * longest as i32);
        for kernel in kernels() {
            for count in [1, kernel.tokens()] {
                let mut sums = vec![[0; 4]; count];
                kernel.add_sums([&words; 4], &vec![&token[..]; count], &mut sums);
                assert_eq!(sums, vec![[expected; 4]; count], "{} {q}", kernel.name());
                if let Some(kernel) = kernel.base3() {
                    let mut sums = vec![[0; 4]; count];
                    kernel.add_base3([&bytes; 4], &vec![&token[..]; count], &mut sums);
                    assert_eq!(sums, vec![[expected; 4]; count], "base 3 {q}");
                }
            }
        }
    }
}

#[test]
fn real_layers_equal_the_scalar_kernel() {
    let mut random = Random(4);
    let kernels = kernels();
    let (scalar, others) = kernels.split_last().unwrap();
    for &[d_out, d_in] in LAYERS {
        let words = random.words(d_out * words::words_per_row(d_in));
        for rows in [1, 7] {
            let q = random.int8(rows * d_in);
            let expected = sums(*scalar, &q, &words, d_out, d_in);
            for kernel in others {
                let sums = sums(*kernel, &q, &words, d_out, d_in);
                assert!(
                    sums == expected,
                    "{} [{d_out}, {d_in}] rows {rows}",
                    kernel.name()
                );
            }
        }
    }
}

#[test]
fn outputs_equal_the_reference_for_every_granularity() {
    let mut random = Random(5);
    for d_in in [1, 17, 64, 129, 320, 1000] {
        for d_out in [1, 6, 65] {
            for rows in [1, 7, 33] {
                let (trits, x) = (random.trits(d_out * d_in), random.floats(rows * d_in));
                let words = words::pack(&trits, d_out, d_in).unwrap();
                for limit in [127, 7] {
                    let (q, s) = reference::quantize(&x, d_in, limit);
                    for &granularity in GRANULARITIES {
                        let scale = random.scale(granularity, d_out, d_in);
                        let expected = reference::ternary_linear(&q, &s, &trits, &scale, d_in);
                        for kernel in kernels() {
                            let activations = Activations::quantize(kernel, &x, d_in, limit);
                            let y = linear(kernel, &activations, &words, d_out, &scale);
                            assert_eq!(
                                bits(&y),
                                bits(&expected),
                                "{} [{d_out}, {d_in}] {granularity}, up to {limit}",
                                kernel.name()
                            );
                            assert_eq!(bits(activations.scale()), bits(&s));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn damaged_rows_give_nan_and_leave_the_others_alone() {
    let (d_out, d_in) = (5, 70);
    let mut random = Random(6);
    let (trits, clean) = (random.trits(d_out * d_in), random.floats(4 * d_in));
    let words = words::pack(&trits, d_out, d_in).unwrap();
    let mut x = clean.clone();
    x[d_in + 3] = f32::NAN;
    x[3 * d_in - 1] = f32::NEG_INFINITY;
    for &granularity in GRANULARITIES {
        let scale = random.scale(granularity, d_out, d_in);
        for kernel in kernels() {
            let y = |x| {
                linear(
                    kernel,
                    &Activations::quantize(kernel, x, d_in, 127),
                    &words,
                    d_out,
                    &scale,
                )
            };
            let (damaged, clean) = (y(&x), y(&clean));
            assert!(
                damaged[d_out..3 * d_out].iter().all(|y| y.is_nan()),
                "{}",
                kernel.name()
            );
            for sound in [0..d_out, 3 * d_out..4 * d_out] {
                assert_eq!(bits(&damaged[sound.clone()]), bits(&clean[sound]));
            }
        }
    }
}

#[test]
fn float_products_are_close_to_the_reference() {
    let mut random = Random(7);
    for d_in in [1, 17, 64, 129, 600] {
        for d_out in [1, 6, 65, 130] {
            for rows in [1, 4, 5, 33] {
                let trits = random.trits(d_out * d_in);
                let words = words::pack(&trits, d_out, d_in).unwrap();
                let bytes = base3::pack(&words, d_out, d_in);
                let (x, dy) = (random.floats(rows * d_in), random.floats(rows * d_out));
                let packings = [Codes::Words(&words), Codes::Base3(&bytes)];
                let cases = GRANULARITIES
                    .iter()
                    .flat_map(|&granularity| packings.map(|codes| (granularity, codes)));
                for (granularity, codes) in cases {
                    let scale = random.scale(granularity, d_out, d_in);
                    let mut y = vec![0.0; rows * d_out];
                    ternary_linear_float(
                        &x,
                        codes,
                        d_out,
                        d_in,
                        granularity,
                        scale.values(),
                        &mut y,
                    );
                    let expected = reference::ternary_linear_float(&x, &trits, &scale, d_in);
                    assert_close(
                        &y,
                        &expected,
                        d_in,
                        &format!("y [{d_out}, {d_in}] {granularity} rows {rows}"),
                    );

                    let mut dx = vec![f32::NAN; rows * d_in];
                    ternary_linear_dx(
                        &dy,
                        codes,
                        d_out,
                        d_in,
                        granularity,
                        scale.values(),
                        &mut dx,
                    );
                    let expected = reference::ternary_linear_dx(&dy, &trits, &scale, d_in);
                    assert_close(
                        &dx,
                        &expected,
                        d_out,
                        &format!("dx [{d_out}, {d_in}] {granularity} rows {rows}"),
                    );
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (d_out, d_in) = (1031, 2560);
    let mut random = Random(8);
    let words = random.words(d_out * words::words_per_row(d_in));
    for rows in [1, 3, 40] {
        let (x, dy) = (random.floats(rows * d_in), random.floats(rows * d_out));
        for granularity in [Granularity::Tensor, Granularity::Group(128)] {
            let scale = random.scale(granularity, d_out, d_in);
            for kernel in kernels() {
                let run = |threads| {
                    set_threads(threads);
                    linear(
                        kernel,
                        &Activations::quantize(kernel, &x, d_in, 127),
                        &words,
                        d_out,
                        &scale,
                    )
                };
                let one = bits(&run(1));
                assert!(
                    [2, 3, 7]
                        .into_iter()
                        .all(|threads| bits(&run(threads)) == one),
                    "{}",
                    kernel.name()
                );
            }
            let run = |threads| {
                set_threads(threads);
                let (mut y, mut dx) = (vec![0.0; rows * d_out], vec![0.0; rows * d_in]);
                ternary_linear_float(
                    &x,
                    &words[..],
                    d_out,
                    d_in,
                    granularity,
                    scale.values(),
                    &mut y,
                );
                ternary_linear_dx(
                    &dy,
                    &words[..],
                    d_out,
                    d_in,
                    granularity,
                    scale.values(),
                    &mut dx,
                );
                (bits(&y), bits(&dx))
            };
            let one = run(1);
            assert!(
                [2, 3, 7].into_iter().all(|threads| run(threads) == one),
                "float, {rows} rows"
            );
        }
    }
    set_threads(0);
}

#[test]
fn no_rows_give_no_output() {
    for kernel in kernels() {
        let words = words::pack(&[1; 40], 4, 10).unwrap();
        for granularity in [Granularity::Tensor, Granularity::Group(32)] {
            let scale = vec![1.0; granularity.count(4, 10)];
            let activations = Activations::quantize(kernel, &[], 10, 127);
            ternary_linear(
                kernel,
                &activations,
                &words[..],
                4,
                granularity,
                &scale,
                &mut [],
            );
            ternary_linear_float(&[], &words[..], 4, 10, granularity, &scale, &mut []);
            ternary_linear_dx(&[], &words[..], 4, 10, granularity, &scale, &mut []);
        }
    }
}

/// The sums with words, which those with base 3 equal.
fn sums(kernel: &dyn Kernel, q: &[i8], words: &[u32], d_out: usize, d_in: usize) -> Vec<i32> {
    let rows = q.len() / d_in;
    let activations = Activations::from_int8(kernel, q, &vec![1.0; rows], d_in);
    let bytes = base3::pack(words, d_out, d_in);
    let [words, base3] = [Codes::Words(words), Codes::Base3(&bytes)].map(|codes| {
        let mut out = vec![i32::MIN; rows * d_out];
        ternary_sums(kernel, &activations, codes, d_out, &mut out);
        out
    });
    let name = kernel.name();
    assert!(words == base3, "{name} [{d_out}, {d_in}] rows {rows}");
    words
}

/// The outputs with words, which those with base 3 equal.
fn linear(
    kernel: &dyn Kernel,
    activations: &Activations,
    words: &[u32],
    d_out: usize,
    scale: &Scale,
) -> Vec<f32> {
    let bytes = base3::pack(words, d_out, activations.d_in());
    let (granularity, scale) = (scale.granularity(), scale.values());
    let [words, base3] = [Codes::Words(words), Codes::Base3(&bytes)].map(|codes| {
        let mut out = vec![0.0; activations.rows() * d_out];
        ternary_linear(
            kernel,
            activations,
            codes,
            d_out,
            granularity,
            scale,
            &mut out,
        );
        out
    });
    assert!(
        bits(&words) == bits(&base3),
        "{} {granularity}",
        kernel.name()
    );
    words
}

/// Inputs lie in -1..1 and scales below 2, so 2·depth bounds the sum of magnitudes; f32 sums of `depth` terms err by
/// √depth · 2⁻²⁴ of their size as a rule, and by far less than 1e-6 of that bound.
fn assert_close(found: &[f32], expected: &[f32], depth: usize, what: &str) {
    let tolerance = 1e-6 * 2.0 * depth as f32;
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}: {found} at {index}, expected {expected}"
        );
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// xorshift64*: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn trits(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| (self.next() % 3) as i8 - 1).collect()
    }

    fn int8(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.next() as i8).collect()
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| self.next() as i32 as f32 / i32::MAX as f32)
            .collect()
    }

    /// Random codes 0, 1, 2: a code 3 becomes 1.
    fn words(&mut self, len: usize) -> Vec<u32> {
        let word = |bits: u32| bits ^ ((bits & (bits >> 1) & words::ZERO_WORD) << 1);
        (0..len).map(|_| word(self.next())).collect()
    }

    fn scale(&mut self, granularity: Granularity, d_out: usize, d_in: usize) -> Scale {
        let values = self.floats(granularity.count(d_out, d_in));
        Scale::from_values(
            granularity,
            values.into_iter().map(|value| value + 1.0).collect(),
        )
    }
}
