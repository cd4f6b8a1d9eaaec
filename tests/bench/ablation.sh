#!/bin/sh
# What each randomisation of synthetic patients is worth on real ones; see docs/synthetic.md.
#
#   tests/bench/ablation.sh OARLOCK OUT_DIR [STEPS] [PATIENTS] [SEED] [VARIANT...]
#
# Runs config/ablation.yaml once per variant: `all`, `none`, or the name of the one switch that is off (the default is all
# of them), from the repository's folder. Prints the validation DSC of each. Variants that are done are not run again.
set -eu
oarlock=$1
out=$2
steps=${3:-200}
patients=${4:-33}
seed=${5:-7}
[ $# -gt 5 ] && shift 5 || shift $#
switches="sizes fat pose open_mouth organ_shapes disease contrast scanner dental_metal devices field_of_view"
[ $# -gt 0 ] || set -- all none $switches
mkdir -p "$out/validation"
# Only so many patients, and none left over to measure once more at the end.
real=$(sed -n 's/^ *open_kbp_validation: *//p' config/ablation.yaml)
head -n $((patients + 1)) "$real/manifest.csv" >"$out/validation/manifest.csv"
for folder in "$real"/pt_*; do ln -sfn "$(cd "$folder" && pwd)" "$out/validation/$(basename "$folder")"; done
for variant in "$@"; do
    run="$out/$variant-$seed"
    case $variant in
    all) off="" ;;
    none) off=$(for switch in $switches; do printf '%s: false, ' "$switch"; done) ;;
    *) off="$variant: false" ;;
    esac
    sed -e "s|^output:.*|output: $run|" -e "s|^synthetic:.*|synthetic: {$off}|" -e "s|^seed:.*|seed: $seed|" \
        -e "s|^steps:.*|steps: $steps|" -e "s|validation_steps:.*|validation_steps: $steps|" \
        -e "s|validation_from_step:.*|validation_from_step: $steps|" \
        -e "s|open_kbp_validation:.*|open_kbp_validation: $out/validation|" config/ablation.yaml >"$run.yaml"
    if ! grep -qs "validation, mean DSC" "$run.log"; then
        rm -rf "$run"
        "$oarlock" train --config "$run.yaml" >"$run.log" 2>&1 || { tail -3 "$run.log" >&2; exit 1; }
    fi
    printf '%-14s seed %s  %s\n' "$variant" "$seed" "$(grep -m1 'validation, mean DSC' "$run.log")"
done
