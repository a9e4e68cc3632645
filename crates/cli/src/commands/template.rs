//! `ireko template`: the saved VMs in the cache. Works on files, as `setup` does; the host binary does it.

use crate::error::Result;
use crate::table::Table;
use crate::{output, quantity, words};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is done with templates.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Verb {
    /// List templates, the one used last first
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove all templates that no virtual machine uses
    ///
    /// They are made anew when they are wanted.
    Prune {
        /// Leave those used last, as long as all together take no more than this, such as 2g
        #[arg(long, value_name = "bytes", value_parser = quantity::bytes, default_value = "0")]
        keep: u64,
    },
    /// Remove one or more templates
    Rm {
        /// As `ls` lists them
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Read all templates whole, and remove those that are not as they were made
    Verify {
        /// Only where it was not done since this machine was started
        #[arg(long)]
        once: bool,
    },
}

/// A template as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Network devices.
    pub networks: usize,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub used: i64,
    /// Bytes on the host's disk.
    pub bytes: u64,
    /// A VM of it runs.
    pub in_use: bool,
}

/// Prints templates as a table, or as JSON.
///
/// # Errors
/// Standard output cannot be written to.
pub fn print(templates: &[Listed], json: bool) -> std::io::Result<()> {
    let printed: Result<()> = match json {
        true => output::json(&templates),
        false => output::print(table(templates)),
    };
    printed.map_err(std::io::Error::other)
}

fn table(templates: &[Listed]) -> Table {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let mut table =
        Table::new(["KEY", "ACCEL", "MEMORY", "CPUS", "NETWORKS", "LAST USED", "SIZE", "IN USE"]);
    for one in templates {
        table.row([
            one.key.clone(),
            one.accel.clone(),
            words::binary_size(one.memory_mib << 20),
            one.cpus.to_string(),
            one.networks.to_string(),
            words::ago(one.used, now),
            words::size(one.bytes),
            if one.in_use { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}
