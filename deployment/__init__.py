"""Using a run: load its weights, predict, sample pairs, and export it as a folder of its own."""

from deployment.loaded_run import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]
