//! `GET /ireko/openapi.json`: what there is below `/ireko`, for programs.
//!
//! The document is written by hand; the tests hold it against the routes and the types it speaks of.

use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;

const DOCUMENT: &str = include_str!("../../../../docs/ireko-api.json");

/// `GET /ireko/openapi.json`.
pub(crate) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    const ROUTER: &str = include_str!("mod.rs");
    const IMAGE_VERBS: &str = include_str!("ireko/images.rs");
    const TYPES: [&str; 8] = [
        include_str!("../../../protocol/src/export.rs"),
        include_str!("../../../protocol/src/host.rs"),
        include_str!("../../../protocol/src/images.rs"),
        include_str!("../../../protocol/src/network.rs"),
        include_str!("../../../protocol/src/tree.rs"),
        include_str!("../../../protocol/src/usage.rs"),
        include_str!("../../../protocol/src/verified.rs"),
        include_str!("../../../protocol/src/warm.rs"),
    ];
    const METHODS: [&str; 6] = ["get", "head", "post", "put", "patch", "delete"];
    /// The route below which the last part of the path is the verb.
    const IMAGES: &str = "/ireko/images/{*name}";

    /// A method and a path.
    type Endpoints = BTreeSet<(String, String)>;

    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn keys(value: &Value) -> impl Iterator<Item = &str> {
        value.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    /// Every operation with its method and path.
    fn operations(document: &Value) -> impl Iterator<Item = ((String, String), &Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            let methods = keys(item).filter(|key| METHODS.contains(key));
            methods.map(move |method| ((method.to_owned(), path.clone()), &item[method]))
        })
    }

    fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
        text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
    }

    /// What `router` says, as it is written.
    fn routes() -> Endpoints {
        let mut all = Endpoints::new();
        for route in ROUTER.split(".route(").skip(1) {
            let path = between(route, "\"", "\"").unwrap();
            if !path.starts_with("/ireko/") {
                continue;
            }
            let handlers = route.split("\n}").next().unwrap();
            assert!(!handlers.contains("any("), "{path} takes every method");
            for method in METHODS.iter().filter(|method| handlers.contains(&format!("{method}("))) {
                let paths = match (path, *method) {
                    (IMAGES, "get" | "post") => image_verbs(method),
                    _ => vec![path.replace("{*", "{")],
                };
                all.extend(paths.into_iter().map(|path| ((*method).to_owned(), path)));
            }
        }
        all
    }

    /// The paths that a function of `ireko/images.rs` tells apart.
    fn image_verbs(function: &str) -> Vec<String> {
        let head = format!("pub(crate) async fn {function}(");
        let body = between(IMAGE_VERBS, &head, "\n}\n").unwrap();
        let verbs = body.split("Some((").skip(1).map(|arm| between(arm, "\"", "\"").unwrap());
        verbs.map(|verb| IMAGES.replace("{*name}", &format!("{{name}}/{verb}"))).collect()
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        let routes = routes();
        assert!(routes.contains(&("post".into(), "/ireko/images/{name}/merge".into())));
        assert!(routes.contains(&("delete".into(), "/ireko/containers/{id}/suspend".into())));
        let written: Endpoints = operations(&parsed()).map(|(endpoint, _)| endpoint).collect();
        assert_eq!(routes, written);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, document: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        let pointer = to.strip_prefix('#').expect("a reference into the document");
                        assert!(document.pointer(pointer).is_some(), "{to} is not there");
                        found.insert(to.clone());
                    }
                    fields.values().for_each(|field| check(field, document, found));
                }
                Value::Array(items) => items.iter().for_each(|item| check(item, document, found)),
                _ => {}
            }
        }
        let (document, mut found) = (parsed(), BTreeSet::new());
        check(&document, &document, &mut found);
        let components = &document["components"];
        let all = keys(components).flat_map(|kind| {
            keys(&components[kind]).map(move |name| format!("#/components/{kind}/{name}"))
        });
        assert_eq!(found, all.collect(), "what nothing refers to is not kept");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_the_parameters_of_its_path() {
        let document = parsed();
        let mut names = BTreeSet::new();
        for ((method, path), operation) in operations(&document) {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} is there twice");
            let shared = document["paths"][&path]["parameters"].as_array();
            let own = operation["parameters"].as_array();
            let declared: BTreeSet<_> = shared
                .into_iter()
                .chain(own)
                .flatten()
                .map(|one| match one["$ref"].as_str() {
                    Some(to) => document.pointer(&to[1..]).unwrap(),
                    None => one,
                })
                .filter(|one| one["in"] == "path")
                .map(|one| one["name"].as_str().unwrap())
                .collect();
            let needed = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
            assert_eq!(declared, needed.collect(), "{method} {path}");
        }
    }

    /// The fields of a type as they are written, but those of others that lie flat in it.
    fn fields_of(declaration: &str) -> BTreeSet<&str> {
        let mut is_flat = false;
        let mut fields = BTreeSet::new();
        for line in declaration.lines().map(str::trim) {
            if line.starts_with("#[serde(flatten)]") {
                is_flat = true;
            } else if let Some((name, _)) =
                line.strip_prefix("pub ").and_then(|line| line.split_once(':'))
                && !std::mem::take(&mut is_flat)
            {
                fields.insert(name);
            }
        }
        fields
    }

    #[test]
    fn schemas_have_the_fields_of_the_types_they_are_called_after() {
        let types: BTreeMap<_, _> = TYPES
            .iter()
            .flat_map(|file| file.split("\npub struct ").skip(1))
            .filter_map(|text| text.split_once(" {\n"))
            .filter_map(|(name, rest)| Some((name, fields_of(rest.split_once("\n}")?.0))))
            .collect();
        let document = parsed();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut compared = 0;
        for (name, schema) in schemas {
            let Some(fields) = types.get(name.as_str()) else { continue };
            let parts = schema["allOf"].as_array().map_or(std::slice::from_ref(schema), |all| all);
            let written: BTreeSet<_> =
                parts.iter().flat_map(|part| keys(&part["properties"])).collect();
            assert_eq!(&written, fields, "{name}");
            compared += 1;
        }
        assert!(compared > 30, "{compared} types were found");
    }

    #[tokio::test]
    async fn the_document_is_served_as_it_is_and_has_the_daemons_version() {
        let response = document().await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let served: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(served, parsed());
        assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
