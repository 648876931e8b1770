"""How tables tell what a run was given: its ledger, and batches that were cut into parts."""

from __future__ import annotations

from statistics import fmean

from harness.reporting.leaderboard import Board, Row

HEADS = (
    "Compile (s)", "Epochs, head on features + network", "Training images, embedded + learnt from",
    "On the device (s)", "Energy (kJ)",
)  # fmt: skip
LEGEND = (
    "Compile: of the whole run, what first calls of compiled steps took beyond warm ones. "
    "Training images embedded: passed through the frozen backbone for the features that the head "
    "learns from; learnt from: in a gradient step of the network; an image counts each time. On "
    "the device: in the run's turns there, without waiting. Energy: of the whole device while the "
    "run was alive, where it tells; ‡: other runs of the sweep may have been on it."
)


def told(row: Row) -> list[str]:
    """One cell a head: means over the seeds, of the ledger those over the seeds that kept one."""
    compiled = [run.timings.compile for run in row.runs if run.timings.compile is not None]
    seconds = f"{fmean(compiled):,.1f}" if compiled and len(compiled) == len(row.runs) else "–"
    ledgers = [run.ledger for run in row.runs if run.ledger]
    if not ledgers:
        return [seconds, *["–"] * (len(HEADS) - 1)]
    on_features = fmean(one.epochs_on_features for one in ledgers)
    on_images = fmean(one.epochs_on_images for one in ledgers)
    embedded = fmean(one.images_embedded for one in ledgers)
    learnt = fmean(one.images_learnt for one in ledgers)
    joules = [one.energy_joules for one in ledgers if one.energy_joules is not None]
    shared = not all(one.energy_exclusive for one in ledgers)
    return [
        seconds,
        f"{on_features:.4g} + {on_images:.4g}",
        f"{embedded:,.0f} + {learnt:,.0f}",
        f"{fmean(one.device_seconds for one in ledgers):,.1f}",
        f"{fmean(joules) / 1e3:,.2f}{' ‡' if shared else ''}" if joules else "–",
    ]


def most_parts(row: Row) -> int:
    """Into which a batch of the row's runs was cut for want of memory; 1: none was."""
    return max((result.micro_batches for result in row.runs), default=1)


def notes_on_parts(board: Board) -> list[str]:
    cut = [f"{row.title} {most_parts(row)}" for row in board.networks if most_parts(row) > 1]
    if not cut:
        return []
    return [
        f"¶ Memory was too small for a whole batch, which was cut into parts ({', '.join(cut)}). "
        "Images/s are those of batches as much smaller. Where the network learnt from images, "
        "gradients were averaged over the parts, but dropout drew other masks than it would have "
        "for the whole batch, and a BatchNorm that learns saw the statistics of a part."
    ]
