//! The thread that has the network: it answers one question after the other.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::computation::{Computation, computation};
use super::pictures::Prepared;
use crate::explain::{Attribution, Unit, grad_cam};
use crate::network::{Network, NodeId, Weights};
use crate::ops::{Backend, Normalise};
use crate::plan::ReluGradient;

/// What is asked about a picture. The layer, channels, class and unit exist.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    Logits,
    /// The values of some channels of a layer.
    Maps {
        node: NodeId,
        first: usize,
        count: usize,
    },
    GradCam {
        node: NodeId,
        class: usize,
    },
    Computation {
        node: NodeId,
        unit: (usize, usize, usize),
    },
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// Logits; channels, `[count][height][width]`; or a Grad-CAM map in the size of the input, from 0 to 1.
    Values(Vec<f32>),
    Computation(Box<Computation>),
}

/// What the thread does next.
#[derive(Debug)]
pub enum Job {
    Ask {
        picture: Arc<Prepared>,
        question: Question,
        reply: oneshot::Sender<Result<Answer>>,
    },
    /// New weights of the same network.
    Load(Box<Weights>),
    /// The server has ended, with this error.
    Stop(anyhow::Error),
}

/// A network on a backend, with its weights also in memory.
pub struct Engine<'a, B: Backend> {
    attribution: Attribution<'a, B>,
    network: &'a Network,
    normalise: &'a Normalise,
    weights: Weights,
    /// The picture whose activations the backend has.
    current: Option<Arc<Prepared>>,
}

impl<'a, B: Backend> Engine<'a, B> {
    /// # Errors
    /// If the device has too little memory.
    pub fn new(backend: &'a mut B, network: &'a Network, normalise: &'a Normalise, weights: Weights) -> Result<Self> {
        let attribution = Attribution::new(backend, network, &weights, ReluGradient::True, 1)?;
        Ok(Self { attribution, network, normalise, weights, current: None })
    }

    /// Answers until all clients are gone.
    ///
    /// # Errors
    /// That of the server, or if the backend does not accept new weights.
    pub fn run(mut self, jobs: Receiver<Job>) -> Result<()> {
        for job in jobs {
            match job {
                // Whoever asked has gone.
                Job::Ask { reply, .. } if reply.is_closed() => {}
                Job::Ask { picture, question, reply } => {
                    let answer = self.answer(&picture, question);
                    if answer.is_err() {
                        self.current = None;
                    }
                    // Whoever asked may have gone meanwhile.
                    let _ = reply.send(answer);
                }
                Job::Stop(error) => return Err(error),
                Job::Load(weights) => {
                    self.attribution.load(&weights)?;
                    (self.weights, self.current) = (*weights, None);
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, picture: &Arc<Prepared>, question: Question) -> Result<Answer> {
        if let Question::GradCam { node, class } = question {
            // The backward pass overwrites no activation.
            self.current = Some(Arc::clone(picture));
            let input = self.normalise.apply(&picture.pixels);
            let map = grad_cam(&mut self.attribution, &input, class, node)?;
            let shape = self.network.input();
            return Ok(Answer::Values(map.normalised().resized(shape.height, shape.width).normalised().values));
        }
        if self.current.as_ref().is_none_or(|current| current.id != picture.id) {
            let input = self.normalise.apply(&picture.pixels);
            self.attribution.forward(&input)?;
            self.current = Some(Arc::clone(picture));
        }
        match question {
            Question::Maps { node, first, count } => {
                let (values, shape) = (self.attribution.activations(node)?, self.attribution.shape(node));
                let channel = |channel| values.iter().skip(channel).step_by(shape.channels).copied();
                Ok(Answer::Values((first..first + count).flat_map(channel).collect()))
            }
            Question::Computation { node, unit: (channel, row, column) } => {
                let activation = f32::NAN;
                let unit = Unit { channel, row, column, activation };
                let found = computation(&mut self.attribution, self.network, &self.weights, node, unit)?;
                Ok(Answer::Computation(Box::new(found)))
            }
            Question::Logits | Question::GradCam { .. } => {
                let last = self.network.nodes.len().checked_sub(1).context("the network has no layers")?;
                Ok(Answer::Values(self.attribution.activations(last)?))
            }
        }
    }
}
