"""Which engine runs a model here."""

from __future__ import annotations

from pathlib import Path

from trainer import card as cards
from trainer import film
from trainer.errors import CardError, FilmError
from worker.engine.base import Engine
from worker.errors import EngineError


def open_engine(path: Path, *, batch: int, threads: int, precision: str = "fp32") -> Engine:
    """Make a model file ready to compute on this machine's best device.

    Raises EngineError where it cannot: a file that is not ours, a film rule that this build lacks
    or carries out differently, or a backend that refuses the network.
    """
    from worker.engine.cpu import CpuEngine

    try:
        card = cards.read(path)
        if card.film_rule not in film.RULES:
            raise EngineError(
                f"{path.name} wants film rule {card.film_rule!r}, which this PneumoQ lacks; "
                "upgrade this worker"
            )
        film.check_golden(list(card.golden), card.film_rule)
    except (CardError, FilmError) as error:
        raise EngineError(str(error)) from error
    return CpuEngine(path, card, batch=batch, threads=threads)


def describe(threads: int) -> str:
    """In a few words, what `open_engine` will compute with."""
    return f"CPU (OpenVINO, {threads} threads)"
