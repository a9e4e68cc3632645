//! The seam at which tests stop the store: before each change it makes to its folders.
//!
//! In the product both functions are empty.

use std::io;

/// Stands before a change that needs space on the file system.
pub(crate) fn allocating() -> io::Result<()> {
    #[cfg(test)]
    test::reached(true)?;
    Ok(())
}

/// Stands before a change that needs none.
pub(crate) fn change() -> io::Result<()> {
    #[cfg(test)]
    test::reached(false)?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod test {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan::None) };
    }

    #[derive(Clone, Copy)]
    enum Plan {
        None,
        Abort { steps_left: u32 },
        Fill { writes_left: u32 },
    }

    /// Ends this process before the `n`th step from now, counted from 0, as `kill -9` would.
    pub(crate) fn abort_at(n: u32) {
        PLAN.set(Plan::Abort { steps_left: n });
    }

    /// Runs `work` with a file system that is full from its `n`th write on, counted from 0.
    pub(crate) fn full_from<T>(n: u32, work: impl FnOnce() -> T) -> T {
        PLAN.set(Plan::Fill { writes_left: n });
        let result = work();
        PLAN.set(Plan::None);
        result
    }

    pub(super) fn reached(allocating: bool) -> io::Result<()> {
        match PLAN.get() {
            Plan::None => Ok(()),
            Plan::Abort { steps_left: 0 } => std::process::abort(),
            Plan::Abort { steps_left } => {
                PLAN.set(Plan::Abort { steps_left: steps_left - 1 });
                Ok(())
            }
            Plan::Fill { writes_left: 0 } if allocating => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            Plan::Fill { writes_left } => {
                let used = u32::from(allocating);
                PLAN.set(Plan::Fill { writes_left: writes_left - used });
                Ok(())
            }
        }
    }
}
