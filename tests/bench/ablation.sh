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
patients=${4:-12}
seed=${5:-7}
[ $# -gt 5 ] && shift 5 || shift $#
switches="sizes fat pose open_mouth organ_shapes disease contrast scanner dental_metal devices field_of_view"
[ $# -gt 0 ] || set -- all none $switches
mkdir -p "$out"
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
        -e "s|validation_patients:.*|validation_patients: $patients|" config/ablation.yaml >"$run.yaml"
    if ! grep -qs "validation DSC" "$run.log"; then
        rm -rf "$run"
        "$oarlock" train --config "$run.yaml" >"$run.log" 2>&1 || { tail -3 "$run.log" >&2; exit 1; }
    fi
    printf '%-14s seed %s  %s\n' "$variant" "$seed" "$(grep -m1 'validation DSC' "$run.log")"
done
