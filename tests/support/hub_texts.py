"""Texts in four languages, made at random, with what trips tokenizers: blanks, line ends, emoji, decomposed letters."""

import random
import unicodedata

WORDS = {
    "English": "today the a was very again my this that there street isn't I'd 2,048 it's Positive Negative facts act result",
    "Korean": "오늘 날씨가 정말 좋다 그 사람은 또 왔어 기분이 나쁘다 무감정 슬픔 기쁨 분노 댓글 여성 남성 없음 ㅋㅋ",
    "Spanish": "el niño comió más paella ayer qué vergüenza los hechos de la intervención fue Positivo Negativo Neutro según",
    "Hindi": "आज मौसम बहुत अच्छा है वह फिर आया मुझे दुख हुआ सड़क पर लोग थे क्या हुआ १२३",
}
"""Words of each language."""

ODDITIES = (
    "{}", " {}", "{}  ", "\t{}\t", "  {}\n", "{}\r\n{}", "{}\n\n\n{}", "{} 😀", "👩🏽\u200d💻{}", "{}\u00a0{}", "<b>{}</b>", "{}…  {}?!",
    "#{} @{}", "https://example.org/{}?q={}", "{}\u200b{}", "\uff21\uff22 {}", "{}{{}}{}", "\\{}\\n", "{}%s\x07", "\ufeff{}",
    "a\u0301{} İ ß", "{}    {}", "\U0001d4ef{}", "\u202e{}", "1234567890{}",
)  # fmt: skip
"""What is put around words."""


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of every language in turn."""
    draw, languages = random.Random(seed), [words.split() for words in WORDS.values()]
    return [" ".join(draw.choices(languages[place % len(languages)], k=draw.randint(1, 9))) for place in range(count)]


def texts(count: int = 200, seed: int = 5) -> list[str]:
    """Sentences of every language in turn, each with an oddity; every third has its letters decomposed (NFD)."""
    plain, found = sentences(2 * count, seed), []
    for place in range(count):
        text = ODDITIES[(place // len(WORDS)) % len(ODDITIES)].format(plain[place], plain[count + place])
        found.append(unicodedata.normalize("NFD", text) if place % 3 == 0 else text)
    return found
