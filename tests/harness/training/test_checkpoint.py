"""Checkpoints: whole or not at all, the previous one too, and never a wrong number."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.schema.protocol import Phase
from harness.schema.records import Epoch
from harness.storage.records import Store
from harness.training.checkpoint import Checkpoint, CheckpointManager, read, write
from harness.training.schedule import ScheduleState, initial_state, next_state
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


def checkpoint(epoch: int) -> Checkpoint:
    state = ScheduleState(
        learning_rate=0.3 / 7, epoch=epoch, best_loss=1 / 3, best_epoch=epoch, stale=0
    )
    arrays = {"model-0": np.full((3, 4), epoch / 7, np.float32), "steps": np.int64(epoch)}
    return Checkpoint(state, tuple(line(i) for i in range(1, epoch + 1)), arrays)


def manager(folder: Path, warnings: list[str] | None = None) -> CheckpointManager:
    warn = (warnings if warnings is not None else []).append
    return CheckpointManager(folder, SIGNATURE, interval=0.0, warn=warn)


def test_a_checkpoint_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    saved = checkpoint(3)
    manager(tmp_path).save("fine-tuning", saved)
    later = manager(tmp_path)
    loaded = later.load("fine-tuning")
    assert loaded is not None
    assert (loaded.schedule, loaded.history) == (saved.schedule, saved.history)
    assert later.resumed == 3
    assert set(loaded.arrays) == set(saved.arrays)
    for name, array in saved.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == np.asarray(array).dtype


def test_a_schedule_without_a_best_epoch_is_loaded(tmp_path: Path) -> None:
    """A loss that is not a number is never the best; infinity must survive the file."""
    state = next_state(Phase(), initial_state(Phase()), math.nan)
    manager(tmp_path).save("fine-tuning", Checkpoint(state, (), {}))
    loaded = manager(tmp_path).load("fine-tuning")
    assert loaded is not None
    assert loaded.schedule == state
    assert loaded.schedule.best_loss == math.inf


@pytest.mark.parametrize("phase", ["fine-tuning", "from scratch"])
def test_another_phase_or_program_does_not_load_it(tmp_path: Path, phase: str) -> None:
    manager(tmp_path).save("fine-tuning", checkpoint(2))
    assert (manager(tmp_path).load(phase) is None) == (phase != "fine-tuning")
    other = CheckpointManager(tmp_path, {**SIGNATURE, "keras": "4.0"})
    assert other.load("fine-tuning") is None


@pytest.mark.parametrize("damage", ["empty", "one byte", "half", "most", "flipped"])
def test_a_damaged_one_is_not_loaded(tmp_path: Path, damage: str) -> None:
    from tests.harness.sweep.test_faults import tear

    writer, warnings = manager(tmp_path), list[str]()
    writer.save("fine-tuning", checkpoint(1))
    writer.save("fine-tuning", checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    tear(tmp_path / "checkpoint", damage)
    assert manager(tmp_path, warnings).load("fine-tuning") is None
    assert len(warnings) == 1
    assert "checkpoint: damaged" in warnings[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_damage_goes_unnoticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file"
    write(path, {"weights": np.arange(20, dtype=np.float32), "meta": np.array("{}")})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        read(path)


def test_one_is_due_after_enough_seconds_of_training(tmp_path: Path) -> None:
    """Epochs take 1.5 s; waiting and compiling do not count."""
    slow = CheckpointManager(tmp_path, SIGNATURE, interval=6)
    assert [slow.due(checkpoint(n).history, 0) for n in (1, 3, 4)] == [False, False, True]
    slow.save("fine-tuning", checkpoint(4))
    assert [slow.due(checkpoint(n).history, 0) for n in (5, 7, 8)] == [False, False, True]
    resumed = CheckpointManager(tmp_path, SIGNATURE, interval=6)
    assert resumed.load("fine-tuning") is not None
    assert [resumed.due(checkpoint(n).history, 0) for n in (7, 8)] == [False, True]
    assert CheckpointManager(tmp_path, SIGNATURE, interval=0).due(checkpoint(1).history, 10**12)


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path: Path) -> None:
    """By an assumed rate of 200 MB/s before the first checkpoint, then by the measured one."""
    ticks = iter([0.0, 10.0, 10.0])
    slow = CheckpointManager(tmp_path, SIGNATURE, interval=1, clock=lambda: next(ticks))
    size = 60_000_000  # 0.3 s: worth saving 6 s.
    assert [slow.due(checkpoint(n).history, size) for n in (3, 4)] == [False, True]
    slow.save("fine-tuning", checkpoint(4))
    written = (tmp_path / "checkpoint").stat().st_size  # In 10 s: worth saving 200 s.
    assert slow.seconds == 10
    epochs = [checkpoint(4 + n).history for n in (133, 134)]
    assert [slow.due(history, written) for history in epochs] == [False, True]


def test_sigterm_ends_a_run_with_its_epoch_saved_where_that_takes_seconds(tmp_path: Path) -> None:
    """An epoch takes 1.5 s here."""
    short = CheckpointManager(tmp_path, SIGNATURE, interval=1000)
    with short.saves_on_sigterm():
        assert not short.due(checkpoint(1).history, 100)
        signal.raise_signal(signal.SIGTERM)
        assert short.due(checkpoint(2).history, 100)
        with pytest.raises(SystemExit, match="after epoch 2"):
            short.save("fine-tuning", checkpoint(2))
    loaded = CheckpointManager(tmp_path, SIGNATURE).load("fine-tuning")
    assert loaded is not None
    assert len(loaded.history) == 2


@pytest.mark.parametrize("size", [0, 10**9])
def test_sigterm_ends_other_runs_at_once(tmp_path: Path, size: int) -> None:
    """Before the first epoch (0), and where a checkpoint would take too long."""
    program = (
        "import signal, sys\nfrom pathlib import Path\n"
        "from tests.harness.training.test_checkpoint import checkpoint, manager\n"
        "with manager(Path(sys.argv[1])).saves_on_sigterm() as _:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    if size:
        program = program.replace(
            "with manager(Path(sys.argv[1]))",
            f"one = manager(Path(sys.argv[1])); one.due(checkpoint(1).history, {size})\nwith one",
        )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGTERM


def test_a_full_disk_costs_the_checkpoint_and_keeps_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    writer = manager(tmp_path, warnings)
    writer.save("fine-tuning", checkpoint(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.training.checkpoint.os.fsync", full)
    writer.save("fine-tuning", checkpoint(2))
    assert len(warnings) == 1
    assert "the disk is full" in warnings[0]
    loaded = manager(tmp_path).load("fine-tuning")
    assert loaded is not None
    assert len(loaded.history) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_checkpoints_are_deleted_when_the_record_exists(tmp_path: Path) -> None:
    store, run = Store(tmp_path), made_run()
    folder = store.artefacts(run)
    folder.mkdir(parents=True)
    writer = manager(folder)
    writer.save("fine-tuning", checkpoint(1))
    writer.save("fine-tuning", checkpoint(2))
    (folder / "checkpoint-new").write_bytes(b"of one that was killed while writing")
    (folder / "log.txt").write_text("stays")
    store.drop_checkpoints(run)
    assert [path.name for path in folder.iterdir()] == ["log.txt"]
