"""Secrets among the settings: taken from the environment or a file of their own, and shown nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, SecretStr

from pipeline.settings_reading import BETWEEN_KEYS, ENV_PREFIX, SettingsError, is_secret, wrong

MOST_BYTES = 64 << 10


class Hidden(str):
    """A string whose bytes can be sent and compared, and which says nothing when it is logged or formatted.

    >>> print(Hidden("open sesame"), [Hidden("open sesame")], f"{Hidden('open sesame'):>5}")
    *** ['***'] ***
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"


def _not_empty(given: SecretStr | None) -> SecretStr | None:
    if given is not None and (not given.get_secret_value() or "\0" in given.get_secret_value()):
        raise wrong("must be text, and not empty")
    return given


Secret = Annotated[SecretStr | None, AfterValidator(_not_empty)]


def given_once(section: BaseModel, name: str, key: str) -> None:
    """For a validator: raise where a secret is given by its value and by its file."""
    if getattr(section, key) is not None and getattr(section, f"{key}_file") is not None:
        raise wrong(f"{name}.{key}, {name}.{key}_file: only one of them can be given", BETWEEN_KEYS)


def secret_keys(root: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key that holds a secret."""
    for name, field in root.model_fields.items():
        if is_secret(field.annotation):
            yield (*at, name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from secret_keys(field.annotation, (*at, name))


def refuse_written(root: type[BaseModel], tree: Mapping[str, Any], origin: str) -> None:
    """Raise SettingsError where settings written by hand hold a secret: files are copied, command lines are seen."""
    for keys in secret_keys(root):
        found: Any = tree
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is not None:
            told = f"{'.'.join(keys)}: must not stand in a file of settings"
            raise SettingsError(f"settings: {told}; {how_given(keys)} (by {origin})")


def how_given(keys: tuple[str, ...]) -> str:
    """In words, for a secret's key."""
    variable = ENV_PREFIX + "__".join(keys).upper()
    return f"give it as {variable}, or name a file that holds it in {'.'.join(keys)}_file"


def secret(given: SecretStr | None, file: Path | None, key: str) -> Hidden | None:
    """The secret of a key, from its value or its file as it is now; None where neither is given.

    One line end at the end of a file is not part of it. Raises SettingsError, which shows nothing of it.
    """
    if given is not None:
        return Hidden(given.get_secret_value())
    if file is None:
        return None
    try:
        with file.open("rb") as content:
            raw = content.read(MOST_BYTES + 1)
        text = raw.decode()
    except OSError as error:
        raise SettingsError(f"settings: {key}_file: {os.fspath(file)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"settings: {key}_file: {os.fspath(file)}: must be UTF-8") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(raw) > MOST_BYTES or "\n" in text or "\0" in text:
        raise SettingsError(f"settings: {key}_file: {os.fspath(file)}: must hold one line, the secret alone")
    return Hidden(text)
