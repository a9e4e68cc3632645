//! Which path is which verb.
//!
//! One file a verb, or a few small verbs of one noun. `router` is the table of all routes.

mod archive;
mod attach;
mod body;
mod bounds;
mod commit;
mod containers;
mod create;
mod create_fields;
mod detach_keys;
mod diff;
mod endpoints;
pub(crate) mod error;
mod events;
mod exec;
mod frames;
mod hijack;
mod images;
mod import;
mod inspect;
mod ireko;
mod lines;
mod list;
mod load;
mod log_options;
mod logs;
mod networks;
mod not_yet;
mod openapi;
mod prune;
mod query;
mod report;
mod save;
mod screen;
mod since;
mod stats;
mod system;
mod top;
mod types;
mod update;
mod wait;

use crate::api::query::Params;
use crate::dispatch::page_not_found;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, any, delete, get, post};
use ireko_engine::Engine;
use tokio_util::sync::CancellationToken;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    /// Ends the daemon.
    pub(crate) stop: CancellationToken,
}

impl App {
    pub(crate) fn new(engine: Engine, stop: CancellationToken) -> Self {
        Self { engine, stop }
    }
}

/// Every route there is, without its version.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .merge(system_routes())
        .merge(container_routes())
        .merge(image_routes())
        .merge(other_routes())
        .fallback(page_not_found)
        .method_not_allowed_fallback(page_not_found)
        .with_state(app)
}

fn system_routes() -> Router<App> {
    Router::new()
        .route("/_ping", get(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/system/df", get(system::disk_usage))
        .route("/events", get(events::events))
        .route("/auth", post(not_yet::registries))
        .route("/ireko/tree", get(ireko::tree))
        .route("/ireko/containers/{id}/wait", post(ireko::wait))
        .route("/ireko/containers/{id}/address", post(ireko::set_address))
        .route("/ireko/containers/{id}/addresses", get(ireko::addresses))
        .route("/ireko/containers/{id}/suspend", post(ireko::suspend).delete(ireko::drop_suspended))
        .route("/ireko/containers/{id}/console", post(attach::console))
        .route("/ireko/containers/{id}/connect", post(screen::connect))
        .route("/ireko/containers/{id}/keys", post(screen::keys))
        .route("/ireko/containers/{id}/screen", get(screen::picture).post(screen::open))
        .route("/ireko/containers/{id}/screen/stream", post(screen::stream))
        .route("/ireko/openapi.json", get(openapi::document))
        .route("/ireko/info", get(ireko::info))
        .route("/ireko/daemon/stop", post(ireko::stop))
        .route("/ireko/df", get(ireko::usage::df))
        .route("/ireko/gc", post(ireko::usage::gc))
        .route("/ireko/warm", post(ireko::warm::warm))
        .route("/ireko/fold", post(ireko::usage::fold))
        .route("/ireko/images/verify", post(ireko::verify::verify).merge(own_image("verify")))
        .route("/ireko/images/repair", post(ireko::verify::repair).merge(own_image("repair")))
        // As below: a name may contain slashes.
        .route("/ireko/images/import", post(ireko::images::import).merge(own_image("import")))
        .route(
            "/ireko/images/{*name}",
            get(ireko::images::get).post(ireko::images::post).delete(ireko::images::remove),
        )
}

fn container_routes() -> Router<App> {
    Router::new()
        .route("/containers/json", get(list::list).merge(container("json")))
        .route("/containers/create", post(create::create).merge(container("create")))
        .route("/containers/prune", post(prune::containers).merge(container("prune")))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/json", get(inspect::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/top", get(top::top))
        .route("/containers/{id}/wait", post(wait::wait))
        .route("/containers/{id}/attach", post(attach::attach))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/commit", post(commit::commit))
        .route("/containers/{id}/update", post(update::update))
        .route("/containers/{id}/stats", get(stats::stats))
        .route("/containers/{id}/changes", get(diff::changes))
        .route("/containers/{id}/export", get(archive::export))
        .route("/containers/{id}/archive", get(archive::get).head(archive::head).put(archive::put))
        .route("/containers/{id}/attach/ws", get(not_yet::web_socket))
        .route("/containers/{id}/checkpoints", any(not_yet::checkpoints))
}

fn image_routes() -> Router<App> {
    Router::new()
        .route("/images/json", get(images::list).merge(image("json")))
        .route("/images/create", post(import::create).merge(image("create")))
        .route("/images/prune", post(prune::images).merge(image("prune")))
        .route("/images/search", get(not_yet::registries).merge(image("search")))
        .route("/images/load", post(load::load).merge(image("load")))
        .route("/images/get", get(save::save).merge(image("get")))
        // An image's name may contain slashes: the verb is the last part.
        .route("/images/{*name}", get(images::get).post(images::post).delete(images::remove))
        .route("/distribution/{*name}", get(not_yet::registries))
        .route("/build", post(not_yet::build))
        .route("/build/prune", post(prune::builds))
        .route("/session", any(not_yet::build))
        .route("/grpc", any(not_yet::build))
}

fn other_routes() -> Router<App> {
    Router::new()
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create).merge(network("create")))
        .route("/networks/prune", post(networks::prune).merge(network("prune")))
        .route("/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{name}/connect", post(networks::connect))
        .route("/networks/{name}/disconnect", post(networks::disconnect))
        .route("/volumes", get(not_yet::no_volumes))
        .route("/volumes/create", post(not_yet::volumes))
        .route("/volumes/prune", post(prune::volumes))
        .route("/volumes/{name}", get(not_yet::no_such_volume).delete(not_yet::no_such_volume))
        .route("/plugins", get(not_yet::no_plugins))
        .route("/plugins/{*name}", any(not_yet::no_such_plugin))
        .route("/swarm", any(not_yet::swarm))
        .route("/swarm/{*rest}", any(not_yet::swarm))
        .route("/nodes", any(not_yet::swarm))
        .route("/nodes/{*rest}", any(not_yet::swarm))
        .route("/services", any(not_yet::swarm))
        .route("/services/{*rest}", any(not_yet::swarm))
        .route("/tasks", any(not_yet::swarm))
        .route("/tasks/{*rest}", any(not_yet::swarm))
        .route("/secrets", any(not_yet::swarm))
        .route("/secrets/{*rest}", any(not_yet::swarm))
        .route("/configs", any(not_yet::swarm))
        .route("/configs/{*rest}", any(not_yet::swarm))
}

// The router takes a fixed path before one with a name in it, whatever the method: what has the same
// name as a fixed path is answered for here.

/// What `/images/{name}` does with the image of that name.
fn image(name: &'static str) -> MethodRouter<App> {
    let id = move || Path(name.to_owned());
    delete(move |app: State<App>, params: Params| images::remove(app, id(), params))
}

/// What `/ireko/images/{name}` does with it.
fn own_image(name: &'static str) -> MethodRouter<App> {
    let id = move || Path(name.to_owned());
    delete(move |app: State<App>, params: Params| ireko::images::remove(app, id(), params))
}

/// What `/containers/{id}` does with the container of that name.
fn container(name: &'static str) -> MethodRouter<App> {
    let id = move || Path(name.to_owned());
    delete(move |app: State<App>, params: Params| containers::remove(app, id(), params))
}

/// What `/networks/{name}` does with the network of that name.
fn network(name: &'static str) -> MethodRouter<App> {
    let id = move || Path(name.to_owned());
    get(move |app: State<App>| networks::inspect(app, id()))
        .delete(move |app: State<App>| networks::remove(app, id()))
}
