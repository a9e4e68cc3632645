//! What starts an exported disk elsewhere: a file beside it, for another program.
//!
//! ```text
//!   machine's configuration, disk file ─► libvirt.xml | Hyper-V script | qemu script
//! ```
//!
//! Pure text. Everything that comes from a name is quoted as the language has it.

mod hyperv;
mod libvirt;
mod qemu;

use crate::error::{Error, Result};
use crate::spec::{DEFAULT_MACHINE_MEMORY, MIB};
use crate::state::ContainerRecord;
use crate::store::oci::MachineConfig;
use ireko_protocol::export::{Definition, ExportFormat};
use std::path::{Path, PathBuf};

/// A machine as other programs are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// What boots its disk.
    pub(crate) config: MachineConfig,
    /// Its memory in MiB.
    pub(crate) memory_mib: u64,
    /// Its virtual CPUs.
    pub(crate) vcpus: u32,
}

impl Machine {
    /// That of an image's containers for which nothing is asked.
    pub(crate) fn of_image(config: MachineConfig) -> Self {
        Self { config, memory_mib: DEFAULT_MACHINE_MEMORY / MIB, vcpus: 1 }
    }

    /// That of a container, which runs on `config`.
    pub(crate) fn of_container(record: &ContainerRecord, config: MachineConfig) -> Self {
        let resources = &record.spec.resources;
        Self { config, memory_mib: resources.machine_memory(), vcpus: resources.vm_cpus().0 }
    }
}

/// A machine and the file that its disk becomes.
struct Exported<'a> {
    machine: &'a Machine,
    disk: &'a Path,
    /// The file's name, and what the machine is called: that without its suffix.
    file: &'a str,
    name: &'a str,
    format: ExportFormat,
}

/// Where a definition of the disk in `file` goes: beside it, with a suffix of its own.
pub(crate) fn place(file: &Path, definition: Definition) -> PathBuf {
    file.with_extension(match definition {
        Definition::Libvirt => "xml",
        Definition::Hyperv => "ps1",
        Definition::Qemu => "sh",
    })
}

/// Writes a definition for the disk that is exported to `file`.
///
/// Errors where the program does not take such a disk.
pub(crate) fn write(
    definition: Definition,
    machine: &Machine,
    file: &Path,
    format: ExportFormat,
) -> Result<String> {
    let readable =
        |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
    let unreadable = || Error::bad_parameter(format!("{} is no readable name", file.display()));
    let name = readable(file.file_name()).ok_or_else(unreadable)?;
    let stem = readable(file.file_stem()).ok_or_else(unreadable)?;
    if name.contains(['\n', '\r', '\0']) {
        return Err(unreadable());
    }
    let exported = Exported { machine, disk: file, file: &name, name: &stem, format };
    match definition {
        Definition::Libvirt => libvirt::write(&exported),
        Definition::Hyperv => hyperv::write(&exported),
        Definition::Qemu => qemu::write(&exported),
    }
}

fn refused(program: &str, format: ExportFormat, cure: &str) -> Error {
    Error::bad_parameter(format!("{program} does not take a disk as {format}: export {cure}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::oci::{Firmware, Hardware};
    use std::process::Command;

    fn each(mut check: impl FnMut(&Machine)) {
        for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::UefiSecure] {
            for hardware in [Hardware::Virtio, Hardware::Compatible] {
                check(&Machine::of_image(MachineConfig { firmware, hardware }));
            }
        }
    }

    /// A file whose name is as odd as can be.
    const ODD: &str = "/x/it's \"a\" <b> & $c `d` 100%.";

    fn written(
        definition: Definition,
        machine: &Machine,
        suffix: &str,
        format: ExportFormat,
    ) -> String {
        write(definition, machine, format!("{ODD}{suffix}").as_ref(), format).unwrap()
    }

    #[test]
    fn libvirts_own_schema_takes_every_machine() {
        let schema = Path::new("/usr/share/libvirt/schemas/domain.rng");
        if !schema.exists() || Command::new("xmllint").arg("--version").output().is_err() {
            return eprintln!(
                "skipped: no libvirt schema, or no xmllint (packages libvirt0, libxml2-utils)"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        each(|machine| {
            for (suffix, format) in [
                ("qcow2", ExportFormat::Qcow2),
                ("raw", ExportFormat::Raw),
                ("vmdk", ExportFormat::Vmdk),
                ("vhd", ExportFormat::Vhd),
            ] {
                let file = folder.path().join("domain.xml");
                std::fs::write(&file, written(Definition::Libvirt, machine, suffix, format))
                    .unwrap();
                let mut xmllint = Command::new("xmllint");
                xmllint.args(["--noout", "--relaxng"]).arg(schema).arg(&file);
                let ran = xmllint.output().unwrap();
                let said = String::from_utf8_lossy(&ran.stderr).into_owned();
                assert!(
                    ran.status.success(),
                    "{said}\n{}",
                    std::fs::read_to_string(&file).unwrap()
                );
            }
        });
    }

    #[test]
    fn the_hyper_v_script_is_powershell() {
        let mut parser = tree_sitter::Parser::new();
        parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
        each(|machine| {
            let script = written(Definition::Hyperv, machine, "vhdx", ExportFormat::Vhdx);
            let tree = parser.parse(&script, None).unwrap();
            assert!(!tree.root_node().has_error(), "{}\n{script}", tree.root_node().to_sexp());
            assert!(script.contains("'it''s \"a\" <b> & $c `d` 100%.vhdx'"), "{script}");
        });
        let broken = parser.parse("New-VM -Name 'x", None).unwrap();
        assert!(broken.root_node().has_error(), "the parser tells what is none");
    }

    #[test]
    fn the_qemu_script_is_one_that_a_shell_takes() {
        each(|machine| {
            let script = written(Definition::Qemu, machine, "qcow2", ExportFormat::Qcow2);
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("run.sh");
            std::fs::write(&file, &script).unwrap();
            let ran = Command::new("sh").arg("-n").arg(&file).output().unwrap();
            assert!(ran.status.success(), "{ran:?}\n{script}");
        });
    }

    #[test]
    fn a_disk_that_a_program_does_not_take_is_refused_with_one_that_it_does() {
        let machine = Machine::of_image(MachineConfig {
            firmware: Firmware::Uefi,
            hardware: Hardware::Virtio,
        });
        let check = |definition, format, cure: &str| {
            let error = write(definition, &machine, "/x/disk".as_ref(), format).unwrap_err();
            assert!(error.to_string().contains(cure), "{error}");
        };
        check(Definition::Libvirt, ExportFormat::Vhdx, "qcow2");
        check(Definition::Hyperv, ExportFormat::Qcow2, "vhdx");
        check(Definition::Hyperv, ExportFormat::Vhd, "vhdx");
        check(Definition::Qemu, ExportFormat::Zip, "qcow2");
    }
}
