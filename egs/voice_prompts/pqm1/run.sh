#!/usr/bin/env bash
# Adaptation of a quantised Whisper-base to professional speakers: a French, an Italian and the second
# Russian one, after those of English, Spanish and Russian.
#
#   ./run.sh                                   # an hour on two CPU cores
#   ./run.sh --test_speakers "en-Allison es-Allison" --speakerdir speakers_en_es --expdir exp/en_es
#
# db.sh has the place of the packages. All options are those of pqm.sh (./run.sh --help). The values
# below are defaults of this recipe; options of the command line override them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec ./pqm.sh --model_family whisper --base_model base --window auto \
    --langs "en es fr it ru" --test_speakers "fr-June it-Carlo ru-nsh" --own_splits true --nj 2 "$@"
