//! What a whole operating system's disk wants of the machine that boots it.

use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What boots a disk, on which devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// What runs first.
    pub firmware: Firmware,
    /// Which devices it finds.
    pub hardware: Hardware,
}

/// What runs before the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// A PC's BIOS.
    Bios,
    /// UEFI, which starts any loader.
    Uefi,
    /// UEFI with Secure Boot: only loaders that Microsoft's keys vouch for are started.
    UefiSecure,
}

/// Which devices a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardware {
    /// Those made for virtual machines, fast and known to every current Linux.
    Virtio,
    /// Those of a usual PC, which every system knows.
    Compatible,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::UefiSecure => "uefi-secure",
        })
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hardware::Virtio => "virtio",
            Hardware::Compatible => "compatible",
        })
    }
}

impl FromStr for Firmware {
    type Err = Error;

    fn from_str(text: &str) -> Result<Firmware, Error> {
        let all = [Firmware::Bios, Firmware::Uefi, Firmware::UefiSecure];
        all.into_iter().find(|one| one.to_string() == text).ok_or_else(|| {
            unknown(format!("unknown firmware {text:?}: use bios, uefi or uefi-secure"))
        })
    }
}

impl FromStr for Hardware {
    type Err = Error;

    fn from_str(text: &str) -> Result<Hardware, Error> {
        let all = [Hardware::Virtio, Hardware::Compatible];
        all.into_iter()
            .find(|one| one.to_string() == text)
            .ok_or_else(|| unknown(format!("unknown hardware {text:?}: use virtio or compatible")))
    }
}

fn unknown(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_a_configuration_and_on_a_command_line_are_the_same() {
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::UefiSecure] {
            assert_eq!(serde_json::to_value(firmware).unwrap(), firmware.to_string());
            assert_eq!(firmware.to_string().parse::<Firmware>().unwrap(), firmware);
        }
        for hardware in [Hardware::Virtio, Hardware::Compatible] {
            assert_eq!(serde_json::to_value(hardware).unwrap(), hardware.to_string());
            assert_eq!(hardware.to_string().parse::<Hardware>().unwrap(), hardware);
        }
        assert!("efi".parse::<Firmware>().is_err());
        assert!("".parse::<Hardware>().is_err());
    }
}
