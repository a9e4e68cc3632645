//! Names that are words of the API's own paths.

use ireko_e2e::World;
use ireko_e2e::docker;
use ireko_e2e::slots::Vms;

#[test]
fn what_is_called_like_a_path_is_shown_used_and_removed_as_any_other() {
    let world = World::new("names that are words", Vms::One);
    world.ok(&["create", "--name", "any", "base", "true"]);
    let client = docker::client();
    let ok = |args: &[&str]| docker::ok(&client, &world, args);
    let words = ["json", "create", "prune", "search", "load", "get", "verify", "repair", "import"];
    for word in words {
        ok(&["tag", "base", word]);
        assert_eq!(ok(&["image", "inspect", "-f", "{{.Os}}", word]), "linux");
        assert_eq!(ok(&["rmi", word]), format!("Untagged: {word}:latest"));
        world.ok(&["tag", "base", word]);
        world.ok(&["image", "rename", word, &format!("{word}/json")]);
        world.ok(&["rmi", &format!("{word}/json")]);
    }
    for word in ["json", "create", "prune"] {
        world.ok(&["create", "--name", word, "base", "true"]);
        assert_eq!(ok(&["inspect", "-f", "{{.Name}}", word]), format!("/{word}"));
        assert_eq!(ok(&["rm", word]), word);
    }
    for word in ["create", "prune"] {
        ok(&["network", "create", word]);
        assert_eq!(ok(&["network", "inspect", "-f", "{{.Name}}", word]), word);
        assert_eq!(ok(&["network", "rm", word]), word);
    }
}
