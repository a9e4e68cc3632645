//! What changes the configuration of a new image: another configuration, and `--change`, lines of a
//! Dockerfile.

mod words;

use crate::error::{Error, Result};
use crate::store::oci::{Healthcheck, RunConfig};
use jiff::SignedDuration;
use words::{expand, words};

/// Applies lines such as `CMD ["sh"]`, `ENV A=b` or `EXPOSE 80` to a configuration, in order.
///
/// The instructions are those docker's commit takes: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD
/// STOPSIGNAL USER VOLUME WORKDIR. Variables are those of the configuration as it is at that line. Errors
/// where a line is another one, or malformed.
pub fn apply_changes(config: &mut RunConfig, lines: &[String]) -> Result<()> {
    let mut has_command = false;
    for line in lines.iter().flat_map(|text| text.lines()).map(str::trim) {
        if !line.is_empty() && !line.starts_with('#') {
            apply(config, line, &mut has_command)?;
        }
    }
    Ok(())
}

/// Lays one configuration over another, as docker's commit does: a variable, a label or a port beside those
/// that are there, anything else in the place of what is there. An entrypoint of its own forgets the
/// command that was for another.
pub fn lay_over(config: &mut RunConfig, upper: &RunConfig) {
    let set = |text: &mut String, upper: &String| {
        if !upper.is_empty() {
            text.clone_from(upper);
        }
    };
    set(&mut config.user, &upper.user);
    set(&mut config.working_dir, &upper.working_dir);
    set(&mut config.stop_signal, &upper.stop_signal);
    config.env = crate::create::merge_env(&config.env, &upper.env);
    if !upper.entrypoint.is_empty() {
        config.entrypoint.clone_from(&upper.entrypoint);
        config.cmd.clone_from(&upper.cmd);
    } else if !upper.cmd.is_empty() {
        config.cmd.clone_from(&upper.cmd);
    }
    config.labels.extend(upper.labels.clone());
    config.exposed_ports.extend(upper.exposed_ports.iter().cloned());
    config.volumes.extend(upper.volumes.iter().cloned());
    config.on_build.extend(upper.on_build.iter().cloned());
    if !upper.shell.is_empty() {
        config.shell.clone_from(&upper.shell);
    }
    if let Some(check) = &upper.healthcheck {
        config.healthcheck = Some(check.clone());
    }
}

fn apply(config: &mut RunConfig, line: &str, has_command: &mut bool) -> Result<()> {
    let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = instruction.to_ascii_uppercase();
    let needs_argument =
        || Error::bad_parameter(format!("{instruction} requires at least one argument: {line:?}"));
    if rest.is_empty() {
        return Err(needs_argument());
    }
    match instruction.as_str() {
        "CMD" => {
            config.cmd = command(config, rest);
            *has_command = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = command(config, rest);
            // What the image below gave its own entrypoint is nothing for this one.
            if !*has_command {
                config.cmd.clear();
            }
        }
        "ENV" => config.env = crate::create::merge_env(&config.env, &pairs(rest, &config.env)?),
        "EXPOSE" => {
            for ports in words(rest, &config.env)? {
                config.exposed_ports.extend(exposed_ports(&ports)?);
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(health_check(rest)?),
        "LABEL" => {
            for pair in pairs(rest, &config.env)? {
                let (key, value) = pair.split_once('=').unwrap_or((&pair, ""));
                config.labels.insert(key.to_owned(), value.to_owned());
            }
        }
        "ONBUILD" => config.on_build.push(trigger(rest)?),
        "STOPSIGNAL" => {
            let signal = expand(rest, &config.env)?;
            crate::signal::parse_signal(&signal)?;
            config.stop_signal = signal;
        }
        "USER" => config.user = expand(rest, &config.env)?,
        "VOLUME" => {
            let paths = match exec_form(rest) {
                Some(paths) => paths,
                None => words(rest, &config.env)?,
            };
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err(Error::bad_parameter("VOLUME specified can not be an empty string"));
            }
            config.volumes.extend(paths);
        }
        "WORKDIR" => config.working_dir = below(&config.working_dir, &expand(rest, &config.env)?),
        other => {
            return Err(Error::bad_parameter(format!("{other} is not a valid change command")));
        }
    }
    Ok(())
}

/// `["a","b"]` as it stands, anything else as a shell's command.
fn command(config: &RunConfig, text: &str) -> Vec<String> {
    exec_form(text).unwrap_or_else(|| {
        let shell = match config.shell.is_empty() {
            true => vec!["/bin/sh".into(), "-c".into()],
            false => config.shell.clone(),
        };
        [shell, vec![text.to_owned()]].concat()
    })
}

fn exec_form(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `A=b "C=d e"` or the old `A b c`.
fn pairs(text: &str, env: &[String]) -> Result<Vec<String>> {
    let words = words(text, env)?;
    match words.split_first() {
        Some((first, _)) if !first.contains('=') => {
            let (name, value) = text.split_once(char::is_whitespace).ok_or_else(|| {
                Error::bad_parameter(format!("{text:?} must have the form NAME=value"))
            })?;
            Ok(vec![format!("{name}={}", expand(value.trim(), env)?)])
        }
        _ => match words.iter().find(|word| !word.contains('=') || word.starts_with('=')) {
            Some(word) => {
                Err(Error::bad_parameter(format!("{word:?} must have the form NAME=value")))
            }
            None => Ok(words),
        },
    }
}

/// `NONE`, or options and `CMD` with a command.
fn health_check(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = || Error::bad_parameter(format!("HEALTHCHECK: invalid --{name}: {value:?}"));
        let time = || {
            let time: SignedDuration = value.parse().map_err(|_| wrong())?;
            let nanos = i64::try_from(time.as_nanos()).map_err(|_| wrong())?;
            // Docker's own limits: nothing, or a millisecond at least.
            if nanos == 0 || nanos >= 1_000_000 { Ok(nanos) } else { Err(wrong()) }
        };
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                let retries = value.parse::<u32>().map_err(|_| wrong())?;
                check.retries = i64::from(retries);
            }
            _ => return Err(Error::bad_parameter(format!("unknown flag: {name}"))),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() && rest == text => vec!["NONE".to_owned()],
        "NONE" => {
            return Err(Error::bad_parameter("HEALTHCHECK NONE takes no arguments"));
        }
        "CMD" if command.is_empty() => {
            return Err(Error::bad_parameter("missing command after HEALTHCHECK CMD"));
        }
        "CMD" => match exec_form(command) {
            Some(argv) => [vec!["CMD".to_owned()], argv].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => {
            return Err(Error::bad_parameter(format!(
                "unknown type {kind:?} in HEALTHCHECK (try CMD)"
            )));
        }
    };
    Ok(check)
}

fn trigger(text: &str) -> Result<String> {
    let instruction = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match instruction.as_str() {
        "ONBUILD" => {
            Err(Error::bad_parameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"))
        }
        "MAINTAINER" | "FROM" => {
            Err(Error::bad_parameter(format!("{instruction} isn't allowed as an ONBUILD trigger")))
        }
        _ => Ok(text.to_owned()),
    }
}

/// `80`, `53/udp`, `8000-8010/tcp`.
fn exposed_ports(text: &str) -> Result<Vec<String>> {
    let wrong = || Error::bad_parameter(format!("invalid containerPort: {text}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first @ 1..), Ok(last))
            if first <= last && ["tcp", "udp", "sctp"].contains(&protocol.as_str()) =>
        {
            Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(wrong()),
    }
}

/// The folder that `path` means in `folder`, without dots.
fn below(folder: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{folder}/{path}"),
    };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> RunConfig {
        let mut config = RunConfig { env: vec!["A=1".into()], ..Default::default() };
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        apply_changes(&mut config, &lines).unwrap();
        config
    }

    #[test]
    fn every_instruction_lands_in_its_field() {
        let config = changed(&[
            r#"CMD ["sh", "-x"]"#,
            "entrypoint echo hi",
            "HEALTHCHECK --interval=1m30s --retries=4 CMD wget -q localhost",
            r#"ENV A=2 B="c d" E=f\ g"#,
            "ENV OLD a b",
            "EXPOSE 80 53/udp",
            "LABEL a.b=c 'd=e f'",
            "USER ann",
            "WORKDIR /srv",
            "WORKDIR sub",
            r#"VOLUME ["/data"]"#,
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
        ]);
        assert_eq!(config.cmd, ["sh", "-x"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.env, ["A=2", "B=c d", "E=f g", "OLD=a b"]);
        assert!(config.exposed_ports.iter().eq(["53/udp", "80/tcp"]));
        assert_eq!(config.labels["d"], "e f");
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("ann", "/srv/sub"));
        assert!(config.volumes.contains("/data"));
        assert_eq!((config.stop_signal.as_str(), config.on_build.len()), ("SIGINT", 1));
        let check = config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "wget -q localhost"]);
        assert_eq!((check.interval, check.retries), (90_000_000_000, 4));
    }

    #[test]
    fn a_configuration_goes_over_another() {
        let read = |text: &str| serde_json::from_str::<RunConfig>(text).unwrap();
        let mut config = read(
            r#"{"User":"ann","Env":["A=1","B=2"],"Entrypoint":["e"],"Cmd":["c"],"Labels":{"x":"1"},
                "ExposedPorts":{"80/tcp":{}}}"#,
        );
        lay_over(&mut config, &RunConfig::default());
        assert_eq!(config.cmd, ["c"]);
        let upper = r#"{"Env":["B=3"],"Cmd":"d","Labels":{"y":"2"},"ExposedPorts":{"53/udp":{}},
            "WorkingDir":"/srv","Volumes":null,"Healthcheck":{"Test":["NONE"],"Timeout":null}}"#;
        lay_over(&mut config, &read(upper));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("ann", "/srv"));
        assert_eq!((config.entrypoint.len(), config.cmd.join(" ")), (1, "d".to_owned()));
        assert_eq!(config.env, ["A=1", "B=3"]);
        assert_eq!((config.labels.len(), config.exposed_ports.len()), (2, 2));
        assert_eq!(config.healthcheck.as_ref().unwrap().test, ["NONE"]);
        lay_over(&mut config, &read(r#"{"Entrypoint":["f"]}"#));
        assert_eq!((config.entrypoint.join(" "), config.cmd.len()), ("f".to_owned(), 0));
    }

    #[test]
    fn variables_are_those_of_the_configuration_at_that_line() {
        let config = changed(&[
            "ENV B=$A-${A}x C='$A' D=\\$A",
            "ENV OLD is $B",
            "WORKDIR /srv/${NONE:-web}/./x/..",
            "USER ${A:+ann}",
            "LABEL at=\"$B\"",
            "EXPOSE ${A}0-12/udp",
        ]);
        assert_eq!(config.env[1..], ["B=1-1x", "C=$A", "D=$A", "OLD=is 1-1x"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/srv/web", "ann"));
        assert_eq!(config.labels["at"], "1-1x");
        assert!(config.exposed_ports.iter().eq(["10/udp", "11/udp", "12/udp"]));
    }

    #[test]
    fn a_new_entrypoint_forgets_the_command_that_was_the_image_s() {
        let below = RunConfig { cmd: vec!["old".into()], ..Default::default() };
        let run = |lines: &[&str]| {
            let mut config = below.clone();
            let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
            apply_changes(&mut config, &lines).unwrap();
            config.cmd
        };
        assert!(run(&[r#"ENTRYPOINT ["e"]"#]).is_empty());
        assert_eq!(run(&[r#"CMD ["new"]"#, r#"ENTRYPOINT ["e"]"#]), ["new"]);
        assert_eq!(run(&["USER ann"]), ["old"]);
    }

    #[test]
    fn a_health_check_can_be_none_or_a_program() {
        let test = |line: &str| changed(&[line]).healthcheck.unwrap().test;
        assert_eq!(test("HEALTHCHECK NONE"), ["NONE"]);
        assert_eq!(test(r#"HEALTHCHECK CMD ["true"]"#), ["CMD", "true"]);
    }

    #[test]
    fn other_lines_are_refused() {
        for bad in [
            "RUN true",
            "ENV",
            "ENV A=b c",
            "EXPOSE 99999",
            "LABEL \"a=b",
            "CMD",
            "HEALTHCHECK",
            "HEALTHCHECK CMD",
            "HEALTHCHECK NONE x",
            "HEALTHCHECK --interval=1 CMD true",
            "HEALTHCHECK --other=1s CMD true",
            "ONBUILD ONBUILD RUN true",
            "ONBUILD FROM x",
            "STOPSIGNAL SIGNOPE",
            "USER ${A",
            "VOLUME [\"\"]",
        ] {
            let lines = [bad.to_owned()];
            assert!(apply_changes(&mut RunConfig::default(), &lines).is_err(), "{bad}");
        }
    }
}
