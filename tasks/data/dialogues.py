"""A dialogue in one text, parted before its last turn: what was said, and the assistant's answer to it."""

import re

from tasks.schema.data import Turns


def split_reply(turns: Turns, dialogue: str, rejected: str | None) -> tuple[str, str, str] | str:
    """Text, answer and worse answer of a dialogue, or why it gives none.

    Args:
        turns: what marks the turns.
        dialogue: the whole of it; of a pair the better one.
        rejected: the same dialogue with the worse answer, where the file has pairs.

    Returns:
        The text before the assistant's last turn as it stands, its marks included; that turn; the worse one (empty without a pair).
        Or a reason, as the counts of left out rows show it.
    """
    pieces = [_last_turn(turns, each) for each in ([dialogue] if rejected is None else [dialogue, rejected])]
    whole = [piece for piece in pieces if piece is not None]
    if len(whole) < len(pieces):
        return "ends otherwise than with the assistant's turn"
    if len({text for text, _ in whole}) > 1:
        return "pair differs before the last turn"
    if not all(answer for _, answer in whole):
        return "empty answer"
    return whole[0][0], whole[0][1], whole[1][1] if len(whole) > 1 else ""


def opening_turn(turns: Turns, text: str) -> str:
    """The first turn of a dialogue; the whole text where nothing marks turns in it."""
    return next((turn for _, turn in turns.parse(text)), text)


def _last_turn(turns: Turns, dialogue: str) -> tuple[str, str] | None:
    """What stands before the last turn, and that turn; None where it is not the assistant's or answers nothing."""
    human, assistant = turns.human.rstrip(), turns.assistant.rstrip()
    marks = list(re.finditer(f"{re.escape(human)}|{re.escape(assistant)}", dialogue))
    if not marks or marks[-1][0] != assistant or not dialogue[: marks[-1].start()].strip():
        return None
    return dialogue[: marks[-1].start()], dialogue[marks[-1].end() :].strip()
