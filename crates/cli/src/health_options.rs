//! `--health-*`: how to tell whether a container is well.

use crate::quantity;
use serde::Serialize;

/// The health check of a new container, on top of its image's.
#[derive(clap::Args, Clone, Debug)]
pub struct HealthOptions {
    /// Command to run to check health
    #[arg(long, value_name = "string")]
    health_cmd: Option<String>,

    /// Time between running the check: ms, s, m or h
    #[arg(long, value_name = "t", value_parser = quantity::nanoseconds)]
    health_interval: Option<i64>,

    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int")]
    health_retries: Option<i64>,

    /// Time between running the check during the start period
    #[arg(long, value_name = "t", value_parser = quantity::nanoseconds)]
    health_start_interval: Option<i64>,

    /// Time in which the container may start up before failures count
    #[arg(long, value_name = "t", value_parser = quantity::nanoseconds)]
    health_start_period: Option<i64>,

    /// Maximum time to allow one check to run
    #[arg(long, value_name = "t", value_parser = quantity::nanoseconds)]
    health_timeout: Option<i64>,

    /// Disable any health check of the image
    #[arg(long, conflicts_with_all = [
        "health_cmd", "health_interval", "health_retries", "health_start_interval",
        "health_start_period", "health_timeout",
    ])]
    no_healthcheck: bool,
}

/// `Healthcheck` of a create request; times are nanoseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<i64>,
}

impl HealthOptions {
    /// What was asked for; `None` where nothing was.
    pub fn healthcheck(&self) -> Option<Healthcheck> {
        let check = Healthcheck {
            test: match (&self.health_cmd, self.no_healthcheck) {
                (_, true) => vec!["NONE".to_owned()],
                (Some(command), false) => vec!["CMD-SHELL".to_owned(), command.clone()],
                (None, false) => Vec::new(),
            },
            interval: self.health_interval,
            timeout: self.health_timeout,
            start_period: self.health_start_period,
            start_interval: self.health_start_interval,
            retries: self.health_retries,
        };
        (check != Healthcheck::default()).then_some(check)
    }
}
