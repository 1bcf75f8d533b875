//! Pictures: images of any number of channels, enlargement, contact sheets, colours, PNG files, and filters.

use cnn_cuda::models::find;
use cnn_cuda::network::{Statistics, Weights};
use cnn_cuda::report::picture::{Picture, WHITE, columns_for, contact_sheet, diverging, sequential};
use cnn_cuda::report::{filter_pictures, first_layer_filters};
use cnn_cuda::shape::Shape;

const BLACK: [u8; 3] = [0; 3];

/// The picture in a PNG file.
fn decoded(png: &[u8]) -> Picture {
    let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png).expect("a PNG file").into_rgb8();
    let pixels = picture.pixels().map(|pixel| pixel.0).collect();
    Picture { width: picture.width() as usize, height: picture.height() as usize, pixels }
}

#[test]
fn images_of_any_number_of_channels_are_pictures() {
    let gray = Picture::from_pixels(&[0, 255], Shape::new(1, 2, 1));
    assert_eq!((gray.width, gray.height, gray.pixels), (2, 1, vec![BLACK, WHITE]));
    assert_eq!(Picture::from_pixels(&[10, 20], Shape::new(1, 1, 2)).pixels, [[15; 3]]);
    assert_eq!(Picture::from_pixels(&[1, 2, 3], Shape::new(1, 1, 3)).pixels, [[1, 2, 3]]);
    assert_eq!(Picture::from_pixels(&[255; 4], Shape::new(1, 1, 4)).pixels, [WHITE]);
}

#[test]
fn a_png_file_has_the_same_pixels() {
    let values: Vec<u8> = (0..7 * 5 * 3).map(|value| (value * 37 % 256) as u8).collect();
    let picture = Picture::from_pixels(&values, Shape::new(5, 7, 3));
    assert_eq!(decoded(&picture.png().unwrap()), picture);
    let error = Picture::filled(0, 3, WHITE).png().unwrap_err();
    assert!(format!("{error:#}").contains("a PNG file of 0×3 pixels"), "{error:#}");
}

#[test]
fn pixels_are_enlarged_to_squares() {
    let picture = Picture::from_pixels(&[1, 2, 3, 4], Shape::new(2, 2, 1)).enlarged(2);
    let levels: Vec<u8> = picture.pixels.iter().map(|pixel| pixel[0]).collect();
    assert_eq!(levels, [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
    assert_eq!((picture.width, picture.height), (4, 4));
}

#[test]
fn a_contact_sheet_has_gaps_between_and_around_its_tiles() {
    let tiles: Vec<Picture> = (1..=3).map(|level| Picture::filled(1, 1, [level; 3])).collect();
    let sheet = contact_sheet(&tiles, 2, 1, BLACK);
    let rows: Vec<Vec<u8>> = sheet.pixels.chunks(sheet.width).map(|row| row.iter().map(|it| it[0]).collect()).collect();
    assert_eq!(rows, [[0, 0, 0, 0, 0], [0, 1, 0, 2, 0], [0, 0, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 0, 0, 0]]);
    // One tile needs one column, and no tiles need none.
    let single = contact_sheet(&tiles[..1], 8, 2, WHITE);
    assert_eq!((single.width, single.height), (5, 5));
    assert_eq!(contact_sheet(&[], 8, 2, WHITE).pixels.len(), 8);
    assert_eq!([1, 6, 10, 16, 32, 64, 96].map(columns_for), [1, 4, 4, 4, 8, 8, 16]);
}

#[test]
fn what_is_drawn_outside_a_picture_is_left_out() {
    let mut picture = Picture::filled(3, 2, BLACK);
    picture.draw(&Picture::filled(2, 2, WHITE), 2, 1);
    picture.draw(&Picture::filled(2, 2, WHITE), 5, 5);
    picture.fill(0, 0, 1, 9, [7; 3]);
    picture.fill(9, 9, 9, 9, WHITE);
    assert_eq!(picture.pixels, [[7; 3], BLACK, BLACK, [7; 3], BLACK, WHITE]);
}

#[test]
fn colours_are_those_of_the_published_maps() {
    // matplotlib 3.11: (255 * matplotlib.colormaps["viridis"](index)).round(), every 51st of 256, and some between.
    let viridis = [
        (0, [68, 1, 84]),
        (51, [65, 68, 135]),
        (102, [42, 120, 142]),
        (153, [34, 168, 132]),
        (204, [122, 209, 81]),
        (255, [253, 231, 37]),
    ];
    for (index, expected) in viridis {
        let colour = sequential(index as f32 / 255.0);
        assert!((0..3).all(|at| colour[at].abs_diff(expected[at]) <= 1), "{index}: {colour:?}, not {expected:?}");
    }
    assert_eq!([sequential(-1.0), sequential(2.0)], [sequential(0.0), sequential(1.0)]);
    assert_eq!([diverging(0.0), diverging(1.0), diverging(-1.0)], [WHITE, [103, 0, 31], [5, 48, 97]]);
    assert_eq!([diverging(f32::INFINITY), diverging(f32::NEG_INFINITY)], [diverging(1.0), diverging(-1.0)]);
    assert_eq!([diverging(f32::NAN), sequential(f32::NAN)], [BLACK; 2]);
}

#[test]
fn filters_are_scaled_one_by_one_about_zero() {
    // Two filters of two pixels in a row are no square, so a filter of one pixel has to do.
    let colours = filter_pictures(&[0.5, -0.5, 0.0, 4.0, 2.0, -4.0], 1, 3);
    assert_eq!(colours.iter().map(|it| it.pixels[0]).collect::<Vec<_>>(), [[255, 0, 128], [255, 191, 0]]);
    let signed = filter_pictures(&[2.0, -2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], 2, 1);
    assert_eq!(signed[0].pixels, [diverging(1.0), diverging(-1.0), WHITE, diverging(0.5)]);
    assert_eq!(signed[1].pixels, [WHITE; 4], "a filter of zeros");
    // The mean of the channels is 1 and −2.
    assert_eq!(filter_pictures(&[0.0, 2.0, -1.0, -3.0], 1, 2)[0].pixels, [diverging(1.0)]);
    assert_eq!(filter_pictures(&[f32::NAN], 1, 1)[0].pixels, [BLACK]);
}

#[test]
fn a_networks_first_layer_is_a_contact_sheet() {
    for (name, columns, rows, kernel) in [("mnist-cnn", 4, 4, 3), ("resnet20", 4, 4, 3), ("alexnet", 8, 8, 11)] {
        let model = find(name).unwrap();
        let network = (model.build)(model.input, model.classes).unwrap();
        let parameters = network.initial_parameters(1);
        let first = network.parameters[0].range();
        let weights = Weights { parameters, statistics: Statistics::default() };
        let sheet = first_layer_filters(&network, &weights, WHITE).expect("filters");
        let factor = 56_usize.div_ceil(kernel);
        let expected = [columns, rows].map(|tiles| tiles * (kernel * factor + 4) + 4);
        assert_eq!([sheet.width, sheet.height], expected, "{name}");
        // The first pixel is that of the first filter.
        let in_channels = model.input.channels;
        let filter = &filter_pictures(&weights.parameters[first], kernel, in_channels)[0];
        assert_eq!(sheet.pixels[4 * sheet.width + 4], filter.pixels[0], "{name}");
    }
}
