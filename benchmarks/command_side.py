"""Another library's way through a folder of pictures, as ``commands.py`` runs it.

    command_side.py predict timm|transformers WEIGHTS PICTURES OUTPUT.json
    command_side.py train timm WEIGHTS PICTURES STEPS BATCH

Each is written as the library's own documentation and scripts do it. ``predict`` writes the class
of every picture by its name; ``train`` makes so many steps of SGD with momentum on random crops,
mirrored or not.
"""

import importlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision_import import declare_operators

BATCH = 16
WORKERS = min(os.cpu_count() or 1, 8)


def timm_loader(timm: Any, model: Any, dataset: Any, batch: int, *, training: bool) -> Any:
    """Batches as the model wants them."""
    config = timm.data.resolve_model_data_config(model)
    wanted = {name: config[name] for name in ("input_size", "interpolation", "mean", "std")}
    wanted |= {"scale": (0.08, 1.0), "color_jitter": 0.0} if training else {}
    return timm.data.create_loader(
        dataset,
        batch_size=batch,
        is_training=training,
        crop_pct=config["crop_pct"],
        num_workers=WORKERS,
        use_prefetcher=False,
        device=torch.device("cpu"),
        **wanted,
    )


def timm_predict(weights: Path, pictures: Path) -> dict[str, int]:
    """Classes by timm's model and loader."""
    timm = importlib.import_module("timm")
    model = timm.create_model(f"local-dir:{weights}", pretrained=True).eval()
    dataset = timm.data.ImageDataset(str(pictures))
    found: list[int] = []
    with torch.inference_mode():
        for images, _ in timm_loader(timm, model, dataset, BATCH, training=False):
            found += model(images).softmax(-1).topk(5).indices[:, 0].tolist()
    return dict(zip(dataset.filenames(basename=True), found, strict=True))


def transformers_predict(weights: Path, pictures: Path) -> dict[str, int]:
    """Classes by the pipeline of transformers."""
    library = importlib.import_module("transformers")
    library.utils.logging.set_verbosity_error()
    classify = library.pipeline("image-classification", model=str(weights), device="cpu")
    paths = sorted(map(str, pictures.rglob("*.jpg")))
    answers = classify(paths, batch_size=BATCH, top_k=5)
    ids = classify.model.config.label2id
    return {
        Path(path).name: ids[answer[0]["label"]]
        for path, answer in zip(paths, answers, strict=True)
    }


def timm_train(weights: Path, pictures: Path, steps: int, batch: int) -> None:
    """Steps by timm's model, loader and optimizer."""
    timm = importlib.import_module("timm")
    classes = sum(path.is_dir() for path in pictures.iterdir())
    model = timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=classes).train()
    dataset = timm.data.ImageDataset(str(pictures))
    loader = timm_loader(timm, model, dataset, batch, training=True)
    create = importlib.import_module("timm.optim").create_optimizer_v2
    optimizer = create(model, "sgd", lr=1e-3, momentum=0.9)
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    for images, labels in itertools.islice(epochs, steps):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    """Do what the arguments say."""
    declared = declare_operators()
    command, side, weights, pictures, *rest = sys.argv[1:]
    if command == "train":
        timm_train(Path(weights), Path(pictures), *map(int, rest))
    else:
        predict = {"timm": timm_predict, "transformers": transformers_predict}[side]
        Path(rest[0]).write_text(json.dumps(predict(Path(weights), Path(pictures))), "utf-8")
    del declared


if __name__ == "__main__":
    main()
