"""Stacking: a multinomial logistic regression on the members' log probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.errors import UserError

INVERSE_PENALTIES = (0.001, 0.01, 0.1)
"""scikit-learn's C, chosen by cross-validation."""


def fit_stacking(
    probabilities: np.ndarray, labels: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit on probabilities (m, n, K) and labels (n,); returns what maps (m, i, K) to (i, K).

    The columns are standardised and the weights L2-penalised. Wolpert 1992 (Neural Networks 5).
    Classes without an image get probability 0. Raises UserError where there is only one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns, counts = _log_columns(probabilities), np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        raise UserError("all validation images are of one class")
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=INVERSE_PENALTIES[0], max_iter=1000)
    )
    # A class with a single image cannot be in both the training and the test part of a fold.
    repeated = counts[labels] > 1
    if np.count_nonzero(counts > 1) > 1:
        folds = StratifiedKFold(min(3, counts[counts > 1].min()), shuffle=True, random_state=0)
        search = GridSearchCV(
            model,
            {"logisticregression__C": INVERSE_PENALTIES},
            scoring="neg_log_loss",
            cv=folds,
            refit=False,
        ).fit(columns[repeated], labels[repeated])
        model.set_params(**search.best_params_)
    model.fit(columns, labels)

    def predict(probabilities: np.ndarray) -> np.ndarray:
        result = np.zeros(probabilities.shape[1:])
        result[:, model.classes_] = model.predict_proba(_log_columns(probabilities))
        return result

    return predict


def _log_columns(probabilities: np.ndarray) -> np.ndarray:
    """(m, n, K) -> (n, m K) of log probabilities."""
    logs = np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1.0))
    return logs.transpose(1, 0, 2).reshape(probabilities.shape[1], -1)
