"""A run's settings as a TOML file: one line for each, under the names that flags have, and `data` and `out`."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.errors import InvalidRequestError, nearest_name, one_line
from gptwo.training.config import OTHER_NAMES, TrainConfig

LARGEST_FILE = 1 << 16
"""Bytes of a file of settings; reading a large one that is none may take very long."""
PLACES = {"data": "what `gptwo prepare` made", "out": "where the run lives"}


@dataclass(frozen=True)
class RunSettings:
    """All that `gptwo train` is told."""

    data: Path
    out: Path
    config: TrainConfig


def read_config(path: Path) -> dict[str, Any]:
    """The values in a file, by name; those that a TrainConfig checks are not checked yet.

    Raises InvalidRequestError, naming the file, if it cannot be read, is no TOML, or has a name that is none of ours.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
        values = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{path}: is no TOML ({one_line(error)})") from error
    known = [*PLACES, *(field.name for field in dataclasses.fields(TrainConfig))]
    for name, value in values.items():
        if isinstance(value, dict):
            raise InvalidRequestError(
                f"{path}: [{name[:60]}] is a table, and settings stand outside of all tables", name
            )
        if name not in known:
            near = f"; it is called {OTHER_NAMES[name]!r} here" if name in OTHER_NAMES else nearest_name(name, known)
            raise InvalidRequestError(f"{path}: no setting {name[:60]!r}{near}", name)
        if name in PLACES and (not isinstance(value, str) or not value or "\0" in value):
            raise InvalidRequestError(f"{path}: {name} is no path", name)
    return values


def resolve(config_file: Path | None, given: Mapping[str, Any]) -> RunSettings:
    """The settings of a run: what is given beats what is in the file, which beats the default.

    given: values by name, `data` and `out` among them. Raises InvalidRequestError, with a name in `param`.
    """
    values = read_config(config_file) if config_file is not None else {}
    merged = {**values, **given}
    places = {}
    for name, meaning in PLACES.items():
        if name not in merged:
            raise InvalidRequestError(f"Missing option '--{name}', {meaning}", name)
        places[name] = Path(merged.pop(name))
    try:
        config = TrainConfig(**merged)
    except InvalidRequestError as error:
        if config_file is not None and error.param in values and error.param not in given:
            raise InvalidRequestError(f"{config_file}: {error}", error.param) from error
        raise
    return RunSettings(places["data"], places["out"], config)


def to_toml(settings: RunSettings) -> str:
    """What `read_config` takes for the same run: first what differs from the defaults, then the rest.

    A setting whose value is none is left out, which is its default.
    """
    config = settings.config
    values = config.to_dict()
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    own = [name for name, value in values.items() if getattr(config, name) != defaults[name]]
    rest = [name for name, value in values.items() if name not in own and value is not None]
    lines = [f"data = {_toml(str(settings.data))}", f"out = {_toml(str(settings.out))}"]
    lines += [f"{name} = {_toml(values[name])}" for name in own if values[name] is not None]
    lines += ["", "# As by default:"]
    lines += [f"{name} = {_toml(values[name])}" for name in rest]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """One value. JSON's spelling is TOML's for all that settings hold, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
