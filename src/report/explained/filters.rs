//! The page that shows filters, and what excites the channels of deeper layers.

use anyhow::Result;

use super::super::page::{Page, data_uri, escape};
use super::super::picture::Picture;
use crate::network::ReceptiveField;
use crate::shape::Shape;

const STYLE: &str = include_str!("filters.css");

/// The channels of a layer.
pub struct LayerFilters {
    pub layer: String,
    /// What the layer computes.
    pub description: String,
    /// The shape of its activations.
    pub shape: Shape,
    pub field: Option<ReceptiveField>,
    pub channels: Vec<Channel>,
}

/// The images that excite a channel most.
pub struct Channel {
    pub channel: usize,
    /// The largest activation in the set; `None` if no image activates the channel.
    pub strongest: Option<f32>,
    /// The images' patches and their deconvolutions; without pixels if no image activates the channel.
    pub picture: Picture,
}

/// A page that needs no other file. `images` says which images the deeper layers were shown.
///
/// # Errors
/// If a picture cannot be encoded.
pub fn filters_page(network: &str, first: Option<&Picture>, layers: &[LayerFilters], images: &str) -> Result<String> {
    let title = format!("Filters of {network}");
    let mut body = format!("<header>\n<h1>{}</h1>\n</header>\n", escape(&title));
    if let Some(first) = first {
        body += &format!(
            "<h2>First layer</h2>\n<p class=\"muted\">The weights themselves, each filter on its own scale.</p>\n<figure>\
             <div class=\"wide\"><img src=\"{}\" alt=\"The filters of the first convolution\"></div></figure>\n",
            data_uri(&first.png()?)
        );
    }
    for layer in layers {
        body += &layer_html(layer, images)?;
    }
    Ok(Page { title: &title, style: STYLE, script: "", body: &body }.render())
}

fn layer_html(layer: &LayerFilters, images: &str) -> Result<String> {
    let LayerFilters { layer, description, shape, field, channels } = layer;
    let (shown, all) = (channels.len(), shape.channels);
    let more = if shown < all { format!(" The first {shown} of {all} channels.") } else { String::new() };
    let reach = field.map_or(String::new(), |it| format!(" Receptive field {0}×{0}.", it.size));
    let mut html = format!(
        "<section>\n<h2>{}</h2>\n<p class=\"muted\">{}, {shape}.{reach}{more} Left, the parts of {} that excite a channel \
         most; right, their deconvolutions.</p>\n<div class=\"channels\">\n",
        escape(layer),
        escape(description),
        escape(images)
    );
    for Channel { channel, strongest, picture } in channels {
        let Some(strongest) = strongest else {
            html += &format!(
                "<figure class=\"dead\"><div></div><figcaption>channel {channel}: no image activates it</figcaption></figure>\n"
            );
            continue;
        };
        html += &format!(
            "<figure><img src=\"{}\" alt=\"What excites channel {channel}\"><figcaption>channel {channel}, up to \
             {strongest:.3}</figcaption></figure>\n",
            data_uri(&picture.png()?)
        );
    }
    Ok(html + "</div>\n</section>\n")
}
