//! `ireko inspect`, `ireko image inspect`.

use super::Context;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde_json::Value;

/// Return low-level information on containers and images, as JSON
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Display total file sizes if the object is a container
    #[arg(short, long)]
    size: bool,

    /// Only inspect objects of the given type
    #[arg(long, value_name = "type")]
    r#type: Option<ObjectType>,

    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// What may be inspected.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// A container.
    Container,
    /// An image.
    Image,
}

impl Args {
    /// The same for containers only.
    pub fn of_containers(self) -> Self {
        Self { r#type: Some(ObjectType::Container), ..self }
    }

    /// The same for images only.
    pub fn of_images(self) -> Self {
        Self { r#type: Some(ObjectType::Image), ..self }
    }
}

/// Prints one JSON array with what was found; what was not is told afterwards.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match inspect(&client, args, name).await {
            Ok(object) => found.push(object),
            Err(error) => failures.push(error),
        }
    }
    output::json(&found)?;
    if failures.is_empty() {
        return Ok(Exit::SUCCESS);
    }
    for error in failures {
        output::note(error.report());
    }
    Err(Error::new(ErrorKind::AlreadyTold, "some were not found"))
}

async fn inspect(client: &Client, args: &Args, name: &str) -> Result<Value> {
    let container = Target::docker(["containers", name, "json"]).with_flag("size", args.size);
    let image = Target::docker(["images", name, "json"]);
    match args.r#type {
        Some(ObjectType::Container) => client.get(&container).await,
        Some(ObjectType::Image) => client.get(&image).await,
        None => match client.get(&container).await {
            Err(error) if error.status() == Some(404) => match client.get(&image).await {
                Err(error) if error.status() == Some(404) => {
                    Err(Error::new(ErrorKind::Refused(404), format!("no such object: {name}"))
                        .hint("`ireko ps -a` lists containers, `ireko images` images"))
                }
                answer => answer,
            },
            answer => answer,
        },
    }
}
