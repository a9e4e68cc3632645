//! Containers and images with several disks.

use super::*;
use crate::{Depth, ErrorKind, ExportFormat, Layers, MergeFiles, recognise};

/// base ◄─ web with a data disk, committed from container `c`, which goes on.
fn with_web(folder: &Path) -> (Places, Store, DataDisk) {
    let places = Places::make(folder);
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    let data = data_disk(&store, &places, "base", "c", 3);
    commit_all(&store, &leaf, std::slice::from_ref(&data), "web").unwrap();
    (places, store, data)
}

/// Makes a container of `web` with children of all its disks; returns its data disk.
fn container_of_web(store: &Store, places: &Places, id: &str) -> DataDisk {
    container(store, places, "web", id, 7);
    data_children(store, places, "web", id).unwrap().remove(0)
}

/// What InvokeV-Container lost: its own commit wrote each further disk over the one before.
#[test]
fn an_image_of_several_disks_has_the_bytes_of_each() {
    let folder = folder();
    let (places, store, data) = with_web(folder.path());
    let web = store.find("web").unwrap();
    let at = data_file(&store, &web);
    assert_eq!((read(&store, &web.file), read(&store, &at)), (2, 3));
    assert_eq!((web.disks[0].name.as_str(), web.disks[0].virtual_size), (DATA, 64 << 20));

    // The container goes on, and what it writes is not the image's.
    write(&store, &data.path, 4);
    let child = container_of_web(&store, &places, "d");
    assert_eq!((read(&store, &child.path), read(&store, &data.path)), (3, 4));
    assert_eq!(child.path.file_name().unwrap(), "web_data.vhdx");
    write(&store, &child.path, 5);
    assert_eq!((read(&store, &at), read(&store, &data.path)), (3, 4));
    drop(store);
    let store = places.open();
    assert_eq!(read(&store, &child.path), 5);
    assert_eq!(store.find("web").unwrap().disks, web.disks);
}

#[test]
fn a_commit_of_the_disk_alone_leaves_data_disks_as_they_are() {
    let folder = folder();
    let (places, store, data) = with_web(folder.path());
    let before = store.chain(&data.path).unwrap();
    let image = commit(&store, &places.container("c").join("base.vhdx"), "os");
    assert!(image.disks.is_empty());
    assert_eq!(store.chain(&data.path).unwrap(), before);
}

#[test]
fn data_layers_stay_as_long_as_an_image_or_a_container_needs_them() {
    let folder = folder();
    let (places, store, data) = with_web(folder.path());
    let at = data_file(&store, &store.find("web").unwrap());
    let usage = store.usage(&[]).unwrap();
    let web = usage.images.iter().find(|one| one.image.names == [named("web")]).unwrap();
    assert!(web.reclaimable_bytes >= crate::layer_file::allocated(&at));
    std::fs::remove_dir_all(places.container("c")).unwrap();
    let child = container_of_web(&store, &places, "d");
    store.remove("web", true, &[]).unwrap();
    assert_eq!(read(&store, &child.path), 3);
    std::fs::remove_dir_all(places.container("d")).unwrap();
    assert_eq!(store.collect().len(), 2);
    assert!(!at.exists() && !data.path.exists());
    picture(&store, &places);
}

#[test]
fn a_merged_image_has_the_data_disks_of_the_uppermost() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let disks = store.find("web").unwrap().disks;
    let merged = merge(&store, "web", "flat", MergeFiles::Top(2), Sources::Keep).unwrap();
    assert_eq!(merged.image.disks, disks);
    std::fs::remove_dir_all(places.container("c")).unwrap();
    let merged = merge(&store, "web", "api", MergeFiles::Top(2), Sources::Delete).unwrap();
    assert_eq!(merged.image.disks, disks);
    assert_eq!(read(&store, &data_file(&store, &merged.image)), 3);
}

#[test]
fn a_zip_holds_all_disks_and_brings_them_back() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let there = Places::make(&folder.path().join("there"));
    let other = there.open();
    // An image above one with data disks has that below it, as it is.
    let leaf = container(&store, &places, "web", "d", 8);
    commit(&store, &leaf, "top");
    let file = places.cache.join("top.zip");
    let format = ExportFormat::Zip(Layers::Tree);
    let to = ExportTo { file: file.clone(), format, replace: false, disk: None };
    export(&store, &store.find("top").unwrap().id, &to, &(), no_program).unwrap();
    other.import_zip(&file, None, &()).unwrap();
    let (here, web) = (store.find("web").unwrap(), other.find("web").unwrap());
    assert_eq!((here.id, &here.disks), (web.id, &web.disks));
    assert_eq!(read(&other, &data_file(&other, &web)), 3);
    let verified = other.verify(&[], Depth::Data, &()).unwrap();
    assert!(verified.problems.is_empty() && verified.files == 5, "{verified:?}");

    // Its own layers alone: that of its disk, and that of each data disk.
    let (file, format) = (places.cache.join("web.zip"), ExportFormat::Zip(Layers::Own));
    let to = ExportTo { file, format, replace: false, disk: None };
    assert_eq!(export(&store, &here.id, &to, &(), no_program).unwrap().layers, 2);
    assert!(other.import_zip(&to.file, None, &()).unwrap().added.is_empty());
}

#[test]
fn a_zip_without_a_data_disk_is_refused() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let there = Places::make(&folder.path().join("there"));
    let other = there.open();
    let file = places.cache.join("web.zip");
    let format = ExportFormat::Zip(Layers::Tree);
    let to = ExportTo { file: file.clone(), format, replace: false, disk: None };
    export(&store, &store.find("web").unwrap().id, &to, &(), no_program).unwrap();
    let mut from = zip::ZipArchive::new(std::fs::File::open(&file).unwrap()).unwrap();
    let cut = places.cache.join("cut.zip");
    let mut into = zip::ZipWriter::new(std::fs::File::create(&cut).unwrap());
    for number in 0..from.len() {
        let entry = from.by_index_raw(number).unwrap();
        if !entry.name().unwrap().starts_with("web_data_") {
            into.raw_copy_file(entry).unwrap();
        }
    }
    into.finish().unwrap();
    let error = other.import_zip(&cut, None, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    assert!(error.to_string().contains("data disk data"), "{error}");
    assert!(other.list().is_empty());
    picture(&other, &there);
}

#[test]
fn each_disk_is_exported_by_itself_where_it_is_flattened() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let id = store.find("web").unwrap().id;
    let flat = |disk: Option<&str>| {
        let file = places.cache.join(format!("{}.raw", disk.unwrap_or("own")));
        let (format, disk) = (ExportFormat::Raw, disk.map(|name| name.parse().unwrap()));
        let to = ExportTo { file, format, replace: false, disk };
        export(&store, &id, &to, &(), no_program)?;
        Ok::<_, Error>(std::fs::read(to.file).unwrap()[MARK as usize])
    };
    assert_eq!((flat(None).unwrap(), flat(Some("Data")).unwrap()), (2, 3));
    let error = flat(Some("logs")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.remedy(), Some("it has data"));
}

#[test]
fn an_image_whose_data_disk_is_gone_is_told_of() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let at = data_file(&store, &store.find("web").unwrap());
    drop(store);
    std::fs::rename(&at, places.cache.join("away.vhdx")).unwrap();
    let store = places.open();
    let damage = store.find("web").unwrap().damage.unwrap();
    assert!(damage.contains("data disk data"), "{damage}");
    let problems = store.verify(&[], Depth::Metadata, &()).unwrap().problems;
    assert!(problems.iter().any(|one| one.object == "disk data of web:latest"), "{problems:?}");
    std::fs::create_dir_all(places.container("d")).unwrap();
    assert!(data_children(&store, &places, "web", "d").is_err());
}

#[test]
fn a_disk_that_is_given_is_copied_by_its_content_and_finds_its_parent() {
    let folder = folder();
    let (places, store, _) = with_web(folder.path());
    let web = store.find("web").unwrap();
    std::fs::create_dir_all(places.container("d")).unwrap();
    let place = |file: &Path, name: &str| {
        let given = file.extension().is_some_and(|it| it == "img").then(|| "raw".parse());
        let mut pending = store.begin_data_disk(file, recognise(file, given.transpose()?)?)?;
        store.fill_data_disk(&mut pending, &())?;
        store.place_data_disk(pending, &web.id, &places.container("d"), &name.parse()?)
    };
    let raw = places.cache.join("disk.img");
    let mut bytes = vec![0; 64 << 20];
    bytes[MARK as usize..][..4096].fill(6);
    std::fs::write(&raw, bytes).unwrap();
    let disk = place(&raw, "raw").unwrap();
    assert_eq!(read(&store, &disk.path), 6);
    let child = places.cache.join("child.vhdx");
    let options = ireko_disk::vhdx::ChildOptions::default();
    vhdx::create_child(&child, &web.file, r".\x.vhdx", &options).unwrap();
    let disk = place(&child, "child").unwrap();
    assert_eq!(read(&store, &disk.path), 2);
    let stranger = places.cache.join("stranger.vhdx");
    vhdx::create(&stranger, &CreateOptions::new(64 << 20)).unwrap();
    let orphan = places.cache.join("orphan.vhdx");
    vhdx::create_child(&orphan, &stranger, r".\stranger.vhdx", &options).unwrap();
    assert_eq!(place(&orphan, "orphan").unwrap_err().kind(), ErrorKind::BadInput);
    picture(&store, &places);
}
