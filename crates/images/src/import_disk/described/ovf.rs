//! The disks of an OVF description: DSP0243, of DMTF.
//!
//! ```text
//!   References/File           id, href              what is in the archive
//!   DiskSection/Disk          diskId, fileRef       what is on a disk
//!   VirtualHardwareSection    Item: controllers; Item: disks, with Parent and AddressOnParent
//! ```

use super::Described;
use crate::error::{Error, Result};
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeMap;

/// Elements, attributes and texts of a description; more are no machine's.
const MOST_NODES: u32 = 100_000;
/// CIM_ResourceAllocationSettingData.ResourceType.
const IDE: &str = "5";
const SCSI: &str = "6";
const DISK: &str = "17";
/// SATA, and whatever else is storage.
const OTHER_STORAGE: &str = "20";

/// Lists the disks' files: by their controllers in the order of the document, then by their addresses.
pub(super) fn disks(text: &str) -> Result<Vec<Described>> {
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| refused(format_args!("cannot be read: {error}")))?;
    let files = files(&document);
    let contents = contents(&document);
    let machines = document.descendants().filter(|node| is(node, "VirtualSystem"));
    let [machine] = machines.collect::<Vec<_>>()[..] else {
        return Err(refused("describes several machines, or none"));
    };
    // Further ones are alternatives to the first.
    let hardware = machine.descendants().find(|node| is(node, "VirtualHardwareSection"));
    let hardware = hardware.ok_or_else(|| refused("describes no hardware"))?;
    let items = hardware.children().filter(|node| is(node, "Item") || is(node, "StorageItem"));
    let items: Vec<_> = items.collect();
    let mut found = Vec::new();
    for item in &items {
        let resource = said(item, "HostResource").unwrap_or_default();
        let resource = resource.strip_prefix("ovf:").unwrap_or(resource);
        if said(item, "ResourceType") != Some(DISK) {
            continue;
        }
        let file = match resource.split_once("/disk/").or(resource.split_once("/file/")) {
            Some(("", id)) if resource.starts_with("/file/") => id,
            Some(("", id)) => file_of(&contents, id)?,
            _ => return Err(refused(format_args!("names a disk {resource:?}"))),
        };
        let file =
            files.get(file).ok_or_else(|| refused(format_args!("names no file {file:?}")))?;
        let href = plain(file)?;
        let place = place(&items, item, &href)?;
        found.push((place, Described { file: href, name: None }));
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, disk)| disk).collect())
}

fn files<'a>(document: &'a Document<'_>) -> BTreeMap<&'a str, Node<'a, 'a>> {
    let files = document.descendants().filter(|node| is(node, "File"));
    files.filter_map(|node| Some((attribute(&node, "id")?, node))).collect()
}

fn contents<'a>(document: &'a Document<'_>) -> BTreeMap<&'a str, Node<'a, 'a>> {
    let disks = document.descendants().filter(|node| is(node, "Disk"));
    disks.filter_map(|node| Some((attribute(&node, "diskId")?, node))).collect()
}

/// Returns the id of the file that holds a disk.
fn file_of<'a>(contents: &BTreeMap<&'a str, Node<'a, 'a>>, disk: &str) -> Result<&'a str> {
    let node = contents.get(disk).ok_or_else(|| refused(format_args!("names no disk {disk:?}")))?;
    if attribute(node, "parentRef").is_some() {
        return Err(refused(format_args!("has the disk {disk:?} stand on another one")));
    }
    attribute(node, "fileRef").ok_or_else(|| {
        refused(format_args!("wants {disk:?} made as a blank disk"))
            .hint("unpack the archive and import its disk; a container gets blank ones by --disk")
    })
}

/// Returns the name of a file that is in the archive as it is.
fn plain(file: &Node<'_, '_>) -> Result<String> {
    let href = attribute(file, "href").ok_or_else(|| refused("has a file without a name"))?;
    let compression = attribute(file, "compression").filter(|it| !matches!(*it, "" | "identity"));
    if let Some(compression) = compression {
        return Err(refused(format_args!("has {href:?} compressed by {compression}")));
    }
    if attribute(file, "chunkSize").is_some() {
        return Err(refused(format_args!("has {href:?} cut into chunks")));
    }
    Ok(href.to_owned())
}

/// Where a disk is: at the how manyth controller, at which address, mentioned when.
type Place = (usize, u64, usize);

fn place(items: &[Node<'_, '_>], disk: &Node<'_, '_>, file: &str) -> Result<Place> {
    let number = items.iter().position(|item| item == disk).unwrap_or_default();
    let address = match said(disk, "AddressOnParent") {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| refused(format_args!("has {file:?} at the address {text:?}")))?,
    };
    let Some(parent) = said(disk, "Parent") else { return Ok((items.len(), address, number)) };
    let controller = items.iter().position(|item| said(item, "InstanceID") == Some(parent));
    let controller = controller
        .ok_or_else(|| refused(format_args!("has {file:?} on a controller {parent:?} it lacks")))?;
    match said(&items[controller], "ResourceType") {
        Some(IDE | SCSI | OTHER_STORAGE) => Ok((controller, address, number)),
        kind => Err(refused(format_args!(
            "has {file:?} on a controller of kind {}, which is neither IDE, SCSI nor SATA",
            kind.unwrap_or("unknown")
        ))),
    }
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

/// An attribute of any namespace: writers disagree about them.
fn attribute<'a>(node: &Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|it| it.name() == name).map(|it| it.value())
}

/// What an element's child of this name says.
fn said<'a>(node: &Node<'a, '_>, name: &str) -> Option<&'a str> {
    let child = node.children().find(|child| is(child, name))?;
    Some(child.text().unwrap_or_default().trim())
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::bad_input(format!("its .ovf {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As VirtualBox and ovftool write it, with these items and disks.
    fn ovf(disks: &str, items: &str) -> String {
        format!(
            r#"<?xml version="1.0"?>
<Envelope ovf:version="1.0" xmlns="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References>
    <File ovf:href="a.vmdk" ovf:id="file1"/><File ovf:href="b c.vmdk" ovf:id="file2" ovf:size="7"/>
    <File ovf:href="z.vmdk.gz" ovf:id="zipped" ovf:compression="gzip"/>
    <File ovf:href="chunks.vmdk" ovf:id="cut" ovf:chunkSize="9"/>
  </References>
  <DiskSection><Info/>{disks}</DiskSection>
  <VirtualSystem ovf:id="vm"><VirtualHardwareSection><Info/>
    <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType></Item>
    <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>5</rasd:ResourceType></Item>
    <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>20</rasd:ResourceType></Item>
    <Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>7</rasd:ResourceType></Item>
    {items}
  </VirtualHardwareSection></VirtualSystem>
</Envelope>"#
        )
    }

    const DISKS: &str = r#"<Disk ovf:capacity="1" ovf:diskId="d1" ovf:fileRef="file1"/>
        <Disk ovf:capacity="1" ovf:diskId="d2" ovf:fileRef="file2"/>"#;

    fn item(resource: &str, parent: &str, address: &str) -> String {
        format!(
            "<Item><rasd:AddressOnParent>{address}</rasd:AddressOnParent>\
             <rasd:HostResource>{resource}</rasd:HostResource><rasd:InstanceID>9</rasd:InstanceID>\
             <rasd:Parent>{parent}</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
        )
    }

    fn seen(text: &str) -> Vec<String> {
        disks(text).unwrap().into_iter().map(|disk| disk.file).collect()
    }

    #[test]
    fn disks_come_by_controller_and_address() {
        let [first, second] = ["/disk/d1", "ovf:/disk/d2"];
        for (items, expected) in [
            (item(first, "4", "0") + &item(second, "4", "1"), ["a.vmdk", "b c.vmdk"]),
            (item(first, "4", "10") + &item(second, "4", "9"), ["b c.vmdk", "a.vmdk"]),
            (item(first, "4", "0") + &item(second, "3", "1"), ["b c.vmdk", "a.vmdk"]),
            (item("ovf:/file/file1", "3", "0") + &item(second, "4", "0"), ["a.vmdk", "b c.vmdk"]),
        ] {
            assert_eq!(seen(&ovf(DISKS, &items)), expected);
        }
        // Storage items are OVF 2's, and a CD is no disk.
        let two = item(first, "4", "0").replace("Item>", "StorageItem>");
        let cd = item("ovf:/file/file2", "4", "1").replace(">17<", ">15<");
        assert_eq!(seen(&ovf(DISKS, &(two + &cd))), ["a.vmdk"]);
    }

    #[track_caller]
    fn check_refused(text: &str, told: &str) {
        let error = disks(text).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let refused = |disks: &str, items: &str, told| check_refused(&ovf(disks, items), told);
        refused(DISKS, &item("/disk/d1", "5", "0"), r#""a.vmdk" on a controller of kind 7"#);
        refused(DISKS, &item("/disk/d1", "77", "0"), r#"a controller "77" it lacks"#);
        refused(DISKS, &item("/disk/d1", "4", "-1"), r#"at the address "-1""#);
        refused(DISKS, &item("/disk/d3", "4", "0"), r#"names no disk "d3""#);
        refused(DISKS, &item("/etc/passwd", "4", "0"), r#"names a disk "/etc/passwd""#);
        let disk = |more: &str| format!(r#"<Disk ovf:diskId="d1" {more}/>"#);
        refused(&disk(""), &item("/disk/d1", "4", "0"), r#""d1" made as a blank disk"#);
        let on = r#"ovf:fileRef="file1" ovf:parentRef="d0""#;
        refused(&disk(on), &item("/disk/d1", "4", "0"), "stand on another one");
        refused(&disk(r#"ovf:fileRef="x""#), &item("/disk/d1", "4", "0"), r#"names no file "x""#);
        refused("", &item("ovf:/file/zipped", "4", "0"), "compressed by gzip");
        refused("", &item("ovf:/file/cut", "4", "0"), "cut into chunks");
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let one = ovf(DISKS, "");
        check_refused(&one.replace("VirtualSystem", "Nothing"), "several machines, or none");
        let system = r#"<VirtualSystem/></Envelope>"#;
        check_refused(&one.replace("</Envelope>", system), "several machines, or none");
        check_refused("", "cannot be read");
        let entity = r#"<!DOCTYPE x [<!ENTITY e SYSTEM "/etc/passwd">]><Envelope>&e;</Envelope>"#;
        check_refused(entity, "cannot be read");
        let many = "<a/>".repeat(MOST_NODES as usize + 1);
        check_refused(&format!("<Envelope>{many}</Envelope>"), "cannot be read");
        let deep = "<a>".repeat(50_000) + &"</a>".repeat(50_000);
        assert!(disks(&deep).is_err());
    }
}
