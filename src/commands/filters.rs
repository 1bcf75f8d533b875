//! `cnn-cuda filters`

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tracing::{info, warn};

use super::device::{Task, check_device, with_backend};
use super::evaluated::{Evaluated, EvaluatedFlags};
use super::explain::{batch_for, write_file};
use crate::data::Dataset;
use crate::explain::{Attribution, Excitation, Strongest, convolution_layers, deconvolve, find_layer, layer_title};
use crate::files::{create_folder, printable};
use crate::network::{Network, NodeId, Weights};
use crate::ops::{Backend, Normalise};
use crate::plan::ReluGradient;
use crate::report::explained::{Channel, LayerFilters, Patch, channel_sheet, filters_page};
use crate::report::first_layer_filters;
use crate::report::picture::{Picture, Rgb, contact_sheet};
use crate::report::stream::Stdout;
use crate::settings::{DeviceSettings, Given, RetiredFlags, bounds};

#[derive(Args)]
pub struct FiltersArgs {
    #[command(flatten)]
    evaluated: EvaluatedFlags,
    /// Deeper layers to show, separated by commas, as listed by `cnn-cuda summary`; a module's name means its output
    /// [default: all convolutions, if the images are known]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    layer: Vec<String>,
    /// Channels to show per layer
    #[arg(long, value_name = "N", value_parser = bounds::positive, default_value = "16")]
    maps: usize,
    /// Images to show per channel, those that excite it most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100), default_value = "9")]
    top: u8,
    /// Images to search, evenly spread over the set
    #[arg(long, value_name = "N", value_parser = bounds::positive, default_value = "1000")]
    images: usize,
    /// Folder for the page index.html and the PNG files
    #[arg(long, value_name = "DIR", default_value = "filters")]
    out: PathBuf,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
}

/// The colour between pictures, on light and dark pages.
const BACKGROUND: Rgb = [128, 132, 138];

/// Shows the filters of the first convolution as pictures, and deeper ones by the images that excite them.
pub fn run(args: &FiltersArgs) -> Result<ExitCode> {
    args.retired.warn();
    let device = args.device.or_defaults()?;
    check_device(&device)?;
    let (network, weights, dataset) = load(args)?;
    create_folder(&args.out).with_context(|| format!("--out: cannot create the folder {}", args.out.display()))?;
    let first = first_layer_filters(&network, &weights, BACKGROUND);
    if first.is_none() {
        info!("the first layer of {} is not a convolution, so it has no filters to show", network.name);
    }
    let (layers, images) = match dataset {
        None => (Vec::new(), String::new()),
        Some(dataset) => {
            let layers = match &args.layer[..] {
                [] => convolution_layers(&network),
                given => {
                    let layers = given.iter().map(|name| find_layer(&network, name)).collect::<Result<BTreeSet<_>>>();
                    layers.context("--layer")?.into_iter().collect()
                }
            };
            let count = args.images.min(dataset.test.count());
            let images = format!("{count} {} images of {}", args.evaluated.split.words(), dataset.name);
            let task = Search { args, network: &network, weights: &weights, dataset, layers };
            (with_backend(&device, task)?, images)
        }
    };
    if let Some(first) = &first {
        write_file(&args.out.join("first-layer.png"), &first.png()?)?;
    }
    for layer in &layers {
        let shown: Vec<Picture> =
            layer.channels.iter().filter(|it| it.strongest.is_some()).map(|it| it.picture.clone()).collect();
        if !shown.is_empty() {
            let sheet = contact_sheet(&shown, 4, 4, BACKGROUND);
            write_file(&args.out.join(format!("layer-{}.png", layer.layer)), &sheet.png()?)?;
        }
    }
    let page = filters_page(&network.name, first.as_ref(), &layers, &images)?;
    let path = args.out.join("index.html");
    write_file(&path, page.as_bytes())?;
    writeln!(Stdout::default(), "{}", printable(&path.display().to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// The network with its weights, and images if it is known which. Without them only the first layer can be shown, which is
/// enough unless deeper layers are asked for.
fn load(args: &FiltersArgs) -> Result<(Network, Weights, Option<Dataset>)> {
    let loaded = match args.evaluated.has_images()? || !args.layer.is_empty() {
        true => Some(args.evaluated.load()),
        false => None,
    };
    match loaded {
        Some(Ok(Evaluated { network, weights, dataset, .. })) => Ok((network, weights, Some(dataset))),
        Some(Err(error)) if !args.layer.is_empty() => Err(error),
        failed => {
            // Fails again if the weights are the reason.
            let (network, weights) = args.evaluated.load_network()?;
            match failed {
                Some(Err(error)) => {
                    warn!("only the first layer is shown, because the images cannot be read: {error:#}");
                }
                _ => info!("only the first layer is shown; for deeper layers, --dataset names the images to search"),
            }
            Ok((network, weights, None))
        }
    }
}

struct Search<'a> {
    args: &'a FiltersArgs,
    network: &'a Network,
    weights: &'a Weights,
    dataset: Dataset,
    layers: Vec<NodeId>,
}

impl Task for Search<'_> {
    type Output = Vec<LayerFilters>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let Dataset { shape, mean, std, test, .. } = &self.dataset;
        let images = test.sample(self.args.images, shape.len())?;
        let normalise = Normalise { shape: *shape, mean: mean.clone(), std: std.clone() };
        let mut all = Vec::new();
        for &layer in &self.layers {
            info!("searching the images that excite {}", layer_title(self.network, layer).0);
            all.push(self.layer(&mut backend, layer, &images, &normalise)?);
        }
        Ok(all)
    }
}

impl Search<'_> {
    fn layer<B: Backend>(
        &self,
        backend: &mut B,
        layer: NodeId,
        images: &[u8],
        normalise: &Normalise,
    ) -> Result<LayerFilters> {
        let part = self.network.clone().up_to(layer);
        let batch = batch_for(&part)?;
        let mut part = Attribution::new(backend, &part, self.weights, ReluGradient::Rectified, batch)?;
        let (input, shape) = (part.input(), part.output_shape());
        let mut strongest = Strongest::new(self.args.top.into(), shape.channels.min(self.args.maps));
        for (group, bytes) in images.chunks(batch * input.len()).enumerate() {
            let outputs = part.forward(&normalise.apply(bytes))?;
            for (index, output) in outputs.chunks_exact(shape.len()).enumerate() {
                strongest.add(group * batch + index, shape, output);
            }
        }
        let field = self.network.receptive_fields()[layer];
        let channels = strongest.channels().iter().enumerate();
        let channels = channels.map(|(channel, kept)| -> Result<Channel> {
            let active: Vec<&Excitation> = kept.iter().filter(|kept| kept.unit.activation > 0.0).collect();
            let bytes = |kept: &Excitation| &images[kept.image * input.len()..][..input.len()];
            let inputs: Vec<Vec<f32>> = active.iter().map(|kept| normalise.apply(bytes(kept))).collect();
            let units: Vec<_> = inputs.iter().zip(&active).map(|(input, kept)| (&input[..], kept.unit)).collect();
            let projections = deconvolve(&mut part, &units)?;
            let patch = |(kept, projection): (&&Excitation, Vec<f32>)| Patch {
                unit: kept.unit,
                input: Picture::from_pixels(bytes(kept), input),
                projection,
            };
            let patches: Vec<Patch> = active.iter().zip(projections).map(patch).collect();
            let strongest = active.first().map(|kept| kept.unit.activation);
            Ok(Channel { channel, strongest, picture: channel_sheet(&patches, input, field) })
        });
        let channels = channels.collect::<Result<_>>()?;
        let (layer, description) = layer_title(self.network, layer);
        Ok(LayerFilters { layer, description, shape, field, channels })
    }
}
