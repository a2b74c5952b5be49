"""One modality of a batch -> Features. transformers, torchvision and torchaudio load only when an encoder is made."""

from mmfuse.encoders.cnn import CNNEncoder
from mmfuse.encoders.feature import FeatureEncoder
from mmfuse.encoders.ft_transformer import FTTransformerEncoder
from mmfuse.encoders.lora import LoRA
from mmfuse.encoders.projection import ProjectionEncoder
from mmfuse.encoders.series import SeriesEncoder
from mmfuse.encoders.series_conv import TemporalConvEncoder
from mmfuse.encoders.series_patch import PatchSeriesEncoder
from mmfuse.encoders.skip_absent import SkipAbsent
from mmfuse.encoders.spectrogram import SpectrogramEncoder
from mmfuse.encoders.speech import SpeechEncoder
from mmfuse.encoders.tabular import TabularEncoder
from mmfuse.encoders.text import TextEncoder
from mmfuse.encoders.transformer import TransformerEncoder
from mmfuse.encoders.video import VideoEncoder
from mmfuse.encoders.video3d import Video3DEncoder
from mmfuse.encoders.vit import ViTEncoder
from mmfuse.encoders.volume import VolumeEncoder
from mmfuse.encoders.windowed import Windowed

ENCODERS = {
    "CNNEncoder": CNNEncoder,
    "FTTransformerEncoder": FTTransformerEncoder,
    "FeatureEncoder": FeatureEncoder,
    "LoRA": LoRA,
    "PatchSeriesEncoder": PatchSeriesEncoder,
    "ProjectionEncoder": ProjectionEncoder,
    "SeriesEncoder": SeriesEncoder,
    "SkipAbsent": SkipAbsent,
    "SpectrogramEncoder": SpectrogramEncoder,
    "SpeechEncoder": SpeechEncoder,
    "TabularEncoder": TabularEncoder,
    "TemporalConvEncoder": TemporalConvEncoder,
    "TextEncoder": TextEncoder,
    "TransformerEncoder": TransformerEncoder,
    "ViTEncoder": ViTEncoder,
    "Windowed": Windowed,
    "Video3DEncoder": Video3DEncoder,
    "VideoEncoder": VideoEncoder,
    "VolumeEncoder": VolumeEncoder,
}

__all__ = [
    "ENCODERS",
    "CNNEncoder",
    "FTTransformerEncoder",
    "FeatureEncoder",
    "LoRA",
    "PatchSeriesEncoder",
    "ProjectionEncoder",
    "SeriesEncoder",
    "SkipAbsent",
    "SpectrogramEncoder",
    "SpeechEncoder",
    "TabularEncoder",
    "TemporalConvEncoder",
    "TextEncoder",
    "TransformerEncoder",
    "ViTEncoder",
    "Video3DEncoder",
    "VideoEncoder",
    "VolumeEncoder",
    "Windowed",
]
