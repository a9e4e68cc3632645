//! Tests of whole verbs on real files, and what they share.

mod crash;
mod data_disks;
mod exports;
mod fold;
mod foreign;
mod full_disk;
mod imports;
mod invokev;
mod merge;
mod races;
mod removal;
mod removal_of_trees;
mod repair;
mod saved;
mod usage;
mod verbs;
mod verify;
mod zips;

use crate::durable;
use crate::{
    Conversion, DataDisk, Error, ExportTo, Exported, Filled, ImageId, ImageInfo, ImageUser,
    MergeFiles, MergeRequest, Merged, Name, NewImage, PendingLayer, Sources, Store, Watch,
};
use ireko_disk::vhdx::{self, CreateOptions};
use ireko_disk::{Access, Chain, Disk};
use ireko_oci::RunConfig;
use jiff::Timestamp;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Held for writing while a test forks. Between fork and exec the child has copies of all open
/// files, and with them holds their locks: another test would find its own disk in use.
static FORKING: RwLock<()> = RwLock::new(());

/// A folder for a test that does not fork, and the promise that nobody else does meanwhile.
pub(super) struct Folder {
    folder: tempfile::TempDir,
    _nobody_forks: RwLockReadGuard<'static, ()>,
}

pub(super) fn folder() -> Folder {
    Folder { folder: temporary(), _nobody_forks: nobody_forks() }
}

impl Folder {
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A folder for a test that forks now and then, by this.
pub(super) struct ForkingFolder {
    folder: tempfile::TempDir,
    nobody_forks: RefCell<Option<RwLockReadGuard<'static, ()>>>,
}

impl ForkingFolder {
    pub fn new() -> ForkingFolder {
        let nobody_forks = RefCell::new(Some(nobody_forks()));
        ForkingFolder { folder: temporary(), nobody_forks }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a program, which must succeed; returns what it printed.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> String {
        self.nobody_forks.take();
        // Nothing may depend on the machine's language.
        let ran = output(command.env("LC_ALL", "C.UTF-8"));
        self.nobody_forks.replace(Some(nobody_forks()));
        let output = ran.unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The program by which the engine converts, behind walls.
fn qemu_img(conversion: &Conversion) -> Command {
    let [from, to] = [conversion.from, conversion.to].map(|it| it.to_string().to_lowercase());
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", &from, "-O", &to]);
    command.arg(&conversion.source).arg(&conversion.target);
    command
}

/// Exports as the engine does; `run` runs a program.
fn export(
    store: &Store,
    image: &ImageId,
    to: &ExportTo,
    watch: &dyn Watch,
    run: impl FnOnce(&mut Command),
) -> Result<Exported, Error> {
    let pending = store.begin_export(image, to)?;
    if let Filled::ToConvert(conversion) = store.fill_export(&pending, watch)? {
        run(&mut qemu_img(&conversion));
    }
    store.publish_export(pending, watch)
}

/// For exports that need none.
fn no_program(command: &mut Command) {
    panic!("{command:?}")
}

pub(super) fn nobody_forks() -> RwLockReadGuard<'static, ()> {
    FORKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program in place of `Command::output`, with the fork kept from other tests.
pub(super) fn output(command: &mut Command) -> std::io::Result<Output> {
    let child = {
        let _alone = FORKING.write().unwrap_or_else(PoisonError::into_inner);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?
    };
    child.wait_with_output()
}

/// Makes a folder in memory where that can be: syncing a real disk takes the most time.
pub(super) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Where the tests' disks differ from each other.
const MARK: u64 = 5 << 20;

/// A root folder and a cache folder.
pub(super) struct Places {
    pub root: PathBuf,
    pub cache: PathBuf,
}

impl Places {
    pub fn under(folder: &Path) -> Places {
        Places { root: folder.join("root"), cache: folder.join("cache") }
    }

    /// Makes the cache with the common root of app images.
    pub fn make(folder: &Path) -> Places {
        let places = Places::under(folder);
        std::fs::create_dir_all(&places.cache).unwrap();
        vhdx::create(&places.common_root(), &CreateOptions::new(64 << 20)).unwrap();
        places
    }

    pub fn common_root(&self) -> PathBuf {
        self.cache.join("root.vhdx")
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    pub fn open(&self) -> Store {
        Store::open(&self.root).unwrap()
    }
}

pub(super) fn new_image(name: Option<&str>) -> NewImage {
    NewImage {
        config: RunConfig { cmd: vec!["sh".into()], ..RunConfig::default() },
        machine: None,
        generalized: false,
        container: None,
        name: name.map(named),
        comment: String::new(),
        author: String::new(),
        created_by: "test".into(),
        created: Timestamp::now(),
    }
}

/// An OVF description of a machine with these disks on one controller.
pub(super) fn ovf(disks: &[&str]) -> String {
    let (mut files, mut contents, mut items) = (String::new(), String::new(), String::new());
    for (number, file) in disks.iter().enumerate() {
        files += &format!(r#"<File ovf:href="{file}" ovf:id="f{number}"/>"#);
        contents += &format!(r#"<Disk ovf:diskId="d{number}" ovf:fileRef="f{number}"/>"#);
        items += &format!(
            "<Item><rasd:AddressOnParent>{number}</rasd:AddressOnParent>\
             <rasd:HostResource>ovf:/disk/d{number}</rasd:HostResource>\
             <rasd:InstanceID>{}</rasd:InstanceID><rasd:Parent>3</rasd:Parent>\
             <rasd:ResourceType>17</rasd:ResourceType></Item>",
            number + 10
        );
    }
    format!(
        r#"<Envelope xmlns="o" xmlns:ovf="o" xmlns:rasd="r"><References>{files}</References>
        <DiskSection>{contents}</DiskSection><VirtualSystem><VirtualHardwareSection>
        <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>20</rasd:ResourceType></Item>
        {items}</VirtualHardwareSection></VirtualSystem></Envelope>"#
    )
}

pub(super) fn named(name: &str) -> Name {
    Name::parse(name).unwrap()
}

pub(super) fn write(store: &Store, leaf: &Path, mark: u8) {
    let chain = Chain::open(&store.chain(leaf).unwrap(), Access::ReadWrite).unwrap();
    chain.write_at(MARK, &[mark; 4096]).unwrap();
    chain.flush().unwrap();
    chain.close().unwrap();
}

pub(super) fn read(store: &Store, leaf: &Path) -> u8 {
    let chain = Chain::open(&store.chain(leaf).unwrap(), Access::ReadOnly).unwrap();
    let mut bytes = [0; 4096];
    chain.read_at(MARK, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

pub(super) fn begin_import(store: &Store, places: &Places, name: &str, mark: u8) -> PendingLayer {
    let pending = store.begin_app_layer(&places.common_root(), name).unwrap();
    write(store, &pending.leaf, mark);
    pending
}

pub(super) fn import(store: &Store, places: &Places, name: &str, mark: u8) -> ImageInfo {
    let pending = begin_import(store, places, name, mark);
    store.publish_app_layer(pending, new_image(Some(name))).unwrap()
}

/// Makes a container of an image and marks its disk.
pub(super) fn container(
    store: &Store,
    places: &Places,
    image: &str,
    id: &str,
    mark: u8,
) -> PathBuf {
    let folder = places.container(id);
    std::fs::create_dir_all(&folder).unwrap();
    let leaf = store.create_scratch(&store.find(image).unwrap().id, &folder).unwrap();
    write(store, &leaf, mark);
    leaf
}

pub(super) fn commit(store: &Store, leaf: &Path, name: &str) -> ImageInfo {
    let pending = store.begin_commit(leaf, &[], new_image(Some(name))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    store.publish_commit(pending).unwrap()
}

/// Commits a container with all its disks.
pub(super) fn commit_all(
    store: &Store,
    leaf: &Path,
    data: &[DataDisk],
    name: &str,
) -> Result<ImageInfo, Error> {
    let pending = store.begin_commit(leaf, data, new_image(Some(name)))?;
    if let Err(error) = store.freeze_stopped(&pending) {
        store.abort_commit(pending)?;
        return Err(error);
    }
    store.publish_commit(pending)
}

/// Gives a container a blank data disk and marks it.
pub(super) fn data_disk(
    store: &Store,
    places: &Places,
    image: &str,
    id: &str,
    mark: u8,
) -> DataDisk {
    let image = store.find(image).unwrap().id;
    let name = DATA.parse().unwrap();
    let disk = store.create_blank_disk(&image, &places.container(id), &name, 64 << 20).unwrap();
    write(store, &disk.path, mark);
    disk
}

/// The disks of a container of `image` that has a data disk.
pub(super) fn disks_of(places: &Places, id: &str, image: &str) -> (PathBuf, Vec<DataDisk>) {
    let folder = places.container(id);
    let data = folder.join(format!("{image}_{DATA}.vhdx"));
    let data = DataDisk { name: DATA.parse().unwrap(), path: data };
    (folder.join(format!("{image}.vhdx")), vec![data])
}

/// What the tests' data disks are called.
pub(super) const DATA: &str = "data";

/// Makes the children of an image's data disks for a container.
pub(super) fn data_children(
    store: &Store,
    places: &Places,
    image: &str,
    id: &str,
) -> Result<Vec<DataDisk>, Error> {
    store.create_data_disks(&store.find(image)?.id, &places.container(id))
}

/// Returns the file of an image's only data disk.
pub(super) fn data_file(store: &Store, image: &ImageInfo) -> PathBuf {
    let index = store.index();
    let [disk] = &image.disks[..] else { panic!("{:?}", image.disks) };
    store.image_path(&index.layer(disk.guid).unwrap().file)
}

pub(super) fn merge(
    store: &Store,
    image: &str,
    name: &str,
    files: MergeFiles,
    sources: Sources,
) -> Result<Merged, Error> {
    let request = MergeRequest { image: image.into(), name: named(name), files, sources };
    store.merge(&request, &Vec::new, &())
}

pub(super) fn user(store: &Store, image: &str, id: &str, running: bool) -> ImageUser {
    let image = store.find(image).unwrap().id;
    ImageUser { id: id.repeat(64), name: format!("name-of-{id}"), image, running }
}

/// What matters of a store: equal before and after whatever must change nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    /// Names, parent's names and mark of each image.
    pub images: Vec<(Vec<String>, Vec<String>, u8)>,
    /// Marks of images' data disks.
    pub data: Vec<(Vec<String>, u8)>,
    /// Mark of each container's disks.
    pub containers: BTreeMap<String, u8>,
    /// How many disk files are in `images/`.
    pub files: usize,
}

/// Takes the picture, and checks that nothing lies about that belongs to nobody.
#[track_caller]
pub(super) fn picture(store: &Store, places: &Places) -> Picture {
    let names =
        |image: &ImageInfo| -> Vec<String> { image.names.iter().map(Name::familiar).collect() };
    let list = store.list();
    let mut images: Vec<_> = list
        .iter()
        .map(|image| {
            let parent = list.iter().find(|parent| Some(parent.id) == image.parent_image);
            (names(image), parent.map(names).unwrap_or_default(), read(store, &image.file))
        })
        .collect();
    images.sort();
    let mut containers = BTreeMap::new();
    for id in durable::names_in(&places.root.join("containers")).unwrap() {
        for disk in durable::names_in(&places.container(&id)).unwrap() {
            assert!(disk.ends_with(".vhdx"), "debris: containers/{id}/{disk}");
            let mark = read(store, &places.container(&id).join(&disk));
            containers.insert(format!("{id}/{disk}"), mark);
        }
    }
    let with_data = list.iter().filter(|image| !image.disks.is_empty());
    let mut data: Vec<_> =
        with_data.map(|image| (names(image), read(store, &data_file(store, image)))).collect();
    data.sort();
    let index = store.index();
    let mut expected: Vec<_> = index
        .layers()
        .flat_map(|layer| [layer.file.clone(), crate::names::sidecar_file(&layer.file)])
        .collect();
    expected.sort();
    assert_eq!(durable::names_in(&places.root.join("images")).unwrap(), expected);
    let journal = durable::names_in(&places.root.join("journal")).unwrap();
    assert!(journal.iter().all(|name| name == "reserve"), "debris in the journal: {journal:?}");
    Picture { images, data, containers, files: index.layers().count() }
}
