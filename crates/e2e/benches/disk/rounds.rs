//! Figures of several rounds.

use std::time::Instant;

/// Which side has its turn when: every round begins with the next one.
pub fn turns(round: usize, sides: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |turn| (round + turn) % sides)
}

/// Seconds that something took.
pub fn time(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// What one side did in each round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// The lowest and the highest figure, to tell how far to trust the median.
    pub fn spread(&self) -> (f64, f64) {
        (self.0[0], self.0[self.0.len() - 1])
    }

    /// Prints the figures, times `scale`, and whatever is to be said of them.
    pub fn print(&self, what: &str, scale: f64, unit: &str, remark: &str) {
        let (lowest, highest) = self.spread();
        let [median, lowest, highest] = [self.median(), lowest, highest].map(|it| it * scale);
        let spread = format!("({} to {})", short(lowest), short(highest));
        let line = format!("   {what:<50} {:>8} {unit:<7} {spread:<20} {remark}", short(median));
        println!("{}", line.trim_end());
    }
}

/// Three digits or more, never fewer.
fn short(figure: f64) -> String {
    match figure {
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}
