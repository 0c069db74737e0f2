"""Dialogues in one text: where the last turn begins, and which give no row."""

import pytest

from tasks.data.dialogues import opening_turn, split_reply
from tasks.schema.data import Data, Turns

TURNS = Turns(human="\n\nHuman: ", assistant="\n\nAssistant: ")
ASKED = "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: And\n\nnow?"


def test_the_last_turn_is_the_answer() -> None:
    better, worse = f"{ASKED}\n\nAssistant: Good.", f"{ASKED}\n\nAssistant: Bad. "
    assert split_reply(TURNS, better, worse) == (ASKED, "Good.", "Bad.")
    assert split_reply(TURNS, better, None) == (ASKED, "Good.", "")
    assert TURNS.parse(ASKED) == [("user", "Hello"), ("assistant", "Hi."), ("user", "And\n\nnow?")]
    assert (opening_turn(TURNS, ASKED), opening_turn(TURNS, "Plain")) == ("Hello", "Plain")


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        (f"{ASKED}\n\nAssistant: Good.", "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Now?\n\nAssistant: Bad.", "pair differs before"),
        (f"{ASKED}\n\nAssistant:", f"{ASKED}\n\nAssistant: Bad.", "empty answer"),
        (f"{ASKED}\n\nAssistant: Good.", f"{ASKED}\n\nAssistant: ", "empty answer"),
        (ASKED, f"{ASKED}\n\nAssistant: Bad.", "ends otherwise than with the assistant's turn"),
        (f"{ASKED}\n\nAssistant: Good.", "\n\nAssistant: Bad.", "ends otherwise"),
        ("no marks", "no marks", "ends otherwise"),
    ],
)
def test_dialogues_that_give_no_row(better: str, worse: str, reason: str) -> None:
    found = split_reply(TURNS, better, worse)
    assert isinstance(found, str) and found.startswith(reason)


def test_a_text_without_marks_is_one_turn_of_the_user() -> None:
    plain = {"source": {"mirror": "a"}, "text": "question", "answer": "reply"}
    pairs = {"source": {"mirror": "b"}, "text": "good", "answer": "good", "rejected": "bad", "turns": TURNS.model_dump()}
    data = Data.model_validate({**plain, "test": pairs})
    assert data.messages("Hello") == [("user", "Hello")]
    assert [role for role, _ in data.messages(ASKED)] == ["user", "assistant", "user"]
    assert data.answers() == ("answer", "rejected")
    assert Data.model_validate({**plain, "answer": None, "fields": {"what": "w", "why": "y"}}).answers() == ("what", "why")
