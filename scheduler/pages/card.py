"""The model card: what is known of a model under the headings of CHAI, and where CLAIM asks for it.

CHAI's Applied Model Card (Coalition for Health AI, 2024) and the checklist CLAIM 2024 (Tejani and
others, Radiology: Artificial Intelligence 2024, e240300) ask for more than a program can know: what
only the site can say is said to be so, and not made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import datasets
from scheduler.pages import html
from scheduler.pages.html import Content, el
from scheduler.pages.judged import NAMES
from scheduler.show import output
from trainer.judging import figures

#: What only people can say.
SITE = "Not known to PneumoQ: the site must say."


def of(engine: sa.Engine, row: sa.RowMapping, evaluations: Sequence[sa.RowMapping]) -> Content:
    """The card of a model's row."""
    card: Mapping[str, Any] = row["card"] or {}
    made: Mapping[str, Any] = card.get("provenance") or {}
    data = None
    if row["dataset_id"] is not None:
        with database.reading(engine) as connection:
            data = (
                connection.execute(
                    sa.select(
                        datasets.c.hash,
                        datasets.c.n_train,
                        datasets.c.n_val,
                        datasets.c.n_patients,
                        datasets.c.classes,
                        datasets.c.notes,
                    ).where(datasets.c.id == row["dataset_id"])
                )
                .mappings()
                .first()
            )
    sections = _chai(row, card, made, data, evaluations)
    return [
        html.note(
            "Headings of the Applied Model Card of the Coalition for Health AI (CHAI). Nothing "
            "here was written by hand; what only the site can say is marked."
        ),
        *(
            [el("h3", heading), html.facts([(name, _said(value)) for name, value in entries])]
            for heading, entries in sections.items()
        ),
        _claim(row, data, evaluations),
    ]


def _said(value: Content) -> Content:
    if value == SITE:
        return el("em", SITE)
    return html.prose(value) if type(value) is str else value


def _chai(
    row: sa.RowMapping,
    card: Mapping[str, Any],
    made: Mapping[str, Any],
    data: Mapping[Any, Any] | None,
    evaluations: Sequence[sa.RowMapping],
) -> dict[str, list[tuple[str, Content]]]:
    options = made.get("options") or {}
    found = row["metrics"] or {}
    classes = ", ".join(map(str, card.get("labels") or ()))
    counts = (
        "" if data is None else ", ".join(f"{n:,} {name}" for name, n in data["classes"].items())
    )

    def metric(*names: str) -> str:
        parts = []
        for name in names:
            if found.get(name) is not None:
                part = f"{NAMES.get(name, 'expected calibration error')} {found[name]:.3f}"
                if found.get(f"{name}_low") is not None:
                    part += f" ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"
                parts.append(part)
        return ", ".join(parts) or "not measured"

    patients = {
        "known": "known; films to learn from and films to choose by have no patient in common",
        "folders": "taken from folders, of which each is taken for a patient's",
        "unknown": "unknown: figures may be too good, intervals too narrow",
    }.get(str(card.get("patients") or ""), "not said")
    return {
        "Release": [
            ("Name", str(row["name"])),
            ("Release", output.when(row["created_at"])),
            ("Stage", f"{row['state']}; research software, cleared by no authority"),
            ("Developer", SITE),
            ("Contact", SITE),
        ],
        "Summary and uses": [
            ("Summary", f"Tells {classes or 'classes'} apart on frontal chest films, and gives the "
             f"probability of {row['positive']}."),
            ("Intended use", "Research: sorting and studying archives of films."),
            ("Intended users", "Research engineers and readers who work with them."),
            ("Patient population", SITE),
            ("Out of scope", "Decisions about patients; lateral views, other body parts and other "
             "modalities, most of which are refused or flagged as unusual."),
        ],
        "Warnings": [
            ("Known risks", "A network may learn how films were acquired in place of the disease: "
             "see the section on films that look acquired otherwise."),
            ("Unusual films", "Where the distance is beyond "
             f"{row['ood_threshold']:.3g} the label means nothing."
             if row["ood_threshold"] is not None
             else "It cannot tell unusual films."),
            ("Known biases", SITE),
            ("Clinical risk level", SITE),
        ],
        "Trust: what it is": [
            ("Output", f"P({row['positive']}), a class by the operating point "
             f"{row['threshold']:.4f} ({row['threshold_rule']}), a map of the evidence"),
            ("Model type", f"{row['arch']}, {row['size']} × {row['size']} pixels by film rule "
             f"{row['film_rule']}, temperature {row['temperature']:.3f}"),
            ("Foundation", str((made.get("init") or {}).get("name", "not said"))
             if isinstance(made.get("init"), Mapping) else "not said"),
            ("Trained with", ", ".join(
                f"{name} {options[name]}" for name in ("epochs", "batch_size", "lr", "optimizer",
                                                       "augment", "seed") if name in options)),
            ("Versions", ", ".join(f"{k} {v}" for k, v in (made.get("versions") or {}).items())),
        ],
        "Trust: data": [
            ("Development data", "not known" if data is None else
             f"{data['n_train']:,} films to learn from, {data['n_val']:,} to choose by, of "
             f"{data['n_patients']:,} patients ({counts})"),
            ("Whose films", patients),
            ("Dataset", "" if data is None else str(data["hash"])),
            ("Notes", "" if data is None else el("ul", [el("li", n) for n in data["notes"][:30]],
                                                 class_="plain")),
            ("Origin of the films", SITE),
            ("Reference standard", SITE),
            ("Ethical review", SITE),
        ],
        "Trust: upkeep": [
            ("Maintenance", "Retrained where a schedule says so; each new model is compared with "
             "the champion on frozen films before it replaces it."),
            ("Monitoring", "Drift of each job's scores against the model's reference."),
            ("Security", "See SECURITY.md and `docs/concepts/patient-data.md` of PneumoQ."),
        ],
        "Key metrics": [
            ("Usefulness", metric("auroc", "auprc", "accuracy")),
            ("Operating point", metric("sensitivity", "specificity", "ppv", "npv")),
            ("Calibration", metric("ece")),
            ("Of films that", str(card.get("basis") or "chose epoch, temperature and threshold")
             if found else ""),
            ("Evaluations", f"{len(evaluations)} kept, shown above"),
            ("Fairness and equity", SITE),
            ("Safety and reliability", SITE),
        ],
    }  # fmt: skip


def _claim(
    row: sa.RowMapping, data: Mapping[Any, Any] | None, evaluations: Sequence[sa.RowMapping]
) -> Content:
    """Where on this page, or by whom, CLAIM's parts are answered."""
    divided = {
        "known": "divided by patient",
        "folders": "divided by folder, each taken for a patient's",
        "unknown": "divided film by film, as patients are not known",
    }.get(str((row["card"] or {}).get("patients") or ""), "divided; whether by patient is not said")
    split = (
        f"{data['n_train']:,} films to learn from and {data['n_val']:,} to choose by, {divided}"
        if data is not None
        else "not known: the model was imported"
    )
    answers = [
        ("Title, abstract, introduction", SITE),
        ("Study design", SITE),
        ("Data: sources, eligibility, de-identification", SITE),
        (
            "Data: pre-processing",
            f"film rule {row['film_rule']}, {row['size']} × {row['size']} pixels",
        ),
        ("Reference standard", SITE),
        ("Data partitions", split),
        ("Testing data", _tested(evaluations)),
        ("Model: description, initialisation", "Model card, Trust: what it is"),
        ("Training: details, model selection", "How it learned"),
        ("Evaluation: metrics, uncertainty", "How good it is, with 95 % intervals"),
        ("Evaluation: robustness", "Films that look acquired otherwise"),
        ("Evaluation: explainability", "maps of the evidence on films"),
        ("Results: performance, failures", "How good it is; Its worst mistakes"),
        ("Discussion: limitations, implications", SITE),
        ("Other: registration, protocol, funding", SITE),
    ]
    return html.table(
        "Where CLAIM 2024 is answered", ["part", "answer"], [[p, _said(a)] for p, a in answers]
    )


def _tested(evaluations: Sequence[sa.RowMapping]) -> str:
    """Films that had no part in the model, and others that it was measured on."""
    apart, given = set(), set()
    for one in evaluations:
        basis = one["metrics"].get("basis")
        if basis in (figures.TESTED, figures.FROZEN):
            apart.add(str(one["split"]))
        elif basis == figures.GIVEN:
            given.add(str(one["split"]))
    found = ", ".join(sorted(apart)) or "none that is known to have had no part in the model"
    also = ", ".join(sorted(given - apart))
    return f"{found}; measured also on films of which that is not known: {also}" if also else found
