//! Prefill on int8 tensor cores: `mma.sync` 16 x 8 x 32 with the weight unpacked in registers.
//!
//! A matrix instruction sums over k in any order as long as both operands agree. So in each block of 128 columns a lane
//! takes the two words that its quarter of the block needs: `(word >> 2i) & 0x03030303` is a ready B register, and the
//! matching A registers are 128-bit vectors of activations in natural order. Nothing is shuffled, and the weight goes
//! from memory to registers in 2 bits. Activations are staged in shared memory, double buffered; their 128-bit chunks are
//! permuted so that the eight lanes of a phase hit different banks.

use cubecl::client::Client;
use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::arithmetic::{descale_by, last_of};
use super::quantize::Layout;
use super::{Capabilities, Operands, Problem, Refusal, Routine, buffer};

/// See the module.
pub const ROUTINE: Routine = Routine {
    name: "tensor-cores",
    layout: Layout::Rows,
    refuses: |problem, device| blueprint(problem, device).err(),
    launch: |client, problem, device, operands| {
        let blueprint = blueprint(problem, device).expect("a refused problem is not launched");
        launch(client, problem, &blueprint, operands);
    },
};

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Planes along the tokens and along the weight rows.
    pub planes: (usize, usize),
    /// 16-token and 8-row fragments of a plane.
    pub fragments: (usize, usize),
    /// Whether a row has several scales.
    pub grouped: bool,
}

/// Columns of one step: four lanes of a quad times two words.
const BLOCK: usize = 128;
/// Words of one step.
const BLOCK_WORDS: usize = BLOCK / 16;

/// The shape of a cube, and when it pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Planes along the tokens and along the weight rows.
    pub planes: (usize, usize),
    /// 16-token and 8-row fragments of a plane.
    pub fragments: (usize, usize),
    /// Cubes that each pair of processors must get.
    pub cubes_per_pair: usize,
}

/// Tiles to choose from, largest first.
///
/// Best of ten on an H200 at 512 and 2048 rows, see benches/record. Larger ones (128 x 128, 128 x 256) lose to registers
/// what they save in loads.
pub const TILES: &[Tile] = &[
    Tile {
        planes: (1, 4),
        fragments: (4, 4),
        cubes_per_pair: 3,
    },
    Tile {
        planes: (2, 2),
        fragments: (2, 4),
        cubes_per_pair: 6,
    },
    Tile {
        planes: (1, 4),
        fragments: (2, 2),
        cubes_per_pair: 0,
    },
];

impl Blueprint {
    /// Tokens and weight rows of a cube.
    pub const fn tile(&self) -> (usize, usize) {
        (
            self.planes.0 * self.fragments.0 * 16,
            self.planes.1 * self.fragments.1 * 8,
        )
    }

    const fn units(&self) -> usize {
        self.planes.0 * self.planes.1 * 32
    }

    fn cubes(&self, problem: &Problem) -> usize {
        let (rows, outs) = self.tile();
        problem.rows.div_ceil(rows) * problem.d_out.div_ceil(outs)
    }
}

/// Plans a launch, or says why not.
///
/// # Errors
///
/// A [`Refusal`] if the device has no such matrix instruction, or the groups do not cover whole steps.
pub fn blueprint(problem: &Problem, device: &Capabilities) -> Result<Blueprint, Refusal> {
    if !device.int8_matrix {
        return Err(Refusal(
            "tensor-cores needs int8 matrix instructions of 16 x 8 x 32 on planes of 32".into(),
        ));
    }
    if !problem.group().is_multiple_of(BLOCK) {
        return Err(Refusal(format!(
            "tensor-cores takes groups of {BLOCK} or 256 columns, not {}",
            problem.group()
        )));
    }
    // The largest tile that keeps the processors busy. Grouped weights keep a second set of sums: no 4 x 4 fragments.
    let tiles = if problem.group() > 0 {
        &TILES[1..]
    } else {
        TILES
    };
    let grouped = problem.group() > 0;
    let processors = device.processors as usize;
    let plan = |&Tile {
                    planes,
                    fragments,
                    cubes_per_pair,
                }: &Tile| {
        let plan = Blueprint {
            planes,
            fragments,
            grouped,
        };
        (2 * plan.cubes(problem) >= cubes_per_pair * processors).then_some(plan)
    };
    Ok(tiles
        .iter()
        .find_map(plan)
        .expect("the last tile asks for no cubes"))
}

/// Launches a plan.
pub fn launch(client: &Client, problem: &Problem, plan: &Blueprint, operands: &Operands) {
    let words = problem.words();
    let (rows, outs) = plan.tile();
    // A lane's neighbouring outputs go in one store, where rows of outputs keep them together.
    let pair = if problem.d_out.is_multiple_of(2) {
        2
    } else {
        1
    };
    let count = CubeCount::Static(
        problem.d_out.div_ceil(outs) as u32,
        problem.rows.div_ceil(rows) as u32,
        1,
    );
    // SAFETY: the kernel clamps each index to the buffer lengths given here.
    #[allow(unsafe_code)]
    unsafe {
        ternary_mma::launch_unchecked(
            client,
            count,
            CubeDim::new_2d(32, (plan.planes.0 * plan.planes.1) as u32),
            2,
            4,
            pair,
            buffer(&operands.codes, problem.d_out * words / 2),
            buffer(&operands.x.values, problem.rows * words),
            buffer(&operands.x.scale, problem.rows),
            buffer(&operands.x.sum, problem.rows),
            buffer(&operands.scale, problem.scales()),
            buffer(&operands.y, problem.rows * problem.d_out / pair),
            problem.rows as u32,
            problem.d_out as u32,
            words as u32,
            (problem.group() / BLOCK) as u32,
            problem.scale_stride() as u32,
            *plan,
            pair,
            problem.output,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn ternary_mma<F: Float, W: Size, V: Size, P: Size>(
    codes: &[Vector<u32, W>], // [d_out, words / 2]
    x: &[Vector<i32, V>],     // [rows, words]: sixteen int8 each
    x_scale: &[f32],          // [rows]
    x_sum: &[i32],            // [rows]
    scale: &[f32],
    y: &mut [Vector<F, P>], // [rows, d_out]
    rows: u32,
    d_out: u32,
    words: u32,
    group_blocks: u32, // blocks per scale, if there are several
    scale_stride: u32, // scales per row, 0 for one scale in all
    #[comptime] plan: Blueprint,
    #[comptime] pair: usize,
    #[define(F)] _dtype: ElemType,
) {
    let def = MmaDefinition::<i8, i8, i32>::new(16usize, 8usize, 32usize);
    let va = def.vector_size(MatrixIdent::A);
    let size!(NA) = va;
    let vb = def.vector_size(MatrixIdent::B);
    let size!(NB) = vb;
    let vc = def.vector_size(MatrixIdent::Accumulator);
    let size!(NC) = vc;

    let tile_rows = comptime!(plan.tile().0);
    let tile_outs = comptime!(plan.tile().1);
    let units = comptime!(plan.units());
    let fm = comptime!(plan.fragments.0);
    let fn_ = comptime!(plan.fragments.1);
    let grouped = comptime!(plan.grouped);
    let scale_stride = scale_stride as usize;
    let staged_vectors = comptime!(tile_rows * BLOCK_WORDS);
    let loads = comptime!(staged_vectors / units);

    let (rows, d_out, words) = (rows as usize, d_out as usize, words as usize);
    let unit = UNIT_POS as usize;
    let lane = UNIT_POS_X as usize;
    let quad = lane / 4; // which of eight rows
    let quarter = lane % 4; // which quarter of the columns
    let plane_m = UNIT_POS_Y as usize / comptime!(plan.planes.1);
    let plane_n = UNIT_POS_Y as usize % comptime!(plan.planes.1);
    let first_row = CUBE_POS_Y as usize * tile_rows;
    let first_out = CUBE_POS_X as usize * tile_outs;
    let plane_row = plane_m * fm * 16;
    let plane_out = first_out + plane_n * fn_ * 8;
    let blocks = words.div_ceil(BLOCK_WORDS);

    let mut staged = Shared::<[Vector<i32, V>]>::new_slice(comptime!(2 * staged_vectors));
    let mut acc = Array::<Vector<i32, NC>>::new(comptime!(fm * fn_ * 2));
    let mut sums = Array::<Vector<f32, NC>>::new(comptime!(if grouped { fm * fn_ * 2 } else { 1 }));
    #[unroll]
    for i in 0..comptime!(fm * fn_ * 2) {
        acc[i] = Vector::new(0i32);
        if comptime!(grouped) {
            sums[i] = Vector::new(f32::new(0.0_f32));
        }
    }

    let mut next_x = Array::<Vector<i32, V>>::new(loads);
    let mut next_w = Array::<Vector<u32, W>>::new(fn_);
    let mut now_w = Array::<Vector<u32, W>>::new(fn_);

    // A unit stages the same chunk of every (units / 8)th row. That step is even, so its places differ by `units`, and one
    // address serves them all; likewise a plane's fragments lie 16 rows apart.
    let chunk = unit % BLOCK_WORDS;
    let store = place(unit);
    let mut x_rows = Array::<usize>::new(loads);
    #[unroll]
    for i in 0..loads {
        let row = first_row + unit / BLOCK_WORDS + i * comptime!(units / BLOCK_WORDS);
        x_rows[i] = last_of(row, rows) * words;
    }
    let mut w_rows = Array::<usize>::new(fn_);
    #[unroll]
    for f in 0..fn_ {
        w_rows[f] = last_of(plane_out + f * 8 + quad, d_out) * (words / 2);
    }
    let mut fetch = Array::<usize>::new(2usize);
    #[unroll]
    for j in 0..2usize {
        fetch[j] = place((plane_row + quad) * BLOCK_WORDS + quarter * 2 + j);
    }

    // Prologue: the first block.
    #[unroll]
    for i in 0..loads {
        staged[store + i * units] = load_x::<V>(x, x_rows[i], chunk, words);
    }
    #[unroll]
    for f in 0..fn_ {
        now_w[f] = codes[w_rows[f] + last_of(quarter, words / 2)];
    }
    sync_cube();

    for block in 0..blocks {
        let next = block + 1;
        #[unroll]
        for i in 0..loads {
            next_x[i] = load_x::<V>(x, x_rows[i], next * BLOCK_WORDS + chunk, words);
        }
        // Two words of each weight row. Beyond the last column any codes do: they meet zeros.
        let pair = last_of(next * comptime!(BLOCK_WORDS / 2) + quarter, words / 2);
        #[unroll]
        for f in 0..fn_ {
            next_w[f] = codes[w_rows[f] + pair];
        }

        let base = (block % 2) * staged_vectors;
        #[unroll]
        for j in 0..2usize {
            let mut upper = Array::<Vector<i32, V>>::new(fm);
            let mut lower = Array::<Vector<i32, V>>::new(fm);
            #[unroll]
            for m in 0..fm {
                let at = base + fetch[j] + m * comptime!(16 * BLOCK_WORDS);
                upper[m] = staged[at];
                lower[m] = staged[at + comptime!(8 * BLOCK_WORDS)];
            }
            #[unroll]
            for h in 0..2usize {
                let mut b0 = Array::<u32>::new(fn_);
                let mut b1 = Array::<u32>::new(fn_);
                #[unroll]
                for f in 0..fn_ {
                    let word = now_w[f].extract(j);
                    b0[f] = four_codes(word, 2 * h, grouped);
                    b1[f] = four_codes(word, 2 * h + 1, grouped);
                }
                #[unroll]
                for m in 0..fm {
                    let mut a = Array::<Vector<i8, NA>>::new(4usize);
                    a[0] = Vector::reinterpret(upper[m].extract(2 * h));
                    a[1] = Vector::reinterpret(lower[m].extract(2 * h));
                    a[2] = Vector::reinterpret(upper[m].extract(2 * h + 1));
                    a[3] = Vector::reinterpret(lower[m].extract(2 * h + 1));
                    #[unroll]
                    for f in 0..fn_ {
                        let mut b = Array::<Vector<i8, NB>>::new(2usize);
                        b[0] = Vector::reinterpret(b0[f]);
                        b[1] = Vector::reinterpret(b1[f]);
                        let at = (m * fn_ + f) * 2;
                        let mut c = Array::<Vector<i32, NC>>::new(2usize);
                        c[0] = acc[at];
                        c[1] = acc[at + 1];
                        let d = def.execute(&a, &b, &c);
                        acc[at] = d[0];
                        acc[at + 1] = d[1];
                    }
                }
            }
        }

        if comptime!(grouped) {
            let group_blocks = group_blocks as usize;
            if next % group_blocks == 0 || next == blocks {
                let which = block / group_blocks;
                #[unroll]
                for f in 0..fn_ {
                    let mut factor = Vector::<f32, NC>::empty();
                    #[unroll]
                    for e in 0..2usize {
                        let out = last_of(plane_out + f * 8 + quarter * 2 + e, d_out);
                        factor.insert(e, scale[out * scale_stride + which]);
                    }
                    #[unroll]
                    for m in 0..fm {
                        #[unroll]
                        for half in 0..2usize {
                            let at = (m * fn_ + f) * 2 + half;
                            sums[at] += Vector::cast_from(acc[at]) * factor;
                            acc[at] = Vector::new(0i32);
                        }
                    }
                }
            }
        }

        if next < blocks {
            let base = (next % 2) * staged_vectors;
            #[unroll]
            for i in 0..loads {
                staged[base + store + i * units] = next_x[i];
            }
        }
        #[unroll]
        for f in 0..fn_ {
            now_w[f] = next_w[f];
        }
        sync_cube();
    }

    #[unroll]
    for m in 0..fm {
        #[unroll]
        for half in 0..2usize {
            let row = first_row + plane_row + m * 16 + half * 8 + quad;
            if row < rows {
                let (s, sum) = (x_scale[row], x_sum[row]);
                let inverse = f32::new(1.0_f32) / s;
                #[unroll]
                for f in 0..fn_ {
                    let at = (m * fn_ + f) * 2 + half;
                    #[unroll]
                    for first in 0..comptime!(2 / pair) {
                        let out = plane_out + f * 8 + quarter * 2 + first;
                        if out < d_out {
                            let mut values = Vector::<F, P>::empty();
                            #[unroll]
                            for e in 0..pair {
                                let value = if comptime!(grouped) {
                                    sums[at].extract(first + e) / s
                                } else {
                                    let factor = scale[(out + e) * scale_stride];
                                    descale_by(acc[at].extract(first + e) - sum, s, inverse)
                                        * factor
                                };
                                values.insert(e, F::cast_from(value));
                            }
                            y[(row * d_out + out) / pair] = values;
                        }
                    }
                }
            }
        }
    }
}

/// Where chunk `at % 8` of row `at / 8` lies: chunks of equal parity side by side, odd rows with the halves exchanged.
#[cube]
fn place(at: usize) -> usize {
    let row = at / BLOCK_WORDS;
    let chunk = at % BLOCK_WORDS;
    let slot = (chunk % 2) * 4 + chunk / 2;
    row * BLOCK_WORDS + (slot ^ ((row % 2) * 4))
}

/// Sixteen activations of the row that starts at `row`, zeros beyond its last column.
#[cube]
fn load_x<V: Size>(x: &[Vector<i32, V>], row: usize, word: usize, words: usize) -> Vector<i32, V> {
    let loaded = x[row + last_of(word, words)];
    select(word < words, loaded, Vector::new(0i32))
}

/// Four codes 0, 1, 2 of a word, or with `signed` the trits -1, 0, 1: `code - 1` in each byte, without borrows.
#[cube]
fn four_codes(word: u32, #[comptime] i: usize, #[comptime] signed: bool) -> u32 {
    let codes = (word >> (2 * i as u32)) & 0x0303_0303u32;
    if comptime!(signed) {
        ((codes | 0x8080_8080u32) - 0x0101_0101u32) ^ 0x8080_8080u32
    } else {
        codes
    }
}
