//! Two clients at once: one of them wins, the other is told why, and the store stays whole.

use super::crash::{DISK, prepare};
use super::*;
use crate::{Depth, FoldExtent};
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::thread;

type Verb = fn(&Store, &Places, client: &str) -> Result<(), Error>;

/// Each verb, and how many of two clients succeed with it. A name that is given to another image moves, as docker's do.
const VERBS: [(&str, Verb, RangeInclusive<usize>); 16] = [
    ("create", create, 2..=2),
    ("commit one container", |store, places, _| commit_c(store, places, "new"), 1..=2),
    ("commit all disks of one container", |store, places, _| commit_f(store, places), 1..=2),
    ("import under one name", |store, places, _| import_as(store, places, "new"), 1..=2),
    ("import", import_as, 2..=2),
    ("import one disk", import_disk, 1..=1),
    ("tag", |store, _, _| store.tag(&store.find("base")?.id, &named("other")), 2..=2),
    ("rename", |store, _, _| store.rename(&named("single"), &named("other")).map(drop), 1..=1),
    ("remove", |store, _, _| store.remove("single", false, &[]).map(drop), 1..=1),
    ("demote", |store, _, _| store.remove("base", true, &[]).map(drop), 1..=1),
    ("remove a tree", |store, _, _| store.remove_tree("mid", &[]).map(drop), 1..=1),
    ("merge", |store, _, _| merge_api(store, Sources::Keep), 1..=1),
    ("merge in place", |store, _, _| merge_api(store, Sources::Delete), 1..=1),
    ("fold", |store, _, _| store.fold(FoldExtent::Whole, &()).map(drop), 1..=2),
    ("collect garbage", |store, _, _| store.collect_garbage().map(drop), 2..=2),
    ("repair", |store, _, _| store.repair().map(drop), 2..=2),
];

fn create(store: &Store, places: &Places, client: &str) -> Result<(), Error> {
    let folder = places.container(client);
    std::fs::create_dir_all(&folder).unwrap();
    let created = store.find("base").and_then(|image| store.create_scratch(&image.id, &folder));
    created.map(drop).inspect_err(|_| std::fs::remove_dir(&folder).unwrap())
}

fn commit_c(store: &Store, places: &Places, name: &str) -> Result<(), Error> {
    let leaf = places.container("c").join("base.vhdx");
    let pending = store.begin_commit(&leaf, &[], new_image(Some(name)))?;
    if let Err(error) = store.freeze_stopped(&pending) {
        store.abort_commit(pending)?;
        return Err(error);
    }
    store.publish_commit(pending).map(drop)
}

/// The container has a data disk, and so has the image it was made from.
fn commit_f(store: &Store, places: &Places) -> Result<(), Error> {
    let (leaf, data) = disks_of(places, "f", "mid");
    commit_all(store, &leaf, &data, "new").map(drop)
}

fn import_as(store: &Store, places: &Places, name: &str) -> Result<(), Error> {
    let pending = store.begin_app_layer(&places.common_root(), name)?;
    store.publish_app_layer(pending, new_image(Some(name))).map(drop)
}

fn import_disk(store: &Store, places: &Places, _: &str) -> Result<(), Error> {
    super::imports::import_disk(store, &places.cache.join(DISK), Some("disk")).map(drop)
}

fn merge_api(store: &Store, sources: Sources) -> Result<(), Error> {
    merge(store, "api", "flat", MergeFiles::Top(2), sources).map(drop)
}

/// Runs two verbs at the same moment, checks that the store is whole, and returns what became of them.
#[track_caller]
fn race(first: (&str, Verb), second: (&str, Verb)) -> [Result<(), Error>; 2] {
    let folder = folder();
    let places = Places::under(folder.path());
    prepare(folder.path());
    let store = places.open();
    let start = Barrier::new(2);
    let outcomes = thread::scope(|scope| {
        let (store, places, start) = (&store, &places, &start);
        let run = |verb: Verb, client: &'static str| {
            scope.spawn(move || {
                start.wait();
                verb(store, places, client)
            })
        };
        let threads = [run(first.1, "first"), run(second.1, "second")];
        threads.map(|thread| thread.join().unwrap())
    });
    let told = format!("{} against {}: {outcomes:?}", first.0, second.0);
    let seen = picture(&store, &places);
    let verified = store.verify(&[], Depth::Data, &()).unwrap();
    assert!(verified.problems.is_empty(), "{told}: {:?}", verified.problems);
    drop(store);
    assert_eq!(picture(&places.open(), &places), seen, "{told}, after a restart");
    outcomes
}

#[test]
fn of_two_clients_with_one_verb_as_many_succeed_as_can() {
    for (name, verb, expected) in VERBS {
        for _ in 0..5 {
            let outcomes = race((name, verb), (name, verb));
            let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert!(expected.contains(&winners), "{name}: {outcomes:?}");
        }
    }
}

#[test]
fn any_two_verbs_at_once_leave_a_store_that_is_whole() {
    for (number, (first, verb, _)) in VERBS.iter().enumerate() {
        for (second, other, _) in &VERBS[number + 1..] {
            let outcomes = race((first, *verb), (second, *other));
            assert!(outcomes.iter().any(Result::is_ok), "{first} and {second}: {outcomes:?}");
        }
    }
}
