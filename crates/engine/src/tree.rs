//! The tree of images with the containers on it.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::state::ContainerRecord;
use crate::store::ImageInfo;
use ireko_images::{ImageId, Kind, ParentOf};
use ireko_protocol::tree::{Identity, Leaf, Node, NodeKind, NodeRole, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Images and containers, each with what it stands on. Layers that are no images are left out:
    /// what stands on one is shown on the nearest image below.
    ///
    /// With `only`, an image and all that stands on it, or a container and all it stands on. Errors
    /// where neither is called so.
    pub async fn tree(&self, only: Option<&str>) -> Result<Tree> {
        let tree = self.whole_tree().await?;
        let Some(only) = only else { return Ok(tree) };
        match self.image(only).await {
            Ok(image) => Ok(above(tree, &image.guid.to_string())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::BadParameter) => {
                let container = self.inspect(only).map_err(|_| error)?;
                Ok(below(tree, &container.id))
            }
            Err(error) => Err(error),
        }
    }

    async fn whole_tree(&self) -> Result<Tree> {
        let store = Arc::clone(&self.store);
        let (records, disks): (Vec<_>, Vec<_>) =
            self.all_containers().iter().map(|c| (c.record(), c.scratch())).unzip();
        blocking(move || {
            let nodes = store.tree().nodes;
            let guids: BTreeMap<ImageId, String> =
                nodes.values().map(|node| (node.image.id, node.image.guid.to_string())).collect();
            let leaves = store
                .parents_of(&disks)
                .into_iter()
                // A disk that cannot be read is shown without a parent.
                .map(|below| below.ok().flatten())
                .zip(records.iter().zip(&disks))
                .map(|(below, (record, disk))| leaf(below, &guids, record, disk))
                .collect();
            let nodes = nodes.into_values().map(|one| node(one.image, &guids)).collect();
            Ok(Tree { nodes, containers: leaves })
        })
        .await
    }

    /// Bytes that a container's own disks take on the host.
    pub async fn scratch_bytes(&self, container: &str) -> Result<u64> {
        let (store, disks) = (Arc::clone(&self.store), self.find(container)?.disk_files());
        blocking(move || Ok(disks.iter().map(|disk| store.allocated(disk)).sum())).await
    }
}

/// Cuts a tree down to a node and all that stands on it.
fn above(tree: Tree, node: &str) -> Tree {
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in &tree.nodes {
        children.entry(one.parent.as_deref().unwrap_or_default()).or_default().push(&one.guid);
    }
    let (mut kept, mut next) = (BTreeSet::new(), vec![node]);
    while let Some(node) = next.pop() {
        if kept.insert(node.to_owned()) {
            next.extend(children.get(node).into_iter().flatten());
        }
    }
    let is_kept = |parent: &Option<String>| parent.as_ref().is_some_and(|one| kept.contains(one));
    Tree {
        containers: tree.containers.into_iter().filter(|one| is_kept(&one.parent)).collect(),
        nodes: tree.nodes.into_iter().filter(|one| kept.contains(&one.guid)).collect(),
    }
}

/// Cuts a tree down to a container and all it stands on.
fn below(tree: Tree, container: &str) -> Tree {
    let containers: Vec<_> =
        tree.containers.into_iter().filter(|one| one.id == container).collect();
    let parents: BTreeMap<&str, Option<&str>> =
        tree.nodes.iter().map(|node| (node.guid.as_str(), node.parent.as_deref())).collect();
    let mut kept = BTreeSet::new();
    let mut next = containers.first().and_then(|leaf| leaf.parent.as_deref());
    while let Some(node) = next.filter(|node| kept.insert((*node).to_owned())) {
        next = parents.get(node).copied().flatten();
    }
    Tree {
        nodes: tree.nodes.into_iter().filter(|one| kept.contains(&one.guid)).collect(),
        containers,
    }
}

/// Whose a whole operating system on an image is; `None` for others.
pub fn identity(image: &ImageInfo) -> Option<Identity> {
    match (image.kind, image.config.document().generalized) {
        (Kind::App, _) => None,
        (Kind::Machine, true) => Some(Identity::Generalized),
        (Kind::Machine, false) => Some(Identity::Specialized),
    }
}

fn node(image: ImageInfo, guids: &BTreeMap<ImageId, String>) -> Node {
    Node {
        guid: image.guid.to_string(),
        parent: image.parent_image.and_then(|parent| guids.get(&parent).cloned()),
        role: NodeRole::Image,
        kind: match image.kind {
            Kind::App => NodeKind::App,
            Kind::Machine => NodeKind::Machine,
        },
        identity: identity(&image),
        id: Some(image.id.to_string()),
        references: image.names.iter().map(|name| name.familiar()).collect(),
        created: image.created.to_string(),
        own_bytes: image.own_bytes,
        total_bytes: image.total_bytes,
        virtual_size: image.virtual_size,
        depth: image.depth,
        disks: image.disks.iter().map(|disk| disk.name.to_string()).collect(),
        path: image.file,
        parent_path: image.parent_file,
        damage: image.damage,
    }
}

fn leaf(
    below: Option<ParentOf>,
    guids: &BTreeMap<ImageId, String>,
    record: &ContainerRecord,
    scratch: &Path,
) -> Leaf {
    Leaf {
        id: record.id.clone(),
        name: record.name.clone(),
        state: record.status().to_owned(),
        parent: below
            .as_ref()
            .and_then(|below| below.image)
            .and_then(|image| guids.get(&image).cloned()),
        own_bytes: below.as_ref().map_or(0, |below| below.own_bytes),
        disks: record.disks.iter().map(|disk| disk.name.clone()).collect(),
        path: scratch.to_owned(),
        parent_path: below.map(|below| below.file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let node = |guid: &str, parent: Option<&str>| Node {
            guid: guid.into(),
            parent: parent.map(Into::into),
            role: NodeRole::Image,
            kind: NodeKind::App,
            identity: None,
            id: None,
            references: Vec::new(),
            created: String::new(),
            own_bytes: 0,
            total_bytes: 0,
            virtual_size: 0,
            depth: 1,
            disks: Vec::new(),
            path: "/i".into(),
            parent_path: None,
            damage: None,
        };
        let leaf = |id: &str, parent: &str| Leaf {
            id: id.into(),
            name: id.into(),
            state: "created".into(),
            parent: Some(parent.into()),
            own_bytes: 0,
            disks: Vec::new(),
            path: "/c".into(),
            parent_path: None,
        };
        Tree {
            nodes: vec![
                node("base", None),
                node("web", Some("base")),
                node("api", Some("web")),
                node("db", Some("base")),
                node("other", None),
            ],
            containers: vec![leaf("c1", "base"), leaf("c2", "api"), leaf("c3", "other")],
        }
    }

    fn names(tree: &Tree) -> Vec<&str> {
        let nodes = tree.nodes.iter().map(|node| node.guid.as_str());
        nodes.chain(tree.containers.iter().map(|leaf| leaf.id.as_str())).collect()
    }

    #[test]
    fn a_node_has_all_that_stands_on_it_and_a_container_all_it_stands_on() {
        assert_eq!(names(&above(tree(), "base")), ["base", "web", "api", "db", "c1", "c2"]);
        assert_eq!(names(&above(tree(), "web")), ["web", "api", "c2"]);
        assert_eq!(names(&below(tree(), "c2")), ["base", "web", "api", "c2"]);
        assert_eq!(names(&below(tree(), "c3")), ["other", "c3"]);
    }
}
