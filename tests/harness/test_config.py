"""benchmark.toml: how files, profiles and variants combine, and what is rejected."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from harness.config import Benchmark, default_text, load, overlay
from harness.errors import ConfigError, UnknownName
from harness.schema.augmentation import STREAM, Augmentation
from harness.schema.dataset import Split, Subset
from harness.schema.protocol import VERSION, Head, Phase, Protocol


def settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "benchmark.toml"
    path.write_text(text)
    return path


def test_the_commented_defaults_are_the_models_defaults() -> None:
    tables = tomllib.loads(default_text())
    profiles = tables.pop("profile")
    assert set(profiles) == {"quick", "full"}
    assert tables["protocol"].pop("precision") == "auto"
    assert Benchmark.model_validate(tables) == Benchmark(
        protocol=Protocol(
            head=Head(damping=1.0),  # Records of before it have none.
            frozen=Phase.model_validate(
                {"epochs": 60, "schedule": {"name": "plateau", "factor": 0.3, "patience": 3}}
            ),
        ),
        split=Split(group_near_copies=True),
    )


def test_profiles_override_the_tables() -> None:
    quick, full = load(None, "quick"), load(None, "full")
    assert quick.split.subset == Subset(train=320, validation=80, test=240)
    assert quick.weights.when_offline == "random"
    assert quick.protocol.fine_tuning is None
    assert full.split.subset is None
    assert full.weights.when_offline == "fail"
    assert full.protocol.fine_tuning is not None
    assert quick.protocol.frozen == full.protocol.frozen


def test_the_precision_depends_on_the_device(tmp_path: Path) -> None:
    """On the CPU, a run with "auto" has the id of a run with "float32"."""
    assert load(None, "full").protocol == load(None, "full", gpu=False).protocol
    assert load(None, "full").protocol.precision == "float32"
    assert load(None, "full", gpu=True).protocol.precision == "mixed_bfloat16"
    explicit = settings(tmp_path, '[protocol]\nprecision = "float32"\n')
    assert load(explicit, "full", gpu=True).protocol == load(None, "full").protocol
    overlaid = settings(tmp_path, '[profile.full.protocol]\nprecision = "mixed_bfloat16"\n')
    assert load(overlaid, "full").protocol.precision == "mixed_bfloat16"
    assert load(overlaid, "quick").protocol.precision == "float32"
    varied = settings(
        tmp_path, '[variants.auto]\nprecision = "auto"\n[variants.more]\nversion = 2\n'
    )
    for gpu, precision in ((False, "float32"), (True, "mixed_bfloat16")):
        protocols = load(varied, "full", gpu=gpu).protocols.values()
        assert [protocol.precision for protocol in protocols] == [precision] * 3


def test_the_users_file_wins_and_its_profile_wins_over_it(tmp_path: Path) -> None:
    text = """
    [protocol]
    image_size = 64
    head = { units = [256, 128] }
    [profile.full.protocol]
    image_size = 224
    fine_tuning = false
    """
    path = settings(tmp_path, text)
    full = load(path, "full")
    assert full.protocol.image_size == 224
    assert full.protocol.head.units == (256, 128)
    assert full.protocol.head.dropout == 0.3
    assert full.protocol.fine_tuning is None


def test_the_users_profile_wins_over_the_defaults_profile() -> None:
    base = {"protocol": {"image_size": 1}, "profile": {"quick": {"protocol": {"image_size": 2}}}}
    assert overlay({}, base, "quick") == {"protocol": {"image_size": 2}}
    top = {"profile": {"quick": {"protocol": {"image_size": 3}}}}
    assert overlay(overlay({}, base, "quick"), top, "quick") == {"protocol": {"image_size": 3}}


def test_weights_files_are_relative_to_the_settings_file(tmp_path: Path) -> None:
    path = settings(tmp_path, '[weights.files]\nvgg16 = "my.h5"\n')
    assert load(path, "quick").weights.files == {"vgg16": str(tmp_path / "my.h5")}


def test_a_variant_overrides_the_profiles_protocol(tmp_path: Path) -> None:
    text = """
    [protocol]
    image_size = 64
    [variants.mixed]
    augmentation = { policy = "mixup" }
    [profile.full.variants.mixed.fine_tuning]
    epochs = 3
    """
    path = settings(tmp_path, text)
    quick, full = load(path, "quick"), load(path, "full")
    mixed = quick.variants["mixed"]
    assert mixed.augmentation.policy[0].name == "mixup"
    assert mixed.fine_tuning is None
    assert mixed == quick.protocol.model_copy(update={"augmentation": mixed.augmentation})
    tuned = full.variants["mixed"].fine_tuning
    assert tuned is not None
    assert (tuned.epochs, tuned.unfreeze) == (3, 0.8), "other keys are the profile's"
    assert list(quick.with_variants(["all"]).protocols) == ["", "mixed"]
    assert list(quick.with_variants([]).protocols) == [""]
    with pytest.raises(UnknownName, match="did you mean 'mixed'"):
        quick.with_variants(["mixd"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[protcol]\n", "unknown key 'protcol'; did you mean 'protocol'?"),
        ("[protocol]\nbatchsize = 1\n", "unknown key 'protocol.batchsize'"),
        ("[protocol.head]\nunit = [1]\n", "'protocol.head.unit'; did you mean 'units'?"),
        ("[profile.fast]\n", "unknown profile 'fast'"),
        ("[profile.full.protocol.fine_tuning]\nepoch = 3\n", "did you mean 'epochs'?"),
        ("[protocol]\nimage_size = 'big'\n", "protocol.image_size"),
        ("[protocol]\nprecision = 'float16'\n", "protocol.precision"),
        ("[split]\nratios = [0.5, 0.1, 0.1]\n", "sum to 1"),
        ("[split]\nratios = [0.5, 0.5]\n", "split.ratios"),
        ("[protocol.head]\ndropout = 1.5\n", "protocol.head.dropout"),
        ("[protocol.head]\ndropout = nan\n", "protocol.head.dropout"),
        ("[protocol.frozen]\noptimizer = { name = 'adamm' }\n", "protocol.frozen.optimizer.name"),
        ("protocol = 3\n", "protocol must be a table"),
        ("[protocol\n", "Expected"),
        ("[sweep]\nseeds = 0\n", "sweep.seeds"),
        ("[variants.x]\nlos = 3\n", "unknown key 'variants.x.los'; did you mean 'loss'?"),
        ("[variants]\nx = 3\n", "variants.x must be a table of protocol's keys"),
        ("variants = 3\n", "must be a table of protocol's keys"),
        ("[profile]\nquick = 3\n", "profile.quick must be a table"),
        ("[profile.quick]\nprotcol = 3\n", "unknown key 'profile.quick.protcol'"),
        ('[variants.""]\n', "variants: '' is no name that can be shown"),
        ('[variants."a\\nb"]\n', "is no name that can be shown"),
        ("[variants.all]\n", "'all' means every variant"),
        ("[variants.x]\nimage_size = 64\n", "variants.x.image_size: variants share"),
        ("[variants.x.head]\ndropout = 2\n", "variants.x.head.dropout"),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = settings(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path, "quick")
    message = str(error.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "nowhere.toml", "quick")


def test_an_augmented_run_is_that_of_this_version_of_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pixels are another run; what is not augmented keeps its id."""
    file = tmp_path / "b.toml"
    file.write_text('[variants.mixed]\naugmentation = { policy = "mixup" }\n')
    before = load(file, "quick")
    now = STREAM["wbc-bench"]
    monkeypatch.setitem(STREAM, "wbc-bench", now + 1)
    after = load(file, "quick")
    assert after.protocol == before.protocol
    streams = [benchmark.variants["mixed"].augmentation.stream for benchmark in (before, after)]
    assert streams == [now, now + 1]
    assert '"stream":' in after.variants["mixed"].canonical()
    assert '"stream":' not in after.protocol.canonical()
    assert Augmentation.model_validate({"policy": "mixup"}).stream == 1, "records of before"


def test_the_stream_is_not_for_users_to_set(tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[protocol.augmentation]\nstream = 1\n")
    with pytest.raises(ConfigError, match=r"unknown key 'protocol\.augmentation\.stream'"):
        load(file, "quick")


def test_training_on_frozen_features_in_float32_keeps_its_version(tmp_path: Path) -> None:
    """The ids of such runs stay; BatchNorm, fine-tuning and bfloat16 are trained otherwise now."""
    file = tmp_path / "b.toml"
    file.write_text(
        "[variants.normed.head]\nbatch_norm = true\n[variants.linear.head]\nunits = []\n"
        'batch_norm = true\n[variants.half]\nprecision = "mixed_bfloat16"\n'
    )
    quick, full = (load(file, profile) for profile in ("quick", "full"))
    versions = {name: protocol.version for name, protocol in quick.protocols.items()}
    assert versions == {"": 1, "normed": VERSION, "linear": 1, "half": VERSION}
    assert full.protocol.version == VERSION


WITHOUT_EFFECT = [
    ("", "frozen.optimizer.momentum = 0.5"),
    ("", "frozen.schedule.period = 3"),
    ("", "frozen.unfreeze = 0.1"),
    ("", "from_scratch.unfreeze = 3"),
    ("", "fine_tuning.schedule.period = 3"),
    ('frozen.schedule.name = "constant"', "frozen.schedule.factor = 0.9"),
    ('frozen.schedule.name = "cosine_restarts"', "frozen.schedule.patience = 9"),
    ("", 'augmentation.provider = "keras-cv"'),
    ("", "augmentation.frozen_epochs = 9"),
    ('augmentation.policy = "enlarged"', "augmentation.frozen_epochs = 9"),
    ("", 'augmentation.validation_policy = "traditional"'),
    ("head.standardise = false", "head.damping = 0.5"),
    ("head.units = []", "head.dropout = 0.5"),
    ("head.units = []", "head.batch_norm = true"),
]
WITH_EFFECT = [
    ("", "frozen.schedule.patience = 9"),
    ("", "fine_tuning.unfreeze = 3"),
    ('frozen.optimizer.name = "sgd"', "frozen.optimizer.momentum = 0.5"),
    ('frozen.schedule.name = "cosine_restarts"', "frozen.schedule.period = 3"),
    ('augmentation.policy = "mixup"', "augmentation.frozen_epochs = 9"),
    ("augmentation.validation_share = 0.5", 'augmentation.validation_policy = "traditional"'),
    ("", "head.damping = 0.5"),
]


@pytest.mark.parametrize(("others", "option"), WITHOUT_EFFECT + WITH_EFFECT)
def test_only_an_option_with_an_effect_makes_another_run(
    tmp_path: Path, others: str, option: str
) -> None:
    texts = (f"[protocol]\n{others}\n", f"[protocol]\n{others}\n{option}\n")
    one, other = (load(settings(tmp_path, text), "full").protocol for text in texts)
    assert (one.canonical() == other.canonical()) == ((others, option) in WITHOUT_EFFECT)


def test_a_recipe_can_have_settings_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "benchmark.toml"
    config.write_text(
        "[recipes.V16]\nfine_tuning = { unfreeze = 10 }\nhead = { units = [512] }\n"
        "[recipes.lite0]\nfine_tuning = false\n"
        '[variants.mixed]\naugmentation = { policy = "mixup" }\n'
    )
    full = load(config, "full")
    mixed = full.protocol_of("vgg16", full.variants["mixed"])
    assert mixed.fine_tuning is not None
    assert full.protocol.fine_tuning is not None
    assert mixed.fine_tuning.unfreeze == 10
    assert mixed.fine_tuning.epochs == full.protocol.fine_tuning.epochs
    assert mixed.head.units == (512,)
    assert mixed.augmentation == full.variants["mixed"].augmentation
    assert full.protocol_of("lite0", full.protocol).fine_tuning is None
    assert full.protocol_of("vgg19", full.protocol) is full.protocol


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[recipes.vgg61]\nversion = 1",
            "recipes.vgg61: unknown recipe 'vgg61'; did you mean 'vgg16'?",
        ),
        ("[weights.files]\nvgg61 = 'x.h5'", "weights.files.vgg61: unknown recipe 'vgg61'; did you"),
        ("[sweep]\nrecipes = ['vgg61']", "sweep.recipes.0: unknown recipe 'vgg61'; did you mean"),
        ("[ensembles]\nmembers = [['mn1', 'vgg61']]", "members.0.1: unknown recipe 'vgg61'; did"),
        ("[ensembles]\nmembers = [['mn1']]", "members.0: should have 2 entries or more"),
        ("[split]\nratios = [0.7, 0.3]", "split.ratios.2: is missing"),
        ("[recipes.vgg16]\nhaed = 1", "unknown key 'recipes.vgg16.haed'; did you mean 'head'?"),
        ("[recipes.vgg16]\ntest_views = 9", "recipes.vgg16.test_views: should be less than or"),
        ("[recipes.vgg16]\nimage_size = 64", "recipes.vgg16.image_size: recipes share"),
    ],
)
def test_wrong_settings_of_a_recipe_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "benchmark.toml"
    config.write_text(text)

    def protocol() -> Protocol:
        benchmark = load(config, "quick")
        return benchmark.protocol_of("vgg16", benchmark.protocol)

    with pytest.raises(ConfigError) as caught:
        protocol()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("class_weight = [1.0, 2.0, -3.0]", "class_weight.2: should be greater than .* not -3.0"),
        ("class_weight = [0.0, 0.0]", "all weights are 0, so that nothing is learnt"),
        ("class_weight = 'balancd'", "class_weight: should be 'none' or 'balanced', not 'balancd'"),
        ("class_weight = 2", "class_weight: should be 'none' or 'balanced', or a list, not 2"),
        ("oversampling = -3", "oversampling: should be greater than or equal to 1, not -3"),
        ("oversampling = 'x'", "oversampling: should be true or false, or a whole number, not 'x'"),
    ],
)
def test_a_setting_with_several_forms_is_named_with_its_number(
    tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "b.toml").write_text(f"[protocol.loss]\n{line}\n")
    with pytest.raises(ConfigError, match=says):
        load(tmp_path / "b.toml", "quick")


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the settings that takes a number alone."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers(kind, f"{prefix}{name}.")
        elif kind in (int, float) and name not in getattr(model, "NOT_CONFIGURABLE", ()):
            yield f"{prefix}{name}"


@pytest.mark.parametrize("key", numbers(Benchmark))
def test_every_number_has_bounds_and_is_named(key: str, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    for text, says in (
        ("-3", "should be greater than .*, not -3"),
        ("1e30", "should be less than .*|is too large.*, not 1e[+]30"),
        ("nan", "should be a finite number, not nan"),
        ("true", "must be a number, not True"),
        ('"5"', "must be a number, not '5'"),
    ):
        path.write_text(f"{key} = {text}\n")
        with pytest.raises(ConfigError, match=rf"b[.]toml: {re.escape(key)}:? .*({says})"):
            load(path, "full")


def test_every_path_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    text = '[data]\nsource = "cells"\nclean = true\nmanifest = "m.csv"\n'
    text += '[weights.files]\nvgg16 = "w.h5"\n'
    path.write_text(text, encoding="utf-8-sig")  # With a byte-order mark, as some editors save.
    benchmark = load(path, "quick")
    assert benchmark.data.source == str(tmp_path / "cells")
    assert benchmark.data.manifest == str(tmp_path / "m.csv")
    assert benchmark.weights.files == {"vgg16": str(tmp_path / "w.h5")}
    path.write_text('[data]\nsource = "bloodmnist@64"\n')
    assert load(path, "quick").data.source == "bloodmnist@64"
