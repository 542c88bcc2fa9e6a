//! GPU kernels in CubeCL, one source for CUDA, ROCm, Vulkan, Metal and WebGPU.
//!
//! Decisions are taken on the host: a [`Problem`] holds the facts of a product, [`Capabilities`] those of a device, and
//! each entry of [`ROUTINES`] answers with a plan or a [`Refusal`]; the first that plans, runs. Buffers are u32 and i32
//! words, which every runtime has. Integer sums are exact and equal on every device, the activation scale included.

mod arithmetic;
pub mod attention;
pub mod dense;
pub mod dequantize;
pub mod float;
pub mod gated;
pub mod gemm;
pub mod gemv;
pub mod norm;
pub mod quantize;
pub mod rotate;
pub mod rows;
#[cfg(all(test, feature = "shader-text"))]
mod shader_text;
pub mod table;
pub mod tensor_cores;
pub mod ternarize;

use cubecl::client::Client;
use cubecl::ir::features::{MmaConfig, Plane};
use cubecl::ir::{ElemType, IntKind};
use cubecl::prelude::{BufferArg, CubeCount};
use cubecl::server::Handle;

use crate::Granularity;
use crate::packing::words::words_per_row;

/// The facts of one product `[rows, d_in] · [d_out, d_in]ᵀ` of quantized activations and ternary weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Rows of activations (tokens).
    pub rows: usize,
    /// Rows of the weight.
    pub d_out: usize,
    /// Columns of the weight.
    pub d_in: usize,
    /// Scales of the weight.
    pub granularity: Granularity,
    /// Element type of the output: f32, f16 or bf16.
    pub output: ElemType,
}

/// What a device can do, as far as plans depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capabilities {
    /// Smallest plane (warp), if planes can shuffle; 0 if they cannot.
    pub plane: u32,
    /// Whether a plane multiplies int8 matrices of 16 x 8 x 32.
    pub int8_matrix: bool,
    /// Whether packed 8-bit dot products are instructions. Elsewhere CubeCL would emulate them, slower than we do.
    pub native_dot: bool,
    /// Multiprocessors; a guess where the runtime does not tell.
    pub processors: u32,
    /// Most units in a cube.
    pub max_units: u32,
    /// Bytes that the units of a cube share at most.
    pub shared_memory: usize,
}

impl Capabilities {
    /// Asks a device.
    pub fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let features = &properties.features;
        let int8 = ElemType::Int(IntKind::I8);
        let int32 = ElemType::Int(IntKind::I32);
        let matrix = MmaConfig {
            a_type: int8,
            b_type: int8,
            cd_type: int32,
            m: 16,
            n: 8,
            k: 32,
        };
        Self {
            plane: if features.plane.contains(Plane::Ops) {
                hardware.plane_size_min
            } else {
                0
            },
            int8_matrix: features.matmul.mma.contains(&matrix) && hardware.plane_size_min == 32,
            // CubeCL does not tell. CUDA's C++ generator, the one with `__dp4a`, is the one with asynchronous copies;
            // Vulkan drivers with int8 matrices have integer dot products.
            native_dot: features.copy_async
                || features
                    .matmul
                    .cmma
                    .iter()
                    .any(|matrix| matrix.a_type == int8),
            processors: hardware.num_streaming_multiprocessors.unwrap_or(32),
            max_units: hardware.max_units_per_cube,
            shared_memory: hardware.max_shared_memory_size,
        }
    }
}

/// Why a routine does not take a problem on a device, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Device buffers of one product.
#[derive(Debug, Clone)]
pub struct Operands {
    /// Quantized activations, see [`quantize::Int8Rows`].
    pub x: quantize::Int8Rows,
    /// Canonical words of the weight.
    pub codes: Handle,
    /// Scales of the weight, f32.
    pub scale: Handle,
    /// Output `[rows, d_out]`.
    pub y: Handle,
}

/// One way to multiply.
#[derive(Debug)]
pub struct Routine {
    /// Name in logs, tests and benches.
    pub name: &'static str,
    /// The order in which it reads activations.
    pub layout: quantize::Layout,
    /// Says why a problem is refused, if it is.
    pub refuses: fn(&Problem, &Capabilities) -> Option<Refusal>,
    /// Launches the plan for a problem that is not refused.
    pub launch: fn(&Client, &Problem, &Capabilities, &Operands),
}

/// Every routine, best first. The last one takes any problem on any device.
pub static ROUTINES: &[Routine] = &[gemv::ROUTINE, tensor_cores::ROUTINE, gemm::ROUTINE];

/// The first routine that takes the problem.
pub fn routine(problem: &Problem, device: &Capabilities) -> &'static Routine {
    ROUTINES
        .iter()
        .find(|routine| (routine.refuses)(problem, device).is_none())
        .expect("the portable GEMM takes any problem")
}

/// Quantizes `x [rows, d_in]` to codes up to `limit` and multiplies with the best routine: the whole of a layer with
/// quantized activations.
///
/// # Panics
///
/// Panics if a buffer is shorter than the problem says (checked by the backend that calls).
pub fn ternary_linear(
    client: &Client,
    problem: &Problem,
    limit: i8,
    x: Handle,
    codes: Handle,
    scale: Handle,
    y: Handle,
) {
    let device = Capabilities::of(client);
    let routine = routine(problem, &device);
    let x = quantize::quantize(
        client,
        &device,
        x,
        (problem.rows, problem.d_in),
        problem.output,
        routine.layout,
        limit,
    );
    (routine.launch)(client, problem, &device, &Operands { x, codes, scale, y });
}

/// A buffer of `elements` elements as a kernel argument.
pub(crate) fn buffer(handle: &Handle, elements: usize) -> BufferArg {
    // SAFETY: every caller computes `elements` from the shape with which the buffer was made; shapes are proven by
    // `TernaryTensor` and by the backend before a kernel is planned.
    #[allow(unsafe_code)]
    unsafe {
        BufferArg::from_raw_parts(handle.clone(), elements)
    }
}

/// A cube count of at least `cubes`, within the limit of 65,535 per dimension that WebGPU sets.
pub(crate) fn cube_count(cubes: usize) -> CubeCount {
    const LIMIT: usize = u16::MAX as usize;
    if cubes <= LIMIT {
        return CubeCount::Static(cubes as u32, 1, 1);
    }
    let height = cubes.div_ceil(LIMIT);
    CubeCount::Static(cubes.div_ceil(height) as u32, height as u32, 1)
}

/// Scales of one row of a weight, 0 if the whole weight has one: with it a kernel finds any scale by one product.
const fn scale_stride(granularity: Granularity, d_in: usize) -> usize {
    match granularity {
        Granularity::Tensor => 0,
        Granularity::Row => 1,
        Granularity::Group(size) => d_in.div_ceil(size),
    }
}

/// Columns per scale; a whole row where it has one.
const fn scale_span(granularity: Granularity, d_in: usize) -> usize {
    match granularity {
        Granularity::Tensor | Granularity::Row => d_in,
        Granularity::Group(size) => size,
    }
}

impl Problem {
    /// Words of one row of the weight.
    pub const fn words(&self) -> usize {
        words_per_row(self.d_in)
    }

    /// Columns per scale for grouped weights, else 0.
    pub const fn group(&self) -> usize {
        match self.granularity {
            Granularity::Group(size) => size,
            Granularity::Tensor | Granularity::Row => 0,
        }
    }

    /// Scales of one row of the weight, 0 if the whole weight has one.
    pub const fn scale_stride(&self) -> usize {
        scale_stride(self.granularity, self.d_in)
    }

    /// Number of scales.
    pub const fn scales(&self) -> usize {
        self.granularity.count(self.d_out, self.d_in)
    }
}
