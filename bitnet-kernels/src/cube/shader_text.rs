//! Every kernel compiled to shader text without a device: what Metal, WebGPU and CUDA would be given.
//!
//! There is no Apple machine to run the Metal kernels on. Instead the Metal text goes through clang's type checker, with
//! the names of Metal's standard library declared, and the WGSL text through naga's full validation and on to the Metal
//! text that wgpu would make of it. This proves names, types and bindings; neither Apple's compiler nor speed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use cubecl::ir::features::Features;
use cubecl::ir::{DeviceIdentity, ElemType, FloatKind, HardwareProperties, MemoryDeviceProperties};
use cubecl::prelude::*;
use cubecl_core::{Compiler, WgpuCompilationOptions};

use super::{float, gemm, gemv, quantize, tensor_cores, ternarize};
use crate::WeightQuantizer;

/// One kernel variant: its name, and how to define it for a target.
struct Variant {
    name: String,
    /// Needs shuffles between the units of a plane.
    planes: bool,
    kernel: Box<dyn Fn() -> cubecl::prelude::KernelDefinition>,
}

fn properties() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 31,
        max_shared_memory_size: 32768,
        max_cube_count: (u16::MAX.into(), u16::MAX.into(), u16::MAX.into()),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    Arc::new(DeviceProperties::new(
        Features::default(),
        MemoryDeviceProperties::new(u64::MAX, 256),
        hardware,
        cubecl_core::profile::TimingMethod::Device,
        DeviceIdentity {
            name: "offline".into(),
            fingerprint: "offline".into(),
            physical: None,
        },
    ))
}

/// Units in a cube, and the three arguments that every kernel starts with.
fn start(units: (u32, u32)) -> (KernelSettings, Arc<DeviceProperties>, Arc<TargetProperties>) {
    let dim = CubeDim::new_2d(units.0, units.1);
    let settings = KernelSettings::new(*dim, ExecutionMode::Checked, AddressType::U32);
    (
        settings,
        properties(),
        Arc::new(TargetProperties::default()),
    )
}

fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

#[test]
fn dump_mma() {
    let (settings, properties, target) = start((32, 8));
    let plan = tensor_cores::Blueprint {
        planes: (2, 4),
        fragments: (2, 2),
        grouped: false,
        ptx: true,
    };
    let f32 = ElemType::Float(FloatKind::F32);
    let b = buffer;
    let kernel = tensor_cores::ternary_mma::TernaryMma::new(
        settings,
        properties,
        target,
        b(),
        b(),
        b(),
        b(),
        b(),
        b(),
        (),
        (),
        (),
        (),
        (),
        2,
        4,
        plan,
        f32,
    );
    let text = cubecl_cpp::shared::CppCompiler::<cubecl_cpp::target::Cuda>::default()
        .compile(kernel.define(), &Default::default())
        .unwrap();
    std::fs::write("/tmp/mma.cu", text.to_string()).unwrap();
}
