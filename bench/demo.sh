#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# demo.sh COMMAND [IMAGE...]: prunes the committed features of real photographs (bench/features) with
# every detector: a table for each image, and pictures in build/demo (index.html shows them all).
# Exit status 1 where OTSU does not keep what it must.
set -eu
tailcut=$1
shift
features=bench/features
out=build/demo
bytes_per_token=768 # 384 channels of fp16
repeat=300
# METHOD.md: OTSU's k, which must come out within 2.
expected="coffee 184 china 178 flower 82 clock 42"

[ -f $features/coffee.npy ] || {
  echo "demo.sh: no $features here; run it by ./run demo" >&2
  exit 1
}
[ $# -gt 0 ] || set -- coffee china flower clock astronaut chelsea rocket
for image in "$@"; do
  [ -f "$features/$image.npy" ] || {
    echo "demo.sh: no image $image; there are: $(cd $features && echo *.npy | sed 's/\.npy//g')" >&2
    exit 2
  }
done

# field NAME JSON: a number of a flat JSON object.
field() { printf '%s' "$2" | sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"; }

# one IMAGE LABEL OPTIONS...: a row of the table, two pictures, their place on the page. (With a
# spread what is kept is no head of the curve: no curve then.)
one() {
  image=$1
  label=$2
  shift 2
  name=$(printf '%s' "$label" | tr ' ' '-')
  kept=$out/$image/$name.npy
  curve=$out/$image/curve-$name.svg
  view=$out/$image/patches-$name.svg
  json=$($tailcut prune --tokens "$features/$image.npy" --cls-row 0 "$@" --kept "$kept" \
    --threads 1 --repeat $repeat --json)
  $tailcut view --image "$features/$image.png" --grid 16x16 --kept "$kept" -o "$view"
  tokens=$(field tokens "$json")
  k=$(field kept "$json")
  us=$(field us_median "$json")
  awk -v label="$label" -v n="$tokens" -v k="$k" -v us="$us" -v bytes=$bytes_per_token 'BEGIN {
    printf "  %-16s %6d %6d %7.1f%% %9.1f %8.1f\n", label, n, k, 100 * k / n, us,
      (us > 0) ? (n + k) * bytes / (1000 * us) : 0 }'
  echo "<figure><img src='$image/patches-$name.svg' width='224' height='224' alt=''>" >>$out/index.html
  case $label in *spread*) ;; *)
    $tailcut inspect --tokens "$features/$image.npy" --cls-row 0 "$@" -o "$curve" >/dev/null
    echo "<img src='$image/curve-$name.svg' width='380' height='220' alt=''>" >>$out/index.html
    ;;
  esac
  echo "<figcaption>$label: $k of $tokens</figcaption></figure>" >>$out/index.html
  [ "$label" != otsu ] || otsu="$otsu $image $k"
}

mkdir -p $out
cat >$out/index.html <<'HTML'
<!doctype html>
<meta charset="utf-8"><title>tailcut demo</title>
<style>
body { font: 15px system-ui, sans-serif; margin: 2em; color: #1f2328 }
figure { display: inline-block; margin: 0 2em 1.5em 0 }
figcaption { color: #57606a }
</style>
<h1>What each detector keeps</h1>
<p>Patches of a 16x16 grid by their similarity to the CLS token; dropped ones are dimmed. Beside
them the sorted curve and its cut.</p>
HTML

otsu=
printf 'Encoder features of %d photographs, 256 patches each, cosine to CLS, fp16.\n' $#
printf 'time: score, cut and compaction of one image on one thread, median of %d;\n' $repeat
printf 'GB/s: of the tokens read and kept.\n'
for image in "$@"; do
  mkdir -p "$out/$image"
  echo "<h2>$image</h2>" >>$out/index.html
  printf '\n%s\n  %-16s %6s %6s %8s %9s %8s\n' "$image" detector tokens kept share "time us" GB/s
  for detector in otsu chord gap curvature iqr mean; do
    one "$image" $detector --detector $detector
  done
  one "$image" "mass 0.9" --detector mass --mass 0.9
  one "$image" "otsu spread 0.5" --detector otsu --spread 0.5
done

# The check: every image that METHOD.md's table has.
printf '\nOTSU against the table of the method (within 2):\n'
# shellcheck disable=SC2086 # lists
printf '%s %s\n' $otsu | awk -v expected="$expected" '
  BEGIN { n = split(expected, e, " "); for (i = 1; i < n; i += 2) want[e[i]] = e[i + 1] }
  $1 in want {
    off = $2 - want[$1]; good = off >= -2 && off <= 2; bad += !good
    printf "  %-10s %4d, expected %4d: %s\n", $1, $2, want[$1], good ? "ok" : "WRONG"
  }
  END { exit bad > 0 }' || {
  echo "demo.sh: OTSU does not keep what it must" >&2
  exit 1
}
printf '\nPictures: %s/index.html shows all; %s/IMAGE/patches-DETECTOR.svg and curve-DETECTOR.svg.\n' \
  $out $out
