//! VMs that really boot. They need QEMU and the guest kernel that set-up leaves in the cache, named
//! by `IREKO_CACHE`; without them each test says so and passes.

use ireko_testkit::slots::{self, Slots, Vms};
use ireko_vm::accel::{self, Choice};
use ireko_vm::driver::ExitCause;
use ireko_vm::kernel::{self, GuestKernel};
use ireko_vm::qemu::Status;
use ireko_vm::{
    Accel, Boot, Console, DiskAttachment, DiskSource, ErrorKind, GuestPort, KernelBoot, Qemu,
    RunningVm, VmDriver, VmSpec,
};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A loaded host may take ten times the usual three seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);

/// What the tests boot, with a folder for the sockets and files of one VM.
struct Bench {
    folder: tempfile::TempDir,
    qemu: Qemu,
    accel: Accel,
    boot: KernelBoot,
    _slot: Slots,
}

impl Bench {
    /// Returns `None`, having said why, where something is missing.
    fn new() -> Option<Self> {
        let skipped = |what: &dyn std::fmt::Display| eprintln!("skipped: {what}");
        let cache = std::env::var_os("IREKO_CACHE").map(PathBuf::from);
        let Some(cache) = cache else {
            skipped(&"IREKO_CACHE names no cache with a guest kernel");
            return None;
        };
        let qemu = Qemu::find().map_err(|error| skipped(&error)).ok()?;
        let found = GuestKernel::find(&cache).map_err(|error| skipped(&error)).ok()?;
        let folder = tempfile::tempdir().unwrap();
        let accel = accel::verdict(folder.path(), Choice::Auto).unwrap().accel;
        let modules_cpio = folder.path().join("modules.cpio");
        fs::copy(&found.modules_cpio, &modules_cpio).unwrap();
        let own = GuestKernel { modules_cpio, ..found };
        let boot = KernelBoot {
            kernel: own.vmlinux.clone(),
            initrd: kernel::initrd(&own, test_guest()).unwrap(),
            command_line: kernel::command_line(accel, kernel::host_tsc_khz()),
            ram: None,
        };
        Some(Self { folder, qemu, accel, boot, _slot: slots::take(Vms::One) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spec(&self) -> VmSpec {
        VmSpec {
            name: "test".into(),
            accel: self.accel,
            memory_mib: 256,
            vcpus: 1,
            boot: Boot::Kernel(self.boot.clone()),
            disks: Vec::new(),
            ports: vec![GuestPort { name: "test.port".into(), socket: self.path("port,1") }],
            nics: Vec::new(),
            control: self.path("control"),
            console: Console::None,
            group: None,
        }
    }
}

/// Builds the static /init once per test process.
fn test_guest() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.rs");
        let status = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
            .args(["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static"])
            .args(["-Cstrip=symbols", "-Cpanic=abort", "-o"])
            .args([&program, &source])
            .status()
            .unwrap();
        assert!(status.success(), "the test guest does not compile");
        fs::read(program).unwrap()
    })
}

/// A booted VM and the host's end of its port.
struct Guest {
    vm: Box<dyn RunningVm>,
    port: BufReader<UnixStream>,
}

impl Guest {
    fn boot(bench: &Bench, spec: &VmSpec) -> Self {
        let start = Instant::now();
        let vm = bench.qemu.launch(spec).unwrap();
        let port = UnixStream::connect(&spec.ports[0].socket).unwrap();
        port.set_read_timeout(Some(BOOT_DEADLINE)).unwrap();
        let mut guest = Self { vm, port: BufReader::new(port) };
        let greeting = guest.answer();
        assert!(greeting.starts_with("ready"), "{greeting}");
        eprintln!("{:.2} s from fork to user space", start.elapsed().as_secs_f32());
        guest
    }

    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    fn order(&mut self, order: &str) {
        writeln!(self.port.get_mut(), "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.port.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

/// `qemu-nbd` as an NBD server that is not ours.
struct ForeignServer(Child);

impl ForeignServer {
    fn start(socket: &Path, file: &Path) -> Self {
        let pid_file = socket.with_extension("pid");
        let child = Command::new("qemu-nbd")
            .args(["--format=raw", "--persistent", "--export-name=a,b", "--socket"])
            .arg(socket)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(file)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pid_file.exists() {
            assert!(Instant::now() < deadline, "qemu-nbd does not listen");
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for ForeignServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_vm_boots_serves_its_disks_and_powers_off() {
    let Some(bench) = Bench::new() else { return };
    let (image, archive) = (bench.path("image"), bench.path("archive,x.tar"));
    fs::write(&image, vec![b'.'; 1 << 20]).unwrap();
    fs::write(&archive, [b"tar".as_slice(), &[b'-'; 1021]].concat()).unwrap();
    let _server = ForeignServer::start(&bench.path("nbd,sock"), &image);
    let spec = VmSpec {
        vcpus: 2,
        disks: vec![
            DiskAttachment {
                serial: "root".into(),
                source: DiskSource::Nbd { socket: bench.path("nbd,sock"), export: "a,b".into() },
                read_only: false,
            },
            DiskAttachment {
                serial: "archive-of-20-chars.".into(),
                source: DiskSource::RawFile { path: archive },
                read_only: true,
            },
        ],
        ..bench.spec()
    };
    let mut guest = Guest::boot(&bench, &spec);
    assert_eq!(guest.vm.control().query_status().unwrap(), Status::Running);
    assert_eq!(guest.vm.try_wait().unwrap(), None);
    assert_eq!(guest.ask("cpus"), "2");
    assert_eq!(guest.ask("size root"), "2048");
    assert_eq!(guest.ask("size archive-of-20-chars."), "2");
    assert_eq!(guest.ask("write root 4096 hello"), "written");
    assert_eq!(guest.ask("read root 4094 9"), "..hello..");
    assert_eq!(guest.ask("read archive-of-20-chars. 0 4"), "tar-");
    assert!(guest.ask("write archive-of-20-chars. 0 no").starts_with("error"));
    assert_eq!(&fs::read(&image).unwrap()[4094..4103], b"..hello..");

    guest.order("off");
    let exit = guest.vm.wait().unwrap();
    assert_eq!(exit.cause, ExitCause::PoweredOff, "{exit}");
    assert_eq!(guest.vm.wait().unwrap(), exit);
    guest.vm.control().power_off_now().unwrap();
}

#[test]
fn a_guest_kernels_panic_ends_the_vm_and_its_words_are_in_the_console_log() {
    let Some(bench) = Bench::new() else { return };
    let mut spec = VmSpec { console: Console::Log(bench.path("console,log")), ..bench.spec() };
    let command_line = kernel::with_console(&bench.boot.command_line);
    spec.boot = Boot::Kernel(KernelBoot { command_line, ..bench.boot.clone() });
    let mut guest = Guest::boot(&bench, &spec);
    guest.order("panic");
    assert_eq!(guest.vm.wait().unwrap().cause, ExitCause::Reset);
    let log = fs::read_to_string(bench.path("console,log")).unwrap();
    assert!(log.contains("test guest: kernel is up") && log.contains("Kernel panic"), "{log}");
}

#[test]
fn a_vm_is_ended_from_another_thread_while_one_waits() {
    let Some(bench) = Bench::new() else { return };
    let mut vm = bench.qemu.launch(&bench.spec()).unwrap();
    let control = vm.control();
    let ending = std::thread::spawn(move || control.power_off_now());
    assert_eq!(vm.wait().unwrap().cause, ExitCause::Quit);
    ending.join().unwrap().unwrap();
}

#[test]
fn a_vm_dies_with_the_thread_that_launched_it() {
    let Some(bench) = Bench::new() else { return };
    let launched = std::thread::scope(|scope| {
        scope.spawn(|| bench.qemu.launch(&bench.spec()).unwrap()).join()
    });
    let exit = launched.unwrap().wait().unwrap();
    assert_eq!(exit.cause, ExitCause::Killed(9), "{exit}");
}

#[test]
fn a_start_that_fails_quotes_qemu() {
    let Some(bench) = Bench::new() else { return };
    let mut spec = bench.spec();
    spec.disks = vec![DiskAttachment {
        serial: "root".into(),
        source: DiskSource::RawFile { path: bench.path("gone") },
        read_only: false,
    }];
    let error = bench.qemu.launch(&spec).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Start);
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_spec_no_vm_can_be_made_from_is_refused_before_anything_is_started() {
    let Some(bench) = Bench::new() else { return };
    for broken in [
        VmSpec { vcpus: 0, ..bench.spec() },
        VmSpec { memory_mib: 0, ..bench.spec() },
        VmSpec { control: bench.path(&"x".repeat(108)), ..bench.spec() },
        VmSpec {
            disks: vec![DiskAttachment {
                serial: "no,commas".into(),
                source: DiskSource::RawFile { path: bench.path("x") },
                read_only: true,
            }],
            ..bench.spec()
        },
    ] {
        let error = bench.qemu.launch(&broken).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidSpec, "{error}");
        assert!(!bench.path("control").exists());
    }
}
