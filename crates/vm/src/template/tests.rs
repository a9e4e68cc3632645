use super::*;
use std::io::Write;
use std::os::unix::fs::FileExt;

struct Cache {
    folder: tempfile::TempDir,
    templates: Templates,
}

fn key(digit: char) -> Key {
    Key::parse(&digit.to_string().repeat(24)).unwrap()
}

fn shape() -> Shape {
    Shape { accel: "tcg".into(), memory_mib: 1, vcpus: 1, nics: 0 }
}

/// A file of a megabyte with one page of bytes.
fn fill(folder: &Path) -> Result<()> {
    let ram = File::create(folder.join("ram")).unwrap();
    ram.set_len(1 << 20).unwrap();
    ram.write_all_at(&[7; 4096], 1 << 16).unwrap();
    File::create(folder.join("state")).unwrap().write_all(b"state").unwrap();
    Ok(())
}

fn not_made(_: &Path) -> Result<()> {
    panic!("it is there already")
}

impl Cache {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let templates = Templates::in_cache(folder.path());
        Self { folder, templates }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("templates")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock") && name != "verified");
        names.sort();
        names
    }

    fn ram(&self, digit: char) -> PathBuf {
        self.folder.path().join("templates").join(key(digit).to_string()).join("ram")
    }
}

#[test]
fn a_template_is_made_once_and_found_from_then_on() {
    let cache = Cache::new();
    assert!(cache.templates.find(&key('a')).unwrap().is_none());
    let made = cache.templates.claim(&key('a'), &shape(), fill).unwrap();
    let found = cache.templates.claim(&key('a'), &shape(), not_made).unwrap();
    assert_eq!(made.saved, found.saved);
    assert_eq!(fs::read(&found.saved.state).unwrap(), b"state");
    let [listed] = &cache.templates.list().unwrap()[..] else { panic!("another number") };
    assert!(listed.in_use && listed.bytes < 1 << 20, "{listed:?}");
}

#[test]
fn what_fails_to_be_made_leaves_nothing() {
    let cache = Cache::new();
    let failing = |folder: &Path| {
        fill(folder)?;
        Err(Error::new(ErrorKind::Start, "no VM"))
    };
    let error = cache.templates.claim(&key('a'), &shape(), failing).unwrap_err();
    assert_eq!(error.to_string(), "no VM");
    assert_eq!(cache.names(), [""; 0]);
}

#[test]
fn what_was_left_half_made_or_half_removed_is_in_nobodys_way() {
    let cache = Cache::new();
    for name in [".new-", ".old-"] {
        let folder = cache.folder.path().join("templates").join(format!("{name}{}", key('a')));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ram"), b"half").unwrap();
    }
    cache.templates.claim(&key('a'), &shape(), fill).unwrap();
    assert_eq!(cache.names(), [key('a').to_string()]);
}

#[test]
fn a_template_that_was_written_to_is_made_anew() {
    let cache = Cache::new();
    drop(cache.templates.claim(&key('a'), &shape(), fill).unwrap());
    let ram = File::options().write(true).open(cache.ram('a')).unwrap();
    ram.write_all_at(&[8], 1 << 16).unwrap();
    assert!(cache.templates.find(&key('a')).unwrap().is_none());
    cache.templates.claim(&key('a'), &shape(), fill).unwrap();
    let mut byte = [0];
    File::open(cache.ram('a')).unwrap().read_exact_at(&mut byte, 1 << 16).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn a_byte_that_changed_behind_the_file_systems_back_is_found_by_reading_all() {
    let cache = Cache::new();
    for digit in ['a', 'b'] {
        drop(cache.templates.claim(&key(digit), &shape(), fill).unwrap());
    }
    let record = cache.ram('a').with_file_name("template.json");
    let text = fs::read_to_string(&record).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["ram"]["sha256"] = "00".into();
    fs::write(&record, json.to_string()).unwrap();
    assert!(cache.templates.find(&key('a')).unwrap().is_some(), "nobody can see it");
    assert_eq!(cache.templates.verify_once_a_boot().unwrap(), [key('a')]);
    assert_eq!(cache.templates.verify_once_a_boot().unwrap(), [], "it was done");
    assert_eq!(cache.names(), [key('b').to_string()]);
}

#[test]
fn a_template_of_another_hosts_clock_is_not_used() {
    let cache = Cache::new();
    drop(cache.templates.claim(&key('a'), &shape(), fill).unwrap());
    let record = cache.ram('a').with_file_name("template.json");
    let text = fs::read_to_string(&record).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["boot_id"] = "another".into();
    json["tsc_khz"] = 1_000.into();
    fs::write(&record, json.to_string()).unwrap();
    assert!(cache.templates.find(&key('a')).unwrap().is_none());
}

#[test]
fn the_one_used_longest_ago_goes_first_and_one_in_use_stays() {
    let cache = Cache::new();
    let held = cache.templates.claim(&key('a'), &shape(), fill).unwrap();
    for digit in ['b', 'c'] {
        drop(cache.templates.claim(&key(digit), &shape(), fill).unwrap());
    }
    for (age, digit) in ['a', 'b', 'c'].into_iter().rev().enumerate() {
        let record =
            File::options().write(true).open(cache.ram(digit).with_file_name("template.json"));
        let time = SystemTime::now() - std::time::Duration::from_secs(60 * (age as u64 + 1));
        record.unwrap().set_modified(time).unwrap();
    }
    let each = cache.templates.list().unwrap()[0].bytes;
    let removed = cache.templates.prune(2 * each).unwrap();
    assert_eq!(removed.iter().map(|one| one.key.clone()).collect::<Vec<_>>(), [key('b')]);
    assert!(!cache.templates.remove(&key('a')).unwrap(), "a VM uses it");
    drop(held);
    assert_eq!(cache.templates.prune(0).unwrap().len(), 2);
    assert_eq!(cache.names(), [""; 0]);
}

#[test]
fn two_that_want_the_same_make_it_once() {
    let cache = Cache::new();
    let made = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let count = |folder: &Path| {
                    made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    fill(folder)
                };
                cache.templates.claim(&key('a'), &shape(), count).unwrap();
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}
