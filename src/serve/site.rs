//! What all requests share: the network and its description, the pictures of the last requests, and what changes meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use super::client::Client;
use super::layers::Described;
use super::pictures::Pictures;
use super::run_folder::RunFolder;
use super::samples::SamplesState;
use crate::data::picture::PicturePreparation;
use crate::network::Network;

/// Everything that requests are answered from.
#[derive(Debug)]
pub struct Site {
    pub network: Network,
    pub classes: Vec<String>,
    pub preparation: PicturePreparation,
    /// What the page says about the network's device and weights.
    pub about: About,
    pub client: Client,
    pub run: Option<RunFolder>,
    pub(super) described: Described,
    pub(super) pictures: Pictures,
    pub(super) samples: Mutex<SamplesState>,
    pub(super) status: Mutex<Status>,
}

/// Sentences and names for the page.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub weights: String,
    pub device: String,
    /// What a visitor should know, such as that `predict` averages several views.
    pub notes: Vec<String>,
}

/// The weights that the network has.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// How often weights were loaded; 0 before the first time.
    pub generation: u64,
    /// Why the newest weights could not be loaded.
    pub error: Option<String>,
}

impl Site {
    pub fn new(
        network: Network,
        classes: Vec<String>,
        preparation: PicturePreparation,
        about: About,
        client: Client,
        run: Option<RunFolder>,
    ) -> Arc<Self> {
        let described = Described::new(&network);
        let (pictures, samples, status) = (Pictures::default(), Mutex::new(SamplesState::Loading), Mutex::default());
        Arc::new(Self { network, classes, preparation, about, client, run, described, pictures, samples, status })
    }

    /// Sets the samples, or why there are none.
    pub fn set_samples(&self, samples: SamplesState) {
        *self.samples.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    pub fn weights_loaded(&self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.generation, status.error) = (status.generation + 1, None);
    }

    pub(super) fn weights_failed(&self, why: String) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).error = Some(why);
    }

    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
