"""The training that SASRec and TIGER share: AdamW, a cosine schedule, and the epoch that was best in validation."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn


def fit(
    model: Any,
    train_sequences: Sequence[Sequence[int]],
    validate: Callable[[Any], float],
    *,
    epochs: int = 30,
    patience: int = 5,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    warmup: float = 0.05,
    bf16: bool = False,
    seed: int = 0,
) -> None:
    """Train a model and leave it with the weights of the epoch that was best in validation.

    Args:
        model: what learns; its `loss_of` gives the loss of a batch of sequences, and may draw random numbers.
        train_sequences: catalogue rows a user, oldest first; those of one item teach nothing.
        validate: metric of the model, larger is better; called after every epoch.
        epochs, patience: at most so many epochs, and so many without a better metric.
        batch_size: sequences a step, drawn at random.
        learning_rate, warmup: peak of the cosine schedule, and share of the steps before it.
        bf16: whether matrix products are in bfloat16.
        seed: of the order of the sequences, and of `loss_of`'s numbers.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    random = np.random.default_rng(seed)
    sequences = [sequence for sequence in train_sequences if len(sequence) > 1]
    steps = epochs * math.ceil(len(sequences) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step / steps, warmup))
    best, weights, since = -math.inf, copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        model.train()
        shuffled = random.permutation(len(sequences))
        for start in range(0, len(sequences), batch_size):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model.loss_of([sequences[n] for n in shuffled[start : start + batch_size]], random)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        metric = validate(model.eval())
        since += 1
        if metric > best:
            best, weights, since = metric, copy.deepcopy(model.state_dict()), 0
        if since >= patience:
            break
    model.load_state_dict(weights)
    model.eval()


def _cosine(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def of_similar_length(sequences: Sequence[Sequence[int]], groups: int = 8) -> list[np.ndarray]:
    """Numbers of the sequences in groups of similar length, which need less padding than all together."""
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    return [part for part in np.array_split(order, groups) if len(part)]
