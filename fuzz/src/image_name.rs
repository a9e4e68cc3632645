//! What somebody calls an image, or a file that is to become one.

use ireko_images::{Name, hostile};

/// The longest slug, in bytes.
const MAX_SLUG: usize = 120;

/// All of it is the name, where it is text.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let slug = hostile::slug(text);
    assert!(!slug.is_empty() && slug.len() <= MAX_SLUG);
    assert!(!slug.contains(['<', '>', ':', '"', '/', '\\', '|', '?', '*']));
    assert!(
        !slug.contains(char::is_control) && !slug.starts_with('.') && !slug.ends_with(['.', ' '])
    );
    assert_eq!(hostile::slug(&slug), slug);
    if let Some((slug, key)) = hostile::disk_file(text) {
        let file = format!("{slug}_{key}.vhdx");
        assert_eq!(hostile::disk_file(&file), Some((slug, key)));
    }
    if let Ok(name) = Name::parse(text) {
        let again = Name::parse(&name.to_string()).expect("a name is read as it is written");
        assert_eq!((again.familiar(), again.reference()), (name.familiar(), name.reference()));
        let docker =
            Name::parse(&name.reference().familiar()).expect("docker's reference is a name");
        assert_eq!(docker, name);
    }
}
