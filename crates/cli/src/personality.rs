//! Which of its processes the host binary is to be, and running it as a client.

use crate::commands::*;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::{self, Exit};
use crate::grammar::{self, ClientVerb, Globals, ImageVerb, Line, NetworkVerb, Verb};
use crate::output;
use crate::reach::Reach;
use crate::vhd;
use clap::FromArgMatches;
use clap::error::ContextKind;
use ireko_protocol::places::{Environment, Places};
use ireko_protocol::plan::AccelChoice;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the command line makes of this process. Paths are absolute.
pub enum Personality {
    /// A command: talks to the daemon.
    Client(Invocation),
    /// The daemon.
    Daemon(DaemonOptions),
    /// One VM's shim.
    Shim {
        /// The store.
        root: PathBuf,
        /// The file that says what to run.
        plan: PathBuf,
    },
    /// Becomes another program, confined.
    Confine {
        /// An [`ireko_protocol::confine::Confinement`] as JSON.
        plan: String,
    },
    /// One network's switch.
    Switch {
        /// The file that says which network.
        plan: PathBuf,
    },
    /// Prints an [`ireko_protocol::host::HostFacts`].
    Probe {
        /// The machine-wide cache.
        cache: PathBuf,
        /// How guests are to be run.
        accel: AccelChoice,
    },
    /// Works on the cache's templates.
    Template {
        /// The machine-wide cache.
        cache: PathBuf,
        /// What is done.
        verb: template::Verb,
    },
    /// Writes the guest agent out.
    Agent,
    /// Fills the cache.
    Setup {
        /// The machine-wide cache.
        cache: PathBuf,
        /// Make anew what is there already.
        refresh: bool,
    },
}

/// How the daemon is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonOptions {
    /// Root, cache and sockets.
    pub places: Places,
    /// Another socket to listen at.
    pub host: Option<PathBuf>,
    /// How guests are to be run.
    pub accel: AccelChoice,
    /// How many VMs stand by for containers of each shape.
    pub pool: usize,
    /// The host's control group in which each VM gets its own; absolute.
    pub group: Option<PathBuf>,
    /// Started by a command: leave its session, so that the terminal's signals pass by.
    pub background: bool,
}

/// A command and where it is sent.
pub struct Invocation {
    context: Context,
    task: Task,
}

enum Task {
    Verb(ClientVerb),
    Image(ImageVerb),
    Network(NetworkVerb),
    Vhd(vhd::Verb),
    StopDaemon,
}

/// Reads the command line, program name first. Help, and what is wrong with the line, is printed;
/// then the exit status is returned.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
) -> std::result::Result<Personality, ExitCode> {
    let line = grammar::command()
        .try_get_matches_from(words)
        .and_then(|matches| Line::from_arg_matches(&matches));
    let personality = match line {
        Ok(line) => personality(line),
        Err(mut error) => {
            // Advice such as to write `-- --flag`, which would make the flag an image's name.
            error.remove(ContextKind::Suggested);
            show(&error);
            return Err(ExitCode::from(exit::of_grammar(&error).0));
        }
    };
    personality.map_err(|error| {
        output::note(error.report());
        ExitCode::from(exit::status(exit::Verb::Other, &error).0)
    })
}

/// Help and the version go to standard output as clap has them, mistakes to standard error with our
/// own name before them.
fn show(error: &clap::Error) {
    // A closed output leaves nobody to be told.
    let _ = match exit::of_grammar(error) {
        Exit::SUCCESS => output::print(error.render()),
        _ => {
            let text = error.to_string();
            let text = text.trim_end();
            output::note(format_args!("ireko: {}", text.strip_prefix("error: ").unwrap_or(text)));
            Ok(())
        }
    };
}

fn personality(Line { globals, verb }: Line) -> Result<Personality> {
    let Globals { accel, cache, host, root } = globals;
    let (root, cache) = (absolute(root)?, absolute(cache)?);
    let environment = Environment::of_process(rustix::process::geteuid().as_raw());
    let places = Places::new(&environment, root, cache.clone());
    let accel_or_auto = accel.unwrap_or_default();
    let client = |places, task| {
        let reach = Reach { places, host: host.clone(), cache: cache.clone(), accel };
        Personality::Client(Invocation { context: Context { reach }, task })
    };
    Ok(match verb {
        Verb::Client(verb) => client(places, Task::Verb(verb)),
        Verb::Container(verb) => client(places, Task::Verb(verb.into())),
        Verb::Image(verb) => client(places, Task::Image(verb)),
        Verb::Network(verb) => client(places, Task::Network(verb)),
        Verb::Daemon(daemon::Args { verb: Some(daemon::Verb::Stop), .. }) => {
            client(places, Task::StopDaemon)
        }
        Verb::Daemon(daemon::Args { background, pool, cgroup, verb: None }) => {
            let (accel, group) = (accel_or_auto, absolute(cgroup)?);
            Personality::Daemon(DaemonOptions { places, host, accel, pool, group, background })
        }
        Verb::Agent(agent::Args {}) => Personality::Agent,
        Verb::Vhd(verb) => client(places, Task::Vhd(verb)),
        Verb::Setup(setup::Args { refresh }) => Personality::Setup { cache: places.cache, refresh },
        Verb::Template(verb) => Personality::Template { cache: places.cache, verb },
        Verb::Shim { plan } => Personality::Shim { root: places.root, plan },
        Verb::Confine { plan } => Personality::Confine { plan },
        Verb::Switch { plan } => Personality::Switch { plan },
        Verb::Probe => Personality::Probe { cache: places.cache, accel: accel_or_auto },
    })
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|error| {
            Error::usage(format!("not a folder: {}", path.display())).because(error)
        })
    };
    path.map(absolute).transpose()
}

impl Invocation {
    /// Does it, tells what failed, and returns the exit status.
    pub fn run(self) -> ExitCode {
        let scope = match self.task {
            Task::Verb(ClientVerb::Run(_)) => exit::Verb::Run,
            _ => exit::Verb::Other,
        };
        let Exit(status) = self.execute().unwrap_or_else(|error| {
            if !matches!(error.kind(), ErrorKind::AlreadyTold | ErrorKind::OutputClosed) {
                output::note(error.report());
            }
            exit::status(scope, &error)
        });
        ExitCode::from(status)
    }

    fn execute(self) -> Result<Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::local("start").because(error))?;
        let result = runtime.block_on(async {
            match self.task {
                Task::Verb(verb) => dispatch(&self.context, verb).await,
                Task::Image(verb) => dispatch_image(&self.context, verb).await,
                Task::Network(verb) => dispatch_network(&self.context, verb).await,
                Task::Vhd(verb) => vhd::execute(verb).await,
                Task::StopDaemon => daemon::stop(&self.context).await,
            }
        });
        // A read of standard input may still be blocked; the process ends without it.
        runtime.shutdown_background();
        result
    }
}

async fn dispatch(context: &Context, verb: ClientVerb) -> Result<Exit> {
    match verb {
        ClientVerb::Attach(args) => attach::execute(context, &args).await,
        ClientVerb::Commit(args) => commit::execute(context, &args).await,
        ClientVerb::Completions(args) => completions::execute(grammar::command(), &args),
        ClientVerb::Connect(args) => connect::execute(context, &args).await,
        ClientVerb::Console(args) => console::execute(context, &args).await,
        ClientVerb::Cp(args) => cp::execute(context, &args).await,
        ClientVerb::Create(args) => create::execute(context, &args).await,
        ClientVerb::Desktop(args) => desktop::execute(context, &args).await,
        ClientVerb::Df(args) => df::execute(context, &args).await,
        ClientVerb::Diff(args) => diff::execute(context, &args).await,
        ClientVerb::Doctor(args) => doctor::execute(context, &args).await,
        ClientVerb::Exec(args) => exec::execute(context, &args).await,
        ClientVerb::Export(args) => container_export::execute(context, &args).await,
        ClientVerb::Gc(args) => gc::execute(context, &args).await,
        ClientVerb::History(args) => history::execute(context, &args).await,
        ClientVerb::Images(args) => images::execute(context, &args).await,
        ClientVerb::Import(args) => import::execute(context, &args).await,
        ClientVerb::Load(args) => load::execute(context, &args).await,
        ClientVerb::Info(args) => info::execute(context, &args).await,
        ClientVerb::Inspect(args) => inspect::execute(context, &args).await,
        ClientVerb::Ip(args) => ip::execute(context, &args).await,
        ClientVerb::Kill(args) => kill::execute(context, &args).await,
        ClientVerb::Logs(args) => logs::execute(context, &args).await,
        ClientVerb::Pause(args) => pause::execute(context, &args).await,
        ClientVerb::Port(args) => port::execute(context, &args).await,
        ClientVerb::Ps(args) => ps::execute(context, &args).await,
        ClientVerb::Rename(args) => rename::execute(context, &args).await,
        ClientVerb::Restart(args) => restart::execute(context, &args).await,
        ClientVerb::Rm(args) => rm::execute(context, &args).await,
        ClientVerb::Rmi(args) => rmi::execute(context, &args).await,
        ClientVerb::Root(args) => root::execute(context, &args),
        ClientVerb::Run(args) => run::execute(context, &args).await,
        ClientVerb::Save(args) => save::execute(context, &args).await,
        ClientVerb::Screenshot(args) => screenshot::execute(context, &args).await,
        ClientVerb::SendKeys(args) => send_keys::execute(context, &args).await,
        ClientVerb::Ssh(args) => ssh::execute(context, &args).await,
        ClientVerb::Start(args) => start::execute(context, &args).await,
        ClientVerb::Stats(args) => stats::execute(context, &args).await,
        ClientVerb::Stop(args) => stop::execute(context, &args).await,
        ClientVerb::Suspend(args) => suspend::execute(context, &args).await,
        ClientVerb::Tag(args) => tag::execute(context, &args).await,
        ClientVerb::Top(args) => top::execute(context, &args).await,
        ClientVerb::Tree(args) => tree::execute(context, &args).await,
        ClientVerb::Unpause(args) => unpause::execute(context, &args).await,
        ClientVerb::Update(args) => update::execute(context, &args).await,
        ClientVerb::Version(args) => version::execute(context, &args).await,
        ClientVerb::Wait(args) => wait::execute(context, &args).await,
        ClientVerb::Warm(args) => warm::execute(context, &args).await,
    }
}

async fn dispatch_image(context: &Context, verb: ImageVerb) -> Result<Exit> {
    match verb {
        ImageVerb::History(args) => history::execute(context, &args).await,
        ImageVerb::Import(args) => import::execute(context, &args).await,
        ImageVerb::Load(args) => load::execute(context, &args).await,
        ImageVerb::Inspect(args) => inspect::execute(context, &args.of_images()).await,
        ImageVerb::Ls(args) => images::execute(context, &args).await,
        ImageVerb::Export(args) => export::execute(context, &args).await,
        ImageVerb::Generalize(args) => generalize::execute(context, &args).await,
        ImageVerb::Merge(args) => merge::execute(context, &args).await,
        ImageVerb::Prepare(args) => prepare::execute(context, &args).await,
        ImageVerb::Repair(args) => repair::execute(context, &args).await,
        ImageVerb::Rm(args) => image_rm::execute(context, &args).await,
        ImageVerb::Rename(args) => image_rename::execute(context, &args).await,
        ImageVerb::Save(args) => save::execute(context, &args).await,
        ImageVerb::Tag(args) => tag::execute(context, &args).await,
        ImageVerb::Verify(args) => verify::execute(context, &args).await,
    }
}

async fn dispatch_network(context: &Context, verb: NetworkVerb) -> Result<Exit> {
    match verb {
        NetworkVerb::Connect(args) => network_connect::execute(context, &args).await,
        NetworkVerb::Create(args) => network_create::execute(context, &args).await,
        NetworkVerb::Disconnect(args) => network_disconnect::execute(context, &args).await,
        NetworkVerb::Inspect(args) => network_inspect::execute(context, &args).await,
        NetworkVerb::Ls(args) => network_ls::execute(context, &args).await,
        NetworkVerb::Prune(args) => network_prune::execute(context, &args).await,
        NetworkVerb::Rm(args) => network_rm::execute(context, &args).await,
    }
}
