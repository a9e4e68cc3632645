//! A real root file system, made from the distribution's packages.

use ireko_e2e::slots::Vms;
use ireko_e2e::{World, programs};

#[test]
fn a_debian_root_file_system_becomes_an_image_and_its_tools_work() {
    let archive = programs::repository().join("target/fixtures/debian-rootfs.tar");
    if !archive.exists() {
        eprintln!("skipped: {} is missing (`make fixtures` makes it)", archive.display());
        return;
    }
    let world = World::new("debian", Vms::One);
    world.ok(&["import", archive.to_str().expect("a path"), "debian"]);
    let script = "apt-get --version | head -1; dpkg -l | wc -l; grep -c '^Package:' /var/lib/dpkg/status; \
                  dpkg --audit; stat -c '%a %U:%G' /usr/bin/passwd /tmp; find / -xdev -lname '*' | wc -l";
    let said = world.ok(&["run", "--rm", "debian", "sh", "-c", script]);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("apt 2"), "{said}");
    let number =
        |line: usize| lines[line].trim().parse::<u64>().unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(number(1), number(2) + 5, "five lines of heading: {said}");
    assert!(number(2) > 50, "{said}");
    assert_eq!(lines[3], "4755 root:root", "dpkg finds nothing half-installed: {said}");
    assert_eq!(lines[4], "1777 root:root");
}
