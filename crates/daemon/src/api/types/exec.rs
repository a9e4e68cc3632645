//! The bodies of exec requests.

use serde::Deserialize;

/// `POST /containers/{id}/exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecCreate {
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) tty: Option<bool>,
    pub(crate) attach_stdin: Option<bool>,
    pub(crate) attach_stdout: Option<bool>,
    pub(crate) attach_stderr: Option<bool>,
    pub(crate) privileged: Option<bool>,
    // docker-py writes it so; Go takes fields in any case.
    #[serde(alias = "detachKeys")]
    pub(crate) detach_keys: Option<String>,
}

/// `POST /exec/{id}/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecStart {
    pub(crate) detach: Option<bool>,
    pub(crate) tty: Option<bool>,
    pub(crate) console_size: Option<(u16, u16)>,
}
