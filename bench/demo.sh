#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# demo.sh COMMAND [IMAGE...]: prunes the features of photographs with every detector: a table for
# each image, and pictures in build/demo (index.html shows them all). IMAGE is a name in
# bench/features, or a picture whose features ./run features has made (build/features). Exit status
# 1 where OTSU does not keep what it must.
# demo.sh --check [IMAGE...]: says what the images still need, and does nothing.
set -eu
tailcut=$1
shift
features=bench/features
own=build/features
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

# resolve IMAGE: sets base (its features and picture without .npy and .png) and name (on the page).
# Names that make_features.py gives to pictures have no other characters.
resolve() {
  base=$features/$1
  name=$1
  case $1 in */* | *.*) ;; *) [ ! -f "$base.npy" ] || return 0 ;; esac
  name=${1##*/}
  case $name in ?*.*) name=${name%.*} ;; esac
  name=$(printf '%s' "$name" | tr -cs 'A-Za-z0-9_.\n-' '[-*]')
  base=$own/$name
  if [ -f "$base.npy" ] && [ -z "$(find "$1" -newer "$base.npy" 2>/dev/null)" ]; then
    name=my-$name
  elif [ -f "$1" ]; then
    echo "demo.sh: $1 needs an encoder's features. This makes them (it says its size first):" >&2
    printf '\n  ./run features %s\n\n' "'$1'" >&2
    return 1
  else
    echo "demo.sh: no picture $1, and no image of that name; there are:" \
      "$(cd $features && echo *.npy | sed 's/\.npy//g')" >&2
    return 1
  fi
}
for image in "$@"; do resolve "$image" || exit 2; done
[ "$tailcut" != --check ] || exit 0

# What is compared side by side: one share kept by cosine, with spread, and by novelty, merged.
compared="coffee china"
share=0.22

# field NAME JSON: a number of a flat JSON object.
field() { printf '%s' "$2" | sed -n "s/.*\"$1\": *\([0-9.eE+-]*\).*/\1/p"; }

# one LABEL OPTIONS...: a row of the table, two pictures, their place on the page.
one() {
  label=$1
  shift
  rule=$(printf '%s' "$label" | tr ' ' '-')
  kept=$out/$name/$rule.npy
  json=$($tailcut prune --tokens "$base.npy" --cls-row 0 "$@" --kept "$kept" \
    --threads 1 --repeat $repeat --json)
  $tailcut view --image "$picture" --grid 16x16 --kept "$kept" -o "$out/$name/patches-$rule.svg"
  $tailcut inspect --tokens "$base.npy" --cls-row 0 "$@" -o "$out/$name/curve-$rule.svg" \
    >"$out/$name/curve-$rule.txt"
  tokens=$(field tokens "$json")
  k=$(field kept "$json")
  us=$(field us_median "$json")
  awk -v label="$label" -v n="$tokens" -v k="$k" -v us="$us" -v bytes=$bytes_per_token 'BEGIN {
    printf "  %-16s %6d %6d %7.1f%% %9.1f %8.1f\n", label, n, k, 100 * k / n, us,
      (us > 0) ? (n + k) * bytes / (1000 * us) : 0 }'
  cat >>$out/index.html <<HTML
<figure><img src="$name/patches-$rule.svg" width="224" height="224" alt="">
<img src="$name/curve-$rule.svg" width="410" height="224" alt="">
<figcaption>$label: $k of $tokens</figcaption></figure>
HTML
  case $label:$base in otsu:$features/*) otsu="$otsu $name $k" ;; esac
}

# merged: the comparison for the image at hand, with what its dropped patches joined.
merged() {
  printf '  %s of the tokens, what is dropped merged into them (kept, time us):\n' $share
  printf '<h3>%s kept by cosine, with spread, by novelty; what is dropped, merged</h3>\n' $share >>$out/index.html
  for rule in cosine spread novelty; do
    case $rule in
      cosine) words="--cls-row 0" ;;
      spread) words="--cls-row 0 --spread 0.5" ;;
      novelty) words="--novelty 64 --prefix 1" ;;
    esac
    files=$out/$name/merged-$rule
    # shellcheck disable=SC2086 # words
    json=$($tailcut prune --tokens "$base.npy" $words --ratio $share --merge cos4 --kept "$files.npy" \
      --joins "$files-joins.npy" --sizes "$files-sizes.npy" --threads 1 --repeat $repeat --json)
    $tailcut view --image "$picture" --grid 16x16 --kept "$files.npy" --joins "$files-joins.npy" -o "$files.svg"
    k=$(field kept "$json")
    printf '  %-16s %6s %6d %8s %9.1f\n' "$rule" "" "$k" "" "$(field us_median "$json")"
    cat >>$out/index.html <<HTML
<figure><img src="$name/merged-$rule.svg" width="320" height="320" alt=""><figcaption>$rule: $k</figcaption></figure>
HTML
  done
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
them the sorted curve and its cut; dots are what a spread keeps of the tail.</p>
HTML

otsu=
printf 'Encoder features of %d photographs, 256 patches each, cosine to CLS, fp16.\n' $#
printf 'time: score, cut and compaction of one image on one thread, median of %d;\n' $repeat
printf 'GB/s: of the tokens read and kept.\n'
for image in "$@"; do
  resolve "$image"
  picture=$base.png
  [ -f "$picture" ] || picture=$base.jpg
  mkdir -p "$out/$name"
  echo "<h2>$name</h2>" >>$out/index.html
  printf '\n%s\n  %-16s %6s %6s %8s %9s %8s\n' "$name" detector tokens kept share "time us" GB/s
  for detector in otsu chord gap curvature iqr mean; do
    one $detector --detector $detector
  done
  one "mass 0.9" --detector mass --mass 0.9
  one "otsu spread 0.5" --detector otsu --spread 0.5
  case " $compared " in *" $image "*) merged ;; esac
done

# The check: every image that METHOD.md's table has.
[ -z "$otsu" ] || printf '\nOTSU against the table of the method (within 2):\n'
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
