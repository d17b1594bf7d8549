"""Tables of films: what came of each item of a scoring job, and what knows of it."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, Table

from db.base.columns import column as _c
from db.base.columns import metadata
from db.base.schema.pieces import BY_JOB, item, outcome
from db.base.types import BigId, Json, UtcDateTime

predictions = Table(
    "predictions", metadata,
    *item(
        *outcome(),
        _c("model_id", sa.Integer, "models.id."),
        _c("label_no", sa.SmallInteger, "model_labels.label_no, by the operating threshold."),
        _c("probability", sa.Double, "P(positive class), 0 to 1, calibrated. Always that class."),
        _c("scores", Json, "All classes' probabilities, where there are more than two.",
           nullable=True),
        _c("ood", sa.Double, "Distance from the training films; about 1 is typical.",
           nullable=True),
        _c("reused_from_job", sa.BigInteger, "Answered from this job's row.", nullable=True),
        _c("reused_from_item", sa.Integer, "Answered from this item's row.", nullable=True),
        _c("look", sa.SmallInteger,
           "Group that it looks acquired like (model_looks.look_no). NULL: none, or not known.",
           nullable=True),
    ),
    CheckConstraint("probability >= 0 AND probability <= 1", name="probability"),
    comment="A film that was scored.",
    **BY_JOB,
)  # fmt: skip

cams = Table(
    "cams",
    metadata,
    *item(
        _c("height", sa.SmallInteger, "Rows of the map."),
        _c("width", sa.SmallInteger, "Columns of the map."),
        _c("low", sa.Float, "Logit that byte 0 stands for."),
        _c("high", sa.Float, "Logit that byte 255 stands for."),
        _c("data", sa.LargeBinary, "height × width bytes, row by row, linear from low to high."),
    ),
    comment="Class-activation map of the positive class: where in the film the evidence is.",
    **BY_JOB,
)

refusals = Table(
    "refusals",
    metadata,
    *item(
        *outcome(),
        _c("code", sa.String(32), "Stable short word."),
        _c("detail", sa.Text, "What was found, in a sentence."),
    ),
    comment="An intact item that is not a film to be scored.",
    **BY_JOB,
)

item_errors = Table(
    "item_errors",
    metadata,
    *item(
        *outcome(),
        _c("code", sa.String(32), "Stable short word."),
        _c("detail", sa.Text, "What was found, in a sentence."),
    ),
    comment="A broken item.",
    **BY_JOB,
)

labels = Table(
    "labels",
    metadata,
    *item(
        _c("label", sa.Text, "True class name."),
        _c("imported_at", UtcDateTime, "When it was brought in."),
        _c("imported_by", sa.Text, "Who brought it in."),
    ),
    comment="Ground truth brought in after scoring.",
    **BY_JOB,
)

identities = Table(
    "identities",
    metadata,
    *item(
        _c("patient", sa.String(32), "Keyed hash of the patient's identifier.", nullable=True),
        _c("study", sa.String(32), "Keyed hash of the study's identifier.", nullable=True),
        _c("accession", sa.String(32), "Keyed hash of the accession number.", nullable=True),
    ),
    comment="Whose film a DICOM item is, as keyed hashes: results roll up per study.",
    **BY_JOB,
)

# The content comes last in the key, so that one model's films are found without a scan.
films = Table(
    "films",
    metadata,
    _c("model_id", sa.BigInteger, "Model that scored it.", primary_key=True, autoincrement=False),
    _c("precision", sa.String(8), "Precision it was scored in.", primary_key=True),
    _c(
        "content",
        sa.LargeBinary(16),
        "Hash of the film's bytes: which one, `site` says.",
        primary_key=True,
    ),
    _c("job_id", sa.BigInteger, "Job that holds the prediction."),
    _c("item_no", sa.Integer, "Item that holds the prediction."),
    _c(
        "overridden",
        sa.Text,
        "Refusals that it needed to be overridden: codes, comma-separated, or empty. NULL: not "
        "known, but none that its job does not override.",
        nullable=True,
    ),
    _c("reader", sa.SmallInteger, "Version of what read it; NULL is 1.", nullable=True),
    comment="Content that was scored before, so that it can be answered without scoring.",
    sqlite_with_rowid=False,
)

rollups = Table(
    "rollups", metadata,
    _c("job_id", BigId, "Job.", ForeignKey("jobs.id"), primary_key=True),
    _c("shard_no", sa.Integer, "Shard.", primary_key=True, autoincrement=False),
    _c("bucket", sa.SmallInteger,
       "Probability in twentieths: 0 is [0, 0.05), 19 is [0.95, 1].", primary_key=True,
       autoincrement=False),
    _c("label_no", sa.SmallInteger, "Label given.", primary_key=True, autoincrement=False),
    _c("n", sa.Integer, "Predictions."),
    comment="Histogram of scores per shard, so that sums over millions of rows stay instant.",
)  # fmt: skip

pages = Table(
    "pages",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("kind", sa.String(16),
       "report, review, export, folder (of films) or labels (a CSV that was read)."),
    _c("path", sa.Text, "Absolute path it was written to."),
    _c("job_id", sa.BigInteger, "Job that it is of (jobs.id).", nullable=True),
    _c("model_id", sa.BigInteger, "Model that it is of (models.id).", nullable=True),
    _c("run_id", sa.BigInteger, "Night it is of (runs.id).", nullable=True),
    _c("n_films", sa.Integer, "Films in it that page_films names; NULL: all of its job.",
       nullable=True),
    _c("written_by", sa.Text, "User and host."),
    _c("written_at", UtcDateTime, "When it was written."),
    Index(None, "job_id"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="Files and folders with films, or names of films, that were written for a person.",
)  # fmt: skip

page_films = Table(
    "page_films",
    metadata,
    _c("page_id", BigId, "Page.", ForeignKey("pages.id"), primary_key=True, autoincrement=False),
    _c("job_id", sa.BigInteger, "Scoring job.", primary_key=True, autoincrement=False),
    _c("item_no", sa.Integer, "Item of it.", primary_key=True, autoincrement=False),
    Index(None, "job_id", "item_no"),
    comment="Which films are in a page, so that an erasure can name it.",
)
