//! Images as docker and others save them, read and put into the tree.

use super::*;
use crate::{ErrorKind, Ground, SavedImage, SavedImages};
use ireko_oci::{Digest, ImageConfig};
use serde_json::json;
use std::io::Write;

/// A tar archive, as another implementation writes it.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]], cmd: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let history: Vec<_> = layers.iter().map(|_| json!({ "created_by": "step" })).collect();
    let config = json!({
        "os": "linux", "architecture": crate::compose::architecture(), "config": { "Cmd": [cmd] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
    });
    serde_json::to_vec(&config).unwrap()
}

/// An OCI layout's members.
#[derive(Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn blob(&mut self, media: &str, bytes: Vec<u8>) -> serde_json::Value {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        self.0.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        let media = format!("application/vnd.oci.image.{media}");
        json!({ "mediaType": media, "digest": digest.to_string(), "size": size })
    }

    fn image(&mut self, layers: &[Vec<u8>], config: Vec<u8>) -> serde_json::Value {
        let config = self.blob("config.v1+json", config);
        let layers: Vec<_> =
            layers.iter().map(|layer| self.blob("layer.v1.tar", layer.clone())).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.blob("manifest.v1+json", serde_json::to_vec(&manifest).unwrap())
    }

    fn index(&mut self, manifests: &[serde_json::Value]) -> serde_json::Value {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        self.blob("index.v1+json", serde_json::to_vec(&index).unwrap())
    }

    fn archive(mut self, manifests: &[serde_json::Value]) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        self.0.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        self.0.push(("index.json".into(), serde_json::to_vec(&index).unwrap()));
        let members: Vec<_> = self.0.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        tar_of(&members)
    }
}

struct Opened {
    _folder: tempfile::TempDir,
    saved: SavedImages,
}

fn open(archive: &[u8]) -> Result<Opened, Error> {
    let folder = temporary();
    let path = folder.path().join("saved.tar");
    std::fs::write(&path, archive).unwrap();
    Ok(Opened { saved: SavedImages::open(&path)?, _folder: folder })
}

impl Opened {
    fn layers(&self, image: &SavedImage) -> Vec<Result<Vec<u8>, Error>> {
        let count = image.config.document().rootfs.diff_ids.len();
        let unpacked = |layer| {
            let mut bytes = Vec::new();
            self.saved.unpack_layer(image, layer, &mut bytes, &()).map(|()| bytes)
        };
        (0..count).map(unpacked).collect()
    }
}

#[track_caller]
fn refuses(archive: &[u8], why: &str) {
    let error = open(archive).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    assert!(error.to_string().contains(why), "{error}");
}

fn docker_archive(config: &[u8], layers: &[(&str, &[u8])], tags: serde_json::Value) -> Vec<u8> {
    let paths: Vec<_> = layers.iter().map(|(path, _)| *path).collect();
    let manifest = json!([{ "Config": "c.json", "RepoTags": tags, "Layers": paths }]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut members: Vec<(&str, &[u8])> = layers.to_vec();
    members.dedup_by_key(|member| member.0);
    // Docker itself writes the manifest last.
    members.extend([("c.json", config), ("manifest.json", &*manifest)]);
    tar_of(&members)
}

#[test]
fn docker_s_archive_is_read_whatever_its_layers_are_compressed_with() {
    let (one, two) = (tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")]));
    let config = config(&[&one, &two], "sh");
    let layers: [(&str, &[u8]); 2] = [("1/layer.tar", &one), ("2/layer.tar", &gzip(&two))];
    let opened = open(&docker_archive(&config, &layers, json!(["web:1", "x/y:2"]))).unwrap();
    let [image] = opened.saved.images() else { panic!("one image") };
    assert_eq!(image.config.text().as_bytes(), config);
    let names: Vec<_> = image.names.iter().map(Name::familiar).collect();
    assert_eq!(names, ["web:1", "x/y:2"]);
    let layers: Vec<_> = opened.layers(image).into_iter().map(Result::unwrap).collect();
    assert_eq!(layers, [one, two]);
}

#[test]
fn a_layer_that_an_older_docker_saved_as_a_link_is_the_one_it_links_to() {
    let layer = tar_of(&[("a", b"1")]);
    let config = config(&[&layer, &layer], "sh");
    let archive = docker_archive(&config, &[("1/layer.tar", &layer)], json!(null));
    let manifest =
        json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["1/layer.tar", "2/layer.tar"] }]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "2/layer.tar", "../1/layer.tar").unwrap();
    let mut header = tar::Header::new_gnu();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    header.set_size(manifest.len() as u64);
    builder.append_data(&mut header, "manifest.json", &*manifest).unwrap();
    let end = archive.len() - 1024;
    let both = [&archive[..end], &builder.into_inner().unwrap()].concat();
    let opened = open(&both).unwrap();
    let layers = opened.layers(&opened.saved.images()[0]);
    assert!(layers.into_iter().all(|one| one.unwrap() == layer));
}

#[test]
fn of_an_oci_layout_the_image_for_this_machine_is_taken() {
    let layer = tar_of(&[("a", b"1")]);
    let mut layout = Layout::default();
    let mut ours = layout.image(&[gzip(&layer)], config(&[&layer], "ours"));
    ours["platform"] = json!({ "os": "linux", "architecture": crate::compose::architecture() });
    let mut theirs = layout.image(&[], b"{}".to_vec());
    theirs["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    let mut about = layout.image(&[], b"{}".to_vec());
    about["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    about["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let mut index = layout.index(&[theirs.clone(), about, ours]);
    index["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/web:1" });
    let opened = open(&layout.archive(&[index])).unwrap();
    let [image] = opened.saved.images() else { panic!("one image") };
    assert_eq!(image.config.document().config.cmd, ["ours"]);
    assert_eq!(image.names[0].familiar(), "web:1");
    assert_eq!(opened.layers(image).remove(0).unwrap(), layer);

    let mut layout = Layout::default();
    let index = layout.index(&[theirs]);
    refuses(&layout.archive(&[index]), "only for linux/s390x");
}

#[test]
fn an_oci_layout_may_be_a_folder() {
    let layer = tar_of(&[("a", b"1")]);
    let mut layout = Layout::default();
    let image = layout.image(std::slice::from_ref(&layer), config(&[&layer], "sh"));
    let folder = temporary();
    for (name, bytes) in &layout.0 {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let index = json!({ "manifests": [image] }).to_string();
    std::fs::write(folder.path().join("index.json"), index).unwrap();
    let saved = SavedImages::open(folder.path()).unwrap();
    let mut bytes = Vec::new();
    saved.unpack_layer(&saved.images()[0], 0, &mut bytes, &()).unwrap();
    assert_eq!(bytes, layer);
}

#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    let (layer, other) = (tar_of(&[("a", b"1")]), tar_of(&[("a", b"2")]));
    let docker = docker_archive(&config(&[&layer], "sh"), &[("l", &other)], json!(null));
    let mut layout = Layout::default();
    let image = layout.image(std::slice::from_ref(&layer), config(&[&layer], "sh"));
    layout.0[1].1 = other;
    for archive in [docker, layout.archive(&[image])] {
        let opened = open(&archive).unwrap();
        let error = opened.layers(&opened.saved.images()[0]).remove(0).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
    let mut layout = Layout::default();
    let image = layout.image(&[], config(&[], "sh"));
    layout.0[0].1 = config(&[], "another");
    refuses(&layout.archive(&[image]), "damaged");
}

#[test]
fn what_is_incomplete_or_for_others_is_refused() {
    let layer = tar_of(&[("a", b"1")]);
    let good = config(&[&layer], "sh");
    refuses(&tar_of(&[("manifest.json", b"[]")]), "lists no image");
    refuses(&tar_of(&[("manifest.json", b"{}")]), "cannot be read");
    refuses(&tar_of(&[("other", b"")]), "neither manifest.json nor index.json");
    refuses(&docker_archive(&good, &[], json!(null)), "has 0 layers, and 1");
    refuses(&docker_archive(b"{", &[], json!(null)), "invalid image configuration");
    refuses(&docker_archive(&good, &[("l", &layer)], json!(["UPPER//"])), "invalid");
    refuses(&docker_archive(&good, &[("l", &layer)], json!(["a", "a:latest"])), "one name twice");
    refuses(&docker_archive(br#"{"os":"windows"}"#, &[], json!(null)), "is for windows");
    refuses(&docker_archive(&good, &[("l", &layer)], json!(null))[..4000], "");
    let manifest = br#"[{"Config":"c.json","Layers":["../../../../../../etc/passwd"]}]"#;
    let missing = tar_of(&[("c.json", &*good), ("manifest.json", manifest)]);
    let opened = open(&missing).unwrap();
    let error = opened.layers(&opened.saved.images()[0]).remove(0).unwrap_err();
    assert!(error.to_string().contains("is not in it"), "{error}");
}

/// Puts an image of marked layers into the tree, as `load` does but for the guest's part.
fn load(store: &Store, places: &Places, layers: &[&[u8]], cmd: &str, name: &str) -> ImageInfo {
    let config = ImageConfig::parse(config(layers, cmd)).unwrap();
    let mut ground = store.app_ground(&places.common_root()).unwrap();
    for &diff_id in &config.document().rootfs.diff_ids {
        ground = match store.layer_over(&ground, diff_id) {
            Some(there) => there,
            None => new_layer(store, &ground, diff_id),
        };
    }
    store.publish_loaded(&ground, &config, "web", &[named(name)]).unwrap()
}

fn new_layer(store: &Store, below: &Ground, diff_id: Digest) -> Ground {
    let pending = store.begin_layer(below, "web").unwrap();
    write(store, &pending.leaf, 7);
    store.publish_layer(pending, below, diff_id).unwrap()
}

#[test]
fn images_share_the_layers_that_are_the_same_over_the_same() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    let first = load(&store, &places, &[b"1", b"2"], "sh", "one");
    let again = load(&store, &places, &[b"1", b"2"], "sh", "again");
    assert_eq!((first.id, again.names.len()), (again.id, 2));
    // The common root, two layers, an image.
    assert_eq!(picture(&store, &places).files, 4);
    let other = load(&store, &places, &[b"1", b"3"], "sh", "other");
    let differently_run = load(&store, &places, &[b"1", b"2"], "bash", "bash");
    assert_eq!(picture(&store, &places).files, 7);
    assert_eq!((other.depth, differently_run.depth), (4, 4));
    drop(store);

    let store = places.open();
    load(&store, &places, &[b"1", b"2", b"3"], "sh", "longer");
    assert_eq!(picture(&store, &places).files, 9);
    for name in ["one", "again", "other", "bash", "longer"] {
        store.remove(name, false, &[]).unwrap();
    }
    assert_eq!(picture(&store, &places).files, 0);
}

#[test]
fn a_loaded_image_s_history_is_the_one_it_came_with() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    let image = load(&store, &places, &[b"1", b"2"], "sh", "web");
    let leaf = container(&store, &places, "web", "c", 9);
    let committed = commit(&store, &leaf, "more");
    let steps = store.history(&committed.id).unwrap();
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| step.own_bytes > 0));
    assert_eq!((steps[0].image, steps[1].image), (Some(committed.id), None));
    let steps = store.history(&image.id).unwrap();
    assert_eq!((steps.len(), steps[0].image), (2, Some(image.id)));
}

#[test]
fn two_clients_that_load_one_image_get_one_image() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let load = || load(&store, &places, &[b"1", b"2", b"3"], "sh", "web").id;
        let threads = [scope.spawn(load), scope.spawn(load), scope.spawn(load)];
        threads.map(|thread| thread.join().unwrap()).into()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(picture(&store, &places).files, 5);
}
