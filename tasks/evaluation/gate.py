"""Whether a challenger may become the champion: a pure function of the evidence.

It fails closed: a figure that is missing or not a number refuses, it is never passed over.
"""

import math
from dataclasses import dataclass

from tasks.contracts import Parity, Scores, Verdict
from tasks.schema.recipe import Gate

REFUSED = "refused: "
"""How the reason of a broken check begins."""

WARNING = "warning: "
"""How a reason begins that refuses nothing, but that a person should read."""

WARNED_SHARE = 0.05
"""Share of the sampled rows up to which the merged model may say otherwise than the adapter on its quantised base, unwarned."""


@dataclass(frozen=True)
class Champion:
    """The present champion, scored on the same rows as the challenger."""

    version: int
    scores: Scores | None
    obstacle: str = ""
    """Why it could not be scored, where it could not."""


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at, all of it measured on the same test rows."""

    tuned: Scores
    base: Scores
    majority: Scores | None
    parity: Parity
    champion: Champion | None
    quantized: Parity | None = None
    """Merged model against adapter on the quantised base, where there is one."""


def verdict(gate: Gate, evidence: Evidence) -> Verdict:
    """The recipe's floors, parity of merged model and adapter, base model and majority class, and the champion, in this order.

    Returns:
        Passed where every check held; a reason for each check, beginning with REFUSED where it did not; after parity's perhaps one
        that begins with WARNING.
    """
    metric, value = gate.metric, _value(evidence.tuned, gate.metric)
    checks = [_at_least(name, _value(evidence.tuned, name), floor, "floor") for name, floor in gate.floors.items()]
    checks.append(_parity(evidence.parity))
    if evidence.quantized and exceeds_tolerance(evidence.quantized):
        checks.append((True, f"{WARNING}merged model and adapter on the quantised base: {_agreement(evidence.quantized)}"))
    if gate.beats_base:
        checks.append(_above(metric, value, _value(evidence.base, metric), "base model"))
        if evidence.majority is not None:
            checks.append(_above(metric, value, _value(evidence.majority, metric), "majority class"))
    checks.append(_champion(gate, value, evidence.champion))
    return Verdict(all(held for held, _ in checks), tuple(line if held else REFUSED + line for held, line in checks))


def parity_holds(parity: Parity) -> bool:
    """Whether the merged model answered as its adapter does, on every row that was sampled."""
    return 0 < parity.rows == parity.same_labels and math.isfinite(parity.largest_difference)


def exceeds_tolerance(quantized: Parity) -> bool:
    """Whether the merged model says otherwise than the adapter did on the quantised base on more than WARNED_SHARE of the rows."""
    return quantized.rows - quantized.same_labels > WARNED_SHARE * quantized.rows or not math.isfinite(quantized.largest_difference)


def _value(scores: Scores, metric: str) -> float:
    value = scores[metric].value if metric in scores else math.nan
    return value if math.isfinite(value) else math.nan


def _at_least(metric: str, value: float, bound: float, what: str, margin: float = 0.0) -> tuple[bool, str]:
    held = value >= bound - margin - 1e-12  # 0.29 is not below 0.32 less 0.03, whatever their bits say
    less = f" - {margin:.3f}" if margin else ""
    return held, f"{metric} {_sign(value, bound, held, '>=', '<')}{less} ({what})"


def _above(metric: str, value: float, other: float, what: str) -> tuple[bool, str]:
    held = value > other
    return held, f"{metric} {_sign(value, other, held, '>', '<=')} ({what})"


def _champion(gate: Gate, value: float, champion: Champion | None) -> tuple[bool, str]:
    if champion is None:
        return True, "no champion yet to compare with"
    what = f"champion, version {champion.version}"
    if champion.scores is None:
        return False, f"no comparison with the {what}: {champion.obstacle or 'it has no scores'}"
    return _at_least(gate.metric, value, _value(champion.scores, gate.metric), what, gate.margin)


def _parity(parity: Parity) -> tuple[bool, str]:
    held = parity_holds(parity)
    return held, f"merged model and adapter: {_agreement(parity)}"


def _agreement(parity: Parity) -> str:
    return f"the same on {parity.same_labels} of {parity.rows} rows, largest difference {parity.largest_difference:.2g}"


def _sign(left: float, right: float, held: bool, yes: str, no: str) -> str:
    """Both figures and what is between them, with as many digits as it takes to tell them apart."""
    if math.isnan(left) or math.isnan(right):
        return f"{_figure(left, 3)}, not {yes} {_figure(right, 3)}"
    digits = next((count for count in range(3, 9) if left == right or round(left, count) != round(right, count)), 9)
    return f"{_figure(left, digits)} {yes if held else no} {_figure(right, digits)}"


def _figure(value: float, digits: int) -> str:
    return "unknown" if math.isnan(value) else f"{value:.{digits}f}"
