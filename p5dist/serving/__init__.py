"""A trained run over HTTP (``p5dist serve``), with Ray Serve and FastAPI: the extra ``serve``.

============= =======================================================================
schema.py     requests and answers
model.py      a run that answers many requests at once; no Ray, no HTTP
replies.py    status and JSON of an answer, and of everything that may be wrong
limits.py     size of a request, requests a second, the token
app.py        the routes
batches.py    requests that come meanwhile are answered together
front.py      between HTTP and the replicas: asks again if a replica dies
deploy.py     Ray Serve: replicas, a new run swapped in; HTTP in the command's own process
============= =======================================================================
"""
