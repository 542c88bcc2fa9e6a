//! The oracle: plain loops over trits, slow and obviously right. Called by tests and benches only.
//!
//! Each function is a formula of the papers (arXiv 2402.17764, section 2) with its sums written out. Integer sums are in
//! i32 and exact; float sums are taken in f64 and rounded once, so what they disagree with is the other side's rounding.

use half::f16;

use crate::{AttentionShape, CacheFormat, PackedTable, Scale, TableFormat};

/// s = limit / max(max|x|, 1e-5), q = clamp(round(x·s), -limit - 1, limit), ties to even; the limit is 127 or 7.
///
/// A row that holds NaN gets q = 0 and s = NaN; one that holds infinity, but no NaN, gets q = 0 and s = 0.
pub fn quantize_row(x: &[f32], limit: i8) -> (Vec<i8>, f32) {
    if x.iter().any(|value| value.is_nan()) {
        return (vec![0; x.len()], f32::NAN);
    }
    if x.iter().any(|value| value.is_infinite()) {
        return (vec![0; x.len()], 0.0);
    }
    let amax = x.iter().fold(0.0f32, |amax, value| amax.max(value.abs()));
    let limit = f32::from(limit);
    let s = limit / amax.max(1e-5);
    (
        x.iter()
            .map(|value| (value * s).round_ties_even().clamp(-limit - 1.0, limit) as i8)
            .collect(),
        s,
    )
}

/// Rows of [`quantize_row`], one after the other: q `[rows, d_in]` and s `[rows]`.
pub fn quantize(x: &[f32], d_in: usize, limit: i8) -> (Vec<i8>, Vec<f32>) {
    let rows = x.chunks_exact(d_in);
    let (q, s): (Vec<_>, Vec<_>) = rows.map(|row| quantize_row(row, limit)).unzip();
    (q.concat(), s)
}

/// Σₖ q\[t, k\] · T\[n, k\].
///
/// # Shapes
///
/// - q: `[rows, d_in]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_sums(q: &[i8], trits: &[i8], d_in: usize) -> Vec<i32> {
    let mut sums = Vec::new();
    for q in q.chunks_exact(d_in) {
        for trits in trits.chunks_exact(d_in) {
            sums.push(
                q.iter()
                    .zip(trits)
                    .map(|(&q, &trit)| i32::from(q) * i32::from(trit))
                    .sum(),
            );
        }
    }
    sums
}

/// y = Σₖ q·T / s · w, or with group scales y = (Σ over groups, ascending, of acc_g · w_g) / s.
///
/// # Shapes
///
/// - q: `[rows, d_in]`
/// - s: `[rows]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_linear(q: &[i8], s: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for (q, s) in q.chunks_exact(d_in).zip(s) {
        for (n, trits) in trits.chunks_exact(d_in).enumerate() {
            y.push(match scale {
                Scale::Tensor(_) | Scale::Row(_) => {
                    ternary_sums(q, trits, d_in)[0] as f32 / s * scale.at(n, 0, d_in)
                }
                Scale::Group { size, .. } => {
                    let mut total = 0.0;
                    for start in (0..d_in).step_by(*size) {
                        let group = start..(start + size).min(d_in);
                        let sum =
                            ternary_sums(&q[group.clone()], &trits[group.clone()], group.len())[0];
                        total += sum as f32 * scale.at(n, start, d_in);
                    }
                    total / s
                }
            });
        }
    }
    y
}

/// y = x · W̃ᵀ with W̃ = scale · T and float activations.
///
/// # Shapes
///
/// - x: `[rows, d_in]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_out]`
pub fn ternary_linear_float(x: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for x in x.chunks_exact(d_in) {
        for (n, trits) in trits.chunks_exact(d_in).enumerate() {
            let mut sum = 0.0;
            for k in 0..d_in {
                sum += f64::from(x[k]) * f64::from(scale.at(n, k, d_in) * f32::from(trits[k]));
            }
            y.push(sum as f32);
        }
    }
    y
}

/// dx = dy · W̃ with W̃ = scale · T: the gradient of the input.
///
/// # Shapes
///
/// - dy: `[rows, d_out]`
/// - trits: `[d_out, d_in]`
/// - result: `[rows, d_in]`
pub fn ternary_linear_dx(dy: &[f32], trits: &[i8], scale: &Scale, d_in: usize) -> Vec<f32> {
    let d_out = trits.len() / d_in;
    let mut dx = Vec::new();
    for dy in dy.chunks_exact(d_out) {
        for k in 0..d_in {
            let mut sum = 0.0;
            for n in 0..d_out {
                sum += f64::from(dy[n])
                    * f64::from(scale.at(n, k, d_in) * f32::from(trits[n * d_in + k]));
            }
            dx.push(sum as f32);
        }
    }
    dx
}

/// W\[row, column\] of a table, from the fields of its bits. Exact.
pub fn table_number(table: &PackedTable, row: usize, column: usize) -> f64 {
    let format = table.format();
    let per_word = format.numbers_per_word();
    let bits = 32 / per_word;
    let at = row * table.columns().div_ceil(per_word) + column / per_word;
    let code = i64::from(table.words()[at]) >> (column % per_word * bits) & ((1 << bits) - 1);
    let float = |exponent: i32, mantissa: i32| {
        let sign = if code >> (exponent + mantissa) == 0 {
            1.0
        } else {
            -1.0
        };
        let (e, m) = (
            code >> mantissa & ((1 << exponent) - 1),
            code & ((1 << mantissa) - 1),
        );
        let implicit = if e == 0 { 0.0 } else { 1.0 };
        let fraction = m as f64 / 2f64.powi(mantissa) + implicit;
        sign * fraction * 2f64.powi(e.max(1) as i32 + 1 - (1 << (exponent - 1)))
    };
    let signed = || {
        (if code >> (bits - 1) == 0 {
            code
        } else {
            code - (1 << bits)
        }) as f64
    };
    let (number, scale) = match format {
        TableFormat::F32 => (float(8, 23), 0),
        TableFormat::F16 => (float(5, 10), 0),
        TableFormat::BF16 => (float(8, 7), 0),
        TableFormat::Int8 => (signed(), row),
        TableFormat::Int4 => (signed(), row * table.columns().div_ceil(32) + column / 32),
    };
    number * f64::from(table.scale()[scale])
}

/// Rows of a table.
///
/// # Shapes
///
/// - result: `[ids, columns]`
pub fn table_rows(ids: &[usize], table: &PackedTable) -> Vec<f32> {
    let row = |&id: &usize| (0..table.columns()).map(move |k| table_number(table, id, k) as f32);
    ids.iter().flat_map(row).collect()
}

/// y = x · Wᵀ.
///
/// # Shapes
///
/// - x: `[count, columns]`
/// - result: `[count, rows]`
pub fn table_linear(x: &[f32], table: &PackedTable) -> Vec<f32> {
    let mut y = Vec::new();
    for x in x.chunks_exact(table.columns()) {
        for n in 0..table.rows() {
            let terms = x.iter().enumerate();
            let sum: f64 = terms
                .map(|(k, &x)| f64::from(x) * table_number(table, n, k))
                .sum();
            y.push(sum as f32);
        }
    }
    y
}

/// dx = dy · W: the gradient of the input.
///
/// # Shapes
///
/// - dy: `[count, rows]`
/// - result: `[count, columns]`
pub fn table_linear_dx(dy: &[f32], table: &PackedTable) -> Vec<f32> {
    let mut dx = Vec::new();
    for dy in dy.chunks_exact(table.rows()) {
        for k in 0..table.columns() {
            let terms = dy.iter().enumerate();
            let sum: f64 = terms
                .map(|(n, &dy)| f64::from(dy) * table_number(table, n, k))
                .sum();
            dx.push(sum as f32);
        }
    }
    dx
}

/// What a cache of this format returns for a row.
pub fn stored(format: CacheFormat, row: &[f32]) -> Vec<f32> {
    match format {
        CacheFormat::F32 => row.to_vec(),
        CacheFormat::F16 => row
            .iter()
            .map(|x| f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32())
            .collect(),
        CacheFormat::Int8 => {
            let amax = row.iter().fold(1e-5f32, |amax, x| amax.max(x.abs()));
            row.iter()
                .map(|x| (x * (127.0 / amax)).round_ties_even() * (amax * (1.0 / 127.0)))
                .collect()
        }
    }
}

/// Writes k and v at `starts` into the cache of stored numbers, then o = Σ softmax(scale · q·K) · V over the positions up
/// to min(start + i, capacity - 1), the sums in f64.
///
/// # Shapes
///
/// - q, result: `[batch, n_heads, seq, head_dim]`
/// - k, v: `[batch, n_kv_heads, seq, head_dim]`
/// - keys, values: `[batch, n_kv_heads, capacity, head_dim]`
/// - starts: `[batch]`
#[allow(clippy::too_many_arguments, reason = "one operand each")]
pub fn cached_attention(
    shape: AttentionShape,
    format: CacheFormat,
    scale: f64,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    keys: &mut [f32],
    values: &mut [f32],
    starts: &[usize],
) -> Vec<f32> {
    let (seq, capacity, head_dim) = (shape.seq, shape.capacity, shape.head_dim);
    for (new, cache) in [(k, &mut *keys), (v, &mut *values)] {
        for (index, row) in new.chunks_exact(head_dim).enumerate() {
            let (head, i) = (index / seq, index % seq);
            let position = starts[head / shape.n_kv_heads] + i;
            if position < capacity {
                let at = (head * capacity + position) * head_dim;
                cache[at..at + head_dim].copy_from_slice(&stored(format, row));
            }
        }
    }
    let mut out = Vec::new();
    for (index, q) in q.chunks_exact(head_dim).enumerate() {
        let (row, head, i) = (
            index / (shape.n_heads * seq),
            index / seq % shape.n_heads,
            index % seq,
        );
        let head = row * shape.n_kv_heads + head / (shape.n_heads / shape.n_kv_heads);
        let visible = (starts[row] + i + 1).min(capacity);
        let cached = |cache: &[f32], p: usize, d: usize| {
            f64::from(cache[(head * capacity + p) * head_dim + d])
        };
        let scores: Vec<f64> = (0..visible)
            .map(|p| {
                let product: f64 = (0..head_dim)
                    .map(|d| f64::from(q[d]) * cached(keys, p, d))
                    .sum();
                scale * product
            })
            .collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|d| {
            let value: f64 = (0..visible)
                .map(|p| weights[p] * cached(values, p, d))
                .sum();
            (value / sum) as f32
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_computed_by_hand() {
        let (q, s) = quantize(&[1.27, -0.64, 0.0, 0.015], 4, 127);
        assert_eq!(
            (q.as_slice(), s[0]),
            ([127, -64, 0, 2].as_slice(), 127.0 / 1.27)
        );
        let trits = [1, 1, 1, 1, -1, 0, 1, -1];
        assert_eq!(ternary_sums(&q, &trits, 4), [65, -129]);
        let y = ternary_linear(&q, &[2.0], &trits, &Scale::Row(vec![3.0, 0.5]), 4);
        assert_eq!(y, [97.5, -32.25]);
        let groups = Scale::Group {
            size: 2,
            values: vec![1.0, 10.0, 0.5, 2.0],
        };
        assert_eq!(
            ternary_linear(&q, &[2.0], &trits, &groups, 4),
            [(63.0 + 20.0) / 2.0, (-63.5 - 4.0) / 2.0]
        );
        assert_eq!(
            ternary_linear_float(&[1.0, 2.0, 3.0, 4.0], &trits, &Scale::Tensor(0.5), 4),
            [5.0, -1.0]
        );
        assert_eq!(
            ternary_linear_dx(&[1.0, 2.0], &trits, &Scale::Tensor(0.5), 4),
            [-0.5, 0.5, 1.5, -0.5]
        );
    }

    #[test]
    fn ties_go_to_even_and_damaged_rows_are_marked() {
        for limit in [127, 7] {
            let most = f32::from(limit);
            assert_eq!(
                quantize_row(&[most, 0.5, 1.5, -2.5, -most], limit),
                (vec![limit, 0, 2, -2, -limit], 1.0)
            );
            let (q, s) = quantize_row(&[0.0, 0.0], limit);
            assert_eq!((q, s), (vec![0, 0], most / 1e-5));
            let (q, s) = quantize_row(&[1.0, f32::NEG_INFINITY], limit);
            assert_eq!((q, s), (vec![0, 0], 0.0));
            let (q, s) = quantize_row(&[f32::INFINITY, f32::NAN], limit);
            assert!(q == [0, 0] && s.is_nan());
        }
        assert!(ternary_linear(&[0], &[0.0], &[1], &Scale::Tensor(1.0), 1)[0].is_nan());
    }

    #[test]
    fn a_table_computed_by_hand() {
        let table = |format, words: &[u32], scale: &[f32]| {
            PackedTable::new(format, words.to_vec(), scale.to_vec(), 2, 2).unwrap()
        };
        let ones = [1.0, -2.0, 0.5, 2f32.powi(-24)];
        let tables = [
            table(TableFormat::F32, &ones.map(f32::to_bits), &[1.0]),
            table(TableFormat::F16, &[0xC000_3C00, 0x0001_3800], &[1.0]),
            table(TableFormat::BF16, &[0xC000_3F80, 0x3380_3F00], &[1.0]),
        ];
        for table in tables {
            assert_eq!(table_rows(&[0, 1], &table), ones);
        }
        let int8 = table(TableFormat::Int8, &[0xFE01, 0x0380], &[1.0, 0.5]);
        assert_eq!(table_rows(&[1, 0], &int8), [-64.0, 1.5, 1.0, -2.0]);
        let int4 = table(TableFormat::Int4, &[0xE1, 0x38], &[1.0, 0.5]);
        assert_eq!(table_rows(&[1, 0], &int4), [-4.0, 1.5, 1.0, -2.0]);
        assert_eq!(table_linear(&[1.0, 2.0], &int4), [-3.0, -1.0]);
        assert_eq!(table_linear_dx(&[1.0, 2.0], &int4), [-7.0, 1.0]);
    }

    #[test]
    fn attention_computed_by_hand() {
        let shape = AttentionShape {
            batch: 1,
            n_heads: 2,
            n_kv_heads: 1,
            seq: 2,
            capacity: 2,
            head_dim: 1,
        };
        // Scores of the second head at position 1: ln 3 · 0 and ln 3 · 1, so weights 1/4 and 3/4.
        let (mut keys, mut values) = ([9.0, 9.0], [9.0, 9.0]);
        let out = cached_attention(
            shape,
            CacheFormat::F32,
            3f64.ln(),
            &[1.0, 0.0, 1.0, 1.0],
            &[0.0, 1.0],
            &[4.0, 8.0],
            &mut keys,
            &mut values,
            &[0],
        );
        assert_eq!((keys, values), ([0.0, 1.0], [4.0, 8.0]));
        assert_eq!(out, [4.0, 6.0, 4.0, 7.0]);
        assert_eq!(stored(CacheFormat::F16, &[1e9, 1.0 + 1e-4]), [65504.0, 1.0]);
        assert_eq!(
            stored(CacheFormat::Int8, &[-127.0, 0.5, 1.5]),
            [-127.0, 0.0, 2.0]
        );
    }
}
