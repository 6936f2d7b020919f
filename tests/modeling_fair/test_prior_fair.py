"""The prior adds what counting by plain loops says, keeps to the catalogue as it is, and is saved with the model."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair import FairForGenerativeRecommendation, ItemIndex
from modeling_fair.configuration_fair import FairConfig
from modeling_fair.cooccurrence_fair import cooccurrence
from modeling_fair.decoding_fair import last_item_states, score_items
from modeling_fair.prior_fair import CoOccurrencePrior

KNOWN = 6
SEQUENCES = st.lists(st.lists(st.integers(-1, KNOWN - 1), max_size=8), min_size=1, max_size=5)


def make_prior(train, **fields) -> CoOccurrencePrior:
    counts = cooccurrence(train, KNOWN)
    fields = {"prior_weight": 0.7, "prior_floor": 0.01, "prior_history": 3, **fields}
    prior = CoOccurrencePrior(FairConfig(num_known_items=KNOWN, prior_size=counts.nnz, **fields))
    prior.fill(counts)
    return prior


def counts_by_loops(train, history):
    matrix = cooccurrence(train, KNOWN).toarray()
    known = [item for item in history if item >= 0]
    newest = max((place for place, item in enumerate(history) if item >= 0), default=0)
    counts = np.zeros(KNOWN)
    for place, item in enumerate(history):
        if item >= 0 and newest - place < 3:
            counts += 0.5 ** (newest - place) * matrix[item]
    assert known or not counts.any()
    return counts, np.isin(np.arange(KNOWN), known)


@settings(deadline=None)
@given(
    train=SEQUENCES,
    histories=SEQUENCES,
    removed=st.sets(st.integers(0, KNOWN - 1)),
    new=st.integers(0, 2),
    repeat=st.sampled_from([0.0, -5.0, 3.0]),
    level=st.sampled_from([None, -2.0, 4]),
)
def test_the_prior_is_its_formula(train, histories, removed, new, repeat, level):
    prior = make_prior(train, prior_repeat=repeat, prior_level=level)
    length = max(1, *map(len, histories))
    known_ids = torch.tensor([[-1] * (length - len(history)) + history for history in histories])
    of_items = torch.tensor([item for item in range(KNOWN) if item not in removed] + [-1] * new, dtype=torch.long)
    terms = prior(known_ids, of_items)
    assert terms.rows.shape == terms.added.shape and len(terms.rows) == len(histories)
    before = torch.linspace(-3, 5, terms.rows.numel()).view(terms.rows.shape)
    everything = zip(terms.rows.tolist(), before.tolist(), terms.final(before).tolist(), histories, strict=True)
    for of_rows, scores, finals, history in everything:
        found = {row: pair for row, *pair in zip(of_rows, scores, finals, strict=True) if row >= 0}
        assert len(found) == sum(row >= 0 for row in of_rows)  # each once
        counts, own = counts_by_loops(train, history)
        for row, item in enumerate(of_items.tolist()):
            count = counts[item] if item >= 0 else 0.0
            if row not in found:
                assert not count and not (item >= 0 and own[item])
                continue
            score, final = found[row]
            if level is None:
                wanted = score + 0.7 * np.log1p(count / 0.01)
            else:
                wanted = 0.7 * np.log(np.exp(score / 0.7) + np.exp(level / 0.7) * count / max(counts.sum(), 1e-9))
            assert final == pytest.approx(wanted + repeat * own[item], rel=1e-4, abs=1e-5)


def test_counts_of_unknown_items_are_refused_and_those_below_0_left_out():
    with pytest.raises(ValueError, match="item 6: items are 0 to 5"):
        cooccurrence([[0, 6]], KNOWN)
    assert cooccurrence([[0, -1, 1]], KNOWN)[0, 1] > 0  # the distance between them is 2
    with pytest.raises(ValueError, match="the model knows 6"):
        make_prior([[0, 1]]).fill(cooccurrence([[0, 1]], KNOWN + 1))


def test_a_prior_is_saved_with_the_model_and_changes_its_answers(make_model, fitted, tmp_path):
    model = make_model(num_known_items=fitted.num_known_items)
    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids)
    batch = fitted([["p3", "p4"], ["p9"]], return_tensors="pt")
    before = model.recommend(**batch, index=index, top_k=5)
    model.set_prior(cooccurrence([[3, 20], [3, 20], [8, 30]], fitted.num_known_items), 50.0)
    after = model.recommend(**batch, index=index, top_k=5)
    # known item 20 is row 21: p0 was not met in training
    assert after.item_ids[0, 0] == 21 and after.item_ids[1, 0] == 31
    model.save_pretrained(tmp_path)
    loaded = FairForGenerativeRecommendation.from_pretrained(tmp_path).eval()
    again = loaded.recommend(**batch, index=index, top_k=5)
    assert torch.equal(again.item_ids, after.item_ids) and torch.equal(again.scores, after.scores)
    model.set_prior(cooccurrence([[3]], fitted.num_known_items), 1.0, -5.0)
    assert model.prior is None, "it counts nothing"
    assert torch.equal(model.recommend(**batch, index=index, top_k=5).item_ids, before.item_ids)
    assert not any("prior" in name for name in model.state_dict())


def test_models_made_of_one_config_have_priors_of_their_own(config, fitted):
    wanted = FairConfig(**{**config.to_dict(), "num_known_items": fitted.num_known_items})
    first, second = (FairForGenerativeRecommendation(wanted) for _ in range(2))
    first.set_prior(cooccurrence([[3, 20], [3, 20]], fitted.num_known_items), 2.0, -30.0)
    assert second.config.prior_size == wanted.prior_size == 0 and first.config.prior_size > 0
    assert first.model.config is first.prior.config is first.config


@pytest.mark.parametrize("prediction", ["codes", "items"])
def test_a_mixture_in_every_search_and_in_evaluation(make_model, fitted, prediction):
    """Of one user and of several, with what is added to scores by the caller, and chunk by chunk."""
    model = make_model(num_known_items=fitted.num_known_items, prediction=prediction)
    batch = fitted([["p3", "p0", "p4"], ["p9"], ["p0"]], return_tensors="pt")
    items, num_codebooks = len(fitted.item_codes), model.config.num_codebooks
    counts = cooccurrence([[3, 20, 4], [8, 30], [3, 25]], fitted.num_known_items)
    extra = {
        "extra_rows": torch.tensor([[21, 2], [31, -1], [5, 6]]),
        "extra_scores": torch.tensor([[0.5, 1], [2, 0], [3, 4]]),
    }

    def answers(index, users, **options):
        of_users = {name: of_all[users] for name, of_all in batch.items()}
        found = model.recommend(**of_users, index=index, top_k=items, remove_seen=False, **options)
        return torch.zeros(len(users), items).scatter_(1, found.item_ids, found.scores)

    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids, backend="exact")
    plain = answers(index, [0, 1, 2])
    scale = 1 if prediction == "items" else 1 / num_codebooks
    weight, level, repeat = 1.5, 4.0, -2.0
    model.set_prior(counts, weight, repeat, level)
    output = model(batch["input_ids"], batch["attention_mask"], known_ids=batch["known_ids"])
    states = last_item_states(output.last_hidden_state, batch["attention_mask"])
    terms = model.item_terms(states, batch["known_ids"], index.known_ids, index.lengths_by)
    wanted = plain.clone()
    known = torch.as_tensor(fitted.known_ids)
    for user, of_user in enumerate(batch["known_ids"]):
        places = (of_user >= 0).nonzero()[:, 0]
        shares = torch.zeros(len(known))
        for place in places:
            row = torch.from_numpy(counts.toarray()[of_user[place]]).float()
            shares += 0.5 ** (places.max() - place) * torch.where(known < 0, 0, row[known.clamp(min=0)])
        rivals = level + weight * (shares / shares.sum().clamp(min=1e-9)).log()
        wanted[user] = scale * weight * torch.logaddexp(plain[user] / scale / weight, rivals / weight)
        wanted[user, torch.isin(known, of_user[places])] += scale * repeat
    assert (wanted > plain + 1e-3).sum() > 3
    torch.testing.assert_close(wanted[2], plain[2])
    chunks = torch.cat([part for _, part in score_items(output.logits[:, 0], index.item_codes, 7, terms)], dim=1)
    torch.testing.assert_close(chunks, wanted, rtol=1e-4, atol=1e-4)
    for backend in ("exact", "auto", "pq"):
        index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids, backend=backend)
        for users in ([0, 1, 2], [0], [1]):
            torch.testing.assert_close(answers(index, users), wanted[users], rtol=1e-4, atol=1e-4)
            more = {name: of_all[users] for name, of_all in extra.items()}
            with_extra = wanted[users].clone()
            for row, (rows, scores) in enumerate(zip(more["extra_rows"], more["extra_scores"], strict=True)):
                with_extra[row, rows[rows >= 0]] += scores[rows >= 0]
            torch.testing.assert_close(answers(index, users, **more), with_extra, rtol=1e-4, atol=1e-4)


def test_a_mixture_needs_a_weight(make_model, fitted):
    model = make_model(num_known_items=fitted.num_known_items)
    with pytest.raises(ValueError, match="prior_level needs a prior_weight"):
        model.set_prior(cooccurrence([[3, 20]], fitted.num_known_items), 0.0, level=1.0)
    assert model.config.prior_size == 0 and model.config.prior_level is None, "nothing was changed"


def test_an_item_that_is_never_wanted_says_nothing_of_others(make_model, fitted):
    """-inf of one row stays with it where rows of the caller and of the prior are joined."""
    model = make_model(num_known_items=fitted.num_known_items)
    model.set_prior(cooccurrence([[2, 20], [2, 21]], fitted.num_known_items), 1.0)
    batch = fitted([["p3"]], return_tensors="pt")
    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids)
    before = model.recommend(**batch, index=index, top_k=39)
    never = {"extra_rows": torch.tensor([[21]]), "extra_scores": torch.tensor([[-torch.inf]])}
    after = model.recommend(**batch, index=index, top_k=38, **never)
    others = before.item_ids[0] != 21
    assert torch.equal(after.item_ids[0], before.item_ids[0][others])
    assert torch.equal(after.scores[0], before.scores[0][others])


@pytest.mark.parametrize("prediction", ["codes", "items"])
def test_a_history_s_own_items_are_held_back_or_put_first(make_model, fitted, prediction):
    """In every search, of one user and of two; items that are not known, as p0, are left alone."""
    model = make_model(num_known_items=fitted.num_known_items, prediction=prediction)
    batch = fitted([["p3", "p0", "p4", "p3"], ["p9"]], return_tensors="pt")
    counts = cooccurrence([[3, 20], [8, 30]], fitted.num_known_items)
    items = len(fitted.item_codes)
    for backend, users in itertools.product(("exact", "auto", "pq"), ([0, 1], [1])):
        index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids, backend=backend)
        answers = {}
        for repeat in (0.0, -200.0, 200.0):
            model.set_prior(counts, 1.0, repeat)
            found = model.recommend(
                **{name: of_all[users] for name, of_all in batch.items()}, index=index, top_k=items, remove_seen=False
            )
            for scores, rows in zip(found.scores, found.item_ids, strict=True):
                assert (scores.diff() <= 0).all()
                answers.setdefault(repeat, []).append(torch.zeros(items).scatter_(0, rows, scores))
        share = 1 / (1 if prediction == "items" else model.config.num_codebooks)
        for user, own in enumerate([([3, 4], [9])[user] for user in users]):
            mine = torch.zeros(items)
            mine[own] = 200.0 * share
            for repeat, sign in ((-200.0, -1), (200.0, 1)):
                torch.testing.assert_close(
                    answers[repeat][user], answers[0.0][user] + sign * mine, atol=1e-4, rtol=1e-5
                )


def test_a_model_that_knows_items_asks_which_they_are(make_model, fitted):
    model = make_model(num_known_items=fitted.num_known_items)
    model.set_prior(cooccurrence([[3, 20]], fitted.num_known_items), 1.0)
    batch = fitted([["p3"]], return_tensors="pt")
    with pytest.raises(ValueError, match="known_ids=tokenizer.known_ids"):
        model.recommend(**batch, index=ItemIndex(fitted.item_codes))
    with pytest.raises(ValueError, match="known_ids has shape"):
        ItemIndex(fitted.item_codes, known_ids=fitted.known_ids[:3])
