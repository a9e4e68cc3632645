//! `/ireko/images/{name}/export`: an image to a file of this machine, or as a zip in the answer.

use crate::api::App;
use crate::api::body::{Transfer, read_json};
use crate::api::error::{ApiError, ApiResult};
use crate::api::lines;
use crate::api::query::Params;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;
use ireko_engine::{DiskName, ExportTo, Layers, With, progress};
use ireko_protocol::export::{ExportFormat, ExportRequest, Exported};

/// `POST`: the body says where to and what; the answer is how far it is, then the result.
pub(super) async fn to_file(app: App, image: &str, body: Body) -> ApiResult<Response> {
    let request: ExportRequest = read_json(body).await?;
    let format = match request.format {
        Some(format) => format,
        None => ExportFormat::by_suffix(&request.path)
            .map_err(|error| ApiError::bad_request(error.to_string()))?,
    };
    let to = ExportTo {
        file: request.path.clone(),
        format: stored(format, request.tree)?,
        replace: request.force,
        disk: request
            .disk
            .as_deref()
            .map(str::parse::<DiskName>)
            .transpose()
            .map_err(|error| ApiError::bad_request(error.to_string()))?,
    };
    let with = With { definitions: request.with, format };
    let (watcher, progress) = progress();
    let image = image.to_owned();
    let work = async move {
        let (exported, definitions) = app.engine.export_image(&image, to, with, watcher).await?;
        Ok(Exported {
            definitions,
            id: exported.image.to_string(),
            path: request.path,
            format,
            bytes: exported.bytes,
            layers: exported.layers,
            left_out: exported.left_out.iter().map(ToString::to_string).collect(),
        })
    };
    lines::answer("Exporting", progress, work).await
}

/// `GET`: the zip is the answer's body.
pub(super) async fn stream(app: App, image: &str, params: &Params) -> ApiResult<Response> {
    match params.get("format") {
        None | Some("zip") => {}
        Some(other) => {
            let message = format!("format={other}: only a zip can be sent; POST writes a file");
            return Err(ApiError::bad_request(message));
        }
    }
    let turn = Transfer::begin().await?;
    let pieces = app.engine.stream_zip(image, layers(params.flag("tree"))).await?;
    let next = async |(mut pieces, turn): (ireko_engine::ZipPieces, Transfer)| {
        pieces.recv().await.map(|piece| (piece, (pieces, turn)))
    };
    let body = Body::from_stream(futures_util::stream::unfold((pieces, turn), next));
    Ok(([(CONTENT_TYPE, "application/zip")], body).into_response())
}

fn layers(tree: bool) -> Layers {
    if tree { Layers::Tree } else { Layers::Own }
}

fn stored(format: ExportFormat, tree: bool) -> ApiResult<ireko_engine::ExportFormat> {
    use ireko_engine::ExportFormat as Stored;
    Ok(match format {
        ExportFormat::Zip => Stored::Zip(layers(tree)),
        other if tree => {
            let message = format!("`tree` is for zips: {other} is always the whole disk");
            return Err(ApiError::bad_request(message));
        }
        ExportFormat::Vhdx => Stored::Vhdx,
        ExportFormat::Vhd => Stored::Vhd,
        ExportFormat::VhdFixed => Stored::VhdFixed,
        ExportFormat::Qcow2 => Stored::Qcow2,
        ExportFormat::Raw => Stored::Raw,
        ExportFormat::Vmdk => Stored::Vmdk,
    })
}
