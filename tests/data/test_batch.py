from dataclasses import replace

import numpy as np
import torch

from iwpo_fast.data.batch import flat_batch, flat_responses
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses


def make_pairs() -> Pairs:
    return Pairs(
        prompt=Ragged.from_rows([[1, 2], [3], [4, 5, 6]]),
        chosen=Ragged.from_rows([[10, 11], [12], [13]]),
        rejected=Ragged.from_rows([[20], [21, 22, 23], [24]]),
        weight=np.array([1.0, 2.0, 0.5]),
    )


def test_prompts_are_laid_out_once_and_chosen_before_rejected() -> None:
    batch = flat_batch(make_pairs(), np.array([1, 0]))
    assert batch.input_ids.tolist() == [3, 12, 1, 2, 10, 11, 21, 22, 23, 20]
    assert batch.position_ids.tolist() == [0, 1, 0, 1, 2, 3, 1, 2, 3, 2]
    assert batch.cu_laid_out.tolist() == [0, 2, 6, 9, 10]
    assert batch.completion_index.tolist() == [1, 4, 5, 6, 7, 8, 9]
    assert (batch.max_seqlen, batch.pairs, batch.tokens) == (4, 2, 10)


def test_whole_sequences_lie_end_to_end_and_every_token_is_in_its_own() -> None:
    batch = flat_batch(make_pairs(), np.array([1, 0]))
    assert batch.input_ids[batch.expand_index].tolist() == [3, 12, 1, 2, 10, 11, 3, 21, 22, 23, 1, 2, 20]
    assert batch.position_ids[batch.expand_index].tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 2, 6, 10, 13]
    assert batch.compact_index.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 12]
    assert batch.expand_index[batch.compact_index].tolist() == list(range(10))


def test_pairs_with_one_prompt_share_it() -> None:
    prompt = Ragged.from_rows([[1, 2], [1], [1, 2]])
    chosen, rejected = Ragged.from_rows([[5], [2, 5], [6, 7]]), Ragged.from_rows([[6, 7], [8], [8]])
    batch = flat_batch(Pairs(prompt, chosen, rejected, weight=np.ones(3)), np.arange(3))
    # The second prompt is a prefix of the first and another prompt all the same.
    assert batch.input_ids.tolist() == [1, 2, 5, 1, 2, 5, 6, 7, 6, 7, 8, 8]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 2, 3, 2, 3, 1, 2]
    assert batch.hidden_index.tolist() == [1, 3, 4, 1, 6, 1, 8, 3, 1]
    whole = batch.input_ids[batch.expand_index].split(batch.cu_seqlens.diff().tolist())
    assert [s.tolist() for s in whole] == [[1, 2, 5], [1, 2, 5], [1, 2, 6, 7], [1, 2, 6, 7], [1, 8], [1, 2, 8]]


def test_every_completion_token_is_predicted_by_the_position_before_it() -> None:
    batch = flat_batch(make_pairs(), np.array([1, 0]))
    assert batch.labels.tolist() == [12, 10, 11, 21, 22, 23, 20]
    assert batch.segments.tolist() == [0, 1, 3, 6, 7]
    whole = batch.input_ids[batch.expand_index]
    first = batch.segments[:-1]
    assert (batch.input_ids[batch.hidden_index[first]] == torch.tensor([3, 2, 3, 2])).all()
    later = torch.ones(7, dtype=torch.bool).index_fill(0, first, False)
    assert (whole[batch.compact_index[batch.hidden_index[later]] + 1] == batch.labels[later]).all()


def test_weights_and_reference_log_probs_follow_the_rows() -> None:
    reference = np.array([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
    batch = flat_batch(replace(make_pairs(), ref_logps=reference), np.array([2, 0]))
    assert batch.weight.tolist() == [0.5, 1.0]
    assert batch.ref_logps.tolist() == [-5.0, -1.0, -6.0, -2.0]
    assert batch.label_smoothing is None


def test_reference_log_probs_of_tokens_follow_the_labels_where_they_are_asked_for() -> None:
    pairs = make_pairs()
    tokens = tuple(Ragged(-part.values.astype(np.float32), part.offsets) for part in (pairs.chosen, pairs.rejected))
    pairs, rows = replace(pairs, ref_token_logps=tokens), np.array([2, 0])
    batch = flat_batch(pairs, rows, ref_tokens=True)
    assert batch.ref_token_logps.tolist() == (-batch.labels).tolist()
    assert flat_batch(pairs, rows).ref_token_logps is None
    assert flat_batch(make_pairs(), rows, ref_tokens=True).ref_token_logps is None


def test_single_responses_are_laid_out_behind_their_prompts_and_are_no_pairs() -> None:
    responses = Responses.of(make_pairs())
    batch = flat_responses(responses, np.array([3, 0, 1]))
    assert batch.input_ids.tolist() == [3, 21, 22, 23, 1, 2, 10, 11, 20]
    assert batch.labels.tolist() == [21, 22, 23, 10, 11, 20]
    assert batch.segments.tolist() == [0, 3, 5, 6]
    assert (batch.pairs, batch.rows.tolist()) == (0, [])


def test_taking_rows_keeps_tokens_and_weights_together() -> None:
    taken = make_pairs().take(np.array([2, 0]))
    assert taken.prompt[0].tolist() == [4, 5, 6]
    assert taken.rejected[1].tolist() == [20]
    assert taken.weight.tolist() == [0.5, 1.0]


def test_token_fingerprint_changes_with_tokens_and_not_with_weights() -> None:
    pairs = make_pairs()
    assert pairs.token_fingerprint() != pairs.take(np.array([1, 0, 2])).token_fingerprint()
    reweighted = Pairs(pairs.prompt, pairs.chosen, pairs.rejected, weight=np.ones(3))
    assert pairs.token_fingerprint() == reweighted.token_fingerprint()


def test_fingerprint_changes_with_weights_and_columns() -> None:
    pairs = make_pairs()
    reweighted = Pairs(pairs.prompt, pairs.chosen, pairs.rejected, weight=np.ones(3))
    scored = Pairs(pairs.prompt, pairs.chosen, pairs.rejected, pairs.weight, columns={"cluster": np.ones(3)})
    assert len({p.fingerprint() for p in (pairs, make_pairs(), reweighted, scored)}) == 3


def test_tokens_that_are_context_are_laid_out_and_not_supervised() -> None:
    plain = make_pairs()
    # Of the second rejected completion, 21 and 23 are context.
    pairs = replace(plain, rejected=Ragged.from_rows([[20], [~21, 22, ~23], [24]]))
    pairs = replace(pairs, ref_logps=np.zeros((3, 2)), ref_token_logps=(pairs.chosen, pairs.rejected))
    batch, whole = (flat_batch(some, np.array([1, 0]), ref_tokens=True) for some in (pairs, plain))
    for name in ("input_ids", "position_ids", "expand_index", "cu_seqlens", "prompt_lengths"):
        assert torch.equal(getattr(batch, name), getattr(whole, name)), name
    assert batch.labels.tolist() == [12, 10, 11, 22, 20]
    assert batch.segments.tolist() == [0, 1, 3, 4, 5]
    kept = torch.tensor([0, 1, 2, 4, 6])
    assert torch.equal(batch.hidden_index, whole.hidden_index[kept])
    assert torch.equal(batch.completion_index, whole.completion_index[kept])
    assert batch.ref_token_logps.tolist() == batch.labels.tolist()
    assert pairs.tokens_trained.tolist() == [[2, 1], [1, 1], [1, 1]]
    assert pairs.token_fingerprint() != plain.token_fingerprint()
