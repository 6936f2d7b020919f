import builtins
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair import ItemIndex, fit_partition
from modeling_fair.decoding_fair import ItemTerms, score_items
from modeling_fair.row_terms_fair import RowTerms


def scores_of(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return torch.cat([scores for _, scores in score_items(logits, codes)], dim=1)


def best(scores: list[float], allowed: set[int], top_k: int) -> tuple[list[int], list[float]]:
    """The definition: a plain sort of the allowed rows by (score down, row up)."""
    rows = sorted(allowed, key=lambda row: (-scores[row], row))[:top_k]
    missing = top_k - len(rows)
    return rows + [-1] * missing, [scores[row] for row in rows] + [float("-inf")] * missing


@st.composite
def searches(draw):
    """Small searches with many ties, each with any of the filters and terms, and what they must return."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def drawn(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    catalogue, users, codebook_size = (
        draw(st.integers(0, 150)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([4, 16])),
    )
    logits = drawn(0, draw(st.integers(1, 20)), users, 3, codebook_size).float()
    codes = drawn(0, codebook_size, catalogue, 3)
    top_k = draw(st.integers(1, 12))
    allowed = [set(range(catalogue)) for _ in range(users)]
    options: dict = {"top_k": top_k}
    some = lambda n: drawn(0, catalogue, n).tolist() if catalogue else []  # noqa: E731
    if catalogue and draw(st.booleans()):
        options["seen"] = drawn(-1, catalogue, users, 5)
        options["remove_seen"] = draw(st.booleans())
        for user in range(users):
            allowed[user] -= set(options["seen"][user].tolist()) if options["remove_seen"] else set()
    for name in ("exclude", "allow"):
        kind = draw(st.sampled_from([None, "all", "each"]))
        if kind == "all":
            options[name] = some(draw(st.integers(0, 200)))
            lists = [options[name]] * users
        elif kind == "each":
            lists = [some(draw(st.integers(0, 30))) for _ in range(users)]
            if name == "allow":
                lists = [draw(st.sampled_from([of_user, None])) for of_user in lists]
            options[name] = lists
        for user in range(users if kind else 0):
            if name == "exclude":
                allowed[user] -= set(lists[user])
            elif lists[user] is not None:
                allowed[user] &= set(lists[user])
    scores = scores_of(logits, codes) if catalogue else torch.zeros(users, 0)
    if catalogue and draw(st.booleans()):  # whole numbers and powers of 2, so that any order of sums has the same bits
        known_ids = torch.where(drawn(0, 2, catalogue) == 0, -1, drawn(0, 6, catalogue))
        queries, vectors = drawn(-3, 4, users, 2).float(), drawn(-3, 4, 7, 2).float()
        vectors[6] = 0  # of items that are not known
        lengths = 2.0 ** drawn(0, 3, catalogue)
        options["terms"] = ItemTerms(lengths, known_ids, queries, vectors)
        raw = torch.stack([logits[:, digit, codes[:, digit]] for digit in range(3)]).sum(0)
        scores = (raw + queries @ vectors[known_ids].T) / lengths
        if draw(st.booleans()):
            count = draw(st.integers(1, min(catalogue, 40)))
            rows = torch.stack([torch.randperm(catalogue, generator=generator)[:count] for _ in range(users)])
            rows.masked_fill_(drawn(0, 4, users, count) == 0, -1)
            added = drawn(1, 5, users, count).float()
            rivals = drawn(-5, 6, users, count).float() if draw(st.booleans()) else None
            prior = RowTerms(rows, added, rivals, 2.0**-6)  # so small that the higher of two scores is the mixture's
            options["terms"] = replace(options["terms"], prior=prior)
            scores = torch.cat([scores, torch.zeros(users, 1)], dim=1)
            places = rows % (catalogue + 1)
            scores = scores.scatter(1, places, prior.final(scores.gather(1, places)))[:, :catalogue]
    if catalogue and draw(st.booleans()):
        count = min(catalogue, 7)
        rows = torch.stack([torch.randperm(catalogue, generator=generator)[:count] for _ in range(users)])
        options["extra_rows"] = rows.masked_fill(drawn(0, 3, users, count) == 0, -1)
        options["extra_scores"] = drawn(-2, 3, users, count) / 2
        scores = torch.cat([scores, torch.zeros(users, 1)], dim=1)
        scores.scatter_add_(1, options["extra_rows"] % (catalogue + 1), options["extra_scores"])
    if draw(st.booleans()):
        options["empty_history"] = drawn(0, 2, users).bool()
        popularity = drawn(0, 5, catalogue).float()
        if draw(st.booleans()):
            options["empty_history_scores"] = popularity
        else:
            popularity.zero_()
        of_empty = torch.nn.functional.pad(popularity, (0, scores.shape[1] - catalogue))
        scores = torch.where(options["empty_history"][:, None], of_empty, scores)
    expected = [best(of_user.tolist(), rows, top_k) for of_user, rows in zip(scores, allowed, strict=True)]
    return logits, codes, options, expected, draw(st.integers(1, 100))


def check(output, expected):
    assert output.item_ids.tolist() == [rows for rows, _ in expected]
    assert output.scores.tolist() == [scores for _, scores in expected], "scores have the same bits everywhere"


@settings(max_examples=150, deadline=None)
@given(searches(), st.sampled_from(["auto", "exact", "pq"]))
def test_lists_equal_a_plain_sort_whatever_the_backend_chunks_ties_filters_and_extras(search, backend):
    logits, codes, options, expected, chunk_items = search
    check(ItemIndex(codes, backend=backend, chunk_items=chunk_items).search(logits, **options), expected)


@settings(max_examples=60, deadline=None)
@given(searches(), st.integers(1, 20))
def test_visiting_everything_is_exact(search, n_lists):
    logits, codes, options, expected, _ = search
    if len(codes):
        index = ItemIndex(codes, partition=fit_partition(codes, logits, n_lists=min(n_lists, len(codes))))
        check(index.search(logits, visit=1, **options), expected)


@pytest.fixture(scope="module")
def large():
    """40 users and 5,000 items with 8 codes of 32, a third of them like others."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 32, (5000, 8), generator=generator, dtype=torch.uint8)
    codes[3000:4500] = codes[:1500]
    return torch.randn(40, 8, 32, generator=generator) * 3, codes


def test_exact_lists_of_many_users_and_chunks(large):
    logits, codes = large
    seen = torch.arange(4980, 5020).view(1, -1).expand(40, -1) % 5000
    everything = set(range(5000)) - set(seen[0].tolist())
    expected = [best(of_user.tolist(), everything, 25) for of_user in scores_of(logits, codes)]
    check(ItemIndex(codes, chunk_items=1000).search(logits, seen=seen, top_k=25), expected)


@pytest.mark.parametrize("codebook_size, dtype", [(300, np.uint16), (300, np.int64), (256, np.uint8)])
def test_codes_of_any_integer_type_and_size(codebook_size, dtype):
    codes = np.random.default_rng(0).integers(0, codebook_size, (70, 4)).astype(dtype)
    codes[0] = codebook_size - 1
    logits = torch.randn(2, 4, codebook_size)
    expected = scores_of(logits, torch.from_numpy(codes.astype(np.int64)))
    output = ItemIndex(codes).search(logits, top_k=5)
    check(output, [best(of_user.tolist(), set(range(70)), 5) for of_user in expected])


@pytest.fixture(scope="module")
def partition(large):
    return fit_partition(large[1], large[0], n_lists=100)


@pytest.mark.parametrize("backend", ["exact", "pq", "ivf"])
def test_items_come_and_go_as_in_the_tokenizer(large, backend):
    logits, codes = large
    partition = fit_partition(codes[:100], logits, n_lists=10) if backend == "ivf" else None
    index = ItemIndex(codes[:100], backend=backend, partition=partition)
    index.add(codes[100:130].numpy())
    index.remove([3, 77, 129, 3])
    kept = [row for row in range(130) if row not in (3, 77, 129)]
    assert len(index) == 127
    everything = [best(of_user.tolist(), set(range(127)), 10) for of_user in scores_of(logits, codes[kept])]
    check(index.search(logits, visit=1), everything)
    if partition is not None:
        assert sorted(index.partition.members.tolist()) == list(range(127))
        assert len(partition.members) == 100, "the index changes a partition of its own"
    index.remove(range(127))
    assert index.search(logits, top_k=2).item_ids.tolist() == [[-1, -1]] * 40


def test_a_partition_finds_most_of_the_best_in_few_items_with_the_exact_scores(large, partition):
    logits, codes = large
    index = ItemIndex(codes, partition=partition)
    assert index.backend == "ivf"
    every = scores_of(logits, codes)
    exact = ItemIndex(codes, backend="exact").search(logits).item_ids
    shares = []
    for visit in (0.02, 0.1, 0.5):
        output = index.search(logits, visit=visit)
        assert torch.equal(output.scores, every.gather(1, output.item_ids))
        shares.append((output.item_ids[:, :, None] == exact[:, None]).any(dim=2).float().mean().item())
    # a random tenth of the items would hold a tenth of the best
    assert shares == sorted(shares) and shares[0] > 0.2 and shares[1] > 0.5 and shares[2] > 0.9


def test_visited_lists_hold_at_most_their_share(large, partition):
    table = torch.log_softmax(large[0][0], dim=-1).flatten().numpy() / 8
    for share in (0.1, 0.5, 1.0):
        rows = partition.visit(table, share)
        assert 0.6 * share * 5000 < len(rows) <= share * 5000 and len(set(rows.tolist())) == len(rows)
    assert len(partition.visit(table, 1e-6)) > 0, "one list at the least"


def test_filters_hold_in_visited_lists_and_short_answers_are_filled_up(large, partition):
    logits, codes = large
    index = ItemIndex(codes, partition=partition)
    first = index.search(logits, visit=0.05).item_ids
    again = index.search(logits, visit=0.05, seen=first)
    assert (again.item_ids >= 0).all() and not (again.item_ids[:, :, None] == first[:, None]).any()
    allow = torch.arange(0, 5000, 7).tolist()
    expected = [best(of_user.tolist(), set(allow), 10) for of_user in scores_of(logits, codes)]
    check(index.search(logits, visit=0.01, allow=allow), expected)
    most = list(range(4990))
    expected = [best(of_user.tolist(), set(range(4990, 5000)), 10) for of_user in scores_of(logits, codes)]
    check(index.search(logits, visit=0.01, exclude=most), expected)


def test_items_with_an_extra_are_found_in_lists_that_are_not_visited(large, partition):
    logits, codes = large
    rows = torch.arange(80).view(40, 2)
    output = ItemIndex(codes, partition=partition).search(
        logits, visit=0.02, extra_rows=rows, extra_scores=torch.tensor([[100.0, 200.0]]).expand(40, 2)
    )
    assert torch.equal(output.item_ids[:, :2], rows.flip(1))
    of_rows = scores_of(logits, codes).gather(1, rows) + torch.tensor([100.0, 200.0])
    assert torch.equal(output.scores[:, :2], of_rows.flip(1))


def test_a_partition_is_saved_with_its_catalogue(large, partition, tmp_path):
    logits, codes = large
    index = ItemIndex(codes, partition=partition)
    index.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["item_index.safetensors"]
    again = ItemIndex.from_pretrained(tmp_path, codes)
    assert torch.equal(again.search(logits).item_ids, index.search(logits).item_ids)
    for other in (codes[:-1], codes.flip(0)):
        with pytest.raises(ValueError, match="another catalogue"):
            ItemIndex.from_pretrained(tmp_path, other)
    (tmp_path / "item_index.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ItemIndex.from_pretrained(tmp_path, codes)
    with pytest.raises(ValueError, match="no partition to save"):
        ItemIndex(codes).save_pretrained(tmp_path)


def test_an_item_takes_at_most_48_bytes():
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 32), dtype=np.uint8)
    partition = fit_partition(codes, torch.randn(20, 32, 256), n_lists=16)
    index = ItemIndex(codes, partition=partition)
    before = index.nbytes
    index.remove(range(10_000))
    assert 32 <= (before - index.nbytes) / 10_000 <= 48


def test_the_same_seed_gives_the_same_partition(large, partition):
    again = fit_partition(large[1], large[0], n_lists=100)
    assert np.array_equal(again.assignments, partition.assignments)


def test_backends_that_cannot_serve_are_refused(large, partition, monkeypatch):
    codes = large[1]
    with pytest.raises(ValueError, match="choose one of auto, exact"):
        ItemIndex(codes, backend="hnsw")
    with pytest.raises(ValueError, match="needs a partition"):
        ItemIndex(codes, backend="ivf")
    with pytest.raises(ValueError, match="5000 items but item_codes 4999"):
        ItemIndex(codes[1:], partition=partition)
    with pytest.raises(ValueError, match="below 256"):
        ItemIndex(codes.int() + 300, backend="pq")
    with pytest.raises(ValueError, match="above 255"):
        ItemIndex(codes, backend="pq").add(codes.int() + 300)
    with pytest.raises(ValueError, match="codebooks of another size"):
        ItemIndex(codes, partition=partition).search(torch.zeros(1, 8, 64))
    with pytest.raises(ValueError, match="n_lists is 0"):
        fit_partition(codes, large[0], n_lists=0)
    with pytest.raises(ValueError, match="5000 and 0"):
        fit_partition(codes, large[0][:0])
    real = builtins.__import__
    absent = lambda name, *rest: _raise(ImportError(name)) if name == "faiss" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(builtins, "__import__", absent)
    for build in (lambda: ItemIndex(codes, backend="pq"), lambda: fit_partition(codes, large[0])):
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            build()
    assert ItemIndex(codes).search(large[0][:1]).item_ids.shape == (1, 10), "auto does without"


def _raise(error):
    raise error


def test_users_without_history_get_the_scores_given_for_them(large):
    logits, codes = large
    output = ItemIndex(codes).search(
        logits[:2],
        empty_history=torch.tensor([False, True]),
        empty_history_scores=torch.arange(5000.0).flip(0),
        exclude=[0],
        top_k=3,
    )
    assert output.item_ids[1].tolist() == [1, 2, 3] and output.scores[1].tolist() == [4998, 4997, 4996]


def test_lists_for_everyone_add_up_and_impossible_codes_are_never_returned(large):
    logits, codes = large
    output = ItemIndex(codes).search(logits, seen=[1, 2], exclude=[3], allow=[1, 2, 3, 4])
    assert output.item_ids[:, :2].tolist() == [[4, -1]] * 40
    one_left = torch.full((1, 8, 32), -torch.inf)
    one_left[0, torch.arange(8), codes[4999].long()] = 0
    for backend in ("exact", "pq"):
        output = ItemIndex(codes, backend=backend).search(one_left, top_k=2)
        assert output.item_ids.tolist() == [[4999, -1]] and output.scores[0, 0] == 0


@pytest.mark.parametrize(
    "options, named",
    [
        ({"top_k": 0}, "top_k"),
        ({"visit": 0}, "visit"),
        ({"visit": 1.5}, "visit"),
        ({"exclude": [5000]}, "exclude.*0 to 4999"),
        ({"seen": [[-2]] * 40}, "seen.*outside"),
        ({"allow": [[1], [2]]}, "allow holds lists for 2"),
        ({"allow": [[1], None]}, "allow holds lists for 2"),
        ({"extra_rows": torch.zeros(40, 2)}, "extra_rows and extra_scores"),
        ({"extra_rows": torch.zeros(40, 2).long(), "extra_scores": torch.zeros(40, 2)}, "twice"),
        ({"extra_rows": torch.full((40, 1), 5000), "extra_scores": torch.zeros(40, 1)}, "extra_rows.*outside"),
    ],
)
def test_bad_arguments_are_named(large, options, named):
    with pytest.raises(ValueError, match=named):
        ItemIndex(large[1]).search(large[0], **options)


def test_codes_of_another_tokenizer_are_refused(large):
    logits, codes = large
    with pytest.raises(ValueError, match="8 codes.*predicts 3"):
        ItemIndex(codes).search(logits[:, :3])
    with pytest.raises(ValueError, match="code 31.*0 to 15"):
        ItemIndex(codes).search(logits[..., :16])
    with pytest.raises(ValueError, match="item_codes has 7"):
        ItemIndex(codes).add(codes[:2, :7])
    with pytest.raises(ValueError, match="rows.*outside"):
        ItemIndex(codes).remove([5000])
    for wrong in (codes.float(), codes[0], codes.long() - 40):
        with pytest.raises(ValueError, match="item_codes has shape"):
            ItemIndex(wrong)
    with pytest.raises(ValueError, match="chunk_items"):
        ItemIndex(codes, chunk_items=0)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"allow": np.arange(50) > 40}, "allow holds torch.bool"),
        ({"exclude": [True, False]}, "exclude holds torch.bool"),
        ({"exclude": torch.tensor([1.5])}, "exclude holds torch.float32"),
        ({"empty_history_scores": torch.zeros(51)}, "51 scores"),
    ],
)
def test_filters_that_are_no_row_numbers_are_refused(options, named):
    index = ItemIndex(torch.randint(0, 8, (50, 4)))
    with pytest.raises(ValueError, match=named):
        index.search(torch.randn(2, 4, 8), **options)


def test_filters_of_any_kind_of_list():
    torch.manual_seed(0)
    index, logits = ItemIndex(torch.randint(0, 8, (50, 4))), torch.randn(2, 4, 8)
    expected = index.search(logits, exclude=[1, 2, 3], top_k=47).item_ids
    for rows in ({1, 2, 3}, (row for row in (1, 2, 3)), np.array([1, 2, 3]), [[1, 2, 3], torch.tensor([1, 2, 3])]):
        assert torch.equal(index.search(logits, exclude=rows, top_k=47).item_ids, expected)
    assert index.search(logits, exclude=[None, [1]]).item_ids.shape == (2, 10)
    assert index.search(logits[:0]).item_ids.shape == (0, 10)


def test_rows_to_remove_are_rows_of_the_catalogue():
    index = ItemIndex(torch.randint(0, 8, (50, 4)))
    for rows in ([-1], [50], np.zeros(50, bool)):
        with pytest.raises(ValueError, match="rows holds"):
            index.remove(rows)
    assert len(index) == 50


def test_a_broken_model_recommends_nothing():
    with pytest.raises(ValueError, match="NaN"):
        ItemIndex(torch.randint(0, 8, (50, 4))).search(torch.full((1, 4, 8), float("nan")))


@pytest.mark.parametrize(
    "logits, named", [(torch.randn(3, 5, 8), "5 codebooks"), (torch.full((3, 4, 8), float("nan")), "NaN")]
)
def test_a_partition_of_other_queries_is_refused(logits, named):
    with pytest.raises(ValueError, match=named):
        fit_partition(torch.randint(0, 8, (50, 4)), logits)


def test_lengths_are_those_of_the_model_that_asks(make_model, fitted):
    """Also where it lies in the memory of one that is gone."""
    index = ItemIndex(fitted.item_codes, known_ids=fitted.known_ids)
    first, second = (make_model(seed, prediction="items", num_known_items=40).model.embeddings for seed in (0, 1))
    wanted = second.lengths(index.item_codes, index.known_ids)
    assert not torch.allclose(index.lengths_by(first), wanted)
    for of_first, of_second in zip(first.parameters(), second.parameters(), strict=True):
        of_first.data.numpy()[:] = of_second.data.numpy()  # so that no version tells
        of_second.data = of_first.data
    assert [weight.data_ptr() for weight in first.parameters()] == [
        weight.data_ptr() for weight in second.parameters()
    ]
    torch.testing.assert_close(index.lengths_by(second), wanted)
    assert index.lengths_by(second) is index.lengths_by(second), "they are kept"
    again = pickle.loads(pickle.dumps(index))
    torch.testing.assert_close(again.lengths_by(second), wanted)
