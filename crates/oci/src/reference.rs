//! Image references: `domain/path:tag@digest`, by docker's grammar.
//!
//! People write the familiar form; listings show it; everything between uses the full one.
//!
//! ```text
//!   x                       docker.io/library/x
//!   me/x:1                  docker.io/me/x:1
//!   localhost/x             localhost/x                (localhost, or a dot, a colon, a capital
//!   registry:5000/a/b@sha…  registry:5000/a/b@sha…      before the first slash: it is a domain)
//! ```
//!
//! Source: the grammar in the documentation of github.com/distribution/reference, and its
//! normalisation rules for docker.io.

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;

/// The registry that a reference without a domain means.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that a reference without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";

const OFFICIAL: &str = "library/";
const MAX_DOMAIN: usize = 255;
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image reference. Displays in full, with domain: `docker.io/library/x:latest`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference in familiar or full form. No tag is added: see
    /// [`Reference::with_default_tag`].
    ///
    /// Refuses what docker refuses, with its words ([`ErrorKind::Reference`]).
    pub fn parse(text: &str) -> Result<Reference> {
        if is_image_id(text) {
            return Err(refused(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, remainder) = split_domain(text);
        let (remainder, digest) = match remainder.split_once('@') {
            Some((before, digest)) => (before, Some(Digest::parse(digest)?)),
            None => (remainder, None),
        };
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        let path = match domain {
            DEFAULT_DOMAIN if !path.contains('/') => format!("{OFFICIAL}{path}"),
            _ => path.to_owned(),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let shown: String = path.chars().take(MAX_PATH).collect();
            return Err(refused(format!(
                "invalid reference format: repository name ({shown}) must be lowercase"
            )));
        }
        if path.len() > MAX_PATH {
            return Err(refused(format!(
                "repository name must not be more than {MAX_PATH} characters"
            )));
        }
        if !is_domain(domain) || !is_path(&path) || !tag.is_none_or(is_tag) {
            return Err(refused("invalid reference format"));
        }
        Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// Returns the registry, with its port if it has one: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository within the registry: `library/x`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the manifest digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Adds `:latest` where neither tag nor digest was given.
    #[must_use]
    pub fn with_default_tag(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Replaces the tag and drops the digest; [`ErrorKind::Reference`] if `tag` is none.
    pub fn with_tag(mut self, tag: &str) -> Result<Reference> {
        if !is_tag(tag) {
            return Err(refused("invalid tag format"));
        }
        self.tag = Some(tag.to_owned());
        self.digest = None;
        Ok(self)
    }

    /// Returns the short form people use, with tag and digest: `x:latest`.
    ///
    /// It always parses back to the same reference.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// Returns the short form of the repository alone: `x`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        let short = match self.path.strip_prefix(OFFICIAL) {
            Some(official) if !official.contains('/') => official,
            _ => &self.path,
        };
        // `docker.io/localhost/x` and `docker.io/a.b/x` would come back as other registries'.
        match split_domain(short) {
            (DEFAULT_DOMAIN, rest) if rest == short && !is_image_id(short) => short.to_owned(),
            _ => format!("{}/{}", self.domain, self.path),
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// Splits off the registry, docker.io where none is written.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn looks_like_domain(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_image_id(text: &str) -> bool {
    Digest::from_hex(text).is_ok()
}

fn is_domain(domain: &str) -> bool {
    if domain.len() > MAX_DOMAIN {
        return false;
    }
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => return is_ipv6(address) && is_port(port),
            None => return false,
        },
        None => match domain.find(':') {
            Some(colon) => domain.split_at(colon),
            None => (domain, ""),
        },
    };
    is_port(port) && host.split('.').all(is_domain_component)
}

fn is_ipv6(address: &str) -> bool {
    !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
}

/// `text` is empty, or a colon and digits.
fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    }
}

fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !component.starts_with('-')
        && !component.ends_with('-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_path_component)
}

/// Runs of `[a-z0-9]` parted by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alphanumeric)
        || !bytes.last().copied().is_some_and(alphanumeric)
    {
        return false;
    }
    component
        .split(|letter: char| letter.is_ascii() && alphanumeric(letter as u8))
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
        && word(tag.as_bytes()[0])
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Reference, message)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.domain, self.path);
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference> {
        Reference::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(input: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(input).unwrap();
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
    }

    #[track_caller]
    fn check_refused(input: &str, message: &str) {
        assert_eq!(Reference::parse(input).unwrap_err().to_string(), message, "{input}");
    }

    #[test]
    fn a_bare_name_is_an_official_image_of_docker_hub() {
        check("x", "docker.io/library/x", "x");
        check("x:1.0", "docker.io/library/x:1.0", "x:1.0");
        check("docker.io/x", "docker.io/library/x", "x");
        check("index.docker.io/x", "docker.io/library/x", "x");
        check("library/x", "docker.io/library/x", "x");
        check("me/x", "docker.io/me/x", "me/x");
        check("library/a/b", "docker.io/library/a/b", "library/a/b");
    }

    #[test]
    fn localhost_a_dot_a_port_or_a_capital_makes_a_domain() {
        check("localhost/x", "localhost/x", "localhost/x");
        check("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000");
        check("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t");
        check("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x");
        check("Host/x", "Host/x", "Host/x");
        check("quay.io/x", "quay.io/x", "quay.io/x");
    }

    #[test]
    fn a_familiar_form_that_would_mean_another_registry_is_not_used() {
        check("docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x");
        check("docker.io/a.b/x", "docker.io/a.b/x", "docker.io/a.b/x");
        let hex = "a".repeat(64);
        let full = format!("docker.io/library/{hex}");
        check(&full, &full, &full);
    }

    #[test]
    fn tags_and_digests_are_kept_together() {
        let digest = Digest::of(b"");
        let reference = Reference::parse(&format!("x:1@{digest}")).unwrap();
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest(), Some(&digest));
        assert_eq!(reference.clone().with_default_tag(), reference);
        let untagged = Reference::parse(&format!("x@{digest}")).unwrap();
        assert_eq!(untagged.with_default_tag().tag(), None);
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        check_refused(
            "UPPER",
            "invalid reference format: repository name (library/UPPER) must be lowercase",
        );
        let hex = "0".repeat(64);
        check_refused(
            &hex,
            &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings"),
        );
        for text in [
            "",
            ":",
            "/",
            "a//b",
            "a/",
            "x:",
            "x:-a",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a_.b",
            "日本",
            "x y",
            "a.b:port/x",
            "a.b:/x",
            "-a.b/x",
            "[::1/x",
            "[]/x",
            "a_b.c/x",
            "x:1:2",
        ] {
            check_refused(text, "invalid reference format");
        }
        check_refused(&format!("x:{}", "a".repeat(129)), "invalid reference format");
        assert!(Reference::parse(&format!("x:{}", "a".repeat(128))).is_ok());
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert_eq!(Reference::parse("x@sha256:00").unwrap_err().kind(), ErrorKind::Digest);
    }

    #[test]
    fn a_new_tag_takes_the_place_of_tag_and_digest() {
        let digest = Digest::of(b"");
        let reference = Reference::parse(&format!("x:1@{digest}")).unwrap();
        assert_eq!(reference.clone().with_tag("2").unwrap().familiar(), "x:2");
        assert!(reference.with_tag(".2").is_err());
    }

    fn any_reference() -> impl Strategy<Value = String> {
        let domain = prop_oneof![
            Just(String::new()),
            "(localhost|[a-zA-Z0-9]{1,4}([.][a-z0-9]{1,3}){1,2})(:[0-9]{1,5})?/",
            Just("docker.io/".to_owned()),
            Just("[fe80::1]:80/".to_owned()),
        ];
        let component = "[a-z0-9]{1,4}(([.]|_|__|-{1,3})[a-z0-9]{1,3}){0,2}";
        let path = proptest::collection::vec(component, 1..4).prop_map(|parts| parts.join("/"));
        let tag = prop_oneof![Just(String::new()), ":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"];
        let digest = prop_oneof![Just(String::new()), "@sha256:[0-9a-f]{64}"];
        (domain, path, tag, digest).prop_map(|(d, p, t, g)| format!("{d}{p}{t}{g}"))
    }

    proptest! {
        #[test]
        fn every_sentence_of_the_grammar_parses(text in any_reference()) {
            // The grammar's own exception: a first component that reads as a domain but is none.
            let first = text.split('/').next().unwrap();
            prop_assume!(!text.contains('/') || !looks_like_domain(first) || is_domain(first));
            prop_assert!(Reference::parse(&text).is_ok(), "{}", text);
        }

        #[test]
        fn full_and_familiar_forms_parse_back_to_the_same_reference(text in any_reference()) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn text_of_the_grammars_own_letters_parses_to_itself_or_is_refused(
            text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}
