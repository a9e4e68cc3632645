//! From a container's record to the plan its shim works by.

use crate::container::Container;
use crate::create::merge_env;
use crate::engine::{Engine, Settings};
use crate::error::Result;
use crate::networks::wiring::Wire;
use crate::spec::ContainerSpec;
use crate::state::ContainerRecord;
use ireko_images::Held;
use ireko_protocol::agent::{self, Configure, DiskSerial, GuestFile, ProcessId, Spawn};
use ireko_protocol::bounds::{Bounds, Shares, Sysctl};
use ireko_protocol::plan::{PlanDisk, VERSION, VmPlan, Work};
use std::fmt::Write;
use std::path::PathBuf;

/// The PATH of a process whose image names none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A terminal's size (rows, columns) until a client tells it.
const DEFAULT_TERMINAL: (u16, u16) = (24, 80);

impl Engine {
    /// The plan for the next run of a container, in a VM of this id, and what keeps its disks' files as
    /// they are until the VM has them open. Reads the store.
    pub(crate) fn plan_run(
        &self,
        container: &Container,
        vm: &str,
        wires: &[Wire],
    ) -> Result<(VmPlan, Vec<Held>)> {
        let record = container.record();
        let (chain, held) = self.store.hold_chain(&container.scratch())?;
        let mut held = vec![held];
        let log = record.spec.keep_log.then(|| container.log());
        let work = match record.process.is_machine() {
            true => self.machine_work(container, &record, log, wires)?,
            false => Work::Container { process: Box::new(first_process(&record)), log },
        };
        let mut plan =
            plan(&self.settings, (&record, wires), vm, chain, container.folder.clone(), work);
        plan.group = self.limits.group(vm);
        for disk in container.data_disks()? {
            let serial = DiskSerial(disk.name.to_string());
            plan.configure.disks.push(serial.clone());
            let (chain, also_held) = self.store.hold_chain(&disk.path)?;
            held.push(also_held);
            plan.disks.push(PlanDisk { serial, chain });
        }
        Ok((plan, held))
    }
}

fn plan(
    settings: &Settings,
    (record, wires): (&ContainerRecord, &[Wire]),
    vm: &str,
    chain: Vec<PathBuf>,
    state_dir: PathBuf,
    work: Work,
) -> VmPlan {
    let spec = &record.spec;
    let (memory_mib, memory_max) = match work {
        Work::Machine { .. } => (spec.resources.machine_memory(), None),
        Work::Container { .. }
        | Work::ApplyTar { .. }
        | Work::Generalize
        | Work::Prepare
        | Work::Files
        | Work::Spare { .. } => spec.resources.vm_memory(),
    };
    let (vcpus, cpu_millis) = spec.resources.vm_cpus();
    VmPlan {
        version: VERSION,
        vm: vm.to_owned(),
        chain,
        disks: Vec::new(),
        runtime_dir: settings.places.vm_dir(vm),
        state_dir,
        cache: settings.places.cache.clone(),
        memory_mib,
        vcpus,
        nics: wires.iter().map(|wire| wire.nic.clone()).collect(),
        group: None,
        accel: settings.accel,
        start: spec.start,
        configure: Configure {
            files: files(record, wires),
            interfaces: wires.iter().map(|wire| wire.interface.clone()).collect(),
            tmpfs: spec.tmpfs.clone().into_iter().collect(),
            read_only: spec.read_only,
            shares: Shares { memory_max, cpu_millis, pids_max: spec.resources.pids_max },
            bounds: bounds(spec),
            ..bare_guest(hostname(record))
        },
        work,
        disposable: spec.auto_remove,
        log_limit: spec.log_limit,
    }
}

fn bounds(spec: &ContainerSpec) -> Bounds {
    let mut bounds = spec.bounds.clone();
    if let Some(domain) = &spec.domain_name {
        bounds.sysctls.push((Sysctl::domain_name(), domain.clone()));
    }
    bounds
}

/// A guest with a root disk and nothing else. The shim fills in seed and clock.
pub(crate) fn bare_guest(hostname: String) -> Configure {
    Configure {
        version: agent::VERSION,
        seed: Vec::new(),
        unix_nanos: 0,
        hostname,
        root: DiskSerial::root(),
        system: false,
        root_bytes: None,
        disks: Vec::new(),
        read_only: false,
        files: Vec::new(),
        tmpfs: Vec::new(),
        interfaces: Vec::new(),
        shares: Shares::default(),
        bounds: Bounds::default(),
    }
}

/// The host name a container has.
pub fn hostname(record: &ContainerRecord) -> String {
    match &record.spec.hostname {
        Some(name) if !name.is_empty() => name.clone(),
        _ => record.id[..12].to_owned(),
    }
}

/// The variables every process of a container gets: docker's own, then the container's.
pub(crate) fn environment(record: &ContainerRecord, tty: bool) -> Vec<String> {
    let mut own = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", hostname(record))];
    if tty {
        own.push("TERM=xterm".to_owned());
    }
    merge_env(&own, &record.process.env)
}

/// A terminal's first size, where there is a terminal.
pub(crate) fn terminal(tty: bool, size: (u16, u16)) -> Option<(u16, u16)> {
    tty.then_some(if size.0 == 0 || size.1 == 0 { DEFAULT_TERMINAL } else { size })
}

fn first_process(record: &ContainerRecord) -> Spawn {
    let ContainerSpec { stdio, init, .. } = &record.spec;
    Spawn {
        process: ProcessId::INIT,
        argv: record.process.argv(),
        env: environment(record, stdio.tty),
        cwd: record.process.working_dir.clone(),
        user: record.process.user.clone(),
        tty: terminal(stdio.tty, stdio.console_size),
        stdin: stdio.open_stdin,
        init: *init,
        // A container's own privileges are in its bounds.
        privileged: false,
    }
}

/// The files that tell a guest its names and addresses.
pub(crate) fn files(record: &ContainerRecord, wires: &[Wire]) -> Vec<GuestFile> {
    let file = |path: &str, content| GuestFile { path: path.to_owned(), content };
    vec![
        file("/etc/hostname", format!("{}\n", hostname(record))),
        file("/etc/hosts", hosts(record, wires)),
        file("/etc/resolv.conf", resolv_conf(&record.spec, wires, host_servers)),
    ]
}

fn hosts(record: &ContainerRecord, wires: &[Wire]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    ff00::0\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    for host in &record.spec.extra_hosts {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\t{}", host.address, host.name);
    }
    if let Some(gateway) = wires.iter().find_map(|wire| wire.gateway) {
        for name in &record.spec.gateway_hosts {
            let _ = writeln!(text, "{gateway}\t{name}");
        }
    }
    let name = hostname(record);
    let names = match &record.spec.domain_name {
        Some(domain) => format!("{name}.{domain} {name}"),
        None => name,
    };
    for wire in wires {
        let _ = writeln!(text, "{}\t{names}", wire.interface.address);
    }
    if wires.is_empty() {
        // Without a network the container's name is an address of the loopback interface.
        let _ = writeln!(text, "127.0.1.1\t{names}");
    }
    text
}

/// Whom the host asks for names, as far as others can ask them too.
fn host_servers() -> Vec<String> {
    // The second is systemd-resolved's own list, where the first names it alone.
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
        .iter()
        .map(|file| outside_servers(&std::fs::read_to_string(file).unwrap_or_default()))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

fn outside_servers(text: &str) -> Vec<String> {
    let server = |line: &str| {
        let address: std::net::IpAddr =
            line.trim().strip_prefix("nameserver")?.trim().parse().ok()?;
        (!address.is_loopback()).then(|| address.to_string())
    };
    text.lines().filter_map(server).collect()
}

/// The name servers are the container's own, unless one of its networks has names of its own: then a
/// gateway is asked, which knows whom else to ask, that of the network that leads outside if it is
/// ours. Where no gateway is ours, the host's are asked.
fn resolv_conf(
    spec: &ContainerSpec,
    wires: &[Wire],
    of_host: impl FnOnce() -> Vec<String>,
) -> String {
    let mut text = String::new();
    let own: Vec<_> = spec.dns.servers.iter().map(ToString::to_string).collect();
    let asks_gateway = own.is_empty() || wires.iter().any(|wire| wire.has_names);
    let mut gateways: Vec<_> = wires.iter().filter(|wire| wire.gateway.is_some()).collect();
    gateways.sort_by_key(|wire| wire.interface.default_route.is_none());
    let gateway = gateways.first().filter(|_| asks_gateway).and_then(|wire| wire.gateway);
    let servers = match gateway {
        Some(gateway) => vec![gateway.to_string()],
        None if own.is_empty() && !wires.is_empty() => of_host(),
        None => own,
    };
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !spec.dns.search.is_empty() {
        let _ = writeln!(text, "search {}", spec.dns.search.join(" "));
    }
    if !spec.dns.options.is_empty() {
        let _ = writeln!(text, "options {}", spec.dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Dns, ExtraHost, Resources};
    use crate::state::tests::sample;
    use ireko_protocol::places::{Environment, Places};

    fn settings() -> Settings {
        Settings {
            places: Places::new(&Environment::default(), Some("/r".into()), Some("/c".into())),
            accel: Default::default(),
            pool: 0,
            group: None,
            executable: "/ireko".into(),
        }
    }

    #[test]
    fn a_plan_says_all_that_a_shim_needs() {
        let mut record = sample();
        record.spec.resources =
            Resources { memory: Some(64 << 20), cpu_millis: Some(1500), pids_max: Some(9) };
        record.spec.stdio.tty = true;
        let plan = plan(
            &settings(),
            (&record, &[]),
            "0123456789ab",
            vec!["/r/leaf".into()],
            "/r/containers/x".into(),
            Work::Container { process: Box::new(first_process(&record)), log: None },
        );
        assert!(plan.runtime_dir.ends_with("0123456789ab"));
        assert_eq!((plan.memory_mib, plan.configure.shares.memory_max), (128, Some(64 << 20)));
        assert_eq!((plan.vcpus, plan.configure.shares.cpu_millis), (2, Some(1500)));
        let Work::Container { process, .. } = plan.work else { panic!("another work") };
        assert_eq!(process.argv, ["sh"]);
        assert_eq!(process.tty, Some(DEFAULT_TERMINAL));
        assert_eq!(process.env, [DEFAULT_PATH, "HOSTNAME=abababababab", "TERM=xterm", "A=b"]);
    }

    #[test]
    fn names_are_in_the_guests_files() {
        let mut record = sample();
        record.spec.hostname = Some("web".into());
        record.spec.extra_hosts =
            vec![ExtraHost { name: "db".into(), address: "10.0.0.2".parse().unwrap() }];
        record.spec.dns = Dns {
            servers: vec!["1.1.1.1".parse().unwrap()],
            search: vec!["a.org".into(), "b.org".into()],
            options: vec!["ndots:2".into()],
        };
        let hosts = hosts(&record, &[]);
        assert!(hosts.contains("10.0.0.2\tdb\n") && hosts.ends_with("127.0.1.1\tweb\n"));
        record.spec.domain_name = Some("example.org".into());
        assert!(super::hosts(&record, &[]).ends_with("127.0.1.1\tweb.example.org web\n"));
        assert_eq!(
            resolv_conf(&record.spec, &[], Vec::new),
            "nameserver 1.1.1.1\nsearch a.org b.org\noptions ndots:2\n"
        );
    }
}
