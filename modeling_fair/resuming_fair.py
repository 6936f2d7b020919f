"""What a resumed training knows of the one that was stopped, beyond what Trainer restores."""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class ResumedTraining(TrainerCallback, ExportableState):
    """Counts the time of a training, that before its checkpoint included, and finds its best checkpoint where the
    output folder was moved: Trainer keeps that one's path as it was, and would end with the last weights.

    Args:
        seconds: what the training took before.
    """

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self._since: float | None = None

    def elapsed(self) -> float:
        """Seconds of training, parts before a resumption included; not those lost behind its checkpoint."""
        return self.seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def state(self) -> dict[str, Any]:
        return {"args": {"seconds": self.elapsed()}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = self.seconds if state.global_step else 0.0  # a model may be trained anew by the same trainer
        self._since = time.monotonic()
        # Trainer writes the states of those callbacks alone that the checkpoint had: one of an older version lacks it.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        if state.best_global_step and state.best_model_checkpoint is None:
            best = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds, self._since = self.elapsed(), None
