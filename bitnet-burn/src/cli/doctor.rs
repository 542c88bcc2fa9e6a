//! `doctor`: what this machine has, what this build uses of it, and whether every kernel answers right.
//!
//! The verdicts are those of `bitnet_kernels::self_test`. A device that panics while it is tested (a driver without its
//! compiler, say) is a wrong answer like another, not the end of the examination.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::bail;
use bitnet_burn::kernels::{Verdict, cpu, self_test};
use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::Options;
use super::device::{self, Gpu};
use super::terminal::{self, Table, size};

const EXAMPLES: &str = "\
Examples:
  bitnet-burn doctor                                   Examine this machine; exit code 1 if an answer is wrong
  bitnet-burn doctor --json | jq .kernel               The same for programs
  BITNET_KERNEL=scalar bitnet-burn doctor              With another kernel than the best one";

/// Show the hardware, the kernels chosen for it, and whether they compute right
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    cpu: Cpu,
    memory: Memory,
    /// The kernel that products use.
    kernel: &'static str,
    /// All that run here, best first.
    kernels: Vec<&'static str>,
    threads: usize,
    /// What `--device` chose.
    device: String,
    devices: Vec<Entry>,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    model: String,
    architecture: &'static str,
    cores: usize,
    /// Of the instruction sets that matter here, those present.
    features: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Memory {
    total: u64,
    available: u64,
}

#[derive(Debug, Serialize)]
struct Entry {
    /// As `--device` takes it.
    device: String,
    /// What the hardware calls itself.
    name: String,
}

#[derive(Debug, Serialize)]
struct Check {
    kernel: String,
    ok: bool,
    failure: Option<String>,
}

impl Doctor {
    pub(crate) fn run(self, options: &Options) -> anyhow::Result<()> {
        let report = examine(&options.open_device()?)?;
        let mut out = terminal::out();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            print(&report, &mut out)?;
        }
        let wrong: Vec<&str> = report
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| &*check.kernel)
            .collect();
        if !wrong.is_empty() {
            bail!(
                "wrong answers from {}. BITNET_KERNEL and --device choose others; please report this with the output above",
                wrong.join(", ")
            );
        }
        Ok(())
    }
}

fn examine(chosen: &Device) -> anyhow::Result<Report> {
    let system = System::new_with_specifics(
        RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let model = system
        .cpus()
        .first()
        .map(|cpu| cpu.brand().trim().to_owned());
    let (entries, devices): (Vec<Entry>, Vec<Device>) = devices().into_iter().unzip();
    let chosen = entries
        .iter()
        .zip(&devices)
        .find(|(_, device)| *device == chosen);
    let chosen = chosen
        .map_or("none of those below", |(entry, _)| &entry.device)
        .to_owned();
    let mut verdicts = self_test(&[]);
    for (entry, device) in entries.iter().zip(&devices) {
        verdicts.push(examine_device(entry, device));
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: Cpu {
            model: model
                .filter(|model| !model.is_empty())
                .unwrap_or_else(|| "unknown".into()),
            architecture: std::env::consts::ARCH,
            cores: std::thread::available_parallelism()?.get(),
            features: cpu_features(),
        },
        memory: Memory {
            total: system.total_memory(),
            available: system.available_memory(),
        },
        kernel: cpu::try_kernel()?.name(),
        kernels: cpu::kernels()
            .into_iter()
            .map(|kernel| kernel.name())
            .collect(),
        threads: cpu::threads(),
        device: chosen,
        devices: entries,
        checks: verdicts.into_iter().map(Check::from).collect(),
    })
}

/// Every device of this build and machine.
fn devices() -> Vec<(Entry, Device)> {
    let cpus = device::cpus().into_iter().map(|(name, device)| {
        let entry = Entry {
            device: name.into(),
            name: "this CPU".into(),
        };
        (entry, device)
    });
    let gpus = Gpu::ALL.iter().flat_map(|gpu| {
        gpu.devices()
            .into_iter()
            .enumerate()
            .map(move |(index, device)| {
                let name = match device::identity(&device) {
                    Some((name, true)) => name,
                    Some((name, false)) => format!("{name} (software)"),
                    None => "unknown".into(),
                };
                (
                    Entry {
                        device: format!("{gpu}:{index}"),
                        name,
                    },
                    device,
                )
            })
    });
    cpus.chain(gpus).collect()
}

/// The device's own verdict: the last, after those of the CPU kernels.
fn examine_device(entry: &Entry, device: &Device) -> Verdict {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        self_test(std::slice::from_ref(device)).pop()
    }));
    let failure = match answer {
        Ok(Some(verdict)) => verdict.failure,
        Ok(None) => Some("no verdict".into()),
        Err(panic) => Some(format!("panicked: {}", panic_message(&*panic))),
    };
    Verdict {
        kernel: entry.device.clone(),
        failure,
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

impl From<Verdict> for Check {
    fn from(verdict: Verdict) -> Self {
        Self {
            kernel: verdict.kernel,
            ok: verdict.failure.is_none(),
            failure: verdict.failure,
        }
    }
}

fn print(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let Report { cpu, memory, .. } = report;
    writeln!(out, "bitnet-burn {}", report.version)?;
    writeln!(
        out,
        "CPU       {}, {}, {} threads",
        cpu.model, cpu.architecture, cpu.cores
    )?;
    writeln!(out, "features  {}", cpu.features.join(" "))?;
    writeln!(
        out,
        "memory    {}, {} available",
        size(memory.total),
        size(memory.available)
    )?;
    writeln!(
        out,
        "kernel    {} of {}, up to {} tasks",
        report.kernel,
        report.kernels.join(", "),
        report.threads
    )?;
    writeln!(out, "device    {}", report.device)?;
    let mut table = Table::new(["DEVICE", "HARDWARE"]);
    for entry in &report.devices {
        table.push([entry.device.clone(), entry.name.clone()]);
    }
    writeln!(out, "\n{table}")?;
    let mut table = Table::new(["SELF-TEST", "ANSWERS"]);
    for check in &report.checks {
        let answer = check
            .failure
            .as_ref()
            .map_or("right".into(), |failure| format!("WRONG: {failure}"));
        table.push([check.kernel.clone(), answer]);
    }
    write!(out, "{table}")?;
    Ok(())
}

/// Those that a kernel here, or one that could be written, would use.
fn cpu_features() -> Vec<&'static str> {
    macro_rules! present {
        ($detected:ident: $($name:tt)*) => {
            [$(($name, std::arch::$detected!($name))),*].into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
        };
    }
    #[cfg(target_arch = "x86_64")]
    return present!(is_x86_feature_detected:
        "sse4.1" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vbmi" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return present!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_named_in_the_table() {
        let mut report = examine(&Device::flex()).unwrap();
        report.checks = vec![Check {
            kernel: "cpu/odd".into(),
            ok: false,
            failure: Some("1 is not 2".into()),
        }];
        let mut out = Vec::new();
        print(&report, &mut out).unwrap();
        assert!(
            String::from_utf8(out)
                .unwrap()
                .contains("cpu/odd    WRONG: 1 is not 2")
        );
    }

    #[test]
    fn every_kernel_and_device_has_a_check() {
        let report = examine(&Device::flex()).unwrap();
        assert_eq!(
            report.checks.len(),
            report.kernels.len() + report.devices.len()
        );
        assert_eq!(report.devices[0].device, "flex");
    }

    #[test]
    fn the_message_of_a_panic_is_kept() {
        let panic = catch_unwind(|| panic!("no {}", "compiler")).unwrap_err();
        assert_eq!(panic_message(&*panic), "no compiler");
    }
}
