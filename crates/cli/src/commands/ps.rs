//! `ireko ps`.

use super::Context;
use crate::api::{ContainerSummary, Port, short_id};
use crate::client::decode;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::{Table, ellipsis};
use crate::target::{Filter, Target};
use crate::{output, words};
use ireko_protocol::tree::Tree;
use std::path::Path;

/// The command is shown so wide, its quotes apart.
const COMMAND_WIDTH: usize = 20;

/// List containers
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,

    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<Filter>,

    /// Print JSON: as the API has it, with each container's disk (Path) and the file that stands on
    /// (ParentPath)
    #[arg(long, conflicts_with_all = ["quiet", "no_trunc", "wide"])]
    json: bool,

    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int")]
    last: Option<u32>,

    /// Show the latest created container (includes all states)
    #[arg(short, long, conflicts_with = "last")]
    latest: bool,

    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,

    /// Only display container ids
    #[arg(short, long, conflicts_with = "wide")]
    quiet: bool,

    /// Show each container's disk and the file that stands on too
    #[arg(short, long)]
    wide: bool,
}

/// Lists the containers, newest first.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let limit = if args.latest { Some(1) } else { args.last };
    let target = Target::docker(["containers", "json"])
        .with_flag("all", args.all)
        .with_some("limit", limit.map(|limit| limit.to_string()))
        .with_filters(&args.filter);
    let client = context.connect().await?;
    let list: Box<serde_json::value::RawValue> = client.get(&target).await?;
    if args.json {
        let tree: Tree = client.get(&Target::ireko(["tree"])).await?;
        output::json(&with_paths(decode(list.get().as_bytes())?, &tree))?;
        return Ok(Exit::SUCCESS);
    }
    let containers: Vec<ContainerSummary> = decode(list.get().as_bytes())?;
    match args.quiet {
        true => {
            for container in &containers {
                output::line(shown_id(&container.id, args.no_trunc))?;
            }
        }
        false => {
            let tree = match args.wide {
                true => Some(client.get::<Tree>(&Target::ireko(["tree"])).await?),
                false => None,
            };
            let now = jiff::Timestamp::now().as_second();
            output::print(table(&containers, tree.as_ref(), now, args.no_trunc))?;
        }
    }
    Ok(Exit::SUCCESS)
}

fn shown_id(id: &str, whole: bool) -> &str {
    if whole { id } else { short_id(id) }
}

/// Adds what the API's list does not have: where the containers' disks are.
fn with_paths(mut list: Vec<serde_json::Value>, tree: &Tree) -> Vec<serde_json::Value> {
    for container in &mut list {
        let leaf = tree.containers.iter().find(|leaf| container["Id"] == leaf.id.as_str());
        if let (Some(leaf), Some(fields)) = (leaf, container.as_object_mut()) {
            fields.insert("Path".into(), serde_json::json!(leaf.path));
            fields.insert("ParentPath".into(), serde_json::json!(leaf.parent_path));
        }
    }
    list
}

/// With a tree, the containers' files are shown too.
fn table(containers: &[ContainerSummary], tree: Option<&Tree>, now: i64, whole: bool) -> Table {
    let mut heading =
        vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    if tree.is_some() {
        heading.extend(["DISKS", "PATH", "PARENT PATH"]);
    }
    let mut table = Table::titled(heading.into_iter().map(str::to_owned));
    for container in containers {
        let command = match whole {
            true => container.command.clone(),
            false => ellipsis(&container.command, COMMAND_WIDTH),
        };
        let names = container.names.iter().map(|name| name.trim_start_matches('/'));
        let mut cells = vec![
            shown_id(&container.id, whole).to_owned(),
            container.image.clone(),
            format!("{command:?}"),
            words::ago(container.created, now),
            container.status.clone(),
            container.ports.iter().map(port).collect::<Vec<_>>().join(", "),
            names.collect::<Vec<_>>().join(","),
        ];
        if let Some(tree) = tree {
            let leaf = tree.containers.iter().find(|leaf| leaf.id == container.id);
            let shown = |path: &Path| path.display().to_string();
            cells.push(leaf.map(|leaf| leaf.disks.join(", ")).unwrap_or_default());
            cells.push(leaf.map(|leaf| shown(&leaf.path)).unwrap_or_default());
            let parent = leaf.and_then(|leaf| leaf.parent_path.as_deref());
            cells.push(parent.map(shown).unwrap_or_default());
        }
        table.row(cells);
    }
    table
}

/// `127.0.0.1:8080->80/tcp`, or `80/tcp` where it is not published.
fn port(port: &Port) -> String {
    let Port { ip, private_port, public_port, r#type } = port;
    match (public_port, ip.contains(':')) {
        (None, _) => format!("{private_port}/{type}"),
        (Some(public), true) => format!("[{ip}]:{public}->{private_port}/{type}"),
        (Some(public), false) => format!("{ip}:{public}->{private_port}/{type}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::tree::Leaf;

    #[test]
    fn the_list_looks_like_dockers() {
        let containers: Vec<ContainerSummary> = serde_json::from_str(
            r#"[{"Id":"0123456789abcdef","Names":["/calm_otter"],"Image":"base","Ports":[],
                 "Command":"sh -c \"echo hello; sleep 100\"","Created":1000,"Status":"Up 3 seconds"},
                {"Id":"fedcba9876543210","Names":["/web"],"Image":"web:v1","Command":"httpd",
                 "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}],
                 "Created":940,"Status":"Exited (0) 5 seconds ago"}]"#,
        )
        .unwrap();
        assert_eq!(
            table(&containers, None, 1004, false).to_string(),
            "\
CONTAINER ID   IMAGE     COMMAND                   CREATED              STATUS                     PORTS                  NAMES
0123456789ab   base      \"sh -c \\\"echo hello; …\"   4 seconds ago        Up 3 seconds                                      calm_otter
fedcba987654   web:v1    \"httpd\"                   About a minute ago   Exited (0) 5 seconds ago   0.0.0.0:8080->80/tcp   web
"
        );
    }

    #[test]
    fn json_has_the_containers_files_beside_what_the_api_says() {
        let leaf = |id: &str, parent: Option<&str>| Leaf {
            id: id.into(),
            name: id.into(),
            state: "exited".into(),
            parent: None,
            own_bytes: 0,
            disks: Vec::new(),
            path: format!("/c/{id}.vhdx").into(),
            parent_path: parent.map(Into::into),
        };
        let tree = Tree {
            nodes: Vec::new(),
            containers: vec![leaf("a", Some("/i/x.vhdx")), leaf("b", None)],
        };
        let list = ["b", "a", "gone"].map(|id| serde_json::json!({ "Id": id }));
        assert_eq!(
            serde_json::json!(with_paths(list.into(), &tree)),
            serde_json::json!([
                { "Id": "b", "Path": "/c/b.vhdx", "ParentPath": null },
                { "Id": "a", "Path": "/c/a.vhdx", "ParentPath": "/i/x.vhdx" },
                { "Id": "gone" },
            ])
        );
    }
}
