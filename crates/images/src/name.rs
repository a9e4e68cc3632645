//! What an image is called: as people write it, and as docker's clients must.
//!
//! One rule leads from what was given to docker's reference; what was given is kept beside it, so
//! nothing is lost on the way.
//!
//! ```text
//!   given                  shown                      docker's reference            file
//!   web, me/web:1          web:latest, me/web:1       the same                      web_<guid>, me_web_1_<guid>
//!   Win2016_Hyper-V        Win2016_Hyper-V:latest     win2016_hyper-v:latest        Win2016_Hyper-V_<guid>
//!   My Image (2):b         My Image (2):b             my-image-2:b                  My Image (2)_b_<guid>
//!   日本語                  日本語:latest               xn--wgv71a119e:latest         日本語_<guid>
//! ```
//!
//! The rule, for each part between slashes of a name that is no reference as it stands: NFC; lower
//! case; a run of ASCII that no repository may have there becomes one `-`; where other letters are
//! left, the part becomes `xn--` and its punycode (RFC 3492), as in names of Internet hosts.
//!
//! Names with one reference are one name. A second spelling of a name that exists is refused.

use crate::error::{Error, Result};
use ireko_oci::Reference;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use unicode_normalization::UnicodeNormalization;

/// The longest name that is read, in bytes.
const MAX_BYTES: usize = 1024;
const PUNYCODE: &str = "xn--";

/// A name of an image, with its tag. Equal to another when docker's clients could not tell them
/// apart, however they are spelt.
///
/// Displays so that [`Name::parse`] reads it back.
#[derive(Clone)]
pub struct Name {
    reference: Reference,
    /// The repository as it was given, where that is not the reference's own.
    spelling: Option<String>,
}

impl Name {
    /// Reads a name; `:latest` is meant where it has no tag.
    ///
    /// A digest is no name for a local image: [`crate::ErrorKind::BadInput`], as for what no
    /// reference can be made of.
    pub fn parse(text: &str) -> Result<Name> {
        match Reference::parse(text) {
            Ok(reference) => Name::try_from(reference),
            Err(refusal) => spelt(text).ok_or_else(|| Error::bad_input(refusal.to_string())),
        }
    }

    /// Returns docker's reference, with its tag.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Returns the tag.
    pub fn tag(&self) -> &str {
        self.reference.tag().unwrap_or(ireko_oci::DEFAULT_TAG)
    }

    /// Returns the name without its tag, as people see it.
    pub fn repository(&self) -> String {
        self.spelling.clone().unwrap_or_else(|| self.reference.familiar_name())
    }

    /// Returns the name as people see it: `web:latest`, `Win2016_Hyper-V:latest`.
    pub fn familiar(&self) -> String {
        format!("{}:{}", self.repository(), self.tag())
    }

    /// Returns the name as people write it: without `:latest`. Files are called after it.
    pub fn short(&self) -> String {
        match self.tag() {
            ireko_oci::DEFAULT_TAG => self.repository(),
            tag => format!("{}:{tag}", self.repository()),
        }
    }

    /// Tells whether both are spelt alike too.
    pub(crate) fn is_spelt_as(&self, other: &Name) -> bool {
        self == other && self.spelling == other.spelling
    }
}

impl TryFrom<Reference> for Name {
    type Error = Error;

    fn try_from(reference: Reference) -> Result<Name> {
        match reference.digest() {
            Some(_) => Err(Error::bad_input("refusing to create a tag with a digest reference")),
            None => Ok(Name { reference: reference.with_default_tag(), spelling: None }),
        }
    }
}

/// Makes a name of what is no reference.
fn spelt(text: &str) -> Option<Name> {
    let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id || text.len() > MAX_BYTES || text.contains('@') || text.chars().any(char::is_control) {
        return None;
    }
    let composed: String = text.nfc().collect();
    let (repository, tag) = match composed.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (composed.as_str(), ireko_oci::DEFAULT_TAG),
    };
    let parts: Option<Vec<String>> = repository.split('/').map(part).collect();
    let reference = Reference::parse(&parts?.join("/")).ok()?.with_tag(tag).ok()?;
    Some(Name { reference, spelling: Some(repository.to_owned()) })
}

/// Makes one part of a repository's path.
fn part(given: &str) -> Option<String> {
    let mut part = String::new();
    for letter in given.trim().to_lowercase().chars() {
        let is_usual = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        match letter {
            _ if is_usual || !letter.is_ascii() => part.push(letter),
            '_' | '.' | '-' if part.ends_with(is_word) => part.push(letter),
            _ if part.ends_with('-') || part.is_empty() => {}
            _ => {
                part.truncate(part.trim_end_matches(['_', '.', '-']).len());
                part.push('-');
            }
        }
    }
    let part = part.trim_end_matches(['_', '.', '-']);
    match part.is_ascii() {
        true => (!part.is_empty()).then(|| part.to_owned()),
        false => punycode::encode(part).ok().map(|code| format!("{PUNYCODE}{code}")),
    }
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || !letter.is_ascii()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spelling {
            Some(repository) => write!(f, "{repository}:{}", self.tag()),
            None => self.reference.fmt(f),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name> {
        Name::parse(text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.reference == other.reference
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.reference.cmp(&other.reference)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reference.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, familiar: &str, reference: &str, short: &str) {
        let name = Name::parse(given).unwrap();
        assert_eq!(name.familiar(), familiar);
        assert_eq!(name.reference().familiar(), reference);
        assert_eq!(name.short(), short);
        let again = Name::parse(&name.to_string()).unwrap();
        assert!(again.is_spelt_as(&name), "{name} comes back as {again}");
    }

    #[test]
    fn a_reference_is_its_own_name() {
        check("web", "web:latest", "web:latest", "web");
        check("me/x:2", "me/x:2", "me/x:2", "me/x:2");
        check(
            "localhost:5000/a/b",
            "localhost:5000/a/b:latest",
            "localhost:5000/a/b:latest",
            "localhost:5000/a/b",
        );
    }

    #[test]
    fn other_names_are_kept_and_get_a_reference() {
        check(
            "Win2016_Hyper-V",
            "Win2016_Hyper-V:latest",
            "win2016_hyper-v:latest",
            "Win2016_Hyper-V",
        );
        check("My Image (2):b", "My Image (2):b", "my-image-2:b", "My Image (2):b");
        check("日本語", "日本語:latest", "xn--wgv71a119e:latest", "日本語");
        check(
            "日本語/Größe:1",
            "日本語/Größe:1",
            "xn--wgv71a119e/xn--gre-6ka8i:1",
            "日本語/Größe:1",
        );
        check("a._b", "a._b:latest", "a-b:latest", "a._b");
    }

    #[test]
    fn letters_that_look_alike_are_one_name() {
        let composed = Name::parse("が").unwrap();
        assert!(composed.is_spelt_as(&Name::parse("か\u{3099}").unwrap()));
    }

    #[test]
    fn names_that_docker_cannot_tell_apart_are_equal() {
        let upper = Name::parse("WEB").unwrap();
        let lower = Name::parse("web").unwrap();
        assert_eq!(upper, lower);
        assert!(!upper.is_spelt_as(&lower));
        assert_ne!(upper, Name::parse("WEB:2").unwrap());
    }

    #[test]
    fn what_can_be_no_name_is_refused_in_dockers_words() {
        let id = "ab".repeat(32);
        let digest = format!("web@sha256:{id}");
        for text in [
            "",
            " ",
            "((",
            "a//b",
            "/a",
            "a/",
            "x:",
            "x:a b",
            "a\nb",
            &id,
            &id.to_uppercase(),
            &digest,
        ] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::parse(&"語".repeat(300)).is_err());
        assert_eq!(Name::parse("((").unwrap_err().to_string(), "invalid reference format");
    }
}
