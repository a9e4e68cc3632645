//! `ireko images`, `ireko image ls`.
//!
//! Docker's list decides which images are shown and in which order; what docker does not know of
//! them comes from the tree.

use super::Context;
use crate::api::{ImageSummary, short_id};
use crate::error::Result;
use crate::exit::Exit;
use crate::table::Table;
use crate::target::{Filter, Target};
use crate::{output, words};
use ireko_protocol::tree::{Identity, Node, NodeKind, Tree};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

const NONE: &str = "<none>";

/// List images
///
/// SIZE is all that an image's chain of files takes on the host, OWN its own file, SHARED the files below,
/// which other images may need too. DEPTH counts the files, CHILDREN the images that stand on it.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show all images (default hides untagged ones that others are made from)
    #[arg(short, long)]
    all: bool,

    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<Filter>,

    /// Print JSON: each image as the tree has it, with its parent's name and its children
    #[arg(long, conflicts_with_all = ["quiet", "no_trunc", "wide"])]
    json: bool,

    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,

    /// Only show image ids
    #[arg(short, long, conflicts_with = "wide")]
    quiet: bool,

    /// Show each image's file and its parent's too
    #[arg(short, long)]
    wide: bool,

    /// Only these, such as web or 'web:v*'
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Lists the images, newest first.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let mut filters = args.filter.clone();
    filters.extend(args.name.as_deref().map(|name| Filter::new("reference", name)));
    let target = Target::docker(["images", "json"]).with_flag("all", args.all);
    let client = context.connect().await?;
    let listed: Vec<ImageSummary> = client.get(&target.with_filters(&filters)).await?;
    if args.quiet {
        for image in &listed {
            for _ in 0..image.repo_tags.len().max(1) {
                output::line(shown_id(&image.id, args.no_trunc))?;
            }
        }
        return Ok(Exit::SUCCESS);
    }
    let tree: Tree = client.get(&Target::ireko(["tree"])).await?;
    let images = rows(&listed, &tree);
    if args.json {
        output::json(&images)?;
    } else {
        let now = jiff::Timestamp::now().as_second();
        output::print(table(&images, now, args.no_trunc, args.wide))?;
    }
    Ok(Exit::SUCCESS)
}

fn shown_id(id: &str, whole: bool) -> &str {
    if whole { id } else { short_id(id) }
}

/// One image, as it is listed.
#[derive(Debug, Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    node: &'a Node,
    /// Those of its names that were asked for.
    #[serde(skip)]
    names: &'a [String],
    /// What its parent is called, or that one's id.
    parent_name: Option<String>,
    /// Images that stand on it directly.
    children: usize,
    /// Bytes of its files that are other images' too.
    shared_bytes: u64,
}

fn rows<'a>(listed: &'a [ImageSummary], tree: &'a Tree) -> Vec<Row<'a>> {
    let by_id: BTreeMap<_, _> = tree.nodes.iter().map(|node| (node.id.as_deref(), node)).collect();
    let by_guid: BTreeMap<_, _> = tree.nodes.iter().map(|node| (&node.guid, node)).collect();
    let mut children: BTreeMap<&String, usize> = BTreeMap::new();
    for parent in tree.nodes.iter().filter_map(|node| node.parent.as_ref()) {
        *children.entry(parent).or_default() += 1;
    }
    // One that was made or removed between the two answers is left out.
    let nodes =
        listed.iter().filter_map(|image| Some((image, *by_id.get(&Some(image.id.as_str()))?)));
    nodes
        .map(|(image, node)| Row {
            node,
            names: &image.ireko.names,
            parent_name: node.parent.as_ref().and_then(|guid| by_guid.get(guid)).map(|parent| {
                parent.references.first().cloned().unwrap_or_else(|| id_of(parent).to_owned())
            }),
            children: children.get(&node.guid).copied().unwrap_or_default(),
            shared_bytes: node.total_bytes.saturating_sub(node.own_bytes),
        })
        .collect()
}

fn id_of(node: &Node) -> &str {
    short_id(node.id.as_deref().unwrap_or(&node.guid))
}

fn table(images: &[Row<'_>], now: i64, whole: bool, wide: bool) -> Table {
    let mut heading = vec!["NAME", "IMAGE ID", "KIND", "CREATED", "SIZE", "OWN", "SHARED"];
    heading.extend(["DEPTH", "CHILDREN", "PARENT"]);
    if wide {
        heading.extend(["PATH", "PARENT PATH"]);
    }
    let mut table = Table::titled(heading.into_iter().map(str::to_owned));
    for image in images {
        let node = image.node;
        let created = node.created.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second());
        let names = match image.names.is_empty() {
            true => vec![NONE.to_owned()],
            false => image.names.to_vec(),
        };
        for name in names {
            let mut cells = vec![
                name,
                shown_id(node.id.as_deref().unwrap_or(&node.guid), whole).to_owned(),
                kind(node).to_owned(),
                words::ago(created, now),
                words::size(node.total_bytes),
                words::size(node.own_bytes),
                words::size(image.shared_bytes),
                node.depth.to_string(),
                image.children.to_string(),
                image.parent_name.clone().unwrap_or_default(),
            ];
            if wide {
                let path = |path: &Path| path.display().to_string();
                cells.push(path(&node.path));
                cells.push(node.parent_path.as_deref().map(path).unwrap_or_default());
            }
            table.row(cells);
        }
    }
    table
}

fn kind(node: &Node) -> &'static str {
    match (node.damage.is_some(), node.kind) {
        (true, _) => "damaged",
        (false, NodeKind::App) => "app",
        (false, NodeKind::Machine) if node.identity == Some(Identity::Generalized) => {
            "machine, generalized"
        }
        (false, NodeKind::Machine) => "machine",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::tree::NodeRole;

    fn node(guid: &str, parent: Option<&str>, names: &[&str], own: u64, total: u64) -> Node {
        Node {
            guid: guid.into(),
            parent: parent.map(Into::into),
            role: NodeRole::Image,
            kind: NodeKind::App,
            identity: None,
            id: Some(format!("sha256:{}", guid.repeat(4))),
            references: names.iter().map(|name| (*name).to_owned()).collect(),
            created: "1970-01-01T00:16:40Z".into(),
            own_bytes: own,
            total_bytes: total,
            virtual_size: 64 << 30,
            depth: 1 + usize::from(parent.is_some()),
            disks: Vec::new(),
            path: format!("/r/images/{guid}.vhdx").into(),
            parent_path: parent.map(|parent| format!("/r/images/{parent}.vhdx").into()),
            damage: None,
        }
    }

    fn tree() -> (Vec<ImageSummary>, Tree) {
        let nodes = vec![
            node("aaaa", None, &["Win2016:latest"], 117_000_000, 117_000_000),
            node("bbbb", Some("aaaa"), &["web:v1", "日本語:latest"], 4_200_000, 121_200_000),
            node("cccc", Some("bbbb"), &[], 1_000_000, 122_200_000),
        ];
        let listed = serde_json::from_str(
            r#"[{"Id":"sha256:cccccccccccccccc","RepoTags":[],"Ireko":{"Names":[]}},
                {"Id":"sha256:bbbbbbbbbbbbbbbb","RepoTags":["web:v1","xn--wgv71a119e:latest"],
                 "Ireko":{"Names":["web:v1","日本語:latest"]}},
                {"Id":"sha256:aaaaaaaaaaaaaaaa","RepoTags":["win2016:latest"],
                 "Ireko":{"Names":["Win2016:latest"]}},
                {"Id":"sha256:dddd","RepoTags":["gone:latest"],"Ireko":{"Names":[]}}]"#,
        );
        (listed.unwrap(), Tree { nodes, containers: Vec::new() })
    }

    #[test]
    fn an_image_has_a_line_for_each_of_its_names() {
        let (listed, tree) = tree();
        let rows = rows(&listed, &tree);
        assert_eq!(
            table(&rows, 1060, false, false).to_string(),
            "\
NAME             IMAGE ID       KIND      CREATED              SIZE      OWN       SHARED    DEPTH     CHILDREN   PARENT
<none>           cccccccccccc   app       About a minute ago   122MB     1MB       121MB     2         0          web:v1
web:v1           bbbbbbbbbbbb   app       About a minute ago   121MB     4.2MB     117MB     2         1          Win2016:latest
日本語:latest    bbbbbbbbbbbb   app       About a minute ago   121MB     4.2MB     117MB     2         1          Win2016:latest
Win2016:latest   aaaaaaaaaaaa   app       About a minute ago   117MB     117MB     0B        1         1          
"
        );
    }

    #[test]
    fn of_several_names_those_are_shown_that_were_asked_for() {
        let (mut listed, tree) = tree();
        listed[1].ireko.names.remove(0);
        let shown = table(&rows(&listed[1..2], &tree), 1060, false, false).to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.lines().nth(1).unwrap().starts_with("日本語:latest "), "{shown}");
    }

    #[test]
    fn the_wide_list_adds_files() {
        let (listed, tree) = tree();
        let rows = rows(&listed[1..2], &tree);
        let wide = table(&rows, 1060, false, true).to_string();
        let line = wide.lines().nth(1).unwrap();
        let cells: Vec<_> = line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
        assert_eq!(cells[9..], ["Win2016:latest", "/r/images/bbbb.vhdx", "/r/images/aaaa.vhdx"]);
        assert_eq!(rows[0].children, 1);
    }
}
