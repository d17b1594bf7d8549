"""This machine: its GPU, its processes, its names. `gpu` finds the GPU, `health` reads how it is;
`gpu_lease` keeps training and scoring from using one GPU at once; `heartbeat` keeps the leases in
the database alive and notices those that were lost; `process` ties a child's life to its parent's;
`landlock` and `seccomp` are what a process gives up files and system calls by; `privacy` hashes
names and patients under the site's key, and keeps what the hashes stand for. Start at `gpu_lease`
and `heartbeat`, on which everything that works with a lease depends.
"""
