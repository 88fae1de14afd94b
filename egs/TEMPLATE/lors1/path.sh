#!/usr/bin/env bash
# The environment of a recipe, to be sourced in its directory: sets `python` and PATH; installs
# missing packages (utils/install.sh).
python=$(utils/install.sh) || exit 1
PATH=$(dirname "$python"):$PATH
# A recipe may lie anywhere; its link `utils` leads to the checkout.
PYTHONPATH=$(cd -P utils/.. && pwd)${PYTHONPATH:+:$PYTHONPATH}
# Many containers set it: then each of the many programs compiles all modules of ESPnet again.
unset PYTHONDONTWRITEBYTECODE
PYTHONUNBUFFERED=1
PYTHONIOENCODING=UTF-8
LC_ALL=C.UTF-8
export python PATH PYTHONPATH PYTHONUNBUFFERED PYTHONIOENCODING LC_ALL
