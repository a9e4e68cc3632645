//! The guest of `boots.rs`: PID 1 that does what its one port says.
//!
//! Built by the test with `rustc -C target-feature=+crt-static`, so that it needs nothing of its
//! root file system. One line is one order, each is answered by one line.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn reboot(how: c_int) -> c_int;
}

const FINIT_MODULE: c_long = 313;
const POWER_OFF: c_int = 0x4321_fedc;

fn main() {
    mount_at("/dev", "devtmpfs");
    mount_at("/sys", "sysfs");
    mount_at("/proc", "proc");
    println!("test guest: kernel is up");
    load_modules();
    let port = find_port("test.port");
    // A port may be opened once.
    let mut answers = OpenOptions::new().read(true).write(true).open(port).expect("open the port");
    let mut orders = BufReader::new(answers.try_clone().expect("share the port"));
    let uptime = fs::read_to_string("/proc/uptime").expect("read the uptime");
    writeln!(answers, "ready {}", uptime.trim()).expect("greet");
    let mut line = String::new();
    loop {
        line.clear();
        if orders.read_line(&mut line).unwrap_or(0) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1)); // nobody holds the host's end
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = obey(&words).unwrap_or_else(|error| format!("error {error}"));
        let _ = writeln!(answers, "{answer}");
    }
}

fn obey(words: &[&str]) -> std::io::Result<String> {
    match words {
        ["size", serial] => {
            let size = fs::read_to_string(disk(serial)?.sys.join("size"))?;
            Ok(size.trim().to_owned())
        }
        ["cpus"] => Ok(std::thread::available_parallelism()?.to_string()),
        ["read", serial, offset, length] => {
            let mut file = File::open(disk(serial)?.dev)?;
            file.seek(SeekFrom::Start(offset.parse().unwrap()))?;
            let mut bytes = vec![0; length.parse().unwrap()];
            file.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        ["write", serial, offset, text] => {
            let mut file = OpenOptions::new().write(true).open(disk(serial)?.dev)?;
            file.seek(SeekFrom::Start(offset.parse().unwrap()))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok("written".into())
        }
        ["panic"] => panic!("PID 1 ends, so does its kernel"),
        ["off"] => {
            unsafe { reboot(POWER_OFF) };
            unreachable!("the VM is off")
        }
        _ => Err(std::io::Error::other("unknown order")),
    }
}

struct Disk {
    sys: PathBuf,
    dev: PathBuf,
}

fn disk(serial: &str) -> std::io::Result<Disk> {
    for entry in fs::read_dir("/sys/block")? {
        let sys = entry?.path();
        if fs::read_to_string(sys.join("serial")).is_ok_and(|found| found.trim() == serial) {
            let dev = Path::new("/dev").join(sys.file_name().unwrap());
            return Ok(Disk { sys, dev });
        }
    }
    Err(std::io::Error::other("no such disk"))
}

fn find_port(name: &str) -> PathBuf {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim() == name {
                return Path::new("/dev").join(entry.file_name());
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn load_modules() {
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    for path in modules {
        let file = File::open(&path).unwrap();
        if unsafe { syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) } != 0 {
            println!("{}: {}", path.display(), std::io::Error::last_os_error());
        }
    }
}

fn mount_at(folder: &str, kind: &str) {
    let _ = fs::create_dir(folder);
    let (folder, kind) = (CString::new(folder).unwrap(), CString::new(kind).unwrap());
    unsafe { mount(kind.as_ptr(), folder.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}
