//! Image configurations: the JSON document whose sha256 is the image's id.
//!
//! The bytes are kept as they came and never written anew, because the id is their digest; the
//! [`ConfigDocument`] is a typed view of them. A new image's document is filled in first and turned
//! into bytes once, by [`ImageConfig::write`].
//!
//! Source: OCI image spec, "Image Configuration".

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::machine::MachineConfig;
use crate::run_config::{RunConfig, nullable};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest configuration that is read.
pub const MAX_CONFIG_BYTES: usize = 8 << 20;

/// An image configuration: its bytes, and what they say. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageConfig(Arc<Parsed>);

#[derive(Debug, PartialEq)]
struct Parsed {
    text: String,
    digest: Digest,
    document: ConfigDocument,
}

/// What an image configuration says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigDocument {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What its maker said about it (docker's field).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The processor, in Go's words: `amd64`.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// The processor's variant: `v8`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The operating system, in Go's words: `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// The operating system's version.
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// What the image needs of the operating system.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// What a container of it runs.
    #[serde(default, deserialize_with = "nullable")]
    pub config: RunConfig,
    /// Its layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    /// How it came about, oldest first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// For a whole operating system's disk: what boots it. Ours; nobody else knows the field.
    #[serde(rename = "ireko.machine", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineConfig>,
    /// For a whole operating system's disk: nothing is left on it by which one system is told from
    /// its copies. Ours as well.
    #[serde(rename = "ireko.generalized", default, skip_serializing_if = "std::ops::Not::not")]
    pub generalized: bool,
    /// Every other field, as it came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers", deserialize_with = "layers_if_null")]
    pub kind: String,
    /// The digests of the layers' uncompressed tars, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By which command.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// What was said about it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration, at most [`MAX_CONFIG_BYTES`] long.
    ///
    /// Fields may be missing, unknown, or `null`; wrong types are [`ErrorKind::Config`].
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<ImageConfig> {
        let bytes = bytes.into();
        if bytes.len() > MAX_CONFIG_BYTES {
            return Err(invalid(format!(
                "{} bytes long, {MAX_CONFIG_BYTES} at most expected",
                bytes.len()
            )));
        }
        let text = String::from_utf8(bytes).map_err(invalid)?;
        let document = serde_json::from_str(&text).map_err(invalid)?;
        Ok(ImageConfig(Arc::new(Parsed { digest: Digest::of(text.as_bytes()), text, document })))
    }

    /// Writes a new configuration. Equal documents give equal bytes.
    pub fn write(document: &ConfigDocument) -> Result<ImageConfig> {
        ImageConfig::parse(serde_json::to_vec(document).map_err(invalid)?)
    }

    /// Returns the text whose sha256 is the image's id.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Returns the text's digest: docker's image id.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Returns what the configuration says.
    pub fn document(&self) -> &ConfigDocument {
        &self.0.document
    }
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: layers(), diff_ids: Vec::new() }
    }
}

fn layers() -> String {
    "layers".to_owned()
}

fn layers_if_null<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(layers))
}

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("invalid image configuration: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As docker's classic builder wrote it, nulls included.
    const DOCKER: &str = r#"{"architecture":"amd64","config":{"Hostname":"","Domainname":"",
        "User":"app","AttachStdin":false,"ExposedPorts":{"80/tcp":{}},"Tty":false,
        "Env":["PATH=/bin"],"Cmd":["sh","-c","x"],"Image":"sha256:1","Volumes":{"/data":{}},
        "WorkingDir":"/srv","Entrypoint":null,"OnBuild":null,"Labels":null,
        "StopSignal":"SIGINT","Shell":["/bin/bash","-c"],
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000,"Retries":3}},
        "container":"c","docker_version":"20.10","created":"2021-03-05T23:32:23.122132147Z",
        "history":[{"created":"2021-03-05T23:32:22Z","created_by":"ADD"},
                   {"created_by":"CMD","empty_layer":true,"comment":null}],
        "os":"linux","rootfs":{"type":"layers","diff_ids":[
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

    #[test]
    fn the_bytes_are_kept_as_they_came_and_their_digest_is_the_id() {
        let config = ImageConfig::parse(DOCKER).unwrap();
        assert_eq!(config.text(), DOCKER);
        assert_eq!(config.digest(), Digest::of(DOCKER.as_bytes()));
    }

    #[test]
    fn dockers_own_fields_are_read() {
        let config = ImageConfig::parse(DOCKER).unwrap();
        let document = config.document();
        assert_eq!(document.created.unwrap().subsec_nanosecond(), 122132147);
        assert_eq!(document.history.len(), 2);
        assert!(document.history[1].empty_layer);
        assert_eq!(document.rootfs.diff_ids, [Digest::of(b"")]);
        let run = &document.config;
        assert_eq!(run.user, "app");
        assert_eq!(run.cmd, ["sh", "-c", "x"]);
        assert!(run.entrypoint.is_empty() && run.labels.is_empty() && run.on_build.is_empty());
        assert!(run.exposed_ports.contains("80/tcp") && run.volumes.contains("/data"));
        assert_eq!(run.stop_signal, "SIGINT");
        assert_eq!(run.healthcheck.as_ref().unwrap().interval, 30_000_000_000);
        assert_eq!(run.extra["AttachStdin"], false);
        assert_eq!(document.extra["docker_version"], "20.10");
    }

    #[test]
    fn nothing_and_null_mean_empty() {
        for text in [
            "{}",
            r#"{"config":null,"rootfs":null,"history":null,"created":null,"os":null}"#,
            r#"{"rootfs":{"type":null,"diff_ids":null},"config":{"Env":null,"Volumes":null,
                "Cmd":null,"User":null,"Healthcheck":null,"ExposedPorts":null}}"#,
        ] {
            let config = ImageConfig::parse(text).unwrap();
            assert_eq!(config.document(), &ConfigDocument::default(), "{text}");
        }
    }

    #[test]
    fn a_command_may_be_one_string() {
        let config = ImageConfig::parse(r#"{"config":{"Cmd":"sh","Entrypoint":"e"}}"#).unwrap();
        assert_eq!(config.document().config.cmd, ["sh"]);
        assert_eq!(config.document().config.entrypoint, ["e"]);
    }

    #[test]
    fn a_document_survives_being_written() {
        let config = ImageConfig::parse(DOCKER).unwrap();
        let written = ImageConfig::write(config.document()).unwrap();
        assert_eq!(written.document(), config.document());
        assert_eq!(ImageConfig::write(written.document()).unwrap().text(), written.text());
    }

    #[test]
    fn the_written_form_is_the_documented_one() {
        let mut document = ConfigDocument {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..ConfigDocument::default()
        };
        document.config.cmd = vec!["sh".into()];
        document.config.volumes = ["/data".into()].into();
        document.rootfs.diff_ids = vec![Digest::of(b"")];
        document.history = vec![HistoryEntry {
            created: Some("2026-01-02T03:04:05.000000006Z".parse().unwrap()),
            created_by: "import".into(),
            ..HistoryEntry::default()
        }];
        assert_eq!(
            ImageConfig::write(&document).unwrap().text(),
            concat!(
                r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Volumes":{"/data":{}}},"#,
                r#""rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"#,
                r#""history":[{"created":"2026-01-02T03:04:05.000000006Z","created_by":"import"}]}"#
            )
        );
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let long = " ".repeat(MAX_CONFIG_BYTES + 1);
        let deep = "[".repeat(100_000);
        for text in
            ["", "[]", "1", r#"{"config":[]}"#, r#"{"os":1}"#, r#"{"created":"x"}"#, &long, &deep]
        {
            assert_eq!(ImageConfig::parse(text).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(ImageConfig::parse(vec![b'{', 0xff, b'}']).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageConfig::parse(bytes);
        }
    }
}
