//! The command line: what may be said, and how help shows it.

use crate::commands::*;
use crate::vhd;
use clap::{Arg, Args as _, Command, CommandFactory, Parser, Subcommand};
use ireko_protocol::plan::AccelChoice;
use std::fmt::Write;
use std::path::PathBuf;

/// A whole command line.
#[derive(Parser, Clone, Debug)]
#[command(name = "ireko", bin_name = "ireko", version, about = ABOUT, max_term_width = 100)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Line {
    #[command(flatten)]
    pub globals: Globals,

    #[command(subcommand)]
    pub verb: Verb,
}

const ABOUT: &str = "Containers that are virtual machines, images that are trees of disks";

/// Said before or after the verb.
#[derive(clap::Args, Clone, Debug)]
pub struct Globals {
    /// How guests' CPUs are run: auto, kvm or tcg
    #[arg(long, global = true, value_name = "choice")]
    pub accel: Option<AccelChoice>,

    /// Folder of guest kernel and base image ($IREKO_CACHE; else /var/cache/ireko, ~/.cache/ireko)
    #[arg(long, global = true, value_name = "dir")]
    pub cache: Option<PathBuf>,

    /// Daemon socket: unix:///path; commands connect to it, the daemon listens there too
    #[arg(short = 'H', long, global = true, value_name = "socket", value_parser = unix_socket)]
    pub host: Option<PathBuf>,

    /// Folder of images and containers ($IREKO_ROOT; else /var/lib/ireko, ~/.local/share/ireko)
    #[arg(long, global = true, value_name = "dir")]
    pub root: Option<PathBuf>,
}

/// What is to be done.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    #[command(flatten)]
    Client(ClientVerb),

    /// Manage containers
    #[command(subcommand)]
    Container(ContainerVerb),
    Agent(agent::Args),
    Daemon(daemon::Args),
    /// Manage images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkVerb),
    Setup(setup::Args),
    /// Manage the saved virtual machines that containers start from
    #[command(subcommand)]
    Template(template::Verb),
    /// Work on disk files: VHDX, VHD and raw, without the daemon
    #[command(subcommand)]
    Vhd(vhd::Verb),

    /// One virtual machine, from plan to exit
    #[command(hide = true)]
    Shim {
        /// What to run
        #[arg(long)]
        plan: PathBuf,
    },
    /// Run a program that sees the files it is given and nothing else
    #[command(hide = true)]
    Confine {
        /// What to run and what it may see, as JSON
        plan: String,
    },
    /// One virtual network: its switch and gateway
    #[command(hide = true)]
    Switch {
        /// Which network
        #[arg(long)]
        plan: PathBuf,
    },
    /// Print what this machine offers to virtual machines, as JSON
    #[command(hide = true)]
    Probe,
}

/// What is done by asking the daemon, or without any other process.
#[derive(Subcommand, Clone, Debug)]
pub enum ClientVerb {
    Attach(attach::Args),
    Commit(commit::Args),
    Completions(completions::Args),
    Connect(connect::Args),
    Console(console::Args),
    Cp(cp::Args),
    Create(Box<create::Args>),
    Desktop(desktop::Args),
    Df(df::Args),
    Diff(diff::Args),
    Doctor(doctor::Args),
    Exec(exec::Args),
    Export(container_export::Args),
    Gc(gc::Args),
    History(history::Args),
    Images(images::Args),
    Import(import::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Ip(ip::Args),
    Kill(kill::Args),
    Load(load::Args),
    Logs(logs::Args),
    Pause(pause::Args),
    Port(port::Args),
    Ps(ps::Args),
    Rename(rename::Args),
    Restart(restart::Args),
    Rm(rm::Args),
    Rmi(rmi::Args),
    Root(root::Args),
    Run(Box<run::Args>),
    Save(save::Args),
    Screenshot(screenshot::Args),
    SendKeys(send_keys::Args),
    Ssh(ssh::Args),
    Start(start::Args),
    Stats(stats::Args),
    Stop(stop::Args),
    Suspend(suspend::Args),
    Tag(tag::Args),
    Top(top::Args),
    Tree(tree::Args),
    Unpause(unpause::Args),
    Update(update::Args),
    Version(version::Args),
    Wait(wait::Args),
    Warm(warm::Args),
}

/// `ireko container …`: the short verbs by their noun.
#[derive(Subcommand, Clone, Debug)]
pub enum ContainerVerb {
    Attach(attach::Args),
    Commit(commit::Args),
    Console(console::Args),
    Cp(cp::Args),
    Create(Box<create::Args>),
    Diff(diff::Args),
    Exec(exec::Args),
    Export(container_export::Args),
    Inspect(inspect::Args),
    Kill(kill::Args),
    Logs(logs::Args),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Args),
    Pause(pause::Args),
    Rename(rename::Args),
    Restart(restart::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Run(Box<run::Args>),
    Start(start::Args),
    Stats(stats::Args),
    Stop(stop::Args),
    Suspend(suspend::Args),
    Top(top::Args),
    Unpause(unpause::Args),
    Update(update::Args),
    Wait(wait::Args),
}

/// `ireko image …`.
#[derive(Subcommand, Clone, Debug)]
pub enum ImageVerb {
    Export(export::Args),
    Generalize(generalize::Args),
    History(history::Args),
    Import(import::Args),
    Inspect(inspect::Args),
    Load(load::Args),
    #[command(visible_alias = "list")]
    Ls(images::Args),
    Merge(merge::Args),
    Prepare(prepare::Args),
    Rename(image_rename::Args),
    Repair(repair::Args),
    #[command(visible_alias = "remove")]
    Rm(image_rm::Args),
    Save(save::Args),
    Tag(tag::Args),
    Verify(verify::Args),
}

/// `ireko network …`.
#[derive(Subcommand, Clone, Debug)]
pub enum NetworkVerb {
    Connect(network_connect::Args),
    Create(Box<network_create::Args>),
    Disconnect(network_disconnect::Args),
    Inspect(network_inspect::Args),
    #[command(visible_alias = "list")]
    Ls(network_ls::Args),
    Prune(network_prune::Args),
    #[command(visible_alias = "remove")]
    Rm(network_rm::Args),
}

impl From<ContainerVerb> for ClientVerb {
    fn from(verb: ContainerVerb) -> Self {
        match verb {
            ContainerVerb::Attach(args) => Self::Attach(args),
            ContainerVerb::Commit(args) => Self::Commit(args),
            ContainerVerb::Console(args) => Self::Console(args),
            ContainerVerb::Cp(args) => Self::Cp(args),
            ContainerVerb::Create(args) => Self::Create(args),
            ContainerVerb::Diff(args) => Self::Diff(args),
            ContainerVerb::Exec(args) => Self::Exec(args),
            ContainerVerb::Export(args) => Self::Export(args),
            ContainerVerb::Inspect(args) => Self::Inspect(args.of_containers()),
            ContainerVerb::Kill(args) => Self::Kill(args),
            ContainerVerb::Logs(args) => Self::Logs(args),
            ContainerVerb::Ls(args) => Self::Ps(args),
            ContainerVerb::Pause(args) => Self::Pause(args),
            ContainerVerb::Rename(args) => Self::Rename(args),
            ContainerVerb::Restart(args) => Self::Restart(args),
            ContainerVerb::Rm(args) => Self::Rm(args),
            ContainerVerb::Run(args) => Self::Run(args),
            ContainerVerb::Start(args) => Self::Start(args),
            ContainerVerb::Stats(args) => Self::Stats(args),
            ContainerVerb::Stop(args) => Self::Stop(args),
            ContainerVerb::Suspend(args) => Self::Suspend(args),
            ContainerVerb::Top(args) => Self::Top(args),
            ContainerVerb::Unpause(args) => Self::Unpause(args),
            ContainerVerb::Update(args) => Self::Update(args),
            ContainerVerb::Wait(args) => Self::Wait(args),
        }
    }
}

/// How the list of verbs is cut, top to bottom; what is in none of these is a plain command.
const GROUPS: [(&str, &[&str]); 2] = [
    (
        "Common Commands",
        &[
            "run", "exec", "ps", "images", "tree", "commit", "import", "version", "info", "doctor",
            "setup",
        ],
    ),
    ("Management Commands", &["container", "daemon", "image", "network", "template", "vhd"]),
];

/// The grammar as clap wants it, with docker's looks.
pub fn command() -> Command {
    let command = Line::command();
    let listing = listing(&command);
    let template = format!(
        "{{usage-heading}}  {{usage}}\n\n{{about}}\n\n{listing}\nGlobal Options:\n{{options}}\n\n\
         Run 'ireko COMMAND --help' for more information on a command.\n"
    );
    like_docker(command, &hidden_globals())
        .override_usage("ireko [OPTIONS] COMMAND")
        .help_template(template)
}

fn listing(command: &Command) -> String {
    let named: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
    let mut rest: Vec<&str> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && !named.contains(&verb.get_name()))
        .map(Command::get_name)
        .collect();
    rest.sort_unstable();
    let mut text = String::new();
    for (title, names) in GROUPS.into_iter().chain([("Commands", &rest[..])]) {
        let _ = writeln!(text, "{title}:");
        for name in names {
            let verb = command.find_subcommand(name);
            let about = verb.and_then(Command::get_about).map(ToString::to_string);
            let _ = writeln!(text, "  {name:<11} {}", about.unwrap_or_default());
        }
        text.push('\n');
    }
    text.pop();
    text
}

/// Usage first, then what it does, then options; global options are shown at the top only.
fn like_docker(command: Command, globals: &[Arg]) -> Command {
    const TEMPLATE: &str = "{usage-heading}  {usage}\n\n{about}\n\n{all-args}";
    command.mut_subcommands(|verb| like_docker(verb.args(globals), globals).help_template(TEMPLATE))
}

/// They take the place of the global options of the same names, so that they still may follow a verb.
fn hidden_globals() -> Vec<Arg> {
    let globals = Globals::augment_args(Command::new("globals"));
    globals.get_arguments().map(|arg| arg.clone().hide(true)).collect()
}

fn unix_socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err("only unix sockets are spoken to: unix:///path/to/ireko.sock".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Line, clap::Error> {
        let words = line.split_whitespace();
        let matches = command().try_get_matches_from(words)?;
        Line::from_arg_matches(&matches)
    }

    #[track_caller]
    fn check_help(line: &str, golden: &str) {
        let error = command()
            .term_width(100)
            .try_get_matches_from(line.split_whitespace())
            .expect_err("help is shown");
        assert_eq!(error.kind(), ErrorKind::DisplayHelp);
        let shown = error.to_string();
        assert_eq!(shown, golden, "\n{shown}");
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_reads_as_agreed() {
        check_help("ireko --help", include_str!("golden/help.txt"));
        check_help("ireko run --help", include_str!("golden/help-run.txt"));
        check_help("ireko exec --help", include_str!("golden/help-exec.txt"));
        check_help("ireko image --help", include_str!("golden/help-image.txt"));
        check_help("ireko vhd --help", include_str!("golden/help-vhd.txt"));
    }

    #[test]
    fn every_verb_says_what_it_does() {
        fn check(command: &Command) {
            for verb in command.get_subcommands() {
                assert!(verb.get_about().is_some(), "{}", verb.get_name());
                check(verb);
            }
        }
        check(&command());
        for (_, names) in GROUPS {
            for name in names {
                assert!(command().find_subcommand(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn global_options_may_stand_before_and_after_the_verb() {
        for line in [
            "ireko --root /r --cache /c -H unix:///s --accel tcg ps",
            "ireko ps --root /r --cache /c --host unix:///s --accel tcg",
            "ireko --root /x container ls --root /r --cache /c -H unix:///s --accel tcg",
            "ireko daemon --root /r --cache /c -H unix:///s --accel tcg",
        ] {
            let globals = parse(line).unwrap().globals;
            assert_eq!(globals.root.as_deref(), Some("/r".as_ref()), "{line}");
            assert_eq!(globals.cache.as_deref(), Some("/c".as_ref()), "{line}");
            assert_eq!(globals.host.as_deref(), Some("/s".as_ref()), "{line}");
            assert_eq!(globals.accel, Some(AccelChoice::Tcg), "{line}");
        }
        assert!(parse("ireko -H tcp://1.2.3.4:2375 ps").is_err());
        assert!(parse("ireko -H unix://relative ps").is_err());
    }

    #[test]
    fn after_the_image_or_the_container_everything_is_the_commands() {
        for line in [
            "ireko run base --root /x -H y --help",
            "ireko exec web ls --root /x --help",
            "ireko create base -it --rm",
            "ireko top web -o pid --help",
        ] {
            let line = parse(line).unwrap();
            assert_eq!(line.globals.root, None);
        }
        assert!(parse("ireko exec web").is_err());
        assert!(parse("ireko run").is_err());
    }

    #[test]
    fn a_host_name_takes_the_short_h_of_run() {
        let Verb::Client(ClientVerb::Run(_)) = parse("ireko run -h web base").unwrap().verb else {
            panic!("not a run");
        };
    }

    #[test]
    fn nouns_mean_the_same_as_the_short_verbs() {
        let Verb::Image(verb) = parse("ireko image ls -q").unwrap().verb else { panic!() };
        assert!(matches!(verb, ImageVerb::Ls(_)));
        let Verb::Container(verb) = parse("ireko container ps -aq").unwrap().verb else { panic!() };
        assert!(matches!(verb.into(), ClientVerb::Ps(_)));
    }
}
