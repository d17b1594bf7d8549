"""Alembic's entry: run migrations, views and grants on the engine of `db.base.migrate`."""

from __future__ import annotations

from alembic import context

from db.base import migrate, views
from db.base.schema import metadata

engine = context.config.attributes["engine"]

with engine.connect() as connection:
    # Two processes that upgrade at the same moment: the second waits, then finds it done.
    connection = connection.execution_options(pneumoq_write=True)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7663086)")
        # Views hold no data, so a migration never alters one: all go first, today's come last.
        views.drop(connection)
        context.run_migrations()
        if context.get_context().get_current_heads() == (context.get_head_revision(),):
            views.create(connection)
            migrate.state(connection)
