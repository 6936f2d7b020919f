import pytest
import torch

from modeling_fair.decoding_fair import best_of, last_item_states, score_items


def gather_scores(code_logits: torch.Tensor, item_codes: torch.Tensor) -> torch.Tensor:
    """The definition: mean over codebooks of the log-probability of each item's code."""
    log_probabilities = code_logits.log_softmax(-1)
    digits = torch.arange(item_codes.shape[1])
    return torch.stack([user[digits, item_codes.long()].mean(-1) for user in log_probabilities])


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


def test_best_of_breaks_ties_at_the_last_place_by_row():
    scores = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    rows = torch.tensor([[30, 20, 10, 0]])
    best, best_rows = best_of(scores, rows, 3)
    assert best_rows.tolist() == [[20, 0, 10]] and best.tolist() == [[2.0, 1.0, 1.0]]


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_last_item_is_found_with_padding_on_any_side(side):
    states = torch.arange(6.0).view(1, 6, 1)
    mask = {"left": [0, 0, 1, 1, 1, 1], "right": [1, 1, 1, 0, 0, 0], "both": [0, 1, 1, 1, 0, 0]}[side]
    assert last_item_states(states, torch.tensor([mask])).item() == max(i for i, real in enumerate(mask) if real)


def test_codes_of_another_tokenizer_are_refused(case):
    with pytest.raises(ValueError, match="4 codes.*predicts 3"):
        next(score_items(case[0][:, :3], case[1]))


def test_memory_is_bounded_by_the_chunk(case):
    logits, codes = case
    sizes = [scores.shape[1] for _, scores in score_items(logits, codes, chunk_items=25)]
    assert sizes == [25, 25, 10]
