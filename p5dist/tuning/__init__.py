"""``p5dist tune``: settings are searched; every trial is a run of its own.

::

    space.py     the settings that are searched: pretrain.tables.lr=loguniform(0.01,0.3)
    trials.py    the run of a trial, and what its validations say
    search.py    Ray Tune starts trials and stops poor ones early (ASHA)
    show.py      table and picture
"""
