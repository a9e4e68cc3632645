//! What a machine is told at its first boot: the disk that cloud-init and its kin look for.
//!
//! ```text
//!   FAT, label cidata:  meta-data       instance-id, local-hostname, public-keys
//!                       network-config  every network device by its MAC address, DHCP
//!                       user-data       the user's own, as it came
//!                       vendor-data     a script that writes the environment variables
//! ```
//!
//! The instance is the container: a system that ran in another one is told so and makes itself a
//! new identity, one that starts again is left alone. It is made anew at each start, since network
//! devices come and go. Source: cloud-init's NoCloud documentation.

use crate::durable;
use crate::error::{Attempt, Result};
use crate::networks::wiring::Wire;
use crate::plan::hostname;
use crate::state::ContainerRecord;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use ireko_protocol::network::MacAddress;
use serde_json::{Value, json};
use std::io::{self, Cursor, Write};
use std::path::Path;

/// What the volume is called.
const LABEL: [u8; 11] = *b"cidata     ";
/// What is on the volume beside the files, and what files lose in their last clusters.
const ROOM: usize = 256 * 1024;
/// Everybody may read what programs and sessions are given.
const ENVIRONMENT: &str = "/etc/environment";

/// Writes a container's seed to `path`.
pub(crate) fn write(path: &Path, record: &ContainerRecord, wires: &[Wire]) -> Result<()> {
    let macs: Vec<_> = wires.iter().map(|wire| wire.nic.mac).collect();
    let what = || format!("write the first boot's data {}", path.display());
    let bytes = volume(&files(record, &macs)).attempt(what)?;
    durable::write(path, &bytes).attempt(what)
}

fn files(record: &ContainerRecord, macs: &[MacAddress]) -> Vec<(&'static str, String)> {
    let spec = &record.spec;
    // JSON is YAML.
    let meta_data = json!({
        "instance-id": record.id,
        "local-hostname": hostname(record),
        "public-keys": spec.ssh_keys,
    });
    let user_data = spec.user_data.clone().unwrap_or_else(|| "#cloud-config\n{}\n".to_owned());
    let mut files = vec![
        ("meta-data", pretty(&meta_data)),
        ("user-data", user_data),
        ("network-config", pretty(&network_config(macs))),
    ];
    if !spec.env.is_empty() {
        files.push(("vendor-data", environment_script(&spec.env)));
    }
    files
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn network_config(macs: &[MacAddress]) -> Value {
    let device = |(number, mac): (usize, &MacAddress)| {
        let name = format!("eth{number}");
        let device = json!({
            "match": { "macaddress": mac.to_string() },
            "set-name": name.clone(),
            "dhcp4": true,
        });
        (name, device)
    };
    let ethernets: serde_json::Map<_, _> = macs.iter().enumerate().map(device).collect();
    json!({ "version": 2, "ethernets": ethernets })
}

/// A script rather than `write_files`, which would lose against the user's own. Names are those that
/// [`crate::machine::check`] lets through.
fn environment_script(env: &[String]) -> String {
    let mut script = format!("#!/bin/sh\nset -eu\ntouch {ENVIRONMENT}\n");
    for (name, value) in env.iter().filter_map(|entry| entry.split_once('=')) {
        let line = shell_word(&format!("{name}=\"{value}\""));
        script += &format!("sed -i '/^{name}=/d' {ENVIRONMENT}\n");
        script += &format!("printf '%s\\n' {line} >> {ENVIRONMENT}\n");
    }
    script
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A FAT volume with these files; the same files give the same bytes.
fn volume(files: &[(&str, String)]) -> io::Result<Vec<u8>> {
    let held: usize = files.iter().map(|(_, content)| content.len()).sum();
    let size = (ROOM + held).next_multiple_of(64 * 1024);
    let mut bytes = vec![0; size];
    let options = FormatVolumeOptions::new()
        .volume_label(LABEL)
        .volume_id(0x1e_ec_00_00)
        .bytes_per_cluster(512)
        .fat_type(if size < (2 << 20) { FatType::Fat12 } else { FatType::Fat16 });
    fatfs::format_volume(Cursor::new(&mut bytes[..]), options)?;
    let volume = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new())?;
    for (name, content) in files {
        volume.root_dir().create_file(name)?.write_all(content.as_bytes())?;
    }
    volume.unmount()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::sample;
    use std::process::Command;

    fn said(record: &ContainerRecord) -> Vec<(&'static str, String)> {
        files(record, &["02:42:00:00:00:09".parse().unwrap()])
    }

    fn file<'a>(files: &'a [(&str, String)], name: &str) -> &'a str {
        files.iter().find(|(one, _)| *one == name).map_or("", |(_, content)| content)
    }

    #[test]
    fn an_instance_is_its_container_and_knows_its_name_keys_and_devices() {
        let mut record = sample();
        record.spec.ssh_keys = vec!["ssh-ed25519 AAAA me".into()];
        let files = said(&record);
        let meta: Value = serde_json::from_str(file(&files, "meta-data")).unwrap();
        assert_eq!(meta["instance-id"], record.id);
        assert_eq!(meta["local-hostname"], record.id[..12]);
        assert_eq!(meta["public-keys"][0], "ssh-ed25519 AAAA me");
        let network: Value = serde_json::from_str(file(&files, "network-config")).unwrap();
        assert_eq!(network["ethernets"]["eth0"]["match"]["macaddress"], "02:42:00:00:00:09");
        assert_eq!(file(&files, "user-data"), "#cloud-config\n{}\n");
        assert_eq!(file(&files, "vendor-data"), "");
    }

    #[test]
    fn the_users_own_data_arrive_as_they_came_and_variables_survive_any_value() {
        let mut record = sample();
        record.spec.user_data = Some("#!/bin/sh\necho ü\n".into());
        record.spec.env = vec!["A=it's $HOME; `id`".into(), "B=".into(), "C".into()];
        let files = said(&record);
        assert_eq!(file(&files, "user-data"), "#!/bin/sh\necho ü\n");
        let folder = tempfile::tempdir().unwrap();
        let environment = folder.path().join("environment");
        std::fs::write(&environment, "A=old\nZ=1\n").unwrap();
        let script = file(&files, "vendor-data");
        let script = script.replace(ENVIRONMENT, environment.to_str().unwrap());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let written = std::fs::read_to_string(&environment).unwrap();
        assert_eq!(written, "Z=1\nA=\"it's $HOME; `id`\"\nB=\"\"\n");
    }

    #[test]
    fn other_programs_read_the_volume_and_find_nothing_wrong() {
        let folder = tempfile::tempdir().unwrap();
        for length in [10, 3 << 20] {
            let path = folder.path().join("seed.img");
            let files = [("user-data", "x".repeat(length)), ("meta-data", "{}".into())];
            std::fs::write(&path, volume(&files).unwrap()).unwrap();
            assert_eq!(volume(&files).unwrap(), std::fs::read(&path).unwrap());
            let run = |program: &str, arguments: &[&str]| {
                let ran = Command::new(program).args(arguments).arg(&path).output();
                let ran = ran.inspect_err(|_| eprintln!("skipped: no {program}")).ok()?;
                assert!(ran.status.success(), "{program}: {ran:?}");
                Some(String::from_utf8_lossy(&ran.stdout).into_owned())
            };
            run("fsck.vfat", &["-n"]);
            let label = run("blkid", &["-p", "-o", "value", "-s", "LABEL"]);
            assert_eq!(label.as_deref().unwrap_or("cidata\n"), "cidata\n");
            let image = path.to_str().unwrap();
            let typed = Command::new("mtype").args(["-i", image, "::user-data"]).output();
            match typed {
                Ok(typed) => assert_eq!(typed.stdout.len(), length, "{typed:?}"),
                Err(_) => eprintln!("skipped: no mtype"),
            }
        }
    }
}
