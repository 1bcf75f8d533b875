//! `cnn-cuda explain`

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tracing::{info, warn};

use super::device::{Task, check_device, with_backend};
use super::trained::{Trained, TrainedFlags};
use crate::data::picture::Picture;
use crate::explain::{
    Attribution, Occlusion, SmoothGrad, Unit, deconvolve, explained_layer, find_layer, grad_cam, layer_title,
    occlusion, saliency, shown_layers, smooth_grad, strongest_units,
};
use crate::files::{create_folder, name_of, printable, write_atomically};
use crate::network::{Network, NodeId};
use crate::ops::Backend;
use crate::plan::{Mode, Plan, ReluGradient};
use crate::report::explained::{
    Explained, Figure, Patch, Sheet, enlarged, explanation_page, magnitudes, overlay, patch_sheet, signed,
};
use crate::report::percent;
use crate::report::picture;
use crate::report::stream::Stdout;
use crate::settings::{DeviceSettings, Given, RetiredFlags, bounds, usage};
use crate::train::Prediction;

/// `--method`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Where the last convolution's channels speak for the class
    Gradcam,
    /// The gradient of the class's logit
    Saliency,
    /// The mean gradient over noisy copies of the picture
    Smoothgrad,
    /// How much the logit falls when a square is covered
    Occlusion,
    /// What the strongest units of a layer respond to
    Deconv,
    /// The feature maps of every layer
    Activations,
}

#[derive(Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    trained: TrainedFlags,
    /// PNG or JPEG pictures of any size, in colour or grayscale
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// How to explain, separated by commas [default: all]
    #[arg(long, value_enum, value_name = "METHOD", value_delimiter = ',')]
    method: Vec<Method>,
    /// Layer of gradcam and deconv, and the only one of activations, as listed by `cnn-cuda summary`; a module's name
    /// means its output [default: the last convolution with its activation; activations of all layers]
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// Class to explain, by name or number from 0 [default: the most likely class of each picture]
    #[arg(long, value_name = "CLASS", allow_negative_numbers = true)]
    class: Option<String>,
    /// Feature maps to show per layer
    #[arg(long, value_name = "N", value_parser = bounds::positive, default_value = "64")]
    maps: usize,
    /// Folder for the page index.html and the PNG files
    #[arg(long, value_name = "DIR", default_value = "explained")]
    out: PathBuf,
    #[command(flatten)]
    device: Given<DeviceSettings>,
    #[command(flatten)]
    retired: RetiredFlags,
}

/// The file name of the page.
const PAGE: &str = "index.html";
/// The number of units whose deconvolution is shown.
const UNITS: usize = 9;
/// The most classes whose probability is shown.
const CLASSES: usize = 5;

/// Explains the network's answers to pictures. All are read before the first is explained, so that a bad file fails early.
pub fn run(args: &ExplainArgs) -> Result<ExitCode> {
    args.retired.warn();
    let device = args.device.or_defaults()?;
    check_device(&device)?;
    let trained = args.trained.load()?;
    let layer = match &args.layer {
        Some(name) => find_layer(&trained.network, name).context("--layer")?,
        None => explained_layer(&trained.network)?,
    };
    let class = args.class.as_deref().map(|given| class_of(given, &trained.classes)).transpose()?;
    let pictures = args.images.iter().map(|path| trained.read(path)).collect::<Result<Vec<Picture>>>()?;
    let methods = if args.method.is_empty() { Method::value_variants() } else { &args.method };
    ensure!(
        !methods.contains(&Method::Gradcam)
            || trained.network.nodes[layer].shape.pixels() > 1
            || args.method.is_empty(),
        "--layer {} has a single position, of which Grad-CAM can make no map",
        args.layer.as_deref().unwrap_or_default()
    );
    create_folder(&args.out).with_context(|| format!("--out: cannot create the folder {}", args.out.display()))?;
    let task = Explanation { args, trained: &trained, pictures: &pictures, methods, layer, class };
    let mut explained = with_backend(&device, task)?;
    write_all(&args.out, &trained.network.name, &mut explained)?;
    let mut out = Stdout::default();
    for explained in &explained {
        let top: Vec<String> = explained
            .classes
            .iter()
            .take(3)
            .map(|(class, probability)| format!("{} {}", printable(class), percent(*probability)))
            .collect();
        writeln!(out, "{}: {}", printable(&explained.name), top.join(", "))?;
    }
    writeln!(out, "{}", printable(&args.out.join(PAGE).display().to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// The index of a class that is given by name or number; a name takes precedence.
fn class_of(given: &str, classes: &[String]) -> Result<usize> {
    let named = classes.iter().position(|class| class == given);
    let numbered = || given.parse().ok().filter(|&number| number < classes.len());
    let found = named.or_else(numbered);
    usage(found.is_some(), || format!("--class {given:?} is neither a class nor a number below {}", classes.len()))?;
    Ok(found.unwrap_or_default())
}

struct Explanation<'a> {
    args: &'a ExplainArgs,
    trained: &'a Trained,
    pictures: &'a [Picture],
    methods: &'a [Method],
    layer: NodeId,
    class: Option<usize>,
}

impl Task for Explanation<'_> {
    type Output = Vec<Explained>;

    fn run<B: Backend>(self, mut backend: B) -> Result<Self::Output> {
        let Trained { network, weights, normalise, .. } = self.trained;
        let inputs: Vec<Vec<f32>> = self.pictures.iter().map(|picture| normalise.apply(&picture.pixels)).collect();
        let mut all = Vec::new();
        let batch = batch_for(network)?;
        let mut whole = Attribution::new(&mut backend, network, weights, ReluGradient::True, batch)?;
        for (index, input) in inputs.iter().enumerate() {
            all.push(self.explain(&mut whole, index, input)?);
        }
        if self.methods.contains(&Method::Deconv) {
            let part = network.clone().up_to(self.layer);
            let mut part = Attribution::new(&mut backend, &part, weights, ReluGradient::Rectified, UNITS.min(batch))?;
            for (explained, input) in all.iter_mut().zip(&inputs) {
                let figure = self.deconvolution(&mut part, input, &explained.input)?;
                explained.figures.push(figure);
            }
        }
        Ok(all)
    }
}

impl Explanation<'_> {
    fn explain<B: Backend>(&self, network: &mut Attribution<'_, B>, index: usize, input: &[f32]) -> Result<Explained> {
        let (path, picture, classes) = (&self.args.images[index], &self.pictures[index], &self.trained.classes);
        let name = path.file_name().map_or_else(String::new, |name| name_of(name.as_encoded_bytes()));
        if picture.blank {
            warn!("{}: the picture is blank, so its explanation means nothing", printable(&name));
        }
        let prediction = Prediction { logits: network.forward(input)? };
        let top = prediction.top(CLASSES);
        let class = self.class.unwrap_or(top[0].0);
        let layers = if self.methods.contains(&Method::Activations) { self.layers(network)? } else { Vec::new() };
        let input_picture = picture::Picture::from_pixels(&picture.pixels, network.input());
        let mut figures = Vec::new();
        for &method in self.methods {
            let method_name = method.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
            info!("{}: {method_name}", printable(&name));
            figures.extend(self.figure(method, network, input, &input_picture, class)?);
        }
        Ok(Explained {
            name,
            folder: String::new(),
            input: input_picture,
            classes: top.into_iter().map(|(class, probability)| (classes[class].clone(), probability)).collect(),
            class: classes[class].clone(),
            figures,
            layers,
        })
    }

    /// The map of a method that makes one map.
    fn figure<B: Backend>(
        &self,
        method: Method,
        network: &mut Attribution<'_, B>,
        input: &[f32],
        picture: &picture::Picture,
        class: usize,
    ) -> Result<Option<Figure>> {
        let shape = network.input();
        let (layer, _) = layer_title(&self.trained.network, self.layer);
        let (file, title, caption, map) = match method {
            Method::Deconv | Method::Activations => return Ok(None),
            Method::Gradcam if network.shape(self.layer).pixels() == 1 => return Ok(None),
            Method::Gradcam => {
                let map = grad_cam(network, input, class, self.layer)?;
                let map = map.normalised().resized(shape.height, shape.width).normalised();
                let caption = format!("Where {layer} speaks for the class.");
                ("gradcam", "Grad-CAM", caption, overlay(picture, &map))
            }
            Method::Saliency => {
                let values = saliency(network, input, class)?;
                let caption = "How much each pixel changes the class's logit.".into();
                ("saliency", "Saliency", caption, magnitudes(&values, shape.channels, shape.width))
            }
            Method::Smoothgrad => {
                let settings = SmoothGrad::default();
                let values = smooth_grad(network, input, class, settings)?;
                let caption = format!("The mean over {} noisy copies of the picture.", settings.samples);
                ("smoothgrad", "SmoothGrad", caption, magnitudes(&values, shape.channels, shape.width))
            }
            Method::Occlusion => {
                let settings = Occlusion::for_side(shape.height.min(shape.width));
                let map = occlusion(network, input, class, settings)?;
                let caption = format!(
                    "The logit falls where a square of {0}×{0} covers red, and rises where it covers blue.",
                    settings.window
                );
                ("occlusion", "Occlusion", caption, signed(&map))
            }
        };
        Ok(Some(Figure { file, title: title.into(), caption, picture: enlarged(&map) }))
    }

    /// The activations of the last forward pass, of one picture.
    fn layers<B: Backend>(&self, network: &mut Attribution<'_, B>) -> Result<Vec<Sheet>> {
        let all = &self.trained.network;
        let fields = all.receptive_fields();
        let shown = match self.args.layer {
            Some(_) => vec![self.layer],
            None => shown_layers(all).into_iter().filter(|&node| node > 0).collect(),
        };
        let sheet = |node: NodeId| {
            let shape = all.nodes[node].shape;
            Ok(Sheet::new(layer_title(all, node), shape, fields[node], &network.activations(node)?, self.args.maps))
        };
        shown.into_iter().map(sheet).collect()
    }

    /// The strongest units of the layer that `part` ends with.
    fn deconvolution<B: Backend>(
        &self,
        part: &mut Attribution<'_, B>,
        input: &[f32],
        picture: &picture::Picture,
    ) -> Result<Figure> {
        let mut units = strongest_units(part.output_shape(), &part.forward(input)?);
        units.sort_by(|a, b| b.activation.total_cmp(&a.activation));
        units.truncate(UNITS);
        let of_input: Vec<_> = units.iter().map(|&unit| (input, unit)).collect();
        let projections = deconvolve(part, &of_input)?;
        let patch = |(&unit, projection): (&Unit, Vec<f32>)| Patch { unit, input: picture.clone(), projection };
        let patches: Vec<Patch> = units.iter().zip(projections).map(patch).collect();
        let network = &self.trained.network;
        let field = network.receptive_fields()[self.layer];
        let sheet = patch_sheet(&patches, part.input(), field);
        let channels: Vec<String> = units.iter().map(|unit| unit.channel.to_string()).collect();
        let caption = format!(
            "What the strongest units of {} respond to, one per channel (channels {}): what a unit sees, and below it what \
             of that activates it.",
            layer_title(network, self.layer).0,
            channels.join(", ")
        );
        Ok(Figure { file: "deconv", title: "Deconvolution".into(), caption, picture: sheet })
    }
}

/// How many pictures a pass may take: as many as keep activations and gradients below a gigabyte.
pub(super) fn batch_for(network: &Network) -> Result<usize> {
    const MOST: usize = 32;
    const FLOATS: usize = 250_000_000;
    let plan = Plan::new(network, Mode::Attribution(ReluGradient::True), 1)?;
    Ok((FLOATS / plan.memory_sizes(false).arena.max(1)).clamp(1, MOST))
}

/// Writes the PNG files of every picture in a folder of its own, and the page.
fn write_all(out: &Path, network: &str, all: &mut [Explained]) -> Result<()> {
    let mut taken = HashSet::from([PAGE.to_string()]);
    for explained in &mut *all {
        explained.folder = free_name(&explained.name, &mut taken);
        let folder = out.join(&explained.folder);
        create_folder(&folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
        let figures = explained.figures.iter().map(|figure| (figure.file.to_string(), figure.picture.png()));
        let layers = explained.layers.iter().map(|sheet| (format!("layer-{}", sheet.layer), sheet.picture.png()));
        for (file, png) in figures.chain(layers) {
            write_file(&folder.join(file + ".png"), &png?)?;
        }
    }
    write_file(&out.join(PAGE), explanation_page(network, all)?.as_bytes())
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| Ok(file.write_all(bytes)?))
}

/// A name for a picture's folder that no other picture has: that of its file without extension.
fn free_name(file: &str, taken: &mut HashSet<String>) -> String {
    let stem = Path::new(file).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let stem = if stem.is_empty() || stem.starts_with('.') { "picture".to_string() } else { stem };
    let names = std::iter::once(stem.clone()).chain((2..).map(|number| format!("{stem}-{number}")));
    let free = names.into_iter().find(|name| !taken.contains(name)).unwrap_or(stem);
    taken.insert(free.clone());
    free
}
