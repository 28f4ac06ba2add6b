"""The background process that runs methods: `client` (Slicer, CLI) on one side of two pipes, `server` on the other.

client.py, jobs.py, protocol.py, transfer.py, processes.py: Python 3.9, standard library and numpy, for Slicer's side.
local.py drives a client without Slicer. server.py, execution.py, checks.py run in the worker's own environment.
"""
