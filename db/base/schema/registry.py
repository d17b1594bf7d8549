"""Tables of models: what they were trained on, how they did, and which is in use."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, ForeignKey, Index, Table, UniqueConstraint

from db.base.columns import column as _c
from db.base.columns import metadata
from db.base.schema.pieces import one_of
from db.base.types import BigId, Json, UtcDateTime

datasets = Table(
    "datasets", metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("hash", sa.String(64), "SHA-256 of the manifest: same films, labels and split, same hash."),
    _c("root", sa.Text, "Folder it was read from."),
    _c("n_train", sa.Integer, "Films trained on."),
    _c("n_val", sa.Integer, "Films validated on."),
    _c("n_patients", sa.Integer, "Patients in both."),
    _c("classes", Json, "Films per class name."),
    _c("notes", Json, "Sentences about how it was read."),
    _c("manifest", sa.LargeBinary, "zlib of a CSV: path, sha256, label, patient, split."),
    _c("created_at", UtcDateTime, "First seen."),
    UniqueConstraint("hash"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="A labelled folder as it was when a training job read it.",
)  # fmt: skip

models = Table(
    "models", metadata,
    _c("id", BigId, "Number, as in `pneumoq models show 3`.", primary_key=True),
    _c("name", sa.String(128), "A name for people."),
    _c("state", sa.String(16), "candidate (usable) or retired (file may be pruned)."),
    _c("origin", sa.String(16), "trained or imported."),
    _c("arch", sa.String(32), "Network architecture."),
    _c("positive", sa.Text, "Class whose probability predictions.probability is."),
    _c("size", sa.Integer, "S: films are S × S pixels."),
    _c("film_rule", sa.String(64), "Versioned rule that makes its pixels."),
    _c("temperature", sa.Float, "Calibration temperature inside the file."),
    _c("threshold", sa.Float, "Operating point: P(positive) at or above is called positive."),
    _c("threshold_rule", sa.Text, "How the operating point was chosen."),
    _c("ood_threshold", sa.Float, "ood above this is unusual.", nullable=True),
    _c("metrics", Json, "Validation metrics by name."),
    _c("card", Json, "The metadata inside the model file, whole."),
    _c("reference", Json,
       "What drift is measured against (`of`, `n`, `histogram`, `unusual`), and what every engine "
       "must say of drawn films (`golden`).", nullable=True),
    _c("dataset_id", BigId, "Trained on.", ForeignKey("datasets.id"), nullable=True),
    _c("job_id", sa.BigInteger, "Trained by (jobs.id).", nullable=True),
    _c("parent_id", BigId, "Weights it started from, where those were a model here.",
       ForeignKey("models.id"), nullable=True),
    _c("created_at", UtcDateTime, "Registered."),
    _c("calibrated_on", sa.Text,
       "Labelled films that its temperature and operating point were chosen on anew, the weights "
       "being those of parent_id; NULL where it was trained or imported.", nullable=True),
    _c("calibration_films", sa.Integer, "How many films those were.", nullable=True),
    _c("calibration_patients", sa.Integer, "Of how many patients.", nullable=True),
    UniqueConstraint("name"),
    CheckConstraint(one_of("state", ("candidate", "retired")), name="state"),
    CheckConstraint(one_of("origin", ("trained", "imported")), name="origin"),
    sqlite_autoincrement=True,  # a removed row's number is never given again
    comment="A registered model. Which one is in use is told by aliases.",
)  # fmt: skip

model_labels = Table(
    "model_labels", metadata,
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), primary_key=True),
    _c("label_no", sa.SmallInteger, "Column of the network's scores.", primary_key=True,
       autoincrement=False),
    _c("name", sa.Text, "Class name."),
    comment="Class names of a model.",
)  # fmt: skip

model_looks = Table(
    "model_looks", metadata,
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), primary_key=True),
    _c("look_no", sa.SmallInteger, "Column of the network's look.", primary_key=True,
       autoincrement=False),
    _c("what", sa.Text, "How the films are alike, as in: films with …"),
    _c("label", sa.Text, "Class that training saw nearly all of them with."),
    _c("films", Json, "Training films of the group per class name."),
    _c("patients", sa.Integer, "Patients of these."),
    comment="Groups of a model's training films that look acquired alike and are of one class.",
)  # fmt: skip

model_files = Table(
    "model_files", metadata,
    _c("sha256", sa.String(64), "SHA-256 of the file's bytes.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("precision", sa.String(8), "fp32, fp16 or int8: the precision inside this file."),
    _c("size_bytes", sa.BigInteger, "Length."),
    _c("created_at", UtcDateTime, "Registered."),
    UniqueConstraint("model_id", "precision"),
    comment="The ONNX files of a model, one per precision, addressed by content.",
)  # fmt: skip

model_chunks = Table(
    "model_chunks",
    metadata,
    _c("sha256", sa.String(64), "File.", ForeignKey("model_files.sha256"), primary_key=True),
    _c("chunk_no", sa.Integer, "Place in the file, from 0.", primary_key=True, autoincrement=False),
    _c("data", sa.LargeBinary, "Bytes."),
    comment="The bytes of model files: how a model reaches another machine.",
)

engines = Table(
    "engines",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("sha256", sa.String(64), "Model file it was built from.", ForeignKey("model_files.sha256")),
    _c("backend", sa.String(32), "openvino, onnxruntime, tensorrt or tensorrt_rtx."),
    _c("backend_version", sa.String(64), "Version of that."),
    _c("device", sa.Text, "Processor or GPU it was built for."),
    _c("precision", sa.String(8), "Precision that it computes in."),
    _c("options", Json, "Build options."),
    _c("parity_delta", sa.Float, "Largest |Δ probability| against the reference.", nullable=True),
    _c("passed", sa.Boolean, "Whether it passed the parity gate."),
    _c("created_at", UtcDateTime, "Built."),
    _c("worker_id", sa.String(64), "Built by.", nullable=True),
    UniqueConstraint("sha256", "backend", "backend_version", "device", "precision"),
    comment="Engines that were built from model files, and whether they agree with the reference.",
)

rates = Table(
    "rates",
    metadata,
    _c("model_id", BigId, "Model.", ForeignKey("models.id"), primary_key=True, autoincrement=False),
    _c("kind", sa.String(200), "What computes: engine, version, device.", primary_key=True),
    _c("precision", sa.String(8), "Precision that it computes in.", primary_key=True),
    _c("batch", sa.Integer, "Films in every batch."),
    _c("films_per_s", sa.Double, "Films per second of the engine alone: median of the rounds."),
    _c(
        "ratio",
        sa.Double,
        "Its films/s to those of the precision that was chosen then: median of the rounds' ratios, "
        "measured in turns. NULL: it was that one.",
        nullable=True,
    ),
    _c("ratio_low", sa.Double, "Low end of that median's 95 % interval.", nullable=True),
    _c("ratio_high", sa.Double, "High end.", nullable=True),
    _c("rounds", sa.Integer, "Rounds measured."),
    _c("chosen", sa.Boolean, "Whether `auto` is this one for workers of this kind."),
    _c("measured_at", UtcDateTime, "When."),
    _c("measured_by", sa.Text, "User or worker."),
    comment="How fast a model is per kind of worker and precision, and which one `auto` is there.",
)

aliases = Table(
    "aliases",
    metadata,
    _c("name", sa.String(64), "champion, or a name of yours.", primary_key=True),
    _c("model_id", BigId, "Model it stands for now.", ForeignKey("models.id")),
    _c("moved_at", UtcDateTime, "Last moved."),
    _c("moved_by", sa.Text, "Who moved it."),
    _c("reason", sa.Text, "Why."),
    comment="Names that stand for a model. Jobs resolve theirs once, when they are submitted.",
)

promotions = Table(
    "promotions",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("alias", sa.String(64), "Name that was moved."),
    _c("model_id", BigId, "Model it stands for since.", ForeignKey("models.id")),
    _c("previous_id", BigId, "Model it stood for before.", ForeignKey("models.id"), nullable=True),
    _c("how", sa.String(16), "first, promote or rollback."),
    _c("run_id", BigId, "Run of a schedule that decided it.", ForeignKey("runs.id"), nullable=True),
    _c("at", UtcDateTime, "When."),
    _c("who", sa.Text, "User or worker."),
    _c("reason", sa.Text, "Why."),
    _c(
        "anchor",
        sa.Boolean,
        "Whether nights compare with this model from then on, as with one that a person chose. "
        "NULL, of older releases: they do where no run decided it.",
        nullable=True,
    ),
    Index(None, "alias", "id"),
    CheckConstraint(one_of("how", ("first", "promote", "rollback")), name="how"),
    comment="Every move of an alias: what `models rollback` goes back by. Rows are only added.",
)

model_events = Table(
    "model_events",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("at", UtcDateTime, "When."),
    _c("who", sa.Text, "User or worker."),
    _c("event", sa.String(32), "registered, promoted, replaced, retired."),
    _c("detail", sa.Text, "Why, in a sentence."),
    comment="What happened to models. Rows are only ever added.",
)

drift = Table(
    "drift", metadata,
    _c("job_id", BigId, "Scoring job.", ForeignKey("jobs.id"), primary_key=True,
       autoincrement=False),
    _c("model_id", BigId, "Its model.", ForeignKey("models.id")),
    _c("reference", sa.Text, "What it is compared with: validation, or `job 7`."),
    _c("n", sa.Integer, "Predictions of the job."),
    _c("reference_n", sa.Integer, "Films of the reference."),
    _c("psi", sa.Double, "Population stability index over twentieths of probability."),
    _c("psi_limit", sa.Double, "What chance alone exceeds once in 1000 at these numbers."),
    _c("ks", sa.Double, "Kolmogorov-Smirnov distance, 0 to 1, over the same twentieths."),
    _c("ks_p", sa.Double, "Its p-value, 0 to 1."),
    _c("unusual", sa.Integer, "Predictions that are unlike the training films."),
    _c("reference_unusual", sa.Integer, "Films of the reference that are.", nullable=True),
    _c("unusual_p", sa.Double, "p-value of the two rates being equal.", nullable=True),
    _c("warned", sa.Boolean, "Whether it is beyond what chance and habit explain."),
    _c("detail", sa.Text, "In a sentence."),
    _c("measured_at", UtcDateTime, "When the job ended."),
    comment="A scoring job's scores against its model's reference.",
)  # fmt: skip

#: Figures of an epoch beside loss, accuracy and AUROC, at 0.5: name → meaning.
MEASURES = {
    "auprc": "Average precision, 0 to 1.",
    "sensitivity": "0 to 1.",
    "specificity": "0 to 1.",
    "ppv": "Share of positive calls that are right, 0 to 1.",
    "npv": "Share of negative calls that are right, 0 to 1.",
    "ece": "Expected calibration error, 0 to 1.",
    "true_positive": "Films.",
    "false_positive": "Films.",
    "true_negative": "Films.",
    "false_negative": "Films.",
}

#: Of these validation has a 95 % confidence interval.
_UNSURE = ("auroc", "accuracy", "auprc", "sensitivity", "specificity", "ppv", "npv")

INTERVALS = {
    f"{name}_{end}": f"{end.capitalize()} end of its 95 % confidence interval."
    for name in _UNSURE
    for end in ("low", "high")
}

#: Column → meaning. Empty where the films do not allow a figure, and in epochs of old.
EPOCH_MEASURES = {
    **{f"train_{name}": f"{meaning} On augmented films." for name, meaning in MEASURES.items()},
    **{f"val_{name}": meaning for name, meaning in {**MEASURES, **INTERVALS}.items()},
}

epochs = Table(
    "epochs",
    metadata,
    _c("job_id", BigId, "Training job.", ForeignKey("jobs.id"), primary_key=True),
    _c("epoch", sa.Integer, "From 1.", primary_key=True, autoincrement=False),
    _c("train_loss", sa.Float, "Mean loss over the epoch, as optimised."),
    _c("train_accuracy", sa.Float, "0 to 1, on augmented films."),
    _c("train_auroc", sa.Float, "0 to 1, on augmented films."),
    _c("val_loss", sa.Float, "Mean cross-entropy on validation."),
    _c("val_accuracy", sa.Float, "0 to 1."),
    _c("val_auroc", sa.Float, "0 to 1."),
    _c("learning_rate", sa.Float, "At the end of the epoch."),
    _c("seconds", sa.Float, "Training and validation."),
    _c("films_per_s", sa.Float, "Training films per second, validation not counted."),
    _c("best", sa.Boolean, "Whether it was the best so far when it ended."),
    _c("finished_at", UtcDateTime, "When it ended."),
    *(_c(name, sa.Float, meaning, nullable=True) for name, meaning in EPOCH_MEASURES.items()),
    _c(
        "shift_auroc",
        sa.Float,
        "Least AUROC of validation films dressed as others look, 0 to 1. NULL: none were dressed.",
        nullable=True,
    ),
    comment="One pass over the training films, and what validation said after it.",
)

evaluations = Table(
    "evaluations",
    metadata,
    _c("id", BigId, "Number.", primary_key=True),
    _c("model_id", BigId, "Model.", ForeignKey("models.id")),
    _c("dataset_id", BigId, "Labelled films.", ForeignKey("datasets.id"), nullable=True),
    _c("job_id", BigId, "Job that measured it.", ForeignKey("jobs.id"), nullable=True),
    _c("split", sa.String(64), "validation, test, a slice's name, or `labels of job 7`."),
    _c("n_films", sa.Integer, "Films."),
    _c("metrics", Json, "auroc, accuracy, sensitivity, specificity, ... by name."),
    _c("created_at", UtcDateTime, "Measured."),
    _c(
        "shift",
        Json,
        "What is left where these films are dressed as others look: "
        "docs/reference/model-file.md. NULL: not measured.",
        nullable=True,
    ),
    _c("shift_worst", sa.Text, "Of these dressings the one that costs most AUROC.", nullable=True),
    _c("shift_worst_auroc", sa.Float, "AUROC there.", nullable=True),
    Index(None, "model_id"),
    comment="How a model did on labelled films.",
)
