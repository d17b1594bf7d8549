"""What a night looks for before it trains, and how it judges; nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from tests.worker import samples, spots
from trainer import card
from trainer.data import decoding, frozen, gathering, leavings
from trainer.data.decoding import Decoded, Decoder, Wanted
from trainer.data.frozen import Judged
from trainer.data.labelled import FIRST_NAMING
from trainer.data.names import CLEAR, Names
from trainer.data.whose import Whose
from trainer.errors import DatasetError
from worker.training.night_child import Films, Night, RunSkipped


class Told:
    """What a night is told of the champion and of earlier nights, and what it reports."""

    def __init__(self, folder: Path, champion: Path, data: Path) -> None:
        self._path = folder / "night.json"
        self._data = data
        self.values: dict[str, Any] = {
            "champion": {
                "positive": "PNEUMONIA",
                "labels": ["NORMAL", "PNEUMONIA"],
                "file": str(champion),
                "films": {},
            },
            "learned": {"films": [], "patients": []},
            "frozen": None,
            "last": None,
            "before": None,
            # With few films what is demanded must be little.
            "rules": {"margin_auroc": 0.5, "margin_sensitivity": 0.5, "margin_specificity": 0.5},
        }
        self.reports: list[tuple[str, dict[str, Any]]] = []
        #: How names are kept.
        self.names = CLEAR

    def night(self) -> Night:
        """The night itself."""
        self._path.write_text(json.dumps(self.values))
        return Night(self._path, self.names)

    def look(self, **changes: Any) -> Films:
        """Look at the films."""
        values = {
            "positive": None, "said": Whose(), "corrections": None, "seed": 0,
            "decoder": decoding.threads(1),
        } | changes  # fmt: skip
        return self.night().look([self._data], report=self._report, **values)

    def judge(
        self, films: Films, candidate: Path, decoder: Decoder | None = None
    ) -> dict[str, Any]:
        """Compare a candidate with the champion on the frozen films."""
        return self.night().judge(
            films, candidate, positive="PNEUMONIA", batch=8, threads=1,
            decoder=decoder or decoding.threads(1),
        )  # fmt: skip

    def rests(self, **changes: Any) -> RunSkipped:
        """Look at films that are not to be trained on tonight; why."""
        with pytest.raises(RunSkipped) as resting:
            self.look(**changes)
        assert str(self._data) not in resting.value.told
        return resting.value

    def freeze(self, films: Sequence[Judged]) -> None:
        """These were chosen on an earlier night."""
        self.values["frozen"] = frozen.to_csv(films)

    def freeze_all(self, data: Path) -> tuple[Judged, ...]:
        """Whatever there is was chosen on an earlier night."""
        films = frozen.of_source(data)
        self.freeze(films)
        return films

    def over(self, outcome: str = "promoted") -> None:
        """The night is over; the next one is told of it."""
        self.values["last"] = {
            "hash": self.snapshot["hash"], "outcome": outcome, "scheduled_for": "2026-03-01T02:00",
        }  # fmt: skip

    @property
    def snapshot(self) -> dict[str, Any]:
        """What was kept of the films last."""
        return [values for event, values in self.reports if event == "snapshot"][-1]

    def _report(self, event: str, **values: Any) -> None:
        self.reports.append((event, values))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Films of 60 patients."""
    return spots.write(tmp_path / "chest", 60, 1)


@pytest.fixture
def told(tmp_path: Path, model_file: Path, data: Path) -> Told:
    """A night like any other: there is a champion, which learned other films."""
    made = Told(tmp_path, model_file, data)
    made.freeze(frozen.choose(gathering.gather([data])))
    return made


def test_films_that_were_moved_and_renamed_have_not_changed(told: Told, data: Path) -> None:
    assert len(told.look().judged) >= 40
    told.over()
    for film in sorted(data.rglob("*.png")):
        below = film.parent / film.stem[-1]
        below.mkdir(exist_ok=True)
        shutil.move(film, below / f"{film.stem}_again.png")
    rests = told.rests()
    assert (rests.event, rests.reason) == (
        "skipped",
        "nothing changed in the 120 films since the run of 2026-03-01T02:00, which came to: "
        "promoted",
    )


def test_frozen_films_that_are_gone_are_told_before_hours_of_training_and_can_be_brought_back(
    told: Told, data: Path, tmp_path: Path
) -> None:
    judge = spots.write(tmp_path / "judge", 50, 2)
    told.freeze(frozen.of_source(judge))
    away = tmp_path / "away"
    away.mkdir()
    for film in sorted(judge.rglob("*.png"))[:6]:
        shutil.move(film, away / f"{film.parent.name}-{film.name}")
    rests = told.rests()
    assert rests.event == "unfit"
    assert rests.reason.startswith("6 of the 100 frozen films were removed or changed, so that ")
    assert rests.reason.endswith("bring them back, or add the schedule anew with --evaluate-on")

    told.over("kept")
    assert told.rests().event == "skipped"
    for film in away.iterdir():
        name, _, stem = film.name.partition("-")
        shutil.move(film, judge / name / stem)
    # The films of the schedule's own folder are what they were, and yet this night goes on.
    films = told.look()
    assert (len(films.judged), films.missing) == (100, ())


def test_films_and_patients_are_known_again_by_hashes_and_by_names_of_before(
    told: Told, data: Path, tmp_path: Path
) -> None:
    judge = spots.write(tmp_path / "judge", 50, 2)
    # Of three patients among the frozen films the schedule's own folder has another film.
    for number, film in enumerate(sorted(judge.rglob("*_0.png"))[:3]):
        other = data / film.parent.name / f"{film.stem[:-1]}9.png"
        spots.film(np.random.default_rng([9, number]), sick=False).save(other)
    told.values["rules"]["evaluate_on"] = str(judge)
    told.values["frozen"] = None
    hidden = Names(key=b"a key of manifests", everything=True)

    def seen() -> tuple[int, int, int]:
        films = told.look()
        apart = sum(film.split == "test" for film in films.gathered.films)
        return len(films.judged), len(films.learned), apart

    told.names = hidden
    assert seen() == (100, 0, 3)
    first = told.snapshot["hash"]
    (kept,) = [values for event, values in told.reports if event == "frozen"]
    assert "person" not in kept["manifest_csv"], "hashes stand for names"
    assert set(kept["names"].values()) >= {"person20000", str(next(judge.rglob("*.png")))}
    told.values["frozen"] = kept["manifest_csv"]
    assert seen() == (100, 0, 3)
    assert told.snapshot["hash"] == first, "it is the same night again"
    for patient in ("person20000", hidden.same("person20000")):
        told.values["learned"]["patients"] = [patient]
        assert seen() == (98, 2, 3)
    # Kept in the clear, as release 0.2.0 did, and then with names hidden: and the other way round.
    told.freeze(frozen.of_source(judge))
    assert seen() == (98, 2, 3)


def test_of_a_class_that_shrank_and_frozen_films_that_went_with_it_both_are_told(
    told: Told, data: Path
) -> None:
    found = gathering.gather([data])
    told.values["before"] = {film.sha256: found.labels[film.label] for film in found.films}
    for film in sorted((data / "PNEUMONIA").iterdir())[::2]:
        film.unlink()
    rests = told.rests()
    shrank, _, frozen_films = rests.reason.partition("; ")
    assert shrank.startswith("the films are not fit to train on: PNEUMONIA has 30 films where ")
    assert "frozen films were removed or changed" in frozen_films
    assert "PNEUMONIA" not in rests.told


def earlier(told: Told, data: Path, bins: Path, names: Names) -> None:
    """An earlier night took what lies in folders called `bins` for films, of PNEUMONIA too."""
    plain = bins.with_name("taken for a class")
    bins.rename(plain)
    found = gathering.gather([data])
    plain.rename(bins)
    called = {film.path: film.path.replace(plain.name, bins.name) for film in found.films}
    kept = names.of(dataclasses.replace(f, path=called[f.path]) for f in found.films)
    told.values["before"] = {film.sha256: found.labels[film.label] for film in kept}
    told.values["paths"] = leavings.paths_of((film.sha256, film.path) for film in kept)
    judged = [
        dataclasses.replace(film, file=Path(str(film.file).replace(plain.name, bins.name)))
        for film in frozen.choose(found, fraction=0.3)
    ]
    told.values["frozen"] = frozen.to_csv(frozen.kept(judged, names), names)


@pytest.mark.parametrize(("name", "hidden"), [("#recycle", False), ("@eaDir", True)])
def test_films_that_are_clutter_by_a_longer_list_were_not_removed_and_this_is_said_once(
    told: Told, data: Path, model_file: Path, name: str, hidden: bool
) -> None:
    bins = data / "PNEUMONIA" / name
    shutil.move(spots.write(data.parent / "other", 40, 7) / "PNEUMONIA", bins)
    told.names = Names(key=b"a key of manifests", everything=hidden)
    earlier(told, data, bins, told.names)
    films = told.look()
    assert (told.snapshot["removed"], told.snapshot["films"]) == (0, 120)
    assert len(films.cleared) > 4
    assert not films.missing
    assert films.told.startswith("40 films of earlier nights lay in recycle bins, ")
    assert f"; {len(films.cleared)} of the frozen films lay in such places" in films.told
    assert ("note", {"text": films.told}) in told.reports
    found = told.judge(films, model_file)
    assert found["accepted"]
    assert f"({films.told}; " in found["reason"]
    assert str(data) not in films.told

    told.values["told_of_clutter"] = True
    assert told.look().told == ""
    if not hidden:  # of a hidden name only what is there says where it lay
        shutil.rmtree(bins)
        assert (len(told.look().cleared), told.snapshot["removed"]) == (len(films.cleared), 0)


def test_a_film_that_was_moved_into_a_recycle_bin_was_removed(told: Told, data: Path) -> None:
    found = gathering.gather([data])
    for hidden in (False, True):
        told.names = Names(key=b"a key of manifests", everything=hidden)
        kept = told.names.of(found.films)
        told.values["before"] = {film.sha256: found.labels[film.label] for film in kept}
        told.values["paths"] = leavings.paths_of((film.sha256, film.path) for film in kept)
        for film in sorted((data / "PNEUMONIA").glob("*.png"))[:20]:
            (data / "#recycle" / "PNEUMONIA").mkdir(parents=True, exist_ok=True)
            shutil.move(film, data / "#recycle" / "PNEUMONIA" / film.name)
        assert "PNEUMONIA has " in told.rests().reason
        assert told.snapshot["clutter"] == 0


def test_a_few_frozen_films_may_be_gone(told: Told, tmp_path: Path) -> None:
    judge = spots.write(tmp_path / "judge", 50, 2)
    told.freeze(frozen.of_source(judge))
    for film in sorted(judge.rglob("*.png"))[:5]:
        film.unlink()
    films = told.look()
    assert (len(films.judged), len(films.missing)) == (95, 5)


def test_models_are_judged_by_the_labels_of_tonight_and_the_reason_counts_those_that_changed(
    told: Told, data: Path, model_file: Path
) -> None:
    before = told.look()
    told.over("kept")
    chosen = [film for film in before.judged if film.name == "NORMAL"][:3]
    for film in chosen:
        shutil.move(film.file, data / "PNEUMONIA" / f"corrected_{film.file.name}")
    films = told.look()
    assert films.relabelled == 3
    assert len(films.judged) == len(before.judged)
    found = told.judge(films, model_file)
    positives = sum(film.name == "PNEUMONIA" for film in before.judged)
    for whose in ("candidate", "champion"):
        counts = found[whose]
        assert counts["true_positive"] + counts["false_negative"] == positives + 3
    assert "3 have another label than when they were chosen" in found["reason"]
    assert "3 have another label than when they were chosen" in found["told"]


def test_a_night_is_another_one_where_only_labels_of_the_films_to_judge_by_were_corrected(
    told: Told, tmp_path: Path
) -> None:
    judge = spots.write(tmp_path / "judge", 50, 2)
    told.freeze(frozen.of_source(judge))
    told.values["rules"]["evaluate_on"] = str(judge)
    told.look()
    told.over("kept")
    assert told.rests().event == "skipped"
    film = next((judge / "NORMAL").iterdir())
    film.rename(judge / "PNEUMONIA" / f"corrected_{film.name}")
    assert told.look().relabelled == 1


def test_where_models_have_learned_from_the_frozen_films_the_reason_says_what_to_do(
    told: Told,
) -> None:
    chosen = told.look().judged
    told.values["learned"]["films"] = [film.sha256 for film in chosen[4::2]]
    told.values["learned"]["patients"] = sorted({film.patient for film in chosen[5:]})
    rests = told.rests()
    n = len(chosen)
    assert rests.event == "unfit"
    assert " frozen films are left, where 20 are the least, as the models that are " in rests.reason
    assert f"have learned from {n - 4} of the {n}, or from films of their patients" in rests.reason
    assert rests.reason.endswith("with --evaluate-on and films that no model has learned")


def test_a_schedule_that_promotes_nothing_makes_models_however_few_films_there_are_to_judge_by(
    told: Told,
) -> None:
    told.freeze(told.look().judged[:10])
    assert told.rests().event == "unfit"
    told.values["rules"]["promote"] = False
    assert len(told.look().judged) == 10


def test_a_first_model_needs_no_films_to_be_judged_by(told: Told, model_file: Path) -> None:
    told.freeze(told.look().judged[:4])
    told.values["champion"] = None
    films = told.look()
    found = told.judge(films, model_file)
    assert found["accepted"]
    assert (found["candidate"]["n_films"], found["champion"]) == (4, None)

    none = dataclasses.replace(films, judged=(), missing=films.judged)
    found = told.judge(none, model_file)
    assert found["accepted"]
    assert (found["candidate"], found["verdict"]) == (None, {"films": 0, "missing": 4})


def test_films_to_judge_by_whose_classes_no_model_knows_are_refused(
    told: Told, data: Path, tmp_path: Path
) -> None:
    judge = spots.write(tmp_path / "judge", 30, 2)
    (judge / "PNEUMONIA").rename(judge / "SICK")
    told.values |= {"frozen": None, "rules": {"evaluate_on": str(judge)}}
    with pytest.raises(DatasetError, match="has the classes SICK, which the models do not know"):
        told.look()


def test_films_of_other_classes_than_the_champions_make_no_model_in_its_place(told: Told) -> None:
    told.values["champion"]["labels"] = ["NORMAL", "PNEUMONIA", "VIRUS"]
    rests = told.rests()
    assert rests.event == "unfit"
    assert rests.reason.startswith(
        "the films are of the classes NORMAL, PNEUMONIA, the champion of NORMAL, PNEUMONIA, VIRUS"
    )
    told.values["rules"]["promote"] = False
    assert told.look().judged, "a model that is not to be promoted may be of any classes"


def test_a_champion_of_another_disease_is_not_compared_with(told: Told) -> None:
    rests = told.rests(positive="NORMAL")
    assert rests.reason == f"{rests.told}: PNEUMONIA, not NORMAL"
    told.values["champion"]["positive"] = "FRACTURE"
    assert told.rests().reason == f"{rests.told}: FRACTURE, not NORMAL, PNEUMONIA"
    assert not told.reports


def test_the_disease_is_the_champion_s_where_the_schedule_names_none(
    told: Told, data: Path
) -> None:
    (data / "NORMAL").rename(data / "TB")
    told.values["frozen"] = None
    told.values["champion"]["labels"] = ["PNEUMONIA", "TB"]
    assert told.look().positive == "PNEUMONIA"
    told.values["champion"] = None
    with pytest.raises(DatasetError, match="neither PNEUMONIA nor TB"):
        told.look()
    assert told.look(positive="TB").positive == "TB"
    (data / "PNEUMONIA").rename(data / "HEALTHY")
    assert told.look().positive == "TB"
    (data / "HEALTHY").rename(data / "UNREMARKABLE")
    assert told.look().positive == "TB"
    assert told.look(said=Whose(naming=FIRST_NAMING)).positive == "UNREMARKABLE", "as it was"


def test_a_night_of_films_whose_names_hide_their_patients_is_unfit(told: Told, data: Path) -> None:
    for n, film in enumerate(sorted(data.rglob("*.png"))):
        film.rename(film.with_name(f"1.2.840.113619.7.{n // 3}.{n}"))
    rests = told.rests()
    assert rests.event == "unfit"
    assert "whose they are is not known of 120 films that are named by UIDs" in rests.reason
    told.values["frozen"] = None
    assert not any(event == "frozen" for event, _ in told.reports), "nothing wrong is frozen"
    assert len(told.look(said=Whose(naming=FIRST_NAMING)).judged) >= 20, "as it was"


def test_patients_that_a_model_learned_are_known_by_other_rules_too(told: Told, data: Path) -> None:
    # One film of each patient for the champion, under names that its release read otherwise.
    for film in sorted(data.rglob("*.png")):
        person = data / film.parent.name / f"p1{film.stem.split('_')[0][6:]:0>7}"
        person.mkdir(exist_ok=True)
        film.rename(person / film.name.replace("person", "film"))
    learned = sorted(data.rglob("*_0.png"))
    assert len(learned) == 60
    judge = told.freeze_all(data)
    told.values["learned"] = {
        "films": [gathering.content_of(film) for film in learned],
        "patients": [film.relative_to(data / film.parts[-3]).as_posix() for film in learned],
    }
    told.values["champion"]["films"] = {}
    told.values["rules"]["promote"] = False
    films = told.look()
    assert (len(films.judged), len(films.learned)) == (0, len(judge))


def test_where_nothing_says_whose_the_frozen_films_are_the_reason_says_so(
    told: Told, data: Path, model_file: Path
) -> None:
    for n, film in enumerate(sorted(data.rglob("*.png"))):
        film.rename(film.with_name(f"scan {n}.png"))
    told.values["frozen"] = None
    films = told.look()
    found = told.judge(films, model_file)
    assert (
        "(nothing says whose these films are, so that intervals are too narrow; " in found["told"]
    )
    assert found["candidate"]["patients_unknown"] == 1
    (kept,) = [values["manifest_csv"] for event, values in told.reports if event == "frozen"]
    told.values["frozen"] = kept
    again = told.judge(told.look(), model_file)
    assert again["told"] == found["told"], "on later nights too"


def test_a_model_like_the_champion_is_accepted_and_the_reason_says_what_was_left_out(
    told: Told, model_file: Path
) -> None:
    films = told.look()
    apart = dataclasses.replace(films, judged=films.judged[1:], learned=films.judged[:1])
    found = told.judge(apart, model_file)
    assert found["accepted"]
    assert found["candidate"] == found["champion"]
    n = len(films.judged)
    assert found["candidate"]["n_films"] == found["verdict"]["films"] == n - 1
    assert found["reason"].endswith(
        f": within every margin (1 of {n} frozen films do not count, as the models that are "
        "compared have learned from them, or from films of their patients; the shift reports are "
        "not compared, as one of the two models has none)"
    )

    told.values["champion"]["chose"] = [film.sha256 for film in films.judged[:3]]
    found = told.judge(films, model_file)
    assert found["reason"].endswith(
        "(3 of them chose the champion's epoch and threshold, so that its figures are somewhat too "
        "good; the shift reports are not compared, as one of the two models has none)"
    )
    assert (found["candidate"]["basis"], found["champion"]["basis"]) == (
        "frozen films, which chose no epoch and no threshold",
        "films as given: too good where the model has learned from them or they chose its "
        "threshold",
    )

    told.values["champion"]["films"] = None
    found = told.judge(films, model_file)
    assert "; the champion was imported, and may have learned from any of them; " in found["told"]

    found = told.judge(
        dataclasses.replace(films, doubt="10 of 14 held-out films were learned"), model_file
    )
    assert (
        "; of the new model's validation: 10 of 14 held-out films were learned; " in found["told"]
    )


def test_a_model_that_gives_no_number_is_not_accepted(
    told: Told, model_file: Path, tmp_path: Path
) -> None:
    films = told.look()
    silent = tmp_path / "silent.onnx"
    network = onnx.load(str(model_file))
    for weights in network.graph.initializer:
        if weights.name == "fc.bias":
            lost = np.full_like(numpy_helper.to_array(weights), np.nan)
            weights.CopyFrom(numpy_helper.from_array(lost, weights.name))
    onnx.save(network, str(silent))
    found = told.judge(films, silent)
    assert not found["accepted"]
    n = len(films.judged)
    assert found["reason"] == f"the new model gives no number for {n} of {n} films"
    assert found["candidate"] is None
    assert found["champion"]["n_films"] == n


def test_where_frozen_films_turn_out_unreadable_nothing_is_accepted(
    told: Told, model_file: Path
) -> None:
    films = told.look()
    for film in films.judged[:10]:
        film.file.write_bytes(b"no film any more")
    found = told.judge(films, model_file)
    assert not found["accepted"]
    assert found["reason"].startswith(f"10 of the {len(films.judged)} frozen films cannot be read")


def test_a_group_of_one_class_that_the_champion_had_not_keeps_it_with_its_sheet(
    told: Told, data: Path, model_file: Path, tmp_path: Path
) -> None:
    told.values["champion"]["films"] = _contents(data)
    assert told.look().against == ()
    spots.lettered(data / "PNEUMONIA", 8)
    films = told.look()
    (reason,) = films.against
    assert reason.text.startswith("50 films of 25 patients have the same bright mark at the upper ")
    assert ", all of them are PNEUMONIA, and the champion's films had no such group: " in (
        reason.text
    )
    assert "PNEUMONIA" not in reason.shareable and "upper" not in reason.shareable
    (sheet,) = tmp_path.parent.glob("groups.png")
    assert f"look at some of them in PNEUMOQ_HOME/training/{sheet.parent.name}/groups.png on " in (
        reason.text
    )
    with Image.open(sheet) as image:
        assert image.size == (8 * 166 + 6, 212 + 6)
    assert sheet.stat().st_mode & 0o077 == 0
    sheet.unlink()
    found = told.judge(films, model_file)
    assert not found["accepted"]
    assert reason.text in found["reason"] and reason.text not in found["told"]
    assert "within every margin" not in found["reason"]

    told.values["champion"]["films"] = _contents(data)
    assert told.look().against == (), "a champion that learned from such films knows them"
    told.values["champion"]["films"] = None
    (reason,) = told.look().against
    assert "it is not known whether the champion learned from such films" in reason.shareable
    told.values["champion"] = None
    assert told.look().against == (), "a first model takes no other's place"


def _contents(data: Path) -> dict[str, str]:
    found = gathering.gather([data])
    return {film.sha256: found.labels[film.label] for film in found.films}


def test_the_anchor_is_compared_with_and_where_its_files_are_gone_it_is_said_before_training(
    told: Told, model_file: Path
) -> None:
    told.values["anchor"] = {
        "model": 7, "file": str(model_file), "why": "the first champion",
    }  # fmt: skip
    films = told.look()
    found = told.judge(films, model_file)
    assert found["accepted"]
    assert found["anchor"] == {"model": 7, "figures": found["champion"]}
    assert found["verdict"]["anchor"]["model"] == 7
    assert "of the champion and of model 7, the first champion" in found["reason"]

    told.values["anchor"]["file"] = None
    rests = told.rests()
    assert rests.event == "unfit"
    assert rests.reason.startswith("model 7, the first champion, has no files any more")
    assert "`pneumoq models promote champion` makes the champion the model to compare with" in (
        rests.reason
    )
    told.values["rules"]["promote"] = False
    films = told.look()
    assert len(films.judged) == found["verdict"]["films"]
    found = told.judge(films, model_file)
    assert (found["accepted"], found["anchor"]) == (False, None)
    assert found["reason"] == rests.reason


def test_films_are_kept_also_where_a_training_goes_on_by_day(told: Told) -> None:
    assert not told.night().keeps_films
    told.values |= {"ends": True, "goes_on": False}
    assert told.night().keeps_films
    # A person let it go on: there is no end any more, but it may yet be killed.
    told.values |= {"ends": False, "goes_on": True}
    assert told.night().keeps_films


def test_floors_of_a_schedule_are_asked_for(told: Told, model_file: Path) -> None:
    films = told.look()
    told.values["rules"]["floor"] = {"sensitivity": 0.99}
    found = told.judge(films, model_file)
    assert not found["accepted"]
    assert "and the floor is 0.990" in found["reason"]
    assert found["verdict"]["floors"]["sensitivity"]["floor"] == 0.99


def test_a_night_with_few_films_says_how_many_would_decide_to_hooks_as_well(
    told: Told, model_file: Path
) -> None:
    films = told.look()
    told.values["rules"] = {}
    found = told.judge(films, model_file)
    assert not found["accepted"]
    wanted = found["verdict"]["enough"]
    sick = sum(film.name == "PNEUMONIA" for film in films.judged)
    assert wanted["positives"] > sick and wanted["negatives"] > len(films.judged) - sick
    sentence = (
        f"It takes about {wanted['positives']:,} positive and {wanted['negatives']:,} negative "
        f"frozen films ({sick:,} and {len(films.judged) - sick:,} now), of patients with as many "
        "films each, to decide: "
    )
    assert sentence in found["reason"]
    assert sentence in found["told"]


def with_shift(model: Path, worst: float | None, to: Path) -> Path:
    """A copy of a model file with a shift report in which the worst dressing has this AUROC."""
    network = onnx.load(str(model))
    (kept,) = [entry for entry in network.metadata_props if entry.key == card.KEY]
    report = None
    if worst is not None:
        report = {"worst": {"name": "group 1", "auroc": worst}}
    kept.value = json.dumps({**json.loads(kept.value), "shift": report})
    onnx.save(network, str(to))
    return to


def test_the_shift_reports_of_both_model_files_are_compared(
    told: Told, model_file: Path, tmp_path: Path
) -> None:
    films = told.look()
    worse, better, none = (
        with_shift(model_file, auroc, tmp_path / f"{auroc}.onnx") for auroc in (0.7, 0.9, None)
    )
    told.values["champion"]["file"] = str(better)
    misled = told.judge(films, worse)
    assert not misled["accepted"]
    assert misled["verdict"]["shift"] == {"judged": True, "candidate": 0.7, "champion": 0.9}
    assert "the look of films misleads the new model more: " in misled["reason"]
    alike = told.judge(films, better)
    assert alike["accepted"]
    assert alike["reason"].endswith(": within every margin")
    silent = told.judge(films, none)
    assert silent["accepted"]
    assert silent["reason"].endswith(
        "(the shift reports are not compared, as one of the two models has none)"
    )


def test_films_are_decoded_once_for_all_models_that_are_compared(
    told: Told, model_file: Path, tmp_path: Path
) -> None:
    films = told.look()
    decoded: list[tuple[int, int]] = []

    def decoder(
        films: Iterable[Wanted], *, size: int, rule: str, stored: bool = False
    ) -> Generator[Decoded | None, None, None]:
        listed = list(films)
        decoded.append((len(listed), size))
        return decoding.threads(1)(listed, size=size, rule=rule, stored=stored)

    anchor = with_shift(model_file, None, tmp_path / "anchor.onnx")
    told.values["anchor"] = {"model": 7, "why": "kept", "file": str(anchor)}
    n, size = len(films.judged), card.read(model_file).size
    alike = told.judge(films, model_file, decoder)
    assert decoded == [(n, size)]
    assert alike["candidate"] == alike["champion"] == alike["anchor"]["figures"]

    # One that takes other pixels has its own, and says what it would say alone.
    other = tmp_path / "other.onnx"
    samples.write_model(other, ("NORMAL", "PNEUMONIA"), seed=3, size=size // 2)
    told.values["champion"]["file"] = str(other)
    decoded.clear()
    mixed = told.judge(films, model_file, decoder)
    assert sorted(decoded) == sorted([(n, size), (n, size // 2)])
    assert mixed["candidate"] == alike["candidate"]
    assert told.judge(films, other, decoder)["candidate"] == mixed["champion"] != alike["champion"]
