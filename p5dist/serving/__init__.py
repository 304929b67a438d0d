"""A trained run over HTTP (``p5dist serve``), with Ray Serve and FastAPI: the extra ``serve``.

============= =================================================================
schema.py     requests and answers
model.py      a run that answers many requests at once; no Ray, no HTTP
limits.py     size of a request, requests a second, the token
app.py        the routes
batches.py    requests that come meanwhile are answered together
deploy.py     Ray Serve: replicas, a new run swapped in
============= =================================================================
"""
