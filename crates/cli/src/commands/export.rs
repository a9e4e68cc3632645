//! `ireko image export`.

use super::Context;
use crate::client::{Client, Content, broken_off};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::lines;
use crate::output;
use crate::progress::Download;
use crate::target::Target;
use http_body_util::BodyExt;
use hyper::Method;
use ireko_protocol::export::{Definition, ExportFormat, ExportRequest, Exported};
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;

/// Write an image, or a container's disk, to a file: as a zip of its layers, or as one disk of another format
///
/// A zip holds the image's own layer, the smallest that a store needs which has the layers below it;
/// with --tree it holds them all. `ireko image import` takes such a zip, and so does InvokeV-Container.
/// Every other format is the whole disk as one file, for other hypervisors. An interrupt leaves
/// nothing; FILE appears once it is whole. `ireko image export web web.zip --tree`, to go on elsewhere;
/// `ireko image export web web.qcow2`, to leave.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Write this data disk in place of the image's own; not for a zip, which holds all disks
    #[arg(long, value_name = "name")]
    disk: Option<String>,

    /// Replace FILE where it exists
    #[arg(long)]
    force: bool,

    /// What to write: zip, vhdx, vhd (grows), vhd-fixed (for Azure), qcow2, raw or vmdk
    ///
    /// Without it FILE's name decides.
    #[arg(long, value_name = "format")]
    format: Option<ExportFormat>,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,

    /// Put all layers down to the base into the zip
    #[arg(long)]
    tree: bool,

    /// Write beside FILE what starts the machine elsewhere: libvirt (XML, for virsh define), hyperv (a
    /// PowerShell script) or qemu (a shell script)
    #[arg(long, value_name = "list", value_delimiter = ',')]
    with: Vec<Definition>,

    #[arg(value_name = "IMAGE|CONTAINER")]
    image: String,

    /// The file to write; "-" writes a zip to standard output
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

/// Exports and prints the file's name.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    if args.file.as_os_str() == "-" {
        return stream(context, args).await;
    }
    let format = match args.format {
        Some(format) => format,
        None => ExportFormat::by_suffix(&args.file).map_err(|error| {
            let known = ExportFormat::ALL.map(ExportFormat::name).join(", ");
            Error::usage(error.to_string()).hint(format!("--format says it: {known}"))
        })?,
    };
    if args.tree && format != ExportFormat::Zip {
        return Err(Error::usage(format!("--tree is for zips: {format} is always the whole disk")));
    }
    let path = std::path::absolute(&args.file).map_err(|error| {
        Error::local(format!("cannot tell where {} is", args.file.display())).because(error)
    })?;
    let request = ExportRequest {
        path,
        tree: args.tree,
        format: Some(format),
        force: args.force,
        disk: args.disk.clone(),
        with: args.with.clone(),
    };
    let client = context.connect().await?;
    let target = Target::ireko(["images", &args.image, "export"]);
    let exported: Exported =
        lines::follow(&client, &target, Content::json(&request)?, "exporting").await?;
    if !exported.left_out.is_empty() {
        output::note(format_args!(
            "{} is one disk; left out: {} (--disk NAME writes one of them)",
            args.file.display(),
            exported.left_out.join(", ")
        ));
    }
    match args.json {
        true => output::json(&exported)?,
        false => {
            output::line(args.file.display())?;
            for file in &exported.definitions {
                output::line(file.display())?;
            }
        }
    }
    Ok(Exit::SUCCESS)
}

async fn stream(context: &Context, args: &Args) -> Result<Exit> {
    if let Some(format) = args.format.filter(|format| *format != ExportFormat::Zip) {
        return Err(Error::usage(format!(
            "only a zip can be written to standard output: {format}"
        ))
        .hint("name a file instead of -"));
    }
    if args.force || args.json || args.disk.is_some() || !args.with.is_empty() {
        return Err(Error::usage(
            "--disk, --force, --json and --with are for files, not for standard output",
        ));
    }
    if crate::terminal::stdout_is_terminal() {
        return Err(Error::local("a zip is not written to a terminal")
            .hint("ireko image export IMAGE - > FILE"));
    }
    let client = context.connect().await?;
    let shown = Download::new("exporting");
    let outcome = copy(&client, args, &shown).await;
    shown.finish();
    outcome.map(|()| Exit::SUCCESS)
}

async fn copy(client: &Client, args: &Args, shown: &Download) -> Result<()> {
    let target = Target::ireko(["images", &args.image, "export"]).with_flag("tree", args.tree);
    let response = client.send(Method::GET, &target, Content::none()).await?;
    let (mut body, mut stdout) = (response.into_body(), tokio::io::stdout());
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(broken_off)?.into_data() else { continue };
        stdout.write_all(&bytes).await.map_err(Error::output)?;
        shown.received(bytes.len() as u64);
    }
    stdout.flush().await.map_err(Error::output)
}
