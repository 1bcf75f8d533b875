//! Files of other programs are named for what they are, and those that PyTorch's users have are read.

use std::fs;

use cnn_cuda::checkpoint::{load_weights, save_weights, weights_description};
use cnn_cuda::models::vgg;
use cnn_cuda::network::Builder;
use cnn_cuda::shape::Shape;
use safetensors::tensor::Dtype;

use super::{find_tensor, load_error, network, rewrite, saved_weights};
use crate::support::tiny::tiny;

#[test]
fn other_formats_are_named() {
    let (_folder, path) = saved_weights();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let legacy = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
    let mut tar = b"tensors".to_vec();
    tar.resize(257, 0);
    tar.extend(b"ustar\x0000");
    let cases: [(&[u8], &[&str]); 21] = [
        (pointer.as_bytes(), &["Git LFS pointer", "git lfs pull"]),
        (b"<!DOCTYPE html><html><body>404</body></html>", &["a web page"]),
        (b"\n <HTML><head>", &["a web page"]),
        (&legacy, &["a pickle", "before PyTorch 1.6", "torch.save(torch.load(", "OLD.pth NEW.pth"]),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", &["a NumPy array"]),
        (b"\x89HDF\r\n\x1a\n\x00", &["an HDF5 file"]),
        (b"GGUF\x03\x00\x00\x00", &["a GGUF file"]),
        (b"", &["an empty file"]),
        (&tar, &["a tar archive", "torch.save(torch.load("]),
        (b"L119547037146038801333356L\n.", &["a pickle", "torch.save(torch.load("]),
        (b"ccollections\nOrderedDict\np0\n", &["a pickle"]),
        (b"(dp0\nS'conv1.weight'\n", &["a pickle"]),
        (b"{\"message\":\"Not Found\"}", &["JSON", "a server's answer"]),
        // Its ninth byte is that of a safetensors file.
        (b"{\"data\":{\"a\":1}}", &["JSON"]),
        (b"<Error><Code>NoSuchKey</Code></Error>", &["XML", "a server's answer"]),
        (b"<?xml version=\"1.0\"?>\n<Error/>", &["XML"]),
        (b"Entry not found", &["plain text", "a server's answer"]),
        ("Zugriff verweigert: kein Schl\u{fc}ssel".as_bytes(), &["plain text"]),
        (b"\x1f\x8b\x08\0\0\0\0\0", &["gzip", "decompress"]),
        (&[0; 600], &["a file of zeros", "download it again"]),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", &["an ONNX model", "safetensors.torch.save_file"]),
    ];
    for (bytes, words) in cases {
        fs::write(&path, bytes).expect("write");
        let messages =
            [load_error(&path), format!("{:#}", weights_description(&path).expect_err("it is of another format"))];
        for message in messages {
            assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
        }
    }
}

#[test]
fn the_prefix_of_a_wrapped_module_is_removed() {
    for prefix in ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.model.module."] {
        let (_folder, path) = saved_weights();
        rewrite(&path, |tensors| tensors.iter_mut().for_each(|tensor| tensor.0 = format!("{prefix}{}", tensor.0)));
        assert_eq!(load_weights(&path, &network()).expect("loaded"), network().initial_weights(5));
        // If one name is without it, the file is not that of a wrapped module.
        rewrite(&path, |tensors| find_tensor(tensors, &format!("{prefix}fc1.bias")).0 = "fc1.bias".into());
        assert!(load_error(&path).contains(&format!("begin with `{prefix}`")), "{}", load_error(&path));
    }
    // A name of the network's own is not a prefix.
    let mut net = Builder::new("wrapped", Shape::flat(2));
    net.linear("model.fc", 0, 2).expect("a layer");
    let (network, folder) = (net.finish().expect("a network"), tempfile::tempdir().expect("a folder"));
    let (path, weights) = (folder.path().join("model.safetensors"), network.initial_weights(1));
    save_weights(&path, &network, &weights.parameters, &weights.statistics).expect("saved");
    assert_eq!(load_weights(&path, &network).expect("loaded"), weights);
}

#[test]
fn other_prefixes_are_named() {
    for prefix in ["net.", "state_dict.", "backbone.encoder."] {
        let (_folder, path) = saved_weights();
        rewrite(&path, |tensors| tensors.iter_mut().for_each(|tensor| tensor.0 = format!("{prefix}{}", tensor.0)));
        let message = load_error(&path);
        assert!(message.contains(&format!("begin with `{prefix}`")), "{message}");
        // Also if it is another network's.
        rewrite(&path, |tensors| tensors.retain(|tensor| tensor.0.ends_with("conv2.weight")));
        let usual = prefix != "backbone.encoder.";
        assert_eq!(load_error(&path).contains(&format!("begin with `{prefix}`")), usual, "{}", load_error(&path));
    }
    // Other names are not prefixes.
    let (_folder, path) = saved_weights();
    rewrite(&path, |tensors| find_tensor(tensors, "conv2.weight").0 = "conv9.weight".into());
    let message = load_error(&path);
    assert!(!message.contains("begin with") && message.contains("conv2.weight of lenet5 is missing"), "{message}");
    assert_eq!(network().name, "lenet5");
}

/// Conversion to another type, as `state_dict` tensors `.half()`, also converts the counters of batch normalisation.
#[test]
fn counters_of_every_number_type_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    let (network, weights) = (tiny(), tiny().initial_weights(3));
    let cases: [(Dtype, Vec<u8>); 12] = [
        (Dtype::I64, 7_i64.to_le_bytes().into()),
        (Dtype::U64, 7_u64.to_le_bytes().into()),
        (Dtype::I32, 7_i32.to_le_bytes().into()),
        (Dtype::U32, 7_u32.to_le_bytes().into()),
        (Dtype::I16, 7_i16.to_le_bytes().into()),
        (Dtype::U16, 7_u16.to_le_bytes().into()),
        (Dtype::I8, 7_i8.to_le_bytes().into()),
        (Dtype::U8, 7_u8.to_le_bytes().into()),
        (Dtype::F64, 7_f64.to_le_bytes().into()),
        (Dtype::F32, 7_f32.to_le_bytes().into()),
        (Dtype::F16, half::f16::from_f32(7.0).to_le_bytes().into()),
        (Dtype::BF16, half::bf16::from_f32(7.0).to_le_bytes().into()),
    ];
    let write = |dtype, bytes: &[u8]| {
        save_weights(&path, &network, &weights.parameters, &weights.statistics).expect("saved");
        rewrite(&path, |tensors| {
            let (_, its, _, content) = find_tensor(tensors, "norm.num_batches_tracked");
            (*its, *content) = (dtype, bytes.to_vec());
        });
        load_weights(&path, &network).map(|weights| weights.statistics.batches_tracked)
    };
    for (dtype, bytes) in &cases {
        assert_eq!(write(*dtype, bytes).unwrap_or_else(|error| panic!("{dtype:?}: {error:#}")), [7]);
    }
    for (dtype, bytes) in [(Dtype::F32, 7.5_f32.to_le_bytes().to_vec()), (Dtype::U64, u64::MAX.to_le_bytes().into())] {
        let message = format!("{:#}", write(dtype, &bytes).expect_err("it is no counter"));
        assert!(message.contains("num_batches_tracked is not a whole number"), "{message}");
    }
}

/// timm has VGG's linear layers as convolutions with names of their own.
#[test]
fn vgg_weights_of_timm_are_read() {
    let widths = vgg::Widths { stages: [1; 5], channels: [2, 3, 4, 5, 6], hidden: 8, batch_norm: true };
    let network = vgg::with_widths("vgg", Shape::new(32, 32, 3), 7, &widths).expect("a network");
    let (weights, folder) = (network.initial_weights(2), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("timm.safetensors");
    let write = |change: &dyn Fn(&mut super::RawTensor)| {
        save_weights(&path, &network, &weights.parameters, &weights.statistics).expect("saved");
        rewrite(&path, |tensors| tensors.iter_mut().for_each(change));
    };
    let timm = |tensor: &mut super::RawTensor| {
        for (ours, theirs, shape) in [
            ("classifier.0.", "pre_logits.fc1.", vec![8, 6, 7, 7]),
            ("classifier.3.", "pre_logits.fc2.", vec![8, 8, 1, 1]),
            ("classifier.6.", "head.fc.", vec![7, 8]),
        ] {
            if let Some(rest) = tensor.0.clone().strip_prefix(ours) {
                tensor.0 = format!("{theirs}{rest}");
                if rest == "weight" {
                    tensor.2 = shape;
                }
            }
        }
    };
    write(&timm);
    assert_eq!(load_weights(&path, &network).expect("timm's names"), weights);
    // Some of them are not enough.
    write(&|tensor| {
        if tensor.0.starts_with("classifier.0") {
            timm(tensor);
        }
    });
    let message = format!("{:#}", load_weights(&path, &network).expect_err("classifier.0 is missing"));
    assert!(message.contains("classifier.0.weight of vgg is missing"), "{message}");
}
