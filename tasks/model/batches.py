"""Examples as batches: padded on the left, so that all answers end together, each token at the position that it has without padding."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a token that carries no loss, as torch's cross-entropy has it."""

PADDING_ROW = "silent"
"""Key of a row none of whose tokens carries loss."""


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> "dict[str, torch.Tensor]":
    """Sequences of token ids as one batch.

    Args:
        sequences: token ids, of any lengths.
        pad_id: id that fills the left.

    Returns:
        input_ids, attention_mask and position_ids, each (n_sequences, longest), int64.
    """
    import torch

    longest = max(map(len, sequences))
    input_ids = torch.full((len(sequences), longest), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids)
        attention_mask[row, longest - len(ids) :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": positions(attention_mask)}


def positions(attention_mask: "torch.Tensor") -> "torch.Tensor":
    """Each token's place among the tokens of its row, from 0; padding has that of the token before it, or 0.

    Without them, a model with absolute positions counts the padding (transformers issue 3021).

    Args:
        attention_mask: (B, T), 0 where there is padding.

    Returns:
        (B, T), int64.
    """
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)


def inputs_of(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as a model's forward takes it: on its device, and without positions where it has no argument for them.

    Such a model needs none (Bloom and MPT measure distances, Mamba skips padding), or `tasks.model.padding` finds out that it does.

    Args:
        model: on its device, with or without an adapter.
        batch: arguments of its forward.
    """
    import torch

    taken = {name: value for name, value in batch.items() if name != "position_ids" or takes(model, name)}
    return {name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in taken.items()}


def takes(model: Any, argument: str) -> bool:
    """Whether a model's forward has an argument of that name; others it passes over without a word."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(plain.forward).parameters


def collate(
    features: Sequence[dict[str, Any]], *, pad_id: int, loss_on: str, silent_id: int | None = None
) -> "dict[str, torch.Tensor | int]":
    """Examples as a training batch in which only the logits that predict a token with loss are computed.

    The vocabulary's matrix is most of a small model's work, and a prompt needs none of it.

    Args:
        features: each with an `example`.
        pad_id: id that fills the left.
        loss_on: `sequence` also learns the prompt.
        silent_id: a token that carries no loss wherever it stands.

    Returns:
        input_ids, attention_mask and position_ids (B, T); labels (B, K), IGNORED where no loss is carried; logits_to_keep, K + 1.
        labels[:, k] is what logits[:, k] predict; the last logits predict nothing.
    """
    import torch

    examples = [feature["example"] for feature in features]
    whole = [example.prompt + example.answer for example in examples]
    learned = [ids[1:] for ids in whole] if loss_on == "sequence" else [example.answer for example in examples]
    kept = max(map(len, learned))
    labels = torch.full((len(examples), kept), IGNORED)
    for row, ids in enumerate(learned):
        if PADDING_ROW not in features[row]:
            labels[row, kept - len(ids) :] = torch.tensor(ids)
    if silent_id is not None:
        labels[labels == silent_id] = IGNORED
    return {**pad_left(whole, pad_id), "labels": labels, "logits_to_keep": kept + 1}


def collate_classes(features: Sequence[dict[str, Any]], *, pad_id: int) -> "dict[str, torch.Tensor]":
    """Examples as a training batch of a model with a classification head.

    Args:
        features: each with an `example`, whose answer is its class's number.
        pad_id: id that fills the left.

    Returns:
        input_ids, attention_mask and position_ids (B, T); labels (B, 1).
    """
    import torch

    examples = [feature["example"] for feature in features]
    labels = torch.tensor([[IGNORED] if PADDING_ROW in feature else feature["example"].answer for feature in features])
    return {**pad_left([example.prompt for example in examples], pad_id), "labels": labels}
