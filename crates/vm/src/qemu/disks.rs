//! Disks: on the command line, and of a VM that runs.
//!
//! A disk's device and the block node behind it are called `vd1` and `disk1`, by its place among the
//! VM's disks.

use super::arguments::{Fields, Line};
use super::control::{ANSWER_DEADLINE, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{DiskAttachment, DiskSource};
use serde_json::{Value, json};

/// Adds a block node; returns its name. A guest's flush reaches the node and a discard is passed
/// on; zeroes are not looked for, since the server below knows its holes.
pub(super) fn add_node(line: &mut Line, number: usize, disk: &DiskAttachment) -> String {
    let name = node(number);
    let access = if disk.read_only { "on" } else { "off" };
    let node = format!(
        "node-name={name},read-only={access},discard=unmap,detect-zeroes=off,\
         cache.direct=off,cache.no-flush=off"
    );
    let node = match &disk.source {
        DiskSource::Nbd { socket, export } => {
            Fields::new(format!("driver=nbd,{node},server.type=unix,server.path="))
                .value(socket)
                .text(",export=")
                .value(export)
        }
        DiskSource::RawFile { path } => {
            Fields::new(format!("driver=raw,{node},file.driver=file,file.filename=")).value(path)
        }
        DiskSource::Empty => Fields::new(format!("driver=null-co,size=0,{node}")),
    };
    line.option("-blockdev", node);
    name
}

/// Returns the usual device of a disk. Every failure is the guest's to handle: by default QEMU would
/// halt it when the host is out of space, for good.
pub(super) fn virtio(number: usize, disk: &DiskAttachment) -> Fields {
    let (device, node) = (device(number), node(number));
    let device = format!(
        "virtio-blk-pci,id={device},drive={node},write-cache=on,werror=report,rerror=report,serial="
    );
    Fields::new(device).value(&disk.serial)
}

fn device(number: usize) -> String {
    format!("vd{number}")
}

fn node(number: usize) -> String {
    format!("disk{number}")
}

impl Control {
    /// Gives the running VM, one that boots a kernel of ours, one more disk, whose number no other has.
    ///
    /// # Errors
    /// `InvalidSpec`; `Control` where QEMU has no place for it or cannot open it. Then it has no such
    /// disk.
    pub fn plug_disk(&self, number: usize, disk: &DiskAttachment) -> Result<()> {
        disk.check()?;
        self.execute_with("blockdev-add", &node_as_json(number, disk)?, ANSWER_DEADLINE)?;
        let arguments = json!({
            "driver": "virtio-blk-pci", "id": device(number), "drive": node(number),
            "write-cache": "on", "werror": "report", "rerror": "report", "serial": disk.serial,
        });
        let plugged = self.execute_with("device_add", &arguments, ANSWER_DEADLINE);
        if plugged.is_err() {
            let node = json!({ "node-name": node(number) });
            self.execute_with("blockdev-del", &node, ANSWER_DEADLINE)?;
        }
        plugged.map(drop)
    }

    /// Puts another disk in the place of one of the running VM's, which the guest does not use, and
    /// tells the guest its size in bytes. Once for each disk.
    ///
    /// # Errors
    /// `InvalidSpec`, `Timeout`, or `Control` with QEMU's reason. Then the VM is of no use but to be
    /// ended.
    pub fn replace_disk(&self, number: usize, disk: &DiskAttachment, bytes: u64) -> Result<()> {
        disk.check()?;
        let next = format!("{}-next", node(number));
        let mut new_node = node_as_json(number, disk)?;
        new_node["node-name"] = next.as_str().into();
        self.execute_with("blockdev-add", &new_node, ANSWER_DEADLINE)?;
        let place = json!({
            "path": format!("/machine/peripheral/{}", device(number)), "property": "drive",
            "value": next,
        });
        self.execute_with("qom-set", &place, ANSWER_DEADLINE)?;
        let size = json!({ "node-name": next, "size": bytes });
        self.execute_with("block_resize", &size, ANSWER_DEADLINE)?;
        let old = json!({ "node-name": node(number) });
        self.execute_with("blockdev-del", &old, ANSWER_DEADLINE).map(drop)
    }

    /// Tells the guest how large one of its disks is, in bytes: what is behind the disk has this size
    /// already.
    ///
    /// # Errors
    /// `Timeout`, or `Control` with QEMU's reason.
    pub fn resize_disk(&self, number: usize, bytes: u64) -> Result<()> {
        let size = json!({ "node-name": node(number), "size": bytes });
        self.execute_with("block_resize", &size, ANSWER_DEADLINE).map(drop)
    }
}

/// What [`add_node`] says, as a command's arguments, which have no way to say a path that is no text.
fn node_as_json(number: usize, disk: &DiskAttachment) -> Result<Value> {
    let text = |path: &std::path::Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let what = format!("path {} is no text", path.display());
            Err(Error::new(ErrorKind::InvalidSpec, what))
        }
    };
    let mut node = json!({
        "node-name": node(number), "read-only": disk.read_only, "discard": "unmap",
        "detect-zeroes": "off", "cache": { "direct": false, "no-flush": false },
    });
    match &disk.source {
        DiskSource::Nbd { socket, export } => {
            node["driver"] = "nbd".into();
            node["server"] = json!({ "type": "unix", "path": text(socket)? });
            node["export"] = export.as_str().into();
        }
        DiskSource::RawFile { path } => {
            node["driver"] = "raw".into();
            node["file"] = json!({ "driver": "file", "filename": text(path)? });
            node["file"]["read-only"] = disk.read_only.into();
        }
        DiskSource::Empty => {
            node["driver"] = "null-co".into();
            node["size"] = 0.into();
        }
    }
    Ok(node)
}
