"""Fine-tunes airnet on five classes of CIFAR-10 after training on the other five, and compares with training from scratch.

    python benches/finetuning_cifar10.py --program target/release/cnn-cuda --archive data/cifar10/cifar10-jpeg.tar.xz

The network is trained with `recipes/airnet-cifar10.toml` on all pictures of the first five classes. Then it is trained on
500 pictures of each of the other classes, once from the weights of the first training and once from random ones, with the
same settings. Each is tested on all test pictures of these classes, without test-time augmentation.
"""

import argparse
import json
import os
import platform
import subprocess
import tarfile
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

RESULT = Path(__file__).parent / "results" / "finetuning-cifar10.json"
RECIPE = Path(__file__).parent.parent / "recipes" / "airnet-cifar10.toml"
PICTURES, EPOCHS, BATCH, MEAN, STD = 500, 20, 500, "0.4914,0.4822,0.4465", "0.2470,0.2435,0.2616"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, metavar="FILE")
    parser.add_argument("--archive", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a CUDA device")
    parser.add_argument("--seeds", type=int, default=2, help="how many runs of each kind")
    parser.add_argument("--result", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        first, others = unpack(arguments.archive, folder)
        before = train(folder / "before", first, 0, [], arguments)
        small = ["--epochs", EPOCHS, "--batch-size", BATCH, "--eval-batch-size", BATCH, "--tta", "none"]
        weights = folder / "before" / "model.safetensors"
        tuned, scratch = [], []
        for seed in range(arguments.seeds):
            flags = [*small, "--pretrained", weights]
            tuned.append(train(folder / f"tuned-{seed}", others, seed, flags, arguments))
            scratch.append(train(folder / f"scratch-{seed}", others, seed, small, arguments))
    means = {name: sum(runs) / len(runs) for name, runs in (("fine_tuned", tuned), ("from_scratch", scratch))}
    print(f"test accuracy: {means['fine_tuned']:.2%} fine-tuned, {means['from_scratch']:.2%} from scratch")
    result = {
        "command": "python benches/finetuning_cifar10.py --program target/release/cnn-cuda --archive FILE",
        "date": date.today().isoformat(),
        "device": arguments.device,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "settings": {"pictures_per_class": PICTURES, "epochs": EPOCHS, "batch": BATCH},
        "test_accuracy_of_the_first_training": before,
        "test_accuracy_fine_tuned": tuned,
        "test_accuracy_from_scratch": scratch,
        "margin": means["fine_tuned"] - means["from_scratch"],
    }
    arguments.result.write_text(json.dumps(result, indent=1) + "\n")


def unpack(archive: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the pictures of the first five classes and those of the others as two sets, each with a split for training
    and one for tests. The second has only the first PICTURES training pictures of each class."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile() and member.name.endswith(".jpg")]
        members.sort(key=lambda member: member.name)
        classes = sorted({Path(member.name).parts[-2] for member in members})
        sets, counts = [folder / "first", folder / "others"], {}
        for member in members:
            split, label, name = Path(member.name).parts[-3:]
            second = classes.index(label) >= len(classes) // 2
            counts[split, label] = counts.get((split, label), 0) + 1
            if second and split == "train" and counts[split, label] > PICTURES:
                continue
            target = sets[second] / split / label / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())
    return sets[0], sets[1]


def train(out: Path, dataset: Path, seed: int, flags: list, arguments: argparse.Namespace) -> float:
    """The test accuracy after the last epoch."""
    command = [arguments.program, "train", "--config", RECIPE, "--dataset", dataset, "--image-size", 32, "--seed", seed]
    command += ["--mean", MEAN, "--std", STD, "--device", arguments.device, "--quiet", "--out", out, *flags]
    subprocess.run([str(part) for part in command], check=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    accuracy = [record for record in records if record["kind"] == "epoch"][-1]["test_accuracy"]
    print(f"{out.name}: {accuracy:.2%}", flush=True)
    return accuracy


if __name__ == "__main__":
    main()
