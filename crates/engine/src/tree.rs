//! The tree of images with the containers on it.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::Result;
use crate::state::ContainerRecord;
use crate::store::{ImageInfo, Store};
use ireko_images::{ImageId, Kind};
use ireko_protocol::tree::{Leaf, Node, NodeKind, NodeRole, Tree};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

impl Engine {
    /// Images and containers, each with what it stands on. Layers that are no images are left out:
    /// what stands on one is shown on the nearest image below.
    pub async fn tree(&self) -> Result<Tree> {
        let store = Arc::clone(&self.store);
        let containers: Vec<_> =
            self.all_containers().iter().map(|c| (c.record(), c.scratch())).collect();
        blocking(move || {
            let nodes = store.tree().nodes;
            let guids: BTreeMap<ImageId, String> =
                nodes.values().map(|node| (node.image.id, node.image.guid.to_string())).collect();
            let leaves = containers
                .iter()
                .map(|(record, scratch)| leaf(&store, &guids, record, scratch))
                .collect();
            let nodes = nodes.into_values().map(|one| node(one.image, &guids)).collect();
            Ok(Tree { nodes, containers: leaves })
        })
        .await
    }

    /// Bytes that a container's own disk takes on the host.
    pub async fn scratch_bytes(&self, container: &str) -> Result<u64> {
        let (store, scratch) = (Arc::clone(&self.store), self.find(container)?.scratch());
        blocking(move || Ok(store.parent_of(&scratch)?.map_or(0, |parent| parent.own_bytes))).await
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
        id: Some(image.id.to_string()),
        references: image.names.iter().map(|name| name.familiar()).collect(),
        created: image.created.to_string(),
        own_bytes: image.own_bytes,
        virtual_size: image.virtual_size,
    }
}

fn leaf(
    store: &Store,
    guids: &BTreeMap<ImageId, String>,
    record: &ContainerRecord,
    scratch: &Path,
) -> Leaf {
    // A disk that cannot be read is shown without a parent.
    let below = store.parent_of(scratch).ok().flatten();
    Leaf {
        id: record.id.clone(),
        name: record.name.clone(),
        state: record.status().to_owned(),
        parent: below
            .as_ref()
            .and_then(|below| below.image)
            .and_then(|image| guids.get(&image).cloned()),
        own_bytes: below.map_or(0, |below| below.own_bytes),
    }
}
