//! `ireko vhd check`.

use super::source::{Parents, failed};
use super::work;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::words::binary_size;
use ireko_disk::check::{Finding, RepairOptions, Report, check, check_chain, repair};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What damage ends with, as `qemu-img check` has it.
const DAMAGED: Exit = Exit(2);

/// Look for damage in a disk file, and repair what can be repaired safely
///
/// The exit status is 0 where the disk is sound, 2 where it is damaged, 1 where it could not be checked.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Check the parents too, and the links between the files
    #[arg(long, conflicts_with = "repair")]
    chain: bool,

    /// Repair what loses nothing
    #[arg(short, long)]
    repair: bool,

    /// With --repair: give up blocks that are lost in any case; they read as zeros
    #[arg(long, requires = "repair")]
    accept_loss: bool,

    /// Print a JSON array, one object a file
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    parents: Parents,

    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// A report as JSON.
#[derive(Serialize)]
struct Json {
    file: String,
    sound: bool,
    findings: Vec<JsonFinding>,
    repaired: Vec<JsonFinding>,
    file_size: u64,
    used: u64,
    leaked: u64,
    log_in_use: bool,
}

#[derive(Serialize)]
struct JsonFinding {
    severity: String,
    kind: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<String>,
}

/// Prints what was found.
pub async fn execute(args: Args) -> Result<Exit> {
    let for_work = args.clone();
    work::watched("checking", move |_| reports(&for_work), |reports| show(&args, &reports)).await
}

fn reports(args: &Args) -> Result<Vec<(PathBuf, Report)>> {
    let file = &args.file;
    if args.chain {
        let files = args.parents.of(file)?;
        return check_chain(&files).map_err(failed("cannot check", file));
    }
    let report = match args.repair {
        false => check(file).map_err(failed("cannot check", file))?,
        true => {
            let options = RepairOptions { discard_lost_blocks: args.accept_loss };
            repair(file, &options).map_err(failed("cannot repair", file))?
        }
    };
    Ok(vec![(file.clone(), report)])
}

fn show(args: &Args, reports: &[(PathBuf, Report)]) -> Result<Exit> {
    match args.json {
        true => {
            let reports: Vec<Json> =
                reports.iter().map(|(file, report)| Json::of(file, report)).collect();
            output::json(&reports)?;
        }
        false => reports.iter().try_for_each(|(file, report)| print(args, file, report))?,
    }
    match reports.iter().all(|(_, report)| report.is_sound()) {
        true => Ok(Exit::SUCCESS),
        false => Ok(DAMAGED),
    }
}

fn print(args: &Args, file: &Path, report: &Report) -> Result<()> {
    let line = |text: String| output::line(crate::table::printable(&text));
    let file = file.display();
    for finding in &report.repaired {
        line(format!("{file}: repaired: {}", finding.message))?;
    }
    for finding in &report.findings {
        let cure = match finding.repair {
            Some(repair) if !args.repair => format!(" (--repair would {repair})"),
            Some(repair) if repair.accepts_loss() => {
                format!(" (--repair --accept-loss would {repair})")
            }
            _ => String::new(),
        };
        line(format!("{file}: {}: {}{cure}", finding.severity, finding.message))?;
    }
    let space = &report.space;
    let sizes = format!(
        "{} used of {}, {} belong to nothing",
        binary_size(space.used),
        binary_size(space.file_length),
        binary_size(space.leaked)
    );
    let verdict = if report.is_sound() { "sound" } else { "damaged" };
    line(format!("{file}: {verdict}; {sizes}"))
}

impl Json {
    fn of(file: &Path, report: &Report) -> Self {
        let list = |findings: &[Finding]| findings.iter().map(JsonFinding::of).collect();
        Self {
            file: file.display().to_string(),
            sound: report.is_sound(),
            findings: list(&report.findings),
            repaired: list(&report.repaired),
            file_size: report.space.file_length,
            used: report.space.used,
            leaked: report.space.leaked,
            log_in_use: report.dirty_log,
        }
    }
}

impl JsonFinding {
    fn of(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.to_string(),
            kind: format!("{:?}", finding.what),
            message: finding.message.clone(),
            repair: finding.repair.map(|repair| repair.to_string()),
        }
    }
}
