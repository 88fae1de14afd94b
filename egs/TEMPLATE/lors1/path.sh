#!/usr/bin/env bash
# The environment of a recipe, to be sourced from its directory: sets `python` and PATH, and
# installs what is missing (utils/install.sh).
python=$(utils/install.sh) || exit 1
PATH=$(dirname "$python"):$PATH
# A recipe can be copied anywhere; its utils link says where the collection is.
PYTHONPATH=$(cd -P utils/.. && pwd)${PYTHONPATH:+:$PYTHONPATH}
PYTHONUNBUFFERED=1
PYTHONIOENCODING=UTF-8
LC_ALL=C.UTF-8
export python PATH PYTHONPATH PYTHONUNBUFFERED PYTHONIOENCODING LC_ALL
