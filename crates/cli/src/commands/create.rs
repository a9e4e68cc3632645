//! `ireko create`.

use super::Context;
use crate::api::Created;
use crate::client::{Client, Content};
use crate::container_options::{ContainerOptions, Streams};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use std::io::Write;

/// Create a new container
#[derive(clap::Args, Clone, Debug)]
#[command(override_usage = "ireko create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
#[command(disable_help_flag = true, next_display_order = None)]
pub struct Args {
    #[command(flatten)]
    options: ContainerOptions,
}

/// Creates the container and prints its id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let id = create(&client, &args.options, Streams::Attached).await?;
    output::line(id)?;
    Ok(Exit::SUCCESS)
}

/// Creates a container and returns its id; the daemon's warnings go to standard error.
pub async fn create(
    client: &Client,
    options: &ContainerOptions,
    streams: Streams,
) -> Result<String> {
    let placed;
    let options = match options.addressing().transpose()? {
        None => options,
        Some(addressing) => {
            placed = options.in_network(addressing.network(client).await?);
            &placed
        }
    };
    let request = Content::json(&options.request(streams)?)?;
    // Made first: a container whose id could not be noted would be lost to its script.
    let id_file = match &options.cidfile {
        Some(path) => {
            let file = std::fs::File::create_new(path).map_err(|error| {
                Error::usage(format!("cannot make the id file {}", path.display())).because(error)
            })?;
            Some((path, file))
        }
        None => None,
    };
    let target =
        Target::docker(["containers", "create"]).with_some("name", options.name.as_deref());
    let created = client.post::<Created>(&target, request).await;
    match (created, id_file) {
        (Ok(created), id_file) => {
            for warning in created.warnings {
                output::note(format_args!("WARNING: {warning}"));
            }
            if let Some((path, mut file)) = id_file {
                file.write_all(created.id.as_bytes()).map_err(|error| {
                    Error::local(format!("write {}", path.display())).because(error)
                })?;
            }
            Ok(created.id)
        }
        (Err(error), id_file) => {
            if let Some((path, _)) = id_file {
                let _ = std::fs::remove_file(path);
            }
            Err(with_cure(error, options.image()))
        }
    }
}

fn with_cure(error: Error, image: &str) -> Error {
    match error.status() {
        Some(404) if error.to_string().contains("No such image") => error.hint(format!(
            "`ireko images` lists what is there; `ireko import FILE {image}` makes an image of a \
             root file system archive"
        )),
        Some(409) if error.to_string().contains("already in use") => {
            error.hint("`ireko rm NAME` removes a container; without --name one is found")
        }
        _ => error,
    }
}
