//! `ireko images`, `ireko image ls`.

use super::Context;
use crate::api::{ImageSummary, short_id};
use crate::client::decode;
use crate::error::Result;
use crate::exit::Exit;
use crate::reference::repository_and_tag;
use crate::table::Table;
use crate::target::{Filter, Target};
use crate::{output, words};

const NONE: &str = "<none>";

/// List images
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show all images (default hides untagged ones that others are made from)
    #[arg(short, long)]
    all: bool,

    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<Filter>,

    /// Print JSON, as the API has it
    #[arg(long, conflicts_with_all = ["quiet", "no_trunc"])]
    json: bool,

    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,

    /// Only show image ids
    #[arg(short, long)]
    quiet: bool,

    /// Only these, such as web or 'web:v*'
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Lists the images, newest first.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let mut filters = args.filter.clone();
    filters.extend(args.name.as_deref().map(|name| Filter::new("reference", name)));
    let target = Target::docker(["images", "json"]).with_flag("all", args.all);
    let list: Box<serde_json::value::RawValue> =
        context.connect().await?.get(&target.with_filters(&filters)).await?;
    if args.json {
        output::json(&decode::<serde_json::Value>(list.get().as_bytes())?)?;
        return Ok(Exit::SUCCESS);
    }
    let images: Vec<ImageSummary> = decode(list.get().as_bytes())?;
    if args.quiet {
        for image in &images {
            for _ in 0..image.repo_tags.len().max(1) {
                output::line(shown_id(&image.id, args.no_trunc))?;
            }
        }
    } else {
        output::print(table(&images, jiff::Timestamp::now().as_second(), args.no_trunc))?;
    }
    Ok(Exit::SUCCESS)
}

fn shown_id(id: &str, whole: bool) -> &str {
    if whole { id } else { short_id(id) }
}

fn table(images: &[ImageSummary], now: i64, whole: bool) -> Table {
    let mut table = Table::new(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    for image in images {
        let names = image.repo_tags.iter().map(|name| repository_and_tag(name));
        let names = match image.repo_tags.is_empty() {
            true => vec![(NONE, None)],
            false => names.collect(),
        };
        for (repository, tag) in names {
            table.row([
                repository.to_owned(),
                tag.unwrap_or(NONE).to_owned(),
                shown_id(&image.id, whole).to_owned(),
                words::ago(image.created, now),
                words::size(u64::try_from(image.size).unwrap_or(0)),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_each_of_its_names() {
        let images: Vec<ImageSummary> = serde_json::from_str(
            r#"[{"Id":"sha256:0123456789abcdef","RepoTags":["web:v1","localhost:5000/web:v2"],
                 "Created":1000,"Size":4200000},
                {"Id":"sha256:fedcba9876543210","RepoTags":[],"Created":10,"Size":117000000}]"#,
        )
        .unwrap();
        assert_eq!(
            table(&images, 1060, false).to_string(),
            "\
REPOSITORY           TAG       IMAGE ID       CREATED              SIZE
web                  v1        0123456789ab   About a minute ago   4.2MB
localhost:5000/web   v2        0123456789ab   About a minute ago   4.2MB
<none>               <none>    fedcba987654   17 minutes ago       117MB
"
        );
    }
}
