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

use super::attention::{attend, plan, store};
use super::rows::team::Team;
use super::{
    Capabilities, dense, dequantize, float, gated, gemm, gemv, norm, quantize, rotate, rows, table,
    ternarize,
};
use crate::{Activation, AttentionShape, CacheFormat, TableFormat, WeightQuantizer};

/// One kernel variant: its name, and how to define it.
struct Variant {
    name: String,
    /// Whether its units shuffle values within a plane.
    shuffles: bool,
    define: Box<dyn Fn() -> KernelDefinition>,
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

fn tensor() -> TensorCompilationArg {
    TensorCompilationArg {
        meta: TensorMetaCompilationArg { len: (), rank: () },
        buffer: buffer(),
    }
}

const F32: ElemType = ElemType::Float(FloatKind::F32);
const F16: ElemType = ElemType::Float(FloatKind::F16);

/// Teams of planes and of cubes, with rows that they hold and rows that they do not.
fn teams() -> Vec<Team> {
    let team = |shuffle, whole, vector, once| Team {
        plan: rows::Blueprint {
            lanes: 32,
            slots: 8,
            shuffle,
        },
        whole,
        vector,
        span: vector,
        turns: 3,
        once,
    };
    vec![
        team(false, false, 1, false),
        team(false, true, 4, true),
        team(true, false, 8, true),
        team(true, true, 4, false),
    ]
}

/// Every kernel with the switches that change its text. `native` devices have 8-bit dot products.
fn variants(native: bool) -> Vec<Variant> {
    let mut all = Vec::new();
    let mut add = |name: String, shuffles: bool, define: Box<dyn Fn() -> KernelDefinition>| {
        all.push(Variant {
            name,
            shuffles,
            define,
        });
    };
    let b = buffer;
    for team in teams() {
        // Norms are of f32, and their rows are held.
        let vector = team.vector.min(4);
        let team = Team {
            vector,
            span: vector,
            once: true,
            ..team
        };
        add(
            format!("norm_rows {team:?}"),
            team.plan.shuffle,
            Box::new(move || {
                let (settings, properties, target) = start((32, 8));
                norm::norm_rows::NormRows::new(
                    settings,
                    properties,
                    target,
                    b(),
                    b(),
                    b(),
                    (),
                    (),
                    (),
                    vector,
                    team,
                )
                .define()
            }),
        );
        add(
            format!("norm_rows_dx {team:?}"),
            team.plan.shuffle,
            Box::new(move || {
                let (settings, properties, target) = start((32, 8));
                norm::norm_rows_dx::NormRowsDx::new(
                    settings,
                    properties,
                    target,
                    b(),
                    b(),
                    b(),
                    b(),
                    b(),
                    (),
                    (),
                    (),
                    vector,
                    team,
                )
                .define()
            }),
        );
    }
    for width in [1, 4] {
        for activation in [Activation::Silu, Activation::Relu2] {
            add(
                format!("open_gates {width} {activation:?}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((256, 1));
                    gated::open_gates::OpenGates::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        (),
                        width,
                        256,
                        activation,
                    )
                    .define()
                }),
            );
            add(
                format!("open_gates_dx {width} {activation:?}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((256, 1));
                    gated::open_gates_dx::OpenGatesDx::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        width,
                        256,
                        activation,
                    )
                    .define()
                }),
            );
        }
        for back in [false, true] {
            add(
                format!("rotate_pairs {width} back {back}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((256, 1));
                    rotate::rotate_pairs::RotatePairs::new(
                        settings,
                        properties,
                        target,
                        tensor(),
                        tensor(),
                        tensor(),
                        tensor(),
                        width,
                        256,
                        width,
                        back,
                    )
                    .define()
                }),
            );
        }
    }
    add(
        "sum_of_parts".to_owned(),
        false,
        Box::new(move || {
            let (settings, properties, target) = start((256, 1));
            let sum = dense::sum_of_parts::SumOfParts::new;
            sum(settings, properties, target, b(), b(), (), (), 4, F32).define()
        }),
    );
    add(
        "sort_places".to_owned(),
        false,
        Box::new(move || {
            let (settings, properties, target) = start((256, 1));
            let places = rows::sort_places::SortPlaces::new;
            places(settings, properties, target, b(), b(), b(), (), 256).define()
        }),
    );
    for dtype in [F32, F16] {
        for team in teams() {
            for (layout, limit) in [
                (quantize::Layout::Rows, 127),
                (quantize::Layout::Planes, 127),
                (quantize::Layout::Planes, 7),
            ] {
                let plan = quantize::Blueprint {
                    team: Team {
                        span: team.vector.max(4),
                        ..team
                    },
                    layout,
                    limit,
                };
                add(
                    format!("quantize_rows {dtype:?} {plan:?}"),
                    team.plan.shuffle,
                    Box::new(move || {
                        let (settings, properties, target) = start((32, 8));
                        quantize::quantize_rows::QuantizeRows::new(
                            settings,
                            properties,
                            target,
                            b(),
                            b(),
                            b(),
                            b(),
                            (),
                            (),
                            (),
                            team.vector,
                            plan.team.span / 4,
                            plan,
                            dtype,
                        )
                        .define()
                    }),
                );
            }
            add(
                format!("fake_quantize_rows {dtype:?} {team:?}"),
                team.plan.shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    quantize::fake_quantize_rows::FakeQuantizeRows::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        (),
                        (),
                        team.vector,
                        team,
                        127,
                        dtype,
                        dtype,
                    )
                    .define()
                }),
            );
            add(
                format!("softmax_rows {dtype:?} {team:?}"),
                team.plan.shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    rows::softmax_rows::SoftmaxRows::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        team.vector,
                        team,
                        dtype,
                    )
                    .define()
                }),
            );
            add(
                format!("softmax_rows_dx {dtype:?} {team:?}"),
                team.plan.shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    rows::softmax_rows_dx::SoftmaxRowsDx::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        team.vector,
                        team,
                        dtype,
                    )
                    .define()
                }),
            );
        }
        for direction in [float::Direction::Forward, float::Direction::Backward] {
            add(
                format!("ternary_float {dtype:?} {direction:?}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((16, 16));
                    let plan = float::Blueprint {
                        side: 16,
                        direction,
                    };
                    float::ternary_float::TernaryFloat::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        (),
                        (),
                        (),
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
        }
        for shuffle in [false, true] {
            let plan = rows::Blueprint {
                lanes: 32,
                slots: 8,
                shuffle,
            };
            add(
                format!("loss_rows {dtype:?} shuffle {shuffle}"),
                shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    rows::loss_rows::LossRows::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
            add(
                format!("loss_rows_dx {dtype:?} shuffle {shuffle}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    rows::loss_rows_dx::LossRowsDx::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
        }
        add(
            format!("embedding_rows_dx {dtype:?}"),
            false,
            Box::new(move || {
                let (settings, properties, target) = start((256, 1));
                rows::embedding_rows_dx::EmbeddingRowsDx::new(
                    settings,
                    properties,
                    target,
                    b(),
                    b(),
                    b(),
                    b(),
                    (),
                    (),
                    (),
                    (),
                    256,
                    dtype,
                )
                .define()
            }),
        );
        for (quantizer, team) in [WeightQuantizer::AbsMean, WeightQuantizer::Sign]
            .into_iter()
            .flat_map(|quantizer| teams().into_iter().map(move |team| (quantizer, team)))
        {
            let plan = ternarize::Blueprint {
                team,
                quantizer,
                single: team.whole,
            };
            add(
                format!("part_sums {dtype:?} {plan:?}"),
                team.plan.shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    ternarize::part_sums::PartSums::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        team.vector,
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
            add(
                format!("pack_words {dtype:?} {plan:?}"),
                team.plan.shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 8));
                    ternarize::pack_words::PackWords::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        (),
                        (),
                        (),
                        team.vector,
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
        }
        add(
            format!("unpack_words {dtype:?}"),
            false,
            Box::new(move || {
                let (settings, properties, target) = start((64, 1));
                let plan = dequantize::Blueprint { units: 64 };
                dequantize::unpack_words::UnpackWords::new(
                    settings,
                    properties,
                    target,
                    b(),
                    b(),
                    b(),
                    (),
                    (),
                    (),
                    (),
                    (),
                    plan,
                    dtype,
                )
                .define()
            }),
        );
        for grouped in [false, true] {
            add(
                format!("ternary_gemm {dtype:?} grouped {grouped}"),
                false,
                Box::new(move || {
                    let (settings, properties, target) = start((16, 16));
                    let plan = gemm::Blueprint {
                        side: 16,
                        grouped,
                        native_dot: native,
                    };
                    gemm::ternary_gemm::TernaryGemm::new(
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
                        4,
                        plan,
                        dtype,
                    )
                    .define()
                }),
            );
            for (rows, shuffle) in [(1, false), (1, true), (8, true)] {
                let plan = gemv::Blueprint {
                    rows,
                    lanes: 16,
                    tile: 1,
                    slots: 2,
                    depth: if native { 3 } else { 1 },
                    even: false,
                    shuffle,
                    grouped,
                    native_dot: native,
                };
                add(
                    format!("ternary_gemv {dtype:?} {plan:?}"),
                    shuffle,
                    Box::new(move || {
                        let (settings, properties, target) = start((16, 2));
                        gemv::ternary_gemv::TernaryGemv::new(
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
                            4,
                            plan,
                            dtype,
                        )
                        .define()
                    }),
                );
            }
        }
    }
    for format in TableFormat::ALL {
        add(
            format!("table_gather {format}"),
            false,
            Box::new(move || {
                let (settings, properties, target) = start((64, 1));
                table::table_gather::TableGather::new(
                    settings,
                    properties,
                    target,
                    b(),
                    b(),
                    b(),
                    b(),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    64,
                    format,
                )
                .define()
            }),
        );
        for (rows, vector, shuffle) in [
            (1, 1, false),
            (1, format.numbers_per_word().min(4), true),
            (4, format.numbers_per_word().min(4), true),
        ] {
            let plan = table::Blueprint {
                format,
                rows,
                lanes: 32,
                slots: 4,
                vector,
                shuffle,
            };
            add(
                format!("table_product {plan:?}"),
                shuffle,
                Box::new(move || {
                    let (settings, properties, target) = start((32, 4));
                    table::table_product::TableProduct::new(
                        settings,
                        properties,
                        target,
                        b(),
                        b(),
                        b(),
                        b(),
                        (),
                        (),
                        (),
                        (),
                        (),
                        vector,
                        plan,
                    )
                    .define()
                }),
            );
        }
    }
    for format in CacheFormat::ALL {
        for (plane, head_dim) in [(0, 5), (32, 128)] {
            let device = Capabilities {
                plane,
                int8_matrix: false,
                native_dot: native,
                processors: 32,
                max_units: 256,
                shared_memory: 32768,
            };
            let plan = store::blueprint(format, head_dim, &device);
            add(
                format!("cache_store {plan:?}"),
                plan.shuffle,
                Box::new(move || {
                    let units = (plan.lanes as u32, plan.slots as u32);
                    let (settings, properties, target) = start(units);
                    store::cache_store::CacheStore::new(
                        settings,
                        properties,
                        target,
                        b(),
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
                        plan,
                    )
                    .define()
                }),
            );
            // Few queries of a long cache, whose positions are split, and many of a short one.
            for (seq, capacity) in [(1, 1000), (70, 70)] {
                let shape = AttentionShape {
                    batch: 1,
                    n_heads: 8,
                    n_kv_heads: 2,
                    seq,
                    capacity,
                    head_dim,
                };
                let (plan, _) = plan::blueprint(shape, format, &device);
                add(
                    format!("cache_attend {plan:?}"),
                    false,
                    Box::new(move || {
                        let (settings, properties, target) = start((plan.units as u32, 1));
                        attend::cache_attend::CacheAttend::new(
                            settings,
                            properties,
                            target,
                            b(),
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
                            (),
                            plan.vector,
                            plan,
                        )
                        .define()
                    }),
                );
                if plan.split {
                    add(
                        format!("cache_merge {plan:?}"),
                        false,
                        Box::new(move || {
                            let (settings, properties, target) = start((plan.units as u32, 1));
                            attend::cache_merge::CacheMerge::new(
                                settings,
                                properties,
                                target,
                                b(),
                                b(),
                                (),
                                (),
                                plan,
                            )
                            .define()
                        }),
                    );
                }
            }
        }
    }
    all
}

/// clang takes Metal for C++ once the names of Metal's standard library are declared. It is strict about types and
/// undeclared names, which is what a code generator gets wrong.
#[test]
fn metal_text_of_every_kernel_type_checks() {
    let shim = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/metal");
    for Variant { name, define, .. } in variants(false) {
        let text = cubecl_cpp::MslCompiler::default().compile(define(), &Default::default());
        let text = text
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .to_string();
        assert!(text.contains("kernel"), "{name}: no entry point in\n{text}");
        let mut clang = Command::new("clang++")
            .args([
                "-fsyntax-only",
                "-x",
                "c++",
                "-std=c++17",
                "--target=aarch64-linux-gnu", // has half precision
                "-Wno-duplicate-decl-specifier",
                "-Wno-unknown-attributes",
                "-I",
                shim,
                "-",
            ])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("clang++ is installed (.ci/packages msl)");
        clang
            .stdin
            .take()
            .expect("piped")
            .write_all(text.as_bytes())
            .expect("written");
        let output = clang.wait_with_output().expect("clang ends");
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}:\n{messages}\n{text}");
    }
}

/// WGSL validated in full by naga, and translated to the Metal text and SPIR-V that wgpu would hand to the driver.
#[test]
fn wgsl_text_of_every_kernel_is_valid_and_translates_to_metal() {
    for Variant {
        name,
        define,
        shuffles,
    } in variants(false)
    {
        let options = WgpuCompilationOptions::default();
        let text = cubecl_wgpu::WgslCompiler.compile(define(), &options);
        let text = text
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .to_string();
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&text)));
        let mut validator = naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::all(),
        );
        let info = validator
            .validate(&module)
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let version = if shuffles { (2, 4) } else { (2, 0) };
        let options = naga::back::msl::Options {
            fake_missing_bindings: true,
            lang_version: version,
            ..Default::default()
        };
        let metal = naga::back::msl::write_string(&module, &info, &options, &Default::default());
        let (metal, _) = metal.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(metal.contains("kernel void"), "{name}: no entry point");
    }
}

#[test]
fn cuda_text_of_every_kernel_is_generated_with_native_dot_products() {
    for Variant { name, define, .. } in variants(true) {
        let text = cubecl_cpp::shared::CppCompiler::<cubecl_cpp::target::Cuda>::default()
            .compile(define(), &Default::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .to_string();
        assert!(text.contains("__global__"), "{name}: no entry point");
    }
}
