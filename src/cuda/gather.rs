//! Batches from the images that are resident on the device.

use anyhow::{Context, Result, ensure};

use super::kernels::{Arg, u32_arg};
use super::memory::{Buffer, Pinned, bytes_of_u32};
use super::{Cuda, error};
use crate::ops::{Backend, GatherOps, Normalise, Span, Subset};

/// Both sets.
#[derive(Default)]
pub(super) struct State {
    train: Option<Resident>,
    test: Option<Resident>,
}

struct Resident {
    images: Buffer,
    labels: Buffer,
    mean: Buffer,
    std: Buffer,
    order: Pinned,
    /// Where in the order the next batch begins: on the device, because a recorded step reads it there.
    position: Pinned,
    sample_len: usize,
    channels: usize,
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
}

impl GatherOps for Cuda {
    fn load_subset(&mut self, subset: Subset, op: &Normalise, images: Vec<u8>, labels: Vec<u32>) -> Result<()> {
        let (sample_len, channels, count) = (op.shape.len(), op.shape.channels, labels.len());
        ensure!(images.len() == count * sample_len, "{} bytes for {count} images", images.len());
        ensure!(op.mean.len() == channels && op.std.len() == channels, "one mean and std a channel");
        self.graphs.clear(); // recorded steps read the old set
        let stream = &self.stream;
        let upload = |bytes: &[u8]| -> Result<Buffer> {
            let mut buffer = Buffer::new(stream, bytes.len()).map_err(error::driver)?;
            buffer.upload(stream, 0, bytes)?;
            Ok(buffer)
        };
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let resident = Resident {
            images: upload(&images).with_context(|| {
                format!("the {} MB of the data set's images do not fit the device", images.len() / 1_000_000)
            })?,
            labels: upload(&bytes_of_u32(&labels))?,
            mean: upload(&floats(&op.mean))?,
            std: upload(&floats(&op.std))?,
            order: Pinned::new(stream, 4 * count)?,
            position: Pinned::new(stream, 8)?,
            sample_len,
            channels,
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

    fn set_order(&mut self, subset: Subset, order: &[u32], position: usize) -> Result<()> {
        let count = self.gather.subset(subset)?.count;
        ensure!(order.iter().all(|&index| (index as usize) < count), "the order names an image past the last");
        if 4 * order.len() > self.gather.subset(subset)?.order.device.len() {
            self.graphs.clear(); // they know the old address
            self.synchronize()?;
            self.gather.subset(subset)?.order = Pinned::new(&self.stream, 4 * order.len())?;
        }
        let resident = self.gather.subset(subset)?;
        resident.order.write(&self.stream, &bytes_of_u32(order))?;
        resident.position.write(&self.stream, &(position as u64).to_le_bytes())?;
        (resident.order_len, resident.next) = (order.len(), position);
        Ok(())
    }

    fn gather_normalise(&mut self, subset: Subset, batch: usize, output: Span) -> Result<()> {
        self.gather.take(subset, batch)?;
        if self.capturing {
            self.graphs.gathers.push((subset, batch));
        }
        let (labels, resident) = (self.loss.labels(), self.gather.subset(subset)?);
        let sample_len = resident.sample_len;
        let mut args = vec![
            Arg::Pointer(resident.images.address()),
            Arg::Pointer(resident.labels.address()),
            Arg::Pointer(resident.order.device.address()),
            Arg::Pointer(resident.position.device.address()),
            Arg::Pointer(resident.mean.address()),
            Arg::Pointer(resident.std.address()),
        ];
        let sizes = [u32_arg(batch)?, u32_arg(sample_len)?, u32_arg(resident.channels)?];
        let arrived = Arg::Pointer(self.memory()?.arrived.address());
        args.extend([self.pointer(output.first(batch * sample_len))?, labels, arrived]);
        args.extend(sizes);
        self.launch("gather_normalise", batch * sample_len, &args)
    }
}
