//! Keys and names that imports under way are going to take, so that two of them never race for one.

use crate::error::{Error, Result};
use crate::id::LayerGuid;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What is taken by verbs of this process that have not landed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeSet<Wanted>>>);

/// What a verb wants to have alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// A layer's key.
    Key(LayerGuid),
    /// An image's name, in the form in which names are compared.
    Name(String),
}

/// Something that is claimed until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    wanted: Wanted,
}

impl Claims {
    /// Claims it; fails with [`crate::ErrorKind::Conflict`] while another verb has it.
    pub(crate) fn take(&self, wanted: Wanted) -> Result<Claim> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.clone());
        match (free, &wanted) {
            (true, _) => Ok(Claim { claims: self.clone(), wanted }),
            (false, Wanted::Key(guid)) => Err(Error::conflict(format!(
                "a file with the GUID {guid} is being imported already"
            ))),
            (false, Wanted::Name(name)) => {
                Err(Error::conflict(format!("an image called {name} is being imported already")))
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_claimed_is_free_again_when_the_claim_is_dropped() {
        let claims = Claims::default();
        let wanted = Wanted::Name("web".into());
        let claim = claims.take(wanted.clone()).unwrap();
        assert_eq!(claims.take(wanted.clone()).unwrap_err().kind(), ErrorKind::Conflict);
        claims.take(Wanted::Name("api".into())).unwrap();
        drop(claim);
        claims.take(wanted).unwrap();
    }
}
