import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair.decoding_fair import best_of, last_item_states, recommend_items, score_items


def gather_scores(code_logits: torch.Tensor, item_codes: torch.Tensor) -> torch.Tensor:
    """The definition: mean over codebooks of the log-probability of each item's code."""
    log_probabilities = code_logits.log_softmax(-1)
    digits = torch.arange(item_codes.shape[1])
    return torch.stack([user[digits, item_codes.long()].mean(-1) for user in log_probabilities])


def reference(scores: torch.Tensor, top_k: int, banned: list[set[int]]) -> tuple[list, list]:
    """Plain sort by (score down, row up) without the banned rows."""
    ids, values = [], []
    for user, of_user in enumerate(scores.tolist()):
        ranked = sorted(
            (row for row in range(len(of_user)) if row not in banned[user]), key=lambda r: (-of_user[r], r)
        )
        padding = [-1] * (top_k - len(ranked[:top_k]))
        ids.append(ranked[:top_k] + padding)
        values.append([of_user[row] for row in ranked[:top_k]] + [float("-inf")] * len(padding))
    return ids, values


@pytest.fixture
def case():
    torch.manual_seed(0)
    logits = torch.randn(5, 4, 8) * 3
    codes = torch.randint(0, 8, (60, 4)).to(torch.uint8)
    codes[30:40] = codes[:10]  # ties
    return logits, codes


def test_scores_are_mean_log_probabilities(case):
    logits, codes = case
    ((start, scores),) = score_items(logits, codes)
    assert start == 0
    torch.testing.assert_close(scores, gather_scores(logits, codes))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    catalogue=st.integers(1, 40),
    top_k=st.integers(1, 12),
    chunk=st.integers(1, 50),
    values=st.integers(1, 4),
    remove=st.booleans(),
)
def test_lists_equal_a_plain_sort_whatever_the_chunks_ties_and_filters(seed, catalogue, top_k, chunk, values, remove):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, values, (3, 2, 4), generator=generator).float()
    codes = torch.randint(0, 4, (catalogue, 2), generator=generator)
    seen = torch.randint(-1, catalogue, (3, 3), generator=generator)
    exclude = torch.randint(0, catalogue, (2,), generator=generator).tolist()
    allow = [torch.randint(0, catalogue, (n,), generator=generator).tolist() for n in (4, 0, 7)]
    output = recommend_items(
        logits, codes, seen=seen, remove_seen=remove, exclude=exclude, allow=allow, top_k=top_k, chunk_items=chunk
    )
    (_, scores), *_ = score_items(logits, codes)
    banned = [
        set(range(catalogue)) - set(allow[user]) | set(exclude) | (set(seen[user].tolist()) if remove else set())
        for user in range(3)
    ]
    ids, values_ = reference(scores, top_k, banned)
    assert output.item_ids.tolist() == ids
    torch.testing.assert_close(output.scores, torch.tensor(values_))


def test_best_of_breaks_ties_at_the_last_place_by_row():
    scores = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    rows = torch.tensor([[30, 20, 10, 0]])
    best, best_rows = best_of(scores, rows, 3)
    assert best_rows.tolist() == [[20, 0, 10]] and best.tolist() == [[2.0, 1.0, 1.0]]


def test_users_without_history_get_the_scores_given_for_them(case):
    logits, codes = case
    popularity = torch.arange(60.0).flip(0)
    empty = torch.tensor([False, True, False, False, False])
    output = recommend_items(
        logits, codes, empty_history=empty, empty_history_scores=popularity, exclude=[0], top_k=3, chunk_items=7
    )
    assert output.item_ids[1].tolist() == [1, 2, 3]
    rest = recommend_items(logits, codes, exclude=[0], top_k=3)
    assert torch.equal(output.item_ids[0], rest.item_ids[0])
    plain = recommend_items(logits, codes, empty_history=empty, top_k=3)
    assert plain.item_ids[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_last_item_is_found_with_padding_on_any_side(side):
    states = torch.arange(6.0).view(1, 6, 1)
    mask = {"left": [0, 0, 1, 1, 1, 1], "right": [1, 1, 1, 0, 0, 0], "both": [0, 1, 1, 1, 0, 0]}[side]
    assert last_item_states(states, torch.tensor([mask])).item() == max(i for i, real in enumerate(mask) if real)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"top_k": 0}, "top_k"),
        ({"chunk_items": 0}, "chunk_items"),
        ({"exclude": [60]}, "exclude.*0 to 59"),
        ({"allow": [[1], [2]]}, "allow holds lists for 2"),
    ],
)
def test_bad_arguments_are_named(case, options, named):
    with pytest.raises(ValueError, match=named):
        recommend_items(*case, **options)


def test_codes_of_another_tokenizer_are_refused(case):
    with pytest.raises(ValueError, match="4 codes.*predicts 3"):
        recommend_items(case[0][:, :3], case[1])


def test_memory_is_bounded_by_the_chunk(case):
    logits, codes = case
    sizes = [scores.shape[1] for _, scores in score_items(logits, codes, chunk_items=25)]
    assert sizes == [25, 25, 10]
