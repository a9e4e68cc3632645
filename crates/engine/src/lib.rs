//! The engine: life cycle of containers, work that needs a guest, recovery.
//!
//! ```text
//!   daemon ─► Engine ─┬─► images (the store)                scratch disks, commits, imports
//!                     └─► shim, one process for each VM     plan.json in, frames, exit.json out
//! ```
//!
//! A container is a folder with a record ([`ContainerRecord`]); a run of it is a shim process. The
//! engine knows neither the hypervisor nor Docker's JSON. It may end and be opened again while VMs
//! run: what it must not forget is on disk before anyone is answered.
//!
//! [`NetworkRecord`] is a network's; it has a switch process while one of its containers runs.
//!
//! Read in this order: what a container is ([`spec`](ContainerSpec), `state`, `container`), one verb
//! a file (`create`, `start`, `attach`, `exec`, `wait`, `stop`, `remove`, `commit`, `import`, …),
//! what happens by itself (`monitor`, `recovery`), and how shims are talked to (`shim_client`,
//! `streams`, `shim_process`).
#![deny(unsafe_code)]

mod blocking;
mod boot;
mod durable;
mod error;
mod names;
mod ready;
mod signal;

mod container;
mod engine;
mod events;
mod spec;
mod state;
mod store;

mod addresses;
mod attach;
mod create;
mod data_disks;
mod diff;
mod exec;
mod files;
mod foreign;
mod growth;
mod health;
mod host_limits;
mod listing;
mod logs;
mod machine;
mod networks;
mod pause;
mod plan;
mod pool;
mod remove;
mod screen;
mod seed;
mod start;
mod stats;
mod stop;
mod suspend;
mod update;
mod wait;

mod base;
mod changes;
mod commit;
mod convert;
mod decompress;
mod definition;
mod export;
mod fold;
mod generalize;
mod guest_work;
mod images;
mod import;
mod import_file;
mod load;
mod merge;
mod prepare;
mod progress;
mod remove_images;
mod save;
mod spool;
mod templates;
mod tree;
mod usage;
mod verify;

mod info;
mod monitor;
mod recovery;

mod shim_client;
mod shim_process;
mod streams;

pub use addresses::{ContainerAddress, of_mac as addresses_of};
pub use attach::AttachOptions;
pub use boot::Sign;
pub use commit::{CommitOptions, CommitReport};
pub use diff::{Change, ChangeKind};
pub use engine::{Engine, Settings};
pub use error::{Error, ErrorKind, Result};
pub use events::{Event, EventStream, Subject};
pub use exec::{ExecInfo, ExecSpec, ExecState};
pub use export::{With, ZipPieces};
pub use files::{Extract, FileStream};
pub use generalize::Generalizer;
pub use health::{CheckResult, Health};
pub use host_limits::VmLimits;
pub use import::{ImportOptions, ImportProgress};
pub use import_file::{FileImported, ImportFile};
pub use ireko_images::{
    Broken, Depth, DiskName, Doomed, DoomedTree, ExportFormat, ExportTo, Exported, Fold, Folded,
    Garbage, ImageUsage, ImageUser, Layers, MergeFiles, Merged, ParentCheck, Relinked, Repaired,
    Sources, Usage, Verified,
};
pub use ireko_protocol::agent::{
    GuestAddress, GuestInterface, ProcessInfo, Traffic, Usage as ProcessUsage,
};
pub use ireko_protocol::files::PathStat;
pub use ireko_protocol::network::{MacAddress, Mode, Protocol, Publish, Published};
pub use ireko_protocol::plan::{LogLimit, MAX_LOG_FILES};
pub use load::{LoadStep, Loaded};
pub use logs::{LogOptions, LogStream, StampedLine};
pub use networks::connect::AddressChange;
pub use networks::reach::{Duplex, PortStream};
pub use networks::state::{EndpointRecord, EndpointSpec, NetworkRecord};
pub use networks::subnet::Subnet;
pub use networks::{DEFAULT as DEFAULT_NETWORK, NetworkSpec};
pub use plan::hostname;
pub use pool::Shape;
pub use progress::{Done, Progress, Watcher, progress};
pub use signal::parse_signal;
pub use spec::{
    ContainerSpec, DEFAULT_MACHINE_MEMORY, DEFAULT_MEMORY, DiskContent, DiskSpec, Dns, ExtraHost,
    LEAST_MEMORY, LEAST_VM_MEMORY, Resources, RestartPolicy, StartChoice, StdioSpec,
};
pub use state::{
    ContainerRecord, DiskRecord, HealthRecord, HealthStatus, LastRun, Origin, ProcessRecord,
    RunState,
};
pub use stats::Sample;
pub use store::{HistoryStep, ImageInfo, Name, Removed, oci};
pub use streams::{InputWriter, Output, OutputReader, OutputStream, Streams};
pub use tree::identity;
pub use update::Changes;
pub use usage::ContainerUsage;
pub use wait::{Ending, WaitFor, Waiting};
