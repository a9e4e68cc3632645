//! The tree of images and containers, the body of `GET /ireko/tree`.
//!
//! Flat lists with links upwards: whoever shows it decides the order.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Images, and layers that are none.
    pub nodes: Vec<Node>,
    /// Containers: the leaves.
    pub containers: Vec<Leaf>,
}

/// One immutable file of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its key, a lower-case hyphenated GUID.
    pub guid: String,
    /// The key of its parent; `None` at a base.
    pub parent: Option<String>,
    /// Listed as an image, or only part of others.
    pub role: NodeRole,
    /// What it holds.
    pub kind: NodeKind,
    /// Whose a whole operating system is; `None` for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The image's id with `sha256:`; `None` for a layer.
    pub id: Option<String>,
    /// The image's names as people see them; may be none.
    pub references: Vec<String>,
    /// When it was made, RFC 3339 UTC.
    pub created: String,
    /// Bytes allocated for this file alone.
    pub own_bytes: u64,
    /// Bytes allocated for all files that its disk is made of.
    pub total_bytes: u64,
    /// Bytes of the disk it is a state of.
    pub virtual_size: u64,
    /// How many files its disk is made of.
    pub depth: usize,
    /// What its data disks are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Its file.
    pub path: PathBuf,
    /// The file it stands on.
    pub parent_path: Option<PathBuf>,
    /// Why its disk cannot be used, where it cannot.
    pub damage: Option<String>,
}

/// Whether a node is shown among the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// A named or nameable image.
    Image,
    /// Only part of the images below it.
    Layer,
}

/// What a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// An OCI image's root file system.
    App,
    /// A whole OS disk.
    Machine,
}

/// Whose a whole operating system on an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Nobody's yet: each container of it makes an identity of its own.
    Generalized,
    /// One system's: its containers are that system's twins.
    Specialized,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its id, 64 hex digits.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Docker's word for its state: `created`, `running`, `paused`, `restarting`, `removing`, `exited`.
    pub state: String,
    /// The key of the node its disk is made over; `None` where the disk cannot be read.
    pub parent: Option<String>,
    /// Bytes allocated for its disk alone.
    pub own_bytes: u64,
    /// What its data disks are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Its disk's file.
    pub path: PathBuf,
    /// The file that one stands on; `None` where the disk cannot be read.
    pub parent_path: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_reads_as_scripts_expect_it() {
        let tree = Tree {
            nodes: vec![Node {
                guid: "6f1c".into(),
                parent: None,
                role: NodeRole::Image,
                kind: NodeKind::App,
                identity: None,
                id: Some("sha256:ab".into()),
                references: vec!["base:latest".into()],
                created: "2026-01-02T03:04:05Z".into(),
                own_bytes: 4 << 20,
                total_bytes: 4 << 20,
                virtual_size: 64 << 30,
                depth: 1,
                disks: Vec::new(),
                path: "/r/images/base_6f1c.vhdx".into(),
                parent_path: None,
                damage: None,
            }],
            containers: vec![Leaf {
                id: "cd".into(),
                name: "web".into(),
                state: "running".into(),
                parent: Some("6f1c".into()),
                own_bytes: 1 << 20,
                disks: vec!["data".into()],
                path: "/r/containers/cd/base.vhdx".into(),
                parent_path: Some("/r/images/base_6f1c.vhdx".into()),
            }],
        };
        let json = serde_json::to_value(&tree).unwrap();
        assert_eq!(json["nodes"][0]["role"], "image");
        assert_eq!(json["nodes"][0]["kind"], "app");
        assert_eq!(json["containers"][0]["parent"], "6f1c");
        assert_eq!(serde_json::from_value::<Tree>(json).unwrap(), tree);
    }
}
