//! Batches from images on the device: all of them, or those that were just uploaded.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::CudaStream;

use super::feed::{self, Feed};
use super::kernels::{Arg, u32_arg};
use super::memory::{Buffer, Pinned, bytes_of_u32};
use super::{Cuda, error};
use crate::images::ImageSource;
use crate::ops::{Augmentation, Backend, GatherOps, Normalise, Span, Subset};
use crate::shape::Shape;

/// Values of an image that one block changes: enough to make up for its draws.
const VALUES_OF_A_BLOCK: usize = 4096;

/// Both sets.
#[derive(Default)]
pub(super) struct State {
    train: Option<Resident>,
    test: Option<Resident>,
    augmenting: Option<Augmenting>,
}

/// How training images are changed, and on the device the epoch that it is drawn for.
struct Augmenting {
    op: Augmentation,
    seed: u64,
    epoch: Pinned,
}

struct Resident {
    /// All of them, or the slots of those that are streamed.
    images: Buffer,
    labels: Buffer,
    feed: Option<Feed>,
    mean: Buffer,
    std: Buffer,
    order: Pinned,
    /// Where in the order the next batch begins: on the device, because a recorded step reads it there.
    position: Pinned,
    shape: Shape,
    count: usize,
    /// Length of the order, and the host's copy of the position.
    order_len: usize,
    next: usize,
}

impl State {
    fn subset(&mut self, subset: Subset) -> Result<&mut Resident> {
        let resident = match subset {
            Subset::Train => &mut self.train,
            Subset::Test => &mut self.test,
        };
        resident.as_mut().context("no data set was loaded")
    }

    /// Notes that a batch is taken; an error where the order has not that many left.
    pub fn take(&mut self, subset: Subset, batch: usize) -> Result<()> {
        let resident = self.subset(subset)?;
        ensure!(resident.next + batch <= resident.order_len, "no {batch} images are left in this epoch");
        resident.next += batch;
        Ok(())
    }

    /// Takes back what was only recorded.
    pub fn give_back(&mut self, subset: Subset, batch: usize) -> Result<()> {
        self.subset(subset)?.next -= batch;
        Ok(())
    }

    /// Whether every training step has its batch prepared.
    pub fn streams(&self) -> bool {
        self.train.as_ref().is_some_and(|resident| resident.feed.is_some())
    }
}

/// The bytes on the device.
fn upload(stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<Buffer> {
    let mut buffer = Buffer::new(stream, bytes.len()).map_err(error::driver)?;
    buffer.upload(stream, 0, bytes)?;
    Ok(buffer)
}

impl Cuda {
    /// Gathers from these buffers from now on.
    fn use_set(
        &mut self,
        subset: Subset,
        op: &Normalise,
        count: usize,
        (images, labels): (Buffer, Buffer),
        feed: Option<Feed>,
    ) -> Result<()> {
        let channels = op.shape.channels;
        ensure!(op.mean.len() == channels && op.std.len() == channels, "one mean and std a channel");
        self.graphs.clear(); // recorded steps read the old set
        let stream = &self.stream;
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let resident = Resident {
            images,
            labels,
            feed,
            mean: upload(stream, &floats(&op.mean))?,
            std: upload(stream, &floats(&op.std))?,
            order: Pinned::new(stream, 4 * count)?,
            position: Pinned::new(stream, 8)?,
            shape: op.shape,
            count,
            order_len: 0,
            next: 0,
        };
        // Host memory that is about to go away must have been read.
        stream.synchronize().map_err(error::driver)?;
        match subset {
            Subset::Train => self.gather.train = Some(resident),
            Subset::Test => self.gather.test = Some(resident),
        }
        Ok(())
    }
}

impl GatherOps for Cuda {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let (sample_len, count) = (op.shape.len(), labels.len());
        ensure!(images.len() == count * sample_len, "{} bytes for {count} images", images.len());
        let stream = Arc::clone(&self.stream);
        let images = upload(&stream, &images).with_context(|| {
            format!("the {} MB of the data set's images do not fit the device", images.len() / 1_000_000)
        })?;
        let labels = upload(&stream, &bytes_of_u32(&labels))?;
        self.use_set(subset, op, count, (images, labels), None)
    }

    fn stream_subset(
        &mut self,
        subset: Subset,
        op: &Normalise,
        source: Arc<dyn ImageSource>,
        labels: Vec<u32>,
        max_batch: usize,
    ) -> Result<()> {
        let (sample_len, count) = (op.shape.len(), labels.len());
        let ring = |bytes: usize| Buffer::new(&self.stream, feed::SLOTS * max_batch * bytes).map_err(error::driver);
        let buffers = (ring(sample_len)?, ring(4)?);
        let feed = Feed::new(&self.stream, source, labels, max_batch, sample_len)?;
        self.use_set(subset, op, count, buffers, Some(feed))
    }

    fn prepare_batch(&mut self, subset: Subset, batch: usize) -> Result<()> {
        let resident = self.gather.subset(subset)?;
        match &mut resident.feed {
            Some(feed) => feed.upload(&self.stream, (&mut resident.images, &mut resident.labels), batch),
            None => Ok(()),
        }
    }

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        let count = self.gather.subset(subset)?.count;
        ensure!(order.iter().all(|&index| (index as usize) < count), "the order names an image past the last");
        if 4 * order.len() > self.gather.subset(subset)?.order.device.len() {
            self.graphs.clear(); // they know the old address
            self.synchronize()?;
            self.gather.subset(subset)?.order = Pinned::new(&self.stream, 4 * order.len())?;
        }
        let resident = self.gather.subset(subset)?;
        // Also waits for the steps of the last order.
        resident.position.write(&self.stream, &(position as u64).to_le_bytes())?;
        let order = match &mut resident.feed {
            Some(feed) => &feed.begin(order, position)?,
            None => order,
        };
        resident.order.write(&self.stream, &bytes_of_u32(order))?;
        (resident.order_len, resident.next) = (order.len(), position);
        Ok(())
    }

    fn set_augmentation(&mut self, op: &Augmentation, seed: u64, epoch: u32) -> Result<()> {
        let same = |now: &Augmenting| (now.op, now.seed) == (*op, seed);
        if !self.gather.augmenting.as_ref().is_some_and(same) {
            self.graphs.clear(); // recorded steps know the old settings
            self.gather.augmenting = Some(Augmenting { op: *op, seed, epoch: Pinned::new(&self.stream, 4)? });
        }
        let augmenting = self.gather.augmenting.as_mut().context("settings")?;
        augmenting.epoch.write(&self.stream, &epoch.to_le_bytes())
    }

    fn gather_normalise(&mut self, subset: Subset, batch: usize, output: Span) -> Result<()> {
        self.gather.take(subset, batch)?;
        if self.capturing {
            self.graphs.gathers.push((subset, batch));
        }
        let (labels, resident) = (self.loss.labels(), self.gather.subset(subset)?);
        let (shape, sample_len) = (resident.shape, resident.shape.len());
        let mut args = vec![
            Arg::Pointer(resident.images.address()),
            Arg::Pointer(resident.labels.address()),
            Arg::Pointer(resident.order.device.address()),
            Arg::Pointer(resident.position.device.address()),
            Arg::Pointer(resident.mean.address()),
            Arg::Pointer(resident.std.address()),
        ];
        let arrived = Arg::Pointer(self.memory()?.arrived.address());
        args.extend([self.pointer(output.first(batch * sample_len))?, labels, arrived]);
        if subset == Subset::Train
            && let Some(Augmenting { op, seed, epoch }) = &self.gather.augmenting
        {
            args.extend([Arg::Pointer(epoch.device.address()), Arg::U64(*seed)]);
            args.extend([u32_arg(shape.height)?, u32_arg(shape.width)?, u32_arg(shape.channels)?]);
            args.extend([op.crop_padding, op.flip.into(), op.cutout].map(Arg::U32));
            args.extend([op.brightness, op.contrast].map(Arg::F32));
            let parts = sample_len.div_ceil(VALUES_OF_A_BLOCK).min(1 << 15) as u32;
            return self.kernels.launch_grid(&self.stream, "gather_augment", [u32::try_from(batch)?, parts], &args);
        }
        args.extend([u32_arg(batch)?, u32_arg(sample_len)?, u32_arg(shape.channels)?]);
        self.launch("gather_normalise", batch * sample_len, &args)
    }
}
