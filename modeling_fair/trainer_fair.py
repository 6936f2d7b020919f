"""Training and evaluation of FAIR on transformers' Trainer."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer

from .collator_fair import FairDataCollator
from .decoding_fair import last_item_states, score_items
from .index_fair import ItemIndex
from .item_loss_fair import ItemSoftmax
from .losses_fair import mutual_information_loss, noise_robustness_loss
from .metrics_fair import SEEN_REMOVED, evaluate_ranks, rank_targets, scores_at
from .model_card_fair import model_card
from .noise_fair import add_noise
from .packing_fair import PACKED
from .resuming_fair import ResumedTraining
from .training_arguments_fair import FairTrainingArguments

RANKED = ("ranks", f"ranks{SEEN_REMOVED}", "top", f"top{SEEN_REMOVED}")


class TrainingDivergedError(ArithmeticError):
    """A loss is no number any more: what follows would train nothing, and be saved."""


class GatherWithGradient(torch.autograd.Function):
    """Rows of all processes in their order, (processes * rows, width). The gradient of a row is the sum of those that
    all processes have for it."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class FairTrainer(Trainer):
    """Trains [`FairForGenerativeRecommendation`] with loss = MTP + alpha NRT + beta MIM and evaluates it by full
    ranking.

    Losses are sums divided by the counts of the whole batch, so gradient accumulation and several processes change
    nothing in MTP. NRT's and MIM's negatives come from the micro-batch of all processes: two processes of 4 equal one
    of 8, two accumulated micro-batches of 4 do not. Where the last batch of an epoch cannot be shared out evenly,
    accelerate fills it up with examples from the epoch's beginning, and that step differs from one process's.

    Args:
        args: [`FairTrainingArguments`].
        processing_class: the fitted [`FairTokenizer`]; it is saved with every checkpoint.
        train_dataset, eval_dataset: as `prepare_datasets` makes them.
        others: those of `Trainer`.

    Raises:
        ValueError: if the model's codes are not the tokenizer's, it reads fewer items than the tokenizer keeps,
            `args` are not FairTrainingArguments, or a `compute_loss_func` is given.
    """

    args: FairTrainingArguments
    processing_class: Any

    # The loss that compute_loss returns is already divided by the whole batch's counts.
    loss_is_scaled_for_ga = True

    def __init__(self, model: Any = None, args: Any = None, *, processing_class: Any, **kwargs: Any):
        if args is None:
            args = FairTrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, FairTrainingArguments):
            raise ValueError(
                f"args are {type(args).__name__}: give FairTrainingArguments, which have FAIR's objectives."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("FairTrainer computes its losses itself: override compute_loss, not compute_loss_func.")
        self._tokenizer, self._compile_layers = processing_class, args.compile_layers
        self._item_weight = args.item_weight
        if model is not None:
            self._make_ready(model)
        kwargs.setdefault("data_collator", FairDataCollator(processing_class))
        kwargs.setdefault("compute_metrics", self._metrics_of)
        super().__init__(model=model, args=args, processing_class=processing_class, **kwargs)
        self.add_callback(ResumedTraining())
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))
        self._sequences_in_batch: torch.Tensor | float = 1.0
        self.record: dict[str, Any] = {}  # what more the model card tells, as `results.json` has it
        self._indexed: tuple[Any, ItemIndex] | None = None
        self._evaluated: Any = None  # the data set that persistent workers hold
        self._parts: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._parts_steps = 0

    def call_model_init(self, trial: Any = None) -> Any:
        model = super().call_model_init(trial)
        self._make_ready(model)
        return model

    def _make_ready(self, model: Any) -> None:
        """Tie a model to the tokenizer whose codes it learns, and compile its layers where that was asked for."""
        config, tokenizer = model.config, self._tokenizer
        shapes, fingerprint = (tokenizer.num_codebooks, tokenizer.codebook_size), tokenizer.codebook_fingerprint
        known = config.codebook_fingerprint in (None, fingerprint)
        if (config.num_codebooks, config.codebook_size) != shapes or not known:
            raise ValueError(
                f"The model reads {config.num_codebooks} codes of {config.codebook_size} of tokenizer fit "
                f"{config.codebook_fingerprint}, but this tokenizer (fit {fingerprint}) has {shapes[0]} of "
                f"{shapes[1]}: use the tokenizer of the model's checkpoint."
            )
        if tokenizer.model_max_length > config.max_position_embeddings:
            raise ValueError(
                f"The tokenizer keeps {tokenizer.model_max_length} items of a history but the model reads "
                f"{config.max_position_embeddings}: set tokenizer.model_max_length to that."
            )
        if config.num_known_items not in (0, tokenizer.num_known_items):
            raise ValueError(
                f"The model knows {config.num_known_items} items but this tokenizer {tokenizer.num_known_items}: use "
                "the tokenizer of its checkpoint, or make a new one with num_known_items=tokenizer.num_known_items."
            )
        if self._item_weight and config.prediction != "items":
            raise ValueError("item_weight trains the prediction of items: make the model with prediction='items'.")
        config.codebook_fingerprint = fingerprint
        if self._compile_layers:
            for layer in self._inside(model).model.layers:
                layer.compile(dynamic=True)  # attention's groups stay outside the graphs

    def _inside(self, model: Any) -> Any:
        """The FAIR model in the wrappers of accelerate and PEFT, if it is in any."""
        model = extract_model_from_parallel(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def train_seconds(self) -> float:
        """What training took, that before a resumption included."""
        callbacks = self.callback_handler.callbacks
        return next(callback for callback in callbacks if isinstance(callback, ResumedTraining)).elapsed()

    # ---- Training ------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Raises ValueError if the checkpoint was trained on the codes of another tokenizer."""
        saved = Path(resume_from_checkpoint) / "config.json"
        if saved.exists():
            fingerprint = json.loads(saved.read_text(encoding="utf-8")).get("codebook_fingerprint")
            if fingerprint != self.processing_class.codebook_fingerprint:
                raise ValueError(
                    f"{resume_from_checkpoint} was trained on the codes of tokenizer fit {fingerprint} but this "
                    f"one is of fit {self.processing_class.codebook_fingerprint}: resume with its own."
                )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        sequences = torch.tensor(float(sum(len(batch["labels"]) for batch in samples)), device=device)
        self._sequences_in_batch = self.accelerator.gather(sequences).sum()
        self._parts_steps += bool(samples)  # a stream is asked once more at its end
        return samples, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """MTP + alpha NRT + beta MIM of one micro-batch, and the prediction of items where that has a weight. For NRT
        the model runs once more, on the noisy histories, with the same dropout.

        MTP, item loss and NRT are means over supervised positions, MIM over histories, all of the whole batch. NRT
        compares the states at supervised positions, its negatives are the last states of the other histories; MIM
        pools the states of a history and its target is the item after it. Histories are drawn at random: batches of
        one length were seen to learn far slower, so padding is spared by packing instead.
        """
        inputs = dict(inputs)
        example_ids, next_ids, history_ids = (inputs.pop(f"{name}_ids") for name in ("example", "next", "history"))
        codes, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
        batch = len(codes)
        config = self._inside(model).config
        if num_items_in_batch is None:
            num_items_in_batch = (labels != -100).sum()
        if not self.args.mtp_weight:
            del inputs["labels"]
        # The noisy view draws the random numbers of the clean one again: what differs is the noise, not the dropout.
        devices = [] if codes.device.type == "cpu" else [codes.device]
        with torch.random.fork_rng(devices, bool(self.args.nrt_weight), device_type=codes.device.type):
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch, logits_to_keep=-1, **PACKED)
        states, packing = outputs.last_hidden_state, outputs.packing
        parts, loss = {}, states.new_zeros((), dtype=torch.float32)
        if self.args.mtp_weight:
            parts["mtp_loss"] = outputs.loss
            loss = loss + self.args.mtp_weight * parts["mtp_loss"]
        supervised = (labels != -100).any(dim=-1).flatten().nonzero()[:, 0]
        if self.args.item_weight:
            of_next, seen = next_ids.flatten()[supervised], None
            if self.args.item_remove_seen:
                users, places = supervised // labels.shape[1], supervised % labels.shape[1]
                later = torch.arange(labels.shape[1], device=codes.device) > places[:, None]
                seen = history_ids[users].masked_fill(later, -1)
            summed = self._item_loss(model, states[packing.packed_cells[supervised]], of_next, seen)
            parts["item_loss"] = summed * config.num_codebooks / num_items_in_batch
            loss = loss + self.args.item_weight * parts["item_loss"]
        if self.args.nrt_weight:
            negatives = self._gather_with_gradient(states[packing.last_cells])
            own = self.accelerator.process_index * batch + supervised // labels.shape[1]
            noisy_codes = add_noise(
                codes,
                example_ids,
                codebook_size=config.codebook_size,
                mask_probability=self.args.mask_probability,
                replace_probability=self.args.replace_probability,
                seed=self.args.seed,
                step=self.state.global_step,
            )
            unknown = torch.full_like(mask, -1)  # noisy histories are read by their codes alone
            of_noisy = model(
                input_ids=noisy_codes, attention_mask=mask, known_ids=unknown, logits_to_keep=-1, **PACKED
            ).last_hidden_state
            clean, noisy = (view[packing.packed_cells[supervised]] for view in (states, of_noisy))
            summed = noise_robustness_loss(clean, noisy, negatives, own, self.args.nrt_margin)
            parts["nrt_loss"] = summed * config.num_codebooks / num_items_in_batch
            loss = loss + self.args.nrt_weight * parts["nrt_loss"]
        if self.args.mim_weight:
            target_codes = last_item_states(labels, mask)
            pooled = packing.sum_histories(states) / mask.sum(dim=1, keepdim=True)
            target_ids = last_item_states(next_ids, mask).cpu().numpy()
            known = torch.from_numpy(self.processing_class.known_ids_of(target_ids)).to(codes.device)
            vectors = self._inside(model).model.embeddings.item_vectors(target_codes, known)
            all_codes = self.accelerator.gather(target_codes)
            own = self.accelerator.process_index * batch + torch.arange(batch, device=codes.device)
            same_item = (target_codes[:, None] == all_codes[None]).all(dim=-1)
            summed = mutual_information_loss(
                pooled, self._gather_with_gradient(vectors), own, same_item, self.args.mim_temperature
            )
            parts["mim_loss"] = summed / self._sequences_in_batch
            loss = loss + self.args.mim_weight * parts["mim_loss"]
        for name, part in parts.items():
            self._parts[name] += part.detach()
        # Data-parallel gradients are averaged, but these losses are shares of one sum.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _item_loss(
        self, model: nn.Module, states: torch.Tensor, next_ids: torch.Tensor, seen_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """The item loss of states, summed; its candidates are the catalogue, or the items drawn at this step, without
        those of `seen_ids`, (states, n)."""
        embeddings = self._inside(model).model.embeddings
        catalogue = self._catalogue()
        codes, known = catalogue.item_codes, catalogue.known_ids
        assert known is not None
        candidates = torch.arange(len(codes), device=states.device)
        drawn_items = self.args.item_negatives
        if drawn_items is None or drawn_items >= len(codes):
            vectors = embeddings.item_vectors(codes, known)
            of_next = vectors.index_select(0, next_ids)  # whose gradient, unlike that of [], sums in one order
        else:
            generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
            candidates = torch.randperm(len(codes), generator=generator)[:drawn_items].to(states.device)
            vectors = embeddings.item_vectors(codes[candidates], known[candidates])
            of_next = embeddings.item_vectors(codes[next_ids], known[next_ids])
        queries = self._inside(model).heads.queries(states)
        return ItemSoftmax.apply(
            queries, of_next, vectors, next_ids, candidates, seen_ids, len(codes), torch.is_grad_enabled()
        )

    def _catalogue(self) -> ItemIndex:
        """The tokenizer's items on this device; it keeps their lengths throughout an evaluation."""
        codes = self.processing_class.item_codes
        if self._indexed is None or self._indexed[0] is not codes:
            known_ids = self.processing_class.known_ids
            index = ItemIndex(codes, backend="exact", device=self.args.device, known_ids=known_ids)
            self._indexed = (codes, index)
        return self._indexed[1]

    def _gather_with_gradient(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows of all processes in their order; gradients flow back to the process a row came from."""
        return tensor if self.accelerator.num_processes == 1 else GatherWithGradient.apply(tensor)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Anew where an earlier training's holds weights that are gone: adopting items makes new ones."""
        if self.optimizer is not None and self.model is not None:
            own = {id(weight) for weight in self.model.parameters()}
            if not own.issuperset(id(weight) for group in self.optimizer.param_groups for weight in group["params"]):
                self.optimizer = None
        return super().create_optimizer(*args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Lambdas are exponents around 0 to 1, so weight decay would pull them towards a value: they are exempt."""
        return [name for name in super().get_decay_parameter_names(model) if "lambda" not in name]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._parts_steps:
            for name, part in self._parts.items():
                logs[name] = self.accelerator.reduce(part, reduction="sum").item() / self._parts_steps
            broken = [name for name in self._parts if not math.isfinite(logs[name])]
            self._parts.clear()
            self._parts_steps = 0
            if broken:
                raise TrainingDivergedError(
                    f"The training diverged: {broken[0]} is {logs[broken[0]]} by step {self.state.global_step}. Lower "
                    "--learning_rate, or give more --warmup_steps."
                )
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save as Trainer does, the arguments as JSON instead of its pickle."""
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the model card, README.md, of what `self.record` and this trainer know; `push_to_hub` calls it."""
        if not self.is_world_process_zero():
            return
        assert self.model is not None
        if hasattr(self.model, "get_base_model"):  # an adapter alone is no checkpoint
            super().create_model_card(model_name=model_name, **kwargs)
            return
        validated = [log for log in self.state.log_history if "eval_ndcg@10" in log]
        if self.args.load_best_model_at_end and self.state.best_global_step:
            validated = [log for log in validated if log["step"] == self.state.best_global_step][:1] or validated
        last = {name.removeprefix("eval_"): value for name, value in validated[-1].items()} if validated else {}
        record = {
            "results": {"validation": last},
            "config": self._inside(self.model).config.to_dict(),
            "arguments": self.args.to_sanitized_dict(),
            **self.record,
        }
        if "id_quality" not in record:
            record["id_quality"] = {"catalogue": self.processing_class.quality()}
        folder = Path(str(self.args.output_dir))
        name = self.hub_model_id or model_name or (folder.name if folder.is_absolute() else str(folder))
        model_card(record, name).save(folder / "README.md")

    # ---- Evaluation ----------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Trainer's own gives persistent workers' first data set again, whichever is asked for."""
        if eval_dataset is not self._evaluated:
            self._eval_dataloaders, self._evaluated = {}, eval_dataset
        return super().get_eval_dataloader(eval_dataset)

    @torch.no_grad()
    def prediction_step(  # type: ignore[override]  # logits are a tuple, as Trainer's own are
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None, torch.Tensor | None]:
        """Rank the target of each history among all items. The loss is MTP alone: MIM's hangs on the batch size."""
        inputs = self._prepare_inputs(inputs)
        targets = inputs["target_ids"]
        mask, known_ids = inputs["attention_mask"], inputs["known_ids"]
        with self.compute_loss_context_manager():
            output = model(inputs["input_ids"], mask, known_ids=known_ids, **PACKED)
        logits = output.logits[:, 0]
        catalogue = self._catalogue()
        item_codes = catalogue.item_codes
        target_codes = item_codes[targets]
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), target_codes.flatten().long())
        if prediction_loss_only:
            return loss, None, None
        terms = self._inside(model).item_terms(
            output.last_hidden_state, known_ids, catalogue.known_ids, catalogue.lengths_by
        )
        chunk = self.args.eval_chunk_items
        chunks = partial(score_items, logits, item_codes, chunk, terms)
        held = list(chunks()) if len(item_codes) <= chunk else None
        ranked = rank_targets(held or chunks(), scores_at(held or chunks(), targets), targets, inputs["seen_ids"])
        return loss, tuple(ranked[name] for name in RANKED), targets

    def _metrics_of(self, prediction: EvalPrediction) -> dict[str, float]:
        ranked = dict(zip(RANKED, prediction.predictions, strict=True))
        return evaluate_ranks(ranked, len(self.processing_class.item_codes))
