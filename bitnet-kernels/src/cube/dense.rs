//! Dense products of 16-bit floats on tensor cores: `y = a · b` with f32 sums, for the gradients of training.
//!
//! Both operands may lie transposed, so the three products of a layer (x·Wᵀ, dy·W, dyᵀ·x) read what is there. A cube copies
//! tiles of 64 columns of the sum into a ring of stages, asynchronously, and multiplies the oldest (`ldmatrix`, `mma.sync`
//! 16 x 8 x 16). Of a product with a lower triangle, tiles and terms in the other half are left out. In a stage, chunk c of eight elements of row r lies at `c ^ (r % 8)`: the eight rows that a quarter of a
//! plane reads at once, or the eight columns, hit different banks.

use cubecl::client::Client;
use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::barrier::copy_async_checked;
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::{buffer, cube_count};
use crate::ops::dense::{Lower, Transposed};

/// The facts of `count` products `[m, k] · [k, n]` one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Products.
    pub count: usize,
    /// Rows of `a` and `y`.
    pub m: usize,
    /// Columns of `b` and `y`.
    pub n: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Which factors lie transposed.
    pub transposed: Transposed,
    /// What is a lower triangle.
    pub lower: Lower,
    /// Element type of both factors: f16 or bf16.
    pub dtype: ElemType,
    /// Element type of the product: the same, or f32.
    pub output: ElemType,
}

/// Where the matrices of a factor lie. All steps are in elements, and multiples of 8.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// Their buffer.
    pub handle: &'a Handle,
    /// From one row to the next.
    pub row: usize,
    /// Matrix `i` starts at `i / heads · outer + i % heads · inner`.
    pub heads: usize,
    /// From one head to the next.
    pub inner: usize,
    /// From the heads of one sequence to those of the next.
    pub outer: usize,
}

/// The decisions of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blueprint {
    /// Planes along m and n.
    pub planes: (usize, usize),
    /// 16-row and 8-column fragments of a plane.
    pub fragments: (usize, usize),
    /// Stages of the ring.
    pub stages: usize,
    /// Which factors lie transposed.
    pub transposed: Transposed,
    /// What is a lower triangle, as far as tiles can make use of it.
    pub lower: Lower,
}

/// Terms of one stage.
const STEP: usize = 64;
/// Elements of one asynchronous copy.
const CHUNK: usize = 8;
/// Tiles along n that cubes take together, so that those at work at a time share their operands in the cache.
const BAND: usize = 8;

/// A shape of a cube: planes along m and n, fragments of a plane, stages.
pub type Tile = ((usize, usize), (usize, usize), usize);

/// Shapes to choose from, largest first.
///
/// Best of eight on an H200. Eight planes of 64 x 64, 128 x 256 in all, are 3 to 70 % slower where their
/// columns are used, three stages as fast as two.
pub const TILES: &[Tile] = &[
    ((2, 2), (4, 8), 2),
    ((2, 2), (4, 4), 2),
    ((2, 2), (2, 4), 2),
];

impl Blueprint {
    /// Rows and columns of a cube's part of `y`.
    pub const fn tile(&self) -> (usize, usize) {
        (
            self.planes.0 * self.fragments.0 * 16,
            self.planes.1 * self.fragments.1 * 8,
        )
    }

    const fn units(&self) -> usize {
        self.planes.0 * self.planes.1 * 32
    }

    /// Chunks of one stage, of `a` and of `b`.
    const fn chunks(&self) -> (usize, usize) {
        let (m, n) = self.tile();
        (m * STEP / CHUNK, n * STEP / CHUNK)
    }

    /// Chunks of a row of a stage, of `a` and of `b`.
    const fn widths(&self) -> (usize, usize) {
        let (m, n) = self.tile();
        (
            (if self.transposed.a { m } else { STEP }) / CHUNK,
            (if self.transposed.b { STEP } else { n }) / CHUNK,
        )
    }

    /// Bytes that a cube shares.
    pub const fn shared_bytes(&self) -> usize {
        let (a, b) = self.chunks();
        self.stages * (a + b) * 16
    }

    fn cubes(&self, product: &Product) -> usize {
        let (m, n) = self.tile();
        product.count * product.m.div_ceil(m) * product.n.div_ceil(n)
    }
}

impl Product {
    /// Whether tiles of `rows` rows never straddle two of the sequences that follow each other in a triangle.
    const fn triangle_fits(&self, rows: usize) -> bool {
        let (positions, repeated) = match (self.lower, self.transposed.a) {
            (Lower::None, _) => return true,
            (Lower::Product, _) => (self.n, self.m),
            (Lower::A, false) => (self.k, self.m),
            (Lower::A, true) => (self.m, self.k),
        };
        // Sums over the rows of several sequences start anew with each: not one range.
        let one =
            matches!(self.lower, Lower::Product) || !self.transposed.a || positions == repeated;
        one && positions.is_multiple_of(rows)
    }
}

/// Plans a launch; `None` if the device or the shape has no such kernel.
pub fn blueprint(client: &Client, product: &Product) -> Option<Blueprint> {
    let properties = client.properties();
    let (features, hardware) = (&properties.features, &properties.hardware);
    let float = ElemType::Float(FloatKind::F32);
    let matrix = MmaConfig {
        a_type: product.dtype,
        b_type: product.dtype,
        cd_type: float,
        m: 16,
        n: 8,
        k: 16,
    };
    // Rows of 16 bytes, aligned: a chunk never straddles rows.
    let aligned = |rows: usize, columns: usize, transposed: bool| {
        (if transposed { rows } else { columns }).is_multiple_of(CHUNK)
    };
    let able = features.copy_async
        && features.matmul.mma.contains(&matrix)
        && features.matmul.ldmatrix.contains(&product.dtype)
        && hardware.plane_size_min == 32
        && aligned(product.m, product.k, product.transposed.a)
        && aligned(product.k, product.n, product.transposed.b)
        && product.n.is_multiple_of(2)
        && product.count <= u16::MAX as usize;
    if !able {
        return None;
    }
    let processors = hardware.num_streaming_multiprocessors.unwrap_or(32) as usize;
    let plans = TILES.iter().map(|&(planes, fragments, stages)| {
        let plan = Blueprint {
            planes,
            fragments,
            stages,
            transposed: product.transposed,
            lower: product.lower,
        };
        match product.triangle_fits(plan.tile().0) {
            true => plan,
            false => Blueprint {
                lower: Lower::None,
                ..plan
            },
        }
    });
    let fitting = |plan: &Blueprint| plan.shared_bytes() <= hardware.max_shared_memory_size;
    let fitting: Vec<_> = plans.filter(fitting).collect();
    // The largest that is no wider than the product and leaves no processor idle, or else the smallest.
    let busy = |plan: &&Blueprint| plan.cubes(product) >= processors && plan.tile().1 <= product.n;
    fitting.iter().find(busy).or(fitting.last()).copied()
}

/// Launches a plan.
pub fn launch(
    client: &Client,
    product: &Product,
    plan: &Blueprint,
    a: Factor<'_>,
    b: Factor<'_>,
    y: &Handle,
) {
    let (tile_m, tile_n) = plan.tile();
    let tiles = (product.m.div_ceil(tile_m), product.n.div_ceil(tile_n));
    let Product { count, m, n, k, .. } = *product;
    let chunks = |elements: usize| (elements / CHUNK) as u32;
    // SAFETY: the kernel reads chunks inside the operands alone, whose lengths are given here, and stores inside `y`.
    #[allow(unsafe_code)]
    unsafe {
        dense::launch_unchecked(
            client,
            CubeCount::Static((tiles.0 * tiles.1) as u32, 1, count as u32),
            CubeDim::new_2d(32, (plan.planes.0 * plan.planes.1) as u32),
            CHUNK,
            2,
            buffer(a.handle, count * m * k / CHUNK),
            buffer(b.handle, count * k * n / CHUNK),
            buffer(y, count * m * n / 2),
            m as u32,
            n as u32,
            k as u32,
            a.heads as u32,
            chunks(a.row),
            chunks(a.inner),
            chunks(a.outer),
            chunks(b.row),
            chunks(b.inner),
            chunks(b.outer),
            *plan,
            product.dtype,
            product.output,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn dense<E: Float, F: Float, V: Size, P: Size>(
    a: &[Vector<E, V>],     // [count, m, k] or [count, k, m]
    b: &[Vector<E, V>],     // [count, k, n] or [count, n, k]
    y: &mut [Vector<F, P>], // [count, m, n]
    m: u32,
    n: u32,
    k: u32,
    heads: u32,
    a_row: u32, // steps in chunks, see `Factor`
    a_inner: u32,
    a_outer: u32,
    b_row: u32,
    b_inner: u32,
    b_outer: u32,
    #[comptime] plan: Blueprint,
    #[define(E)] _dtype: ElemType,
    #[define(F)] _output: ElemType,
) {
    let def = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let va = def.vector_size(MatrixIdent::A);
    let size!(NA) = va;
    let vc = def.vector_size(MatrixIdent::Accumulator);
    let size!(NC) = vc;

    let tile_m = comptime!(plan.tile().0);
    let tile_n = comptime!(plan.tile().1);
    let fm = comptime!(plan.fragments.0);
    let fn_ = comptime!(plan.fragments.1);
    let stages = comptime!(plan.stages);
    let chunks_a = comptime!(plan.chunks().0);
    let chunks_b = comptime!(plan.chunks().1);
    let stage = comptime!(plan.chunks().0 + plan.chunks().1);
    // Chunks of a row of a stage.
    let width_a = comptime!(plan.widths().0);
    let width_b = comptime!(plan.widths().1);

    let (m, n, k) = (m as usize, n as usize, k as usize);
    let tiles_m = m.div_ceil(tile_m);
    let tiles_n = n.div_ceil(tile_n);
    let cube = CUBE_POS_X as usize;
    let band = cube / (tiles_m * BAND);
    let in_band = cube % (tiles_m * BAND);
    let wide = min(tiles_n - band * BAND, BAND.runtime());
    let first_m = in_band / wide * tile_m;
    let first_n = (band * BAND + in_band % wide) * tile_n;
    let batch = CUBE_POS_Z as usize;
    let (sequence, head) = (batch / heads as usize, batch % heads as usize);
    let a_start = sequence * a_outer as usize + head * a_inner as usize;
    let b_start = sequence * b_outer as usize + head * b_inner as usize;
    let (a_row, b_row) = (a_row as usize, b_row as usize);

    // Steps that a triangle leaves: row r is position r mod (columns of the triangle).
    if comptime!(matches!(plan.lower, Lower::Product)) && first_n >= first_m % n + tile_m {
        terminate!();
    }
    let steps = k.div_ceil(STEP);
    let begin = if comptime!(matches!(plan.lower, Lower::A) && plan.transposed.a) {
        first_m / STEP
    } else {
        0usize.runtime()
    };
    let end = if comptime!(matches!(plan.lower, Lower::A) && !plan.transposed.a) {
        min(steps, (first_m % k + tile_m).div_ceil(STEP))
    } else {
        steps
    };

    let lane = UNIT_POS_X as usize;
    let plane_m = UNIT_POS_Y as usize / comptime!(plan.planes.1) * comptime!(fm * 16);
    let plane_n = UNIT_POS_Y as usize % comptime!(plan.planes.1) * comptime!(fn_ * 8);

    let mut ring = Shared::<[Vector<E, V>]>::new_slice(comptime!(plan.stages * stage));
    let mut acc = Array::<Vector<f32, NC>>::new(comptime!(fm * fn_ * 2));
    #[unroll]
    for i in 0..comptime!(fm * fn_ * 2) {
        acc[i] = Vector::new(f32::new(0.0_f32));
    }

    // The first stages.
    #[unroll]
    for s in 0..comptime!(stages - 1) {
        let into = comptime!(s * stage);
        let from = begin + s;
        stage_in::<E, V>(
            a,
            &mut ring,
            into,
            from,
            end,
            a_start,
            a_row,
            m,
            k,
            first_m,
            width_a,
            chunks_a,
            comptime!(plan.transposed.a),
            plan,
        );
        stage_in::<E, V>(
            b,
            &mut ring,
            into + chunks_a,
            from,
            end,
            b_start,
            b_row,
            n,
            k,
            first_n,
            width_b,
            chunks_b,
            comptime!(!plan.transposed.b),
            plan,
        );
        commit();
    }

    for step in 0..end - begin {
        // All but the newest stages have arrived, for every unit, and nobody reads the oldest any more.
        wait(comptime!(stages - 2));
        sync_cube();
        let next = step + comptime!(stages - 1);
        let into = next % stages * stage;
        let from = begin + next;
        stage_in::<E, V>(
            a,
            &mut ring,
            into,
            from,
            end,
            a_start,
            a_row,
            m,
            k,
            first_m,
            width_a,
            chunks_a,
            comptime!(plan.transposed.a),
            plan,
        );
        stage_in::<E, V>(
            b,
            &mut ring,
            into + chunks_a,
            from,
            end,
            b_start,
            b_row,
            n,
            k,
            first_n,
            width_b,
            chunks_b,
            comptime!(!plan.transposed.b),
            plan,
        );
        commit();

        let at_a = step % stages * stage;
        let at_b = at_a + chunks_a;
        #[unroll]
        for part in 0..comptime!(STEP / 16) {
            let mut b_parts = Array::<Vector<E, NA>>::new(comptime!(fn_ * 2));
            #[unroll]
            for f in 0..comptime!(fn_ / 2) {
                // Four matrices of 8 x 8: the two halves of k for eight columns, then for the next eight.
                let place = if comptime!(plan.transposed.b) {
                    let row = plane_n + f * 16 + lane % 8 + lane / 16 * 8;
                    place(row, part * 2 + lane / 8 % 2, width_b)
                } else {
                    let row = part * 16 + lane % 16;
                    place(row, plane_n / 8 + f * 2 + lane / 16, width_b)
                };
                let at = at_b + place;
                let loaded = def.load_matrix::<Vector<E, V>, NA>(
                    &ring[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    comptime!(!plan.transposed.b),
                );
                #[unroll]
                for i in 0..4usize {
                    b_parts[f * 4 + i] = loaded[i];
                }
            }
            #[unroll]
            for f in 0..fm {
                // Rows 0..8 and 8..16 of the first half of k, then of the second.
                let place = if comptime!(plan.transposed.a) {
                    let row = part * 16 + lane % 8 + lane / 16 * 8;
                    place(row, plane_m / 8 + f * 2 + lane / 8 % 2, width_a)
                } else {
                    let row = plane_m + f * 16 + lane % 16;
                    place(row, part * 2 + lane / 16, width_a)
                };
                let at = at_a + place;
                let a_part = def.load_matrix::<Vector<E, V>, NA>(
                    &ring[at..at + 1],
                    MatrixIdent::A,
                    4usize,
                    comptime!(plan.transposed.a),
                );
                #[unroll]
                for g in 0..fn_ {
                    let mut b_part = Array::<Vector<E, NA>>::new(2usize);
                    b_part[0] = b_parts[g * 2];
                    b_part[1] = b_parts[g * 2 + 1];
                    let at = (f * fn_ + g) * 2;
                    let mut c = Array::<Vector<f32, NC>>::new(2usize);
                    c[0] = acc[at];
                    c[1] = acc[at + 1];
                    let d = def.execute(&a_part, &b_part, &c);
                    acc[at] = d[0];
                    acc[at + 1] = d[1];
                }
            }
        }
    }

    #[unroll]
    for f in 0..fm {
        #[unroll]
        for half in 0..2usize {
            let row = first_m + plane_m + f * 16 + half * 8 + lane / 4;
            if row < m {
                #[unroll]
                for g in 0..fn_ {
                    let column = first_n + plane_n + g * 8 + lane % 4 * 2;
                    if column < n {
                        let pair = acc[(f * fn_ + g) * 2 + half];
                        let mut out = Vector::<F, P>::empty();
                        out.insert(0usize, F::cast_from(pair.extract(0usize)));
                        out.insert(1usize, F::cast_from(pair.extract(1usize)));
                        y[(batch * m * n + row * n + column) / 2] = out;
                    }
                }
            }
        }
    }
}

/// `y = Σ x[part]` over `parts` matrices of `count` numbers, a multiple of 4, of element type `dtype`; sums are f32.
pub fn sum_parts(
    client: &Client,
    x: &Handle,
    y: &Handle,
    parts: usize,
    count: usize,
    dtype: ElemType,
) {
    const UNITS: u32 = 256;
    let vectors = count / 4;
    // SAFETY: the kernel reads inside `x` and writes inside `y` alone, whose lengths are given here.
    #[allow(unsafe_code)]
    unsafe {
        sum_of_parts::launch_unchecked(
            client,
            cube_count(vectors.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            4,
            buffer(x, parts * vectors),
            buffer(y, vectors),
            parts as u32,
            vectors as u32,
            dtype,
        );
    }
}

#[cube(launch_unchecked)]
pub(crate) fn sum_of_parts<F: Float, V: Size>(
    x: &[Vector<F, V>],
    y: &mut [Vector<F, V>],
    parts: u32,
    vectors: u32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < vectors as usize {
        let mut sum = Vector::<f32, V>::new(f32::new(0.0_f32));
        for part in 0..parts as usize {
            sum += Vector::cast_from(x[part * vectors as usize + at]);
        }
        y[at] = Vector::cast_from(sum);
    }
}

/// Where chunk `chunk` of row `row` lies in a stage of rows of `width` chunks.
#[cube]
fn place(row: usize, chunk: usize, #[comptime] width: usize) -> usize {
    row * width + (chunk ^ (row % 8))
}

/// Asks for the part of a factor that step `step` of `end` needs. Its rows, `row_step` chunks apart, run along k if it is
/// `along_k`, else along its other side, whose length is `side` and of which the tile starts at `first`. Chunks beyond the
/// factor become zeros.
#[cube]
fn stage_in<E: Float, V: Size>(
    from: &[Vector<E, V>],
    ring: &mut Shared<[Vector<E, V>]>,
    into: usize,
    step: usize,
    end: usize,
    start: usize,
    row_step: usize,
    side: usize,
    k: usize,
    first: usize,
    #[comptime] width: usize,
    #[comptime] chunks: usize,
    #[comptime] along_k: bool,
    #[comptime] plan: Blueprint,
) {
    let units = comptime!(plan.units());
    let rows_at_once = comptime!(units / width);
    if step < end {
        let unit = UNIT_POS as usize;
        let chunk = unit % width;
        let row = unit / width;
        let (top, left, rows, columns) = if comptime!(along_k) {
            (step * STEP, first / CHUNK, k, side / CHUNK)
        } else {
            (first, step * STEP / CHUNK, side, k / CHUNK)
        };
        let store = into + place(row, chunk, width);
        let source = start + (top + row) * row_step + left + chunk;
        #[unroll]
        for i in 0..comptime!(chunks / units) {
            let to = store + i * units;
            let inside = top + row + i * rows_at_once < rows && left + chunk < columns;
            let at = select(inside, source + i * rows_at_once * row_step, 0usize);
            let len = select(inside, 1usize, 0usize);
            copy_async_checked(&from[at..at + len], &mut ring[to..to + 1], 8u32);
        }
    }
}

/// Closes a group of asynchronous copies.
#[cube]
fn commit() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until at most `pending` groups of this unit's copies are under way.
#[cube]
fn wait(#[comptime] pending: usize) {
    gpu_asm!("cp.async.wait_group {pending};", pending = const pending);
}
