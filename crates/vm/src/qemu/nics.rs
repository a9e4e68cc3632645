//! Network devices: on the command line, and of a VM that runs.
//!
//! A device and its wire are called `nic3` and `net3`, by its number.

use super::arguments::{Fields, Line};
use super::control::{ANSWER_DEADLINE, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Boot, Cable, Hardware, Nic};
use serde_json::json;
use std::time::Duration;

/// Slots of a machine for devices that come and go while it runs. A utility VM's chipset needs none.
pub(super) const SLOTS: usize = 4;

/// Which devices a VM takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicKind {
    /// At its start.
    first: &'static str,
    /// While it runs.
    later: &'static str,
    has_slots: bool,
}

impl NicKind {
    /// Those that fit what a VM boots.
    pub fn of(boot: &Boot) -> Self {
        let virtio = "virtio-net-pci";
        match boot {
            Boot::Kernel(_) | Boot::Saved(_) => {
                Self { first: virtio, later: virtio, has_slots: false }
            }
            Boot::Firmware(boot) => match boot.hardware {
                Hardware::Virtio => Self { first: virtio, later: virtio, has_slots: true },
                // The slots take PCI Express, the systems of old do not.
                Hardware::Compatible => Self { first: "e1000", later: "e1000e", has_slots: true },
            },
        }
    }

    /// The slot of a VM's device.
    fn slot(self, number: usize) -> Option<String> {
        (self.has_slots && number < SLOTS).then(|| slot(number))
    }
}

fn slot(number: usize) -> String {
    format!("slot{number}")
}

fn device(number: usize) -> String {
    format!("nic{number}")
}

fn wire(number: usize) -> String {
    format!("net{number}")
}

fn mac(nic: &Nic) -> String {
    let bytes: Vec<_> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Adds the slots and devices that a VM starts with. QEMU is the one that listens, since it takes a
/// new connection after a lost one but makes none itself; until it has one, the guest's frames are
/// dropped. A TAP device has no offloads, so that a saved VM fits either kind of cable. There is no
/// boot ROM: nothing is booted from the network.
pub(super) fn add(line: &mut Line, kind: NicKind, nics: &[Nic]) {
    for number in (0..SLOTS).filter(|_| kind.has_slots) {
        let id = slot(number);
        line.option("-device", format!("pcie-root-port,id={id},chassis={}", number + 1));
    }
    for (number, nic) in nics.iter().enumerate() {
        let id = wire(number);
        line.option(
            "-netdev",
            match &nic.cable {
                Cable::Socket(path) => {
                    let socket = format!("stream,id={id},server=on,addr.type=unix,addr.path=");
                    Fields::new(socket).value(path)
                }
                Cable::Tap(name) => Fields::new(format!("tap,id={id},ifname="))
                    .value(name)
                    .text(",script=no,downscript=no,vnet_hdr=off"),
            },
        );
        let bus = match kind.slot(number) {
            Some(slot) if kind.first == kind.later => format!(",bus={slot}"),
            _ => String::new(),
        };
        let (model, id, net, mac) = (kind.first, device(number), wire(number), mac(nic));
        line.option("-device", format!("{model},id={id},netdev={net},mac={mac},romfile={bus}"));
    }
}

impl Control {
    /// Gives the running VM one more network device, whose number no other has.
    ///
    /// # Errors
    /// `Control` where the VM has no place for it, or has ended; then it has no such device.
    pub fn plug_nic(&self, kind: NicKind, number: usize, nic: &Nic) -> Result<()> {
        nic.check()?;
        if kind.has_slots && number >= SLOTS {
            let full = format!("a running machine has {SLOTS} slots for network devices");
            return Err(Error::new(ErrorKind::Control, "add a network device").because(full));
        }
        let (id, net) = (device(number), wire(number));
        let arguments = match &nic.cable {
            Cable::Socket(path) => json!({
                "type": "stream", "id": net, "server": true,
                "addr": { "type": "unix", "path": path },
            }),
            Cable::Tap(name) => json!({
                "type": "tap", "id": net, "ifname": name,
                "script": "no", "downscript": "no", "vnet_hdr": false,
            }),
        };
        self.execute_with("netdev_add", &arguments, ANSWER_DEADLINE)?;
        let mut arguments = json!({
            "driver": kind.later, "id": id, "netdev": net, "mac": mac(nic), "romfile": "",
        });
        if let Some(slot) = kind.slot(number) {
            arguments["bus"] = slot.into();
        }
        let plugged = self.execute_with("device_add", &arguments, ANSWER_DEADLINE);
        if plugged.is_err() {
            self.execute_with("netdev_del", &json!({ "id": net }), ANSWER_DEADLINE)?;
        }
        plugged.map(drop)
    }

    /// Takes a network device from the running VM, whose guest has so long to let go of it. Its wire
    /// is dead in any case.
    ///
    /// # Errors
    /// `Control` where the device cannot be taken while the VM runs, `Timeout` where the guest keeps
    /// it.
    pub fn unplug_nic(&self, number: usize, limit: Duration) -> Result<()> {
        self.set_link(number, false)?;
        let id = device(number);
        self.execute_with("device_del", &json!({ "id": id }), ANSWER_DEADLINE)?;
        self.await_deleted(&id, limit)?;
        let arguments = json!({ "id": wire(number) });
        self.execute_with("netdev_del", &arguments, ANSWER_DEADLINE).map(drop)
    }

    /// Shows the guest that the cable of a network device is in, or out.
    ///
    /// # Errors
    /// `Timeout`, or `Control` where the VM has no such device or has ended.
    pub fn set_link(&self, number: usize, is_up: bool) -> Result<()> {
        let arguments = json!({ "name": device(number), "up": is_up });
        self.execute_with("set_link", &arguments, ANSWER_DEADLINE).map(drop)
    }
}
