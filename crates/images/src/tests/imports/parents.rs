//! Differencing disks: linked by identity to what is in the tree, or refused.

use super::*;
use ireko_disk::vhdx::ChildOptions;

const CHILD: &str = "3dc27766-f623-4200-9d64-115e9bfd4a08";

/// Makes a child of `parent` with a mark in it.
fn child_of(parent: &Path, child: &Path, locator: &str, mark: u8) {
    vhdx::create_child(child, parent, locator, &ChildOptions::default()).unwrap();
    let paths = [child.to_owned(), parent.to_owned()];
    let chain = Chain::open(&paths, Access::ReadWrite).unwrap();
    chain.write_at(MARK, &[mark; 4096]).unwrap();
    chain.close().unwrap();
}

fn base(scene: &Scene, name: &str) -> PathBuf {
    let file = scene.path(name);
    vhdx::create(&file, &CreateOptions::new(64 << 20)).unwrap();
    file
}

#[test]
fn a_child_is_linked_to_its_parent_in_the_tree() {
    let scene = scene();
    let parent = base(&scene, &format!("base_{GUID}.vhdx"));
    let child = scene.path(&format!("web_{CHILD}.vhdx"));
    child_of(&parent, &child, &format!(r"C:\elsewhere\base_{GUID}.vhdx"), 7);
    let parent = scene.import(&parent, Some("renamed")).unwrap();
    let image = scene.import(&child, None).unwrap();
    assert_eq!((image.parent_image, image.depth, image.kind), (Some(parent.id), 2, Kind::Machine));
    assert_eq!(read(&scene.store, &image.file), 7);
    let link = vhdx::info(&image.file).unwrap().parent.unwrap();
    assert_eq!(link.relative_path.unwrap(), format!(r".\renamed_{GUID}.vhdx"));
    let before = vhdx::info(&child).unwrap().data_write_guid;
    assert_eq!(vhdx::info(&image.file).unwrap().data_write_guid, before);
}

#[test]
fn a_child_of_an_app_image_is_one_and_runs_what_that_runs() {
    let scene = scene();
    let app = super::super::import(&scene.store, &scene.places, "app", 1);
    let child = scene.path("child.vhdx");
    let chain = scene.store.chain(&app.file).unwrap();
    let name = app.file.file_name().unwrap().to_str().unwrap();
    vhdx::create_child(&child, &chain[0], &format!(r".\{name}"), &ChildOptions::default()).unwrap();
    let image = scene.import(&child, None).unwrap();
    assert_eq!((image.kind, image.parent_image), (Kind::App, Some(app.id)));
    assert_eq!(image.config.document().config.cmd, ["sh"]);
    // The link was right already: not a byte is changed.
    assert!(std::fs::read(&child).unwrap() == std::fs::read(&image.file).unwrap());
}

#[test]
fn a_child_whose_parent_is_missing_is_refused_and_the_parent_named() {
    let scene = scene();
    let parent = base(&scene, "base.vhdx");
    let child = scene.path("child.vhdx");
    child_of(&parent, &child, r"..\there\base.vhdx", 7);
    let error = scene.refused(&child, None, "base.vhdx, data write GUID");
    assert_eq!(error.remedy(), Some("import base.vhdx first"));
    scene.import(&parent, None).unwrap();
    scene.import(&child, None).unwrap();
}

#[test]
fn a_child_whose_parent_changed_since_is_refused() {
    let scene = scene();
    let parent = base(&scene, &format!("base_{GUID}.vhdx"));
    let child = scene.path("child.vhdx");
    child_of(&parent, &child, &format!(r".\base_{GUID}.vhdx"), 7);
    let chain = Chain::open(std::slice::from_ref(&parent), Access::ReadWrite).unwrap();
    chain.write_at(0, &[1; 512]).unwrap();
    chain.close().unwrap();
    scene.import(&parent, None).unwrap();
    let error = scene.refused(&child, None, "is here, but other bytes");
    assert!(error.remedy().unwrap().contains("was changed after"));
}

#[test]
fn of_twins_the_one_that_the_child_names_is_its_parent() {
    let scene = scene();
    let first = base(&scene, &format!("first_{GUID}.vhdx"));
    let child = scene.path("child.vhdx");
    child_of(&first, &child, &format!(r".\first_{GUID}.vhdx"), 7);
    let unclear = scene.path("unclear.vhdx");
    child_of(&first, &unclear, r".\whatever.vhdx", 8);
    let plain = scene.path("plain.vhdx");
    child_of(&first, &plain, r".\SECOND.vhdx", 9);
    let second = scene.path("second.vhdx");
    std::fs::copy(&first, &second).unwrap();
    let first = scene.import(&first, None).unwrap();
    let second = scene.import(&second, None).unwrap();
    assert_eq!(scene.import(&child, None).unwrap().parent_image, Some(first.id));
    assert_eq!(scene.import(&plain, None).unwrap().parent_image, Some(second.id));
    let error = scene.refused(&unclear, None, "copies of one file");
    assert!(error.remedy().unwrap().contains("relink"));
}

#[test]
fn a_disk_that_is_its_own_parent_is_refused() {
    let scene = scene();
    let parent = base(&scene, "base.vhdx");
    let child = scene.path(&format!("child_{CHILD}.vhdx"));
    child_of(&parent, &child, &format!(r".\child_{CHILD}.vhdx"), 7);
    scene.refused(&child, None, "is not in the tree");
    // And with its own identity as the linkage.
    let own = vhdx::info(&child).unwrap();
    let wanted = own.parent.unwrap().linkage;
    let bytes = std::fs::read(&child).unwrap();
    let text = |guid: Guid| -> Vec<u8> {
        guid.to_string().encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let (old, new) = (text(wanted), text(own.data_write_guid));
    let file = std::fs::File::options().write(true).open(&child).unwrap();
    for at in 0..bytes.len() - old.len() {
        let lower = bytes[at..at + old.len()].to_ascii_lowercase();
        if lower == old {
            file.write_all_at(&new, at as u64).unwrap();
        }
    }
    scene.refused(&child, None, "names itself as its parent");
}

#[test]
fn a_child_can_stand_on_a_layer_that_is_no_image_any_more() {
    let scene = scene();
    let parent = base(&scene, &format!("base_{GUID}.vhdx"));
    let (child, late) = (scene.path("child.vhdx"), scene.path("late.vhdx"));
    child_of(&parent, &child, &format!(r".\base_{GUID}.vhdx"), 7);
    child_of(&parent, &late, &format!(r".\base_{GUID}.vhdx"), 8);
    scene.import(&parent, None).unwrap();
    let image = scene.import(&child, None).unwrap();
    std::fs::create_dir_all(scene.places.container("c")).unwrap();
    scene.store.create_scratch(&image.id, &scene.places.container("c")).unwrap();
    scene.refused(&parent, Some("again"), "the image base");
    let late = scene.import(&late, None).unwrap();
    assert_eq!((late.depth, read(&scene.store, &late.file)), (2, 8));
}
