//! Files of torch.save: the same weights from every type, view and container; and pickles that could run code, damaged
//! ones and huge ones are refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use cnn_cuda::checkpoint::{inspect_weights, load_weights, weights_description};
use cnn_cuda::network::Weights;
use cnn_cuda::rng::{Philox, Purpose};

use crate::support::stored_zip::archive;
use crate::support::tiny::tiny;

/// The weights that `tests/reference/torch_files.py` writes: eighths in PyTorch's order.
fn expected() -> Weights {
    let network = tiny();
    let mut weights = network.initial_weights(0);
    let mut eighths = (0..).map(|index: i32| (index * 7 % 17 - 8) as f32 / 8.0);
    for parameter in &network.parameters {
        if parameter.name == "fc.weight" {
            // Before it come the statistics. A variance is not moved to the middle of its range.
            weights.statistics.values = eighths.by_ref().take(4).collect();
            weights.statistics.values[2..].iter_mut().for_each(|variance| *variance += 1.0);
        }
        let values: Vec<f32> = eighths.by_ref().take(parameter.len()).collect();
        parameter.layout.memory_from_file(&values, &mut weights.parameters[parameter.range()]);
    }
    weights.statistics.batches_tracked = vec![7];
    weights
}

fn reference(name: &str) -> PathBuf {
    Path::new("tests/reference/torch").join(format!("{name}.pth"))
}

fn error_of(path: &Path) -> String {
    let message = format!("{:#}", load_weights(path, &tiny()).expect_err("the file is invalid"));
    assert!(message.contains(&path.display().to_string()), "the message does not name the file: {message}");
    message
}

#[test]
fn every_type_view_and_container_of_pytorch_gives_the_same_weights() {
    let names = ["module", "float16", "bfloat16", "float64", "shared", "strided", "parameters", "state_dict", "model"];
    for name in names.into_iter().chain(["protocol5"]) {
        let path = reference(name);
        let weights = load_weights(&path, &tiny()).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(weights, expected(), "{name}");
        assert_eq!(weights_description(&path).expect("it has none"), None);
        // `cnn-cuda verify` checks files of this program, which are none of these.
        let message = format!("{:#}", inspect_weights(&path, None).expect_err("it is no safetensors file"));
        assert!(message.contains("a ZIP archive, as torch.save writes"), "{message}");
    }
}

#[test]
fn files_that_need_code_or_have_another_format_are_refused_by_name() {
    let cases: [(&str, &[&str]); 4] = [
        (
            "refused-namespace",
            &["refers to argparse.Namespace", "no code is run", "torch.save(model.state_dict(), FILE)"],
        ),
        ("refused-module", &["refers to __main__.Module", "no code is run"]),
        ("refused-legacy", &["before PyTorch 1.6", "torch.save(torch.load(sys.argv[1]", "OLD.pth NEW.pth"]),
        ("refused-script", &["a TorchScript program", "torch.jit.save"]),
    ];
    for (name, words) in cases {
        let message = error_of(&reference(name));
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
    }
}

/// A file whose pickle is `pickle`, with a storage `0` of eight bytes.
fn file_of(folder: &Path, pickle: &[u8]) -> PathBuf {
    let path = folder.join("weights.pth");
    fs::write(&path, archive(&[("data.pkl", pickle), ("data/0", &[0; 8])])).expect("written");
    path
}

/// The pickle of a dictionary with one entry `t`, a tensor of two floats with this offset, shape and strides.
fn tensor(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let tuple =
        |values: &[u8]| [&b"("[..], &values.iter().flat_map(|&value| [b'K', value]).collect::<Vec<_>>(), b"t"].concat();
    [
        &b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"[..],
        b"0X\x03\0\0\0cpuK\x02tQK",
        &[offset],
        &tuple(shape),
        &tuple(strides),
        b"\x89}tRs.",
    ]
    .concat()
}

#[test]
fn hostile_pickles_are_refused_and_run_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let witness = folder.path().join("ran");
    let touch = format!("touch {}", witness.display());
    let system = [b"cos\nsystem\n(X", &(touch.len() as u32).to_le_bytes()[..], touch.as_bytes(), b"tR."].concat();
    let eval = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93(X\x03\0\0\x001+1tR.".to_vec();
    let long = [b"c".to_vec(), vec![b'a'; 5000], b"\nb\n.".to_vec()].concat();
    let cases: Vec<(&[u8], &[&str])> = vec![
        (&system, &["refers to os.system", "no code is run"]),
        (&eval, &["refers to builtins.eval"]),
        (b"cposix\nsystem\n.", &["refers to posix.system"]),
        (b"ctorch\nload\n.", &["refers to torch.load"]),
        (b"ctorch.hub\nload\n.", &["refers to torch.hub.load"]),
        (b"ctorch._utils\n_rebuild_qtensor\n.", &["refers to torch._utils._rebuild_qtensor"]),
        (b"c__builtin__\ngetattr\n.", &["refers to __builtin__.getattr"]),
        (b"ctorch\nFloatStorage.__init__\n.", &["refers to torch.FloatStorage.__init__"]),
        (&long, &["refers to aaaa"]),
        (b"(ios\nsystem\n.", &["opcode 0x69 (INST)"]),
        (b"(cos\nsystem\no.", &["refers to os.system"]),
        (b"(No.", &["opcode 0x6f (OBJ)"]),
        (b"ccollections\nOrderedDict\n)\x81.", &["opcode 0x81 (NEWOBJ)"]),
        (b"\x82\x01.", &["opcode 0x82 (EXT)"]),
        (b"P12\n.", &["opcode 0x50 (PERSID)"]),
        (b"\x97.", &["opcode 0x97 (NEXT_BUFFER)"]),
        (b"\xff.", &["opcode 0xff (unknown)"]),
        (b"N)R.", &["calls something that is not a global"]),
        (b"ctorch\nFloatStorage\n)R.", &["calls Storage(F32) with arguments that it cannot have"]),
        (b"ccollections\nOrderedDict\n(]tR.", &["calls OrderedDict with arguments"]),
        (b"ctorch._utils\n_rebuild_parameter\n(N\x89NtR.", &["calls RebuildParameter"]),
        (b"(X\x06\0\0\0modulectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ.", &["persistent id"]),
        (b"NQ.", &["persistent id"]),
        (b"N}b.", &["sets the state of an object that is not a plain container"]),
        (b"}Nb.", &["sets the state"]),
        (b"\x80\x06N.", &["protocol 6"]),
        (b"N.", &["does not hold a state_dict"]),
        (b"}X\x05\0\0\0epochK\x01s.", &["holds no tensors", "epoch"]),
        (b"}K\x01K\x01s.", &["a name in it is not a string"]),
        (b"h\x05.", &["no memo 5"]),
        (b".", &["its stack is too short"]),
        (b"(0.", &["its stack is too short"]),
        (b"t.", &["its stack has no mark"]),
        (b"N\x86.", &["its stack is too short"]),
        (b"NNa.", &["appends to something that is not a list"]),
        (b"(Nu.", &["its stack is too short"]),
        (b"}(Nu.", &["a key has no value"]),
        (b"X\xff\xff\xff\xffab", &["it is truncated"]),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", &["it is truncated"]),
        (b"X\x01\0\0\0\xff.", &["not UTF-8"]),
        (b"cos", &["it is truncated"]),
        (b"", &["it is truncated"]),
        (b"}.", &["holds no tensors"]),
    ];
    for (pickle, words) in cases {
        let message = error_of(&file_of(folder.path(), pickle));
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} are not in: {message}");
        assert!(message.len() < 1000, "{message}");
    }
    assert!(!witness.exists(), "a pickle ran a command");
}

#[test]
fn deeply_nested_and_circular_pickles_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let nested = [b"N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(error_of(&file_of(folder.path(), &nested)).contains("does not hold a state_dict"));
    assert!(error_of(&file_of(folder.path(), b"}q\0X\x01\0\0\0ah\0s.")).contains("holds no tensors"));
    let circular = b"}q\0X\x05\0\0\0modelh\0s.";
    assert!(error_of(&file_of(folder.path(), circular)).contains("holds no tensors"));
}

#[test]
fn tensors_outside_their_storage_and_damaged_archives_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |bytes: &[u8], words: &str| {
        let path = folder.path().join("weights.pth");
        fs::write(&path, bytes).expect("written");
        let message = error_of(&path);
        assert!(message.contains(words), "{words:?} is not in: {message}");
    };
    for (offset, shape, strides) in
        [(1, &[2][..], &[1][..]), (0, &[3], &[1]), (0, &[2], &[2]), (3, &[], &[]), (0, &[255; 9], &[1; 9])]
    {
        let message = error_of(&file_of(folder.path(), &tensor(offset, shape, strides)));
        assert!(message.contains("a tensor is not within its storage"), "{message}");
    }
    let message = error_of(&file_of(folder.path(), &tensor(0, &[2], &[])));
    assert!(message.contains("shape [2] with strides []"), "{message}");
    // A view may repeat an element as often as it likes; it costs nothing before its shape is compared.
    let message = error_of(&file_of(folder.path(), &tensor(0, &[255; 8], &[0; 8])));
    assert!(message.contains("conv.weight of tiny is missing"), "{message}");
    let fine = tensor(0, &[2], &[1]);
    let whole = archive(&[("data.pkl", &fine), ("data/0", &[0; 8])]);
    refused(&whole, "conv.weight of tiny is missing");
    refused(&whole[..whole.len() - 1], "truncated or damaged");
    refused(&whole[..60], "truncated or damaged");
    refused(&archive(&[("data.pkl", &fine)]), "it has no member data/0");
    refused(&archive(&[("data.pkl", &fine), ("data/0", &[0; 7])]), "storage 0 has 7 bytes");
    refused(&archive(&[("data.pkl", &fine), ("data/0", &[0; 8]), ("byteorder", b"big")]), "not little-endian");
    refused(&archive(&[("data.pkl", &fine), ("data.pkl", &fine)]), "two members data.pkl");
    refused(&archive(&[("other", b"")]), "a ZIP archive that torch.save did not write");
    refused(&archive(&[("weight.npy", b"")]), "an archive of NumPy arrays (.npz)");
    refused(&archive(&[("data.pkl", &vec![b'N'; 5 << 20])]), "far more than the weights of tiny can have");
    let at = whole.windows(4).position(|window| window == b"cpuK").expect("the location");
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    refused(&flipped, "its member data.pkl is not as it was saved");
    // The method of the member `data.pkl` in the directory.
    let mut compressed = whole.clone();
    let directory = whole.windows(4).position(|window| window == b"PK\x01\x02").expect("a directory");
    compressed[directory + 10] = 8;
    refused(&compressed, "its member data.pkl is compressed");
}

/// Any byte of a pickle may be another one, in an archive whose checksums are right.
#[test]
fn pickles_with_other_bytes_are_refused_or_loaded_but_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stream = Philox::new(1, Purpose::Benchmark, 0);
    for name in ["module", "shared", "strided", "parameters", "state_dict", "protocol5"] {
        let bytes = fs::read(reference(name)).expect("the committed file");
        let begin = bytes.windows(2).position(|pair| pair[0] == 0x80 && pair[1] <= 5).expect("a pickle");
        let end = begin + bytes[begin..].windows(5).position(|part| part == b".PK\x07\x08").expect("its end") + 1;
        for _ in 0..400 {
            let mut pickle = bytes[begin..end].to_vec();
            for _ in 0..=stream.below(3) {
                let at = stream.below(pickle.len() as u32) as usize;
                pickle[at] = stream.below(256) as u8;
            }
            let _ = load_weights(&file_of(folder.path(), &pickle), &tiny());
        }
    }
}
