//! GPU kernels on cold weights inside a captured graph: each result is checked before it is timed.
//!
//! `cargo bench -p bitnet-kernels --features cuda --bench kernels_gpu [-- --sweep] [-- --csv] [-- --dense]`
//! `--dense`: only the dense products of training, beside Burn's.
//! Weights rotate over more than 512 MB, so no launch finds its own in a cache. A time is the median over replays of one
//! graph, divided by its launches; activations are quantized beforehand (`quantize` has its own row).

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(
    unsafe_code,
    reason = "replaying a graph is unsafe: its buffers must be alive"
)]

use std::time::Instant;

use bitnet_kernels::cube::quantize::Layout;
use bitnet_kernels::cube::{
    Capabilities, Operands, Problem, gemv, quantize, routine, tensor_cores,
};
use bitnet_kernels::quantize::absmax;
use bitnet_kernels::{Granularity, PackedTernary, Scale, linear};
use burn::backend::DispatchDevice;
use burn::tensor::{Device, DeviceType, Distribution, FloatDType, Tensor};
use cubecl::client::Client;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::CubeElement;
use cubecl::server::Handle;

/// Bytes of weights that a measurement rotates over.
const COLD: usize = 544 << 20;
/// (d_out, d_in): the four launches of a 2B4T layer (q, k and v fused, gate and up fused).
const LAYER_2B4T: &[(usize, usize)] = &[(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)];
/// The same of the 3B model.
const LAYER_3B: &[(usize, usize)] = &[(4800, 3200), (3200, 3200), (20480, 3200), (3200, 10240)];

/// `x · Wᵀ`.
type Way = fn(Tensor<2>, Tensor<2>) -> Tensor<2>;

struct Bench {
    client: Client,
    device: Device,
    capabilities: Capabilities,
    sweep: bool,
    csv: bool,
}

/// Weights of one shape, many copies, and the trits to check against.
struct Weights {
    trits: Vec<i8>,
    copies: Vec<Handle>,
    scale: Handle,
    bytes: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let kinds: &[DeviceType] = &[
        #[cfg(feature = "cuda")]
        DeviceType::Cuda,
        #[cfg(feature = "rocm")]
        DeviceType::Rocm,
        #[cfg(feature = "wgpu")]
        DeviceType::Wgpu,
    ];
    let mut devices = kinds
        .iter()
        .filter_map(|kind| Device::enumerate(kind.clone()).into_iter().next());
    let device = devices.next();
    let Some(device) = device else {
        eprintln!("no GPU device: nothing to measure");
        return;
    };
    let DispatchDevice::Cube(cube) = device.as_dispatch() else {
        unreachable!("asked for a GPU")
    };
    let client = cube.client();
    let capabilities = Capabilities::of(&client);
    println!("# {device:?} {capabilities:?}");
    let bench = Bench {
        client,
        device,
        capabilities,
        sweep: flag("--sweep"),
        csv: flag("--csv"),
    };
    if bench.csv {
        println!("routine,d_out,d_in,rows,plan,us,gb_per_s,tera_ops");
    }
    bench.warm_up();
    if flag("--dense") {
        for (d_out, d_in) in [(768, 768), (2048, 768), (768, 2048), (32000, 768)] {
            bench.dense((d_out, d_in), 16384);
        }
        return;
    }
    if !flag("--gemm") {
        bench.all_gemv();
    }
    if !flag("--gemv") {
        for rows in [512, 2048] {
            for &shape in LAYER_2B4T {
                bench.gemm(shape, rows);
                bench.burn_bf16(shape, rows);
            }
        }
        for rows in [1, 512] {
            bench.quantize(rows, 2560);
        }
    }
}

impl Bench {
    /// Brings the clocks up: the first measurement of an idle card is a fifth slower.
    fn warm_up(&self) {
        let problem = self.problem(1, 2560, 2560);
        let weights = self.weights(2560, 2560);
        let plan = gemv::blueprint(&problem, &self.capabilities).expect("one row");
        let (operands, _) = self.operands(&problem, &weights, Layout::Planes);
        let start = Instant::now();
        while start.elapsed().as_secs() < 2 {
            self.time(256, |_| {
                gemv::launch(&self.client, &problem, &plan, &operands)
            });
        }
    }

    fn all_gemv(&self) {
        // A sweep compiles dozens of kernels for each shape: the 2B4T layer is enough.
        let layers = if self.sweep {
            &[LAYER_2B4T][..]
        } else {
            &[LAYER_2B4T, LAYER_3B][..]
        };
        for layer in layers {
            let sum: f64 = layer.iter().map(|&shape| self.gemv(shape, 1)).sum();
            println!("# one row, sum of the layer's four shapes: {sum:.2} us");
        }
        let more_rows = if self.sweep { &[4][..] } else { &[2, 4, 8][..] };
        for &rows in more_rows {
            let sum: f64 = LAYER_2B4T.iter().map(|&shape| self.gemv(shape, rows)).sum();
            println!("# {rows} rows, sum of the layer's four shapes: {sum:.2} us");
        }
    }

    fn weights(&self, d_out: usize, d_in: usize) -> Weights {
        let mut state = 7u64;
        let trits: Vec<i8> = (0..d_out * d_in)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                ((state >> 33) % 3) as i8 - 1
            })
            .collect();
        let packed =
            PackedTernary::from_trits(&trits, Scale::Tensor(1.0), d_out, d_in).expect("trits");
        let bytes = packed.words().len() * 4;
        let copies = (COLD.div_ceil(bytes)).max(8);
        let copies =
            (0..copies).map(|_| self.client.create_from_slice(u32::as_bytes(packed.words())));
        let copies = copies.collect();
        Weights {
            trits,
            copies,
            scale: self.client.create_from_slice(f32::as_bytes(&[1.0])),
            bytes,
        }
    }

    fn operands(
        &self,
        problem: &Problem,
        weights: &Weights,
        layout: Layout,
    ) -> (Operands, Vec<i8>) {
        let mut state = 3u64;
        let mut x: Vec<f32> = (0..problem.rows * problem.d_in)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                ((state >> 33) % 255) as f32 - 127.0
            })
            .collect();
        x.chunks_exact_mut(problem.d_in)
            .for_each(|row| row[0] = 127.0);
        let q = absmax(&x, problem.d_in, 127).values;
        let x = self.client.create_from_slice(f32::as_bytes(&x));
        let f32 = ElemType::Float(FloatKind::F32);
        let dims = (problem.rows, problem.d_in);
        let x = quantize::quantize(&self.client, &self.capabilities, x, dims, f32, layout, 127);
        let y = self.client.empty(problem.rows * problem.d_out * 4);
        (
            Operands {
                x,
                codes: weights.copies[0].clone(),
                scale: weights.scale.clone(),
                y,
            },
            q,
        )
    }

    /// Compares a sample of the outputs with plain sums.
    fn check(&self, problem: &Problem, y: &Handle, q: &[i8], trits: &[i8]) -> bool {
        let y = self.client.read_one_unchecked(y.clone());
        let y = f32::from_bytes(&y);
        let rows = (0..problem.rows)
            .step_by((problem.rows / 7).max(1))
            .chain([problem.rows - 1]);
        rows.into_iter().all(|row| {
            (0..problem.d_out)
                .step_by(53)
                .chain([problem.d_out - 1])
                .all(|out| {
                    let q = &q[row * problem.d_in..][..problem.d_in];
                    let trits = &trits[out * problem.d_in..][..problem.d_in];
                    let sum: i32 = q
                        .iter()
                        .zip(trits)
                        .map(|(&q, &t)| i32::from(q) * i32::from(t))
                        .sum();
                    y[row * problem.d_out + out] == sum as f32
                })
        })
    }

    /// Median time of one launch in microseconds, over replays of a graph of `launches`.
    fn time(&self, launches: usize, mut run: impl FnMut(usize)) -> f64 {
        self.client.graph_prepare().expect("graphs");
        for _ in 0..2 {
            (0..launches).for_each(&mut run);
            self.device.sync().expect("synchronized");
        }
        self.client.start_capture().expect("capture starts");
        (0..launches).for_each(&mut run);
        let graph = self.client.stop_capture().expect("capture ends");
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                self.device.sync().expect("synchronized");
                let start = Instant::now();
                for _ in 0..3 {
                    // SAFETY: every buffer of the captured launches is alive: `run` borrows them.
                    unsafe { graph.replay().expect("replayed") };
                }
                self.device.sync().expect("synchronized");
                start.elapsed().as_secs_f64() * 1e6 / (3 * launches) as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    fn report(&self, name: &str, problem: &Problem, plan: &str, bytes: usize, us: f64) {
        let Problem {
            rows, d_out, d_in, ..
        } = *problem;
        let gb = bytes as f64 / us / 1e3;
        let tops = 2.0 * (rows * d_out * d_in) as f64 / us / 1e6;
        if self.csv {
            println!("{name},{d_out},{d_in},{rows},\"{plan}\",{us:.2},{gb:.0},{tops:.1}");
        } else {
            println!(
                "{name:>12} {d_out:>6} x {d_in:<6} rows {rows:<5} {us:8.2} us {gb:6.0} GB/s {tops:7.1} TOP/s  {plan}"
            );
        }
    }

    fn gemv(&self, (d_out, d_in): (usize, usize), rows: usize) -> f64 {
        let problem = self.problem(rows, d_out, d_in);
        let weights = self.weights(d_out, d_in);
        let best = gemv::blueprint(&problem, &self.capabilities).expect("at most 8 rows");
        let mut plans = vec![best];
        if self.sweep {
            let vectors = problem.words() / 4;
            for lanes in [8, 16, 32] {
                for tile in [1, 2, 4] {
                    for units in [32, 64, 128, 256] {
                        let depth = vectors.div_ceil(lanes);
                        if depth * tile > 20 || tile * rows > 32 {
                            continue;
                        }
                        let even = vectors.is_multiple_of(lanes * depth);
                        plans.push(gemv::Blueprint {
                            lanes,
                            tile,
                            slots: units / lanes,
                            depth,
                            even,
                            ..best
                        });
                    }
                }
            }
            plans.dedup();
        }
        let mut results: Vec<_> = plans
            .iter()
            .map(|plan| {
                let (operands, q) = self.operands(&problem, &weights, Layout::Planes);
                gemv::launch(&self.client, &problem, plan, &operands);
                assert!(
                    self.check(&problem, &operands.y, &q, &weights.trits),
                    "wrong result: {plan:?}"
                );
                let us = self.time(weights.copies.len(), |i| {
                    let operands = Operands {
                        codes: weights.copies[i].clone(),
                        ..operands.clone()
                    };
                    gemv::launch(&self.client, &problem, plan, &operands);
                });
                (us, plan)
            })
            .collect();
        let default = results[0].0;
        results[1..].sort_by(|a, b| a.0.total_cmp(&b.0));
        for (us, plan) in results.iter().take(6) {
            let plan = format!(
                "lanes {} tile {} slots {} depth {}",
                plan.lanes, plan.tile, plan.slots, plan.depth
            );
            self.report("gemv", &problem, &plan, weights.bytes, *us);
        }
        default
    }

    fn gemm(&self, (d_out, d_in): (usize, usize), rows: usize) {
        let problem = self.problem(rows, d_out, d_in);
        let weights = self.weights(d_out, d_in);
        let (operands, q) = self.operands(&problem, &weights, Layout::Rows);
        // A quarter of the copies suffices: the outputs alone exceed the cache.
        let copies = weights.copies.len().min(64);
        let best = tensor_cores::blueprint(&problem, &self.capabilities);
        let Ok(best) = best else {
            let routine = routine(&problem, &self.capabilities);
            (routine.launch)(&self.client, &problem, &self.capabilities, &operands);
            assert!(
                self.check(&problem, &operands.y, &q, &weights.trits),
                "wrong result: {}",
                routine.name
            );
            let us = self.time(copies.min(8), |i| {
                let operands = Operands {
                    codes: weights.copies[i].clone(),
                    ..operands.clone()
                };
                (routine.launch)(&self.client, &problem, &self.capabilities, &operands);
            });
            return self.report(routine.name, &problem, "", weights.bytes, us);
        };
        let mut plans = vec![best];
        if self.sweep {
            let tiles = tensor_cores::TILES.iter();
            plans.extend(tiles.map(|tile| tensor_cores::Blueprint {
                planes: tile.planes,
                fragments: tile.fragments,
                ..best
            }));
        }
        for plan in &plans {
            tensor_cores::launch(&self.client, &problem, plan, &operands);
            assert!(
                self.check(&problem, &operands.y, &q, &weights.trits),
                "wrong result: {plan:?}"
            );
            let us = self.time(copies, |i| {
                let operands = Operands {
                    codes: weights.copies[i].clone(),
                    ..operands.clone()
                };
                tensor_cores::launch(&self.client, &problem, plan, &operands);
            });
            let plan = format!("planes {:?} fragments {:?}", plan.planes, plan.fragments);
            self.report("tensor-cores", &problem, &plan, weights.bytes, us);
        }
    }

    /// Burn's own dense product in bf16, what the layer would be without this crate.
    fn burn_bf16(&self, (d_out, d_in): (usize, usize), rows: usize) {
        let (x, w) = (self.bf16([rows, d_in]), self.bf16([d_in, d_out]));
        let us = self.time_eager(|| x.clone().matmul(w.clone()));
        let problem = self.problem(rows, d_out, d_in);
        self.report("burn-bf16", &problem, "", 2 * d_out * d_in, us);
    }

    /// The three products of a layer that is trained in bf16, y = x·Wᵀ, dx = dy·W and dW = dyᵀ·x, with both programs' ways to
    /// them: through autodiff the last two, less the time of the first.
    fn dense(&self, (d_out, d_in): (usize, usize), rows: usize) {
        let problem = self.problem(rows, d_out, d_in);
        let (x, w) = (self.bf16([rows, d_in]), self.bf16([d_out, d_in]));
        let ways: [(&str, Way); 2] = [
            ("dense", |x, w| linear(x, w)),
            ("burn", |x, w| x.matmul(w.transpose())),
        ];
        let largest = |tensor: Tensor<2>| tensor.abs().max().into_scalar::<f32>();
        let [ours, burn] = ways.map(|(_, of)| of(x.clone(), w.clone()).cast(FloatDType::F32));
        let error = largest(ours - burn.clone());
        assert!(error < 0.02 * largest(burn), "wrong product: {error}");
        for (name, of) in ways {
            let us = self.time_eager(|| of(x.clone(), w.clone()));
            self.report(name, &problem, "y", 2 * d_out * d_in, us);
            let both = self.time_eager(|| {
                let tracked = |tensor: &Tensor<2>| tensor.clone().autodiff().require_grad();
                let w = tracked(&w);
                let y = of(tracked(&x), w.clone());
                w.grad(&y.backward()).expect("tracked")
            });
            self.report(name, &problem, "dx, dW", 2 * d_out * d_in, both - us);
        }
    }

    fn bf16(&self, shape: [usize; 2]) -> Tensor<2> {
        Tensor::<2>::random(shape, Distribution::Default, &self.device).cast(FloatDType::BF16)
    }

    /// Median microseconds of a launch without a graph, for what takes longer than its launch.
    fn time_eager(&self, launch: impl Fn() -> Tensor<2>) -> f64 {
        let mut times: Vec<f64> = (0..7)
            .map(|_| {
                self.device.sync().expect("synchronized");
                let start = Instant::now();
                let kept: Vec<_> = (0..20).map(|_| launch()).collect();
                self.device.sync().expect("synchronized");
                drop(kept);
                start.elapsed().as_secs_f64() * 1e6 / 20.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    fn quantize(&self, rows: usize, d_in: usize) {
        let x = self
            .client
            .create_from_slice(f32::as_bytes(&vec![0.5f32; rows * d_in]));
        let f32 = ElemType::Float(FloatKind::F32);
        let us = self.time(64, |_| {
            let (x, dims) = (x.clone(), (rows, d_in));
            quantize::quantize(
                &self.client,
                &self.capabilities,
                x,
                dims,
                f32,
                Layout::Rows,
                127,
            );
        });
        self.report(
            "quantize",
            &self.problem(rows, 0, d_in),
            "",
            rows * d_in * 5,
            us,
        );
    }

    fn problem(&self, rows: usize, d_out: usize, d_in: usize) -> Problem {
        let output = ElemType::Float(FloatKind::F32);
        Problem {
            rows,
            d_out,
            d_in,
            granularity: Granularity::Tensor,
            output,
        }
    }
}
