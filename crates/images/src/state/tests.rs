//! The forms of the store's own files.

use super::*;

const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

fn sidecar(role: Role) -> Sidecar {
    let guid = GUID.parse().unwrap();
    Sidecar {
        guid,
        kind: Kind::App,
        name: "日本/x:1".into(),
        chain: None,
        role,
        disks: Vec::new(),
        steps: 1,
    }
}

#[test]
fn sidecars_have_their_golden_form() {
    let config = ImageConfig::parse("{ \"os\":\"linux\"\n}").unwrap();
    let image = sidecar(Role::Image(config));
    let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "image",
  "kind": "app",
  "name": "日本/x:1",
  "config": "{ \"os\":\"linux\"\n}"
}
"#;
    assert_eq!(String::from_utf8(image.to_json()).unwrap(), golden);
    assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), image);

    let layer = Sidecar { chain: Some(Digest::of(b"")), ..sidecar(Role::Layer(None)) };
    let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "layer",
  "kind": "app",
  "name": "日本/x:1",
  "chain": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}
"#;
    assert_eq!(String::from_utf8(layer.to_json()).unwrap(), golden);
    assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), layer);

    let folded = Sidecar { steps: 7, ..sidecar(Role::Layer(None)) };
    let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "layer",
  "kind": "app",
  "name": "日本/x:1",
  "steps": 7
}
"#;
    assert_eq!(String::from_utf8(folded.to_json()).unwrap(), golden);
    assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), folded);
    let none = golden.replace("\"steps\": 7", "\"steps\": 0");
    assert_eq!(
        Sidecar::from_json(none.as_bytes()).unwrap().steps,
        1,
        "a file is one step at least"
    );
}

#[test]
fn what_has_data_disks_is_of_a_version_that_older_programs_refuse() {
    let disk = DataLayer { name: "data".parse().unwrap(), guid: GUID.parse().unwrap() };
    let config = ImageConfig::parse("{}").unwrap();
    let image = Sidecar { disks: vec![disk], ..sidecar(Role::Image(config)) };
    let json = String::from_utf8(image.to_json()).unwrap();
    let disks = format!(
        r#""disks": [
    {{
      "name": "data",
      "layer": "{GUID}"
    }}
  ]"#
    );
    assert!(json.contains("\"version\": 2") && json.contains(&disks), "{json}");
    assert_eq!(Sidecar::from_json(json.as_bytes()).unwrap(), image);
    assert!(image.as_layer().disks.is_empty());
    let frozen = FrozenDisk { file: "f".into(), leaf: "l".into() };
    let (file, leaf, reference) = ("x".into(), "y".into(), None);
    let commit = Intent::Commit { file, leaf, reference, disks: vec![frozen] };
    assert!(String::from_utf8(commit.to_json()).unwrap().contains("\"version\": 2"));
}

#[test]
fn sidecars_are_exported_in_their_golden_form() {
    let exported = Exported {
        sidecar: sidecar(Role::Layer(None)),
        names: vec![Name::parse("日本").unwrap(), Name::parse("x:1").unwrap()],
    };
    let golden = r#"{
  "version": 1,
  "guid": "2dc27766-f623-4200-9d64-115e9bfd4a08",
  "role": "layer",
  "kind": "app",
  "name": "日本/x:1",
  "names": [
    "日本:latest",
    "docker.io/library/x:1"
  ]
}
"#;
    assert_eq!(String::from_utf8(exported.to_json()).unwrap(), golden);
    assert_eq!(Exported::from_json(golden.as_bytes()).unwrap(), exported);
    // Beside its file in `images/` it is a sidecar like any other.
    assert_eq!(Sidecar::from_json(golden.as_bytes()).unwrap(), exported.sidecar);
}

#[test]
fn tags_have_their_golden_form() {
    let id: ImageId = "ab".repeat(32).parse().unwrap();
    let tags = BTreeMap::from([
        (Name::parse("x:1").unwrap(), id),
        (Name::parse("localhost/y").unwrap(), id),
        (Name::parse("Win2016_Hyper-V").unwrap(), id),
    ]);
    let hex = "ab".repeat(32);
    let golden = format!(
        r#"{{
  "version": 1,
  "tags": {{
    "Win2016_Hyper-V:latest": "sha256:{hex}",
    "docker.io/library/x:1": "sha256:{hex}",
    "localhost/y:latest": "sha256:{hex}"
  }}
}}
"#
    );
    assert_eq!(String::from_utf8(tags_to_json(&tags)).unwrap(), golden);
    assert_eq!(tags_from_json(golden.as_bytes()).unwrap(), tags);
}

fn gone() -> Gone {
    Gone { file: "g.vhdx".into(), references: vec!["a/b:c".into()] }
}

#[test]
fn journal_entries_have_their_golden_form() {
    let entries = [
        (
            Intent::Arrive { file: "f.vhdx".into(), reference: None },
            r#"{"version":1,"verb":"arrive","file":"f.vhdx","reference":null}"#,
        ),
        (
            Intent::Commit {
                file: "f.vhdx".into(),
                leaf: "containers/c/s.vhdx".into(),
                reference: Some("docker.io/library/x:1".into()),
                disks: Vec::new(),
            },
            concat!(
                r#"{"version":1,"verb":"commit","file":"f.vhdx","leaf":"containers/c/s.vhdx","#,
                r#""reference":"docker.io/library/x:1"}"#
            ),
        ),
        (
            Intent::Remove { file: "f.vhdx".into(), references: vec!["a/b:c".into()] },
            r#"{"version":1,"verb":"remove","file":"f.vhdx","references":["a/b:c"]}"#,
        ),
        (
            Intent::RemoveAll { images: vec![gone()] },
            concat!(
                r#"{"version":1,"verb":"remove_all","#,
                r#""images":[{"file":"g.vhdx","references":["a/b:c"]}]}"#
            ),
        ),
        (
            Intent::Replace(Replacement {
                file: "f.vhdx".into(),
                former: vec!["a/b:c".into()],
                reference: "a/b:d".into(),
                images: vec![gone()],
            }),
            concat!(
                r#"{"version":1,"verb":"replace","file":"f.vhdx","former":["a/b:c"],"#,
                r#""reference":"a/b:d","#,
                r#""images":[{"file":"g.vhdx","references":["a/b:c"]}]}"#
            ),
        ),
        (Intent::Fold { file: "f.vhdx".into() }, r#"{"version":1,"verb":"fold","file":"f.vhdx"}"#),
        (
            Intent::Relink {
                links: vec![Link {
                    disk: "images/f.vhdx".into(),
                    parent: "g.vhdx".into(),
                    force: true,
                }],
            },
            concat!(
                r#"{"version":1,"verb":"relink","links":[{"disk":"images/f.vhdx","#,
                r#""parent":"g.vhdx","force":true}]}"#
            ),
        ),
        (
            Intent::ArriveAll {
                arrivals: vec![Arrival {
                    file: "f.vhdx".into(),
                    brings_disk: true,
                    names: vec!["a/b:c".into()],
                }],
            },
            concat!(
                r#"{"version":1,"verb":"arrive_all","arrivals":[{"file":"f.vhdx","#,
                r#""brings_disk":true,"names":["a/b:c"]}]}"#
            ),
        ),
        (
            Intent::Export { folder: "/x/.ireko-export-g".into() },
            r#"{"version":1,"verb":"export","folder":"/x/.ireko-export-g"}"#,
        ),
    ];
    for (intent, golden) in entries {
        let written: serde_json::Value = serde_json::from_slice(&intent.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(golden).unwrap());
        assert_eq!(from_json::<Intent>(golden.as_bytes()).unwrap(), intent);
    }
}

#[test]
fn a_newer_version_and_nonsense_are_refused() {
    let newer = br#"{"version":3,"guid":7}"#;
    let error = Sidecar::from_json(newer).unwrap_err().to_string();
    assert_eq!(error, "version 3 is unknown to this program, which knows 1 and 2");
    let no_config =
        format!(r#"{{"version":1,"guid":"{GUID}","role":"image","kind":"app","name":"x"}}"#);
    for text in ["", "[]", "{}", r#"{"version":1}"#, &no_config] {
        assert!(Sidecar::from_json(text.as_bytes()).is_err(), "{text}");
    }
}
