//! `--device`: a name on the command line to one of Burn's devices.
//!
//! Every name is understood by every build; one whose feature is not built in is refused with the feature to build
//! with. Devices are taken from Burn's enumeration, so a driver that is absent is an error and not a panic.

use std::fmt::{self, Display};
use std::num::NonZeroUsize;
use std::str::FromStr;

use anyhow::{Context, bail};
use burn::tensor::{Device, DeviceType};

/// What `--device` asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    kind: Kind,
    index: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Auto,
    Cpu,
    Flex,
    NdArray,
    Gpu(Gpu),
}

/// A way to reach GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gpu {
    Cuda,
    Rocm,
    Metal,
    Vulkan,
    Wgpu,
}

const NAMES: &[(&str, Kind)] = &[
    ("auto", Kind::Auto),
    ("cpu", Kind::Cpu),
    ("flex", Kind::Flex),
    ("ndarray", Kind::NdArray),
    ("cuda", Kind::Gpu(Gpu::Cuda)),
    ("rocm", Kind::Gpu(Gpu::Rocm)),
    ("metal", Kind::Gpu(Gpu::Metal)),
    ("vulkan", Kind::Gpu(Gpu::Vulkan)),
    ("wgpu", Kind::Gpu(Gpu::Wgpu)),
];

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let kind = NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some(&(name, kind)) = kind else {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("no such device; there are {}", known.join(", ")));
        };
        let index = match (index, kind) {
            (None, _) => None,
            (Some(index), Kind::Gpu(_)) => Some(
                index
                    .parse()
                    .map_err(|_| format!("`{index}` is no number: write {name}:0"))?,
            ),
            (Some(_), _) => {
                return Err(format!("there is only one `{name}`: leave the number out"));
            }
        };
        Ok(Self { kind, index })
    }
}

impl Choice {
    /// The device, ready for tensors.
    ///
    /// # Errors
    ///
    /// A device that this build or this machine does not have.
    pub(crate) fn open(self) -> anyhow::Result<Device> {
        match self.kind {
            Kind::Auto => Ok(best()),
            Kind::Cpu | Kind::Flex => Ok(Device::flex()),
            Kind::NdArray => ndarray(),
            Kind::Gpu(gpu) => gpu.open(self.index.unwrap_or(0)),
        }
    }

    /// The device and those that follow it, `count` together.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and where there are not so many.
    pub(crate) fn open_from(self, count: NonZeroUsize) -> anyhow::Result<Vec<Device>> {
        let (Kind::Gpu(gpu), 2..) = (self.kind, count.get()) else {
            if count.get() > 1 {
                bail!(
                    "{count} devices: name the kind, such as `--device cuda` for those from cuda:0 on"
                );
            }
            return Ok(vec![self.open()?]);
        };
        let first = self.index.unwrap_or(0);
        (first..first + count.get())
            .map(|index| gpu.open(index))
            .collect()
    }
}

/// The first real GPU, else the CPU; says so where a GPU could have been expected.
fn best() -> Device {
    let built: Vec<Gpu> = Gpu::ALL
        .iter()
        .copied()
        .filter(|gpu| gpu.built().is_some())
        .collect();
    match built.iter().flat_map(|gpu| gpu.devices()).find(is_card) {
        Some(device) => device,
        None => {
            if !built.is_empty() {
                let tried: Vec<String> = built.iter().map(Gpu::to_string).collect();
                log::warn!(
                    "no GPU found by way of {}: running on the CPU; `bitnet-burn doctor` shows the devices",
                    tried.join(", ")
                );
            }
            Device::flex()
        }
    }
}

/// The devices of this build that compute on the CPU, with their names.
pub(crate) fn cpus() -> Vec<(&'static str, Device)> {
    #[cfg(feature = "ndarray")]
    #[expect(
        deprecated,
        reason = "Burn deprecates NdArray, but users still ask for it"
    )]
    let ndarray = Some(("ndarray", Device::ndarray()));
    #[cfg(not(feature = "ndarray"))]
    let ndarray = None;
    [("flex", Device::flex())]
        .into_iter()
        .chain(ndarray)
        .collect()
}

fn ndarray() -> anyhow::Result<Device> {
    let found = cpus().into_iter().find(|(name, _)| *name == "ndarray");
    let (_, device) = found.context(
        "this program was built without NdArray. Build it with `--features ndarray`, or use `--device cpu`",
    )?;
    Ok(device)
}

impl Gpu {
    /// Best first: the vendor's own interface before a portable one.
    pub(crate) const ALL: &[Self] = &[
        Self::Cuda,
        Self::Rocm,
        Self::Metal,
        Self::Vulkan,
        Self::Wgpu,
    ];

    /// Burn's name for it, if its feature is built in.
    fn built(self) -> Option<DeviceType> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(DeviceType::Cuda),
            #[cfg(feature = "rocm")]
            Self::Rocm => Some(DeviceType::Rocm),
            #[cfg(feature = "metal")]
            Self::Metal => Some(DeviceType::Metal),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(DeviceType::Vulkan),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(DeviceType::Wgpu),
            #[allow(unreachable_patterns, reason = "not with every feature at once")]
            _ => None,
        }
    }

    /// The feature that brings it, and what the machine needs.
    fn needs(self) -> (&'static str, &'static str) {
        match self {
            Self::Cuda => ("cuda-cpp", "an NVIDIA driver, NVRTC and the CUDA headers"),
            Self::Rocm => ("rocm", "ROCm"),
            Self::Metal => ("metal", "macOS 15 or newer"),
            Self::Vulkan => ("vulkan", "a Vulkan driver"),
            Self::Wgpu => ("wgpu", "a Vulkan, Metal or DirectX 12 driver"),
        }
    }

    /// Every device that it reaches; none where feature or driver is absent.
    pub(crate) fn devices(self) -> Vec<Device> {
        self.built()
            .map(|kind| Device::enumerate(kind).into_vec())
            .unwrap_or_default()
    }

    fn open(self, index: usize) -> anyhow::Result<Device> {
        let (feature, driver) = self.needs();
        if self.built().is_none() {
            bail!(
                "this program was built without {self}. Build it with `--features {feature}`, or use `--device auto`"
            );
        }
        let devices = self.devices();
        let count = devices.len();
        devices.into_iter().nth(index).with_context(|| match count {
            0 => format!(
                "no {self} device on this machine. It needs {driver}; `--device cpu` always runs"
            ),
            _ => format!("no device {self}:{index}: there are {count}, numbered from 0"),
        })
    }
}

impl Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = NAMES.iter().find(|(_, kind)| *kind == Kind::Gpu(*self));
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// What the hardware calls itself, and whether it is a card rather than a program that plays one. Opens the device.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu"))]
pub(crate) fn identity(device: &Device) -> Option<(String, bool)> {
    let identity = device.identity()?;
    Some((identity.name, identity.physical.is_some()))
}

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "wgpu")))]
pub(crate) fn identity(_: &Device) -> Option<(String, bool)> {
    None
}

fn is_card(device: &Device) -> bool {
    identity(device).is_some_and(|(_, card)| card)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_understood_and_only_gpus_have_numbers() {
        for (name, kind) in NAMES {
            assert_eq!(
                name.parse(),
                Ok(Choice {
                    kind: *kind,
                    index: None
                })
            );
            let numbered = format!("{name}:2").parse::<Choice>();
            assert_eq!(numbered.is_ok(), matches!(kind, Kind::Gpu(_)), "{name}");
        }
        assert!("tpu".parse::<Choice>().unwrap_err().contains("flex"));
        assert!("cuda:x".parse::<Choice>().unwrap_err().contains("cuda:0"));
    }

    #[test]
    fn the_cpu_opens_in_every_build() {
        assert_eq!(
            "cpu".parse::<Choice>().unwrap().open().unwrap(),
            Device::flex()
        );
    }

    #[test]
    fn several_devices_are_those_of_a_named_kind() {
        let several = |text: &str, count| {
            let choice: Choice = text.parse().unwrap();
            choice.open_from(NonZeroUsize::new(count).unwrap())
        };
        assert_eq!(several("cpu", 1).unwrap(), [Device::flex()]);
        let refused = several("cpu", 2).unwrap_err().to_string();
        assert!(refused.contains("--device cuda"), "{refused}");
        assert!(several("cuda:4095", 2).is_err());
    }

    #[test]
    fn a_gpu_that_is_not_built_in_is_refused_with_its_feature() {
        for gpu in Gpu::ALL.iter().filter(|gpu| gpu.built().is_none()) {
            let refused = gpu.open(0).unwrap_err().to_string();
            assert!(
                refused.contains(&format!("--features {}", gpu.needs().0)),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_number_that_no_device_has_is_refused() {
        for gpu in Gpu::ALL {
            assert!(gpu.open(4096).is_err());
        }
    }
}
