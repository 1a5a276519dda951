#!/usr/bin/env bash
# Runs what this bundle is for and packs the records into $OUT (default: the folder you are in). Arguments go on to the runner:
# --only ROW, --jobs N, … PYTHON=/path/to/python says which. Whatever ends it, what is recorded is packed by then, and the same
# command goes on.
set -u
python=$(type -P "${PYTHON:-python3}") || { echo "run.sh: there is no ${PYTHON:-python3}: say PYTHON=/path/to/python" >&2; exit 2; }
[[ $python == /* ]] || python=$PWD/$python
out=$(cd "${OUT:-.}" 2> /dev/null && pwd) || { echo "run.sh: there is no folder $OUT: make it, the records go there" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false
what=$("$python" benchmarks/node/check.py) || exit 2
read -r spec scale records <<< "$what"

packed=$out/records-$spec-$scale.tar.gz
mkdir -p "$records"
pack() { # whole or not at all
  touch .packed
  find "$records" -name '*.json' > .records && tar -czf "$packed.part" -T .records && mv "$packed.part" "$packed"
}

pack || { echo "run.sh: nothing can be written to $out: say OUT=/another/folder" >&2; exit 2; }
"$python" -m benchmarks.run "$spec" --scale "$scale" "$@" &
run=$!
trap 'kill -TERM $run 2> /dev/null' INT TERM HUP
while kill -0 $run 2> /dev/null; do
  sleep 2
  [ -z "$(find "$records" -name '*.json' -newer .packed | head -n 1)" ] || pack
done
wait $run
status=$?
pack || { echo "run.sh: the records could not be packed into $packed: bring $PWD/$records back" >&2; exit 1; }
echo "records: $packed; bring it back and run: make merge FROM=${packed##*/}"
exit $status
