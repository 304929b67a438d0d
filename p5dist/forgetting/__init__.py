"""``p5dist forget``: people leave the runs of a job.

::

    runs.py      the runs that have their data: of all seeds, trials and periods of a job
    people.py    who they are: external and internal ids
    prepared.py  shards and the manifest
    described.py vocabularies, tables about users, rejected rows
    results.py   lists, targets, user rows in checkpoints, the page
    models.py    what a trained model has seen of them, and how to be rid of it
    forget.py    all of it in order, the record, and a search for what is left
"""
