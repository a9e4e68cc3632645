//! The parts of the daemon's answers that are shown. Fields docker may leave out have defaults.

use serde::{Deserialize, Deserializer};

/// A line of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerSummary {
    pub id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    pub command: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: i64,
    #[serde(default)]
    pub status: String,
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<Port>,
}

/// A port of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Port {
    #[serde(default, rename = "IP")]
    pub ip: String,
    pub private_port: u16,
    pub public_port: Option<u16>,
    #[serde(default)]
    pub r#type: String,
}

/// What `GET /containers/{id}/json` says about its process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    pub id: String,
    pub state: State,
    pub config: ContainerConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    #[serde(default)]
    pub running: bool,
    #[serde(default)]
    pub paused: bool,
    #[serde(default)]
    pub restarting: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    #[serde(default)]
    pub tty: bool,
    #[serde(default)]
    pub open_stdin: bool,
}

/// A line of `GET /images/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSummary {
    pub id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
    pub ireko: OwnSummary,
}

/// What docker's list has no field for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OwnSummary {
    /// The names that were asked for, as they were given.
    pub names: Vec<String>,
}

/// A line of `GET /images/{name}/history`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryLine {
    pub id: String,
    #[serde(default)]
    pub created: i64,
    #[serde(default)]
    pub created_by: String,
    #[serde(default)]
    pub size: i64,
    #[serde(default)]
    pub comment: String,
}

/// `POST /containers/create`, `POST /commit`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub warnings: Vec<String>,
}

/// `POST /containers/{id}/exec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WithId {
    pub id: String,
}

/// `null` for a list is docker's normal way to say there is nothing in it.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// The first twelve digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_lists_are_empty() {
        let json = r#"{"Id":"sha256:0123456789abcdef","RepoTags":null,"Ireko":{"Names":[]}}"#;
        let image: ImageSummary = serde_json::from_str(json).unwrap();
        assert!(image.repo_tags.is_empty());
        assert_eq!(short_id(&image.id), "0123456789ab");
        assert_eq!(short_id("<missing>"), "<missing>");
    }
}
