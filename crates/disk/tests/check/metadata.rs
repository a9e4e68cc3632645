//! The metadata region and the parent locator.

use ireko_testkit::Image;

use crate::support::*;

#[test]
fn faults_of_the_metadata_are_found() {
    let put = |at: u64, field: &'static [u8]| move |image: &mut Image| image.write(at, field);
    let [parameters, size, page83, sector] = [0, 1, 2, 3].map(item);
    finds_in_base(put(METADATA, b"M"), &[(Kind::MetadataDamaged, Error)]);
    finds_in_base(put(METADATA + 10, &[0, 8]), &[(Kind::MetadataDamaged, Error)]);
    finds_in_base(put(size + 16, &[0; 4]), &[(Kind::ItemMisplaced, Error)]);
    finds_in_base(put(size + 20, &[0xFF; 4]), &[(Kind::ItemMisplaced, Error)]);
    finds_in_base(put(size + 16, &[0; 8]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(size + 20, &[7]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(METADATA + 10, &[4]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(page83, &[9; 16]), &[(Kind::Unsupported, Error), (Kind::ItemMissing, Error)]);
    // Not required, and so nothing but unknown.
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &[6]);
            image.write(item(5), &[9; 16]);
            image.write(item(5) + 16, &[0; 16]);
        },
        &[],
    );
    let page83_id = bytes(&base(), page83, 16);
    finds_in_base(
        |image| image.write(sector, &page83_id),
        &[(Kind::ItemRepeated, Error), (Kind::ItemMissing, Error)],
    );
    finds_in_base(put(sector + 16, &[0x24]), &[(Kind::ItemsOverlap, Error)]);
    finds_in_base(put(sector + 24, &[4]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &[6]);
            image.write(item(5), &0x71CC85F0u32.to_le_bytes());
            image.write(item(5) + 4, &[0x69, 0x1B, 0x28, 0x4E]);
            image.write(item(5) + 8, &[0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3]);
            image.write(item(5) + 24, &[4]);
        },
        &[(Kind::Unfinished, Error)],
    );
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &1100u16.to_le_bytes());
            for n in 0..1095u16 {
                image.write(item(5 + u64::from(n)), &n.to_le_bytes());
                image.write(item(5 + u64::from(n)) + 24, &[1]);
            }
        },
        &[(Kind::MetadataDamaged, Warning)],
    );
    // The items: block size, flags, disk size, page 83, logical and physical sector.
    assert_eq!(bytes(&base(), ITEMS, 8), [0, 0, 16, 0, 0, 0, 0, 0]);
    finds_in_base(put(ITEMS, &[1]), &[(Kind::ItemValue, Error)]);
    finds_in_base(put(ITEMS + 4, &[0x10]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(put(ITEMS + 8, &[1]), &[(Kind::ItemValue, Error)]);
    finds_in_base(put(ITEMS + 8, &[0; 8]), &[(Kind::ItemValue, Error)]);
    finds_in_base(
        put(ITEMS + 32, &[1, 0, 0, 0, 1]),
        &[(Kind::ItemValue, Error), (Kind::ItemValue, Error)],
    );
    finds_in_base(put(parameters + 24, &[0]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(
        |image| image.set_length(METADATA + 100),
        &[
            (Kind::RegionMisplaced, Error),
            (Kind::RegionMisplaced, Error),
            (Kind::FileLength, Warning),
        ],
    );
}

#[test]
fn faults_of_the_parent_locator_are_found() {
    // The child's mark; without it the bitmap and the partial blocks make no sense either.
    finds(
        &[child(&base(), true)],
        |image| image.write(ITEMS + 4, &[0]),
        &[
            (Kind::LocatorUnused, Warning),
            (Kind::BlockState, Error),
            (Kind::BlockState, Error),
            (Kind::BitmapUnexpected, Warning),
        ],
    );
    finds_in_child(|image| image.write(LOCATOR, &[0]), &[(Kind::Unsupported, Error)]);
    finds_in_child(|image| image.write(LOCATOR + 20, &[0; 4]), &[(Kind::LocatorDamaged, Error)]);
    finds_in_child(|image| image.write(METADATA + 10, &[5]), &[(Kind::ItemMissing, Error)]);
    finds_in_child(
        |image| {
            // "relative_path" becomes "relative_pat_", a key nobody knows.
            let item = bytes(image, LOCATOR, 400);
            let key: Vec<u8> = "relative_path".encode_utf16().flat_map(u16::to_le_bytes).collect();
            let at = item.windows(key.len()).position(|window| window == key).unwrap();
            image.write(LOCATOR + (at + key.len()) as u64 - 2, b"_");
        },
        &[(Kind::LocatorDamaged, Warning)],
    );
    finds_in_base(|image| image.write(ITEMS + 4, &[2]), &[(Kind::ItemMissing, Error)]);
}
