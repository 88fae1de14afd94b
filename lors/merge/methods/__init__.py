"""Merge methods, one file each; :mod:`lors.merge.methods.base` is the guide to writing one."""

import importlib
import pkgutil

from lors.merge.methods.base import METHODS, MergeMethod, method_called

__all__ = ["METHODS", "MergeMethod", "method_called"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
METHODS.update(sorted(METHODS.items()))
