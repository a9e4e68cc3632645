//! Filling the cache: what `ireko setup` does.

use std::path::Path;
use std::time::Instant;

use crate::base;
use crate::cache::FilledCache;
use crate::error::Result;
use crate::kernel;
use crate::manifest::NotWhole;
use crate::progress::{Part, Step};

/// How to fill the cache.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Makes every part anew from the newest packages, even where it is whole.
    pub refresh: bool,
}

/// What the cache holds after set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Version of the guest kernel, which is also the name of its folder.
    pub kernel: String,
    /// Version of the busybox package that the base image is made from.
    pub base: String,
    /// The parts that were made now; empty when all were there.
    pub made: Vec<Part>,
}

/// Makes what is missing, damaged or outdated in `cache`, telling `progress` each step.
///
/// When all is there it returns at once, asks no network and takes no lock. On return every part
/// is whole and durable; after an error or an interruption each part is as it was or whole.
///
/// # Errors
/// See [`ErrorKind`](crate::ErrorKind); [`Error::hint`](crate::Error::hint) tells the cure.
pub fn setup(cache: &Path, options: &Options, progress: &mut dyn FnMut(Step)) -> Result<Report> {
    if !options.refresh
        && let (Ok(kernel), Ok(base)) = (kernel::find(cache), base::find(cache))
    {
        progress(Step::Present { part: Part::Kernel });
        progress(Step::Present { part: Part::Base });
        return Ok(Report { kernel, base, made: Vec::new() });
    }
    let cache = FilledCache::lock(cache, progress)?;
    let mut filling = Filling { cache: &cache, options, progress, made: Vec::new() };
    let kernel = filling.ensure(Part::Kernel, kernel::find, kernel::make)?;
    let base = filling.ensure(Part::Base, base::find, base::make)?;
    Ok(Report { kernel, base, made: filling.made })
}

struct Filling<'a> {
    cache: &'a FilledCache,
    options: &'a Options,
    progress: &'a mut dyn FnMut(Step),
    made: Vec<Part>,
}

impl Filling<'_> {
    fn ensure(
        &mut self,
        part: Part,
        find: impl FnOnce(&Path) -> std::result::Result<String, NotWhole>,
        make: impl FnOnce(&FilledCache, &mut dyn FnMut(Step)) -> Result<String>,
    ) -> Result<String> {
        // Asked again under the lock: another set-up may have made it in the meantime.
        if !self.options.refresh
            && let Ok(version) = find(self.cache.root())
        {
            (self.progress)(Step::Present { part });
            return Ok(version);
        }
        let begun = Instant::now();
        (self.progress)(Step::Making { part });
        let version = make(self.cache, self.progress)?;
        (self.progress)(Step::Made { part, took: begun.elapsed() });
        self.made.push(part);
        Ok(version)
    }
}
