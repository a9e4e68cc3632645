//! `ireko setup`: shows what set-up does.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ireko_setup::{Error, Options, Step};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(120);

/// Fills `cache`; what is done goes to standard error, one line for each part.
pub fn main(cache: &Path, refresh: bool) -> ExitCode {
    let display = Display::new();
    let done = ireko_setup::setup(cache, &Options { refresh }, &mut |step| display.show(&step));
    display.finish();
    match done {
        Ok(report) => {
            eprintln!("guest kernel {}, base image {}", report.kernel, report.base);
            eprintln!("the cache {} has all that containers need", cache.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

fn tell(error: &Error) {
    eprintln!("ireko: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}

/// On a terminal the present step turns over in place; elsewhere each is a line.
struct Display(Option<ProgressBar>);

impl Display {
    fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            spinner.set_style(style);
            spinner.enable_steady_tick(TICK);
            spinner
        }))
    }

    fn show(&self, step: &Step) {
        match (&self.0, step) {
            (None, step) => eprintln!("{step}"),
            (Some(spinner), Step::Present { .. } | Step::Made { .. }) => {
                spinner.suspend(|| eprintln!("{step}"));
            }
            (Some(spinner), step) => spinner.set_message(step.to_string()),
        }
    }

    fn finish(&self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}
