//! `ireko tree`.
//!
//! ```text
//!   [base:latest]            image       4.9MB
//!   ├── [web:v1]             image       1.2MB
//!   │   └── calm_otter       running     1MB        a container's disk over its image
//!   └── (layer)              layer       2.1MB      part of an image that is gone
//! ```

use super::Context;
use crate::api::short_id;
use crate::client::decode;
use crate::error::Result;
use crate::exit::Exit;
use crate::table::Table;
use crate::target::Target;
use crate::{output, words};
use ireko_protocol::tree::{Identity, Leaf, Node, NodeRole, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Show images and containers as the tree of disks they are
///
/// Images stand in brackets, containers do not. With an image, it and all that stands on it is
/// shown; with a container, it and all it stands on.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print a graph for Graphviz: ireko tree --dot | dot -Tsvg
    #[arg(long, conflicts_with = "json")]
    dot: bool,

    /// Print JSON: the nodes and containers with their parents
    #[arg(long)]
    json: bool,

    #[arg(value_name = "IMAGE|CONTAINER")]
    node: Option<String>,
}

/// Prints the tree, siblings oldest first.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["tree"]).with_some("node", args.node.as_deref());
    let json: serde_json::Value = client.get(&target).await?;
    if args.json {
        output::json(&json)?;
        return Ok(Exit::SUCCESS);
    }
    let tree = decode(json.to_string().as_bytes())?;
    match args.dot {
        true => output::print(dot(&tree))?,
        false => output::print(table(&tree))?,
    }
    Ok(Exit::SUCCESS)
}

fn table(tree: &Tree) -> Table {
    let mut table = Table::new(["TREE", "ID", "KIND", "SIZE", "VIRTUAL SIZE"]);
    let drawing = Drawing::of(tree);
    for row in drawing.rows() {
        table.row(row);
    }
    table
}

/// The tree in Graphviz's language: boxes are images, ellipses containers.
fn dot(tree: &Tree) -> String {
    let quoted = |text: &str| {
        let kept = text.chars().filter(|letter| !letter.is_control());
        let escaped = kept.fold(String::new(), |mut text, letter| {
            if matches!(letter, '"' | '\\') {
                text.push('\\');
            }
            text.push(letter);
            text
        });
        format!("\"{escaped}\"")
    };
    let mut text = "digraph ireko {\n  rankdir=LR;\n".to_owned();
    let mut edge = |id: &str, label: &str, shape: &str, parent: &Option<String>| {
        let (id, label) = (quoted(id), quoted(label));
        let _ = writeln!(text, "  {id} [label={label}, shape={shape}];");
        if let Some(parent) = parent {
            let _ = writeln!(text, "  {} -> {id};", quoted(parent));
        }
    };
    for node in &tree.nodes {
        edge(&node.guid, &label(node), "box", &node.parent);
    }
    for leaf in &tree.containers {
        edge(&leaf.id, &leaf.name, "ellipse", &leaf.parent);
    }
    text + "}\n"
}

/// What a node is called.
fn label(node: &Node) -> String {
    match (node.role, node.references.is_empty()) {
        (NodeRole::Layer, _) => "(layer)".to_owned(),
        (NodeRole::Image, true) => "[<none>]".to_owned(),
        (NodeRole::Image, false) => format!("[{}]", node.references.join(", ")),
    }
}

/// What hangs below each node, by its key.
struct Drawing<'a> {
    nodes: BTreeMap<Option<&'a str>, Vec<&'a Node>>,
    leaves: BTreeMap<Option<&'a str>, Vec<&'a Leaf>>,
}

#[derive(Clone, Copy)]
enum Entry<'a> {
    Node(&'a Node),
    Leaf(&'a Leaf),
}

/// An entry that is still to be drawn: the lines before it, and whether siblings follow.
struct Pending<'a> {
    entry: Entry<'a>,
    before: String,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Middle,
    Last,
}

impl<'a> Drawing<'a> {
    fn of(tree: &'a Tree) -> Self {
        let known: BTreeSet<&str> = tree.nodes.iter().map(|node| node.guid.as_str()).collect();
        // What hangs below something unknown is shown at the top rather than not at all.
        let above =
            |parent: &'a Option<String>| parent.as_deref().filter(|parent| known.contains(parent));
        let mut drawing = Self { nodes: BTreeMap::new(), leaves: BTreeMap::new() };
        for node in &tree.nodes {
            drawing.nodes.entry(above(&node.parent)).or_default().push(node);
        }
        for leaf in &tree.containers {
            drawing.leaves.entry(above(&leaf.parent)).or_default().push(leaf);
        }
        for siblings in drawing.nodes.values_mut() {
            siblings.sort_by(|a, b| (&a.created, &a.guid).cmp(&(&b.created, &b.guid)));
        }
        for siblings in drawing.leaves.values_mut() {
            siblings.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        }
        drawing
    }

    fn below(&self, parent: Option<&str>) -> Vec<Entry<'a>> {
        let nodes = self.nodes.get(&parent).into_iter().flatten().map(|node| Entry::Node(node));
        let leaves = self.leaves.get(&parent).into_iter().flatten().map(|leaf| Entry::Leaf(leaf));
        nodes.chain(leaves).collect()
    }

    /// Depth first without recursion: a chain may be as deep as the daemon says. A parent that is
    /// its own descendant is never reached from the top, so this ends.
    fn rows(&self) -> Vec<[String; 5]> {
        let mut rows = Vec::new();
        let top = self.below(None).into_iter().rev();
        let mut pending: Vec<Pending> =
            top.map(|entry| Pending { entry, before: String::new(), place: Place::Top }).collect();
        while let Some(Pending { entry, before, place }) = pending.pop() {
            let (branch, below) = match place {
                Place::Top => ("", ""),
                Place::Middle => ("├── ", "│   "),
                Place::Last => ("└── ", "    "),
            };
            rows.push(cells(&format!("{before}{branch}"), entry));
            if let Entry::Node(node) = entry {
                let children = self.below(Some(&node.guid));
                for (index, &entry) in children.iter().enumerate().rev() {
                    let last = index + 1 == children.len();
                    let place = if last { Place::Last } else { Place::Middle };
                    pending.push(Pending { entry, before: format!("{before}{below}"), place });
                }
            }
        }
        rows
    }
}

/// ` + data, logs`: the disks beside the one that stands in the tree.
fn with_disks(disks: &[String]) -> String {
    match disks {
        [] => String::new(),
        disks => format!(" + {}", disks.join(", ")),
    }
}

fn cells(branch: &str, entry: Entry) -> [String; 5] {
    match entry {
        Entry::Node(node) => {
            let (id, kind) = match (&node.id, node.role) {
                (Some(id), NodeRole::Image) if node.identity == Some(Identity::Generalized) => {
                    (id.as_str(), "generalized")
                }
                (Some(id), NodeRole::Image) => (id.as_str(), "image"),
                (_, NodeRole::Image) => (node.guid.as_str(), "image"),
                (_, NodeRole::Layer) => (node.guid.as_str(), "layer"),
            };
            [
                format!("{branch}{}{}", label(node), with_disks(&node.disks)),
                short_id(id).to_owned(),
                kind.to_owned(),
                words::size(node.own_bytes),
                words::binary_size(node.virtual_size),
            ]
        }
        Entry::Leaf(leaf) => [
            format!("{branch}{}{}", leaf.name, with_disks(&leaf.disks)),
            short_id(&leaf.id).to_owned(),
            leaf.state.clone(),
            words::size(leaf.own_bytes),
            String::new(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::tree::NodeKind;

    fn node(guid: &str, parent: Option<&str>, references: &[&str]) -> Node {
        Node {
            guid: guid.into(),
            parent: parent.map(Into::into),
            role: if references.is_empty() { NodeRole::Layer } else { NodeRole::Image },
            kind: NodeKind::App,
            identity: None,
            id: (!references.is_empty()).then(|| format!("sha256:{guid}{guid}{guid}{guid}")),
            references: references.iter().map(|name| (*name).into()).collect(),
            created: format!("2026-01-02T03:04:05Z{guid}"),
            own_bytes: 4_200_000,
            total_bytes: 4_200_000,
            virtual_size: 64 << 30,
            depth: 1,
            disks: Vec::new(),
            path: "/i".into(),
            parent_path: None,
            damage: None,
        }
    }

    fn leaf(name: &str, parent: Option<&str>) -> Leaf {
        Leaf {
            id: "0123456789abcdef".into(),
            name: name.into(),
            state: "running".into(),
            parent: parent.map(Into::into),
            own_bytes: 1_000_000,
            disks: Vec::new(),
            path: "/c".into(),
            parent_path: None,
        }
    }

    #[test]
    fn every_node_hangs_below_its_parent() {
        let tree = Tree {
            nodes: vec![
                node("aaaa", None, &["base:latest"]),
                node("cccc", Some("aaaa"), &[]),
                node("bbbb", Some("aaaa"), &["web:v1", "web:latest"]),
                node("dddd", Some("bbbb"), &["api:latest"]),
            ],
            containers: vec![leaf("calm_otter", Some("bbbb")), leaf("lost", Some("gone"))],
        };
        assert_eq!(
            table(&tree).to_string(),
            "\
TREE                       ID             KIND      SIZE      VIRTUAL SIZE
[base:latest]              aaaaaaaaaaaa   image     4.2MB     64GiB
├── [web:v1, web:latest]   bbbbbbbbbbbb   image     4.2MB     64GiB
│   ├── [api:latest]       dddddddddddd   image     4.2MB     64GiB
│   └── calm_otter         0123456789ab   running   1MB       
└── (layer)                cccc           layer     4.2MB     64GiB
lost                       0123456789ab   running   1MB       
"
        );
    }

    #[test]
    fn graphviz_gets_every_node_and_link_with_names_that_cannot_break_out() {
        let tree = Tree {
            nodes: vec![node("aaaa", None, &["x\"];y"])],
            containers: vec![leaf("web", Some("aaaa"))],
        };
        assert_eq!(
            dot(&tree),
            "\
digraph ireko {
  rankdir=LR;
  \"aaaa\" [label=\"[x\\\"];y]\", shape=box];
  \"0123456789abcdef\" [label=\"web\", shape=ellipse];
  \"aaaa\" -> \"0123456789abcdef\";
}
"
        );
    }

    #[test]
    fn a_ring_of_parents_does_not_hold_us() {
        let nodes = vec![node("aaaa", Some("bbbb"), &["a"]), node("bbbb", Some("aaaa"), &["b"])];
        assert_eq!(Drawing::of(&Tree { nodes, containers: Vec::new() }).rows().len(), 0);
    }
}
