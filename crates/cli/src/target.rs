//! Paths and queries of requests.

use std::fmt::Write;

/// The API version these commands are written against.
const API: &str = "/v1.50";

/// Where a request goes; every piece from outside is percent-encoded.
#[derive(Clone, Debug)]
pub struct Target(String);

impl Target {
    /// A path of the Docker Engine API: `docker(["containers", id, "json"])`.
    pub fn docker<const N: usize>(segments: [&str; N]) -> Self {
        Self::under(API, &segments)
    }

    /// A path of Ireko's own API, below `/ireko`.
    pub fn ireko<const N: usize>(segments: [&str; N]) -> Self {
        Self::under("/ireko", &segments)
    }

    fn under(prefix: &str, segments: &[&str]) -> Self {
        let mut text = prefix.to_owned();
        for segment in segments {
            text.push('/');
            // Image names keep their slashes: `/images/127.0.0.1:5000/a/b/json`.
            encode(&mut text, segment, b"/:@");
        }
        Self(text)
    }

    /// Adds a query parameter.
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        encode(&mut self.0, name, b"");
        self.0.push('=');
        encode(&mut self.0, value.as_ref(), b"");
        self
    }

    /// Adds a query parameter where there is a value for it.
    pub fn with_some(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds `name=1` where `flag` is set.
    pub fn with_flag(self, name: &str, flag: bool) -> Self {
        self.with_some(name, flag.then_some("1"))
    }

    /// Adds filters given as `key=value`; none of them, no parameter.
    pub fn with_filters(self, filters: &[Filter]) -> Self {
        if filters.is_empty() {
            return self;
        }
        let mut by_key = serde_json::Map::new();
        for Filter { key, value } in filters {
            let values = by_key.entry(key.clone()).or_insert_with(|| serde_json::json!([]));
            if let Some(values) = values.as_array_mut() {
                values.push(value.clone().into());
            }
        }
        self.with("filters", serde_json::Value::Object(by_key).to_string())
    }

    /// The path and query as they are sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One `--filter key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    key: String,
    value: String,
}

impl Filter {
    /// A filter made by a command itself.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned() }
    }
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self::new(&key.trim().to_lowercase(), value.trim()))
            }
            _ => Err("a filter is written key=value".into()),
        }
    }
}

fn encode(into: &mut String, text: &str, kept: &[u8]) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(byte.into());
            }
            byte if kept.contains(&byte) => into.push(byte.into()),
            byte => write!(into, "%{byte:02X}").expect("a String takes everything"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_typed_cannot_leave_its_place() {
        let target = Target::docker(["containers", "a b?x#y%", "json"]).with("size", "1&x=2");
        assert_eq!(target.as_str(), "/v1.50/containers/a%20b%3Fx%23y%25/json?size=1%26x%3D2");
    }

    #[test]
    fn image_names_keep_their_slashes() {
        let target = Target::docker(["images", "127.0.0.1:5000/a/b:v1", "json"]);
        assert_eq!(target.as_str(), "/v1.50/images/127.0.0.1:5000/a/b:v1/json");
    }

    #[test]
    fn filters_of_one_key_are_collected() {
        let filters: Vec<Filter> =
            ["label=a=b", "Label=c", "name=web"].map(|text| text.parse().unwrap()).into();
        let target = Target::ireko(["x"]).with_filters(&filters);
        assert_eq!(
            target.as_str(),
            "/ireko/x?filters=%7B%22label%22%3A%5B%22a%3Db%22%2C%22c%22%5D%2C%22name%22%3A%5B%22web%22%5D%7D"
        );
        assert!("label".parse::<Filter>().is_err());
    }
}
