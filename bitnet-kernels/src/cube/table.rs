//! Rows of a table, and products with it.
//!
//! Numbers are made of 32-bit words by integer steps, so a device needs no half precision; subnormals are exact. In a
//! product `lanes` units share a table row, each reads every lanes-th word of it once for up to four rows of x, and the f32
//! sums meet by shuffles (or in shared memory where planes cannot shuffle). In a gather each unit writes one word's numbers.

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::arithmetic::{last_of, sum_of_lanes};
use super::{Capabilities, buffer, cube_count, scale_span, scale_stride};
use crate::TableFormat;

/// Most rows of x that share a word.
const MAX_ROWS: usize = 4;
/// Units of a cube, where a device has room.
const UNITS: usize = 128;
/// Words that a unit loads before it uses the first.
const DEPTH: usize = 4;
/// 2^-24, the smallest subnormal half float.
const HALF_STEP: f32 = 1.0 / 16_777_216.0;

/// A table on a device, as kernels take it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Words, `[rows, words]`.
    pub codes: Handle,
    /// Scales, f32.
    pub scale: Handle,
    /// How the numbers are stored.
    pub format: TableFormat,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// The decisions of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// How the numbers are stored.
    pub format: TableFormat,
    /// Rows of x per unit.
    pub rows: usize,
    /// Units that share a row of the table: a power of two.
    pub lanes: usize,
    /// Slots of `lanes` units in a cube.
    pub slots: usize,
    /// Columns of x that are loaded at a time.
    pub vector: usize,
    /// Whether partial sums meet by shuffles.
    pub shuffle: bool,
}

impl Table {
    fn words(&self) -> usize {
        self.format.words_per_row(self.columns)
    }

    fn scale_stride(&self) -> usize {
        scale_stride(self.format.granularity(), self.columns)
    }

    fn codes(&self) -> BufferArg {
        buffer(&self.codes, self.rows * self.words())
    }

    fn scale(&self) -> BufferArg {
        buffer(&self.scale, self.format.scales(self.rows, self.columns))
    }
}

/// Plans a product with `count` rows of x.
pub fn blueprint(table: &Table, count: usize, device: &Capabilities) -> Blueprint {
    let lanes = if device.plane > 0 {
        device.plane.min(32) as usize
    } else {
        32.min(device.max_units as usize)
    };
    let per_word = table.format.numbers_per_word();
    Blueprint {
        format: table.format,
        rows: count.min(MAX_ROWS),
        lanes,
        slots: UNITS.min(device.max_units as usize) / lanes,
        vector: if table.columns.is_multiple_of(per_word) {
            per_word.min(4)
        } else {
            1
        },
        shuffle: device.plane > 0,
    }
}

/// `y [count, rows] = x [count, columns] · Wᵀ`, both in f32.
pub fn linear(client: &Client, x: &Handle, table: &Table, y: &Handle, count: usize) {
    let plan = blueprint(table, count, &Capabilities::of(client));
    let (x_len, y_len) = (count * table.columns, count * table.rows);
    let CubeCount::Static(width, height, _) = cube_count(table.rows.div_ceil(plan.slots)) else {
        unreachable!("counts are static")
    };
    table_product::launch(
        client,
        CubeCount::Static(width, height, count.div_ceil(plan.rows) as u32),
        CubeDim::new_2d(plan.lanes as u32, plan.slots as u32),
        plan.vector,
        table.codes(),
        buffer(x, x_len / plan.vector),
        table.scale(),
        buffer(y, y_len),
        count as u32,
        table.rows as u32,
        (table.columns / plan.vector) as u32,
        table.words() as u32,
        table.scale_stride() as u32,
        plan,
    );
}

/// `out [count, columns]`: the rows of the table that `ids`, i32, name; NaN for an id that is no row.
pub fn rows(client: &Client, ids: &Handle, table: &Table, out: &Handle, count: usize) {
    let (words, units) = (table.words(), 64);
    table_gather::launch(
        client,
        cube_count((count * words).div_ceil(units)),
        CubeDim::new_1d(units as u32),
        buffer(ids, count),
        table.codes(),
        table.scale(),
        buffer(out, count * table.columns),
        count as u32,
        table.rows as u32,
        table.columns as u32,
        words as u32,
        scale_span(table.format.granularity(), table.columns) as u32,
        table.scale_stride() as u32,
        f32::NAN,
        units,
        table.format,
    );
}

#[cube(launch)]
pub(crate) fn table_product<V: Size>(
    codes: &[u32],        // [rows, words]
    x: &[Vector<f32, V>], // [count, vectors]
    scale: &[f32],
    y: &mut [f32], // [count, rows]
    count: u32,
    rows: u32,
    vectors: u32, // of a row of x
    words: u32,
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
) {
    let lanes = comptime!(plan.lanes);
    let tile = comptime!(plan.rows);
    let vector = comptime!(plan.vector);
    let per_word = comptime!(plan.format.numbers_per_word());
    let per_load = comptime!(per_word / vector);
    let grouped = comptime!(plan.format == TableFormat::Int4);

    let (count, rows, vectors) = (count as usize, rows as usize, vectors as usize);
    let (words, scale_stride) = (words as usize, scale_stride as usize);
    let lane = UNIT_POS_X as usize;
    let cube = CUBE_POS_Y as usize * CUBE_COUNT_X as usize + CUBE_POS_X as usize;
    let row = cube * comptime!(plan.slots) + UNIT_POS_Y as usize;
    let first = CUBE_POS_Z as usize * tile;
    let inside = last_of(row, rows);

    let mut acc = Array::<f32>::new(tile);
    #[unroll]
    for r in 0..tile {
        acc[r] = f32::new(0.0_f32);
    }
    let mut start = lane;
    while start < words {
        let mut loaded = Array::<u32>::new(DEPTH);
        #[unroll]
        for step in 0..DEPTH {
            let at = start + step * lanes;
            let word = codes[inside * words + last_of(at, words)];
            // The word 0 is zeros in every format.
            loaded[step] = select(at < words, word, 0u32);
        }
        #[unroll]
        for step in 0..DEPTH {
            let at = last_of(start + step * lanes, words);
            let mut weights = Array::<f32>::new(per_word);
            #[unroll]
            for i in 0..per_word {
                weights[i] = number(loaded[step], i, plan.format);
            }
            if comptime!(grouped) {
                let factor = scale[inside * scale_stride + at / 4];
                #[unroll]
                for i in 0..per_word {
                    weights[i] *= factor;
                }
            }
            #[unroll]
            for r in 0..tile {
                let base = last_of(first + r, count) * vectors;
                #[unroll]
                for q in 0..per_load {
                    // Behind the last column weights are zero, so any number will do.
                    let values = x[base + last_of(at * per_load + q, vectors)];
                    #[unroll]
                    for j in 0..vector {
                        acc[r] += weights[q * vector + j] * values.extract(j);
                    }
                }
            }
        }
        start += DEPTH * lanes;
    }
    #[unroll]
    for r in 0..tile {
        let mut total = sum_of_lanes::<f32>(acc[r], lanes, plan.slots, plan.shuffle);
        if comptime!(!grouped) {
            total *= scale[inside * scale_stride];
        }
        if lane == 0 && row < rows && first + r < count {
            y[(first + r) * rows + row] = total;
        }
    }
}

#[cube(launch)]
pub(crate) fn table_gather(
    ids: &[i32],
    codes: &[u32], // [rows, words]
    scale: &[f32],
    out: &mut [f32], // [count, columns]
    count: u32,
    rows: u32,
    columns: u32,
    words: u32,
    scale_span: u32,   // columns per scale
    scale_stride: u32, // scales per row, 0 for one scale in all
    nan: f32,          // as an argument: shaders may not name it
    #[comptime] units: usize,
    #[comptime] format: TableFormat,
) {
    let per_word = comptime!(format.numbers_per_word());
    let (count, columns, words) = (count as usize, columns as usize, words as usize);
    let at = CUBE_POS * units + UNIT_POS as usize;
    if at >= count * words {
        terminate!();
    }
    let (id, first) = (ids[at / words], (at % words) * per_word);
    let inside = id >= 0i32 && id < i32::cast_from(rows);
    let row = usize::cast_from(select(inside, id, 0i32));
    let word = codes[row * words + at % words];
    // A word lies in one group, because groups are whole words.
    let factor = scale[row * scale_stride as usize + first / scale_span as usize];
    #[unroll]
    for i in 0..per_word {
        if first + i < columns {
            let value = number(word, i, format) * factor;
            out[at / words * columns + first + i] = select(inside, value, nan);
        }
    }
}

/// Number `i` of a word, without its scale.
#[cube]
pub(crate) fn number(word: u32, i: usize, #[comptime] format: TableFormat) -> f32 {
    let i = i as u32;
    match comptime!(format) {
        TableFormat::F32 => f32::reinterpret(word),
        TableFormat::F16 => half_number(word >> (16u32 * i)),
        TableFormat::BF16 => f32::reinterpret((word >> (16u32 * i)) << 16u32),
        TableFormat::Int8 => {
            // Two's complement: adding the sign bit's weight makes the number unsigned.
            f32::cast_from(((word >> (8u32 * i)) & 0xFFu32) ^ 0x80u32) - f32::new(128.0_f32)
        }
        TableFormat::Int4 => {
            f32::cast_from(((word >> (4u32 * i)) & 0xFu32) ^ 0x8u32) - f32::new(8.0_f32)
        }
    }
}

/// The half float in the lower 16 bits.
#[cube]
fn half_number(bits: u32) -> f32 {
    let exponent = (bits >> 10u32) & 0x1Fu32;
    let mantissa = bits & 0x3FFu32;
    // The largest exponent, of infinity and NaN, is the largest one again.
    let bias = select(exponent == 31u32, 224u32, 112u32);
    let normal = f32::reinterpret(((exponent + bias) << 23u32) | (mantissa << 13u32));
    let subnormal = f32::cast_from(mantissa) * f32::new(HALF_STEP);
    let magnitude = select(exponent == 0u32, subnormal, normal);
    f32::reinterpret(u32::reinterpret(magnitude) | ((bits & 0x8000u32) << 16u32))
}
