"""What makes two texts the same one: the form in which texts are compared. The texts themselves stay as they are.

As Unicode says (UAX 15 and the property Default_Ignorable_Code_Point): compatibility equivalents are one (NFKC: composed and decomposed
letters, full-width forms, ligatures, kinds of space), what cannot be seen does not count (zero-width space, soft hyphen, byte order
mark, variation selectors, marks of direction, control characters), and white space is run together.

- **Case counts, and so does punctuation**: texts in capitals are often another matter, and a label may hang on a question mark. Where
  the question is whether a text was seen in training (published test files, near copies), `letters` and `words` look past both.
- **Joiners do not count** (U+200C, U+200D). In Persian, Hindi and other languages the same word is typed with and without them; an
  emoji joined to another shows the same two where a font does not know the pair.
- **Flags of regions count**: England and Scotland differ in characters that are invisible elsewhere.
"""

import re
import unicodedata

import regex

UNSEEN = regex.compile(r"(\U0001F3F4[\U000E0020-\U000E007E]+\U000E007F)|[\p{Default_Ignorable_Code_Point}\p{Cc}]")
"""The flag of a region, which stays, or a character that cannot be seen."""


def key(text: str) -> str:
    """What is equal for texts that are the same; the key of a key is itself."""
    seen = UNSEEN.sub(r"\1", " ".join(text.split()))
    return " ".join(UNSEEN.sub(r"\1", unicodedata.normalize("NFKC", seen)).split())


def letters(text: str) -> str:
    """A text's letters and digits, case aside. Without any, its key."""
    return "".join(filter(str.isalnum, key(text).casefold())) or key(text)


def words(text: str) -> list[str]:
    """A text's words, case and punctuation aside."""
    return re.findall(r"\w+", key(text).casefold())
