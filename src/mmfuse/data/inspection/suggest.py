"""Settings that fit a training table, each with its reason."""

import math
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence

from mmfuse.data.inspection.findings import Suggestion, Survey, TableSurvey
from mmfuse.data.series_statistics import GROWN

TOKENS_A_WORD = 1.4  # of English in the vocabulary of BERT
LONG = 4  # the longest hundredth has so many times the length of the median


def suggest(train: TableSurvey, others: Sequence[TableSurvey] = ()) -> list[Suggestion]:
    """What to give to encoders and transforms."""
    found: list[Suggestion] = []
    for survey in train.modalities:
        if survey.present:
            found += _OF_KIND.get(survey.kind, lambda _: [])(survey)
            found += _padding(survey)
    return found + _dropout(train, others)


def _text(survey: Survey) -> list[Suggestion]:
    if tokens := survey.spreads.get("tokens"):
        length = _up(tokens.quantiles["99%"], 8)
        return [Suggestion(survey.name, "max_length", length, "99 % of the texts have no more tokens")]
    if words := survey.spreads.get("words"):
        length = _up(TOKENS_A_WORD * words.quantiles["99%"] + 2, 8)
        reason = (
            "99 % of the texts have no more tokens, at 1.4 a word; give TextTransform(tokenizer) to have them counted"
        )
        return [Suggestion(survey.name, "max_length", length, reason)]
    return []


def _audio(survey: Survey) -> list[Suggestion]:
    rates = survey.counts.get("rate_hz")
    if not rates:
        return []
    usual, count = max(rates.items(), key=lambda item: (item[1], int(item[0])))
    share = count / sum(rates.values())
    lowest = min(map(int, rates))
    reason = f"{share:.0%} of the clips have it"
    if lowest < int(usual):
        reason += f"; others have {lowest} Hz or more, and nothing above half of that in them"
    found = [Suggestion(survey.name, "rate_hz", int(usual), reason)]
    seconds = survey.spreads["seconds"].quantiles
    if seconds["max"] > 2 * seconds["99%"] or seconds["max"] > 30:
        length = float(_up(seconds["99%"], 1))
        found.append(Suggestion(survey.name, "max_seconds", length, "99 % of the clips are no longer"))
    return found


def _image(survey: Survey) -> list[Suggestion]:
    if "width" not in survey.spreads:
        return []
    side = min(survey.spreads["width"].quantiles["50%"], survey.spreads["height"].quantiles["50%"])
    if side >= 224:
        return [
            Suggestion(survey.name, "size", 224, f"what most networks were trained with; half have {side:.0f} or more")
        ]
    step = 16 if side >= 64 else 4
    size = max(16, int(side) // step * step)
    return [Suggestion(survey.name, "size", size, f"the shorter side of half the images is {side:.0f} or less")]


def _series(survey: Survey) -> list[Suggestion]:
    found = _width(survey, "channels") + _times(survey)
    if (missing := survey.spreads.get("missing values")) and missing.quantiles["max"] > 0:
        found.append(
            Suggestion(survey.name, "gaps", "keep", "values are missing; of an encoder: reading={'gaps': 'keep'}")
        )
    if rate := survey.spreads.get("rate_hz"):
        low, high = rate.quantiles["1%"], rate.quantiles["99%"]
        if high > 1.1 * low:
            value = float(f"{rate.quantiles['50%']:.2g}")
            reason = f"the median; the rates differ, from {low:.3g} to {high:.3g} Hz"
            found.append(Suggestion(survey.name, "rate_hz", value, reason))
    return found + _max_steps(survey)


def _times(survey: Survey) -> list[Suggestion]:
    """Where the times of the steps seem to stand."""
    if counts := survey.counts.get("times"):
        times = literal_eval(max(counts, key=lambda word: counts[word]))
        reason = f"that column looks like the times of the steps; of an encoder: reading={{'times': {times!r}}}"
        return [Suggestion(survey.name, "times", times, reason)]
    steps = survey.spreads.get("steps")
    grows = sum(survey.counts.get("first column", {}).values())
    if steps and grows == steps.count and steps.count * (steps.mean - 1) >= GROWN:
        reason = "the first column grows from step to step in every series; of an encoder: reading={'times': 0}"
        return [Suggestion(survey.name, "times=0, if the first column holds them", None, reason)]
    return []


def _feature(survey: Survey) -> list[Suggestion]:
    found = _width(survey, "width")
    if found:
        found.append(Suggestion(survey.name, "sequence", True, "each sample has several vectors"))
    return found + _max_steps(survey)


def _video(survey: Survey) -> list[Suggestion]:
    frames, seconds = survey.spreads.get("frames"), survey.spreads.get("seconds")
    if frames is None:
        return []
    found = _image(survey)
    if seconds and seconds.quantiles["99%"] > LONG * seconds.quantiles["50%"]:
        fps = max(1.0, round(16 / seconds.quantiles["50%"]))
        reason = "lengths differ much: so 16 frames of the median clip are read, more of longer ones"
        return [*found, Suggestion(survey.name, "fps", fps, reason)]
    count = int(min(16, max(1, frames.quantiles["50%"])))
    reason = f"half the clips have {frames.quantiles['50%']:.0f} or more"
    return [*found, Suggestion(survey.name, "num_frames", count, reason)]


def _width(survey: Survey, name: str) -> list[Suggestion]:
    counts = survey.counts.get(name)
    if not counts:
        return []
    usual = max(counts, key=lambda word: counts[word])
    return [Suggestion(survey.name, name, int(usual), f"{counts[usual] / sum(counts.values()):.0%} have so many")]


def _max_steps(survey: Survey) -> list[Suggestion]:
    steps = survey.spreads.get("steps")
    if steps is None or steps.quantiles["max"] <= 2 * steps.quantiles["99%"]:
        return []
    return [Suggestion(survey.name, "max_steps", _up(steps.quantiles["99%"], 8), "99 % are no longer")]


def _padding(survey: Survey) -> list[Suggestion]:
    for name in ("tokens", "seconds", "steps"):
        spread = survey.spreads.get(name)
        if spread and survey.kind != "video" and spread.quantiles["99%"] > LONG * max(spread.quantiles["50%"], 1e-9):
            middle, high = spread.quantiles["50%"], spread.quantiles["99%"]
            reason = f"half have up to {middle:.3g} {name}, 1 % more than {high:.3g}: most of a batch is padding"
            return [Suggestion(survey.name, "small batches, or a limit on the length", None, reason)]
    return []


def _dropout(train: TableSurvey, others: Sequence[TableSurvey]) -> list[Suggestion]:
    """Combinations of modalities that training never shows."""
    for other in others:
        new = [pattern for pattern in other.patterns if pattern and pattern not in train.patterns]
        if new:
            shown = ", ".join(" + ".join(pattern) for pattern in new[:3])
            reason = f"{other.name} has rows with {shown} only, {train.name} has none"
            return [Suggestion("modalities", "ModalityDropout in training", None, reason)]
    return []


def _up(number: float, step: int) -> int:
    return max(step, math.ceil(number / step) * step)


_OF_KIND: Mapping[str, Callable[[Survey], list[Suggestion]]] = {
    "text": _text,
    "audio": _audio,
    "image": _image,
    "series": _series,
    "feature": _feature,
    "video": _video,
}
