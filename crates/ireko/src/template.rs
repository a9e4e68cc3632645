//! `ireko template`: lists, removes and verifies what is in the cache.

use ireko_cli::template::{self, Verb};
use ireko_vm::template::{Key, Listed, Templates};
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Does what was asked with the templates in this cache.
pub fn main(cache: &Path, verb: &Verb) -> ExitCode {
    let templates = Templates::in_cache(cache);
    let done = match verb {
        Verb::Ls { json } => list(&templates, *json),
        Verb::Prune { keep } => prune(&templates, *keep),
        Verb::Rm { keys } => remove(&templates, keys),
        Verb::Verify { once } => verify(&templates, *once),
    };
    done.unwrap_or_else(|error| {
        let causes = std::iter::successors(Some(&*error), |error| error.source());
        let told: Vec<_> = causes.map(ToString::to_string).collect();
        eprintln!("ireko: {}", told.join(": "));
        ExitCode::FAILURE
    })
}

fn list(templates: &Templates, json: bool) -> Outcome {
    let listed: Vec<_> = templates.list()?.iter().map(shown).collect();
    template::print(&listed, json)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(one: &Listed) -> template::Listed {
    template::Listed {
        key: one.key.to_string(),
        accel: one.accel.clone(),
        memory_mib: one.memory_mib,
        cpus: one.vcpus,
        networks: one.nics,
        created: seconds(one.created),
        used: seconds(one.used),
        bytes: one.bytes,
        in_use: one.in_use,
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn prune(templates: &Templates, keep: u64) -> Outcome {
    for one in templates.prune(keep)? {
        println!("{}", one.key);
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(templates: &Templates, keys: &[String]) -> Outcome {
    let mut exit = ExitCode::SUCCESS;
    for text in keys {
        let known = templates.list()?.into_iter().map(|one| one.key);
        let wanted = Key::parse(text).filter(|key| known.into_iter().any(|one| one == *key));
        let failure = match wanted {
            None => format!("No such template: {text}"),
            Some(key) if templates.remove(&key)? => {
                println!("{key}");
                continue;
            }
            Some(key) => format!("template {key} is used by a virtual machine that runs"),
        };
        eprintln!("ireko: {failure}");
        exit = ExitCode::FAILURE;
    }
    Ok(exit)
}

fn verify(templates: &Templates, once: bool) -> Outcome {
    let wrong = match once {
        true => templates.verify_once_a_boot()?,
        false => templates.verify()?,
    };
    for key in &wrong {
        eprintln!("template {key} was not as it was made, and is removed");
    }
    Ok(ExitCode::SUCCESS)
}
