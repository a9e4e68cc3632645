//! A root folder as InvokeV-Container leaves it.

use super::*;
use crate::{ErrorKind, Kind};
use ireko_disk::vhdx::ChildOptions;

/// ```text
///   Images/   Win2016_G0 ◄── IIS_G1 ◄── IIS_SQL_G2
///                        ◄── 日本語_G3
///             Win2016-copy_G4            byte for byte the same as Win2016_G0
///   Containers/  web/web.vhdx            over IIS_SQL, by an absolute path
///                db/db.vhdx ◄─ db/db_….avhdx     over the copy; a checkpoint on top
/// ```
struct InvokeV {
    images: PathBuf,
    containers: PathBuf,
}

const GUIDS: [&str; 5] = [
    "2DC27766-F623-4200-9D64-115E9BFD4A08",
    "3DC27766-F623-4200-9D64-115E9BFD4A08",
    "4DC27766-F623-4200-9D64-115E9BFD4A08",
    "5DC27766-F623-4200-9D64-115E9BFD4A08",
    "6DC27766-F623-4200-9D64-115E9BFD4A08",
];

impl InvokeV {
    fn make(places: &Places) -> InvokeV {
        let root = InvokeV {
            images: places.root.join("Images"),
            containers: places.root.join("Containers"),
        };
        for folder in [&root.images, &root.containers.join("web"), &root.containers.join("db")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let win = root.image("Win2016", 0);
        vhdx::create(&win, &CreateOptions::new(64 << 20)).unwrap();
        mark(&[&win], 1);
        std::fs::copy(&win, root.image("Win2016-copy", 4)).unwrap();
        let (iis, sql) = (root.image("IIS", 1), root.image("IIS_SQL", 2));
        let sibling = |path: &Path| format!(r".\{}", file_name(path));
        child(&iis, &win, &sibling(&win), None);
        mark(&[&iis, &win], 2);
        child(&sql, &iis, &sibling(&iis).to_uppercase(), Some(r"D:\INVOKEV\IMAGES"));
        mark(&[&sql, &iis, &win], 3);
        child(&root.image("日本語", 3), &win, &sibling(&win), None);

        let web = root.containers.join("web/web.vhdx");
        child(&web, &sql, &format!(r"D:\InvokeV\Images\{}", file_name(&sql)), None);
        let copy = root.image("Win2016-copy", 4);
        let (db, leaf) = (root.containers.join("db/db.vhdx"), root.checkpoint());
        child(&db, &copy, &format!(r"..\..\Images\{}", file_name(&copy)), None);
        child(&leaf, &db, r".\DB.vhdx", None);
        mark(&[&leaf, &db, &copy], 4);
        root
    }

    fn image(&self, name: &str, guid: usize) -> PathBuf {
        self.images.join(format!("{name}_{}.vhdx", GUIDS[guid]))
    }

    fn checkpoint(&self) -> PathBuf {
        self.containers.join("db/db_0A1B2C3D-1111-2222-3333-444455556666.avhdx")
    }
}

fn child(path: &Path, parent: &Path, relative: &str, absolute: Option<&str>) {
    let absolute = absolute.map(|folder| format!(r"{folder}\{}", file_name(parent)));
    let options = ChildOptions { absolute_path: absolute, ..ChildOptions::default() };
    vhdx::create_child(path, parent, relative, &options).unwrap();
}

fn mark(files: &[&Path], value: u8) {
    let files: Vec<_> = files.iter().map(|file| file.to_path_buf()).collect();
    let chain = Chain::open(&files, Access::ReadWrite).unwrap();
    chain.write_at(MARK, &[value; 4096]).unwrap();
    chain.flush().unwrap();
    chain.close().unwrap();
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn an_invokev_root_opens_as_it_is() {
    let folder = folder();
    let places = Places::under(folder.path());
    let root = InvokeV::make(&places);
    let bytes = std::fs::read(root.image("IIS", 1)).unwrap();
    let store = places.open();

    let names = |image: &ImageInfo| image.names[0].short();
    let mut tree: Vec<_> = store
        .list()
        .iter()
        .map(|image| {
            let parent = image.parent_image.map(|id| names(&store.find(&id.hex()).unwrap()));
            (names(image), parent.unwrap_or_default(), read(&store, &image.file))
        })
        .collect();
    tree.sort();
    let row = |name: &str, parent: &str, mark| (name.to_owned(), parent.to_owned(), mark);
    assert_eq!(
        tree,
        [
            row("IIS", "Win2016", 2),
            row("IIS_SQL", "IIS", 3),
            row("Win2016", "", 1),
            row("Win2016-copy", "", 1),
            row("日本語", "Win2016", 1),
        ]
    );
    assert!(store.list().iter().all(|image| image.kind == Kind::Machine));
    assert!(bytes == std::fs::read(root.image("IIS", 1)).unwrap(), "a file was changed");
    assert!(!places.root.join("images").exists() && !places.root.join("containers").exists());
}

#[test]
fn an_invokev_containers_disk_is_found_and_so_are_its_parents() {
    let folder = folder();
    let places = Places::under(folder.path());
    let root = InvokeV::make(&places);
    let store = places.open();
    let web = store.disks_in(&root.containers.join("web")).unwrap().unwrap().own;
    assert_eq!((file_name(&web), read(&store, &web)), ("web.vhdx", 3));
    let below = store.parent_of(&web).unwrap().unwrap();
    assert_eq!(below.image, Some(store.find("iis_sql").unwrap().id));

    // A checkpoint is the disk; the copy is told from what it is a copy of.
    let db = store.disks_in(&root.containers.join("db")).unwrap().unwrap().own;
    assert_eq!((&db, read(&store, &db)), (&root.checkpoint(), 4));
    let chain = store.chain(&db).unwrap();
    assert_eq!(chain[2], root.image("Win2016-copy", 4));
    let below = store.parent_of(&db).unwrap().unwrap();
    assert_eq!((below.image, below.depth), (Some(store.find("win2016-copy").unwrap().id), 3));

    std::fs::create_dir(root.containers.join("empty")).unwrap();
    assert!(store.disks_in(&root.containers.join("empty")).unwrap().is_none());
}

#[test]
fn further_disks_in_an_invokev_containers_folder_are_its_data_disks() {
    let folder = folder();
    let places = Places::under(folder.path());
    let root = InvokeV::make(&places);
    let store = places.open();
    let web = root.containers.join("web");
    vhdx::create(&web.join("Data.vhdx"), &CreateOptions::new(64 << 20)).unwrap();
    vhdx::create(&web.join("日本語.vhdx"), &CreateOptions::new(64 << 20)).unwrap();
    child(&web.join("Data_1.avhdx"), &web.join("Data.vhdx"), r".\DATA.vhdx", None);
    let found = store.disks_in(&web).unwrap().unwrap();
    assert_eq!(file_name(&found.own), "web.vhdx");
    let data: Vec<_> =
        found.data.iter().map(|disk| (disk.name.as_str(), file_name(&disk.path))).collect();
    assert_eq!(data, [("Data", "Data_1.avhdx"), ("disk1", "日本語.vhdx")]);

    // Without its name, it is the one that stands on an image; of two such none is known.
    std::fs::rename(web.join("web.vhdx"), web.join("x.vhdx")).unwrap();
    assert_eq!(file_name(&store.disks_in(&web).unwrap().unwrap().own), "x.vhdx");
    child(&web.join("y.vhdx"), &root.image("Win2016", 0), r".\x", None);
    assert_eq!(store.disks_in(&web).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn an_invokev_container_is_committed_but_a_checkpoint_is_not() {
    let folder = folder();
    let places = Places::under(folder.path());
    let root = InvokeV::make(&places);
    let store = places.open();
    let web = store.disks_in(&root.containers.join("web")).unwrap().unwrap().own;
    let image = commit(&store, &web, "IIS_App");
    assert_eq!((read(&store, &image.file), read(&store, &web)), (3, 3));
    let link = vhdx::info(&web).unwrap().parent.unwrap();
    assert_eq!(link.relative_path.unwrap(), format!(r"..\..\Images\{}", file_name(&image.file)));

    let error = store.begin_commit(&root.checkpoint(), &[], new_image(Some("db"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("checkpoint"), "{error}");
}
