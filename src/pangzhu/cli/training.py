"""The verbs `plan` and `train`: what a run would do, and the run."""

import time

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.config import PlanConfig, TrainConfig


@verb(PlanConfig)
def plan(config: PlanConfig) -> Rendered:
    """Tell what `train` would do with the same options."""
    started = time.perf_counter()  # importing torch is part of a run
    from pangzhu.run_plan import plan_run

    return plan_run(config, started=started)


@verb(TrainConfig)
def train(config: TrainConfig) -> Rendered:
    """Fine-tune with LoRA; the same command again resumes."""
    from pangzhu import train as stage

    return stage.train(config)
