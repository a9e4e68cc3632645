//! A domain for `virsh define`. Source: libvirt's "Domain XML format".

use super::{Exported, refused};
use crate::error::Result;
use crate::store::oci::{Firmware, Hardware};
use ireko_protocol::export::ExportFormat;
use std::fmt::Write;

pub(super) fn write(exported: &Exported<'_>) -> Result<String> {
    let driver = match exported.format {
        ExportFormat::Qcow2 => "qcow2",
        ExportFormat::Raw => "raw",
        ExportFormat::Vmdk => "vmdk",
        ExportFormat::Vhd | ExportFormat::VhdFixed => "vpc",
        other @ (ExportFormat::Vhdx | ExportFormat::Zip) => {
            return Err(refused("libvirt", other, "as qcow2 or raw"));
        }
    };
    let machine = exported.machine;
    let (bus, device, model) = match machine.config.hardware {
        Hardware::Virtio => ("virtio", "vda", "virtio"),
        Hardware::Compatible => ("sata", "sda", "e1000"),
    };
    let mut xml = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        xml,
        "<!-- virsh define THIS-FILE; the disk's path is where it was exported to. -->\n\
         <domain type='kvm'>\n\
         \x20 <name>{name}</name>\n\
         \x20 <memory unit='MiB'>{memory}</memory>\n\
         \x20 <vcpu>{vcpus}</vcpu>\n\
         {os}\
         \x20 <features>\n\
         \x20   <acpi/>\n\
         \x20   <apic/>\n\
         {smm}\
         \x20 </features>\n\
         \x20 <cpu mode='host-model'/>\n\
         \x20 <clock offset='utc'/>\n\
         \x20 <on_poweroff>destroy</on_poweroff>\n\
         \x20 <on_reboot>restart</on_reboot>\n\
         \x20 <on_crash>destroy</on_crash>\n\
         \x20 <devices>\n\
         \x20   <disk type='file' device='disk'>\n\
         \x20     <driver name='qemu' type='{driver}' discard='unmap'/>\n\
         \x20     <source file='{disk}'/>\n\
         \x20     <target dev='{device}' bus='{bus}'/>\n\
         \x20   </disk>\n\
         \x20   <interface type='network'>\n\
         \x20     <source network='default'/>\n\
         \x20     <model type='{model}'/>\n\
         \x20   </interface>\n\
         \x20   <serial type='pty'/>\n\
         \x20   <console type='pty'/>\n\
         \x20   <channel type='unix'>\n\
         \x20     <target type='virtio' name='org.qemu.guest_agent.0'/>\n\
         \x20   </channel>\n\
         {devices}\
         \x20   <graphics type='vnc' autoport='yes'/>\n\
         \x20   <video>\n\
         \x20     <model type='vga'/>\n\
         \x20   </video>\n\
         \x20 </devices>\n\
         </domain>\n",
        name = escaped(&domain_name(exported.name)),
        memory = machine.memory_mib,
        vcpus = machine.vcpus,
        os = firmware(machine.config.firmware),
        smm = match machine.config.firmware {
            Firmware::UefiSecure => "    <smm state='on'/>\n",
            Firmware::Bios | Firmware::Uefi => "",
        },
        disk = escaped(&exported.disk.to_string_lossy()),
        devices = match machine.config.hardware {
            Hardware::Virtio => {
                "    <input type='tablet' bus='virtio'/>\n\
                 \x20   <memballoon model='virtio' freePageReporting='on'/>\n\
                 \x20   <rng model='virtio'>\n\
                 \x20     <backend model='random'>/dev/urandom</backend>\n\
                 \x20   </rng>\n"
            }
            Hardware::Compatible => "    <input type='tablet' bus='usb'/>\n",
        },
    );
    Ok(xml)
}

fn firmware(firmware: Firmware) -> String {
    let (attribute, features) = match firmware {
        Firmware::Bios => ("", String::new()),
        Firmware::Uefi | Firmware::UefiSecure => {
            let secure = if firmware == Firmware::UefiSecure { "yes" } else { "no" };
            (
                " firmware='efi'",
                format!(
                    "    <firmware>\n\
                     \x20     <feature enabled='{secure}' name='enrolled-keys'/>\n\
                     \x20     <feature enabled='{secure}' name='secure-boot'/>\n\
                     \x20   </firmware>\n"
                ),
            )
        }
    };
    format!(
        "  <os{attribute}>\n    <type arch='x86_64' machine='q35'>hvm</type>\n{features}    \
         <boot dev='hd'/>\n  </os>\n"
    )
}

/// A name that libvirt takes: it makes files of it.
fn domain_name(name: &str) -> String {
    let plain = |c: char| if c == '/' || c.is_control() { '_' } else { c };
    match name.chars().map(plain).collect::<String>() {
        empty if empty.trim_matches(['.', ' ']).is_empty() => "machine".to_owned(),
        name => name,
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '\'' => escaped += "&apos;",
            '"' => escaped += "&quot;",
            other => escaped.push(other),
        }
    }
    escaped
}
