"""One search for hyperparameters: an Optuna study in a journal file.

The file is the only state: trials that have ended are in it, whatever happens to the process, and
several processes may work on one study at once.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.errors import StoreError, UserError
from harness.schema.protocol import Protocol
from harness.schema.tuning import Method, SearchSpace, TrialOutcome
from harness.storage.file_lock import FileLock
from harness.storage.files import open_plain
from harness.tuning.objective import TrialFailed
from harness.tuning.space import Parameters, grid, suggest

REASON, LOSS = "reason", "log loss"
"""User attributes of a trial: why it failed; its validation loss."""
FIXED = "fixed_params"
"""Optuna's attribute of an enqueued trial: its parameters."""
MOST_FAILURES = 3
"""In a row from the first trial on: then something is wrong with all of them."""


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    number: int
    parameters: Parameters
    outcome: TrialOutcome


class Study:
    """A search by one method in one space. ``path``: of the journal file."""

    def __init__(self, path: Path, method: Method, space: SearchSpace, protocol: Protocol) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(open_plain(path, os.O_RDONLY | os.O_CREAT))  # No link, and no pipe to wait for.
        self.path, self.method, self.space, self._protocol = path, method, space, protocol
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=path.stem,
                direction="maximize",
                load_if_exists=True,
            )
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            problem = f"no journal of Optuna ({type(error).__name__}); delete it and tune again"
            raise StoreError(f"{path}: {problem}") from None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Those that have a score, in the order in which they began."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return tuple(
            Trial(
                trial.number,
                dict(trial.params),
                TrialOutcome(macro_f1=trial.value, log_loss=trial.user_attrs[LOSS]),
            )
            for trial in finished
        )

    @property
    def best(self) -> Trial | None:
        """Of the highest macro F1; of equal ones that with the lowest loss."""
        return max(
            self.trials, key=lambda t: (t.outcome.macro_f1, -t.outcome.log_loss), default=None
        )

    def importances(self) -> dict[str, float]:
        """The share of each parameter in the variance of macro F1, largest first (fANOVA).

        Of the parameters that every trial has (Hutter et al. 2014). Empty where all are equal.
        """
        if len({trial.outcome.macro_f1 for trial in self.trials}) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def run(
        self,
        objective: Callable[[Parameters], TrialOutcome],
        limit: int,
        seconds: float | None,
        report: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Make trials until ``limit`` of them have begun, here or elsewhere, or time is over.

        ``seconds``: after which no trial begins; None: no limit. ``report`` receives the number of
        a trial before it begins. Raises UserError where every trial fails.
        """
        end = None if seconds is None else time.monotonic() + seconds
        with self._joined():
            while end is None or time.monotonic() < end:
                trial = self._next(limit)
                if trial is None:
                    return
                report(trial.number)
                self._execute(trial, objective)
                self._check_failures()

    def _next(self, limit: int) -> optuna.Trial | None:
        """Begin a trial; None where the limit is reached."""
        with self._lock():
            if sum(map(_counts, self._study.get_trials(deepcopy=False))) >= limit:
                return None
            return self._study.ask()

    def _execute(
        self, trial: optuna.Trial, objective: Callable[[Parameters], TrialOutcome]
    ) -> None:
        # By number: processes that work on one study do not draw the same values.
        self._study.sampler = self._sampler(trial.number)
        choose: Any = trial.suggest_categorical  # Overloaded for every type of value.
        parameters = suggest(choose, self.space, self._protocol)
        try:
            outcome = objective(parameters)
        except TrialFailed as error:
            trial.set_user_attr(REASON, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(LOSS, outcome.log_loss)
        self._study.tell(trial, outcome.macro_f1)

    def _sampler(self, number: int) -> BaseSampler:
        return TPESampler(seed=number) if self.method == "bayes" else RandomSampler(seed=number)

    def _check_failures(self) -> None:
        ended = [trial for trial in self._study.get_trials(deepcopy=False) if _has_ended(trial)]
        reasons = [trial.user_attrs[REASON] for trial in ended if REASON in trial.user_attrs]
        if len(ended) == len(reasons) >= MOST_FAILURES:
            raise UserError(f"all of {len(ended)} trials failed, the last one: {reasons[-1]}")

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """Take part; what processes that have died were trying is tried again."""
        users = self.path.with_suffix(".users.lock")
        with self._lock():
            alone = FileLock(users)
            if alone.acquire(blocking=False):
                if alone.enforced:
                    self._put_back()
                alone.release()
            if self.method == "grid":
                self._enqueue_grid()
            here = FileLock(users, shared=True)
            here.acquire()
        try:
            yield
        finally:
            here.release()

    def _put_back(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.enqueue_trial(trial.system_attrs.get(FIXED, trial.params))
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _enqueue_grid(self) -> None:
        known = [t.system_attrs.get(FIXED) for t in self._study.get_trials(deepcopy=False)]
        for parameters in grid(self.space, self._protocol):
            if parameters not in known:
                self._study.enqueue_trial(parameters)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"))


def trial_limit(requested: int | None, study: Study, protocol: Protocol) -> int:
    """How many trials a study has at most. Raises UserError for a grid that is larger."""
    limit = requested or DEFAULT_TRIALS[study.method]
    if study.method != "grid":
        return limit
    size = sum(1 for _ in islice(grid(study.space, protocol), limit + 1))
    if size > limit:
        raise UserError(
            f"the grid has more than {limit:,} combinations: shorten the lists of values in "
            "[tune] of the settings file, or raise --trials"
        )
    return size


DEFAULT_TRIALS: dict[Method, int] = {"random": 50, "grid": 1000, "bayes": 50}


def _has_ended(trial: FrozenTrial) -> bool:
    """With a score, or with a reason; not those that were put back."""
    return trial.state == TrialState.COMPLETE or REASON in trial.user_attrs


def _counts(trial: FrozenTrial) -> bool:
    return _has_ended(trial) or trial.state == TrialState.RUNNING
