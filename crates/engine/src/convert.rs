//! Having another program convert a disk: qemu-img, confined to the one file and the one folder.
//!
//! A stranger's file was vetted before ([`ireko_images`] looks that it names no other one); the walls
//! around the program are there for what the look may have missed. See `ireko confine`.

use crate::error::{Attempt, Error, Result};
use crate::progress::Watcher;
use ireko_images::{Conversion, DiskFormat, Watch};
use ireko_protocol::confine::Confinement;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, sleep_until};

const PROGRAM: &str = "qemu-img";
/// What qemu-img takes for tables of 64 TiB, and threads.
const MEMORY: u64 = 2 << 30;
/// It must convert so much in a second of processor time, and a quarter of it in a second.
const PACE: u64 = 16 << 20;
const LEAST_SECONDS: u64 = 600;
/// Blocks of the VHDX: small ones keep it sparse, tables of huge disks want larger ones.
const BLOCK: u64 = 2 << 20;
const HUGE: u64 = 4 << 40;
const HUGE_BLOCK: u64 = 32 << 20;
/// Room for the tables of a file that holds all of its disk.
const OVERHEAD: u64 = 512 << 20;
/// How often it is looked whether the caller still wants it.
const LOOK: Duration = Duration::from_millis(100);
/// How much of what it says is kept.
const SAID: u64 = 4 << 10;

/// Converts what `conversion` tells into the file it tells; `watcher` is told how far it is.
///
/// Errors where the program is not installed, refuses the file, needs more space, memory or time
/// than it may have, or is not wanted any more. What it wrote is left to the caller.
pub(crate) async fn convert(
    executable: &Path,
    conversion: &Conversion,
    watcher: &Watcher,
) -> Result<()> {
    let plan = confinement(find_program()?, conversion)?;
    let plan = serde_json::to_string(&plan).attempt(|| format!("name files to {PROGRAM}"))?;
    let mut command = Command::new(executable);
    command.arg("confine").arg(plan).current_dir("/").env_clear();
    // One arena: each thread's own would count as memory.
    command.env("LC_ALL", "C").env("MALLOC_ARENA_MAX", "1").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().attempt(|| format!("start {PROGRAM}"))?;
    let said = child.stderr.take().map(|stderr| tokio::spawn(read_some(stderr)));
    let watched = watch(&mut child, conversion.virtual_size, watcher).await;
    if watched.is_err() {
        child.kill().await.attempt(|| format!("end {PROGRAM}"))?;
    }
    let said = match said {
        Some(said) => said.await.unwrap_or_default(),
        None => String::new(),
    };
    watched?;
    let status = child.wait().await.attempt(|| format!("wait for {PROGRAM}"))?;
    if !said.is_empty() {
        tracing::warn!(source = %conversion.source.display(), said, "{PROGRAM} says");
    }
    match (status.success(), status.signal()) {
        (true, _) => Ok(()),
        (false, signal) => Err(failure(signal, &said)),
    }
}

fn confinement(program: PathBuf, conversion: &Conversion) -> Result<Confinement> {
    let Conversion { source, from, folder, target, to, virtual_size, room } = conversion;
    let utf8 = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::bad_parameter(format!("{} is not written in UTF-8", path.display()))
        })
    };
    let words = ["convert", "-p", "-f", qemu_name(*from), "-O", qemu_name(*to)];
    let mut arguments: Vec<String> = words.map(str::to_owned).into();
    if *to == DiskFormat::Vhdx {
        let block = if *virtual_size > HUGE { HUGE_BLOCK } else { BLOCK };
        arguments.extend(["-o".to_owned(), format!("subformat=dynamic,block_size={block}")]);
    }
    // An absolute path is never taken for an option, nor for a protocol.
    arguments.extend([utf8(source)?, utf8(target)?]);
    Ok(Confinement {
        program,
        arguments,
        read: vec![source.clone()],
        write: folder.clone(),
        memory: MEMORY,
        cpu_seconds: seconds(*virtual_size),
        file_size: virtual_size
            .saturating_add(virtual_size / 256)
            .saturating_add(OVERHEAD)
            .min(*room),
    })
}

fn qemu_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Vhdx => "vhdx",
        DiskFormat::Vhd => "vpc",
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Vmdk => "vmdk",
        DiskFormat::Vdi => "vdi",
    }
}

fn seconds(virtual_size: u64) -> u64 {
    LEAST_SECONDS + virtual_size / PACE
}

fn find_program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter_map(|folder| folder.join(PROGRAM).canonicalize().ok())
        .find(|program| program.is_file())
        .ok_or_else(|| {
            Error::unsupported(format!("{PROGRAM} is needed for this format, and not installed"))
                .hint("apt-get install qemu-utils")
        })
}

/// Follows the program's progress to the end of its output. Errors where it is not wanted any more,
/// or takes too long.
async fn watch(child: &mut Child, virtual_size: u64, watcher: &Watcher) -> Result<()> {
    let Some(mut stdout) = child.stdout.take() else { return Ok(()) };
    let deadline = Instant::now() + Duration::from_secs(seconds(virtual_size).saturating_mul(4));
    let mut look = interval(LOOK);
    let (mut buffer, mut percent) = ([0; 512], Percent::default());
    watcher.advanced(0, virtual_size);
    loop {
        tokio::select! {
            count = stdout.read(&mut buffer) => match count.attempt(|| format!("listen to {PROGRAM}"))? {
                0 => return Ok(()),
                count => {
                    if let Some(hundredths) = percent.feed(&buffer[..count]) {
                        let done = u128::from(virtual_size) * u128::from(hundredths) / 10_000;
                        watcher.advanced(done as u64, virtual_size);
                    }
                }
            },
            _ = look.tick() => {
                if watcher.cancelled() {
                    return Err(Error::conflict("cancelled"));
                }
            }
            () = sleep_until(deadline) => {
                return Err(Error::internal(format!("{PROGRAM} does not come to an end")));
            }
        }
    }
}

/// Takes progress out of what qemu-img prints: `    (12.34/100%)\r`.
#[derive(Default)]
struct Percent {
    number: Option<String>,
}

impl Percent {
    /// Returns the last number that is complete, in hundredths of a percent, at most 10,000.
    fn feed(&mut self, bytes: &[u8]) -> Option<u64> {
        let mut last = None;
        for byte in bytes {
            match (byte, &mut self.number) {
                (b'(', number) => *number = Some(String::new()),
                (b'/', number) => {
                    let text = number.take().unwrap_or_default();
                    let hundredths = text.replace('.', "").parse().ok();
                    last = hundredths.filter(|n| *n <= 10_000).or(last);
                }
                (b'0'..=b'9' | b'.', Some(number)) if number.len() < 8 => {
                    number.push(char::from(*byte));
                }
                (_, number) => *number = None,
            }
        }
        last
    }
}

async fn read_some(mut stream: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // What it says beyond that is read, so that it is not kept waiting, and dropped.
    let _ = (&mut stream).take(SAID).read_to_end(&mut said).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Says why it failed. That it was kept from something is our affair, the rest is the file's.
fn failure(signal: Option<i32>, said: &str) -> Error {
    const XCPU: i32 = rustix::process::Signal::XCPU.as_raw();
    const XFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();
    let full = said.contains("No space left") || said.contains("File too large");
    match signal {
        _ if full || signal == Some(XFSZ) => Error::caused(
            "the disk does not fit on the file system",
            io::Error::from(io::ErrorKind::StorageFull),
        )
        .hint("free some space there; nothing was changed"),
        Some(XCPU) => Error::bad_parameter(format!("the disk takes {PROGRAM} too long to convert")),
        Some(signal) => Error::bad_parameter(format!(
            "{PROGRAM} cannot convert the disk: ended by signal {signal}. {said}"
        )),
        None => Error::bad_parameter(format!("{PROGRAM} cannot convert the disk: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_pieces() {
        let mut percent = Percent::default();
        assert_eq!(percent.feed(b"    (0.00/100%)\r    (1.5"), Some(0));
        assert_eq!(percent.feed(b"0/100%)\r"), Some(150));
        assert_eq!(percent.feed(b"(99.99/100%)\r(100.00/100%)\r\n"), Some(10_000));
        assert_eq!(percent.feed(b"(999999999999.00/1(x/(/"), None);
    }

    #[test]
    fn the_program_is_told_the_format_and_sees_one_file() {
        let conversion = Conversion {
            source: "/a/disk".into(),
            from: DiskFormat::Vmdk,
            folder: "/root/journal/x/converted".into(),
            target: "/root/journal/x/converted/disk".into(),
            to: DiskFormat::Vhdx,
            virtual_size: 1 << 30,
            room: 3 << 30,
        };
        let plan = confinement("/usr/bin/qemu-img".into(), &conversion).unwrap();
        assert_eq!(
            plan.arguments.join(" "),
            "convert -p -f vmdk -O vhdx -o subformat=dynamic,block_size=2097152 /a/disk \
             /root/journal/x/converted/disk"
        );
        assert_eq!((plan.read, plan.write), (vec!["/a/disk".into()], conversion.folder.clone()));
        assert!(plan.file_size < 2 << 30);
        let away =
            Conversion { from: DiskFormat::Raw, to: DiskFormat::Qcow2, ..conversion.clone() };
        let plan = confinement("/q".into(), &away).unwrap();
        assert_eq!(plan.arguments[..6].join(" "), "convert -p -f raw -O qcow2");
        assert_eq!(plan.arguments.len(), 8);
        let small = Conversion { room: 1 << 20, ..conversion };
        assert_eq!(confinement("/q".into(), &small).unwrap().file_size, 1 << 20);
    }

    #[test]
    fn a_program_that_may_write_no_more_means_a_full_disk() {
        assert!(failure(Some(25), "").is_full_disk());
        assert!(failure(None, "qemu-img: error: No space left on device").is_full_disk());
        assert!(!failure(Some(11), "").is_full_disk());
        assert!(failure(None, "not a disk").to_string().contains("not a disk"));
    }
}
