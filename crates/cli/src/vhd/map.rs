//! `ireko vhd map`.

use super::source::{Source, failed};
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::table::Table;
use ireko_disk::{Access, Chain, Disk, Held, Stretch};
use serde::Serialize;
use std::path::PathBuf;

/// Stretches asked for at a time.
const BATCH: usize = 4096;

/// Show which file of a chain holds which bytes of the disk
///
/// Offsets and lengths are bytes of the virtual disk. "zero" is a layer's word that there are zeros,
/// "absent" is what no layer holds; it reads as zeros too.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: Source,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// One stretch as JSON.
#[derive(Serialize)]
struct Line<'a> {
    start: u64,
    length: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// Prints the map as it is read.
pub fn execute(args: &Args) -> Result<Exit> {
    let disk = args.source.open(&args.file, Access::ReadOnly)?;
    let files: Vec<String> = disk.paths().iter().map(|path| path.display().to_string()).collect();
    match args.json {
        true => print_json(args, &disk, &files)?,
        false => print_table(args, &disk, &files)?,
    }
    Ok(Exit::SUCCESS)
}

fn print_json(args: &Args, disk: &Chain, files: &[String]) -> Result<()> {
    let mut before = "[\n";
    each_stretch(args, disk, |stretch| {
        let (kind, depth, offset) = words(stretch.held);
        let file = depth.and_then(|depth| files.get(depth)).map(String::as_str);
        let line =
            Line { start: stretch.offset, length: stretch.length, kind, depth, file, offset };
        let text = serde_json::to_string(&line)
            .map_err(|error| crate::error::Error::local("write JSON").because(error))?;
        output::print(format_args!("{before}  {text}"))?;
        before = ",\n";
        Ok(())
    })?;
    output::line("\n]")
}

fn print_table(args: &Args, disk: &Chain, files: &[String]) -> Result<()> {
    let mut table = Table::new(["START", "LENGTH", "KIND", "FILE", "OFFSET"]);
    each_stretch(args, disk, |stretch| {
        let (kind, depth, offset) = words(stretch.held);
        table.row([
            format!("{:#x}", stretch.offset),
            format!("{:#x}", stretch.length),
            kind.to_owned(),
            depth.and_then(|depth| files.get(depth).cloned()).unwrap_or_default(),
            offset.map(|offset| format!("{offset:#x}")).unwrap_or_default(),
        ]);
        Ok(())
    })?;
    output::print(table)
}

fn words(held: Held) -> (&'static str, Option<usize>, Option<u64>) {
    match held {
        Held::In { layer, at } => ("data", Some(layer), Some(at)),
        Held::Zero => ("zero", None, None),
        Held::Nowhere => ("absent", None, None),
    }
}

/// Calls `visit` for each stretch of the disk; stretches that two batches cut are joined.
fn each_stretch(
    args: &Args,
    disk: &Chain,
    mut visit: impl FnMut(Stretch) -> Result<()>,
) -> Result<()> {
    let size = disk.geometry().virtual_size;
    let (mut at, mut last) = (0, None::<Stretch>);
    while at < size {
        let batch =
            disk.stretches(at, size - at, BATCH).map_err(failed("cannot map", &args.file))?;
        for stretch in batch {
            at = stretch.offset + stretch.length;
            match &mut last {
                Some(last) if last.is_followed_by(stretch.held) => last.length += stretch.length,
                _ => last.replace(stretch).map_or(Ok(()), &mut visit)?,
            }
        }
    }
    last.map_or(Ok(()), visit)
}
