"""Things by name: loading ``module:Name``, hints for near misses, and the extra that brings a missing package."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

# Which extra brings a package that something here needs.
EXTRAS = {
    "accelerate": "trl",
    "datasets": "trl",
    "fastapi": "serve",
    "httpx": "llm",
    "jaxtyping": "train",
    "matplotlib": "bench",
    "minari": "export",
    "pyarrow": "export",
    "sb3_contrib": "sb3",
    "scipy": "bench",
    "sentence_transformers": "sb3",
    "stable_baselines3": "sb3",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "trl": "trl",
    "uvicorn": "serve",
    "verifiers": "verifiers",
}


def load_named(path: str, kind: str) -> Any:
    """Import the object that ``module:Name`` names; the name may have dots (``module:Class.method``).

    Args:
        path: the name.
        kind: what the object should be, for the error ("agent", "world", "extractor").

    Raises:
        ValueError: `path` is not of that form, or there is no such module or name.
        ModuleNotFoundError: the module exists and imports one that does not.

    >>> load_named("collections:OrderedDict", "mapping").__name__
    'OrderedDict'
    >>> load_named("collections:OrderdDict", "mapping")
    Traceback (most recent call last):
    ValueError: no mapping 'collections:OrderdDict'; collections has no OrderdDict, did you mean 'OrderedDict'?
    """
    module, _, name = path.partition(":")
    if not module or not name or module.startswith("."):
        raise ValueError(f"no {kind} {path!r}; write module:Class")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and something it imports is not
        raise ValueError(f"no {kind} {path!r}; write module:Class ({error})") from None
    for part in name.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, [known for known in dir(found) if not known.startswith("_")])
            raise ValueError(f"no {kind} {path!r}; {module} has no {name}{hint and f', {hint}'}")
        found = getattr(found, part)
    return found


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> str:
    """A question with the known names nearest to `name`, or an empty text if none is near.

    Args:
        name: what was given.
        known: what is allowed.
        most: maximum number of names to suggest.
        cutoff: minimum similarity, 0 to 1 (`difflib.get_close_matches`).

    >>> did_you_mean("sede", ["seed", "size"])
    "did you mean 'seed'?"
    >>> did_you_mean("colour", ["seed", "size"])
    ''
    """
    near = get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def missing_extra(what: str, package: str, extra: str) -> ModuleNotFoundError:
    """The error to raise where an optional package is not installed.

    Args:
        what: what cannot be done without it.
        package: the module that could not be imported.
        extra: the extra of opid-gym that brings it.

    >>> raise missing_extra("writing Parquet", "pyarrow", "export")
    Traceback (most recent call last):
    ModuleNotFoundError: writing Parquet needs pyarrow: pip install 'opid-gym[export]'
    """
    return ModuleNotFoundError(f"{what} needs {package}: pip install 'opid-gym[{extra}]'", name=package)


def explain_missing(error: ModuleNotFoundError) -> str:
    """The message of an import that failed, with the extra to install where there is one.

    >>> explain_missing(ModuleNotFoundError("No module named 'scipy'", name="scipy"))
    "No module named 'scipy': pip install 'opid-gym[bench]'"
    """
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    told = extra is None or "pip install" in str(error)
    return str(error) if told else f"{error}: pip install 'opid-gym[{extra}]'"
