//! The commands, one file each: its options as clap reads them, and what it does.

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Exit;
use crate::output;
use crate::reach::Reach;
use std::future::Future;

pub mod agent;
pub mod attach;
pub mod commit;
pub mod completions;
pub mod connect;
pub mod console;
pub mod container_export;
pub mod cp;
pub mod create;
pub mod daemon;
pub mod desktop;
pub mod df;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod gc;
pub mod generalize;
pub mod history;
pub mod image_rename;
pub mod image_rm;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod ip;
pub mod kill;
pub mod load;
pub mod logs;
pub mod merge;
pub mod network_connect;
pub mod network_create;
pub mod network_disconnect;
pub mod network_inspect;
pub mod network_ls;
pub mod network_prune;
pub mod network_rm;
pub mod pause;
pub mod port;
pub mod prepare;
pub mod ps;
pub mod rename;
pub mod repair;
pub mod restart;
pub mod rm;
pub mod rmi;
pub mod root;
pub mod run;
pub mod save;
pub mod screenshot;
pub mod send_keys;
pub mod setup;
pub mod ssh;
pub mod start;
pub mod stats;
pub mod stop;
pub mod suspend;
pub mod tag;
pub mod template;
pub mod top;
pub mod tree;
pub mod unpause;
pub mod update;
pub mod verify;
pub mod version;
pub mod wait;
pub mod warm;

/// What every command may use.
pub struct Context {
    /// How the daemon is reached.
    pub reach: Reach,
}

impl Context {
    /// A daemon that answers; started if need be.
    pub async fn connect(&self) -> Result<Client> {
        self.reach.connect().await
    }
}

/// Does `work` with each object in turn and prints what it returns; one that fails is told at
/// once and does not keep the others from being done.
async fn each<F, W>(context: &Context, objects: &[String], work: W) -> Result<Exit>
where
    F: Future<Output = Result<String>>,
    W: Fn(Client, String) -> F,
{
    let client = context.connect().await?;
    let mut failed = false;
    for object in objects {
        match work(client.clone(), object.clone()).await {
            Ok(text) => output::line(text)?,
            Err(error) if error.kind() == ErrorKind::OutputClosed => return Err(error),
            Err(error) => {
                output::note(error.report());
                failed = true;
            }
        }
    }
    if failed { Err(Error::new(ErrorKind::AlreadyTold, "some failed")) } else { Ok(Exit::SUCCESS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use crate::testkit::Fake;
    use ireko_protocol::places::Places;

    #[tokio::test]
    async fn one_that_fails_does_not_keep_the_others_from_being_done() {
        let fake = Fake::start(|request| match request.uri().path().contains("/bad/") {
            true => Fake::json(404, r#"{"message":"No such container: bad"}"#),
            false => Fake::json(204, ""),
        });
        let places = Places { root: "/r".into(), cache: "/c".into(), runtime: "/run/r".into() };
        let host = Some(fake.client().socket().to_owned());
        let context = Context { reach: Reach { places, host, cache: None, accel: None } };
        let objects = ["bad".to_owned(), "good".to_owned()];
        let done = std::sync::Mutex::new(Vec::new());
        let result = each(&context, &objects, |client, name| {
            let done = &done;
            async move {
                client.tell(&Target::docker(["containers", &name, "pause"])).await?;
                done.lock().unwrap().push(name.clone());
                Ok(name)
            }
        })
        .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::AlreadyTold);
        assert_eq!(done.into_inner().unwrap(), ["good"]);
    }
}
