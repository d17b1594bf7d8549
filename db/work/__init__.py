"""What moves jobs along: workers claim them, they end, people steer them, old ones are purged.

Start with `claims`: which job or shard a worker takes next. `endings` puts a job into its final
state and does what follows from it in the other folders (runs, watched files, drift, notices),
which is why this folder stands above them. `control` is pause, resume, cancel and retry; `purge`
removes what old jobs left. `totals` adds finished shards to the sums that views over years read.
"""
