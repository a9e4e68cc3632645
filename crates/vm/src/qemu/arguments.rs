//! From a [`VmSpec`] to QEMU's command line: one pure function, pinned by a golden test.
//!
//! The machine type, the CPU model and the order of devices are part of what a saved VM state is
//! bound to: a change here is a change of every template's key.

use crate::accel::Accel;
use crate::qemu::disks;
use crate::qemu::machine;
use crate::qemu::nics::{self, NicKind};
use crate::spec::{Boot, Console, GuestPort, KernelBoot, SavedVm, VmSpec};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The machine of a VM that boots a kernel of ours. Versioned, so that a newer QEMU presents the same hardware.
pub const MACHINE: &str = "pc-i440fx-7.2";

/// What QEMU may not do any more once it runs: old system calls, raising its privileges, starting
/// programs, changing its scheduling.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Returns QEMU's arguments, without the program's own name.
///
/// `control` is the descriptor, inherited by QEMU, of a unix socket that already listens; QEMU
/// takes QMP connections on it. `spec` is one that passed [`VmSpec::check`].
pub fn arguments(spec: &VmSpec, control: RawFd) -> Vec<OsString> {
    let mut line = Line::default();
    line.option("-name", Fields::new("guest=").value(&spec.name));
    line.option(
        "-machine",
        match &spec.boot {
            Boot::Kernel(KernelBoot { ram: None, .. }) => Fields::new(utility_machine()),
            Boot::Kernel(_) | Boot::Saved(_) => {
                Fields::new(utility_machine()).text(",memory-backend=ram")
            }
            Boot::Firmware(boot) => machine::kind(boot),
        },
    );
    match spec.accel {
        Accel::Kvm => line.option("-accel", "kvm").option("-cpu", host_cpu(&spec.boot)),
        Accel::Tcg => line.option("-accel", "tcg").option("-cpu", "max").kicks_at_once(),
    };
    line.option("-smp", spec.vcpus.to_string());
    line.option("-m", format!("{}M", spec.memory_mib));
    match &spec.boot {
        Boot::Kernel(KernelBoot { ram: Some(file), .. }) => line.ram(spec.memory_mib, file, "on"),
        Boot::Saved(SavedVm { ram, .. }) => line.ram(spec.memory_mib, ram, "off"),
        Boot::Kernel(_) | Boot::Firmware(_) => {}
    }
    line.flag("-nodefaults").flag("-no-user-config");
    match spec.boot {
        Boot::Kernel(_) | Boot::Saved(_) => line.flag("-no-reboot"),
        Boot::Firmware(_) => line.flag("-S"),
    };
    line.option("-display", "none").option("-sandbox", SANDBOX);
    line.option("-chardev", format!("socket,id=control,fd={control},server=on,wait=off"));
    line.option("-mon", "chardev=control,mode=control");
    match &spec.boot {
        Boot::Kernel(boot) => line.kernel(boot),
        Boot::Saved(_) => drop(line.option("-incoming", "defer")),
        Boot::Firmware(boot) => {
            if boot.resume.is_some() {
                line.option("-incoming", "defer");
            }
            machine::devices(&mut line, boot);
        }
    }
    line.console(&spec.console);
    line.option("-device", "virtio-serial-pci,id=ports");
    for (number, port) in spec.ports.iter().enumerate() {
        line.port(number, port);
    }
    for (number, disk) in spec.disks.iter().enumerate() {
        let node = disks::add_node(&mut line, number, disk);
        line.option(
            "-device",
            match &spec.boot {
                Boot::Kernel(_) | Boot::Saved(_) => disks::virtio(number, disk),
                Boot::Firmware(boot) => machine::disk(boot.hardware, number, disk, &node),
            },
        );
    }
    nics::add(&mut line, NicKind::of(&spec.boot), &spec.nics);
    line.0
}

/// The host's CPU; a machine's runs virtual machines only where that is asked for.
fn host_cpu(boot: &Boot) -> &'static str {
    match boot {
        Boot::Firmware(boot) if !boot.nested => "host,vmx=off,svm=off",
        Boot::Firmware(_) | Boot::Kernel(_) | Boot::Saved(_) => "host",
    }
}

fn utility_machine() -> String {
    format!("{MACHINE},usb=off,dump-guest-core=off")
}

/// The device of a VM's port, by its place among its ports.
pub(super) fn port_id(number: usize) -> String {
    format!("guest-port{number}")
}

/// A command line in the making.
#[derive(Default)]
pub(super) struct Line(Vec<OsString>);

impl Line {
    pub(super) fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    pub(super) fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.extend([name.into(), value.into()]);
        self
    }

    /// A guest's kick is handled by the thread that emulates its CPU. To have the main loop woken for it
    /// pays where the CPU is a real one; here it is one more change of threads.
    fn kicks_at_once(&mut self) -> &mut Self {
        for device in ["blk", "net", "serial"] {
            self.option("-global", format!("virtio-{device}-pci.ioeventfd=off"));
        }
        self
    }

    fn kernel(&mut self, boot: &KernelBoot) {
        self.option("-kernel", &boot.kernel);
        self.option("-initrd", &boot.initrd);
        self.option("-append", &boot.command_line);
    }

    /// RAM in a file: the file itself, or only what nobody has written over in this VM.
    fn ram(&mut self, mib: u64, file: &Path, share: &str) {
        let backend = Fields::new(format!("memory-backend-file,id=ram,size={mib}M,mem-path="));
        self.option("-object", backend.value(file).text(",share=").text(share));
    }

    fn console(&mut self, console: &Console) {
        let end = match console {
            Console::None => return,
            Console::Log(file) => Fields::new("file,id=console,append=on,path=").value(file),
            Console::Socket(socket) => {
                Fields::new("socket,id=console,server=on,wait=off,path=").value(socket)
            }
        };
        self.option("-chardev", end).option("-device", "isa-serial,chardev=console");
    }

    fn port(&mut self, number: usize, port: &GuestPort) {
        let socket = Fields::new(format!("socket,id=port{number},server=on,wait=off,path="));
        self.option("-chardev", socket.value(&port.socket));
        let device = Fields::new(format!(
            "virtserialport,id={},bus=ports.0,chardev=port{number},name=",
            port_id(number)
        ));
        self.option("-device", device.value(&port.name));
    }
}

/// A comma-separated option in the making. A comma inside a value is written twice.
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn new(start: impl Into<String>) -> Self {
        Self(start.into().into_bytes())
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    pub(super) fn value(mut self, value: impl AsRef<OsStr>) -> Self {
        for &byte in value.as_ref().as_bytes() {
            self.0.push(byte);
            if byte == b',' {
                self.0.push(byte);
            }
        }
        self
    }
}

impl From<Fields> for OsString {
    fn from(fields: Fields) -> Self {
        OsString::from_vec(fields.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        Cable, DiskAttachment, DiskSource, Firmware, Hardware, MachineBoot, Nic, Uefi,
    };

    fn spec(accel: Accel) -> VmSpec {
        VmSpec {
            name: "web, 1".into(),
            accel,
            memory_mib: 512,
            vcpus: 2,
            boot: Boot::Kernel(KernelBoot {
                kernel: "/cache/a,b/vmlinux".into(),
                initrd: "/cache/initrd".into(),
                command_line: "quiet panic=-1".into(),
                ram: None,
            }),
            disks: vec![
                DiskAttachment {
                    serial: "root".into(),
                    source: DiskSource::Nbd {
                        socket: "/run/a,b/nbd.sock".into(),
                        export: "root".into(),
                    },
                    read_only: false,
                },
                DiskAttachment {
                    serial: "archive".into(),
                    source: DiskSource::RawFile { path: "/tmp/x,y.tar".into() },
                    read_only: true,
                },
            ],
            ports: vec![GuestPort {
                name: "dev.ireko.agent".into(),
                socket: "/run/agent.sock".into(),
            }],
            nics: vec![Nic {
                mac: [2, 0x42, 0, 0, 0, 9],
                cable: Cable::Socket("/run/a,b/net0.sock".into()),
            }],
            control: "/run/control.sock".into(),
            console: Console::Log("/state/console.log".into()),
            group: None,
        }
    }

    fn shown(spec: &VmSpec) -> String {
        let mut text = String::new();
        for argument in arguments(spec, 7) {
            let argument = argument.into_string().unwrap();
            text += if argument.starts_with('-') { "\n" } else { " " };
            text += &argument;
        }
        text + "\n"
    }

    #[test]
    fn a_spec_gives_exactly_this_command_line() {
        assert_eq!(shown(&spec(Accel::Tcg)), include_str!("arguments.golden"));
    }

    #[test]
    fn under_kvm_the_guest_sees_the_hosts_cpu() {
        let line = shown(&spec(Accel::Kvm));
        assert!(line.contains("-accel kvm\n-cpu host\n"), "{line}");
    }

    #[test]
    fn a_machine_gets_exactly_these_command_lines() {
        let uefi = |secure_boot| {
            Firmware::Uefi(Uefi {
                code: "/ovmf/code.fd".into(),
                nvram: "/state/a,b/nvram.fd".into(),
                secure_boot,
            })
        };
        let machine = |firmware, hardware| VmSpec {
            boot: Boot::Firmware(MachineBoot {
                firmware,
                hardware,
                nested: false,
                resume: None,
                screen: "/run/a,b/vnc.sock".into(),
            }),
            console: Console::Socket("/run/a,b/console.sock".into()),
            ..spec(Accel::Tcg)
        };
        let all = [
            machine(Firmware::Bios, Hardware::Virtio),
            machine(uefi(false), Hardware::Virtio),
            machine(uefi(true), Hardware::Compatible),
        ];
        let lines = all.iter().map(shown).collect::<String>();
        assert_eq!(lines, include_str!("machine.golden"));
    }

    #[test]
    fn a_machine_runs_virtual_machines_only_where_that_is_asked_for() {
        let machine = |nested| {
            let boot = MachineBoot {
                firmware: Firmware::Bios,
                hardware: Hardware::Virtio,
                nested,
                resume: nested.then(|| "/state".into()),
                screen: "/vnc".into(),
            };
            shown(&VmSpec { boot: Boot::Firmware(boot), ..spec(Accel::Kvm) })
        };
        assert!(machine(false).contains("-cpu host,vmx=off,svm=off\n"));
        assert!(!machine(false).contains("-incoming"));
        assert!(
            machine(true).contains("-cpu host\n") && machine(true).contains("-incoming defer\n")
        );
    }

    #[test]
    fn a_card_can_be_joined_to_a_device_of_the_host() {
        let nic = Nic { mac: [2, 0x42, 0, 0, 0, 9], cable: Cable::Tap("tap0".into()) };
        let line = shown(&VmSpec { nics: vec![nic], ..spec(Accel::Tcg) });
        let wire = "-netdev tap,id=net0,ifname=tap0,script=no,downscript=no,vnet_hdr=off\n";
        assert!(line.contains(wire), "{line}");
    }

    #[test]
    fn a_vm_that_is_saved_and_one_that_goes_on_from_it_get_exactly_these_command_lines() {
        let mut template = VmSpec { console: Console::None, ..spec(Accel::Tcg) };
        template.disks.truncate(1);
        let mut clone = template.clone();
        template.disks[0].source = DiskSource::Empty;
        let Boot::Kernel(boot) = &mut template.boot else { panic!("another boot") };
        boot.ram = Some("/cache/a,b/ram".into());
        clone.boot = Boot::Saved(SavedVm { ram: "/t/ram".into(), state: "/t/state".into() });
        assert_eq!(shown(&template) + &shown(&clone), include_str!("saved.golden"));
    }

    #[test]
    fn without_a_console_there_is_no_serial_line() {
        let line = shown(&VmSpec { console: Console::None, ..spec(Accel::Tcg) });
        assert!(!line.contains("isa-serial") && !line.contains("console"), "{line}");
    }

    #[test]
    fn a_path_that_is_not_text_reaches_qemu_as_it_is() {
        let mut spec = spec(Accel::Tcg);
        let path = OsString::from_vec(b"/tmp/\xff,".to_vec());
        spec.disks[1].source = DiskSource::RawFile { path: path.into() };
        let found = arguments(&spec, 7)
            .into_iter()
            .any(|argument| argument.as_bytes().ends_with(b"file.filename=/tmp/\xff,,"));
        assert!(found);
    }
}
