//! Attention over a cache: every kernel and device, every format, against the oracle; and what must hold exactly.
//!
//! Sums are in f32, so results are compared within a tolerance, [`close`]. On the CPU a query's output has the same bits
//! however it was asked for, which is compared with `==`.

#[path = "support/devices.rs"]
mod devices;
#[path = "support/random.rs"]
mod random;

use bitnet_kernels::attention::defaults;
use bitnet_kernels::cpu::{self, CacheSlices, Kernel};
use bitnet_kernels::{
    AttentionShape, AttentionSpec, CacheFormat, CacheTensor, cached_attention, reference,
};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use devices::devices;
use random::Random;

/// n_heads, n_kv_heads, head_dim.
const HEADS: &[(usize, usize, usize)] = &[
    (1, 1, 16),
    (4, 2, 24),
    (4, 1, 64),
    (5, 5, 5),
    (8, 2, 128),
    (3, 1, 130),
];

/// Capacity and, for each call, new positions and the starts of the batch.
type Calls = (usize, &'static [(usize, &'static [usize])]);

const CALLS: &[Calls] = &[
    (1, &[(1, &[0])]),
    (7, &[(4, &[0]), (1, &[4]), (2, &[5])]),
    // Right-padded: the shorter rows go on where their own tokens end.
    (20, &[(9, &[0, 0, 0]), (1, &[9, 4, 1]), (3, &[10, 5, 2])]),
    // Padding beyond the capacity is dropped.
    (6, &[(5, &[0, 0]), (4, &[2, 5])]),
    (300, &[(285, &[0, 0]), (1, &[285, 31]), (16, &[286, 32])]),
    (600, &[(500, &[0]), (40, &[500])]),
];

#[derive(Debug, Clone)]
struct Case {
    shape: AttentionShape,
    format: CacheFormat,
    starts: Vec<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn random(
        random: &mut Random,
        (n_heads, n_kv_heads, head_dim): (usize, usize, usize),
        format: CacheFormat,
        capacity: usize,
        seq: usize,
        starts: &[usize],
    ) -> Self {
        let shape = AttentionShape {
            batch: starts.len(),
            n_heads,
            n_kv_heads,
            seq,
            capacity,
            head_dim,
        };
        let rows = starts.len() * n_kv_heads * seq * head_dim;
        Self {
            shape,
            format,
            starts: starts.to_vec(),
            // Scores of a few units: a softmax that is neither flat nor one-hot.
            q: scaled(random.floats(starts.len() * n_heads * seq * head_dim), 4.0),
            k: random.floats(rows),
            v: random.floats(rows),
        }
    }

    fn spec(&self) -> AttentionSpec {
        AttentionSpec {
            format: self.format,
            scale: self.scale() as f32,
        }
    }

    fn scale(&self) -> f64 {
        (self.shape.head_dim as f64).powf(-0.5)
    }

    fn query_dims(&self) -> [usize; 4] {
        let shape = self.shape;
        [shape.batch, shape.n_heads, shape.seq, shape.head_dim]
    }

    fn row_dims(&self) -> [usize; 4] {
        let shape = self.shape;
        [shape.batch, shape.n_kv_heads, shape.seq, shape.head_dim]
    }
}

fn scaled(mut values: Vec<f32>, factor: f32) -> Vec<f32> {
    values.iter_mut().for_each(|value| *value *= factor);
    values
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), shape),
        (device, DType::F32),
    )
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

/// f32 sums in another order, and an exponential of a few units in the last place.
const CLOSE: f32 = 2e-5;

fn within(tolerance: f32, what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance,
            "{what}: element {i} is {f}, expected {e}"
        );
    }
}

/// A way to compute: keeps its own cache from call to call.
trait Attend {
    fn call(&mut self, case: &Case) -> Vec<f32>;
}

/// A CPU kernel on slices.
struct OnSlices {
    kernel: &'static dyn Kernel,
    cache: Option<[(Vec<u32>, Vec<f32>); 2]>,
}

impl OnSlices {
    fn new(kernel: &'static dyn Kernel) -> Self {
        Self {
            kernel,
            cache: None,
        }
    }
}

impl Attend for OnSlices {
    fn call(&mut self, case: &Case) -> Vec<f32> {
        let shape = case.shape;
        let [keys, values] = self.cache.get_or_insert_with(|| {
            let rows = shape.batch * shape.n_kv_heads * shape.capacity;
            let scales = if case.format.scaled() { rows } else { 1 };
            // Nothing may depend on what was never written.
            let garbage = vec![0x7fc0_7e7f; rows * case.format.words(shape.head_dim)];
            [(); 2].map(|()| (garbage.clone(), vec![f32::NAN; scales]))
        });
        let starts: Vec<i32> = case.starts.iter().map(|&start| start as i32).collect();
        let mut out = vec![f32::NAN; case.q.len()];
        let [q, k, v] = [
            (&case.q, shape.n_heads),
            (&case.k, shape.n_kv_heads),
            (&case.v, shape.n_kv_heads),
        ]
        .map(|(x, heads)| swapped(x, [heads, shape.seq], shape.head_dim));
        cpu::cached_attention(
            self.kernel,
            shape,
            case.spec(),
            &q,
            &k,
            &v,
            CacheSlices {
                keys: &mut keys.0,
                key_scales: &mut keys.1,
                values: &mut values.0,
                value_scales: &mut values.1,
            },
            &starts,
            &mut out,
        );
        swapped(&out, [shape.seq, shape.n_heads], shape.head_dim)
    }
}

/// `[batch, a, b, width]` to `[batch, b, a, width]`.
fn swapped(x: &[f32], [a, b]: [usize; 2], width: usize) -> Vec<f32> {
    let rows = (0..b).flat_map(|j| (0..a).map(move |i| i * b + j));
    let rows: Vec<usize> = rows.collect();
    x.chunks((a * b * width).max(1))
        .flat_map(|x| rows.iter().flat_map(move |row| &x[row * width..][..width]))
        .copied()
        .collect()
}

/// The operation on a device.
struct OnDevice {
    device: Device,
    cache: Option<CacheTensor>,
}

impl OnDevice {
    fn new(device: Device) -> Self {
        Self {
            device,
            cache: None,
        }
    }
}

impl Attend for OnDevice {
    fn call(&mut self, case: &Case) -> Vec<f32> {
        let (shape, device) = (case.shape, &self.device);
        let cache = self
            .cache
            .take()
            .unwrap_or_else(|| empty_cache(case, device));
        assert_eq!(
            (cache.format(), cache.batch(), cache.capacity()),
            (case.format, shape.batch, shape.capacity)
        );
        let (out, cache) = cached_attention(
            tensor(&case.q, case.query_dims(), device),
            tensor(&case.k, case.row_dims(), device),
            tensor(&case.v, case.row_dims(), device),
            cache,
            starts(case, device),
            case.scale(),
        );
        self.cache = Some(cache);
        values(out)
    }
}

/// The default body on a device.
struct DefaultBody {
    device: Device,
    cache: Option<[(Tensor<4, Int>, Tensor<3>); 2]>,
}

impl Attend for DefaultBody {
    fn call(&mut self, case: &Case) -> Vec<f32> {
        let (shape, device) = (case.shape, &self.device);
        let [keys, values_] = self.cache.take().unwrap_or_else(|| {
            let words = case.format.words(shape.head_dim);
            let rows = [shape.batch, shape.n_kv_heads, shape.capacity];
            let scales = if case.format.scaled() { rows } else { [1; 3] };
            [(); 2].map(|()| {
                (
                    Tensor::zeros([rows[0], rows[1], rows[2], words], (device, DType::U32)),
                    Tensor::zeros(scales, (device, DType::F32)),
                )
            })
        });
        let (out, key_words, key_scales, value_words, value_scales) =
            defaults::cached_attention::<Dispatch>(
                tensor(&case.q, case.query_dims(), device).into_dispatch(),
                tensor(&case.k, case.row_dims(), device).into_dispatch(),
                tensor(&case.v, case.row_dims(), device).into_dispatch(),
                keys.0.into_dispatch(),
                keys.1.into_dispatch(),
                values_.0.into_dispatch(),
                values_.1.into_dispatch(),
                starts(case, device).into_dispatch(),
                case.spec(),
            );
        self.cache = Some(
            [(key_words, key_scales), (value_words, value_scales)].map(|(words, scales)| {
                (Tensor::from_dispatch(words), Tensor::from_dispatch(scales))
            }),
        );
        values(Tensor::<4>::from_dispatch(out))
    }
}

fn empty_cache(case: &Case, device: &Device) -> CacheTensor {
    let shape = case.shape;
    CacheTensor::new(
        case.format,
        shape.batch,
        shape.n_kv_heads,
        shape.capacity,
        shape.head_dim,
        device,
    )
}

fn starts(case: &Case, device: &Device) -> Tensor<1, Int> {
    let starts: Vec<i32> = case.starts.iter().map(|&start| start as i32).collect();
    let count = starts.len();
    Tensor::from_data(TensorData::new(starts, [count]), (device, DType::I32))
}

/// The oracle, with its cache.
struct Oracle(Option<[Vec<f32>; 2]>);

impl Attend for Oracle {
    fn call(&mut self, case: &Case) -> Vec<f32> {
        let shape = case.shape;
        let [keys, values] = self.0.get_or_insert_with(|| {
            let len = shape.batch * shape.n_kv_heads * shape.capacity * shape.head_dim;
            [vec![0.0; len], vec![0.0; len]]
        });
        reference::cached_attention(
            shape,
            case.format,
            case.scale(),
            &case.q,
            &case.k,
            &case.v,
            keys,
            values,
            &case.starts,
        )
    }
}

/// Runs all cases.
fn compare(name: &str, tolerance: f32, new: impl Fn() -> Box<dyn Attend>) {
    for &heads in HEADS {
        for format in CacheFormat::ALL {
            for &calls in CALLS {
                compare_calls(name, tolerance, heads, format, calls, &mut *new());
            }
        }
    }
}

/// Runs a sequence of calls on a fresh cache.
fn compare_calls(
    name: &str,
    tolerance: f32,
    heads: (usize, usize, usize),
    format: CacheFormat,
    (capacity, calls): Calls,
    subject: &mut dyn Attend,
) {
    let (mut random, mut oracle) = (Random(1), Oracle(None));
    for &(seq, starts) in calls {
        let case = Case::random(&mut random, heads, format, capacity, seq, starts);
        within(
            tolerance,
            &format!("{name} {format} {:?} {starts:?}", case.shape),
            &subject.call(&case),
            &oracle.call(&case),
        );
    }
}

#[test]
fn every_cpu_kernel_equals_the_reference_and_reads_nothing_unwritten() {
    for kernel in cpu::kernels() {
        compare(kernel.name(), CLOSE, || Box::new(OnSlices::new(kernel)));
    }
}

#[test]
fn every_device_equals_the_reference() {
    for (name, device) in devices() {
        compare(name, CLOSE, || Box::new(OnDevice::new(device.clone())));
    }
}

#[test]
fn a_context_of_many_tiles_equals_the_reference_on_every_device() {
    const CALLS: Calls = (
        1500,
        &[(1300, &[0]), (1, &[1300]), (3, &[1301]), (70, &[1304])],
    );
    for (name, device) in devices() {
        for format in CacheFormat::ALL {
            let mut subject = OnDevice::new(device.clone());
            compare_calls(name, CLOSE, (5, 1, 80), format, CALLS, &mut subject);
        }
    }
}

#[test]
fn wide_heads_and_large_groups_equal_the_reference_on_every_device() {
    const CALLS: Calls = (150, &[(130, &[0, 0]), (1, &[130, 7]), (3, &[131, 8])]);
    for (name, device) in devices() {
        for format in CacheFormat::ALL {
            let mut subject = OnDevice::new(device.clone());
            compare_calls(name, CLOSE, (16, 1, 256), format, CALLS, &mut subject);
        }
    }
}

/// Numbers of all magnitudes that a format tells apart, ties between two of them, and some beyond its range.
fn hard_numbers(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| {
            let power = 2f32.powi((random.next() % 44) as i32 - 26);
            match i % 3 {
                0 => random.float() * power,
                // Eleven bits and a half: a tie in half precision.
                1 => (2049 + 2 * (random.next() % 1024)) as f32 / 2048.0 * power,
                _ => -((random.next() % 4096) as f32) * 2f32.powi(-25),
            }
        })
        .collect()
}

#[test]
fn every_device_stores_the_same_numbers_as_the_reference() {
    let mut random = Random(1);
    for head_dim in [5, 24] {
        for format in CacheFormat::ALL {
            let (capacity, seq) = (40, 33);
            let mut case = Case::random(
                &mut random,
                (2, 2, head_dim),
                format,
                capacity,
                seq,
                &[3, 0],
            );
            case.k = hard_numbers(&mut random, case.k.len());
            case.v = hard_numbers(&mut random, case.v.len());
            let mut oracle = Oracle(None);
            oracle.call(&case);
            let expected = oracle.0.expect("called");
            for (name, device) in devices() {
                let mut subject = OnDevice::new(device);
                subject.call(&case);
                let cache = subject.cache.expect("called");
                for row in 0..2 {
                    let (keys, values_) = cache.read(row, 0..capacity);
                    let rows = row * 2 * capacity * head_dim..(row + 1) * 2 * capacity * head_dim;
                    let what = format!("{name} {format} {head_dim} row {row}");
                    assert_eq!(values(keys), expected[0][rows.clone()], "keys, {what}");
                    assert_eq!(values(values_), expected[1][rows], "values, {what}");
                }
            }
        }
    }
}

#[test]
fn a_clone_of_a_cache_keeps_its_numbers_while_the_other_is_written_to() {
    let mut random = Random(1);
    for (name, device) in devices() {
        for format in CacheFormat::ALL {
            let first = Case::random(&mut random, (4, 2, 24), format, 9, 5, &[0]);
            let second = Case::random(&mut random, (4, 2, 24), format, 9, 3, &[4]);
            let mut subject = OnDevice::new(device.clone());
            subject.call(&first);
            let clone = subject.cache.clone().expect("called");
            let read = |cache: &CacheTensor| {
                let (keys, values_) = cache.read(0, 0..9);
                [values(keys), values(values_)]
            };
            let before = read(&clone);
            subject.call(&second);
            assert_eq!(read(&clone), before, "{name} {format}");
            let written = read(&subject.cache.expect("called"));
            assert!(written != before, "{name} {format}: nothing was written");
        }
    }
}

#[test]
fn the_default_body_equals_the_reference_on_every_device() {
    for (name, device) in devices() {
        // Burn's products on CUDA are of numbers of 10 bits (TF32).
        let tolerance = if name == "cuda" { 5e-3 } else { CLOSE };
        compare(name, tolerance, || {
            Box::new(DefaultBody {
                device: device.clone(),
                cache: None,
            })
        });
    }
}
