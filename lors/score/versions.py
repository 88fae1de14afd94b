"""Versions of the packages that scores depend on."""

from __future__ import annotations


def installed_version(package: str) -> str:
    """Return the version of an installed package, without importing it; ``unknown`` without one.

    A source checkout on PYTHONPATH has no version.
    """
    import importlib.metadata  # slow to import, and only a scorer needs it

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
