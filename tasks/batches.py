"""Examples as batches: padded on the left, so that all answers end together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a token that carries no loss, as torch's cross-entropy has it."""

SILENT = "silent"
"""Key of a row none of whose tokens carries loss."""


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Sequences of token ids as one batch.

    Args:
        sequences: token ids, of any lengths.
        pad_id: id that fills the left.

    Returns:
        input_ids and attention_mask, both (n_sequences, longest), int64.
    """
    import torch

    longest = max(map(len, sequences))
    input_ids = torch.full((len(sequences), longest), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids)
        attention_mask[row, longest - len(ids) :] = 1
    return input_ids, attention_mask


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
        input_ids and attention_mask (B, T); labels (B, K), IGNORED where no loss is carried; logits_to_keep, K + 1. labels[:, k]
        is what logits[:, k] predict; the last logits predict nothing.
    """
    import torch

    examples = [feature["example"] for feature in features]
    whole = [example.prompt + example.answer for example in examples]
    input_ids, attention_mask = pad_left(whole, pad_id)
    learned = [ids[1:] for ids in whole] if loss_on == "sequence" else [example.answer for example in examples]
    kept = max(map(len, learned))
    labels = torch.full((len(examples), kept), IGNORED)
    for row, ids in enumerate(learned):
        if SILENT not in features[row]:
            labels[row, kept - len(ids) :] = torch.tensor(ids)
    if silent_id is not None:
        labels[labels == silent_id] = IGNORED
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "logits_to_keep": kept + 1}


def collate_classes(features: Sequence[dict[str, Any]], *, pad_id: int) -> "dict[str, torch.Tensor]":
    """Examples as a training batch of a model with a classification head.

    Args:
        features: each with an `example`, whose answer is its class's number.
        pad_id: id that fills the left.

    Returns:
        input_ids and attention_mask (B, T); labels (B, 1).
    """
    import torch

    examples = [feature["example"] for feature in features]
    input_ids, attention_mask = pad_left([example.prompt for example in examples], pad_id)
    labels = torch.tensor([[IGNORED] if SILENT in feature else feature["example"].answer for feature in features])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
