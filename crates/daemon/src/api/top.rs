//! `GET /containers/{id}/top`: docker top, and the options of ps(1) that make sense inside a container.

use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::Json;
use axum::extract::{Path, State};
use ireko_engine::ProcessInfo;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// The columns of `ps -ef`, docker's own choice, and of `ps aux`.
const FULL: &[&str] = &["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];
const USERS: &[&str] =
    &["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command"];

pub(crate) async fn top(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Json<Value>> {
    let columns = columns(params.get("ps_args").unwrap_or("-ef"))?;
    let processes = app.engine.top(&id).await?;
    let now = Timestamp::now();
    let row = |one: &ProcessInfo| columns.iter().map(|column| column.of(one, now)).collect();
    let rows: Vec<Vec<String>> = processes.iter().map(row).collect();
    let titles: Vec<_> = columns.iter().map(|column| &column.title).collect();
    Ok(Json(json!({ "Titles": titles, "Processes": rows })))
}

/// What is shown of each process.
#[derive(Debug, PartialEq)]
struct Column {
    title: String,
    shown: Shown,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shown {
    User,
    Pid,
    Parent,
    /// Of a CPU, since the process began: whole per cent, or with a decimal.
    Percent {
        decimals: usize,
    },
    /// Of nothing that would be known here: processes share what their machine has.
    Nothing,
    Virtual,
    Resident,
    Terminal,
    State,
    Start,
    /// CPU time: `00:01:02`.
    Time,
    /// CPU time: `1:02`.
    ShortTime,
    Elapsed,
    Program,
    Command,
}

/// By the names of ps(1)'s option `-o`, each with its title.
fn known(name: &str) -> Option<(&'static str, Shown)> {
    Some(match name {
        "user" | "euser" | "uname" => ("USER", Shown::User),
        "uid" | "euid" => ("UID", Shown::User),
        "pid" | "tgid" => ("PID", Shown::Pid),
        "ppid" => ("PPID", Shown::Parent),
        "c" => ("C", Shown::Percent { decimals: 0 }),
        "%cpu" | "pcpu" => ("%CPU", Shown::Percent { decimals: 1 }),
        "%mem" | "pmem" => ("%MEM", Shown::Nothing),
        "vsz" | "vsize" => ("VSZ", Shown::Virtual),
        "rss" | "rssize" | "rsz" => ("RSS", Shown::Resident),
        "tty" | "tt" | "tname" => ("TTY", Shown::Terminal),
        "stat" | "state" | "s" => ("STAT", Shown::State),
        "start" | "start_time" => ("START", Shown::Start),
        "stime" => ("STIME", Shown::Start),
        "time" | "cputime" => ("TIME", Shown::Time),
        "bsdtime" => ("TIME", Shown::ShortTime),
        "etime" => ("ELAPSED", Shown::Elapsed),
        "comm" | "ucmd" | "ucomm" => ("COMMAND", Shown::Program),
        "cmd" => ("CMD", Shown::Command),
        "args" | "command" => ("COMMAND", Shown::Command),
        _ => return None,
    })
}

fn columns(options: &str) -> ApiResult<Vec<Column>> {
    let mut names: Vec<String> = Vec::new();
    let mut preset = FULL;
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').unwrap_or(word);
        let (flags, list) = match letters.split_once('o') {
            Some((flags, "")) => (flags, words.next()),
            Some((flags, list)) => (flags, Some(list)),
            None => (letters, Some("")),
        };
        let is_known = flags.chars().all(|flag| "aefuxwA".contains(flag));
        let Some(list) = list.filter(|_| is_known) else {
            return Err(ApiError::bad_request(format!(
                "ps: {word:?} is not supported: -ef, aux, and -o with columns are"
            )));
        };
        if flags.contains('u') {
            preset = USERS;
        }
        names.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
    }
    if names.is_empty() {
        names = preset.iter().map(|name| (*name).to_owned()).collect();
    }
    let columns = names.iter().map(|name| column(name)).collect::<ApiResult<Vec<_>>>()?;
    match columns.iter().any(|column| column.shown == Shown::Pid) {
        true => Ok(columns),
        false => Err(ApiError::bad_request("Couldn't find PID field in ps output")),
    }
}

/// `pid`, or `pid=TITLE`.
fn column(text: &str) -> ApiResult<Column> {
    let (name, title) = text.split_once('=').map_or((text, None), |(name, own)| (name, Some(own)));
    let (usual, shown) = known(name).ok_or_else(|| {
        ApiError::bad_request(format!("ps: unknown user-defined format specifier {name:?}"))
    })?;
    Ok(Column { title: title.unwrap_or(usual).to_owned(), shown })
}

impl Column {
    fn of(&self, process: &ProcessInfo, now: Timestamp) -> String {
        let seconds = process.cpu_millis / 1000;
        match self.shown {
            // Names are the container's affair; root is root everywhere.
            Shown::User if process.uid == 0 => "root".to_owned(),
            Shown::User => process.uid.to_string(),
            Shown::Pid => process.pid.to_string(),
            Shown::Parent => process.parent.to_string(),
            Shown::Percent { decimals } => {
                let percent = process.cpu_millis as f64 / 10.0 / process.age_seconds.max(1) as f64;
                format!("{percent:.decimals$}")
            }
            Shown::Nothing => "-".to_owned(),
            Shown::Virtual => (process.virtual_bytes / 1024).to_string(),
            Shown::Resident => (process.resident_bytes / 1024).to_string(),
            Shown::Terminal => match process.terminal {
                Some(number) => format!("pts/{number}"),
                None => "?".to_owned(),
            },
            Shown::State => process.state.clone(),
            Shown::Start => started(process.age_seconds, now),
            Shown::Time => clock(seconds),
            Shown::ShortTime => format!("{}:{:02}", seconds / 60, seconds % 60),
            Shown::Elapsed => match process.age_seconds {
                age if age < 3600 => format!("{:02}:{:02}", age / 60, age % 60),
                age => clock(age),
            },
            Shown::Program => process.program.clone(),
            Shown::Command => process.command.clone(),
        }
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `15:04`, or of another day `Jan02`.
fn started(age_seconds: u64, now: Timestamp) -> String {
    let age = SignedDuration::from_secs(i64::try_from(age_seconds).unwrap_or(i64::MAX));
    let began = now.checked_sub(age).unwrap_or(Timestamp::UNIX_EPOCH);
    let [began, now] = [began, now].map(|time| time.to_zoned(TimeZone::system()));
    let form = if began.date() == now.date() { "%H:%M" } else { "%b%d" };
    began.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(options: &str) -> String {
        let columns = columns(options).unwrap();
        columns.iter().map(|column| column.title.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_of_ps_choose_columns() {
        assert_eq!(titles("-ef"), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("aux"), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("-eopid,user"), "PID USER");
        assert_eq!(titles("-o pid -o cmd=WHAT"), "PID WHAT");
        assert_eq!(titles("axo pid,comm"), "PID COMMAND");
        for (wrong, words) in [
            ("-o cmd", "Couldn't find PID field"),
            ("-o pid,sorcery", "specifier \"sorcery\""),
            ("--forest", "not supported"),
            ("-o", "not supported"),
        ] {
            let error = columns(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_process_is_shown_as_ps_shows_it() {
        let process = ProcessInfo {
            pid: 7,
            parent: 1,
            uid: 33,
            cpu_millis: 62_000,
            command: "sh -c x".into(),
            program: "sh".into(),
            age_seconds: 124,
            terminal: Some(0),
            state: "S".into(),
            virtual_bytes: 2048,
            resident_bytes: 1024,
        };
        let shown = |name: &str| column(name).unwrap().of(&process, Timestamp::now());
        let all = ["uid", "c", "pcpu", "time", "bsdtime", "etime", "tty", "vsz", "comm", "cmd"];
        assert_eq!(
            all.map(shown),
            ["33", "50", "50.0", "00:01:02", "1:02", "02:04", "pts/0", "2", "sh", "sh -c x"]
        );
    }
}
