"""Histories to recommendations: ours beside the naive forms, in one run.

    python -m benchmarks.decode_speed --data ../shared/data/beauty --threads 1

1. 32 users of RPG's configuration over the data set's catalogue, forward pass and decoding: against the same on
   histories padded to 50 with heads on every position, then a search of a dense item graph as RPG has it (beams of
   items that are replaced by their best neighbours), and against exact scoring by gathering every code's
   log-probability.
2. Exact scoring of a million items for 32 users at once, against gathering, and for single users.
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from benchmarks.catalogues import read_histories
from benchmarks.records import forget_peak, memory, record, seconds
from benchmarks.train_speed import HISTORY, RPG, PaddedRPG
from modeling_fair import FairConfig, FairForGenerativeRecommendation, ItemIndex
from modeling_fair.markdown_fair import markdown_table

USERS, TOP_K = 32, 10
# RPG's search visits 6,712 of Beauty's 12,101 items; these settings visit about as many.
EDGES, BEAMS, STEPS = 100, 40, 3


class DenseGraph:
    """The naive approximate decoder: every item's nearest others by a dense items x items matrix, and a search."""

    def __init__(self, item_codes: torch.Tensor, codebooks: torch.Tensor):
        units = nn.functional.normalize(codebooks, dim=-1)
        similarity = torch.zeros(len(item_codes), len(item_codes))
        for digit, codes in enumerate(item_codes.long().unbind(dim=1)):
            similarity += (units[digit] @ units[digit].T)[codes][:, codes]
        self.neighbours = similarity.topk(EDGES, dim=1).indices
        self.item_codes = item_codes.long()

    def search(self, log_probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(users, codebooks, codes) -> best rows (users, TOP_K) and how many items were visited a user."""
        users = len(log_probabilities)
        visited = torch.zeros(users, len(self.item_codes), dtype=torch.bool)
        beams = torch.randint(len(self.item_codes), (users, BEAMS))
        for _ in range(STEPS):
            candidates = torch.cat([beams, self.neighbours[beams].flatten(1)], dim=1)
            visited.scatter_(1, candidates, True)
            scores = gather_scores(log_probabilities, self.item_codes[candidates])
            in_order = scores.argsort(dim=1, descending=True)
            ranked = candidates.gather(1, in_order)
            beams = torch.stack([of_user[first_of_each(of_user)][:BEAMS] for of_user in ranked])
        return beams[:, :TOP_K], visited.sum(dim=1)


def first_of_each(rows: torch.Tensor) -> torch.Tensor:
    """Where each row stands first, in order."""
    in_order = rows.sort(stable=True)
    first = torch.ones(len(rows), dtype=torch.bool)
    first[in_order.indices[1:][in_order.values[1:] == in_order.values[:-1]]] = False
    return first


def gather_scores(log_probabilities: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Mean log-probability of codes (users, items, codebooks), looked up one by one."""
    return log_probabilities.transpose(1, 2).gather(1, codes).mean(dim=-1)


def gather_all(code_logits: torch.Tensor, item_codes: torch.Tensor, chunk: int = 16_384) -> torch.Tensor:
    """The naive exact decoder: rows (users, TOP_K)."""
    log_probabilities = code_logits.log_softmax(dim=-1)
    scores = [
        gather_scores(log_probabilities, codes.long().expand(len(code_logits), -1, -1))
        for codes in item_codes.split(chunk)
    ]
    return torch.cat(scores, dim=1).topk(TOP_K, dim=1).indices


def check_same(logits: torch.Tensor, codes: torch.Tensor, index: ItemIndex) -> None:
    """Lists of the index are those of gathering, but for items whose scores differ by rounding alone."""
    ours, naive = index.search(logits, top_k=TOP_K), gather_all(logits, codes)
    expected = gather_scores(logits.log_softmax(dim=-1), codes.long()[naive])
    torch.testing.assert_close(ours.scores, expected, rtol=0, atol=1e-5)
    same = (ours.item_ids == naive) | ((ours.scores - expected).abs() < 1e-5)
    assert same.all(), "the index and gathering disagree"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with sequences.txt, such as Beauty's")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default 1")
    parser.add_argument("--items", type=int, default=1_000_000, help="items of the large catalogue; default 1 million")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_seed(0)
    figures: list[dict[str, Any]] = []

    def figure(name: str, value: float, unit: str, **notes: Any) -> None:
        figures.append({"figure": name, "value": round(value, 4), "unit": unit, **notes})

    # 1. RPG's configuration. Codes at random: neither form's time hangs on which codes items have.
    histories = [[int(item) - 1 for item in user[:-1]] for user in read_histories(options.data)]
    catalogue = 1 + max(max(history) for history in histories)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (catalogue, 32), dtype=np.uint8))
    users = [histories[int(user)][-HISTORY:] for user in torch.randperm(len(histories))[:USERS]]
    rows = nn.utils.rnn.pad_sequence([torch.tensor(user) for user in users], batch_first=True, padding_value=-1)
    rows = nn.functional.pad(rows, (0, HISTORY - rows.shape[1]), value=-1)
    mask, inputs = (rows >= 0).long(), codes[rows.clamp(min=0)].long()
    config = FairConfig(**RPG)
    ours = FairForGenerativeRecommendation(config).to(device).eval()
    nn.init.normal_(ours.heads.weight, std=0.02)
    naive = PaddedRPG(config, {}).to(device).eval()
    index = ItemIndex(codes, device=device)
    graph = DenseGraph(codes, ours.model.embeddings.codebooks().detach().cpu())
    last = mask.sum(dim=1) - 1

    @torch.no_grad()
    def naive_logits() -> torch.Tensor:
        return naive.logits(inputs.to(device), mask.to(device))[torch.arange(USERS), last].cpu()

    def of_ours(model: Any, **batch: torch.Tensor) -> Any:
        return model.recommend(**{name: tensor.to(device) for name, tensor in batch.items()}, index=index, top_k=TOP_K)

    batch = {"input_ids": inputs, "attention_mask": mask, "item_ids": rows}
    logits = naive_logits()
    check_same(logits, codes, ItemIndex(codes))
    times = {
        "naive_forward": seconds(naive_logits, device),
        "graph": seconds(lambda: graph.search(logits.log_softmax(dim=-1)), device),
        "gather": seconds(lambda: gather_all(logits, codes), device),
        "ours": seconds(lambda: of_ours(ours, **batch), device, repeat=11),
        "ours_decode": seconds(lambda: index.search(logits.to(device), seen=rows, top_k=TOP_K), device, repeat=11),
    }
    in_bf16 = FairForGenerativeRecommendation(config).to(device, torch.bfloat16).eval()
    in_bf16.load_state_dict(ours.state_dict())
    times["ours_bf16"] = seconds(lambda: of_ours(in_bf16, **batch), device, repeat=11)
    visited = graph.search(logits.log_softmax(dim=-1))[1].float().mean().item()
    for name, value in times.items():
        figure(f"recommend_32_users_{name}_ms", 1e3 * value, "ms")
    with_graph, with_gather = (times["naive_forward"] + times[name] for name in ("graph", "gather"))
    figure("recommend_32_users_ratio", with_graph / times["ours"], "naive / ours", graph_visited_items=round(visited))
    figure("recommend_32_users_ratio_bf16", with_graph / times["ours_bf16"], "naive / ours, weights in bfloat16")
    figure("recommend_32_users_ratio_to_gather", with_gather / times["ours"], "naive / ours")

    # 2. A large catalogue.
    many = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (options.items, 32), dtype=np.uint8))
    index = ItemIndex(many, device=device)
    queries = (4 * torch.randn(USERS, 32, 256)).to(device)
    index.search(queries, top_k=TOP_K)  # what is allocated once
    forget_peak(device)
    before = memory(device)[0]
    times = {"exact": seconds(lambda: index.search(queries, top_k=TOP_K), device)}
    used = memory(device)[1] - before
    times["gather"] = seconds(lambda: gather_all(queries.cpu(), many), device, repeat=1, warm_up=0)
    times["one"] = seconds(lambda: index.search(queries[:1], top_k=TOP_K), device, repeat=21)
    check_same(queries.cpu(), many, ItemIndex(many))
    size = f"{options.items / 1e6:g}m"
    per_user = 1e3 * times["exact"] / USERS * options.threads
    figure(f"exact_{size}_ms_per_user_core", per_user, "ms of a core, 32 users a batch", chunk_items=index.chunk_items)
    figure(f"exact_{size}_ratio_to_gather", times["gather"] / times["exact"], "naive / ours")
    figure(f"exact_{size}_search_memory", max(0, used) / 2**20, "MiB beyond the codes, for 32 users")
    figure(f"exact_{size}_bytes_per_item", index.nbytes / len(index), "bytes")
    figure(f"exact_{size}_one_user_ms", 1e3 * times["one"], "ms, a single user, median of 21")
    print(markdown_table(["figure", "value", "unit"], ((row["figure"], row["value"], row["unit"]) for row in figures)))
    settings = {"users": USERS, "items": options.items, "edges": EDGES, "beams": BEAMS, "steps": STEPS}
    print(f"Written to {record('decode_speed', figures, settings, device)}.")


if __name__ == "__main__":
    main()
