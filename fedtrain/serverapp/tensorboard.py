"""TensorBoard event files, for those who ask for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedtrain.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def open_board(folder: Path, *, enabled: bool, after: int) -> "Iterator[SummaryWriter | None]":
    """Open the event files of a run that continues after a round; ``None`` if they are not wanted.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if not enabled:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "output.tensorboard is set and TensorBoard is not installed: pip install 'fedtrain[tensorboard]'"
        ) from error
    # What was written beyond the checkpoint is written again.
    with SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1) as writer:
        yield writer
