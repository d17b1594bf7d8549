"""Whether held-out films of units that training saw with one class only are marked, and no others.

    python -m tests.bench.acquisition.fingerprint --data FOLDER [--sides 64 224]
        [--seeds 5] [--unit films.csv]

A quarter of FOLDER's patients is held out. On 2 % of the other films, all of one class and each of
another patient, something is laid, as `tests.bench.acquisition.groups` does; what looks alike and
is of one class there becomes a fingerprint. Then the same is laid on held-out films of the other
class, and it is counted how many of them are marked, and how many of the held-out films that are in
no group.
`--unit` lists films of a real unit (columns path, r_mark_ncc, kv_stamp_ncc).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.acquisition import groups as planted
from tests.bench.parts import report
from tests.support.acquired import Films, looked_at, scaled
from trainer.acquisition import fingerprint, groups, marks, one_sided
from trainer.acquisition.fingerprint import LIMIT, Alike, Fingerprint
from trainer.acquisition.looks import Looks
from trainer.acquisition.one_sided import OneSided
from trainer.data import gathering
from trainer.film import rules

#: Patients that are held out, and held-out films that something is laid on.
HELD_OUT, LAID_ON = 0.25, 60


def learned(
    films: Films, looks: Looks, labels: NDArray[np.int64], patients: list[str]
) -> tuple[Fingerprint, list[OneSided]]:
    """The fingerprint of films, and the groups that are in it."""
    named = one_sided.find(groups.find(looks), labels, patients, int(labels.max()) + 1)
    alike = [
        Alike(
            look=one.group.look,
            rows=one.group.films,
            boxes=None if one.group.boxes is None else one.group.boxes / marks.SIDE,
        )
        for one in named
    ]
    parts = fingerprint.fit(films, np.arange(len(films)), alike, patients)
    both = [(part, one) for part, one in zip(parts, named, strict=True) if part is not None]
    return Fingerprint(tuple(part for part, _ in both)), [one for _, one in both]


def marked(learned: Fingerprint, films: Films) -> NDArray[np.bool_]:
    if not learned.parts:
        return np.zeros(len(films), np.bool_)
    parts = [learned(films[start : start + 256]) for start in range(0, len(films), 256)]
    return np.asarray((np.concatenate(parts) >= LIMIT).any(axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--planted", nargs="*", default=list(planted.PLANTS))
    parser.add_argument("--unit", type=Path)
    given = parser.parse_args()
    gathered = gathering.gather([given.data])
    found = list({film.sha256: film for film in gathered.films}.values())
    labels = np.array([film.label for film in found])
    patients = np.array([film.patient for film in found])
    names = np.unique(patients)
    rng = np.random.default_rng(0)
    out = np.isin(patients, rng.permutation(names)[: round(HELD_OUT * len(names))])
    train, held_out = np.flatnonzero(~out), np.flatnonzero(out)
    large = np.stack(
        [rules.decode((gathered.root / f.path).read_bytes(), marks.SIDE) for f in found]
    )
    of_unit = np.zeros(len(found), np.bool_)
    if given.unit is not None:
        with given.unit.open(newline="") as file:
            sure = {
                row["path"]
                for row in csv.DictReader(file)
                if float(row["r_mark_ncc"]) > 0.7 or float(row["kv_stamp_ncc"]) > 0.6
            }
        of_unit = np.array([film.path in sure for film in found])
    rows = []
    for side in given.sides:
        base = scaled(large, side)
        everything = looked_at(base)
        in_group = of_unit.copy()
        for one in one_sided.find(groups.find(everything), labels, list(patients), 2):
            in_group[one.group.films] = True
        others = held_out[~in_group[held_out]]
        films, its = base[train], labels[train]
        whole = looked_at(films)
        print_, named = learned(films, whole, its, list(patients[train]))
        print(f"at {side} px, nothing planted:")
        for part, one in zip(print_.parts, named, strict=True):
            print(
                f"  {one.counts}, {one.group.what}: {part.found:.0%} of its films by signs of "
                f"other patients, {part.false:.1%} of others"
            )
        false = marked(print_, base[others]).mean()
        unit = held_out[of_unit[held_out]]
        if unit.size:
            share = marked(print_, base[unit]).mean()
            rows.append((f"{side} px", "the unit", f"{share:.0%}", f"{false:.1%}"))
            print(*rows[-1], flush=True)
        for name in given.planted:
            plant = planted.PLANTS[name]
            hits, wrong = [], []
            for seed in range(given.seeds):
                draw = np.random.default_rng(100 + seed)
                _, first = np.unique(patients[train], return_index=True)
                of_class = first[its[first] == seed % 2]
                on = np.sort(
                    draw.choice(of_class, round(planted.PLANTED * len(train)), replace=False)
                )
                # As many numbers are drawn for the held-out films as for the others.
                state = draw.bit_generator.state
                laid = plant(films[on], draw)
                draw.bit_generator.state = state
                changed = films.copy()
                changed[on] = laid
                looks = planted.replaced(whole, on, looked_at(laid))
                print_, _ = learned(changed, looks, its, list(patients[train]))
                targets = others[labels[others] != seed % 2][:LAID_ON]
                hits.append(float(marked(print_, plant(base[targets], draw)).mean()))
                wrong.append(float(marked(print_, base[others]).mean()))
            rows.append(
                (
                    f"{side} px", name, f"{np.median(hits):.0%} ({min(hits):.0%})",
                    f"{np.mean(wrong):.1%} ({max(wrong):.1%})",
                )
            )  # fmt: skip
            print(*rows[-1], flush=True)
    report.table(("films", "laid on", "marked (least)", "others marked (most)"), rows)


if __name__ == "__main__":
    main()
