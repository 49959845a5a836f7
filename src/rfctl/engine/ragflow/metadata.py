"""Conditions on the metadata of documents, as listing and retrieval take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rfctl.engine.ragflow.envelope import DATA, Failure

Matcher = Callable[[Mapping[str, Any]], bool]


def matcher(exact: str | None, condition: str | None) -> Matcher:
    """A test for the two query parameters `metadata` and `metadata_condition` (JSON texts).

    Raises Failure 102 for bad JSON.
    """
    wanted = _parse(exact, "metadata")
    rules = _parse(condition, "metadata_condition")
    fits = conditions(rules)

    def check(fields: Mapping[str, Any]) -> bool:
        return fits(fields) and all(_equals(fields.get(key), value) for key, value in wanted.items())

    return check


def conditions(rules: Mapping[str, Any]) -> Matcher:
    """A test for `{"logic": "and" | "or", "conditions": [{"name", "comparison_operator", "value"}]}`.

    Operators: is, not is, contains, not contains, in, not in, start with, end with, empty, not empty, and
    the comparisons = ≠ != > < ≥ >= ≤ <=. An unknown operator matches nothing.
    """
    items = [item for item in rules.get("conditions") or [] if isinstance(item, Mapping)]
    if not items:
        return lambda fields: True
    combine = any if rules.get("logic") == "or" else all
    return lambda fields: combine(_holds(item, fields) for item in items)


def _parse(text: str | None, name: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Failure(DATA, f"{name} must be valid JSON: {text}.") from error
    if not isinstance(value, dict):
        raise Failure(DATA, f"{name} must be an object.")
    return value


def _equals(held: Any, wanted: Any) -> bool:
    values = {str(item) for item in (held if isinstance(held, list) else [held])}
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(str(option) in values for option in options)


def _holds(item: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    operator = str(item.get("comparison_operator") or item.get("op") or "is").lower()
    held = fields.get(str(item.get("name") or item.get("key") or ""))
    if operator in ("empty", "not empty"):
        return (held in (None, "", [])) == (operator == "empty")
    negative = operator.startswith("not ") or operator in ("≠", "!=")
    if held is None:
        return negative
    wanted = item.get("value")
    held_values = held if isinstance(held, list) else [held]
    return negative != any(_compare(operator.removeprefix("not "), value, wanted) for value in held_values)


def _compare(operator: str, held: Any, wanted: Any) -> bool:
    left, right = str(held).casefold(), str(wanted).casefold()
    match operator:
        case "is" | "=" | "==" | "≠" | "!=":
            return left == right
        case "contains":
            return right in left
        case "in":
            options = wanted if isinstance(wanted, list) else str(wanted).split(",")
            return left in {str(option).strip().casefold() for option in options}
        case "start with":
            return left.startswith(right)
        case "end with":
            return left.endswith(right)
        case ">" | "<" | "≥" | ">=" | "≤" | "<=":
            return _order(operator, held, wanted)
    return False


def _order(operator: str, held: Any, wanted: Any) -> bool:
    try:
        left, right = float(held), float(wanted)
    except (TypeError, ValueError):
        return _ordered(operator, str(held), str(wanted))
    return _ordered(operator, left, right)


def _ordered[T: (float, str)](operator: str, left: T, right: T) -> bool:
    if operator in ("≥", ">=", "≤", "<=") and left == right:
        return True
    return left > right if operator in (">", "≥", ">=") else left < right
