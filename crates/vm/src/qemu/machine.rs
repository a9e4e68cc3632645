//! The devices of a machine that boots a disk of somebody's.
//!
//! ```text
//!   virtio       virtio-blk, -rng, -balloon, -tablet, pvpanic        Linux
//!   compatible   AHCI, USB tablet; what is read-only by USB          all others
//!   both         VGA, serial line, PS/2 keyboard, virtio-serial, q35 chipset, power button
//! ```

use super::arguments::{Fields, Line};
use super::disks;
use crate::spec::{DiskAttachment, Firmware, Hardware, MachineBoot};

/// Versioned, so that a newer QEMU presents the same hardware. Not that of our own kernels: Secure
/// Boot needs this chipset's protected memory, and it has AHCI.
const MACHINE: &str = "pc-q35-7.2";

/// Returns the machine and what is built into it.
pub(super) fn kind(boot: &MachineBoot) -> Fields {
    // `usb` would be a controller that systems of today do not need.
    let kind = format!("{MACHINE},usb=off,dump-guest-core=off");
    match &boot.firmware {
        // Without graphics of its own the BIOS shows itself on the serial line too; the VGA stays.
        Firmware::Bios => Fields::new(format!("{kind},graphics=off")),
        Firmware::Uefi(uefi) => {
            let protected = if uefi.secure_boot { "on" } else { "off" };
            Fields::new(format!("{kind},smm={protected},pflash0=code,pflash1=nvram"))
        }
    }
}

/// Adds the devices that the hardware has beside those of every VM.
pub(super) fn devices(line: &mut Line, boot: &MachineBoot) {
    if let Firmware::Uefi(uefi) = &boot.firmware {
        let code = Fields::new("driver=file,node-name=code,read-only=on,filename=");
        line.option("-blockdev", code.value(&uefi.code));
        let nvram = Fields::new("driver=file,node-name=nvram,read-only=off,filename=");
        line.option("-blockdev", nvram.value(&uefi.nvram));
        if uefi.secure_boot {
            // The guest's system cannot write to the variables, only the firmware can.
            line.option("-global", "driver=cfi.pflash01,property=secure,value=on");
        }
    }
    line.option("-device", "VGA,id=screen");
    // A second viewer does not throw the first out.
    let screen = Fields::new("unix:").value(&boot.screen);
    line.option("-vnc", screen.text(",password=on,share=force-shared"));
    match boot.hardware {
        Hardware::Virtio => line
            .option("-device", "virtio-rng-pci,id=random")
            .option("-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on")
            .option("-device", "virtio-tablet-pci,id=tablet")
            .option("-device", "pvpanic"),
        Hardware::Compatible => line
            .option("-device", "qemu-xhci,id=usb")
            .option("-device", "usb-tablet,id=tablet,bus=usb.0"),
    };
}

/// Returns the device of a disk. The first is booted from, one that is read-only never is; AHCI has
/// no disks of that kind.
pub(super) fn disk(hardware: Hardware, number: usize, disk: &DiskAttachment, node: &str) -> Fields {
    let device = match hardware {
        Hardware::Virtio => disks::virtio(number, disk),
        Hardware::Compatible if disk.read_only => {
            Fields::new(format!("usb-storage,id=vd{number},bus=usb.0,drive={node},serial="))
                .value(&disk.serial)
        }
        Hardware::Compatible => Fields::new(format!(
            "ide-hd,id=vd{number},bus=ide.{number},drive={node},write-cache=on,werror=report,\
             rerror=report,serial="
        ))
        .value(&disk.serial),
    };
    if disk.read_only { device } else { device.text(&format!(",bootindex={number}")) }
}
