"""The settings that are searched, as words of the command line: ``model.dim=choice(64,128)``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5dist.config import RunConfig
from p5dist.config.yaml_text import read_yaml
from p5dist.errors import ConfigError

FORMS = "choice(a,b,…), uniform(low,high), loguniform(low,high), randint(low,high) or \
lograndint(low,high)"
_FIXED = (
    "name", "storage", "seed", "train_seed", "data_of", "prepare", "scale", "ranking", "evaluate",
    "recommend", "report", "advance", "tracking",
)  # fmt: skip
_TRIES = 100  # draws for each of the settings that are wanted
_WORD = re.compile(r"([A-Za-z0-9_.-]+)=(\w+)\((.*)\)")


@dataclass(frozen=True)
class Range:
    """The values that a setting may take.

    ``choice`` draws one of the values; the others draw a number from the first value to the second
    one: evenly (uniform, randint) or evenly in the logarithm (loguniform, lograndint); the ranges
    of whole numbers end before the second value.
    """

    form: str
    values: tuple[Any, ...]

    def domain(self) -> Any:
        """As Ray Tune has it."""
        from ray import tune

        make: Callable[..., Any] = getattr(tune, self.form)
        return make(list(self.values)) if self.form == "choice" else make(*self.values)

    def has(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        if self.form == "choice":
            return value in self.values
        low, high = self.values
        return isinstance(value, (int, float)) and low <= value < high


def parse_space(words: list[str]) -> dict[str, Range]:
    """The ranges by key of the job file.

    Raises:
        ConfigError: a word that is no range, a range without values, a key that is given twice, a
            setting that decides about the prepared data.
    """
    found: dict[str, Range] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise ConfigError(
                "not a range of a setting", where="tune", value=word, rule=f"KEY={FORMS}",
                fix="for example model.dim=choice(64,128)",
            )  # fmt: skip
        key, kind, text = match.groups()
        if key in found:
            raise ConfigError(
                "a setting is searched twice", where="tune", value=key, rule="one range a setting",
                fix="leave one of them out",
            )  # fmt: skip
        _check_key(key)
        found[key] = _range(key, kind, text)
    if not found:
        raise ConfigError(
            "nothing to search", where="tune", rule=f"at least one KEY={FORMS}",
            fix="for example model.dim=choice(64,128)",
        )  # fmt: skip
    return found


def _check_key(key: str) -> None:
    parts = key.split(".")
    if parts[0] in _FIXED or key == "feed.lanes" or "validation" in parts:
        raise ConfigError(
            "this setting cannot be searched", where="tune", value=key,
            rule="all trials share one prepared data set and one way to measure, and only training "
            f"is searched: not feed.lanes, validation, {', '.join(_FIXED)}",
            fix="compare runs of two jobs with p5dist compare",
        )  # fmt: skip


def _range(key: str, kind: str, text: str) -> Range:
    values = read_yaml(f"[{text}]", key)[0]
    if kind == "choice" and values:
        return Range(kind, tuple(values))
    whole = kind in ("randint", "lograndint")
    numbers = [v for v in values if isinstance(v, int if whole else (int, float))]
    numbers = [v for v in numbers if not isinstance(v, bool) and math.isfinite(v)]
    rising = len(values) == 2 and len(numbers) == 2 and numbers[0] < numbers[1]
    positive = not kind.startswith("log") or (rising and numbers[0] > 0)
    if kind not in ("uniform", "loguniform", "randint", "lograndint") or not (rising and positive):
        raise ConfigError(
            "not a range of a setting", where=key, value=f"{kind}({text})",
            rule=f"{FORMS}, low below high, above 0 for log",
            fix="for example pretrain.tables.lr=loguniform(0.01,0.3)",
        )  # fmt: skip
    return Range(kind, tuple(values))


def draw(
    space: Mapping[str, Range], number: int, seed: int, first: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """``number`` different settings at random, ``first`` before them; fewer if the ranges have
    fewer."""
    state, found = np.random.RandomState(seed), [dict(first)]
    domains = {key: values.domain() for key, values in space.items()}
    for _ in range(_TRIES * number):
        if len(found) == number:
            break
        drawn = {key: domain.sample(random_state=state) for key, domain in domains.items()}
        settings = {k: v.item() if isinstance(v, np.generic) else v for k, v in drawn.items()}
        if settings not in found:
            found.append(settings)
    return found


def present(job: RunConfig, space: Mapping[str, Range]) -> dict[str, Any]:
    """The values that the job has now.

    Raises:
        ConfigError: the job has no such setting.
    """
    values, found = job.model_dump(mode="json"), dict[str, Any]()
    for key in space:
        node: Any = values
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                raise ConfigError(
                    "the job has no such setting", where="tune", value=key,
                    rule="a key of the job file", fix="p5dist config JOB.yaml prints all keys",
                )  # fmt: skip
            node = node[part]
        found[key] = node
    return found
