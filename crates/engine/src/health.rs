//! Health checks: a command that is run in a container now and then, and what it says.
//!
//! ```text
//!   start ─► starting ──success──► healthy ◄──success── unhealthy
//!                └──────── failures in a row ───────────────►┘
//! ```
//!
//! Failures while a container starts up do not count for as long as its start period. The status is
//! on disk, so that a new daemon goes on where the former one ended; what the last checks said is kept
//! in memory. A container that ended is unhealthy, as docker has it.

use crate::blocking::lock;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exec::{ExecSpec, ExecState};
use crate::state::{ContainerRecord, HealthRecord, HealthStatus, RunState};
use crate::store::oci::{Healthcheck, RunConfig};
use crate::streams::Streams;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Docker's times and number where none are given.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// The shortest time that is accepted, in nanoseconds.
const LEAST: i64 = 1_000_000;
/// So many checks are remembered, and so many bytes of what one wrote.
const KEPT: usize = 5;
const MOST_OUTPUT: usize = 4096;
/// The exit code of a check that did not come to an end of its own.
const NO_END: i32 = -1;
/// What a check in shell form is given to where the image names no shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What one check said.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 is well; -1 where it could not be run or took too long.
    pub exit_code: i32,
    /// What it wrote, the beginning of it.
    pub output: String,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// In a word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<CheckResult>,
}

/// What is remembered of a container's checks.
#[derive(Debug, Default)]
pub(crate) struct HealthLog {
    failing_streak: u32,
    checks: VecDeque<CheckResult>,
}

impl HealthLog {
    /// Takes a result in; returns the new status.
    fn take(
        &mut self,
        result: CheckResult,
        status: HealthStatus,
        age: Duration,
        times: &Times,
    ) -> HealthStatus {
        let is_well = result.exit_code == 0;
        if self.checks.len() == KEPT {
            self.checks.pop_front();
        }
        self.checks.push_back(result);
        if is_well {
            self.failing_streak = 0;
            return HealthStatus::Healthy;
        }
        if status != HealthStatus::Starting || age >= times.start_period {
            self.failing_streak += 1;
        }
        match self.failing_streak >= times.retries {
            true => HealthStatus::Unhealthy,
            false => status,
        }
    }
}

/// When checks are made, and what their failure means.
#[derive(Clone, Debug, PartialEq)]
struct Times {
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Times {
    fn of(check: &Healthcheck) -> Self {
        let or = |nanos: i64, default| match u64::try_from(nanos) {
            Ok(1..) => Duration::from_nanos(nanos.unsigned_abs()),
            _ => default,
        };
        let retries = if check.retries > 0 { check.retries } else { RETRIES };
        Self {
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
        }
    }

    /// How long the next check is waited for.
    fn pause(&self, status: HealthStatus, age: Duration) -> Duration {
        match status == HealthStatus::Starting && age < self.start_period {
            true => self.start_interval,
            false => self.interval,
        }
    }
}

/// What a container's own wishes and its image's make together; `None` is no check.
pub(crate) fn resolve(
    given: Option<&Healthcheck>,
    image: &RunConfig,
) -> Result<Option<HealthRecord>> {
    let (given, images) = (given.cloned().unwrap_or_default(), image.healthcheck.clone());
    let images = images.unwrap_or_default();
    let or = |own: i64, images: i64| if own == 0 { images } else { own };
    let check = Healthcheck {
        test: if given.test.is_empty() { images.test } else { given.test },
        interval: or(given.interval, images.interval),
        timeout: or(given.timeout, images.timeout),
        start_period: or(given.start_period, images.start_period),
        start_interval: or(given.start_interval, images.start_interval),
        retries: or(given.retries, images.retries),
    };
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    if let Some((name, _)) = times.iter().find(|(_, time)| *time != 0 && *time < LEAST) {
        return Err(Error::bad_parameter(format!(
            "{name} in Healthcheck cannot be less than one millisecond"
        )));
    }
    if check.retries < 0 {
        return Err(Error::bad_parameter("Retries in Healthcheck cannot be negative"));
    }
    let shell = match image.shell.as_slice() {
        [] => SHELL.map(str::to_owned).to_vec(),
        shell => shell.to_vec(),
    };
    match check.test.first().map(String::as_str) {
        None | Some("NONE") => Ok(None),
        Some("CMD" | "CMD-SHELL") if check.test.len() > 1 => {
            Ok(Some(HealthRecord { check, shell, status: HealthStatus::Starting }))
        }
        Some("CMD" | "CMD-SHELL") => Err(Error::bad_parameter("the health check names no command")),
        Some(other) => Err(Error::bad_parameter(format!(
            "Unknown healthcheck type '{other}' (expected 'CMD')"
        ))),
    }
}

fn argv(health: &HealthRecord) -> Vec<String> {
    match health.check.test.split_first() {
        Some((kind, words)) if kind == "CMD-SHELL" => {
            health.shell.iter().chain(words.first()).cloned().collect()
        }
        Some((_, words)) => words.to_vec(),
        None => Vec::new(),
    }
}

impl Engine {
    /// How a container is; `None` where it has no health check.
    pub fn health(&self, record: &ContainerRecord) -> Option<Health> {
        let status = record.health.as_ref()?.status;
        let container = self.find(&record.id).ok()?;
        let log = lock(&container.health);
        let (failing_streak, log) = (log.failing_streak, log.checks.iter().cloned().collect());
        Some(Health { status, failing_streak, log })
    }

    /// Checks a container for as long as its VM is this one.
    pub(crate) fn keep_health(&self, container: &Arc<Container>, vm: &str) {
        let Some(health) = container.record().health.clone() else { return };
        let (engine, container, vm) = (self.clone(), Arc::clone(container), vm.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = container.is_rid_of(&vm) => {}
                () = engine.check_again_and_again(&container, &health, &vm) => {}
            }
        });
    }

    async fn check_again_and_again(
        &self,
        container: &Arc<Container>,
        health: &HealthRecord,
        vm: &str,
    ) {
        let (times, argv) = (Times::of(&health.check), argv(health));
        loop {
            let now = Timestamp::now();
            let Some((status, age)) = now_of(&container.record(), now) else { return };
            sleep(times.pause(status, age)).await;
            if container.record().is_paused() {
                continue;
            }
            let start = Timestamp::now();
            let (exit_code, output) = self
                .check(container, argv.clone(), times.timeout)
                .await
                .unwrap_or_else(|error| (NO_END, error.chain()));
            let result = CheckResult { start, end: Timestamp::now(), exit_code, output };
            let Some((status, age)) = now_of(&container.record(), start) else { return };
            let next = lock(&container.health).take(result, status, age, &times);
            if next != status {
                self.set_health(container, vm, next).await;
            }
        }
    }

    async fn set_health(&self, container: &Arc<Container>, vm: &str, status: HealthStatus) {
        let vm = vm.to_owned();
        let saved = container
            .update_regardless(move |record| {
                let is_same_run = record.vm() == Some(&vm);
                if let Some(health) = record.health.as_mut().filter(|_| is_same_run) {
                    health.status = status;
                }
            })
            .await;
        if let Err(error) = saved {
            tracing::error!(error = error.chain(), "a container's health could not be recorded");
        }
        self.emit(&container.record(), &format!("health_status: {}", status.word()), &[]);
    }

    /// Runs one check; its exit code and what it wrote.
    async fn check(
        &self,
        container: &Container,
        argv: Vec<String>,
        limit: Duration,
    ) -> Result<(i32, String)> {
        let spec = ExecSpec { argv, stdout: true, stderr: true, ..ExecSpec::default() };
        let id = self.exec_create(&container.id, spec)?;
        let outcome = match self.exec_claim(&id) {
            Ok(_) => timeout(limit, self.output_of(&id)).await,
            Err(error) => Ok(Err(error)),
        };
        let result = match outcome {
            Ok(Ok(output)) => match self.exec_inspect(&id)?.state {
                ExecState::Ended { exit_code } => Ok((exit_code, output)),
                _ => Err(Error::internal("the check's end was not told")),
            },
            Ok(Err(error)) => Err(error),
            Err(_) => {
                if let Err(error) = self.exec_kill(&id).await {
                    tracing::debug!(error = error.chain(), "a check that is late runs on");
                }
                Ok((NO_END, format!("Health check exceeded timeout ({limit:?})")))
            }
        };
        self.execs.forget_one(&id);
        result
    }

    async fn output_of(&self, exec: &str) -> Result<String> {
        let Streams { input, mut output } = self.exec_run(exec, (0, 0)).await?;
        drop(input);
        let (mut written, mut is_cut) = (Vec::new(), false);
        while let Some(piece) = output.next().await {
            let room = MOST_OUTPUT - written.len();
            is_cut |= piece.bytes.len() > room;
            written.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
        }
        let mut text = String::from_utf8_lossy(&written).into_owned();
        if is_cut {
            text.push_str("...");
        }
        Ok(text)
    }
}

/// A running container's status and how long it has run.
fn now_of(record: &ContainerRecord, now: Timestamp) -> Option<(HealthStatus, Duration)> {
    let RunState::Running { started_at, .. } = &record.state else { return None };
    let age = Duration::try_from(now.duration_since(*started_at)).unwrap_or_default();
    Some((record.health.as_ref()?.status, age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthStatus::{Healthy, Starting, Unhealthy};

    fn image(test: &[&str]) -> RunConfig {
        let test = test.iter().map(|word| (*word).to_owned()).collect();
        let healthcheck = Healthcheck { test, interval: 7 * LEAST, ..Healthcheck::default() };
        RunConfig { healthcheck: Some(healthcheck), ..RunConfig::default() }
    }

    fn given(test: &[&str]) -> Healthcheck {
        Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            ..Healthcheck::default()
        }
    }

    #[test]
    fn a_containers_check_is_its_own_with_the_images_beneath() {
        let image = image(&["CMD-SHELL", "wget -q localhost"]);
        let resolved = |given: Option<&Healthcheck>| resolve(given, &image).unwrap();
        let record = resolved(None).unwrap();
        assert_eq!(argv(&record), ["/bin/sh", "-c", "wget -q localhost"]);
        let own = Healthcheck { retries: 9, ..given(&["CMD", "true", "-x"]) };
        let record = resolved(Some(&own)).unwrap();
        assert_eq!(argv(&record), ["true", "-x"]);
        assert_eq!((record.check.interval, record.check.retries), (7 * LEAST, 9));
        assert!(resolved(Some(&given(&["NONE"]))).is_none());
        assert!(resolve(None, &RunConfig::default()).unwrap().is_none());
    }

    #[test]
    fn what_is_no_check_is_refused_in_dockers_words() {
        let none = RunConfig::default();
        let refused = |check: Healthcheck| resolve(Some(&check), &none).unwrap_err().to_string();
        assert!(refused(given(&["SHELL", "x"])).contains("expected 'CMD'"));
        assert!(refused(given(&["CMD"])).contains("names no command"));
        let short = Healthcheck { timeout: 1, ..given(&["CMD", "x"]) };
        assert!(refused(short).contains("Timeout in Healthcheck cannot be less"));
        let fewer = Healthcheck { retries: -1, ..given(&["CMD", "x"]) };
        assert!(refused(fewer).contains("cannot be negative"));
    }

    #[test]
    fn failures_count_after_the_start_period_and_one_success_mends_them() {
        let check = Healthcheck { retries: 2, start_period: 10 * LEAST, ..given(&["CMD", "x"]) };
        let times = Times::of(&check);
        let (early, late) = (Duration::from_millis(9), Duration::from_millis(10));
        assert_eq!(times.pause(Starting, early), START_INTERVAL);
        assert_eq!(times.pause(Starting, late), INTERVAL);
        assert_eq!(times.pause(Healthy, early), INTERVAL);
        let mut log = HealthLog::default();
        let mut take = |exit_code, status, age| {
            let now = Timestamp::UNIX_EPOCH;
            let result = CheckResult { start: now, end: now, exit_code, output: String::new() };
            log.take(result, status, age, &times)
        };
        assert_eq!(take(1, Starting, early), Starting);
        assert_eq!(take(1, Starting, early), Starting);
        assert_eq!(take(1, Starting, late), Starting);
        assert_eq!(take(1, Starting, late), Unhealthy);
        assert_eq!(take(0, Unhealthy, late), Healthy);
        assert_eq!(take(1, Healthy, late), Healthy);
        assert_eq!(take(NO_END, Healthy, late), Unhealthy);
        assert_eq!((log.checks.len(), log.failing_streak), (KEPT, 2));
    }
}
