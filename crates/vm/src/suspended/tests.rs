use super::*;
use crate::spec::{Console, DiskAttachment, DiskSource, Hardware, MachineBoot};

fn spec() -> VmSpec {
    VmSpec {
        name: "box".into(),
        accel: Accel::Tcg,
        memory_mib: 64,
        vcpus: 1,
        boot: Boot::Firmware(MachineBoot {
            firmware: Firmware::Bios,
            hardware: Hardware::Virtio,
            nested: false,
            resume: None,
            screen: "/run/vnc.sock".into(),
        }),
        disks: vec![DiskAttachment {
            serial: "root".into(),
            source: DiskSource::Empty,
            read_only: false,
        }],
        ports: Vec::new(),
        nics: Vec::new(),
        control: "/run/qmp.sock".into(),
        console: Console::None,
        group: None,
    }
}

fn disks(identity: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("root".to_owned(), identity.to_owned())])
}

/// A VM that looks as if it had been suspended.
struct Bench {
    _folder: tempfile::TempDir,
    place: Suspended,
    qemu: Qemu,
}

impl Bench {
    fn new() -> Option<Self> {
        let Ok(qemu) = Qemu::find() else {
            eprintln!("skipped: no QEMU");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let place = Suspended::in_folder(&folder.path().join("suspended"), "vm.json");
        fs::create_dir(&place.folder).unwrap();
        fs::write(place.state(), b"devices and memory").unwrap();
        let surroundings = Surroundings { disks: disks("a"), told: "an address".into() };
        let (shape, state) =
            (shape(&qemu, &spec()).unwrap(), Sealed::seal(&place.state()).unwrap());
        place.put(&Record { version: VERSION, shape, surroundings, state }).unwrap();
        Some(Self { _folder: folder, place, qemu })
    }

    #[track_caller]
    fn refused(&self, spec: &VmSpec, told: &str) {
        let error = self.place.check(&self.qemu, spec).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_vm_goes_on_only_as_it_was_and_with_its_disks_as_they_were() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(bench.place.check(&bench.qemu, &spec()).unwrap(), "an address");
    bench.place.check_disks(&disks("a")).unwrap();
    let error = bench.place.check_disks(&disks("b")).unwrap_err().to_string();
    assert!(error.contains("were written to"), "{error}");
    bench.refused(
        &VmSpec { memory_mib: 128, ..spec() },
        "MiB of memory \"64\", and now has \"128\"",
    );
    bench.refused(&VmSpec { disks: Vec::new(), ..spec() }, "disks");
    bench.place.opened(disks("b")).unwrap();
    bench.place.check_disks(&disks("b")).unwrap();
    assert_eq!(bench.place.check(&bench.qemu, &spec()).unwrap(), "an address");
    bench.place.forget().unwrap();
    bench.place.forget().unwrap();
    bench.refused(&spec(), "not suspended");
}

#[test]
fn a_state_that_is_damaged_or_cut_off_is_never_loaded() {
    let Some(bench) = Bench::new() else { return };
    for damaged in [&b"devices and memorY"[..], b"devices", b"", b"devices and memory and more"] {
        fs::write(bench.place.state(), damaged).unwrap();
        bench.refused(&spec(), "not as it was saved");
    }
    fs::remove_file(bench.place.state()).unwrap();
    bench.refused(&spec(), "not as it was saved");
    fs::write(&bench.place.record, "{").unwrap();
    bench.refused(&spec(), "read");
}
