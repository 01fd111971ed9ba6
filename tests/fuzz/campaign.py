"""`python -m tests.fuzz.campaign --num 200000`: as many inputs as there is time for, with counts of what came of them.

Targets are named (`reader`, `adapter_config`, `manifest`, `prompt`, `weights`); none means all. The seed of each round is
printed where it fails; with `--seed` the same inputs come again. Memory stays the same: a round holds 1,000 inputs. The counts
go into tests/results.json, or the file given with `--results`; another `--seed` adds to them, at least `--num` / 1,000 further on.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from tests import results
from tests.fuzz.targets import TARGETS, Target, make_folder, remove_folder

ROUND = 1000


def run_round(target: Target, seed: int, num: int) -> Counter[str]:
    """Feed one target with `num` inputs; how often each outcome came. A fault is an exception."""
    outcomes: Counter[str] = Counter()
    folder = make_folder()

    @hypothesis.seed(seed)
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(target.inputs)
    def feed(content: bytes) -> None:
        outcomes[target.run(content, folder)] += 1

    try:
        feed()
    finally:
        remove_folder(folder)
    return outcomes


def campaign(target: Target, *, num: int, seed: int) -> Counter[str]:
    """Feed one target in rounds, telling how far it is."""
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    for number, done in enumerate(range(0, num, ROUND)):
        try:
            outcomes += run_round(target, seed + number, min(ROUND, num - done))
        except BaseException:
            print(f"{target.name}: fault in the round with --seed {seed + number}", flush=True)
            raise
        if number % 20 == 0:
            print(f"{target.name}: {outcomes.total()} inputs, {time.monotonic() - begun:.0f} s", flush=True)
    return outcomes


def main() -> None:
    """Feed, then print the counts and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[*(target.name for target in TARGETS), []])
    parser.add_argument("--num", type=int, default=2000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="where the counts go")
    given = parser.parse_args()
    for target in TARGETS:
        if not given.targets or target.name in given.targets:
            outcomes = campaign(target, num=given.num, seed=given.seed)
            print(f"{target.name}: {outcomes.total()} inputs, no fault")
            for outcome, times in outcomes.most_common():
                print(f"  {times:8d}  {outcome}")
            seeds = range(given.seed, given.seed + -(-given.num // ROUND))
            results.keep_campaign(target.name, outcomes, seeds=seeds, file=given.results)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
