"""Event files for TensorBoard, with the extra `tensorboard`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.train.report import StepInfo


class TensorBoardWriter:
    """Writes each step's numbers as scalars into a folder: an `on_step` callback. Steps behind `after_step`, of a run
    that was stopped, are no longer shown.
    """

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"files for TensorBoard need tensorboardX: {error}", hint="pip install 'llamakit[tensorboard]'",
                param="tensorboard",
            ) from None  # fmt: skip
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else None)

    def __call__(self, info: StepInfo) -> None:
        """Write a step."""
        values = {
            "train/loss": info.loss, "train/learning_rate": info.lr, "train/gradient_norm": info.grad_norm,
            "train/tokens_per_second": info.tokens_per_second, "train/epoch": info.epoch,
            "validation/loss": info.val_loss,
        }  # fmt: skip
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, info.step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
