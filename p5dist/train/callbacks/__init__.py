"""Callbacks of a training stage that belong to the driver or to a worker.

============ ============= ========================================================
file         runs in       does
============ ============= ========================================================
ray_train    workers       forwards events to the driver; reports checkpoints to Ray
profiler     first worker  traces some steps
terminal     driver        progress bar, log lines
errors_log   driver        errors.log
summary      driver        keeps facts about the workers for the result of the stage
============ ============= ========================================================

A callback that writes records which others read without training is in ``p5dist/observe``, beside
the reader of the records: metrics_log, gauges, ledger, tracking. ``p5dist/train/worker.py`` and
``p5dist/train/driver.py`` list the callbacks; events are in ``p5dist/observe/events.py``.
"""
