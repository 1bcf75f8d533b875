//! Values between the host and the regions of a device, in whatever type they have there.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::{Cuda, memory};
use crate::ops::{Region, Span};

impl Cuda {
    /// Copies `values` to the beginning of `span`, rounded where its storage is; of parameters also the rounded copy.
    pub(super) fn upload(&mut self, span: Span, values: &[f32]) -> Result<()> {
        ensure!(values.len() <= span.len, "{} values do not fit {span:?}", values.len());
        let (stream, fp16) = (Arc::clone(&self.stream), self.is_fp16());
        let floats = || values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let halves = || values.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes()).collect::<Vec<u8>>();
        let memory = self.memory_mut()?;
        memory.address(span)?;
        match span.region {
            Region::Arena if fp16 => memory.region_mut(Region::Arena).upload(&stream, 2 * span.offset, &halves()),
            Region::Parameters if fp16 => {
                memory.region_mut(Region::Parameters).upload(&stream, 4 * span.offset, &floats())?;
                let copy = memory.half_parameters.as_mut().context("fp16 storage has a copy of the parameters")?;
                copy.upload(&stream, 2 * span.offset, &halves())
            }
            region => memory.region_mut(region).upload(&stream, 4 * span.offset, &floats()),
        }
    }

    /// The values of `span`, once the device is there.
    pub(super) fn download(&mut self, span: Span) -> Result<Vec<f32>> {
        let memory = self.memory()?;
        memory.address(span)?;
        let (buffer, size) = memory.region(span.region);
        let bytes = buffer.download(&self.stream, span.offset * size, span.len * size)?;
        if span.region == Region::Indices {
            return Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32).collect());
        }
        match size {
            2 => Ok(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            _ => memory::f32_from_bytes(&bytes),
        }
    }
}
