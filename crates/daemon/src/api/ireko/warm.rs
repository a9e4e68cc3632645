//! Getting ready for containers to come.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::error::{ApiError, ApiResult};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use ireko_engine::{Resources, Shape};
use ireko_protocol::warm::{Warm, Warmed};

/// More network devices than a VM has room for.
const MOST_NETWORKS: usize = 8;

/// `POST /ireko/warm`: makes a template where it is missing, and has a VM stand by.
pub(crate) async fn warm(State(app): State<App>, body: Body) -> ApiResult<Json<Warmed>> {
    let wanted: Option<Warm> = read_json(body).await?;
    let Warm { memory, cpu_millis, networks } = wanted.unwrap_or_default();
    let networks = networks.unwrap_or(1);
    if networks > MOST_NETWORKS {
        let message =
            format!("{networks} networks: there are templates with up to {MOST_NETWORKS}");
        return Err(ApiError::bad_request(message));
    }
    let resources = Resources { memory, cpu_millis, ..Resources::default() };
    let (shape, standing_by) = app.engine.warm(&resources, networks).await?;
    let Shape { memory_mib, vcpus, nics } = shape;
    Ok(Json(Warmed { memory_mib, vcpus, networks: nics, standing_by }))
}
