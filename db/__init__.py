"""What is kept: schema, migrations, jobs and leases, results, models, and the views to query."""
