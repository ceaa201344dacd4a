"""A grid of runs on the same records: each in a folder of its own, resumable, and declared in the report of each.

from fedtrain.sweep import Grid, sweep

grid = Grid.of(read_toml(Path("my.toml")), ["privacy.epsilon=1,2,4,8", "training.learning_rate=0.1,0.5"])
finished = sweep(grid, "sweeps/first")
"""

from fedtrain.sweep.grid import Grid, Point
from fedtrain.sweep.running import Finished, sweep

__all__ = ["Finished", "Grid", "Point", "sweep"]
