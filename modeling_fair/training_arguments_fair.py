"""The settings of a training: transformers' own, FAIR's objectives, and defaults that fit it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

WEIGHTS = ("mtp_weight", "item_weight", "nrt_weight", "mim_weight")
# What a model learns.
OBJECTIVES = (
    *WEIGHTS,
    "item_remove_seen",
    "mask_probability",
    "replace_probability",
    "nrt_margin",
    "mim_temperature",
)


@dataclass
class FairTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments` with FAIR's objectives and with defaults that fit it: evaluation and
    checkpoints every epoch, the best model by validation NDCG@10 with seen items kept."""

    mtp_weight: float = field(default=1.0, metadata={"help": "weight of the prediction of all codes of the next item"})
    item_weight: float = field(
        default=0.0, metadata={"help": "weight of the prediction of the next item itself; needs prediction 'items'"}
    )
    item_negatives: int | None = field(
        default=None, metadata={"help": "items drawn at each step for that; none: the whole catalogue"}
    )
    item_remove_seen: bool = field(
        default=False, metadata={"help": "whether items of the history are none of those where the next one is new"}
    )
    nrt_weight: float = field(default=1.0, metadata={"help": "alpha, the weight of the noise-robustness loss"})
    mim_weight: float = field(default=0.01, metadata={"help": "beta, the weight of the mutual-information loss"})
    mask_probability: float = field(default=0.1, metadata={"help": "share of the history's codes that NRT masks"})
    replace_probability: float = field(
        default=0.1, metadata={"help": "share of the history's codes that NRT replaces by another of the codebook"}
    )
    nrt_margin: float = field(default=0.5, metadata={"help": "margin of NRT's triplet loss, between unit vectors"})
    mim_temperature: float = field(default=0.1, metadata={"help": "what MIM's cosines are divided by"})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "evaluations without a better metric_for_best_model to stop after; none: never"},
    )
    eval_chunk_items: int = field(default=65_536, metadata={"help": "items scored at once in evaluation"})
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "matrix products in bfloat16; default where the hardware does them fast; false: float32"},
    )

    compile_layers: bool = field(
        default=False, metadata={"help": "torch.compile the decoder layers, once for all batch shapes"}
    )

    per_device_train_batch_size: int = field(default=256, metadata={"help": "histories a device and step"})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "histories a device in evaluation"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    num_train_epochs: float = field(default=20, metadata={"help": "epochs"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning-rate schedule"})
    warmup_steps: float = field(default=0.05, metadata={"help": "steps, or share of all steps, of warm-up"})
    weight_decay: float = field(default=0.01, metadata={"help": "of weights that are no norm, bias or lambda"})
    logging_steps: float = field(default=0.01, metadata={"help": "steps, or share of all steps, between logs"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate: no, steps or epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save: no, steps, epoch or best"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "whether to end with the best checkpoint"})
    metric_for_best_model: str | None = field(
        default="ndcg@10", metadata={"help": "validation metric; ndcg@10_seen_removed is that without seen items"}
    )
    greater_is_better: bool | None = field(
        default=None, metadata={"help": "whether more of that metric is better; none: unless its name ends with loss"}
    )
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "every step uses all of FAIR's"})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "whether a resumed run goes on counting towards early stopping"}
    )
    hub_strategy: str = field(default="end", metadata={"help": "when to push to the Hub; only at the end is offered"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads all columns"})

    def __post_init__(self) -> None:
        if self.torch_compile or self.torch_compile_backend or self.torch_compile_mode:
            raise ValueError(
                "torch_compile would compile the whole model, anew for many batch shapes: use compile_layers=True."
            )
        if self.hub_strategy != "end":
            raise ValueError(
                f"hub_strategy is {self.hub_strategy!r}, with which Trainer pushes pickled arguments: use 'end'."
            )
        for name, usual in (
            ("label_smoothing_factor", 0),
            ("neftune_noise_alpha", None),
            ("eval_do_concat_batches", True),
        ):
            if getattr(self, name) != usual:
                raise ValueError(f"{name} has no place in FAIR's losses and metrics: leave it at {usual}.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # what happens anyway; Trainer wants it said for bf16
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_is_fast(self.use_cpu)
        super().__post_init__()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1.")
        if self.eval_chunk_items < 1:
            raise ValueError(f"eval_chunk_items is {self.eval_chunk_items}: give at least 1.")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs < 0):
            raise ValueError("max_steps is 0 or num_train_epochs below 0: give how long to train.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience is {self.early_stopping_patience}: give at least 1, or none.")
        if self.item_negatives is not None and self.item_negatives < 1:
            raise ValueError(f"item_negatives is {self.item_negatives}: give at least 1, or none for all items.")
        for name in (*WEIGHTS, "mask_probability", "replace_probability", "nrt_margin", "learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:  # which is false of what is no number, too
                raise ValueError(f"{name} is {getattr(self, name)}: give it a value of at least 0.")
        if not any(getattr(self, name) for name in WEIGHTS):
            raise ValueError(f"{', '.join(WEIGHTS)} are all 0: give what is to be learned a weight.")
        if not self.item_weight and (self.item_negatives is not None or self.item_remove_seen):
            raise ValueError("item_negatives and item_remove_seen are of the item loss: give it an item_weight.")
        if self.mask_probability + self.replace_probability > 1:
            raise ValueError("mask_probability and replace_probability add up to more than 1: lower one of them.")
        if not 0 < self.mim_temperature < math.inf:
            raise ValueError(f"mim_temperature is {self.mim_temperature}: give it a value above 0.")
        if self.n_gpu > 1:
            raise ValueError(
                f"One process sees {self.n_gpu} GPUs: start one process each with accelerate launch --multi_gpu, or "
                "show it one with CUDA_VISIBLE_DEVICES=0."
            )
        if self.world_size > 1 and not self.average_tokens_across_devices:
            raise ValueError("Several processes need average_tokens_across_devices=True: losses are summed over them.")


def bf16_is_fast(use_cpu: bool) -> bool:
    """Whether the device that trains has instructions for bfloat16: NVIDIA's from Ampere on, and x86 CPUs with
    AVX-512-BF16 or AMX. Others emulate it, slower than float32."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an old torch does not tell
    return capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
