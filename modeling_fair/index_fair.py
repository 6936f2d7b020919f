"""A catalogue of item codes that is searched for each user's best items.

Three backends find the same items by the same scores: `exact` scores all of them in torch, for many users at once;
`pq` scores all of them for one user at a time with faiss, whose product quantiser adds up table entries just so, about
twice as fast for a single user; `ivf` scores the most promising lists of a partition only, and misses items outside.
"""

import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .decoding_fair import CHUNK_ITEMS, USERS, ItemTerms, RecommendOutput, best_of, check_codebooks, score_table
from .faiss_sums_fair import import_faiss, largest_sums
from .filters_fair import Rows, as_rows, contains, extra_of, groups
from .partition_fair import Partition
from .row_terms_fair import RowTerms
from .scan_fair import BLOCK, ScoreTable, scan, scores_of

BACKENDS = ("auto", "exact", "pq", "ivf")
SPARE = 16  # items that faiss returns beyond those wanted: its sums differ in the last bits
VISIT = 0.05


class ItemIndex:
    """The items of a catalogue by their codes. Rows are those of the tokenizer's catalogue, in its order.

    Args:
        item_codes: (catalogue, num_codebooks), integers: `tokenizer.item_codes`. Codes below 256 are kept in a byte;
            an array of bytes is not copied.
        backend: `"auto"` (default) is `ivf` with a partition, else `pq` for single users where faiss is installed and
            `exact` for more.
        device: where codes are kept and scored; by default where they are.
        chunk_items: items scored at once, rounded up to a multiple of 16. Memory of a search is that many floats, and
            one for every 16 items of the catalogue, for each of 32 users.
        partition: lists of items, from [`fit_partition`]; they are changed by `add` and `remove`.
        known_ids: number of each item among those a model knows beside their codes, -1 for others, (catalogue,):
            `tokenizer.known_ids`. Models with such terms ask for it.

    Raises:
        ValueError: for codes that are not a table of integers from 0 on, `chunk_items` below 1, a partition or
            `known_ids` of another catalogue, and a backend that cannot serve these codes, this device or do without a
            partition.
        ImportError: for the backends `pq` and `ivf` without faiss.
    """

    def __init__(
        self,
        item_codes: np.ndarray | torch.Tensor,
        *,
        backend: str = "auto",
        device: str | torch.device | None = None,
        chunk_items: int = CHUNK_ITEMS,
        partition: Partition | None = None,
        known_ids: np.ndarray | torch.Tensor | None = None,
    ):
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}: choose one of {', '.join(BACKENDS)}.")
        if chunk_items < 1:
            raise ValueError(f"chunk_items is {chunk_items}: give at least 1.")
        self.chunk_items = -(-chunk_items // BLOCK) * BLOCK
        # The partition changes with the catalogue, so it is this index's own.
        self.partition = None if partition is None else replace(partition)
        codes = as_codes(item_codes).to(device)
        if known_ids is not None and tuple(known_ids.shape) != (len(codes),):
            raise ValueError(f"known_ids has shape {tuple(known_ids.shape)}: give ({len(codes)},), one an item.")
        self._lengths: tuple[weakref.ref, Any, torch.Tensor] | None = None
        self.known_ids = None if known_ids is None else torch.as_tensor(known_ids).long().to(codes.device)
        self._set(codes)
        self.backend = "ivf" if backend == "auto" and partition is not None else backend
        if self.backend == "ivf" and partition is None:
            raise ValueError("The backend 'ivf' needs a partition: fit one with fit_partition.")
        if partition is not None and len(partition.assignments) != len(self):
            raise ValueError(
                f"The partition has {len(partition.assignments)} items but item_codes {len(self)}: fit it on them."
            )
        if self.backend in ("pq", "ivf"):
            if self.item_codes.dtype != torch.uint8 or self.item_codes.device.type != "cpu":
                raise ValueError(
                    f"The backend {self.backend!r} is for codes below 256 on a CPU: use backend='exact' instead."
                )
            import_faiss()

    def __len__(self) -> int:
        return len(self.item_codes)

    @property
    def nbytes(self) -> int:
        """Bytes that the index keeps."""
        return self.item_codes.nbytes + (0 if self.partition is None else self.partition.nbytes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lengths": None}  # those of a model that does not go along

    def lengths_by(self, embeddings: Any) -> torch.Tensor:
        """Lengths of the items' vectors by a model's embeddings, (catalogue,). Those of a model in evaluation mode are
        kept until items change, the model's weights, or its mode: fused optimizers change weights behind torch's back,
        as writing to a parameter's `.data` does, after which `model.train().eval()` lets them be computed anew.
        """
        self._check_codes(embeddings.codebook_size)
        if embeddings.training:
            return embeddings.lengths(self.item_codes, self.known_ids)
        weights = tuple(
            (weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in embeddings.parameters()
        )
        now = (embeddings.trained_times, weights)
        if self._lengths is not None:
            of_model, then, lengths = self._lengths
            if of_model() is embeddings and then == now:  # another model may get the memory of one that is gone
                return lengths
        lengths = embeddings.lengths(self.item_codes, self.known_ids)
        self._lengths = (weakref.ref(embeddings), now, lengths)
        return lengths

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the partition, `item_index.safetensors`: all else is built of the tokenizer's codes.

        Raises:
            ValueError: without a partition.
        """
        if self.partition is None:
            raise ValueError("This index has no partition to save: build it of tokenizer.item_codes again.")
        self.partition.save(folder, self.item_codes.cpu().numpy())

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, item_codes: np.ndarray | torch.Tensor, **options: Any
    ) -> "ItemIndex":
        """The index of a folder that `save_pretrained` wrote, with the `item_codes` and options of [`ItemIndex`].

        Raises:
            ValueError: for a broken file, and one that was saved with other codes.
        """
        codes = as_codes(item_codes)
        return cls(codes, partition=Partition.load(folder, codes.cpu().numpy()), **options)

    def add(self, item_codes: np.ndarray | torch.Tensor) -> None:
        """Append items, (new items, num_codebooks), behind the others; they are none that a model knows.

        Raises:
            ValueError: for another number of codes than the others have.
        """
        new = as_codes(item_codes).to(self.item_codes.device)
        if new.shape[1] != self.item_codes.shape[1]:
            raise ValueError(
                f"item_codes has {new.shape[1]} codes an item but the index {self.item_codes.shape[1]}: "
                "encode new items with the tokenizer of the others."
            )
        if self.backend in ("pq", "ivf") and new.dtype != torch.uint8:
            raise ValueError(f"item_codes holds codes above 255, which the backend {self.backend!r} cannot keep.")
        if self.partition is not None:
            size = len(self.partition.directions) // new.shape[1]
            if new.numel() and int(new.max()) >= size:
                raise ValueError(
                    f"item_codes holds code {int(new.max())} but the partition was fitted on 0 to {size - 1}."
                )
            self.partition.add(new.cpu())
        if self.known_ids is not None:
            self.known_ids = torch.cat([self.known_ids, self.known_ids.new_full((len(new),), -1)])
        self._set(torch.cat([self.item_codes, new.to(torch.promote_types(new.dtype, self.item_codes.dtype))]))

    def remove(self, rows: Sequence[int] | np.ndarray | torch.Tensor) -> None:
        """Take items out; the rows of the items behind them move up, as in `FairTokenizer.remove_items`.

        Raises:
            ValueError: for a row outside the catalogue; nothing is removed then.
        """
        rows = as_rows(rows, 1, self.item_codes.device, "rows", len(self))
        if rows.numel() and int(rows.min()) < 0:
            raise ValueError(f"rows holds a catalogue row outside 0 to {len(self) - 1}: take rows from the tokenizer.")
        kept = torch.ones(len(self), dtype=torch.bool, device=rows.device)
        kept[rows] = False
        if self.partition is not None:
            self.partition.remove(kept.cpu().numpy())
        if self.known_ids is not None:
            self.known_ids = self.known_ids[kept]
        self._set(self.item_codes[kept])

    def search(
        self,
        code_logits: torch.Tensor,
        *,
        top_k: int = 10,
        seen: Rows | None = None,
        remove_seen: bool = True,
        exclude: Rows | None = None,
        allow: Rows | None = None,
        empty_history: torch.Tensor | None = None,
        empty_history_scores: torch.Tensor | None = None,
        extra_rows: torch.Tensor | None = None,
        extra_scores: torch.Tensor | None = None,
        terms: ItemTerms | None = None,
        visit: float = VISIT,
    ) -> RecommendOutput:
        """The best items for each user: higher scores first, equal scores in catalogue order.

        Args:
            code_logits: (batch, num_codebooks, codebook_size).
            top_k: how many items to return.
            seen: catalogue rows of each history, (batch, n), -1 for none, or a list a user.
            remove_seen: whether items of `seen` are left out (default) or may be recommended again.
            exclude, allow: catalogue rows never to return, or the only ones to: one list for all users or one a user,
                `None` among which allows that user everything.
            empty_history: which users have no history, (batch,).
            empty_history_scores: (catalogue,) scores for users without history, such as popularity; by default all 0,
                so that they get the first items of the catalogue that the filters leave.
            extra_rows, extra_scores: catalogue rows, (batch, n), -1 for none, each at most once a user, and what is
                added to their scores, (batch, n); nothing is added to other items, nor for users without history.
            terms: what a model adds of its own, `model.item_terms`; `model.recommend` passes them on.
            visit: share of the items that the backend `ivf` scores, above 0; 1 makes it exact. Users with an `allow`
                list, and those whose visited lists the filters leave too few items in, are served exactly.

        Raises:
            ValueError: for `top_k` below 1, `visit` outside 0 to 1, rows outside the catalogue, lists for another
                number of users, codes that the model lacks, or logits that are not numbers.
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}: give at least 1.")
        if not 0 < visit <= 1:
            raise ValueError(f"visit is {visit}: give a share of the items, above 0 and up to 1.")
        check_codebooks(self.item_codes.shape[1], code_logits)
        self._check_codes(code_logits.shape[2])
        if (
            self.partition is not None
            and len(self.partition.directions) != code_logits.shape[1] * code_logits.shape[2]
        ):
            raise ValueError("The partition was fitted for a model with codebooks of another size: fit it again.")
        if bool(code_logits.isnan().any()):
            raise ValueError("code_logits holds NaN: the model's weights are broken, load them again.")
        if empty_history_scores is not None and len(empty_history_scores) != len(self):
            raise ValueError(
                f"empty_history_scores has {len(empty_history_scores)} scores but there are {len(self)} items."
            )
        device, batch = self.item_codes.device, len(code_logits)
        wanted_on, code_logits = code_logits.device, code_logits.to(device)
        hidden = torch.empty(0, dtype=torch.long, device=device)  # from all users
        hidden_from = hidden.expand(batch, 0)  # from each, (batch, n)
        for name, filtered in (("seen", seen if remove_seen else None), ("exclude", exclude)):
            if filtered is not None:
                rows = as_rows(filtered, batch, device, name, len(self))
                if rows.dim() == 1:
                    hidden = torch.cat([hidden, rows])
                else:
                    hidden_from = torch.cat([hidden_from, rows], dim=1)
        extra = extra_of(extra_rows, extra_scores, batch, device, len(self))
        terms = None if terms is None else terms.to(device)
        prior = None if terms is None else terms.prior
        if extra is not None:
            prior = RowTerms(*extra) if prior is None else prior.plus(*extra)
        if terms is not None and terms.lengths is None and terms.vectors is None:
            terms = None  # nothing but the prior
        cosines = terms is not None and terms.lengths is not None

        best_scores = torch.full((batch, top_k), -torch.inf, device=device)
        best_rows = torch.full((batch, top_k), -1, dtype=torch.long, device=device)
        empty = torch.zeros(batch, dtype=torch.bool) if empty_history is None else torch.as_tensor(empty_history).cpu()
        for users, allowed in groups(allow, empty, device, len(self)):
            for part in users.split(USERS if device.type == "cpu" else batch):
                # A slice where users stand side by side, which copies no logits.
                at = slice(int(part[0]), int(part[-1]) + 1) if int(part[-1] - part[0]) + 1 == len(part) else part
                if empty[part[0]]:
                    scores, rows = self._of_empty(empty_history_scores, allowed, hidden, hidden_from[at], top_k)
                else:
                    table = ScoreTable(
                        score_table(code_logits[at], cosines),
                        None if terms is None else terms.of_users(at),
                        None if prior is None else prior.of_users(at),
                    )
                    scores, rows = self._of_users(table, allowed, hidden, hidden_from[at], top_k, visit)
                best_scores[at, : scores.shape[1]], best_rows[at, : scores.shape[1]] = scores, rows
        best_rows.masked_fill_(best_scores == -torch.inf, -1)
        return RecommendOutput(item_ids=best_rows.to(wanted_on), scores=best_scores.to(wanted_on))

    def _check_codes(self, codebook_size: int) -> None:
        if self._largest >= codebook_size:
            raise ValueError(
                f"The items hold code {self._largest} but the model has codes 0 to {codebook_size - 1}: "
                "use the tokenizer that the checkpoint was trained with."
            )

    def _of_users(
        self,
        table: ScoreTable,
        allowed: torch.Tensor | None,
        hidden: torch.Tensor,
        hidden_from: torch.Tensor,
        top_k: int,
        visit: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores, rows), (users, at most top_k), of users who share `allowed` rows (None: all) and `hidden` ones, by
        the backend that fits."""
        users = table.users
        one = self.backend in ("pq", "ivf") or (self.backend == "auto" and users == 1 and self._serves_one())
        if not one or allowed is not None or not len(self):
            return scan(self.item_codes, table, allowed, hidden, hidden_from, top_k, self.chunk_items)
        scores = torch.full((users, top_k), -torch.inf)
        rows = torch.full((users, top_k), -1)
        for user in range(users):
            of_user, mine = table.of_user(user), hidden_from[[user]]
            found = self._of_one(of_user, torch.cat([hidden, mine[mine >= 0]]), top_k, visit)
            if found is None:
                found = scan(self.item_codes, of_user, None, hidden, mine, top_k, self.chunk_items)
            scores[user, : found[1].shape[1]], rows[user, : found[1].shape[1]] = found
        return scores, rows

    def _serves_one(self) -> bool:
        """Whether faiss can serve single users better than torch."""
        if self.item_codes.dtype != torch.uint8 or self.item_codes.device.type != "cpu":
            return False
        try:
            import_faiss()
        except ImportError:
            return False
        return True

    def _of_one(
        self, table: ScoreTable, hidden: torch.Tensor, top_k: int, visit: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """One user's best items, (1, top_k): those that gain something, and the others that are visited. None where
        these are too few to tell."""
        if table.prior is None:
            return self._visited(table, hidden, top_k, visit)
        rows = table.prior.rows[table.prior.rows >= 0]
        others = self._visited(table, torch.cat([hidden, rows]), top_k, visit)
        if others is None:
            return None
        scores = table.prior.final(scores_of(self.item_codes, table, table.prior.rows))[table.prior.rows >= 0]
        scores = scores.masked_fill(torch.isin(rows, hidden), -torch.inf)
        return best_of(torch.cat([others[0], scores[None]], dim=1), torch.cat([others[1], rows[None]], dim=1), top_k)

    def _visited(
        self, table: ScoreTable, hidden: torch.Tensor, top_k: int, visit: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """One user's best items among those visited, (1, top_k), without what some gain: found by faiss, then scored
        as everywhere. None where they are too few, or so many have nearly one score that faiss may have left a better
        one out."""
        codes, rows = self.item_codes.numpy(), None
        if self.backend == "ivf" and visit < 1:
            assert self.partition is not None
            rows = self.partition.visit(table.entries[:, 0].numpy(), visit)
        if table.terms is not None:  # faiss adds up entries alone
            if rows is None:
                return None
            visited = torch.from_numpy(rows.astype(np.int64))
            visited = visited[~torch.isin(visited, hidden)][None]
            best = best_of(scores_of(self.item_codes, table, visited), visited, top_k)
            return None if best[0].shape[1] < top_k else best
        if rows is not None:
            codes = codes.take(rows, axis=0)
        wanted = min(len(codes), top_k + len(hidden) + SPARE)
        sums, found = largest_sums(table.entries[:, 0].numpy(), codes, wanted)
        found_rows = torch.from_numpy(found if rows is None else rows[found].astype(np.int64))
        found_rows = found_rows[~torch.isin(found_rows, hidden)][None]
        scores, found_rows = best_of(scores_of(self.item_codes, table, found_rows), found_rows, top_k)
        if wanted == len(self):
            return scores, found_rows
        if scores.shape[1] < top_k:
            return None
        # Each addition rounds by at most 2^-24 of the sum, on either side.
        error = 2.0**-22 * codes.shape[1] * float(scores[0, -1].abs())
        return None if wanted < len(codes) and sums[-1] >= scores[0, -1] - error else (scores, found_rows)

    def _of_empty(
        self,
        scores: torch.Tensor | None,
        allowed: torch.Tensor | None,
        hidden: torch.Tensor,
        hidden_from: torch.Tensor,
        top_k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_of_users`, of users without history, who share `scores` (catalogue,)."""
        rows = torch.arange(len(self), device=hidden.device) if allowed is None else allowed
        rows = rows[~torch.isin(rows, hidden)]
        first = top_k + hidden_from.shape[1]  # the best of them all, of which no user may lack more than are hidden
        if scores is None:
            rows = rows[None, :first]
            best = torch.zeros_like(rows, dtype=torch.float32)
        else:
            best, rows = best_of(scores.to(rows.device)[rows].float()[None], rows[None], first)
        rows = rows.expand(len(hidden_from), -1)
        return best_of(best.masked_fill(contains(hidden_from, rows), -torch.inf), rows, top_k)

    def _set(self, item_codes: torch.Tensor) -> None:
        self.item_codes = item_codes
        self._lengths = None
        self._largest = int(item_codes.max()) if item_codes.numel() else -1


def as_codes(item_codes: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Codes as a tensor of bytes, or of int32 where they need more."""
    if isinstance(item_codes, np.ndarray) and item_codes.dtype == np.uint16:
        item_codes = item_codes.astype(np.int32)  # torch does little with uint16
    codes = torch.as_tensor(item_codes)
    if codes.dim() != 2 or codes.is_floating_point() or (codes.numel() and int(codes.min()) < 0):
        raise ValueError(
            f"item_codes has shape {tuple(codes.shape)} and type {codes.dtype}: give (catalogue, num_codebooks) "
            "integers from 0 on, as tokenizer.item_codes."
        )
    return codes.to(torch.uint8 if not codes.numel() or int(codes.max()) < 256 else torch.int32)


__all__ = ["ItemIndex"]
