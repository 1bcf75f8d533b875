//! Asks the thread that has the network. Questions wait in a queue of limited length.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

use super::engine::{Answer, Job, Question};
use super::pictures::Prepared;

/// Each waiting question has a client, of which there are not many more.
const QUEUE: usize = 128;

/// Why a request is not answered: a status and a sentence.
#[derive(Debug)]
pub struct Problem(pub StatusCode, pub String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, [(CONTENT_TYPE, "text/plain; charset=utf-8")], self.1 + "\n").into_response()
    }
}

/// The way to the network's thread.
#[derive(Clone, Debug)]
pub struct Client(SyncSender<Job>);

impl Client {
    /// A client, and the jobs that it sends.
    pub fn new() -> (Self, Receiver<Job>) {
        let (sender, receiver) = sync_channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Waits for the answer about a picture. If the caller stops waiting, the question is dropped.
    pub(super) async fn ask(&self, picture: Arc<Prepared>, question: Question) -> Result<Answer, Problem> {
        let (reply, answer) = oneshot::channel();
        let failed = |text: String| Problem(StatusCode::INTERNAL_SERVER_ERROR, text);
        self.0.try_send(Job::Ask { picture, question, reply }).map_err(|error| match error {
            TrySendError::Full(_) => {
                Problem(StatusCode::SERVICE_UNAVAILABLE, "too many questions are waiting; try again".into())
            }
            TrySendError::Disconnected(_) => failed("the network has stopped".into()),
        })?;
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(format!("{error:#}"))),
            Err(_) => Err(failed("the network has stopped".into())),
        }
    }

    /// Sends a job, and waits while the queue is full. Returns whether the network's thread still runs.
    pub fn send(&self, job: Job) -> bool {
        self.0.send(job).is_ok()
    }
}
