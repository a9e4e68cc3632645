//! `ireko import`, `ireko image import`.

use super::Context;
use crate::client::{Client, Content, broken_off};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::lines::{self, read_line};
use crate::output;
use crate::progress::Upload;
use crate::reference::repository_and_tag;
use crate::table::printable;
use crate::target::Target;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::Method;
use ireko_protocol::images::{Import, Imported};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

const PIECE: usize = 256 << 10;

/// Import a disk, a zip of images, or an archive as an image
///
/// What FILE is, its content tells, not its name: a disk (VHDX, VHD, qcow2, VMDK, VDI, or raw with a
/// partition table), an OVA or a Vagrant box with all its disks, a zip of images as `ireko image
/// export` and InvokeV-Container write it, an image that docker saved, an OCI image layout (a folder
/// or a tar archive of one), or a tar archive of a root file system, plain or compressed with gzip, xz
/// or zstd. "-" reads a root file system's archive from standard input.
///
/// FILE is only read. A VHDX called Name_GUID.vhdx keeps its GUID. A differencing VHDX is linked to
/// its parent, which is imported first. A zip may hold one image or a whole chain; all of it comes or
/// nothing, parents that are not in it are looked for in the tree, and files that are here already
/// must be the same. No image ever loses its name or its file to an import of FILE. An interrupt
/// undoes what has begun. The new image's id is printed; of a zip's, that of the topmost one. `ireko image
/// import debian-12.qcow2 debian`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Apply a Dockerfile instruction to the created image; for archives only
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,

    /// What FILE is, where its content leaves a choice
    #[arg(long, value_name = "format", value_parser = FORMATS)]
    format: Option<String>,

    /// Print what was imported as JSON
    #[arg(long)]
    json: bool,

    /// Set the commit message of the image; not for zips
    #[arg(short, long, value_name = "string")]
    message: Option<String>,

    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    /// What the image is called; without it a disk is called after its file, and the images of a zip
    /// as they were
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
}

/// What a file may be told to be.
const FORMATS: [&str; 9] = ["vhdx", "vhd", "raw", "qcow2", "vmdk", "vdi", "ova", "box", "tar"];

/// One line of the daemon's report.
#[derive(Debug, Default, Deserialize)]
struct Report {
    status: Option<String>,
    id: Option<String>,
    progress: Option<String>,
    error: Option<String>,
}

/// Has the file imported, or sends what comes from elsewhere, and prints the image's id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    if is_here(&args.file)? {
        return import_file(context, args).await;
    }
    if args.format.is_some() || args.json {
        return Err(Error::usage(
            "--format and --json are for files: an archive is sent as it is read",
        ));
    }
    // Opened before a daemon is started: a wrong name is told at once.
    let archive = Archive::open(args).await?;
    let client = context.connect().await?;
    let mut target = Target::docker(["images", "create"]).with("fromSrc", "-");
    if let Some(name) = &args.name {
        let (repository, tag) = repository_and_tag(name);
        target = target.with("repo", repository).with_some("tag", tag);
    }
    target = target.with_some("message", args.message.as_deref());
    for change in &args.change {
        target = target.with("changes", change);
    }
    let upload = Upload::new();
    let image = send(&client, &target, archive, &upload).await;
    upload.finish();
    output::line(image?)?;
    Ok(Exit::SUCCESS)
}

/// Tells whether the daemon can read it itself: a file, or a folder, whose name it is told.
fn is_here(file: &Path) -> Result<bool> {
    if file.as_os_str() == "-" {
        return Ok(false);
    }
    let cannot = |error: &std::io::Error| {
        let error = Error::local(format!("cannot read {}: {error}", file.display()));
        match file.to_string_lossy().contains("://") {
            true => error.hint("download it first and name the file"),
            false => error,
        }
    };
    let kind = std::fs::metadata(file).map_err(|error| cannot(&error))?;
    if kind.is_file() {
        // Before a daemon is started: what cannot be read is told at once.
        std::fs::File::open(file).map_err(|error| cannot(&error))?;
    }
    Ok(kind.is_file() || kind.is_dir())
}

async fn import_file(context: &Context, args: &Args) -> Result<Exit> {
    let path = std::path::absolute(&args.file).map_err(|error| {
        Error::usage(format!("not a file: {}", args.file.display())).because(error)
    })?;
    let import = Import {
        path,
        name: args.name.clone(),
        format: args.format.clone(),
        message: args.message.clone().unwrap_or_default(),
        changes: args.change.clone(),
    };
    let content = Content::json(&import)?;
    let client = context.connect().await?;
    let target = Target::ireko(["images", "import"]);
    let imported: Imported = lines::follow(&client, &target, content, "importing").await?;
    report(args, &imported)?;
    Ok(Exit::SUCCESS)
}

/// Prints what came, and says what of it did not.
fn report(args: &Args, imported: &Imported) -> Result<()> {
    for name in &imported.names_taken {
        output::note(format_args!("the name {name} is another image's here, and stays so"));
    }
    for image in imported.images.iter().filter(|image| !image.disks.is_empty()) {
        let name = image.names.first().unwrap_or(&image.id);
        output::note(format_args!("{name} has data disks: {}", image.disks.join(", ")));
    }
    for entry in &imported.passed_over {
        output::note(format_args!("passed over in the zip: {}", printable(entry)));
    }
    if args.json {
        return output::json(imported);
    }
    tops(imported).try_for_each(output::line)
}

/// The ids of the images that no other of them stands on.
fn tops(imported: &Imported) -> impl Iterator<Item = &str> {
    let is_below =
        |id: &str| imported.images.iter().any(|image| image.parent.as_deref() == Some(id));
    imported.images.iter().map(|image| image.id.as_str()).filter(move |id| !is_below(id))
}

async fn send(
    client: &Client,
    target: &Target,
    archive: Archive,
    upload: &Upload,
) -> Result<String> {
    let counted = upload.clone();
    let stream = archive.stream.inspect_ok(move |piece| counted.sent(piece.len() as u64));
    let response = client.send(Method::POST, target, Content::tar(stream)).await?;
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    let image = read_report(StreamReader::new(body), |status| upload.working(status)).await?;
    image.ok_or_else(|| broken_off("no image was named"))
}

/// How much of standard input tells what it is.
const HEAD: u64 = 512;

/// Tells what begins like a file that is imported by its name only, such as a zip of an export.
fn no_archive(head: &[u8]) -> Option<&'static str> {
    const MARKS: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "a zip"),
        (b"PK\x05\x06", "a zip"),
        (b"vhdxfile", "a VHDX disk"),
        (b"conectix", "a VHD disk"),
        (b"QFI\xfb", "a qcow2 disk"),
        (b"KDMV", "a VMDK disk"),
    ];
    // A member of an archive may be called so.
    let is_tar = head.get(257..262) == Some(b"ustar");
    let known = MARKS.iter().find(|(mark, _)| !is_tar && head.starts_with(mark));
    known.map(|(_, what)| *what)
}

struct Archive {
    stream: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<bytes::Bytes>> + Send>>,
}

impl Archive {
    async fn open(args: &Args) -> Result<Self> {
        if args.file.as_os_str() == "-" {
            if crate::terminal::stdin_is_terminal() {
                return Err(Error::local("no archive on standard input: it is a terminal")
                    .hint("ireko import - NAME < rootfs.tar"));
            }
            let mut head = Vec::new();
            let mut input = tokio::io::stdin();
            let reading = |error| Error::local("cannot read standard input").because(error);
            (&mut input).take(HEAD).read_to_end(&mut head).await.map_err(reading)?;
            if let Some(what) = no_archive(&head) {
                return Err(Error::local(format!("standard input is {what}, and no tar archive"))
                    .hint("write it to a file first: ireko image import FILE"));
            }
            return Ok(Self::of(std::io::Cursor::new(head).chain(input)));
        }
        let cannot = |error: std::io::Error| {
            Error::local(format!("cannot read {}", args.file.display())).because(error)
        };
        let file = tokio::fs::File::open(&args.file).await.map_err(cannot)?;
        Ok(Self::of(file))
    }

    fn of(reader: impl AsyncRead + Send + 'static) -> Self {
        Self { stream: ReaderStream::with_capacity(reader, PIECE).boxed() }
    }
}

/// Reads the report to its end; the last status that is an image's id is the result.
///
/// Errors: the daemon's own, which comes as a line, as the work had begun.
async fn read_report(
    stream: impl AsyncRead + Unpin,
    mut working: impl FnMut(&str),
) -> Result<Option<String>> {
    let mut lines = BufReader::new(stream);
    let mut image = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if read_line(&mut lines, &mut line).await.map_err(broken_off)? == 0 {
            return Ok(image);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let report: Report = crate::client::decode(&line)?;
        if let Some(message) = report.error {
            return Err(Error::new(ErrorKind::Refused(500), message));
        }
        let status = report.status.unwrap_or_default();
        if status.starts_with("sha256:") {
            image = Some(status);
        } else if let Some(text) = [report.id, Some(status), report.progress]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .reduce(|text, part| format!("{text} {part}"))
        {
            working(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::images::ImportedImage;

    #[test]
    fn of_a_chain_the_topmost_image_is_printed() {
        let image = |id: &str, parent: Option<&str>| ImportedImage {
            id: id.to_owned(),
            names: Vec::new(),
            guid: String::new(),
            parent: parent.map(str::to_owned),
            own_bytes: 0,
            virtual_size: 0,
            disks: Vec::new(),
        };
        let images = vec![image("a", Some("z")), image("b", Some("a")), image("c", None)];
        let imported = Imported {
            images,
            already_here: Vec::new(),
            names_taken: Vec::new(),
            passed_over: Vec::new(),
        };
        assert_eq!(tops(&imported).collect::<Vec<_>>(), ["b", "c"]);
    }

    async fn report(text: &str) -> (Result<Option<String>>, Vec<String>) {
        let mut told = Vec::new();
        let image = read_report(text.as_bytes(), |status| told.push(status.to_owned())).await;
        (image, told)
    }

    #[test]
    fn what_is_no_tar_archive_is_told_before_it_is_sent() {
        assert_eq!(no_archive(b"PK\x03\x04\x14\0\0\0"), Some("a zip"));
        let mut block = vec![0; 512];
        block[..8].copy_from_slice(b"vhdxfile");
        assert_eq!(no_archive(&block), Some("a VHDX disk"));
        block[257..262].copy_from_slice(b"ustar");
        for archive in [&block[..], &[0; 512], b"\x1f\x8b\x08\0", b"PKGBUILD", b""] {
            assert_eq!(no_archive(archive), None);
        }
    }

    #[tokio::test]
    async fn the_report_ends_with_the_images_id() {
        let text =
            "{\"status\":\"Applying\",\"progress\":\"3 s\"}\r\n\r\n{\"status\":\"sha256:ab\"}";
        let (image, told) = report(text).await;
        assert_eq!(image.unwrap().as_deref(), Some("sha256:ab"));
        assert_eq!(told, ["Applying 3 s"]);
    }

    #[tokio::test]
    async fn a_failure_after_the_work_began_is_a_failure() {
        let text = "{\"status\":\"Applying\"}\n{\"error\":\"not a tar archive\"}\n";
        let (image, _) = report(text).await;
        assert_eq!(image.unwrap_err().to_string(), "not a tar archive");
        assert!(report("{\"status\":\"Applying\"}\n").await.0.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_without_end_takes_bounded_memory() {
        let endless = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'x'), 64 << 20);
        let error = read_report(endless, |_| ()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
