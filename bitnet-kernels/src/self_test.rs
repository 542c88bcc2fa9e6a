//! Known answers for every kernel on this machine: what a user runs when numbers look wrong.
//!
//! The answers are computed by plain loops over trits, the inputs are fixed. Sums are compared with `==`.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use crate::packing::{base3, words};
use crate::{
    ActivationQuantizer, AttentionShape, AttentionSpec, CacheFormat, CacheTensor, Granularity,
    PackedTable, PackedTernary, Scale, TableFormat, TableTensor, TernaryTensor, cached_attention,
    cpu, reference, table_linear, ternary_linear,
};

/// What one kernel answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `cpu/` and the name of a CPU kernel, or a device.
    pub kernel: String,
    /// `None` if every answer was right, else the first that was wrong.
    pub failure: Option<String>,
}

/// (rows, d_out, d_in): one row, a few, many; tails in each dimension; a group of lines of base 3.
const CASES: &[(usize, usize, usize)] = &[(1, 33, 200), (5, 17, 130), (40, 70, 320), (2, 6, 1300)];

/// The quantizers of activations with their largest codes.
const QUANTIZERS: [(ActivationQuantizer, i8); 2] = [
    (ActivationQuantizer::Int8, 127),
    (ActivationQuantizer::Int4, 7),
];

/// (seq, start): one query behind many positions, and a chunk of a prompt.
const ATTENTION_CASES: &[(usize, usize)] = &[(1, 250), (40, 100)];

/// Runs the known answers on every CPU kernel that this machine has, and on `devices`. Each kernel appears once in the
/// result, in order; a wrong one is named with the first element that differs.
pub fn self_test(devices: &[Device]) -> Vec<Verdict> {
    let cpu = cpu::kernels().into_iter().map(|kernel| Verdict {
        kernel: format!("cpu/{}", kernel.name()),
        failure: CASES
            .iter()
            .find_map(|&case| on_kernel(case, kernel))
            .or_else(|| on_caches(|call| call.on_slices(kernel))),
    });
    let devices = devices.iter().map(|device| Verdict {
        kernel: format!("{device:?}"),
        failure: CASES
            .iter()
            .find_map(|&case| on_device(case, device))
            .or_else(|| on_caches(|call| call.on_device(device))),
    });
    cpu.chain(devices).collect()
}

fn on_kernel(case: (usize, usize, usize), kernel: &dyn cpu::Kernel) -> Option<String> {
    let (rows, d_out, d_in) = case;
    let products = QUANTIZERS.into_iter().find_map(|(quantizer, limit)| {
        let (x, trits, expected) = known_answer(case, limit);
        let words = words::pack_rows(&trits, d_in);
        let bytes = base3::pack(&words, d_out, d_in);
        let activations = cpu::Activations::quantize(kernel, &x, d_in, limit);
        let packings = [
            ("words", cpu::Codes::Words(&words)),
            ("base 3", cpu::Codes::Base3(&bytes)),
        ];
        packings.into_iter().find_map(|(packing, codes)| {
            let mut sums = vec![i32::MIN; rows * d_out];
            cpu::ternary_sums(kernel, &activations, codes, d_out, &mut sums);
            let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
            let failure = compare(case, &sums, &expected)?;
            Some(format!("{failure}, {quantizer:?}, {packing}"))
        })
    });
    products.or_else(|| {
        on_tables(case, |x, table| {
            let mut y = vec![f32::NAN; rows * d_out];
            cpu::table_linear(kernel, x, &table.view(), &mut y);
            Ok(y)
        })
    })
}

fn on_device(case: (usize, usize, usize), device: &Device) -> Option<String> {
    let (rows, d_out, d_in) = case;
    let granularities = [
        Granularity::Tensor,
        Granularity::Row,
        Granularity::Group(64),
    ];
    let mut all = granularities
        .into_iter()
        .flat_map(|granularity| QUANTIZERS.map(|quantizer| (granularity, quantizer)));
    let product = all.find_map(|(granularity, (quantizer, limit))| {
        let (x, trits, expected) = known_answer(case, limit);
        let ones = vec![1.0; granularity.count(d_out, d_in)];
        let scale = Scale::from_values(granularity, ones);
        let packed = PackedTernary::from_trits(&trits, scale, d_out, d_in).expect("known answers");
        let weight = TernaryTensor::from_packed(packed, device);
        let data = TensorData::new(x, [rows, d_in]);
        let x = Tensor::<2>::from_data(data, (device, DType::F32));
        let y = ternary_linear(x, &weight, quantizer).cast(FloatDType::F32);
        match y.into_data().try_to_vec::<f32>() {
            Ok(y) => compare(case, &y, &expected)
                .map(|failure| format!("{failure}, {granularity}, {quantizer:?}")),
            Err(error) => Some(format!("no answer: {error:?}")),
        }
    });
    product.or_else(|| {
        on_tables(case, |x, table| {
            let x = TensorData::new(x.to_vec(), [rows, d_in]);
            let x = Tensor::<2>::from_data(x, (device, DType::F32));
            let y = table_linear(x, &TableTensor::from_packed(table, device)).into_data();
            y.try_to_vec()
                .map_err(|error| format!("no answer: {error:?}"))
        })
    })
}

/// Products with a table in each format. Numbers are integers and scales 1, so that sums are exact in any order.
fn on_tables(
    case: (usize, usize, usize),
    product: impl Fn(&[f32], PackedTable) -> Result<Vec<f32>, String>,
) -> Option<String> {
    let (x, ..) = known_answer(case, 127);
    let (_, rows, columns) = case;
    TableFormat::ALL.into_iter().find_map(|format| {
        // The first number of a group or row is the extreme one, so that its scale is 1.
        let (extreme, span, range) = match format {
            TableFormat::Int4 => (-8.0, 32, 16),
            _ => (127.0, columns, 255),
        };
        let number = |i: usize| ((i * i + 3 * i) % range) as f32 - (range / 2) as f32;
        let table = PackedTable::from_rows(format, rows, columns, |row, numbers| {
            for (column, w) in numbers.iter_mut().enumerate() {
                let inner = number(row * columns + column);
                *w = if column % span == 0 { extreme } else { inner };
            }
        });
        let table = table.expect("known answers");
        let expected = reference::table_linear(&x, &table);
        match product(&x, table) {
            Ok(y) => compare(case, &y, &expected).map(|failure| format!("{failure}, {format}")),
            Err(error) => Some(error),
        }
    })
}

/// One call of cached attention on an empty cache.
struct AttentionCall {
    shape: AttentionShape,
    spec: AttentionSpec,
    start: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl AttentionCall {
    fn on_slices(&self, kernel: &dyn cpu::Kernel) -> Result<Vec<f32>, String> {
        let rows = self.shape.n_kv_heads * self.shape.capacity;
        let words = vec![0; rows * self.spec.format.words(self.shape.head_dim)];
        let scales = vec![0.0; rows];
        let (mut keys, mut key_scales) = (words.clone(), scales.clone());
        let (mut values, mut value_scales) = (words, scales);
        let cache = cpu::CacheSlices {
            keys: &mut keys,
            key_scales: &mut key_scales,
            values: &mut values,
            value_scales: &mut value_scales,
        };
        let mut out = vec![f32::NAN; self.q.len()];
        let (shape, starts) = (self.shape, [self.start as i32]);
        let [q, k, v] = [
            (&self.q, shape.n_heads),
            (&self.k, shape.n_kv_heads),
            (&self.v, shape.n_kv_heads),
        ]
        .map(|(x, heads)| swapped(x, [heads, shape.seq], shape.head_dim));
        cpu::cached_attention(
            kernel, shape, self.spec, &q, &k, &v, cache, &starts, &mut out,
        );
        Ok(swapped(&out, [shape.seq, shape.n_heads], shape.head_dim))
    }

    fn on_device(&self, device: &Device) -> Result<Vec<f32>, String> {
        let shape = self.shape;
        let tensor = |x: &[f32], heads| {
            let data = TensorData::new(x.to_vec(), [1, heads, shape.seq, shape.head_dim]);
            Tensor::<4>::from_data(data, (device, DType::F32))
        };
        let cache = CacheTensor::new(
            self.spec.format,
            1,
            shape.n_kv_heads,
            shape.capacity,
            shape.head_dim,
            device,
        );
        let start = TensorData::new(vec![self.start as i32], [1]);
        let (out, _) = cached_attention(
            tensor(&self.q, shape.n_heads),
            tensor(&self.k, shape.n_kv_heads),
            tensor(&self.v, shape.n_kv_heads),
            cache,
            Tensor::<1, Int>::from_data(start, (device, DType::I32)),
            f64::from(self.spec.scale),
        );
        let out = out.into_data().try_to_vec();
        out.map_err(|error| format!("no answer: {error:?}"))
    }
}

/// `[a, b, width]` to `[b, a, width]`.
fn swapped(x: &[f32], [a, b]: [usize; 2], width: usize) -> Vec<f32> {
    let rows = (0..b).flat_map(|j| (0..a).map(move |i| i * b + j));
    rows.flat_map(|row| &x[row * width..][..width])
        .copied()
        .collect()
}

/// Attention in each cache format. Each key is so much larger than those before it that a query has weight 1 for the
/// last position that it may see, its own, and 0 for all others: its answer is that value as it is stored.
fn on_caches(attend: impl Fn(&AttentionCall) -> Result<Vec<f32>, String>) -> Option<String> {
    let answer = |format, (seq, start)| {
        let shape = AttentionShape {
            batch: 1,
            n_heads: 4,
            n_kv_heads: 2,
            seq,
            capacity: 300,
            head_dim: 24,
        };
        let width = shape.head_dim;
        let new = shape.n_kv_heads * seq * width;
        // Integers with a maximum of 127, which every format holds.
        let v = |i: usize| ((i * i + 5 * i) % 255) as f32 - 127.0;
        let call = AttentionCall {
            shape,
            spec: AttentionSpec { format, scale: 1.0 },
            start,
            q: vec![8.0; shape.n_heads * seq * width],
            k: (0..new).map(|i| (i / width % seq + 1) as f32).collect(),
            v: (0..new)
                .map(|i| if i % width == 3 { 127.0 } else { v(i) })
                .collect(),
        };
        let scale = match format {
            CacheFormat::F32 | CacheFormat::F16 => 1.0,
            CacheFormat::Int8 => 127.0 * (1.0f32 / 127.0),
        };
        let heads = call.v.chunks_exact(seq * width);
        let expected: Vec<f32> = heads
            .flat_map(|head| [head; 2])
            .flatten()
            .map(|v| v * scale)
            .collect();
        let at = match attend(&call) {
            Ok(out) => {
                let at = out.iter().zip(&expected).position(|(o, e)| o != e)?;
                format!("element {at} is {}, expected {}", out[at], expected[at])
            }
            Err(error) => error,
        };
        Some(format!(
            "attention, {format}, {seq} queries from {start}: {at}"
        ))
    };
    let answer = &answer;
    CacheFormat::ALL
        .into_iter()
        .flat_map(|format| ATTENTION_CASES.iter().map(move |&case| (format, case)))
        .find_map(|(format, case)| answer(format, case))
}

/// Integer activations with a maximum of `limit`, so that their scale is 1 and outputs are the sums themselves.
fn known_answer(
    (rows, d_out, d_in): (usize, usize, usize),
    limit: i8,
) -> (Vec<f32>, Vec<i8>, Vec<f32>) {
    let most = limit as usize;
    let q = |i: usize| ((i * i + 7 * i) % (2 * most + 1)) as i32 - most as i32;
    let mut x: Vec<f32> = (0..rows * d_in).map(|i| q(i) as f32).collect();
    x.chunks_exact_mut(d_in)
        .for_each(|row| row[d_in / 2] = f32::from(limit));
    let trits: Vec<i8> = (0..d_out * d_in)
        .map(|i| ((i * i + i / 3) % 3) as i8 - 1)
        .collect();
    let (q, _) = reference::quantize(&x, d_in, limit);
    let sums = reference::ternary_sums(&q, &trits, d_in);
    (x, trits, sums.into_iter().map(|sum| sum as f32).collect())
}

fn compare(case: (usize, usize, usize), found: &[f32], expected: &[f32]) -> Option<String> {
    let (rows, d_out, d_in) = case;
    let at = found.iter().zip(expected).position(|(f, e)| f != e)?;
    let (found, expected) = (found[at], expected[at]);
    Some(format!(
        "{rows} rows, {d_out} x {d_in}: element {at} is {found}, expected {expected}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_this_machine_answers_right() {
        let verdicts = self_test(&[]);
        assert_eq!(verdicts.len(), cpu::kernels().len());
        assert!(
            verdicts.iter().all(|verdict| verdict.failure.is_none()),
            "{verdicts:?}"
        );
    }

    #[test]
    fn a_wrong_sum_is_named_with_its_place() {
        let failure = compare((1, 2, 3), &[1.0, 5.0], &[1.0, 4.0]).unwrap();
        assert_eq!(failure, "1 rows, 2 x 3: element 1 is 5, expected 4");
        assert_eq!(compare((1, 2, 3), &[1.0, 4.0], &[1.0, 4.0]), None);
    }
}
