"""Read a model's answer as JSON without trusting it: bounded in size and depth, finite, checked by schema."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

MAX_ANSWER_CHARACTERS, MAX_ANSWER_DEPTH = 64 * 1024, 16
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_NOT_ON_THE_WIRE = ("$schema", "title", "uniqueItems", "minLength", "maxLength")  # not known to every server


class AnswerError(ValueError):
    """An answer is not what was asked for; the message says what is wrong and where."""


def parse_answer(text: str, schema: dict[str, Any]) -> Any:
    """Return the JSON document in a model's answer, checked against ``schema``.

    A model that is not held to a grammar may wrap the document in a code fence or in a sentence.

    Raises:
        AnswerError: too large, too deep, not JSON, a key twice, a number that is not finite, or not as the
            schema says.
    """
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise AnswerError(f"the answer has more than {MAX_ANSWER_CHARACTERS} characters")
    document = parse_json(_document_in(text))
    error = best_match(Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
        raise AnswerError(f"{place.lstrip('.') or 'the answer'}: {shorten(error.message)}")
    return document


def parse_json(text: str) -> Any:
    """Read JSON strictly (RFC 8259: finite numbers, no key twice), nested at most MAX_ANSWER_DEPTH deep."""
    _check_depth(text)
    try:
        return json.loads(
            text, parse_float=_finite, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except AnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"not JSON ({shorten(str(error))})") from None


def wire_schema(schema: Any) -> Any:
    """Return ``schema`` without the keywords that servers refuse; answers are checked against all of it."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key not in _NOT_ON_THE_WIRE}
    for key in ("properties", "$defs"):
        if key in kept:
            kept[key] = {name: wire_schema(value) for name, value in kept[key].items()}
    if "items" in kept:
        kept["items"] = wire_schema(kept["items"])
    return kept


def shorten(text: str, length: int = 200) -> str:
    """Return ``text`` as one line of at most ``length`` printable characters, cut in its middle if need be.

    The end of an error message says what is wrong with the thing that its beginning repeats.
    """
    if len(text) > 8 * length:
        text = text[: 4 * length] + text[-4 * length :]
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) <= length:
        return line
    tail = length // 2
    return f"{line[: length - tail - 5]} ... {line[-tail:]}"


def _document_in(text: str) -> str:
    fenced = _FENCED.search(text)
    if fenced:
        return fenced.group(1)
    if text.lstrip().startswith("["):
        return text
    first, last = text.find("{"), text.rfind("}")
    return text[first : last + 1] if 0 <= first < last else text


def _check_depth(text: str) -> None:
    """Refuse deep nesting before parsing: the parser recurses. Brackets inside texts do not count."""
    depth, in_text, escaped = 0, False, False
    for character in text:
        if in_text:
            in_text = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_text = True
        elif character in "{[":
            depth += 1
            if depth > MAX_ANSWER_DEPTH:
                raise AnswerError(f"nested deeper than {MAX_ANSWER_DEPTH} levels")
        elif character in "}]":
            depth -= 1


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise AnswerError(f"{text} is not a finite number")
    return number


def _refuse_constant(text: str) -> float:
    raise AnswerError(f"{text} is not a finite number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise AnswerError("a key stands twice in one object")
    return document
