"""The trainer on small real networks: right, and the same twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.processes import WorkerProcess
from harness.schema.dataset import Dataset, Split, Subset
from harness.schema.protocol import Head, Loss, Optimizer, Phase, Protocol
from harness.schema.records import Epoch
from harness.schema.run import Job, Run, Weights
from harness.storage.files import read_arrays
from harness.storage.records import FEATURES
from zoo.registry import RECIPES, REPORT_RECIPES, find
from zoo.weights import imagenet_file

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

IMAGENET = Weights(source="imagenet", digest="sha256:test")
SMALL = Split(subset=Subset(train=64, validation=16, test=40))


@pytest.fixture(scope="session")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded set at 32 pixels, decoded."""
    return prepare("smear@400", 32, tmp_path_factory.mktemp("cache"))


def protocol(**changes: Any) -> Protocol:
    short = Phase(epochs=3, batch_size=16)
    return Protocol(image_size=32, inference_batch=16, frozen=short).model_copy(update=changes)


def made_run(data: Dataset, recipe: str, weights: Weights, chosen: Protocol) -> Run:
    return Run(
        recipe=recipe, weights=weights, protocol=chosen, data=data.fingerprint, split=SMALL, seed=3
    )


def train(
    folder: Path,
    recipe: str,
    weights: Weights,
    chosen: Protocol,
    tmp_path: Path,
    shift: Any = None,
    micro_batches: int = 1,
    own: bool = False,
) -> Any:
    from harness.data.shifted_test import get_or_corrupt, open_shifted
    from harness.data.splitting import split_indices
    from harness.execution.locks import DeviceLock
    from harness.training import trainer
    from harness.training.context import Callbacks, TrainOptions

    data, shifted = open_dataset(folder), None
    if shift is not None:
        test = split_indices(SMALL, data).test
        shifted = open_shifted(get_or_corrupt(folder, data, test, SMALL, shift), data, test, SMALL)
    history: list[Epoch] = []
    callbacks = Callbacks(on_epoch_end=history.append)
    options = TrainOptions("Test CPU", shifted, micro_batches=micro_batches)
    device_lock = DeviceLock("cpu", tmp_path, own)
    file = imagenet_file(find(recipe)) if weights.source == "imagenet" else None
    run = made_run(data, recipe, weights, chosen)
    context = trainer.build_context(run, data, file, device_lock, callbacks, options)
    trained = trainer.train(context)
    assert tuple(history) == trained.history
    return trained


def test_a_joint_network_trains_all_its_branches(smear: Path, tmp_path: Path) -> None:
    """Multiply-adds, parameters and widths add up; every branch moves."""
    from harness.training.model import unfreeze
    from harness.training.throughput import multiply_adds
    from zoo.factory import branches

    learnt = protocol(from_scratch=Phase(epochs=1, batch_size=16))
    chosen = Weights(source="random")
    trained = train(smear, "lite0+basic", chosen, learnt, tmp_path)
    backbones = trained.cost.multiply_adds - head_cost(trained)
    assert backbones == sum(multiply_adds(fresh(name)) for name in ("lite0", "basic"))
    assert trained.predictions["test"].features.shape == (40, 1280 + 4096)
    keras_seeded = [branch.get_weights() for branch in branches(fresh("lite0+basic"))]
    for branch, before in zip(branches(trained.network), keras_seeded, strict=True):
        pairs = zip(branch.get_weights(), before, strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs)
    unfreeze(trained.network, 3, pretrained=True)
    for branch in branches(trained.network):
        assert len(branch.trainable_weights) >= 3


def head_cost(trained: Any) -> int:
    from harness.training import throughput

    return throughput.multiply_adds(trained.head)


def fresh(recipe: str) -> Any:
    import keras

    from zoo.factory import build

    keras.utils.set_random_seed(3)
    return build(find(recipe), 32)


# --- its parts -----------------------------------------------------------------------------------


def test_the_head_of_report_000_has_its_published_parameters() -> None:
    from harness.training.model import build_head

    head = build_head(Head(units=(128,)), 1280, 8, None)
    assert find("v2m").parameters + head.count_params() == 53_150_388 + 163_968 + 1_032


def test_standardising_costs_no_parameters_and_survives_a_constant_feature() -> None:
    from harness.training.head import Standardizer
    from harness.training.model import build_head

    rng = np.random.default_rng(0)
    features = rng.normal(5, 1e-4, (50, 4)).astype(np.float32)
    features[:, 2] = 0.7
    head = build_head(Head(units=()), 4, 3, Standardizer.fit(features))
    assert head.count_params() == 4 * 3 + 3
    standard = head.get_layer("standardise")(features)
    assert np.abs(np.asarray(standard)[:, 2]).max() == 0
    np.testing.assert_allclose(np.asarray(standard)[:, [0, 1, 3]].std(axis=0), 1, rtol=0.05)
    probabilities = np.asarray(head(features))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_the_head_is_the_same_at_every_precision() -> None:
    """It is validated in numpy's float32; bfloat16 would predict with three digits."""
    import keras

    from harness.training.head_network import HeadNetwork
    from harness.training.model import build_head

    head, features = Head(units=(32,)), np.random.default_rng(0).normal(0, 3, (40, 24))
    network = HeadNetwork(head, 24, 8, seed=1)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        built = build_head(head, 24, 8, None)
    finally:
        keras.config.set_dtype_policy("float32")
    built.set_weights(network.keras_weights())
    validated = network.forward(features.astype(np.float32))
    np.testing.assert_allclose(np.asarray(built(features)), validated, atol=1e-6)


@pytest.mark.slow
def test_micro_batches_of_an_oversampled_set_that_is_smaller_than_a_batch(
    smear: Path, tmp_path: Path
) -> None:
    phase = Phase(epochs=1, batch_size=95)  # Of 64 cells, 96 with their repeats.
    chosen = protocol(from_scratch=phase, loss=Loss(oversampling=True))
    random = Weights(source="random")
    trained = train(smear, "basic", random, chosen, tmp_path, micro_batches=2)
    assert trained.history[0].samples == 95
    assert trained.phases[-1].micro_batches == 5


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "lion", "sgd"])
def test_every_optimizer_is_built_with_its_settings(name: Any) -> None:
    from harness.training.model import build_optimizer

    optimizer = build_optimizer(Optimizer(name=name, learning_rate=0.02, weight_decay=0.1))
    assert type(optimizer).__name__.lower() == name
    assert float(optimizer.learning_rate) == pytest.approx(0.02)
    assert optimizer.weight_decay == pytest.approx(0.1)


@pytest.mark.parametrize("unfrozen", [0.4, 20, 1.0, 10_000])
def test_unfreezing_takes_the_last_layers_and_no_pretrained_batch_norm(
    unfrozen: float | int,
) -> None:
    """A fraction of all layers, or a number of those that can learn."""
    import keras

    from harness.training.model import unfreeze
    from zoo.factory import backbone_layers, build

    network = build(find("mobilenetv2"), 32)
    layers = backbone_layers(network)
    for pretrained in (True, False):
        can_learn = [
            bool(layer.weights)
            and not (pretrained and isinstance(layer, keras.layers.BatchNormalization))
            for layer in layers
        ]
        counted = np.ones(len(layers)) if isinstance(unfrozen, float) else np.array(can_learn)
        last = round(unfrozen * len(layers)) if isinstance(unfrozen, float) else unfrozen
        unfreeze(network, unfrozen, pretrained)
        for i, layer in enumerate(layers):
            assert layer.trainable == (can_learn[i] and counted[i:].sum() <= last)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(r, id=r.name, marks=[] if r.parameters < 5e6 else [pytest.mark.slow])
        for r in (*RECIPES, *REPORT_RECIPES)
    ],
)
def test_multiply_adds_are_those_of_the_table(recipe: Any) -> None:
    from harness.training.throughput import multiply_adds
    from zoo.factory import build

    assert multiply_adds(build(recipe, 224)) == recipe.multiply_adds


# --- as a whole ----------------------------------------------------------------------------------


def test_a_frozen_run_trains_the_head_alone(smear: Path, tmp_path: Path) -> None:
    from zoo.factory import build

    trained = train(smear, "lite0", IMAGENET, protocol(), tmp_path)
    fresh = build(find("lite0"), 32, imagenet_file(find("lite0")))
    for before, after in zip(fresh.get_weights(), trained.network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert {line.phase for line in trained.history} == {"frozen"}
    assert trained.cost.trainable_parameters == trained.head.count_params()
    assert trained.cost.parameters == find("lite0").parameters + trained.head.count_params()
    for name, count in (("train", 64), ("validation", 16), ("test", 40)):
        part = trained.predictions[name]
        assert part.probabilities.shape == (count, 8)
        assert part.features.shape == (count, 1280)
        np.testing.assert_allclose(part.probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_a_trial_scores_what_the_run_will(smear: Path, tmp_path: Path) -> None:
    """In a process of its own, and on the features that it leaves: no test image is predicted."""
    from harness.data.splitting import split_indices
    from harness.evaluation.metrics import trial_outcome
    from harness.execution.processes import run_task
    from harness.tuning.objective import COMMAND_MODULE, OnFeatures

    trained, data = train(smear, "lite0", IMAGENET, protocol(), tmp_path), open_dataset(smear)
    parts, one_hot = split_indices(SMALL, data), np.eye(8, dtype=np.float32)
    job = Job(
        run=made_run(data, "lite0", IMAGENET, protocol()),
        data=str(smear),
        weights=(str(imagenet_file(find("lite0"))),),
        output=str(tmp_path / "trial"),
        device=Device("cpu", "Test CPU"),
        trial=True,
    )
    variables = devices.environment(job.device)
    outcome, reason = run_task(COMMAND_MODULE, job, variables, lambda _: None)
    assert not reason
    targets = {part: one_hot[data.labels[getattr(parts, part)]] for part in ("train", "validation")}
    features = read_arrays(tmp_path / "trial" / FEATURES)
    assert features.keys() == targets.keys()
    on_features = OnFeatures(features, targets, seed=3)(protocol())
    of_run = trial_outcome(targets["validation"], trained.predictions["validation"].probabilities)
    for macro_f1, log_loss in (outcome.values(), dict(on_features).values()):
        assert macro_f1 == pytest.approx(of_run.macro_f1)
        assert log_loss == pytest.approx(of_run.log_loss, rel=1e-3)


def test_the_features_are_those_of_the_network(smear: Path, tmp_path: Path) -> None:
    """Also of the last images of a part, whose batch was filled up."""
    trained = train(smear, "lite0", IMAGENET, protocol(), tmp_path)
    part, data = trained.predictions["test"], open_dataset(smear)
    direct = np.asarray(trained.network(np.asarray(data.images[part.ids[-3:]], dtype=np.float32)))
    np.testing.assert_allclose(part.features[-3:], direct, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("recipe", "count"), [("mobilenet", 86), ("efficientnetb0", 238)])
def test_frozen_layers_are_counted_as_keras_lists_them(recipe: str, count: int) -> None:
    """Numbers of ``keras.applications``' own networks without top, with ImageNet weights."""
    from harness.errors import ConfigError
    from harness.training.model import unfreeze
    from zoo.factory import build, layers_as_keras_lists

    network = build(find(recipe), 32)
    listed = layers_as_keras_lists(network)
    assert len(listed) == count
    unfreeze(network, 0.4, False, count - 20)
    assert not any(layer.trainable_weights for layer in listed[:-20])
    assert all(layer.trainable_weights for layer in listed[-20:] if layer.weights)
    with pytest.raises(ConfigError, match=f"{recipe} has {count} layers"):
        unfreeze(network, 0.4, False, count)


def test_fine_tuning_moves_the_last_part_and_no_batch_norm(smear: Path, tmp_path: Path) -> None:
    import keras

    from zoo.factory import backbone_layers, build

    tuned = protocol(fine_tuning=Phase(epochs=2, batch_size=16, unfreeze=0.5))
    trained = train(smear, "lite0", IMAGENET, tuned, tmp_path)
    frozen = train(smear, "lite0", IMAGENET, protocol(), tmp_path).predictions["test"]
    kept = trained.predictions["frozen"]
    np.testing.assert_array_equal(kept.ids, frozen.ids)
    np.testing.assert_allclose(kept.probabilities, frozen.probabilities, atol=1e-5)
    assert np.abs(trained.predictions["test"].probabilities - kept.probabilities).max() > 1e-3
    assert [line.phase for line in trained.history][-2:] == ["fine-tuning"] * 2
    before = backbone_layers(build(find("lite0"), 32, imagenet_file(find("lite0"))))
    after = backbone_layers(trained.network)
    half = len(after) - round(0.5 * len(after))
    moved = 0
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        same = all(map(np.array_equal, old.get_weights(), new.get_weights()))
        if i < half or isinstance(new, keras.layers.BatchNormalization):
            assert same, new.name
        elif new.get_weights():
            moved += not same
    assert moved > 5


def test_random_weights_are_trained_from_scratch_and_learn(smear: Path, tmp_path: Path) -> None:
    scratch = Phase(epochs=8, batch_size=16, optimizer=Optimizer(learning_rate=2e-3))
    chosen = protocol(from_scratch=scratch, fine_tuning=Phase())
    trained = train(smear, "mobilenet", Weights(source="random"), chosen, tmp_path)
    assert {line.phase for line in trained.history} == {"from scratch"}
    losses = [line.train_loss for line in trained.history]
    assert losses[-1] < 0.8 * losses[0]
    assert trained.cost.trainable_parameters > 3_000_000


def test_the_best_epochs_weights_come_back(smear: Path, tmp_path: Path) -> None:
    from harness.evaluation.metrics import cross_entropy

    wild = Phase(epochs=12, batch_size=16, patience=99, optimizer=Optimizer(learning_rate=0.1))
    trained = train(smear, "lite0", IMAGENET, protocol(frozen=wild), tmp_path)
    losses = [line.validation_loss for line in trained.history]
    assert losses.index(min(losses)) < len(losses) - 1, "the test needs a last epoch that is worse"
    part = trained.predictions["validation"]
    final = cross_entropy(np.eye(8)[part.labels], part.probabilities)
    assert final == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("phase", ["frozen", "fine-tuning"])
def test_the_shifted_copy_is_predicted_by_the_network_that_was_trained(
    smear: Path, tmp_path: Path, phase: str
) -> None:
    from harness.data.shifted_test import get_or_corrupt

    tuned = Phase(epochs=1, batch_size=16, unfreeze=0.2) if phase == "fine-tuning" else None
    chosen = protocol(fine_tuning=tuned)
    trained = train(smear, "lite0", IMAGENET, chosen, tmp_path, "mixed")
    part = trained.predictions["shifted"]
    test = trained.predictions["test"]
    np.testing.assert_array_equal(part.ids, test.ids)
    np.testing.assert_array_equal(part.labels, test.labels)
    images = np.load(get_or_corrupt(smear, open_dataset(smear), test.ids, SMALL), mmap_mode="r")
    direct = trained.head(trained.network(images[-3:].astype(np.float32), training=False))
    np.testing.assert_allclose(part.probabilities[-3:], np.asarray(direct), rtol=1e-2, atol=1e-4)
    assert (part.probabilities != test.probabilities).any()
    without = train(smear, "lite0", IMAGENET, chosen, tmp_path)
    for name, part in without.predictions.items():
        np.testing.assert_array_equal(part.probabilities, trained.predictions[name].probabilities)


def test_several_views_are_averaged_and_cost_images_a_second(smear: Path, tmp_path: Path) -> None:
    one = train(smear, "lite0", IMAGENET, protocol(), tmp_path, "mixed")
    four = train(smear, "lite0", IMAGENET, protocol(test_views=4), tmp_path, "mixed")
    for name in ("test", "shifted"):
        plain = four.predictions[f"plain-{name}"].probabilities
        np.testing.assert_array_equal(plain, one.predictions[name].probabilities)
        assert np.abs(four.predictions[name].probabilities - plain).max() > 1e-3
    images = open_dataset(smear).images[four.predictions["test"].ids[:8]]
    from harness.augmentation.test_time import apply_view

    mean = np.mean(
        [
            np.asarray(
                four.head(four.network(apply_view(images, v).astype(np.float32), training=False))
            )
            for v in range(4)
        ],
        axis=0,
    )
    np.testing.assert_allclose(
        four.predictions["test"].probabilities[:8], mean, rtol=1e-2, atol=1e-4
    )


def test_oversampling_trains_on_the_rare_again(smear: Path, tmp_path: Path) -> None:
    """The head is trained on other batches, and every image is predicted once."""
    loss = Loss(oversampling=True)
    plain = train(smear, "lite0", IMAGENET, protocol(), tmp_path)
    more = train(smear, "lite0", IMAGENET, protocol(loss=loss), tmp_path)
    for name, part in more.predictions.items():
        np.testing.assert_array_equal(part.ids, plain.predictions[name].ids)
    assert more.history[0].train_loss != plain.history[0].train_loss
    scratch = Phase(epochs=1, batch_size=16)
    chosen = protocol(from_scratch=scratch, loss=loss)
    train(smear, "basic", Weights(source="random"), chosen, tmp_path)


def test_weights_that_do_not_fit_are_the_users_fault(smear: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "wrong.weights.h5"
    with h5py.File(path, "w") as file:
        file["layer/kernel"] = np.zeros((3, 3))
    data = open_dataset(smear)
    job = Job(
        run=made_run(data, "mobilenetv2", Weights(source="file", digest="sha256:0"), protocol()),
        data=str(smear),
        weights=(str(path),),
        output=str(tmp_path / "out"),
        device=Device("cpu", "Test CPU"),
    )
    result = WorkerProcess()(job, devices.environment(Device("cpu", "Test CPU")), lambda _: None)
    assert result.status == "wrong input"
    assert result.failed is not None
    assert "do not fit: the file holds 9 numbers" in result.failed.reason
