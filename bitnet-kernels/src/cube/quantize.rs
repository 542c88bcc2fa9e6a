//! Activations to integers on the device: one cube per row.
//!
//! `s = limit / max(max|x|, 1e-5)`, `q = clamp(round(x·s), -limit - 1, limit)`, bit for bit as
//! [`quantize::absmax`](crate::quantize::absmax): the maximum runs over bit patterns, so NaN wins, and the
//! quotient is correctly rounded on every device. Also sums each row, since kernels multiply codes 0, 1, 2.

use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{INFINITY_BITS, quotient};
use super::{Capabilities, buffer, cube_count};
use crate::packing::words::words_per_row;

/// Order of the quantized columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// As they come.
    Rows,
    /// `[4, words / 4]` chunks of sixteen columns: first those of each 128-bit weight vector's first word, then of the
    /// second words, and so on. Units that read neighbouring weight vectors then read neighbouring activations.
    Planes,
}

/// Quantized rows on a device.
#[derive(Debug, Clone)]
pub struct Int8Rows {
    /// `[rows, 4·words]` i32, four int8 each, in the order of a [`Layout`]; columns beyond `d_in` are 0.
    pub values: Handle,
    /// `s` of each row, f32.
    pub scale: Handle,
    /// `Σ q` of each row, i32.
    pub sum: Handle,
}

impl Int8Rows {
    /// Room for `rows` rows.
    pub fn empty(client: &Client, rows: usize, d_in: usize) -> Self {
        Self {
            values: client.empty(rows * words_per_row(d_in) * 16),
            scale: client.empty(rows * 4),
            sum: client.empty(rows * 4),
        }
    }
}

/// Quantizes `x [rows, d_in]` of element type `dtype` to codes up to `limit`, in int8 whatever it is.
pub fn quantize(
    client: &Client,
    device: &Capabilities,
    x: Handle,
    (rows, d_in): (usize, usize),
    dtype: ElemType,
    layout: Layout,
    limit: i8,
) -> Int8Rows {
    let out = Int8Rows::empty(client, rows, d_in);
    let quads = words_per_row(d_in) * 4;
    let width = if d_in.is_multiple_of(4) { 4 } else { 1 };
    let units = device.max_units.min(256);
    quantize_rows::launch(
        client,
        cube_count(rows),
        CubeDim::new_1d(units),
        width,
        buffer(&x, rows * d_in / width),
        buffer(&out.values, rows * quads),
        buffer(&out.scale, rows),
        buffer(&out.sum, rows),
        rows as u32,
        d_in as u32,
        quads as u32,
        units as usize,
        width,
        layout,
        limit,
        dtype,
    );
    out
}

#[cube(launch)]
pub(crate) fn quantize_rows<F: Float, V: Size>(
    x: &[Vector<F, V>],
    values: &mut [i32],
    scales: &mut [f32],
    sums: &mut [i32],
    rows: u32,
    d_in: u32,
    quads: u32,
    #[comptime] units: usize,
    #[comptime] width: usize,
    #[comptime] layout: Layout,
    #[comptime] limit: i8,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let quads = quads as usize;
    let largest = largest_bits::<F, V>(x, row, quads, d_in, units, width);
    let healthy = largest < INFINITY_BITS;
    let scale = scale_of(largest, limit);

    let mut sum = 0i32;
    let mut quad = unit;
    while quad < quads {
        let four = load_four::<F, V>(x, row, quad, d_in, width);
        let mut word = 0u32;
        #[unroll]
        for j in 0..4usize {
            let q = i32::cast_from(code_of(four[j], scale, limit));
            let q = select(healthy, q, 0i32);
            sum += q;
            word |= (u32::cast_from(q) & 0xFFu32) << (8u32 * j as u32);
        }
        let place = match comptime!(layout) {
            Layout::Rows => quad,
            Layout::Planes => (quad / 4 % 4) * (quads / 4) + (quad / 16) * 4 + quad % 4,
        };
        values[row * quads + place] = i32::cast_from(word);
        quad += units;
    }
    let mut partial = Shared::<[i32]>::new_slice(units);
    partial[unit] = sum;
    sync_cube();
    let mut half = comptime!(units / 2);
    #[unroll]
    for _ in 0..comptime!(units.ilog2()) {
        if unit < half {
            let other = partial[unit + half];
            partial[unit] += other;
        }
        sync_cube();
        comptime!(half /= 2);
    }
    if unit == 0 {
        scales[row] = scale;
        sums[row] = partial[0];
    }
}

/// The bits of the largest magnitude of a row, known to all units of the cube.
#[cube]
fn largest_bits<F: Float, V: Size>(
    x: &[Vector<F, V>],
    row: usize,
    quads: usize,
    d_in: u32,
    #[comptime] units: usize,
    #[comptime] width: usize,
) -> u32 {
    let unit = UNIT_POS as usize;
    let mut maxima = Shared::<[u32]>::new_slice(units);
    let mut largest = 0u32;
    let mut quad = unit;
    while quad < quads {
        let four = load_four::<F, V>(x, row, quad, d_in, width);
        #[unroll]
        for j in 0..4usize {
            let bits = u32::reinterpret(four[j]) & 0x7FFF_FFFFu32;
            largest = select(bits > largest, bits, largest);
        }
        quad += units;
    }
    maxima[unit] = largest;
    sync_cube();
    let mut half = comptime!(units / 2);
    #[unroll]
    for _ in 0..comptime!(units.ilog2()) {
        if unit < half {
            let other = maxima[unit + half];
            if other > maxima[unit] {
                maxima[unit] = other;
            }
        }
        sync_cube();
        comptime!(half /= 2);
    }
    let largest = maxima[0];
    sync_cube();
    largest
}

/// The scale of a row from the bits of its largest magnitude. NaN stays NaN, infinity gives 0; both make quotients NaN.
#[cube]
fn scale_of(largest: u32, #[comptime] limit: i8) -> f32 {
    let floor = u32::reinterpret(f32::new(1e-5_f32));
    let amax = f32::reinterpret(select(largest > floor, largest, floor));
    let damaged = select(largest == INFINITY_BITS, f32::new(0.0_f32), amax);
    let scale = quotient(comptime!(limit as u32), amax);
    select(largest < INFINITY_BITS, scale, damaged)
}

/// The code of a number, as a float.
#[cube]
fn code_of(value: f32, scale: f32, #[comptime] limit: i8) -> f32 {
    let least = f32::new(comptime!(-f32::from(limit) - 1.0));
    let most = f32::new(comptime!(f32::from(limit)));
    clamp(Round::round(value * scale), least, most)
}

/// Writes `q(x) / s` for `x [rows, d_in]`, both of element type `dtype`: what a product with codes up to `limit` sees of
/// its input.
pub fn fake_quantize(
    client: &Client,
    device: &Capabilities,
    x: &Handle,
    seen: &Handle,
    (rows, d_in): (usize, usize),
    dtype: ElemType,
    limit: i8,
) {
    let units = device.max_units.min(256);
    fake_quantize_rows::launch(
        client,
        cube_count(rows),
        CubeDim::new_1d(units),
        1,
        buffer(x, rows * d_in),
        buffer(seen, rows * d_in),
        rows as u32,
        d_in as u32,
        (words_per_row(d_in) * 4) as u32,
        units as usize,
        1,
        limit,
        dtype,
    );
}

#[cube(launch)]
pub(crate) fn fake_quantize_rows<F: Float, V: Size>(
    x: &[Vector<F, V>],
    seen: &mut [F],
    rows: u32,
    d_in: u32,
    quads: u32,
    #[comptime] units: usize,
    #[comptime] width: usize,
    #[comptime] limit: i8,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let largest = largest_bits::<F, V>(x, row, quads as usize, d_in, units, width);
    let scale = scale_of(largest, limit);
    let d_in = d_in as usize;
    let mut column = UNIT_POS as usize;
    while column < d_in {
        let value = f32::cast_from(x[row * d_in + column].extract(0usize));
        let q = code_of(value, scale, limit);
        seen[row * d_in + column] = F::cast_from(q / scale);
        column += units;
    }
}

/// Columns `4·quad ..` of a row, widened to f32, 0 beyond `d_in`.
#[cube]
fn load_four<F: Float, V: Size>(
    x: &[Vector<F, V>],
    row: usize,
    quad: usize,
    d_in: u32,
    #[comptime] width: usize,
) -> Array<f32> {
    let d_in = d_in as usize;
    let mut four = Array::<f32>::new(4usize);
    if comptime!(width == 4) {
        let inside = quad * 4 < d_in;
        let at = select(inside, row * (d_in / 4) + quad, 0usize);
        let loaded = x[at];
        #[unroll]
        for j in 0..4usize {
            four[j] = select(inside, f32::cast_from(loaded.extract(j)), f32::new(0.0_f32));
        }
    } else {
        #[unroll]
        for j in 0..4usize {
            let column = quad * 4 + j;
            let inside = column < d_in;
            let at = select(inside, row * d_in + column, 0usize);
            four[j] = select(
                inside,
                f32::cast_from(x[at].extract(0usize)),
                f32::new(0.0_f32),
            );
        }
    }
    four
}
