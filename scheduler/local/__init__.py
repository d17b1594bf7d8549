"""Broker, workers and beat as processes of this machine: `stack` starts them for `up`, `demo`
and `--local`, and ends what it started.
"""
