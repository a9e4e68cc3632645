//! A script that makes and starts the machine on Hyper-V. Source: the Hyper-V module's cmdlets.

use super::{Exported, refused};
use crate::error::Result;
use crate::store::oci::Firmware;
use ireko_protocol::export::ExportFormat;

pub(super) fn write(exported: &Exported<'_>) -> Result<String> {
    let firmware = exported.machine.config.firmware;
    let generation = match firmware {
        Firmware::Bios => 1,
        Firmware::Uefi | Firmware::UefiSecure => 2,
    };
    match exported.format {
        ExportFormat::Vhdx => {}
        ExportFormat::Vhd | ExportFormat::VhdFixed if generation == 1 => {}
        other => return Err(refused("Hyper-V", other, "as vhdx")),
    }
    let (name, file) = (quoted(exported.name), quoted(exported.file));
    let machine = exported.machine;
    let secure_boot = match firmware {
        Firmware::Bios => "",
        Firmware::Uefi => "Set-VMFirmware -VM $vm -EnableSecureBoot Off\n",
        Firmware::UefiSecure => {
            "Set-VMFirmware -VM $vm -EnableSecureBoot On -SecureBootTemplate \
             'MicrosoftUEFICertificateAuthority'\n"
        }
    };
    Ok(format!(
        "# Makes a virtual machine of the disk beside this file, and starts it. Run as administrator:\n\
         #   powershell -ExecutionPolicy Bypass -File THIS-FILE [-Name NAME] [-Switch SWITCH]\n\
         param(\n\
         \x20   [string] $Name = {name},\n\
         \x20   [string] $Switch = ''\n\
         )\n\
         $ErrorActionPreference = 'Stop'\n\
         $disk = Join-Path -Path $PSScriptRoot -ChildPath {file}\n\
         $vm = New-VM -Name $Name -Generation {generation} -MemoryStartupBytes {memory}MB -VHDPath $disk\n\
         Set-VMProcessor -VM $vm -Count {vcpus}\n\
         Set-VMComPort -VM $vm -Number 1 -Path \"\\\\.\\pipe\\$Name\"\n\
         {secure_boot}\
         if ($Switch) {{\n\
         \x20   Connect-VMNetworkAdapter -VMName $Name -SwitchName $Switch\n\
         }}\n\
         Start-VM -VM $vm\n",
        memory = machine.memory_mib,
        vcpus = machine.vcpus,
    ))
}

/// In single quotes nothing means anything but they themselves; PowerShell takes typographic ones
/// for them.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for character in text.chars() {
        quoted.push(character);
        if matches!(character, '\'' | '\u{2018}'..='\u{201b}') {
            quoted.push(character);
        }
    }
    quoted + "'"
}
