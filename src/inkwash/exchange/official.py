"""A DiT in the layout of the published DiT-XL/2 as a model of ours."""

from __future__ import annotations

from pathlib import Path as File

from inkwash.exchange.dit_names import from_official, official_layout
from inkwash.exchange.importing import Imported, of_latents
from inkwash.features.weights import read_state
from inkwash.model import Indexed
from inkwash.modelfolder import Config, is_model, save_model
from inkwash.paths import LinearBetas, Table
from inkwash.samplers import Ancestral
from inkwash.sampling import Sampling
from inkwash.targets import Eps

_STEPS = 250
_CONVERT = """\
python -c "import torch; from safetensors.torch import save_file; save_file({{k: v.contiguous() for k, v in \
torch.load('{0}', map_location='cpu', weights_only=True).items()}}, '{1}')\""""


def from_dit(file: str | File, out: str | File, *, vae: str | File | None = None, heads: int | None = None) -> Imported:
    """Make a model of a DiT's weights in the official layout, a .safetensors file, and of its autoencoder's folder.

    The file says the shape and nothing of the training, which is taken to be the paper's (Peebles & Xie 2022): 1,000
    linear betas, noise as the target, and 250 steps with noise of the learned variance (of the small one, where none
    was learned). vae: a codec, or an AutoencoderKL of diffusers; heads: their number, where the width is none of the
    paper's. The model is published as out/model; as no other program here reads this layout, nothing is compared.
    Raises ValueError for other files, for heads that must be given, and without an autoencoder of as many channels.
    """
    file, out = File(file), File(out)
    if is_model(out):
        raise ValueError(f"There is a model in {out} already. Choose another place with --out.")
    if file.suffix != ".safetensors":
        safe = file.with_suffix(".safetensors")
        raise ValueError(
            f"{file} is no .safetensors file, and pickled ones are not read. Convert it first:\n"
            f"{_CONVERT.format(file.as_posix(), safe.as_posix())}"
        )
    state = {name: w.float() for name, w in read_state(file).items()}
    if missing := {"x_embedder.proj.weight", "pos_embed", "final_layer.linear.bias"} - state.keys():
        raise ValueError(
            f"{file} is no DiT in the official layout: it has no {min(missing)}. Models of diffusers are imported by "
            "their folder."
        )
    layout, weights = official_layout(state, heads), from_official(state)
    if vae is None:
        raise ValueError(
            f"A DiT in this layout is of latents ({layout.shape[0]} channels), and needs the autoencoder they are of: "
            "give its folder with --vae (for the published DiT-XL/2 `hf download stabilityai/sd-vae-ft-ema`)."
        )
    codec = of_latents(vae, layout.shape[0])
    learned = layout.outputs == 2
    config = Config(
        shape=layout.shape,
        net=layout.net,
        path=Table(LinearBetas()),
        target=Eps(),
        inputs=Indexed(),
        codec=codec.config,
        classes=tuple(map(str, range(layout.given.classes))),
        sampling=Sampling(Ancestral("learned" if learned else "small"), steps=_STEPS),
        learned_variance=learned,
    )
    model = config.build()
    model.net.load_state_dict(weights)  # it says at once what does not fit
    told = f"\n## Imported\n\nFrom {file.name}, a DiT in the official layout, taken to be trained as its paper says.\n"
    save_model(config, weights, out / "model", told, codec=codec)
    note = f"The file says nothing of its training: {config.path} and target {config.target} are the DiT paper's."
    return Imported(config, [], (note,))
