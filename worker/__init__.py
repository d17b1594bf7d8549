"""What runs on the GPU machine: Celery app, tasks, archives, leases, engines, scoring, training."""
