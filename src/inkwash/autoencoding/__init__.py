"""Training autoencoders, the codecs of latent diffusion: from pictures to a codec's folder."""

from inkwash.autoencoding.discriminator import Adversary
from inkwash.autoencoding.losses import Loss
from inkwash.autoencoding.recipe import CodecRecipe, CodecTrain
from inkwash.autoencoding.train import train_codec

__all__ = ["Adversary", "CodecRecipe", "CodecTrain", "Loss", "train_codec"]
