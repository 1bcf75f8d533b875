//! The paths of the server, and the answers.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::assets::{ASSETS, COLOURS};
use super::client::Problem;
use super::engine::{Answer, Question};
use super::guard::{Hosts, guard};
use super::page_data::{PictureData, SiteData, StateData};
use super::pictures::{MAX_FILE, Prepared};
use super::samples::SamplesState;
use super::site::Site;
use crate::data::picture::Picture;
use crate::report::curves_page;
use crate::train::Prediction;

/// The largest side of a drawing.
const MAX_SIDE: u32 = 1024;
/// How long a client may take to send a picture.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Picture files that are received and decoded at the same time; others wait.
const UPLOADS: usize = 4;
const WAIT_TIME: Duration = Duration::from_secs(10);
static FREE_UPLOADS: Semaphore = Semaphore::const_new(UPLOADS);
/// Values of one answer with feature maps.
const MAX_VALUES: usize = 4 << 20;

type Shared = State<Arc<Site>>;
/// A query, or what is wrong with it.
type Given<T> = Result<Query<T>, QueryRejection>;
type Answered = Result<Response, Problem>;

/// All paths, for requests to `hosts`.
pub fn routes(site: Arc<Site>, hosts: Hosts) -> Router {
    let mut router = Router::new();
    for asset in ASSETS {
        router = router.route(asset.path, get(|| async { ([(CONTENT_TYPE, asset.kind)], asset.content) }));
    }
    router
        .route("/api/colours", get(|| async { bytes(COLOURS.clone()) }))
        .route("/api/site", get(|State(site): Shared| async move { json(&SiteData::new(&site)) }))
        .route("/api/state", get(|State(site): Shared| async move { json(&StateData::new(&site)) }))
        .route("/api/curves", get(curves))
        .route("/api/picture", post(picture))
        .route("/api/sample", post(sample))
        .route("/api/maps", get(maps))
        .route("/api/gradcam", get(grad_cam))
        .route("/api/unit", get(unit))
        .fallback(|| async { Problem(StatusCode::NOT_FOUND, "there is nothing here".into()) })
        .method_not_allowed_fallback(|| async {
            Problem(StatusCode::METHOD_NOT_ALLOWED, "this path is asked for by another method".into())
        })
        .with_state(site)
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard))
}

impl Site {
    pub(super) fn samples(&self) -> MutexGuard<'_, SamplesState> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails before the network has weights.
    fn check_weights(&self) -> Result<u64, Problem> {
        match self.status().generation {
            0 => Err(Problem(StatusCode::CONFLICT, "the run has not saved weights yet".into())),
            generation => Ok(generation),
        }
    }

    /// A picture of an earlier request.
    fn picture(&self, id: &str) -> Result<Arc<Prepared>, Problem> {
        let gone = || Problem(StatusCode::GONE, "the picture is forgotten; send it again".into());
        self.pictures.find(id).ok_or_else(gone)
    }

    /// Fails if a layer is not one that the page shows.
    fn check_layer(&self, node: usize) -> Result<(), Problem> {
        let is_shown = self.described.layers.iter().any(|layer| layer.node == node);
        if is_shown { Ok(()) } else { missing(format!("there is no layer {node}")) }
    }
}

fn missing<T>(text: String) -> Result<T, Problem> {
    Err(Problem(StatusCode::NOT_FOUND, text))
}

fn bad<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem(StatusCode::BAD_REQUEST, text.into()))
}

fn read<T>(query: Given<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).or_else(|error| bad(error.body_text()))
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => Problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn bytes(content: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/octet-stream")], content).into_response()
}

/// The curves and the epochs of the run as a part of a page, of which every text is escaped.
async fn curves(State(site): Shared) -> Answered {
    let Some(run) = &site.run else { return missing("the page shows no run".into()) };
    let epochs = run.history().epochs;
    let curves = if epochs.is_empty() { String::new() } else { curves_page(&epochs) };
    Ok(([(CONTENT_TYPE, "text/html; charset=utf-8")], curves).into_response())
}

#[derive(Deserialize)]
struct DrawingSize {
    width: Option<u32>,
    height: Option<u32>,
}

/// Takes a PNG or JPEG file, or the gray levels of a drawing, and answers with the network's prediction.
async fn picture(State(site): Shared, size: Given<DrawingSize>, headers: HeaderMap, body: Body) -> Answered {
    site.check_weights()?;
    let size = read(size)?;
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Without parameters, such as a character set.
    let drawing = match kind.split(';').next().unwrap_or_default().trim_end() {
        "image/png" | "image/jpeg" => None,
        "application/octet-stream" => match (size.width, size.height) {
            (Some(width @ 1..=MAX_SIDE), Some(height @ 1..=MAX_SIDE)) => Some((width, height)),
            _ => return bad(format!("a drawing needs a width and a height from 1 to {MAX_SIDE}")),
        },
        _ => {
            let text =
                "a picture is image/png, image/jpeg, or for the gray levels of a drawing application/octet-stream";
            return Err(Problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, text.into()));
        }
    };
    let permit = if drawing.is_none() { Some(upload().await?) } else { None };
    let limit = drawing.map_or(MAX_FILE, |(width, height)| width as usize * height as usize);
    let body = receive(body, limit).await?;
    let (shape, preparation) = (site.network.input(), site.preparation);
    let prepare = move || {
        let _permit = permit;
        match drawing {
            Some(size) => preparation.draw(body, size, shape),
            None => preparation.decode(&body, shape),
        }
    };
    match spawn_blocking(prepare).await {
        Ok(Ok(picture)) => predict(&site, picture).await,
        Ok(Err(error)) => bad(format!("{error:#}")),
        Err(error) => Err(Problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn upload() -> Result<SemaphorePermit<'static>, Problem> {
    match timeout(WAIT_TIME, FREE_UPLOADS.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem(StatusCode::SERVICE_UNAVAILABLE, "too many pictures are being sent; try again".into())),
    }
}

async fn receive(body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let too_slow = |_| Problem(StatusCode::REQUEST_TIMEOUT, "the picture took too long to arrive".into());
    let broken = |error: axum::Error| {
        let is_limit = std::error::Error::source(&error).is_some_and(|it| it.to_string().contains("length limit"));
        match is_limit {
            true => Problem(StatusCode::PAYLOAD_TOO_LARGE, format!("the picture has more than {limit} bytes")),
            false => Problem(StatusCode::BAD_REQUEST, "the picture did not arrive whole".into()),
        }
    };
    Ok(timeout(BODY_TIME, to_bytes(body, limit)).await.map_err(too_slow)?.map_err(broken)?.into())
}

#[derive(Deserialize)]
struct SampleQuery {
    class: usize,
    index: usize,
}

/// Takes a sample of a class as the picture.
async fn sample(State(site): Shared, query: Given<SampleQuery>) -> Answered {
    site.check_weights()?;
    let SampleQuery { class, index } = read(query)?;
    let pixels = match &*site.samples() {
        SamplesState::Ready(samples) => samples.images.get(class).and_then(|images| images.get(index)).cloned(),
        _ => None,
    };
    let Some(pixels) = pixels else { return missing(format!("there is no sample {index} of class {class}")) };
    let original = (site.network.input().width as u32, site.network.input().height as u32);
    predict(&site, Picture { pixels, inverted: false, blank: false, original }).await
}

async fn predict(site: &Site, picture: Picture) -> Answered {
    let generation = site.check_weights()?;
    let Picture { pixels, inverted, blank, .. } = picture;
    let prepared = Arc::new(Prepared::new(pixels));
    site.pictures.keep(Arc::clone(&prepared));
    let logits = values(site.client.ask(Arc::clone(&prepared), Question::Logits).await?)?;
    let probabilities = Prediction { logits: logits.clone() }.probabilities();
    let pixels = BASE64_STANDARD.encode(&prepared.pixels);
    let (picture, logits, probabilities) = (prepared.id.as_str(), &logits[..], &probabilities[..]);
    Ok(json(&PictureData { picture, generation, logits, probabilities, inverted, blank, pixels }))
}

fn values(answer: Answer) -> Result<Vec<f32>, Problem> {
    let Answer::Values(values) = answer else {
        return Err(Problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer to another question".into()));
    };
    Ok(values)
}

fn little_endian(values: &[f32]) -> Response {
    bytes(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

#[derive(Deserialize)]
struct MapsQuery {
    picture: String,
    layer: usize,
    first: usize,
    count: usize,
}

/// Channels of a layer as f32 in little-endian order, `[count][height][width]`.
async fn maps(State(site): Shared, query: Given<MapsQuery>) -> Answered {
    let MapsQuery { picture, layer: node, first, count } = read(query)?;
    site.check_layer(node)?;
    let shape = site.network.nodes[node].shape;
    let fits = first.checked_add(count).is_some_and(|end| end <= shape.channels);
    if !fits || count == 0 || count * shape.pixels() > MAX_VALUES {
        return bad(format!("channels {first} and {count} more are not in a layer of {shape}, or too many at once"));
    }
    let question = Question::Maps { node, first, count };
    Ok(little_endian(&values(site.client.ask(site.picture(&picture)?, question).await?)?))
}

#[derive(Deserialize)]
struct GradCamQuery {
    picture: String,
    class: usize,
}

/// A Grad-CAM map as f32 in little-endian order, `[height][width]` of the input.
async fn grad_cam(State(site): Shared, query: Given<GradCamQuery>) -> Answered {
    let GradCamQuery { picture, class } = read(query)?;
    let Some(node) = site.described.explained else { return missing("the network has no convolution".into()) };
    if class >= site.network.classes() {
        return missing(format!("there is no class {class}"));
    }
    let question = Question::GradCam { node, class };
    Ok(little_endian(&values(site.client.ask(site.picture(&picture)?, question).await?)?))
}

#[derive(Deserialize)]
struct UnitQuery {
    picture: String,
    layer: usize,
    channel: usize,
    row: usize,
    column: usize,
}

/// How a value of a layer was computed.
async fn unit(State(site): Shared, query: Given<UnitQuery>) -> Answered {
    let UnitQuery { picture, layer: node, channel, row, column } = read(query)?;
    site.check_layer(node)?;
    let shape = site.network.nodes[node].shape;
    if channel >= shape.channels || row >= shape.height || column >= shape.width {
        return missing(format!("there is no such value in a layer of {shape}"));
    }
    let question = Question::Computation { node, unit: (channel, row, column) };
    match site.client.ask(site.picture(&picture)?, question).await? {
        Answer::Computation(computation) => Ok(json(&*computation)),
        Answer::Values(_) => Err(Problem(StatusCode::INTERNAL_SERVER_ERROR, "the answer to another question".into())),
    }
}
