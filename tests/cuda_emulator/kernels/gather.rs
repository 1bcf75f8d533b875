//! Gathering batches of images of any size and number of channels.

use cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig};
use half::f16;

use super::super::device::{Device, launch};
use super::in_both_orders;

in_both_orders!(gathers_a_batch_at_the_position, augments_as_one_block_does);

/// Height, width and channels. The last has too many channels for a table, and most have samples that do not start at a
/// multiple of 16 bytes.
const SHAPES: [[usize; 3]; 6] = [[2, 2, 3], [8, 4, 1], [17, 9, 3], [1, 1, 1], [64, 48, 4], [5, 3, 6]];

/// No images that were transformed before.
const NONE: u64 = 0;

const BATCH: usize = 3;
const ORDER: [u32; 7] = [4, 0, 6, 2, 1, 5, 3];

/// Seven images with their labels, of which the batch at position 2 of the order is gathered.
struct Set {
    shape: [usize; 3],
    bytes: Vec<u8>,
    images: CudaSlice<u8>,
    labels: CudaSlice<u32>,
    order: CudaSlice<u32>,
    mean: Vec<f32>,
    std: Vec<f32>,
    levels: [CudaSlice<f32>; 2],
}

impl Set {
    fn new(device: &Device, shape: [usize; 3]) -> Self {
        let size: usize = shape.iter().product();
        let bytes: Vec<u8> = (0..7 * size).map(|i| (i * 37 % 256) as u8).collect();
        let mean: Vec<f32> = (0..shape[2]).map(|c| 0.5 - 0.1 * c as f32).collect();
        let std: Vec<f32> = (0..shape[2]).map(|c| 0.3 + 0.1 * c as f32).collect();
        let levels = [device.upload(&mean), device.upload(&std)];
        let labels = device.upload(&(10..17).collect::<Vec<u32>>());
        let order = device.upload(&ORDER);
        Self { shape, images: device.upload(&bytes), bytes, labels, order, mean, std, levels }
    }

    fn expected(&self) -> Vec<f32> {
        let [_, _, channels] = self.shape;
        let size = self.shape.iter().product();
        let value = |i: usize, byte: u8| (f32::from(byte) / 255.0 - self.mean[i % channels]) / self.std[i % channels];
        let image = |&at: &u32| &self.bytes[at as usize * size..][..size];
        let batch = ORDER[2..][..BATCH].iter().map(image);
        batch.flat_map(|image| image.iter().enumerate().map(|(i, &byte)| value(i, byte))).collect()
    }
}

fn grid(parts: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (BATCH as u32, parts, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 }
}

/// The output begins `offset` values after a multiple of 16 bytes.
fn gathers_a_batch_at_the_position(device: Device) {
    for shape in SHAPES {
        let set = Set::new(&device, shape);
        let Set { images, labels, order, levels: [mean, std], .. } = &set;
        let (size, channels) = (shape.iter().product::<usize>() as u32, shape[2] as u32);
        for (parts, offset) in [(1, 0), (3, 0), (2, 3)] {
            let (position, block_counters) = (device.upload(&[2u64]), device.upload(&[0u32]));
            let len = 4 + BATCH * size as usize;
            let (wide, narrow) = (device.poisoned::<f32>(len), device.poisoned::<f16>(len));
            let taken = device.poisoned::<u32>(BATCH);
            let (p, t, a, n, c) = (&position, &taken, &block_counters, &size, &channels);
            let o = wide.device_ptr(&device.stream).0 + 4 * offset;
            let h = narrow.device_ptr(&device.stream).0 + 2 * offset;
            let name = "gather_normalise_f32";
            launch!(device, name, grid(parts), images, &NONE, labels, order, mean, std, p, &o, t, a, n, c).unwrap();
            assert_eq!(device.download(&wide)[offset as usize..][..set.expected().len()], set.expected(), "{shape:?}");
            assert_eq!((device.download(p), device.download(a)), (vec![5], vec![0]));
            assert_eq!(device.download(t), [6, 2, 1].map(|at| 10 + at));
            let (position, name) = (device.upload(&[2u64]), "gather_normalise_f16");
            launch!(device, name, grid(parts), images, &NONE, labels, order, mean, std, &position, &h, t, a, n, c)
                .unwrap();
            let rounded: Vec<f16> = set.expected().into_iter().map(f16::from_f32).collect();
            assert_eq!(device.download(&narrow)[offset as usize..][..rounded.len()], rounded, "{shape:?}");
        }
    }
}

/// Dividing an image among blocks changes nothing, and an augmentation that changes nothing gives plain images.
fn augments_as_one_block_does(device: Device) {
    for shape in SHAPES {
        let set = Set::new(&device, shape);
        let Set { images, labels, order, levels: [mean, std], .. } = &set;
        let draws = device.upload(&[7u64, 3]);
        let [height, width, channels] = shape.map(|side| side as u32);
        let augmented = |parts: u32, [crop, reflect, flip, cutout]: [u32; 4], spread: f32| {
            let (position, block_counters) = (device.upload(&[2u64]), device.upload(&[0u32]));
            let output = device.poisoned::<f32>(BATCH * shape.iter().product::<usize>());
            let taken = device.poisoned::<u32>(BATCH);
            let (d, p, o, t, a, name) = (&draws, &position, &output, &taken, &block_counters, "gather_augment_f32");
            let (y, x, c, k, r, f, u, s) = (&height, &width, &channels, &crop, &reflect, &flip, &cutout, &spread);
            let (i, l, n, m, q) = (images, labels, order, mean, std);
            launch!(device, name, grid(parts), i, &NONE, l, n, n, m, q, d, p, o, t, a, y, x, c, k, r, f, u, s, s)
                .unwrap();
            assert_eq!((device.download(p), device.download(a)), (vec![5], vec![0]));
            assert_eq!(device.download(t), [6, 2, 1].map(|at| 10 + at));
            device.download(o)
        };
        assert_eq!(augmented(2, [0, 0, 0, 0], 0.0), set.expected(), "{shape:?}");
        let whole = augmented(1, [3, 0, 1, 4], 0.25);
        assert!(whole.iter().all(|value| value.is_finite()) && whole != set.expected());
        assert_eq!(augmented(3, [3, 0, 1, 4], 0.25), whole, "{shape:?}");
    }
}
