"""The job file: one object for the library, the command line, cluster jobs and checkpoints.

Importing this package loads neither torch nor ray.
"""

from p5dist.config.load import dump_job, load_job, parse_job
from p5dist.config.run import RunConfig

__all__ = ["RunConfig", "dump_job", "load_job", "parse_job"]
