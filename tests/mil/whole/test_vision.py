"""Vision models: convolutional, residual, transformer, both towers of CLIP, U-Net."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.mil.whole.comparing import PUBLISHED, judge

pytestmark = pytest.mark.slow


class Convolutional(nn.Module):
    """Groups, dilation, transposed convolutions, several kinds of normalisation, pooling and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 32, 3, groups=16, padding="same")
        self.dilated = nn.Conv2d(32, 24, (3, 5), dilation=(2, 1), padding=(2, 2), groups=4, bias=False)
        self.normal = nn.BatchNorm2d(24)
        self.group = nn.GroupNorm(6, 24)
        self.up = nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1, groups=3)
        self.odd = nn.ConvTranspose2d(12, 6, (3, 4), stride=(2, 3), padding=(2, 1), output_padding=(1, 0), dilation=(2, 1))

    def forward(self, x):
        x = F.leaky_relu(self.stem(x), 0.1)
        x = F.hardswish(self.normal(self.dilated(F.gelu(self.depthwise(x)))))
        x = self.group(F.max_pool2d(F.pad(x, (1, 2, 0, 1), mode="reflect"), 3, stride=1, padding=1))
        x = self.up(F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False))
        return self.odd(torch.sigmoid(x)), F.adaptive_avg_pool2d(x, 1).flatten(1)


class UNet(nn.Module):
    """Two levels with skips; one is resized bilinearly to the size of its skip, one by nearest neighbour."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 16), (16, 32), (32, 64), (96, 32), (48, 16))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.InstanceNorm2d(b, affine=True), nn.SiLU()) for a, b in sizes
        )
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        first = self.blocks[0](x)
        second = self.blocks[1](F.max_pool2d(first, 2))
        third = self.blocks[2](F.avg_pool2d(second, 2))
        up = F.interpolate(third, size=(33, 25), mode="bilinear", align_corners=False)
        up = self.blocks[3](torch.cat([up[..., :32, :24], second], 1))
        up = F.interpolate(up, scale_factor=2.0, mode="nearest")
        return self.head(self.blocks[4](torch.cat([up, first], 1))).log_softmax(1)


def randomised(model: nn.Module) -> nn.Module:
    """Statistics of normalisation away from 0 and 1, so that they matter."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


@pytest.mark.parametrize("since", ["iOS15", "iOS18"])
@pytest.mark.parametrize("export", [False, True], ids=["trace", "export"])
def test_convolutions(tmp_path, since, export):
    torch.manual_seed(0)
    if export and since == "iOS15":
        since = "iOS16"
    judge(randomised(Convolutional()), [torch.randn(2, 3, 30, 38)], tmp_path, since=since, export=export)


def test_unet(tmp_path):
    torch.manual_seed(0)
    judge(randomised(UNet()), [torch.randn(1, 3, 64, 48)], tmp_path)


class Field(nn.Module):
    """One field of a transformers model's output."""

    def __init__(self, model: nn.Module, *names: str):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x):
        made = self.model(x)
        return tuple(getattr(made, name) for name in self.names)


def test_resnet_50(tmp_path):
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    depths = [3, 4, 6, 3] if PUBLISHED else [2, 2, 2, 2]  # blocks that change the shape, and blocks that do not
    model = randomised(ResNetModel(ResNetConfig(depths=depths)))
    judge(Field(model, "pooler_output"), [torch.randn(1, 3, 160, 160)], tmp_path)


def test_vit_base(tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    model = ViTModel(ViTConfig(num_hidden_layers=12 if PUBLISHED else 3), add_pooling_layer=False).eval()
    judge(Field(model, "last_hidden_state"), [torch.randn(1, 3, 224, 224)], tmp_path, since="iOS18")


@pytest.mark.parametrize("since", ["iOS16", "iOS18"])
def test_clip_vision_tower(tmp_path, since):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(num_hidden_layers=12 if PUBLISHED else 2)
    model = CLIPVisionModelWithProjection(config).eval()
    judge(Field(model, "image_embeds", "last_hidden_state"), [torch.randn(1, 3, 224, 224)], tmp_path, since=since)


class Text(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids.long()).text_embeds


def test_clip_text_tower(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    words = 49408 if PUBLISHED else 2000
    config = CLIPTextConfig(
        num_hidden_layers=12 if PUBLISHED else 2, vocab_size=words, bos_token_id=words - 2, eos_token_id=words - 1
    )
    model = CLIPTextModelWithProjection(config).eval()
    ids = torch.randint(1, words - 2, (1, 77), dtype=torch.int32)
    ids[0, 40] = words - 1
    judge(Text(model), [ids], tmp_path)
