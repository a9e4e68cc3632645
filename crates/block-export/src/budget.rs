//! How many bytes of data one connection's requests may hold.

use parking_lot::{Condvar, Mutex};

/// Bytes that can be lent out.
pub struct Budget {
    left: Mutex<usize>,
    returned: Condvar,
}

/// Bytes lent; given back when dropped.
pub struct Loan<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self { left: Mutex::new(bytes), returned: Condvar::new() }
    }

    /// Waits until `bytes` are left and lends them. No more than the whole budget may be asked for.
    ///
    /// Only one worker asks at a time, and it has nothing lent; those who can give back do so without
    /// waiting for it: every wait ends.
    pub fn lend(&self, bytes: usize) -> Loan<'_> {
        let mut left = self.left.lock();
        while *left < bytes {
            self.returned.wait(&mut left);
        }
        *left -= bytes;
        Loan { budget: self, bytes }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        *self.budget.left.lock() += self.bytes;
        self.budget.returned.notify_all();
    }
}
