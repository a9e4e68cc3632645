//! A shell script that runs the machine by QEMU.

use super::{Exported, refused};
use crate::error::Result;
use crate::store::oci::{Firmware, Hardware};
use ireko_protocol::export::ExportFormat;

/// Hardware virtualisation where it is there; a host whose own does not work says so by a variable.
const ACCEL: &str = "accel=\"${ACCEL:-kvm:tcg}\"";
/// Where distributions keep UEFI: code and variables.
const PLACES: &str = "/usr/share/OVMF /usr/share/edk2/x64 /usr/share/edk2/ovmf /usr/share/qemu";

pub(super) fn write(exported: &Exported<'_>) -> Result<String> {
    let driver = match exported.format {
        ExportFormat::Qcow2 => "qcow2",
        ExportFormat::Raw => "raw",
        ExportFormat::Vmdk => "vmdk",
        ExportFormat::Vhd | ExportFormat::VhdFixed => "vpc",
        ExportFormat::Vhdx => "vhdx",
        ExportFormat::Zip => return Err(refused("qemu", ExportFormat::Zip, "as qcow2")),
    };
    let machine = exported.machine;
    let (uefi, kind) = firmware(machine.config.firmware, exported.name);
    let devices = match machine.config.hardware {
        Hardware::Virtio => {
            "-device virtio-blk-pci,drive=disk0,bootindex=0 \\\n    \
             -nic user,model=virtio-net-pci -device virtio-rng-pci -device virtio-tablet-pci \\\n    \
             -device virtio-balloon-pci,free-page-reporting=on"
        }
        Hardware::Compatible => {
            "-device ide-hd,drive=disk0,bootindex=0 \\\n    \
             -nic user,model=e1000 -device qemu-xhci -device usb-tablet"
        }
    };
    Ok(format!(
        "#!/bin/sh\n\
         # Runs the disk beside this file. What follows on the command line goes to QEMU:\n\
         #   sh THIS-FILE -display none      the serial console alone\n\
         # ACCEL=tcg does without hardware virtualisation.\n\
         set -eu\n\
         cd \"$(dirname -- \"$0\")\"\n\
         {uefi}\
         exec qemu-system-x86_64 {kind} -cpu max \\\n    \
         -m {memory}M -smp {vcpus} -nodefaults -device VGA -serial mon:stdio \\\n    \
         -blockdev {disk} \\\n    \
         {devices} \"$@\"\n",
        memory = machine.memory_mib,
        vcpus = machine.vcpus,
        disk = word(&format!(
            "driver={driver},node-name=disk0,discard=unmap,file.driver=file,file.filename={}",
            exported.file.replace(',', ",,")
        )),
    ))
}

/// What finds UEFI and gives this machine variables of its own, and the arguments that use them.
fn firmware(firmware: Firmware, name: &str) -> (String, String) {
    let (code, variables, secure) = match firmware {
        Firmware::Bios => return (String::new(), format!("-machine q35,{ACCEL}")),
        Firmware::Uefi => (
            "OVMF_CODE_4M.fd OVMF_CODE.4m.fd OVMF_CODE.fd",
            "OVMF_VARS_4M.fd OVMF_VARS.4m.fd OVMF_VARS.fd",
            "off",
        ),
        Firmware::UefiSecure => (
            "OVMF_CODE_4M.ms.fd OVMF_CODE_4M.secboot.fd OVMF_CODE.secboot.fd",
            "OVMF_VARS_4M.ms.fd OVMF_VARS.secboot.fd",
            "on",
        ),
    };
    let nvram = word(&format!("./{}.nvram", name.replace(',', "_")));
    let script = format!(
        "first() {{\n\
         \x20   for folder in {PLACES}; do\n\
         \x20       for file in \"$@\"; do\n\
         \x20           if [ -r \"$folder/$file\" ]; then echo \"$folder/$file\"; return; fi\n\
         \x20       done\n\
         \x20   done\n\
         \x20   echo \"there is none of these: $* (package ovmf)\" >&2\n\
         \x20   exit 1\n\
         }}\n\
         code=$(first {code})\n\
         nvram={nvram}\n\
         [ -e \"$nvram\" ] || cp \"$(first {variables})\" \"$nvram\"\n"
    );
    let secured =
        if secure == "on" { " -global driver=cfi.pflash01,property=secure,value=on" } else { "" };
    let kind = format!(
        "-machine q35,{ACCEL},smm={secure}{secured} \\\n    \
         -drive if=pflash,unit=0,format=raw,readonly=on,file=\"$code\" \\\n    \
         -drive if=pflash,unit=1,format=raw,file=\"$nvram\""
    );
    (script, kind)
}

/// A word of a shell's.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
