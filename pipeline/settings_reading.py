"""Reads settings from YAML and the environment, and says in plain words which key is wrong and how."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

ENV_PREFIX = "HEADRACE__"
OWN = "headrace"
BETWEEN_KEYS = "headrace_between_keys"
Location = tuple[str | int, ...]
_USER_INFO = re.compile(r"[^\s,/'\"]+@")


class SettingsError(ValueError):
    """Settings that cannot be used; the text names the key and what it accepts."""


class Section(BaseModel):
    """A group of keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation in (int, float):
            raise wrong("must be a number")
        return value


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: only true and false are truths, 010 is ten, a time is text, no key comes twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, as the class above declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), "-+0123456789")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    "-+.0123456789",
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file, {} if there is nothing in it; raises SettingsError."""
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        # Without the line that is wrong, which the error would quote: there may be a secret in it.
        at = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        said = " ".join(filter(None, (error.context, error.problem)))
        raise SettingsError(f"{path}{at}: not YAML: {said}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: must be a mapping of sections, found {type(content).__name__}")
    return content


def env_value(root: type[BaseModel], keys: Sequence[str], text: str) -> Any:
    """What a variable's text means for the key: itself where the key holds text, else as in YAML."""
    annotation = annotation_at(root, keys)
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if any(each in (str, Path, SecretStr) or typing.get_origin(each) is typing.Literal for each in options):
        return text
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return text


def without_empty_sections(root: type[BaseModel], tree: Mapping[str, Any], at: Location = ()) -> dict[str, Any]:
    """A section whose keys are all commented out is null in YAML, and meant as not there."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        here = (*at, key)
        if value is None and (known := _known(annotation_at(root, here))) is not None:
            if known:
                kept[key] = {}
        else:
            kept[key] = without_empty_sections(root, value, here) if isinstance(value, dict) else value
    return kept


def annotation_at(root: type[BaseModel], location: Sequence[str | int]) -> Any:
    """The type of a key, None if there is no such key."""
    found: Any = root
    for part in location:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = field.annotation if field is not None else None
        elif typing.get_origin(found) is dict:
            found = typing.get_args(found)[1]
        elif typing.get_origin(found) is tuple:
            found = typing.get_args(found)[0]
        else:
            return None
    return found


def explain(root: type[BaseModel], error: ValidationError, origins: Mapping[Location, str]) -> str:
    """All that is wrong, key by key, and which file or variable said so."""
    lines: dict[str, None] = {}
    for problem in error.errors():
        location = _trimmed(root, tuple(part for part in problem["loc"] if part != "[key]"))
        notes = []
        if problem["type"] == "extra_forbidden":
            said = f"unknown key {_dotted(location)}{_nearest(root, location)}"
        else:
            told = _told(problem, annotation_at(root, location))
            said = told if problem["type"] == BETWEEN_KEYS else f"{_dotted(location)}: {told}"
            if not isinstance(problem["input"], (dict, BaseModel)) and not is_secret(annotation_at(root, location)):
                notes.append(f"given: {_USER_INFO.sub('***@', repr(problem['input']))}"[:120])
        if origin := _origin(location, origins):
            notes.append(f"by {origin}")
        lines[f"{said} ({', '.join(notes)})" if notes else said] = None
    return "settings: " + "; ".join(lines)


def is_secret(annotation: Any) -> bool:
    """Whether a key of this type holds a secret."""
    return annotation is SecretStr or SecretStr in typing.get_args(annotation)


def wrong(text: str, kind: str = OWN) -> PydanticCustomError:
    """For a validator to raise: the text stands behind the key, or with kind BETWEEN_KEYS alone."""
    return PydanticCustomError(kind, "{text}", {"text": text})


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _origin(location: Location, origins: Mapping[Location, str]) -> str | None:
    """Who said so: the nearest of those that gave the key or a section around it, else one that gave a key within."""
    for length in range(len(location), 0, -1):
        if location[:length] in origins:
            return origins[location[:length]]
    return next((told for given, told in origins.items() if location and given[: len(location)] == location), None)


_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must match {pattern}",
}


def _told(problem: Any, annotation: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in (OWN, BETWEEN_KEYS):
        return str(problem["msg"])
    if kind in _LIMITS:
        return _LIMITS[kind].format(**context)
    if kind == "missing":
        return "missing"
    if isinstance(annotation, types.UnionType):
        names = {bool: "true or false", float: "a number", int: "a number"}
        options = [option for option in typing.get_args(annotation) if option is not types.NoneType]
        return f"must be {' or '.join(dict.fromkeys(names.get(option, 'text') for option in options))}"
    if annotation is str or (isinstance(annotation, type) and issubclass(annotation, Path)):
        return "must be text; in YAML put it in quotes"
    if annotation is bool:
        return "must be true or false"
    if annotation is int:
        return "must be a whole number"
    if annotation is float:
        return "must be a number"
    if kind == "tuple_type":
        return "must be a list, such as [a, b]"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "must be a section, keys with values"
    return str(problem["msg"])


def _trimmed(root: type[BaseModel], location: Location) -> Location:
    """Without what pydantic adds to tell the options of a union apart."""
    while location and annotation_at(root, location) is None and annotation_at(root, location[:-1]) is not None:
        if not isinstance(annotation_at(root, location[:-1]), types.UnionType):
            break
        location = location[:-1]
    return location


def _known(annotation: Any) -> list[str] | None:
    """The keys of a section; [] for a mapping by free names; None for a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return [] if typing.get_origin(annotation) is dict else None


def _nearest(root: type[BaseModel], location: Location) -> str:
    known = _known(annotation_at(root, location[:-1])) or []
    close = difflib.get_close_matches(str(location[-1]).lower(), known, n=1)
    if close:
        return f"; did you mean {'.'.join(map(str, [*location[:-1], close[0]]))}?"
    return f"; known here: {', '.join(known)}" if known else ""
