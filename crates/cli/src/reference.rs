//! Image names as requests want them: repository and tag apart.

/// Cuts `127.0.0.1:5000/a/b:v1` into `127.0.0.1:5000/a/b` and `v1`. Whether the name is a good
/// one is for the daemon to say.
pub fn repository_and_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && !name.contains('@') => {
            (repository, Some(tag))
        }
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        for (name, parts) in [
            ("web", ("web", None)),
            ("web:v1", ("web", Some("v1"))),
            ("127.0.0.1:5000/a/b", ("127.0.0.1:5000/a/b", None)),
            ("127.0.0.1:5000/a/b:v1", ("127.0.0.1:5000/a/b", Some("v1"))),
            ("web@sha256:00", ("web@sha256:00", None)),
        ] {
            assert_eq!(repository_and_tag(name), parts);
        }
    }
}
