//! Shapes, tiles and storage types of the tests of products.

use cudarc::driver::{CudaSlice, LaunchConfig};

use super::super::super::device::{Device, Field};
use super::super::{geometry, halves};

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub samples: usize,
    pub input: [usize; 3],
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Case {
    pub const fn new(
        samples: usize,
        input: [usize; 3],
        out_channels: usize,
        [kernel, stride, padding]: [usize; 3],
    ) -> Self {
        Self { samples, input, out_channels, kernel, stride, padding }
    }

    pub fn outputs(&self) -> (usize, usize) {
        let along = |size: usize| (size + 2 * self.padding - self.kernel) / self.stride + 1;
        (along(self.input[0]), along(self.input[1]))
    }

    pub fn rows(&self) -> usize {
        self.samples * self.outputs().0 * self.outputs().1
    }

    pub fn patch(&self) -> usize {
        self.kernel * self.kernel * self.input[2]
    }

    pub fn geometry(&self) -> [u32; 11] {
        let [height, width, channels] = self.input;
        geometry([height, width, channels, self.out_channels], self.outputs(), [self.kernel, self.stride, self.padding])
    }

    /// Calls `visit(output pixel, position in the patch, input value)` for every pair inside the image.
    pub fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let ([height, width, channels], (out_height, out_width)) = (self.input, self.outputs());
        let at = |out: usize, tap: usize, size: usize| {
            (out * self.stride + tap).checked_sub(self.padding).filter(|&at| at < size)
        };
        for row in 0..self.rows() {
            let (sample, y, x) = (row / out_width / out_height, row / out_width % out_height, row % out_width);
            for place in 0..self.patch() {
                let (channel, tap) = (place % channels, place / channels);
                let inside = at(y, tap / self.kernel, height).zip(at(x, tap % self.kernel, width));
                if let Some((y, x)) = inside {
                    visit(row, place, ((sample * height + y) * width + x) * channels + channel);
                }
            }
        }
    }
}

/// Whole numbers from −2 to 2.
pub fn small(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) / 13 % 5) as f32 - 2.0).collect()
}

/// A kernel and its tile, as its line in the source declares them.
#[derive(Clone, Debug)]
pub struct Tile {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub threads: usize,
    pub shared: usize,
    pub vector: bool,
}

const SOURCES: [&str; 2] =
    [include_str!("../../../../kernels/multistage.cu"), include_str!("../../../../kernels/warpgroup.cu")];

/// The kernels whose names start with `direction`.
pub fn tiles(direction: &str) -> Vec<Tile> {
    let numbers = |text: &str| text.split(", ").filter_map(|number| number.parse().ok()).collect::<Vec<usize>>();
    let tile = |kernel: &str| {
        let (name, rest) = kernel.split_once(", ").filter(|(name, _)| name.starts_with(direction))?;
        let threads = numbers(rest.split_once(')')?.0)[0];
        let (engine, arguments) = rest.split_once("Tile<")?;
        let tile = numbers(arguments.split_once('>')?.0);
        let [rows, cols, bytes, stages, alignment] = match engine.ends_with("Wgmma") {
            true => [tile[0] * tile[1] * 64, tile[2], 128, tile[3], 1024],
            false => [tile[0], tile[1], tile[2], tile[5], 0],
        };
        let results = |real: usize| rows * cols * real + threads * 16 / real * 4;
        let shared = (stages * (rows + cols) * bytes).max(results(2)).max(results(4)) + alignment;
        Some(Tile { name: name.into(), rows, cols, threads, shared, vector: !name.ends_with("_scalar") })
    };
    let found: Vec<Tile> =
        SOURCES.iter().flat_map(|source| source.split("\nKERNEL(").skip(1)).filter_map(tile).collect();
    assert!(found.len() > 8, "{direction} has few kernels");
    found
}

impl Tile {
    pub fn config(&self, tiles: usize, splits: usize) -> LaunchConfig {
        let [tiles, splits, threads, shared] = [tiles, splits, self.threads, self.shared].map(|n| n as u32);
        LaunchConfig { grid_dim: (tiles, splits, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
    }

    /// Partial results and counters for this many tiles and splits; the counters are zero before and after.
    pub fn scratch(&self, device: &Device, tiles: usize, splits: usize) -> (CudaSlice<f32>, CudaSlice<u32>) {
        let counters = tiles * (1 + splits.div_ceil(8));
        (device.poisoned(tiles * splits * self.rows * self.cols), device.upload(&vec![0_u32; counters]))
    }
}

/// A tensor in one of the two storage types.
pub enum Tensor {
    Floats(CudaSlice<f32>),
    Halves(CudaSlice<half::f16>),
}

impl Field for Tensor {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Floats(slice) => slice.bytes(),
            Self::Halves(slice) => slice.bytes(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Storage {
    Fp32,
    Fp16,
}

impl Storage {
    pub const ALL: [Self; 2] = [Self::Fp32, Self::Fp16];

    pub fn suffix(self) -> &'static str {
        if self == Self::Fp32 { "_f32" } else { "_f16" }
    }

    pub fn vector(self) -> usize {
        if self == Self::Fp32 { 4 } else { 8 }
    }

    pub fn upload(self, device: &Device, values: &[f32]) -> Tensor {
        match self {
            Self::Fp32 => Tensor::Floats(device.upload(values)),
            Self::Fp16 => Tensor::Halves(device.upload(&halves(values))),
        }
    }

    pub fn poisoned(self, device: &Device, count: usize) -> Tensor {
        match self {
            Self::Fp32 => Tensor::Floats(device.poisoned(count)),
            Self::Fp16 => Tensor::Halves(device.poisoned(count)),
        }
    }

    /// The value as it is stored.
    pub fn rounded(self, value: f32) -> f32 {
        if self == Self::Fp32 { value } else { half::f16::from_f32(value).to_f32() }
    }
}

pub fn download(device: &Device, tensor: &Tensor) -> Vec<f32> {
    match tensor {
        Tensor::Floats(slice) => device.download(slice),
        Tensor::Halves(slice) => device.download(slice).into_iter().map(half::f16::to_f32).collect(),
    }
}

pub fn null() -> u64 {
    0
}

/// The kernel of a tile, allowed to use the tile's shared memory.
pub fn name(tile: &Tile, storage: Storage) -> String {
    format!("{}{}", tile.name, storage.suffix())
}

/// Every tile that can compute the case in each storage type.
pub fn each_tile(direction: &str, channels: &[usize], mut check: impl FnMut(&Tile, Storage)) {
    for storage in Storage::ALL {
        for tile in tiles(direction) {
            if !tile.vector || channels.iter().all(|it| it.is_multiple_of(storage.vector())) {
                check(&tile, storage);
            }
        }
    }
}
