//! `ireko df`.
//!
//! ```text
//!   IMAGE        OWN      SHARED    RECLAIMABLE          own + shared = the image's whole chain
//!   web:latest   49.2kB   13.2MB    49.2kB               reclaimable: free when it is removed
//! ```

use super::Context;
use crate::api::short_id;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::Table;
use crate::target::Target;
use crate::{output, words};
use ireko_protocol::usage::DiskUsage;

/// Show what images and containers take on the disk, and what could be freed
///
/// OWN is what no other image needs, SHARED what others need too. RECLAIMABLE is free when that image
/// or container alone is removed; in the first table, when all are that no container or VM needs.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the tables.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let usage: DiskUsage = client.get(&Target::ireko(["df"])).await?;
    match args.json {
        true => output::json(&usage)?,
        false => output::print(tables(&usage))?,
    }
    Ok(Exit::SUCCESS)
}

fn tables(usage: &DiskUsage) -> String {
    let mut totals = Table::new(["TYPE", "COUNT", "SIZE", "RECLAIMABLE"]);
    let image_bytes = usage.layer_bytes.saturating_sub(usage.garbage_bytes);
    let mut total = |what: &str, count: String, bytes, reclaimable| {
        totals.row([what.to_owned(), count, words::size(bytes), words::size(reclaimable)]);
    };
    total("Images", usage.images.len().to_string(), image_bytes, usage.reclaimable_layer_bytes);
    let containers = usage.containers.len().to_string();
    total("Containers", containers, usage.container_bytes, usage.reclaimable_container_bytes);
    total("Unneeded", String::new(), usage.garbage_bytes, usage.garbage_bytes);

    let mut images = Table::new(["IMAGE", "ID", "OWN", "SHARED", "RECLAIMABLE", "CONTAINERS"]);
    for image in &usage.images {
        let name = match image.names.is_empty() {
            true => "<none>".to_owned(),
            false => image.names.join(", "),
        };
        images.row([
            name,
            short_id(&image.id).to_owned(),
            words::size(image.own_bytes),
            words::size(image.shared_bytes),
            words::size(image.reclaimable_bytes),
            image.containers.to_string(),
        ]);
    }
    let mut containers = Table::new(["CONTAINER", "ID", "STATE", "OWN", "LAYERS", "RECLAIMABLE"]);
    for container in &usage.containers {
        containers.row([
            container.name.clone(),
            short_id(&container.id).to_owned(),
            container.state.clone(),
            words::size(container.own_bytes),
            words::size(container.layer_bytes),
            words::size(container.reclaimable_bytes),
        ]);
    }
    format!("{totals}\n{images}\n{containers}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::usage::{ContainerUsage, ImageUsage};

    #[test]
    fn the_tables_read_as_agreed() {
        let usage = DiskUsage {
            images: vec![ImageUsage {
                id: "sha256:0123456789abcdef".into(),
                names: vec!["web:latest".into()],
                total_bytes: 5_200_000,
                own_bytes: 1_000_000,
                shared_bytes: 4_200_000,
                reclaimable_bytes: 0,
                containers: 1,
            }],
            containers: vec![ContainerUsage {
                id: "abcdef0123456789".into(),
                name: "calm_otter".into(),
                state: "exited".into(),
                own_bytes: 36_000,
                layer_bytes: 0,
                reclaimable_bytes: 36_000,
            }],
            layer_bytes: 5_300_000,
            reclaimable_layer_bytes: 0,
            garbage_bytes: 100_000,
            container_bytes: 36_000,
            reclaimable_container_bytes: 36_000,
        };
        assert_eq!(
            tables(&usage),
            "\
TYPE         COUNT     SIZE      RECLAIMABLE
Images       1         5.2MB     0B
Containers   1         36kB      36kB
Unneeded               100kB     100kB

IMAGE        ID             OWN       SHARED    RECLAIMABLE   CONTAINERS
web:latest   0123456789ab   1MB       4.2MB     0B            1

CONTAINER    ID             STATE     OWN       LAYERS    RECLAIMABLE
calm_otter   abcdef012345   exited    36kB      0B        36kB
"
        );
    }
}
