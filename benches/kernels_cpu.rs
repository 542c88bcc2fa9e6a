//! CPU kernels at the layer shapes of 2B4T, beside the read bandwidth of this machine.
//!
//! `cargo bench -p bitnet-kernels --bench kernels_cpu [-- KERNEL.. | "KERNEL base3".. | float | table]`
//! Weights of a shape rotate over more than 256 MB, so decode reads them from memory as a model does. Each row is the
//! median of runs that alternate with plain reads of memory, so a busy moment strikes both. Each product is compared
//! with the scalar kernel's before it is timed. Quantization of the activations is included.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::time::Instant;

use bitnet_kernels::cpu::{
    Activations, Codes, Kernel, kernels, read_rate, set_threads, table_linear, ternary_linear,
    ternary_linear_dx, ternary_linear_float,
};
use bitnet_kernels::packing::base3::bytes_per_row;
use bitnet_kernels::packing::words::{ZERO_WORD, words_per_row};
use bitnet_kernels::{Granularity, PackedTable, TableFormat};

const ROTATION: usize = 288 << 20;
const SHAPES: &[[usize; 2]] = &[[2560, 2560], [13824, 2560], [2560, 6912], [640, 2560]];
/// The output head of 2B4T: larger than any cache, so one is read again and again.
const HEAD: [usize; 2] = [128_256, 2560];
const FEW: &[usize] = &[1, 4, 8];
const MANY: &[usize] = &[32, 512];

fn main() {
    // Cargo adds `--bench` to the arguments.
    let names = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with("--"));
    let names: Vec<String> = names.collect();
    let pool = random_words(ROTATION / 4);
    let bytes: Vec<u8> = pool.iter().flat_map(|word| numbers(*word)).collect();
    let group = Granularity::Group(128);
    let wanted = |what: &str| names.is_empty() || names.iter().any(|name| name == what);
    println!("kernel,d_out,d_in,scale,rows,threads,us,gmac_per_s,gb_per_s,read_gb_per_s");
    for threads in [1, 2] {
        set_threads(threads);
        let packings = [Codes::Words(&pool), Codes::Base3(&bytes)];
        let both = kernels().into_iter().flat_map(|kernel| {
            packings.map(|codes| Weights {
                kernel,
                codes,
                pool: &pool,
            })
        });
        for weights in both {
            if !wanted(&weights.name()) {
                continue;
            }
            for &[d_out, d_in] in SHAPES {
                for (granularity, rows) in FEW
                    .iter()
                    .map(|&rows| (Granularity::Tensor, rows))
                    .chain([(group, 1)])
                {
                    few(&weights, [d_out, d_in], granularity, rows, threads);
                }
                for (granularity, rows) in MANY
                    .iter()
                    .map(|&rows| (Granularity::Tensor, rows))
                    .chain([(group, 512)])
                {
                    many(&weights, [d_out, d_in], granularity, rows, threads);
                }
            }
        }
        if wanted("float") {
            for &[d_out, d_in] in SHAPES {
                for rows in [1, 8, 512] {
                    float(&pool, [d_out, d_in], rows, threads);
                }
            }
        }
    }
    if wanted("table") {
        for format in TableFormat::ALL {
            head(format);
        }
    }
}

/// What a kernel multiplies with.
struct Weights<'a> {
    kernel: &'static dyn Kernel,
    codes: Codes<'a>,
    pool: &'a [u32],
}

impl<'a> Weights<'a> {
    fn name(&self) -> String {
        match self.codes {
            Codes::Words(_) => self.kernel.name().to_owned(),
            Codes::Base3(_) => format!("{} base3", self.kernel.name()),
        }
    }

    /// Matrices of this shape, one after the other, and the bytes of each.
    fn matrices(&self, [d_out, d_in]: [usize; 2]) -> (Vec<Codes<'a>>, usize) {
        match self.codes {
            Codes::Words(words) => {
                let len = d_out * words_per_row(d_in);
                (words.chunks_exact(len).map(Codes::Words).collect(), 4 * len)
            }
            Codes::Base3(bytes) => {
                let len = d_out * bytes_per_row(d_in);
                (bytes.chunks_exact(len).map(Codes::Base3).collect(), len)
            }
        }
    }
}

/// The output head in each format, paired with a read of the same words.
fn head(format: TableFormat) {
    let [rows, columns] = HEAD;
    let mut state = 3;
    let table = PackedTable::from_rows(format, rows, columns, |_, row| {
        row.fill_with(|| random(&mut state) as i32 as f32 / i32::MAX as f32);
    });
    let table = table.expect("finite numbers");
    for threads in [1, 2] {
        set_threads(threads);
        for kernel in kernels() {
            for count in [1, 4, 16] {
                let x = random_floats(count * columns);
                let mut y = vec![0.0; count * rows];
                let (mut times, mut reads) = (Vec::new(), Vec::new());
                for _ in 0..7 {
                    times.push(seconds(|| {
                        table_linear(kernel, &x, &table.view(), &mut y);
                    }));
                    black_box(&y);
                    reads.push(read_rate(table.words(), threads) / 1e9);
                }
                report(
                    &format!("{} {format}", kernel.name()),
                    HEAD,
                    format.granularity(),
                    count,
                    threads,
                    median(times),
                    Some(table.bytes()),
                    Some(median(reads)),
                );
            }
        }
    }
}

/// Compares a kernel's outputs with those of the scalar kernel, bit for bit.
fn check(
    kernel: &dyn Kernel,
    x: &[f32],
    codes: Codes<'_>,
    [d_out, d_in]: [usize; 2],
    granularity: Granularity,
) {
    let scale = vec![1.0; granularity.count(d_out, d_in)];
    let all = kernels();
    let [found, expected] = [kernel, *all.last().expect("scalar")].map(|kernel| {
        let activations = Activations::quantize(kernel, x, d_in, 127);
        let mut out = vec![0.0; x.len() / d_in * d_out];
        ternary_linear(
            kernel,
            &activations,
            codes,
            d_out,
            granularity,
            &scale,
            &mut out,
        );
        out
    });
    assert!(
        found == expected,
        "{} is wrong at {d_out} x {d_in}",
        kernel.name()
    );
}

/// Decode: memory-bound, each product on other weights, paired with a read of the same bytes.
fn few(
    weights: &Weights<'_>,
    [d_out, d_in]: [usize; 2],
    granularity: Granularity,
    rows: usize,
    threads: usize,
) {
    let (kernel, pool) = (weights.kernel, weights.pool);
    let (matrices, bytes) = weights.matrices([d_out, d_in]);
    let x = random_floats(rows * d_in);
    let scale = vec![1.0; granularity.count(d_out, d_in)];
    let mut out = vec![0.0; rows * d_out];
    check(kernel, &x, matrices[0], [d_out, d_in], granularity);
    let (mut times, mut reads) = (Vec::new(), Vec::new());
    let parts = pool.chunks_exact(pool.len() / 8).cycle();
    let matrices = &matrices[..matrices.len().min(200)];
    for (matrices, part) in matrices.chunks(matrices.len().div_ceil(8)).zip(parts) {
        for &codes in matrices {
            times.push(seconds(|| {
                let activations = Activations::quantize(kernel, &x, d_in, 127);
                ternary_linear(
                    kernel,
                    &activations,
                    codes,
                    d_out,
                    granularity,
                    &scale,
                    &mut out,
                );
            }));
            black_box(&out);
        }
        reads.push(read_rate(part, threads) / 1e9);
    }
    report(
        &weights.name(),
        [d_out, d_in],
        granularity,
        rows,
        threads,
        median(times),
        Some(bytes),
        Some(median(reads)),
    );
}

/// Prefill: bound by arithmetic, quantization included.
fn many(
    weights: &Weights<'_>,
    [d_out, d_in]: [usize; 2],
    granularity: Granularity,
    rows: usize,
    threads: usize,
) {
    let (kernel, codes) = (weights.kernel, weights.matrices([d_out, d_in]).0[0]);
    let x = random_floats(rows * d_in);
    let scale = vec![1.0; granularity.count(d_out, d_in)];
    let mut out = vec![0.0; rows * d_out];
    check(kernel, &x[..9 * d_in], codes, [d_out, d_in], granularity);
    let repeats = if kernel.name() == "scalar" { 2 } else { 7 };
    let times = (0..repeats)
        .map(|_| {
            seconds(|| {
                let activations = Activations::quantize(kernel, &x, d_in, 127);
                ternary_linear(
                    kernel,
                    &activations,
                    codes,
                    d_out,
                    granularity,
                    &scale,
                    &mut out,
                );
            })
        })
        .collect();
    black_box(&out);
    report(
        &weights.name(),
        [d_out, d_in],
        granularity,
        rows,
        threads,
        median(times),
        None,
        None,
    );
}

fn float(pool: &[u32], [d_out, d_in]: [usize; 2], rows: usize, threads: usize) {
    let words = &pool[..d_out * words_per_row(d_in)];
    let (x, dy) = (random_floats(rows * d_in), random_floats(rows * d_out));
    let (mut y, mut dx) = (vec![0.0; rows * d_out], vec![0.0; rows * d_in]);
    let g = Granularity::Tensor;
    let forward = (0..5)
        .map(|_| seconds(|| ternary_linear_float(&x, words, d_out, d_in, g, &[1.0], &mut y)))
        .collect();
    let backward = (0..5)
        .map(|_| seconds(|| ternary_linear_dx(&dy, words, d_out, d_in, g, &[1.0], &mut dx)))
        .collect();
    report(
        "float y",
        [d_out, d_in],
        g,
        rows,
        threads,
        median(forward),
        None,
        None,
    );
    report(
        "float dx",
        [d_out, d_in],
        g,
        rows,
        threads,
        median(backward),
        None,
        None,
    );
}

#[allow(clippy::too_many_arguments)]
fn report(
    name: &str,
    [d_out, d_in]: [usize; 2],
    granularity: Granularity,
    rows: usize,
    threads: usize,
    time: f64,
    bytes: Option<usize>,
    read: Option<f64>,
) {
    let scale = match granularity {
        Granularity::Tensor => "tensor".to_owned(),
        Granularity::Row => "row".to_owned(),
        Granularity::Group(size) => format!("g{size}"),
    };
    let macs = (d_out * d_in * rows) as f64 / time / 1e9;
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
    println!(
        "{name},{d_out},{d_in},{scale},{rows},{threads},{:.1},{macs:.1},{},{}",
        time * 1e6,
        number(bytes.map(|bytes| bytes as f64 / time / 1e9)),
        number(read),
    );
}

fn seconds(body: impl FnOnce()) -> f64 {
    let start = Instant::now();
    body();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn random(state: &mut u64) -> u32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 32) as u32
}

fn random_words(len: usize) -> Vec<u32> {
    let mut state = 1;
    (0..len)
        .map(|_| random(&mut state))
        .map(|bits| bits ^ ((bits & (bits >> 1) & ZERO_WORD) << 1))
        .collect()
}

/// Base-3 bytes from random bits.
fn numbers(bits: u32) -> [u8; 4] {
    bits.to_le_bytes()
        .map(|byte| ((u16::from(byte) * 243) >> 8) as u8)
}

fn random_floats(len: usize) -> Vec<f32> {
    let mut state = 2;
    (0..len)
        .map(|_| random(&mut state) as i32 as f32 / i32::MAX as f32)
        .collect()
}
