"""What a causal language model writes after prompts, and how probable it finds given answers; batched, padded on the left."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.kinds.base import Advance, Example, LossFunction, in_proportion, no_progress
from tasks.model.batches import IGNORED, inputs_of, pad_left, positions, takes
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Decoding:
    """How a model writes."""

    max_new_tokens: int
    """Longest continuation."""
    stop_ids: Sequence[int]
    """Tokens that end a continuation."""
    batch_size: int
    """Prompts a forward pass."""
    allowed: Callable[[Sequence[int]], list[int]] | None = None
    """Of the tokens written so far to those that may follow; without it any token may."""


def generate(
    model: Any, tokens: Tokens, prompts: Sequence[Sequence[int]], decoding: Decoding, advance: Advance = no_progress
) -> list[list[int]]:
    """The most probable continuation of each prompt, token by token (greedy).

    Args:
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        prompts: (n_rows,) token ids of the prompts.
        decoding: how they are continued.
        advance: told how many prompts each batch did.

    Returns:
        (n_rows,) token ids of the continuations, without the token that ended them and what follows it.
    """
    import torch

    written: list[list[int]] = [[] for _ in prompts]
    stop_ids, allowed = decoding.stop_ids, decoding.allowed
    model.eval()
    with torch.inference_mode():
        for rows in by_length(prompts, decoding.batch_size):
            inputs = inputs_of(model, pad_left([prompts[row] for row in rows], tokens.pad_id))
            start = inputs["input_ids"].shape[1]
            only = None if allowed is None else partial(_allowed, allowed, start)
            found = model.generate(
                **inputs, max_new_tokens=decoding.max_new_tokens, do_sample=False, top_k=None, top_p=None, eos_token_id=list(stop_ids),
                pad_token_id=tokens.pad_id, prefix_allowed_tokens_fn=only,
            )[:, start:].tolist()  # fmt: skip
            for row, ids in zip(rows, found, strict=True):
                end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
                written[row] = ids[:end]
            advance(len(rows))
    return written


def _allowed(allowed: Callable[[Sequence[int]], list[int]], start: int, _: int, ids: "torch.Tensor") -> list[int]:
    """What may follow in one row of a batch whose prompts are `start` tokens long, as transformers asks it."""
    return allowed(ids[start:].tolist())


def answers_log_probabilities(
    model: Any,
    tokens: Tokens,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
    advance: Advance = no_progress,
) -> "list[NDArray[np.float64]]":
    """Log-probability of each of several answers after each prompt, nats.

    A prompt is read once, whatever the number of its answers: their cost is their own tokens'. Only where a model remembers more than
    keys and values of what it read (Mamba, Jamba) is it read again with each answer.

    Args:
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        prompts: (n_rows,) token ids of the prompts.
        answers: (n_rows,) of each prompt the token ids of its answers, any number of any length.
        batch_size: prompts, and then answers, a forward pass.
        advance: told how many prompts each batch did.

    Returns:
        (n_rows,) arrays, (n_answers of the row,): sums over an answer's tokens.
    """
    import numpy as np
    import torch
    from transformers import DynamicCache

    if not _remembers_keys_and_values(model):
        whole = [Example(list(prompt), list(answer), False) for prompt, of_row in zip(prompts, answers, strict=True) for answer in of_row]
        share = in_proportion(advance, len(whole), len(prompts))
        found = iter(log_probabilities(model, tokens, whole, batch_size=batch_size, advance=share))
        return [np.array([next(found) for _ in of_row]) for of_row in answers]
    totals = [np.zeros(len(of_row)) for of_row in answers]
    model.eval()
    with torch.inference_mode():
        for rows in by_length(prompts, batch_size):
            inputs, read = inputs_of(model, pad_left([prompts[row] for row in rows], tokens.pad_id)), DynamicCache(config=model.config)
            first = model(**inputs, past_key_values=read, use_cache=True, logits_to_keep=1).logits
            pairs = [(place, number) for place, row in enumerate(rows) for number in range(len(answers[row]))]
            for at in range(0, len(pairs), batch_size):
                some = pairs[at : at + batch_size]
                given = [torch.tensor(answers[rows[place]][number]) for place, number in some]
                chosen, own = (  # (P, K), filled on the right
                    torch.nn.utils.rnn.pad_sequence(some_ids, batch_first=True).to(model.device)
                    for some_ids in (given, [torch.ones_like(ids) for ids in given])
                )
                places = torch.tensor([place for place, _ in some], device=model.device)
                past = copy.deepcopy(read)
                past.batch_select_indices(places)
                seen = torch.cat([inputs["attention_mask"][places], own], dim=1)
                at_answer = {"input_ids": chosen, "attention_mask": seen, "position_ids": positions(seen)[:, -chosen.shape[1] :]}
                after = model(**inputs_of(model, at_answer), past_key_values=past, use_cache=True).logits[:, :-1]
                logits = torch.cat([first[places], after], dim=1).float()  # (P, K, V)
                each = logits.gather(2, chosen[..., None])[..., 0] - logits.logsumexp(dim=-1)
                for line, (place, number) in zip(each.double().cpu().numpy(), some, strict=True):
                    row = rows[place]
                    totals[row][number] = line[: len(answers[row][number])].sum()
            advance(len(rows))
    return totals


def _remembers_keys_and_values(model: Any) -> bool:
    """Whether a model remembers keys and values of the tokens that it read, and nothing else.

    A recurrent layer's state either has no place among them, or goes on with one token at a time.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

    if not takes(model, "past_key_values"):
        return False
    layers = DynamicCache(config=model.config).layers
    return all(isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def log_probabilities(
    model: Any, tokens: Tokens, examples: Sequence[Example], *, batch_size: int, advance: Advance = no_progress
) -> "NDArray[np.float64]":
    """Log-probability of each example's whole answer after its prompt, nats.

    Args:
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        examples: (n_rows,) prompts and answers; the answer's end token counts like its others.
        batch_size: examples a forward pass.
        advance: told how many examples each batch did.

    Returns:
        (n_rows,) sums over the answers' tokens; divided by `len(example.answer)` the mean a token.
    """
    import numpy as np
    import torch

    whole = [example.prompt + example.answer for example in examples]
    totals = np.zeros(len(examples))
    model.eval()
    with torch.inference_mode():
        for rows in by_length(whole, batch_size):
            kept = max(len(examples[row].answer) for row in rows)
            inputs = inputs_of(model, pad_left([whole[row] for row in rows], tokens.pad_id))
            logits = model(**inputs, logits_to_keep=kept + 1).logits[:, :-1]  # (B, K, V); the last position predicts nothing
            chosen = inputs["input_ids"][:, -kept:]  # (B, K)
            for place, row in enumerate(rows):  # one at a time: in double precision a batch over a large vocabulary takes gigabytes
                own = slice(kept - len(examples[row].answer), None)
                each = logits[place, own].double().log_softmax(dim=-1).gather(1, chosen[place, own, None])  # (K, 1)
                totals[row] = each.sum().item()
            advance(len(rows))
    return totals


def loss(recipe: Recipe, tokens: Tokens) -> LossFunction:
    """Mean cross-entropy, nats a token, against the whole vocabulary, over the tokens that carry loss."""
    from torch.nn.functional import cross_entropy

    def compute(outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None) -> "torch.Tensor":
        logits = outputs.logits[:, :-1].float()  # (B, K, V); the last position predicts nothing
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())

    return compute


def by_length(sequences: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Places of the sequences in batches of like lengths, the longest first: little padding, and a lack of memory shows at once."""
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
