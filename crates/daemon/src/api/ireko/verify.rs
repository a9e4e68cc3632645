//! `POST /ireko/images/verify`, `POST /ireko/images/repair`.

use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::lines;
use crate::api::query::Params;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use ireko_engine::{Depth, ParentCheck, progress};
use ireko_protocol::verified::{Broken, Link, Problem, Repaired, Severity, Verified};

/// Each `image` is verified, all of them where there is none; with `deep` their data is read.
pub(crate) async fn verify(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let images = params.all("image").map(str::to_owned).collect();
    let depth = match params.flag("deep") {
        true => Depth::Data,
        false => Depth::Metadata,
    };
    let (watcher, progress) = progress();
    let work = async move {
        let verified = app.engine.verify_images(images, depth, watcher).await?;
        let problems = verified.problems.into_iter().map(|problem| Problem {
            object: problem.object,
            message: problem.message,
            severity: if problem.is_warning { Severity::Warning } else { Severity::Error },
        });
        Ok(Verified {
            images: verified.images,
            files: verified.files,
            read_bytes: verified.read_bytes,
            problems: problems.collect(),
        })
    };
    lines::answer("Verifying", progress, work).await
}

/// Every broken link, or `image`'s to `parent`, with `force` whatever that holds.
pub(crate) async fn repair(State(app): State<App>, params: Params) -> ApiResult<Json<Repaired>> {
    let force = params.flag("force");
    let repaired = match (params.get("image"), params.get("parent")) {
        (Some(image), Some(parent)) => {
            let check = if force { ParentCheck::Forced } else { ParentCheck::Required };
            let linked = app.engine.repair_image(image, parent, check).await?;
            ireko_engine::Repaired { linked: vec![linked], broken: Vec::new() }
        }
        (None, None) if !force => app.engine.repair_images().await?,
        (None, None) => return Err(ApiError::bad_request("`force` needs `image` and `parent`")),
        _ => return Err(ApiError::bad_request("either both of `image` and `parent`, or none")),
    };
    let linked = repaired.linked.into_iter();
    let broken = repaired.broken.into_iter();
    Ok(Json(Repaired {
        linked: linked.map(|one| Link { disk: one.disk, parent: one.parent }).collect(),
        broken: broken.map(|one| Broken { disk: one.disk, reason: one.reason }).collect(),
    }))
}
