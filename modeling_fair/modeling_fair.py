"""FAIR models: item codes in, codes of the next item out, or the next item. New items need no retraining: models know
codes, and lend new items what they know of others beside them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention_fair import FairAttention, ResidualProjection
from .configuration_fair import FairConfig
from .decoding_fair import ItemTerms, RecommendOutput, last_item_states
from .embeddings_fair import FairEmbeddings, PositionEmbedding
from .heads_fair import FairPredictionHeads, TiedPrediction
from .index_fair import ItemIndex
from .new_items_fair import adopt
from .norm_fair import FairRMSNorm
from .outputs_fair import FairModelOutput, FairRecommendationOutput, OutputsWanted
from .packing_fair import PACKED, Packing
from .pipeline_fair import RecommendationPipeline  # noqa: F401  a saved checkpoint carries the files imported here
from .prior_fair import CoOccurrencePrior
from .relative_positions_fair import RelativePositionBias


class FairMLP(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, config: FairConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = ResidualProjection(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class FairDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: FairConfig):
        super().__init__()
        self.input_norm = FairRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = FairAttention(config)
        self.mlp_norm = FairRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FairMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        cells: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        attention_output = self.self_attn(self.input_norm(hidden_states), attention_mask, cells=cells, **kwargs)[0]
        hidden_states = hidden_states if cells is None else hidden_states[cells]
        hidden_states = hidden_states + self.dropout(attention_output)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class BrokenCheckpointError(SafetensorError):
    """A checkpoint without whole weights. An `OSError`, `ValueError` or `RuntimeError`, `pipeline` would bury in a
    traceback."""


class FairPreTrainedModel(PreTrainedModel):
    config: FairConfig
    config_class = FairConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FairDecoderLayer", "FairEmbeddings", "FairPredictionHeads"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": FairDecoderLayer,
        "attentions": OutputRecorder(FairAttention, index=1),
        "branch_attentions": OutputRecorder(FairAttention, index=2),
    }

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Raises ValueError: codes belong to the tokenizer's fit, and new items use those there are."""
        raise ValueError("A model's codes are those of its tokenizer's fit: new items need no new codes.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As of all models of transformers.

        Raises:
            BrokenCheckpointError: for a folder that lacks weights, or holds half a file of them or those of another
                configuration.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise BrokenCheckpointError(
                f"The weights of {pretrained_model_name_or_path} are no whole safetensors file ({error}): fetch the "
                "folder again."
            ) from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise BrokenCheckpointError(
                f"The weights of {pretrained_model_name_or_path} have other shapes than its config.json says: fetch "
                "the whole folder again."
            ) from error
        except OSError as error:
            folder = Path(str(pretrained_model_name_or_path))
            if not folder.is_dir() or any(folder.glob("model*.safetensors")):
                raise
            raise BrokenCheckpointError(
                f"{folder} has no model.safetensors: fetch the whole folder again, or train into it first."
            ) from error

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FairAttention) and module.num_branches == 2:
            init.constant_(module.log_lambda1, torch.tensor(self.config.lambda1_init).log().item())
            init.constant_(module.log_lambda2, torch.tensor(self.config.lambda2_init).log().item())
        elif isinstance(module, RelativePositionBias):
            init.copy_(module.weight, module.start())
        elif isinstance(module, CoOccurrencePrior):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif self.config.prediction == "codes" and isinstance(module, PositionEmbedding):
            # An item is a mean of code embeddings, whose deviation is smaller by this root. With positions of the full
            # one, items drowned in them and learning started later. Where items are predicted, their vectors have
            # length 1 from the start, and neither this nor layers that start as the identity was seen to help.
            std = self.config.initializer_range / self.config.num_codebooks**0.5
            init.normal_(module.weight, mean=0.0, std=std)
        elif self.config.prediction == "codes" and isinstance(module, ResidualProjection):
            init.zeros_(module.weight)
        elif isinstance(module, FairPredictionHeads):
            init.zeros_(module.weight)
            init.zeros_(module.bias)

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if self.config.normalises_scores:
            if requested_attention not in (None, "eager"):
                raise ValueError(
                    f"attn_implementation={requested_attention!r} cannot normalise attention maps: use 'eager' with "
                    f"attention_norm={self.config.attention_norm!r}, or attention_norm='rms_output'."
                )
            return "eager"
        return super().get_correct_attn_implementation(requested_attention, is_init_check)


class FairModel(FairPreTrainedModel):
    """The decoder: histories of item codes -> one state an item."""

    def __init__(self, config: FairConfig):
        super().__init__(config)
        self.embeddings = FairEmbeddings(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([FairDecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = FairRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.codes

    def set_input_embeddings(self, value: Any) -> None:
        self.embeddings.codes = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        known_ids: torch.Tensor | None = None,
        packed: bool = False,
        last_only: bool = False,
        **kwargs: Unpack[OutputsWanted],
    ) -> FairModelOutput:
        """
        Args:
            input_ids: codes of the items of each history, oldest first, (batch, items, num_codebooks).
            attention_mask: 1 for items, 0 for padding on either side, (batch, items); all ones by default. Positions
                are counted from it, so padding changes nothing.
            inputs_embeds: item vectors instead of `input_ids`, (batch, items, hidden_size).
            known_ids: numbers of the items among those the model knows, -1 for others, (batch, items): what the
                tokenizer gives. Without it, items are placed by their codes alone.
            packed: whether to leave padding out, which changes no item's state: see [`~packing_fair.Packing`]. Packed
                states come without hidden states and maps.
            last_only: whether, of packed histories, only the states of their last items are wanted, (batch,
                hidden_size): the last layer then runs on them alone. Those of empty histories mean nothing.

        Raises:
            ValueError: for both or none of `input_ids` and `inputs_embeds`, for items with another number of codes
                than the model's, for no items or more than `max_position_embeddings`, and for a mask of another shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give FairModel exactly one of input_ids and inputs_embeds.")
        items: torch.Tensor = input_ids if input_ids is not None else inputs_embeds  # type: ignore[assignment]
        batch, length = items.shape[:2]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"A history of {length} items is longer than the model reads ({self.config.max_position_embeddings}): "
                "keep its last ones, as FairTokenizer does with truncation=True."
            )
        if length == 0:
            raise ValueError("The histories have no position at all: pad an empty history to one, masked.")
        if attention_mask is not None and attention_mask.shape != (batch, length):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)} but there are {batch} histories of {length}."
            )
        if attention_mask is None:
            attention_mask = torch.ones((batch, length), dtype=torch.long, device=items.device)
        maps_wanted = self._wants(kwargs, "attentions", "branch_attentions")
        if packed and (maps_wanted or self._wants(kwargs, "hidden_states")):
            raise ValueError("Packed histories give no hidden states and no maps: call the model without packed=True.")
        packing = Packing(attention_mask) if packed else None
        if known_ids is not None and known_ids.shape != (batch, length):
            raise ValueError(
                f"known_ids has shape {tuple(known_ids.shape)} but there are {batch} histories of {length}."
            )
        if packing is not None:
            items = packing.pack(items)
            known_ids = None if known_ids is None else packing.pack(known_ids)
        vectors = items if input_ids is None else self.embeddings.item_vectors(items, known_ids)
        config, causal_mask = self.config, None
        if packing is not None:
            position_ids = packing.positions()
        else:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            if maps_wanted:
                config = copy.copy(config)  # only the eager form has maps to return
                config._attn_implementation_internal = "eager"
            causal_mask = create_causal_mask(config, vectors, attention_mask, past_key_values=None)
        hidden_states = self.dropout(vectors + self.embeddings.positions(position_ids))
        options = {
            "attn_implementation": config._attn_implementation,
            "packing": packing,
            "position_ids": position_ids,
        }
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, causal_mask, **options)
        if packing is None or not last_only:
            hidden_states = self.layers[-1](hidden_states, causal_mask, **options)
        elif packing.is_even:
            cells = packing.last_cells[packing.order]
            of_last = self.layers[-1](hidden_states, causal_mask, cells=cells, **options)
            hidden_states = of_last.new_zeros(batch, of_last.shape[1]).index_copy(0, packing.order, of_last)
        else:  # a last item must not read the padding behind it, which the causal form alone keeps from it
            hidden_states = self.layers[-1](hidden_states, causal_mask, **options)[packing.last_cells]
        return FairModelOutput(last_hidden_state=self.norm(hidden_states), packing=packing)

    def _wants(self, kwargs: OutputsWanted, *names: str) -> bool:
        return any(kwargs.get(f"output_{name}", getattr(self.config, f"output_{name}", False)) for name in names)


class FairForGenerativeRecommendation(FairPreTrainedModel):
    """FAIR: the decoder with one prediction head a codebook, or without heads where items are predicted."""

    def __init__(self, config: FairConfig):
        config = copy.deepcopy(config)  # priors and adopted items change it: it is this model's alone
        super().__init__(config)
        self.model = FairModel(config)
        heads = FairPredictionHeads if config.prediction == "codes" else TiedPrediction
        self.heads = heads(config)
        self.prior = CoOccurrencePrior(config) if config.prior_size else None
        self.post_init()

    def code_logits(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., hidden_size) -> logits (..., num_codebooks, codebook_size)."""
        logits = self.heads(states.reshape(-1, states.shape[-1]), self.model.embeddings.codebooks())
        return logits.view(*states.shape[:-1], *logits.shape[1:])

    def set_prior(self, counts: Any, weight: float, repeat: float = 0.0, level: float | None = None) -> None:
        """Make co-occurrence counts part of the model, or take them out again.

        Args:
            counts: sparse array of known items by known items, what `cooccurrence` gives; `None`, or one that counts
                nothing, for no prior.
            weight: of the counts' logarithm in an item's score, or what a mixture divides scores by,
                `config.prior_weight`.
            repeat: what is added to the scores of the history's own known items, `config.prior_repeat`.
            level: makes a mixture of model and prior, `config.prior_level`.

        Raises:
            ValueError: for counts of another number of items than `config.num_known_items`; for a mixture of weight 0.
        """
        counts = None if counts is None or not counts.nnz else counts
        size = 0 if counts is None else counts.nnz
        settings = {"prior_size": size, "prior_weight": weight, "prior_repeat": repeat, "prior_level": level}
        settings["num_adopted_items"] = 0  # the counts are the items' own
        wanted, prior = copy.copy(self.config), None
        for name, value in settings.items():
            setattr(wanted, name, value)
        wanted.validate_architecture()
        if counts is not None:
            prior = CoOccurrencePrior(wanted).to(self.device)
            prior.fill(counts)
            prior.config = self.config
        for name, value in settings.items():  # after all that may fail
            setattr(self.config, name, value)
        self.prior = prior

    def adopt_new_items(self, tokenizer: Any) -> int:
        """Let items that were added to the tokenizer's catalogue borrow what this model knows of items beside their
        codes: their own vectors and counts become the means of those of the 5 known items that they are most like, by
        the centroids of their codes. No training is needed, and what is known of other items stays as it is. Model
        and tokenizer change together: save both, and make an [`ItemIndex`] anew.

        Args:
            tokenizer: the checkpoint's, with new items.

        Returns:
            How many were adopted; none by a model that knows items by their codes alone.

        Raises:
            ValueError: for a tokenizer that knows other items than the model.
            ImportError: for a model with a prior, without scipy.
        """
        return adopt(self, tokenizer)

    def item_terms(
        self,
        states: torch.Tensor,
        known_ids: torch.Tensor | None,
        of_items: torch.Tensor | None,
        lengths: Callable[[FairEmbeddings], torch.Tensor],
    ) -> ItemTerms | None:
        """What scores of items are made of beside their codes: lengths and own vectors, where items are predicted, and
        the prior.

        Args:
            states: of the last items, (batch, hidden_size).
            known_ids: numbers of the histories' items among the known ones, -1 for others, (batch, items).
            of_items: those of the catalogue's items, (catalogue,): `tokenizer.known_ids`.
            lengths: gives the lengths of the catalogue's items by the model's embeddings.

        Returns:
            [`~decoding_fair.ItemTerms`], or `None` where there are none.

        Raises:
            ValueError: where the model knows items but is not told which ones they are.
        """
        embeddings, terms = self.model.embeddings, ItemTerms()
        of_items = None if of_items is None else of_items.to(states.device)
        cosines = self.config.prediction == "items"
        if not cosines and self.prior is None:
            return None
        if (embeddings.residuals is not None or self.prior is not None) and (of_items is None or known_ids is None):
            raise ValueError(
                "This model knows items beside their codes: give known_ids with the histories, as the tokenizer does, "
                "and ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids)."
            )
        if cosines:
            terms.lengths = lengths(embeddings)
        if embeddings.residuals is not None:
            terms.known_ids, terms.vectors = of_items, embeddings.residuals.weight.float()
            assert isinstance(self.heads, TiedPrediction)
            terms.queries = self.heads.queries(states.float())
        if self.prior is not None:
            terms.prior = self.prior(known_ids, of_items)
            if not cosines:  # scores are means over codebooks
                terms.prior = terms.prior.scaled(1 / self.config.num_codebooks)
        return terms

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[OutputsWanted],
    ) -> FairRecommendationOutput:
        """
        Args:
            input_ids, attention_mask, inputs_embeds: as in [`FairModel`], whose other arguments may follow too.
            labels: codes of the NEXT item at every position (they are not shifted again), (batch, items,
                num_codebooks); -100 is ignored. The heads run on supervised positions only.
            logits_to_keep: 1 for logits after the last item of each history, 0 for all positions (those of padding
                are 0), -1 for none, `None` (default) for 1 without labels and -1 with labels.
            num_items_in_batch: what the summed loss is divided by: the number of supervised codes of the whole batch,
                all micro-batches and processes taken together. By default that of `labels`.

        Returns:
            [`FairRecommendationOutput`]; its loss is MTP, the mean cross-entropy over supervised positions and codes.
        """
        if logits_to_keep not in (None, -1, 0, 1):
            raise ValueError(
                f"logits_to_keep is {logits_to_keep}: give 1 (the last item), 0 (every item) or -1 (none)."
            )
        last_wanted = logits_to_keep == 1 or (logits_to_keep is None and labels is None)
        last_only = kwargs.get("packed", False) and last_wanted and labels is None
        kwargs["return_dict"] = True  # what this method returns is can_return_tuple's to decide
        outputs = self.model(input_ids, attention_mask, inputs_embeds, last_only=last_only, **kwargs)
        states, packing = outputs.last_hidden_state, outputs.packing

        def states_at(places: torch.Tensor) -> torch.Tensor:
            return states[places] if packing is None else states[packing.packed_cells[places.flatten()]]

        loss = logits = None
        if labels is not None:
            supervised = (labels != -100).any(dim=-1)
            targets = labels[supervised]
            if num_items_in_batch is None:
                num_items_in_batch = (targets != -100).sum().clamp(min=1)
            summed = self.heads(states_at(supervised), self.model.embeddings.codebooks(), targets)
            loss = summed / num_items_in_batch
        if last_wanted:
            if packing is None:
                last = last_item_states(states, attention_mask)
            else:
                last = states if last_only else states[packing.last_cells]
            logits = self.code_logits(last)[:, None]
        elif logits_to_keep == 0 and attention_mask is None and packing is None:
            logits = self.code_logits(states)
        elif logits_to_keep == 0:
            shape = states.shape[:2] if packing is None else packing.shape
            real = states.new_ones(shape, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
            of_items = self.code_logits(states_at(real))
            logits = of_items.new_zeros(*real.shape, *of_items.shape[1:])
            logits[real] = of_items
        return FairRecommendationOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=states,
            packing=packing,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            branch_attentions=outputs.branch_attentions,
        )

    @torch.no_grad()
    def recommend(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        item_ids: torch.Tensor | None = None,
        known_ids: torch.Tensor | None = None,
        *,
        index: ItemIndex,
        **options,
    ) -> RecommendOutput:
        """The best items of a catalogue for each history.

        Args:
            input_ids, attention_mask: histories, as in `forward`.
            item_ids: catalogue rows that `remove_seen` removes, (batch, n), -1 for padding, or a list a user. Those
                of the tokenizer's output are the items that the model reads; of longer histories give
                `tokenizer.rows_of(histories)`.
            known_ids: as in [`FairModel`].
            index: the catalogue: `ItemIndex(tokenizer.item_codes, known_ids=tokenizer.known_ids)`.
            options: those of [`~index_fair.ItemIndex.search`]: `top_k`, `remove_seen`, `exclude`, `allow`,
                `empty_history_scores`, `extra_rows`, `extra_scores`, `visit`.

        Returns:
            [`~decoding_fair.RecommendOutput`]; users without any item get `empty_history_scores`, or the first items
            of the catalogue. It has `item_ids` (catalogue rows) and `scores`, (batch, top_k) each.
        """
        if input_ids.shape[1] == 0:  # no user has any item: one position of padding each
            input_ids = input_ids.new_zeros(len(input_ids), 1, self.config.num_codebooks)
            attention_mask = input_ids[..., 0]
            known_ids = None if known_ids is None else attention_mask - 1
        terms = None
        if len(input_ids):
            output = self(input_ids, attention_mask, known_ids=known_ids, **PACKED)
            logits, states = output.logits[:, 0], output.last_hidden_state
            terms = self.item_terms(states, known_ids, index.known_ids, index.lengths_by)
        else:
            logits = torch.empty(0, self.config.num_codebooks, self.config.codebook_size, device=input_ids.device)
        empty = None if attention_mask is None else ~attention_mask.bool().any(dim=1)
        return index.search(logits, seen=item_ids, empty_history=empty, terms=terms, **options)


__all__ = [
    "FairForGenerativeRecommendation",
    "FairModel",
    "FairModelOutput",
    "FairPreTrainedModel",
    "FairRecommendationOutput",
]
