"""Checkpoints: all or nothing, the one before as well, and never a wrong number."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.schema.protocol import Phase
from harness.schema.records import Epoch
from harness.storage.records import Store
from harness.training.checkpoint import Checkpoint, CheckpointManager, read, write
from harness.training.schedule import ScheduleState, advance, start
from tests.harness.conftest import made_run

SIGNATURE = {"run": "0123", "keras": "3.15"}


def line(epoch: int) -> Epoch:
    return Epoch(
        phase="fine-tuning",
        epoch=epoch,
        learning_rate=1e-3 / 3,
        train_loss=0.1 + 0.2,
        validation_loss=1 / epoch,
        validation_f1=2 / 3,
        seconds=1.5,
    )


def progress(epoch: int) -> Checkpoint:
    pace = ScheduleState(
        learning_rate=0.3 / 7, epoch=epoch, best_loss=1 / 3, best_epoch=epoch, stale=0
    )
    arrays = {"model-0": np.full((3, 4), epoch / 7, np.float32), "steps": np.int64(epoch)}
    return Checkpoint(pace, tuple(line(i) for i in range(1, epoch + 1)), arrays)


def keeper(folder: Path, told: list[str] | None = None, every: float = 0.0) -> CheckpointManager:
    return CheckpointManager(folder, SIGNATURE, every, (told if told is not None else []).append)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    kept = progress(3)
    keeper(tmp_path).keep("fine-tuning", kept)
    later = keeper(tmp_path)
    back = later.recall("fine-tuning")
    assert back is not None
    assert (back.pace, back.curve) == (kept.pace, kept.curve)
    assert later.resumed == 3
    assert set(back.arrays) == set(kept.arrays)
    for name, array in kept.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
        assert back.arrays[name].dtype == np.asarray(array).dtype


def test_a_pace_without_a_best_epoch_comes_back(tmp_path: Path) -> None:
    """A loss that is not a number is never the best; infinity must survive the file."""
    pace = advance(Phase(), start(Phase()), math.nan)
    keeper(tmp_path).keep("fine-tuning", Checkpoint(pace, (), {}))
    back = keeper(tmp_path).recall("fine-tuning")
    assert back is not None
    assert back.pace == pace
    assert back.pace.best_loss == math.inf


@pytest.mark.parametrize("phase", ["fine-tuning", "from scratch"])
def test_another_phase_or_program_does_not_go_on_from_it(tmp_path: Path, phase: str) -> None:
    keeper(tmp_path).keep("fine-tuning", progress(2))
    assert (keeper(tmp_path).recall(phase) is None) == (phase != "fine-tuning")
    other = CheckpointManager(tmp_path, {**SIGNATURE, "keras": "4.0"})
    assert other.recall("fine-tuning") is None


@pytest.mark.parametrize("damage", ["empty", "one byte", "half", "most", "flipped"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    from tests.harness.sweep.test_faults import tear

    writer, told = keeper(tmp_path), list[str]()
    writer.keep("fine-tuning", progress(1))
    writer.keep("fine-tuning", progress(2))
    tear(tmp_path / "checkpoint", damage)
    back = keeper(tmp_path, told).recall("fine-tuning")
    assert back is not None
    assert len(back.curve) == 1
    assert len(told) == 1
    assert "checkpoint: damaged" in told[0]
    tear(tmp_path / "checkpoint-before", damage)
    assert keeper(tmp_path).recall("fine-tuning") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_damage_goes_unnoticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file"
    write(path, {"weights": np.arange(20, dtype=np.float32), "told": np.array("{}")})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        read(path)


def test_one_is_due_only_now_and_then(tmp_path: Path) -> None:
    now = [0.0]
    slow = CheckpointManager(tmp_path, SIGNATURE, every=30, clock=lambda: now[0])
    assert not slow.due()
    now[0] = 30.0
    assert slow.due()
    slow.keep("fine-tuning", progress(1))
    assert not slow.due()
    now[0] = 60.0
    assert slow.due()


def test_a_large_network_is_kept_less_often(tmp_path: Path) -> None:
    """Writing took 10 of the clock's seconds: no more than one in twenty goes into it."""
    ticks = iter([0.0, 100.0, 110.0, 110.0, 140.0, 309.0, 310.0])
    slow = CheckpointManager(tmp_path, SIGNATURE, every=30, clock=lambda: next(ticks))
    slow.keep("fine-tuning", progress(1))
    assert slow.seconds == 10
    assert [slow.due() for _ in range(3)] == [False, False, True]


def test_a_full_disk_costs_the_checkpoint_and_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    writer = keeper(tmp_path, told)
    writer.keep("fine-tuning", progress(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.training.checkpoint.os.fsync", full)
    writer.keep("fine-tuning", progress(2))
    assert len(told) == 1
    assert "the disk is full" in told[0]
    back = keeper(tmp_path).recall("fine-tuning")
    assert back is not None
    assert len(back.curve) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_record_drops_them(tmp_path: Path) -> None:
    store, run = Store(tmp_path), made_run()
    folder = store.artefacts(run)
    folder.mkdir(parents=True)
    writer = keeper(folder)
    writer.keep("fine-tuning", progress(1))
    writer.keep("fine-tuning", progress(2))
    (folder / "checkpoint-new").write_bytes(b"of one that was killed while writing")
    (folder / "log.txt").write_text("stays")
    store.drop_checkpoints(run)
    assert [path.name for path in folder.iterdir()] == ["log.txt"]
