#!/usr/bin/env bash
# Compares agents on all three worlds.
#
#   benchmarks/three_worlds.sh train [DIR]   trains the Stable-Baselines3 agents into DIR (runs/three_worlds)
#   benchmarks/three_worlds.sh bench [DIR]   plays; writes benchmarks/results/three_worlds
#
# The worlds are the ones nobody has to download anything for, with tasks held back from training.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=${1:?train or bench}
runs=${2:-runs/three_worlds}

household="opid/ALFWorld-v0 size=small task_types=[\"pick_and_place_simple\",\"look_at_obj_in_light\"] count=600 max_episode_steps=50"
shop="opid/WebShop-v0"
questions="opid/SearchQA-v0"

train() { # algorithm, name of the world, steps, world, split of the tests, further options
    opid-gym sb3 train --algo "$1" --steps "$3" --env "$4" --split train --eval-split "$5" --eval-episodes 60 \
        --evaluations 4 --out "$runs/$1/$2" "${@:6}"
}

case $stage in
train)
    # What is not offered says only what is known, or leads away from the one page that sells.
    no_detours=(--hidden 'click\[(search|back to search|next >|< prev|description|features|reviews)\]')
    train ppo ALFWorld 250000 "$household" valid_seen
    train ppo WebShop 150000 "$shop" eval "${no_detours[@]}"
    train ppo SearchQA 100000 "$questions" dev
    train recurrent-ppo ALFWorld 25000 "$household" valid_seen
    train recurrent-ppo WebShop 12000 "$shop" eval "${no_detours[@]}"
    train recurrent-ppo SearchQA 8000 "$questions" dev
    train dqn ALFWorld 15000 "$household" valid_seen
    train dqn WebShop 12000 "$shop" eval "${no_detours[@]}"
    train dqn SearchQA 8000 "$questions" dev
    ;;
bench)
    opid-gym bench \
        --agent random --agent first --agent expert \
        --agent "sb3:$runs/ppo/{env} label=sb3-ppo" \
        --agent "sb3:$runs/recurrent-ppo/{env} label=sb3-recurrent-ppo" \
        --agent "sb3:$runs/dqn/{env} label=sb3-dqn" \
        --env "$household split=valid_unseen label=ALFWorld" \
        --env "$shop split=test label=WebShop" \
        --env "$questions split=test label=SearchQA" \
        --episodes 50 --seeds 2 --workers 2 --out benchmarks/results/three_worlds --no-trajectories
    ;;
*)
    echo "train or bench, not $stage" >&2
    exit 2
    ;;
esac
