//! Images as one archive: docker's, which is an OCI image layout at the same time.
//!
//! ```text
//!   each layer   with a skeleton, from a load ─► VM: Read ───────────► the very tar that came
//!                else, against the one below  ─► VMs: List, PackListed ─► a tar made now
//!   ─► blobs in a spool ─► configuration with the layers' digests ─► archive
//! ```
//! Where all layers are as they came the configuration is too, and so is the image's id. What was committed
//! here has no digests of its layers before: its configuration gets them now, and the archive's image another
//! id than the one here; the same one each time.

use crate::blocking::{blocking, to_its_end};
use crate::diff::{Change, ChangeKind, OWN, differences};
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::files::{FileStream, Job, plain};
use crate::guest_work::GuestDisk;
use crate::listing::Listing;
use crate::shim_client::ShimSocket;
use crate::spool::Spool;
use crate::store::oci::{Digest, Hasher};
use crate::store::{ImageInfo, Kind, Name};
use bytes::Bytes;
use ireko_images::{Bone, Ground, LayerGuid, Skeleton, StackedLayer};
use ireko_protocol::files::FileJob;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// Pieces of the archive that wait for whoever takes it.
const PIECES: usize = 2;
const PIECE: usize = 256 << 10;

/// A file of the archive.
#[derive(Clone, Debug)]
struct Blob {
    digest: Digest,
    size: u64,
    file: PathBuf,
}

/// An image that is saved.
struct Saved {
    names: Vec<Name>,
    config: Blob,
    layers: Vec<Blob>,
}

impl Engine {
    /// Saves images, by name or id, as a tar archive. A name without a tag stands for all its tags; an image
    /// that is only called by its id has no name in the archive.
    ///
    /// Errors: `NotFound` where one is not there, `Unsupported` for whole operating systems.
    pub async fn save(&self, references: &[String]) -> Result<FileStream> {
        let wanted = self.wanted(references).await?;
        let engine = self.clone();
        let (spool, saved) = to_its_end(async move {
            let spool = Spool::new(&engine.places().root)?;
            let (mut saved, mut known) = (Vec::new(), HashMap::new());
            for (image, names) in wanted {
                saved.push(engine.save_image(&image, names, &spool, &mut known).await?);
                let id = image.id.to_string();
                engine.emit_image(&id, "save", &id);
            }
            Ok((spool, saved))
        })
        .await?;
        let (pieces, stream) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let to = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
            if let Err(error) = write_archive(&saved, &spool, to) {
                // Whoever took it may be gone.
                let _ = pieces.blocking_send(Err(error));
            }
        });
        Ok(FileStream::of(stream))
    }

    /// The images that are meant, each once, with the names they get in the archive.
    async fn wanted(&self, references: &[String]) -> Result<Vec<(ImageInfo, Vec<Name>)>> {
        let mut wanted: Vec<(ImageInfo, Vec<Name>)> = Vec::new();
        let mut want = |image: ImageInfo, name: Option<Name>| {
            let place = match wanted.iter().position(|(one, _)| one.id == image.id) {
                Some(place) => place,
                None => {
                    wanted.push((image, Vec::new()));
                    wanted.len() - 1
                }
            };
            let names = &mut wanted[place].1;
            names.extend(name.filter(|name| !names.contains(name)));
        };
        for reference in references {
            let name = Name::parse(reference).ok();
            let has_tag = reference.rsplit('/').next().is_some_and(|last| last.contains(':'));
            let all = self.images().await?;
            let of_repository = all.into_iter().flat_map(|image| {
                let names = image.names.clone();
                names.into_iter().map(move |name| (image.clone(), name))
            });
            let called: Vec<_> = of_repository
                .filter(|(_, given)| match &name {
                    Some(name) if has_tag => name == given,
                    Some(name) => name.repository() == given.repository(),
                    None => false,
                })
                .collect();
            match called.is_empty() {
                true => want(self.image(reference).await?, None),
                false => called.into_iter().for_each(|(image, name)| want(image, Some(name))),
            }
        }
        match wanted.iter().find(|(image, _)| image.kind == Kind::Machine) {
            None => Ok(wanted),
            Some((image, _)) => Err(Error::unsupported(format!(
                "{} is a whole operating system, which has no layers that docker knows",
                image.name
            ))
            .hint(format!(
                "ireko image export {} FILE writes its disk, or its layers",
                image.name
            ))),
        }
    }

    async fn save_image(
        &self,
        image: &ImageInfo,
        names: Vec<Name>,
        spool: &Spool,
        known: &mut HashMap<LayerGuid, Blob>,
    ) -> Result<Saved> {
        let (store, id) = (Arc::clone(&self.store), image.id);
        let stack = blocking(move || Ok(store.stack(&id)?)).await?;
        let (mut layers, mut steps, mut below) = (Vec::new(), Vec::new(), stack.floor);
        let mut has_others_below = false;
        for layer in stack.layers {
            let blob = match known.get(&layer.guid) {
                Some(blob) => blob.clone(),
                None => {
                    let own = if has_others_below { &OWN[..] } else { &[] };
                    self.save_layer(&layer, below.as_ref(), own, spool).await?
                }
            };
            known.insert(layer.guid, blob.clone());
            layers.push(blob);
            steps.push(layer.steps);
            below = Some(layer.ground);
            has_others_below = true;
        }
        let text = image.config.text().to_owned();
        let file = spool.folder().join(format!("config-{}", image.id.short()));
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = blocking(move || {
            let bytes = with_layers(&text, &digests, &steps)?;
            std::fs::write(&file, &bytes).attempt(saving)?;
            Ok(Blob { digest: Digest::of(&bytes), size: bytes.len() as u64, file })
        })
        .await?;
        Ok(Saved { names, config, layers })
    }

    async fn save_layer(
        &self,
        layer: &StackedLayer,
        below: Option<&Ground>,
        own: &[&[u8]],
        spool: &Spool,
    ) -> Result<Blob> {
        let file = spool.folder().join(format!("layer-{}", layer.guid));
        let skeleton = layer.ground.chain().map(|chain| skeleton_of(&self.places().root, chain));
        if let (Some(skeleton), Some(diff_id)) = (skeleton, layer.diff_id)
            && skeleton.is_file()
        {
            match self.again(layer.ground.clone(), &skeleton, &file).await {
                Ok(blob) if blob.digest == diff_id => return Ok(blob),
                Ok(_) => tracing::info!(%diff_id, "a layer's tar cannot be made as it came"),
                Err(error) => {
                    tracing::warn!(error = error.chain(), %diff_id, "a layer's tar is made anew");
                }
            }
        }
        let Some(below) = below else {
            let vm = self.layer_vm(layer.ground.clone(), GuestDisk::FileSystem).await?;
            let written = write_job(vm.vm.socket(), FileJob::Export, &file).await;
            return self.end_layer_vm(vm, written).await;
        };
        let listed = self.list_layer(below.clone(), GuestDisk::FileSystem, spool).await?;
        let vm = self.layer_vm(layer.ground.clone(), GuestDisk::FileSystem).await?;
        let written = async {
            let mut old = Listing::of_file(&listed).await?;
            let mut new = Listing::of_guest(vm.vm.socket()).await?;
            let changes = differences(&mut old, &mut new, own).await?;
            pack(vm.vm.socket(), changes, &file).await
        };
        let written = written.await;
        self.end_layer_vm(vm, written).await
    }

    /// Makes a layer's tar of its skeleton and its files.
    async fn again(&self, layer: Ground, skeleton: &Path, to: &Path) -> Result<Blob> {
        let vm = self.layer_vm(layer, GuestDisk::FileSystem).await?;
        let made = assemble(vm.vm.socket(), skeleton, to).await;
        self.end_layer_vm(vm, made).await
    }
}

/// Where the skeleton of a layer is kept, by its chain id.
pub(crate) fn skeleton_of(root: &Path, chain: Digest) -> PathBuf {
    skeletons(root).join(chain.hex())
}

/// Where all of them are.
pub(crate) fn skeletons(root: &Path) -> PathBuf {
    root.join("skeletons")
}

/// Removes those of layers that are no longer here.
pub(crate) fn sweep_skeletons(root: &Path, is_here: impl Fn(Digest) -> bool) {
    for entry in std::fs::read_dir(skeletons(root)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_needed = format!("sha256:{name}").parse().is_ok_and(&is_here);
        if !is_needed && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, name, "a layer's skeleton is left over");
        }
    }
}

/// A file that is written and hashed.
struct Writing {
    file: tokio::io::BufWriter<tokio::fs::File>,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Writing {
    async fn begin(path: &Path) -> Result<Self> {
        let file = tokio::fs::File::create(path).await.attempt(saving)?;
        let file = tokio::io::BufWriter::with_capacity(PIECE, file);
        Ok(Self { file, path: path.to_owned(), hasher: Hasher::default(), size: 0 })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).await.attempt(saving)
    }

    async fn end(mut self) -> Result<Blob> {
        self.file.flush().await.attempt(saving)?;
        Ok(Blob { digest: self.hasher.finish(), size: self.size, file: self.path })
    }
}

async fn write_job(shim: &ShimSocket, job: FileJob, to: &Path) -> Result<Blob> {
    let mut job = Job::begin(shim, job).await.map_err(plain)?;
    let mut writing = Writing::begin(to).await?;
    while let Some(piece) = job.output.next().await {
        writing.write(&piece.bytes).await?;
    }
    job.end().await.map_err(plain)?;
    writing.end().await
}

/// Has the changes of a layer packed, with whiteouts for what is gone.
async fn pack(shim: &ShimSocket, changes: Vec<Change>, to: &Path) -> Result<Blob> {
    let mut job = Job::begin(shim, FileJob::PackListed).await.map_err(plain)?;
    let mut input = job.take_input()?;
    let told = tokio::spawn(async move {
        for change in changes {
            let path = match change.kind {
                ChangeKind::Changed | ChangeKind::Added => change.path,
                ChangeKind::Removed => whiteout(&change.path),
            };
            if !input.write(Bytes::from([&*path, &[0]].concat())).await {
                return;
            }
        }
    });
    let mut writing = Writing::begin(to).await?;
    while let Some(piece) = job.output.next().await {
        writing.write(&piece.bytes).await?;
    }
    // It has ended, or nobody listens any more.
    let _ = told.await;
    job.end().await.map_err(plain)?;
    writing.end().await
}

fn whiteout(path: &[u8]) -> Vec<u8> {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..name], b".wh.", &path[name..]].concat()
}

async fn assemble(shim: &ShimSocket, skeleton: &Path, to: &Path) -> Result<Blob> {
    let mut job = Job::begin(shim, FileJob::Read).await.map_err(plain)?;
    let mut input = job.take_input()?;
    let mut bones = bones_of(skeleton);
    let told = tokio::spawn(async move {
        while let Some(Ok(bone)) = bones.recv().await {
            if let Bone::Content { path, .. } = bone
                && !input.write(Bytes::from([&*path, &[0]].concat())).await
            {
                return;
            }
        }
    });
    let mut writing = Writing::begin(to).await?;
    let mut bones = bones_of(skeleton);
    let mut ahead = Ahead { job: &mut job, bytes: Bytes::new() };
    while let Some(bone) = bones.recv().await {
        match bone? {
            Bone::Literal(bytes) => writing.write(&bytes).await?,
            Bone::Content { size, .. } => {
                let mut head = Vec::new();
                while head.len() < 8 {
                    head.extend_from_slice(&ahead.take(8 - head.len() as u64).await?);
                }
                let there = head.try_into().map(u64::from_le_bytes);
                if there != Ok(size) {
                    return Err(Error::internal("a file of the layer is not what it was"));
                }
                let mut left = size;
                while left > 0 {
                    let bytes = ahead.take(left).await?;
                    left -= bytes.len() as u64;
                    writing.write(&bytes).await?;
                }
            }
        }
    }
    // It has told all, since all has come.
    let _ = told.await;
    job.end().await.map_err(plain)?;
    writing.end().await
}

/// What a job has written and nobody took yet.
struct Ahead<'a> {
    job: &'a mut Job,
    bytes: Bytes,
}

impl Ahead<'_> {
    /// Some bytes, at most so many and at least one.
    async fn take(&mut self, most: u64) -> Result<Bytes> {
        while self.bytes.is_empty() {
            match self.job.output.next().await {
                Some(piece) => self.bytes = piece.bytes,
                None => return Err(Error::internal("the layer's files end too soon")),
            }
        }
        let count = self.bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(self.bytes.split_to(count))
    }
}

/// Reads a skeleton on a thread that may block.
fn bones_of(skeleton: &Path) -> mpsc::Receiver<Result<Bone>> {
    let (bones, read) = mpsc::channel(16);
    let skeleton = skeleton.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut skeleton = match Skeleton::open(&skeleton) {
            Ok(skeleton) => skeleton,
            Err(error) => return drop(bones.blocking_send(Err(error.into()))),
        };
        while let Some(bone) = skeleton.next_bone().transpose() {
            let is_last = bone.is_err();
            if bones.blocking_send(bone.map_err(Error::from)).is_err() || is_last {
                return;
            }
        }
    });
    read
}

/// The configuration with these layers, made by so many steps of its history each: as it stands where
/// they are its own.
fn with_layers(text: &str, digests: &[String], steps: &[u32]) -> Result<Vec<u8>> {
    let mut document: Value = serde_json::from_str(text).attempt(saving)?;
    let own = document.pointer("/rootfs/diff_ids").and_then(Value::as_array);
    let ours = digests.iter().map(|digest| Some(digest.as_str()));
    if own.is_some_and(|own| own.iter().map(Value::as_str).eq(ours)) {
        return Ok(text.as_bytes().to_vec());
    }
    document["rootfs"] = json!({ "type": "layers", "diff_ids": digests });
    let history = document.pointer_mut("/history").and_then(Value::as_array_mut);
    let is_empty = |step: &Value| step["empty_layer"] == true;
    let mut made = history.into_iter().flatten().filter(|step| step.is_object() && !is_empty(step));
    for steps in steps {
        // Of several that became one layer the last has it.
        for step in made.by_ref().take(steps.saturating_sub(1) as usize) {
            step["empty_layer"] = true.into();
        }
        made.next();
    }
    serde_json::to_vec(&document).attempt(saving)
}

/// Writes the archive of blobs that are there.
fn write_archive(saved: &[Saved], spool: &Spool, to: impl Write) -> Result<()> {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let mut blobs = BTreeMap::new();
    let (mut archived, mut indexed) = (Vec::new(), Vec::new());
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    for image in saved {
        let layer = |layer: &Blob| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer.digest.to_string(),
                "size": layer.size,
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": image.config.digest.to_string(),
                "size": image.config.size,
            },
            "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let bytes = serde_json::to_vec(&manifest).attempt(saving)?;
        let digest = Digest::of(&bytes);
        let file = spool.folder().join(format!("manifest-{}", digest.hex()));
        std::fs::write(&file, &bytes).attempt(saving)?;
        let manifest = Blob { digest, size: bytes.len() as u64, file };
        let describe = |annotations: Value| {
            let mut described = json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": manifest.size });
            if !annotations.is_null() {
                described["annotations"] = annotations;
            }
            described
        };
        if image.names.is_empty() {
            indexed.push(describe(Value::Null));
        }
        for name in &image.names {
            indexed.push(describe(json!({
                "io.containerd.image.name": name.reference().to_string(),
                "org.opencontainers.image.ref.name": name.tag(),
            })));
            let repository = name.reference().familiar_name();
            let top = image.layers.last().map(|layer| layer.digest.hex().to_string());
            let tags = repositories.entry(repository).or_default();
            tags.insert(name.tag().to_owned(), top.unwrap_or_default());
        }
        let tags: Vec<_> = image.names.iter().map(|name| name.reference().familiar()).collect();
        let sources = image.layers.iter().map(|one| (one.digest.to_string(), layer(one)));
        archived.push(json!({
            "Config": path(&image.config.digest),
            "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
            "Layers": image.layers.iter().map(|layer| path(&layer.digest)).collect::<Vec<_>>(),
            "LayerSources": sources.collect::<serde_json::Map<_, _>>(),
        }));
        for blob in image.layers.iter().chain([&image.config, &manifest]) {
            blobs.insert(path(&blob.digest), blob.clone());
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": indexed,
    });
    let mut archive = tar::Builder::new(to);
    for folder in ["blobs/", "blobs/sha256/"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, folder, io::empty()).attempt(saving)?;
    }
    for (path, blob) in &blobs {
        let mut header = header(tar::EntryType::Regular, 0o644, blob.size);
        let file = File::open(&blob.file).attempt(saving)?;
        archive.append_data(&mut header, path, file).attempt(saving)?;
    }
    let mut texts = vec![
        ("index.json", index.to_string()),
        ("manifest.json", Value::from(archived).to_string()),
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string()),
    ];
    if !repositories.is_empty() {
        texts.push(("repositories", json!(repositories).to_string()));
    }
    for (path, text) in texts {
        let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
        archive.append_data(&mut header, path, text.as_bytes()).attempt(saving)?;
    }
    archive.into_inner().and_then(|mut to| to.flush()).attempt(saving)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Hands on what is written.
struct Pieces(mpsc::Sender<Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn saving() -> String {
    "save the images".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_stays_as_it_is_where_its_layers_do() {
        let text = r#"{ "rootfs": {"type":"layers", "diff_ids":["sha256:a"]}, "os":"linux"}"#;
        let same = with_layers(text, &["sha256:a".to_owned()], &[1]).unwrap();
        assert_eq!(same, text.as_bytes());
        let text = r#"{"os":"linux","history":[{"created_by":"1"},{"empty_layer":true},
            {"created_by":"2"},{"created_by":"3"}]}"#;
        let digests = ["sha256:b".to_owned(), "sha256:c".to_owned()];
        let other = with_layers(text, &digests, &[2, 1]).unwrap();
        let other: Value = serde_json::from_slice(&other).unwrap();
        assert_eq!(other["rootfs"]["diff_ids"], json!(["sha256:b", "sha256:c"]));
        let empty = |number: usize| other["history"][number]["empty_layer"] == true;
        assert_eq!([0, 1, 2, 3].map(empty), [true, true, false, false]);
        assert_eq!(other["os"], "linux");
    }

    #[test]
    fn what_is_gone_is_a_whiteout_in_its_folder() {
        assert_eq!(whiteout(b"etc/motd"), b"etc/.wh.motd");
        assert_eq!(whiteout(b"top"), b".wh.top");
    }
}
