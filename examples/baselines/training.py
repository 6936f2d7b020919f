"""The training that SASRec and TIGER share: a cosine schedule, and the epoch that was best in validation."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

ADAMW = partial(torch.optim.AdamW, betas=(0.9, 0.98), weight_decay=0.01)


def fit(
    model: Any,
    train_sequences: Sequence[Sequence[int]],
    validate: Callable[[Any], float],
    *,
    epochs: int = 30,
    patience: int = 5,
    batch_size: int = 128,
    make_optimizer: Callable[..., torch.optim.Optimizer] = ADAMW,
    learning_rate: float = 1e-3,
    warmup: float = 0.05,
    bf16: bool = False,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> list[float]:
    """Train a model and leave it with the weights of the epoch that was best in validation.

    Args:
        model: what learns; its `loss_of` gives the loss of a batch of sequences, and may draw random numbers.
        train_sequences: catalogue rows a user, oldest first; those of one item teach nothing.
        validate: metric of the model, larger is better; called after every epoch.
        epochs, patience: at most so many epochs, and so many without a better metric.
        batch_size: sequences a step, drawn at random.
        make_optimizer: of the parameters and `lr`, such as `torch.optim.Adafactor`; AdamW without one.
        learning_rate, warmup: peak of the cosine schedule, and share of the steps before it.
        bf16: whether matrix products are in bfloat16.
        seed: of the order of the sequences, and of `loss_of`'s numbers.
        checkpoint: file written after every epoch; a training that finds it there goes on from it.

    Returns:
        The metric after each epoch.

    Raises:
        ValueError: for a checkpoint of other settings.
    """
    optimizer = make_optimizer(model.parameters(), lr=learning_rate)
    random = np.random.default_rng(seed)
    sequences = [sequence for sequence in train_sequences if len(sequence) > 1]
    steps_an_epoch = math.ceil(len(sequences) / batch_size)
    curve: list[float] = []
    weights = _weights(model)
    made_of = f"{epochs} epochs, {batch_size=}, {learning_rate=}, {warmup=}, {seed=}, {len(sequences)} users, {model}"
    made_of += f", {type(optimizer).__name__}"
    if checkpoint is not None and checkpoint.exists():
        curve, weights = _load(checkpoint, made_of, model, optimizer, random)
    while len(curve) < epochs and len(curve) - _best(curve) < patience:
        model.train()
        shuffled = random.permutation(len(sequences))
        for number in range(steps_an_epoch):
            progress = (len(curve) * steps_an_epoch + number) / (epochs * steps_an_epoch)
            optimizer.param_groups[0]["lr"] = learning_rate * _cosine(progress, warmup)
            batch = shuffled[number * batch_size : (number + 1) * batch_size]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model.loss_of([sequences[n] for n in batch], random)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        curve.append(validate(model.eval()))
        print(f"{type(model).__name__}, epoch {len(curve)}: validation {curve[-1]:.4f}", flush=True)
        if _best(curve) == len(curve):
            weights = _weights(model)
        if checkpoint is not None:
            _save(checkpoint, made_of, model, optimizer, random, curve, weights)
    model.load_state_dict(weights)
    model.eval()
    return curve


def _best(curve: list[float]) -> int:
    """The epoch that was best, from 1; 0 before any."""
    return curve.index(max(curve)) + 1 if curve else 0


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def _save(
    path: Path,
    made_of: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: np.random.Generator,
    curve: list[float],
    weights: dict[str, torch.Tensor],
) -> None:
    tensors = {"random": torch.get_rng_state()}
    tensors.update({f"model.{name}": weight for name, weight in _weights(model).items()})
    tensors.update({f"best.{name}": weight for name, weight in weights.items()})
    for number, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": value for name, value in state.items()})
    about = {"made_of": made_of, "curve": json.dumps(curve), "random": json.dumps(random.bit_generator.state)}
    part = path.with_suffix(".tmp")
    save_file(tensors, part, metadata=about)
    part.replace(path)


def _load(
    path: Path, made_of: str, model: nn.Module, optimizer: torch.optim.Optimizer, random: np.random.Generator
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Go on from a checkpoint; returns the metrics so far and the best weights."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        if about["made_of"] != made_of:
            raise ValueError(f"{path} is of a training with other settings ({about['made_of']}): delete it.")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    parts: dict[str, dict[str, Any]] = {"model": {}, "best": {}, "optimizer": {}}
    torch.set_rng_state(tensors.pop("random"))
    random.bit_generator.state = json.loads(about["random"])
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    moments: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in parts["optimizer"].items():
        number, of_state = name.split(".")
        moments[int(number)][of_state] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    model.load_state_dict(parts["model"])
    return json.loads(about["curve"]), parts["best"]


def _cosine(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def of_similar_length(sequences: Sequence[Sequence[int]], groups: int = 8) -> list[np.ndarray]:
    """Numbers of the sequences in groups of similar length, which need less padding than all together."""
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    return [part for part in np.array_split(order, groups) if len(part)]
